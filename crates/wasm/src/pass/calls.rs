//! Which functions may unwind, and which lie on cycles of the call graph.
//!
//! A function may unwind if it holds a loop, calls an import, or calls (directly or through a
//! table) a function that may. A function on a cycle is charged to the depth counter, and may
//! unwind too: deep recursion must be stoppable. Calls through a table are resolved by type: their
//! possible targets are the functions of that type whose address is taken anywhere.

use std::collections::HashMap;

use wasmparser::{FuncType, Operator};

use super::InstrumentError;
use super::module::Module;

/// The answers, by function index.
#[derive(Debug)]
pub(crate) struct CallGraph {
    may_unwind: Vec<bool>,
    cyclic: Vec<bool>,
    /// By type index: whether a call through a table with this type may unwind.
    indirect_may_unwind: Vec<bool>,
    indirect_cyclic: Vec<bool>,
    /// Functions in an order in which callees come before callers, cycles cut anywhere.
    order: Vec<u32>,
    edges: Vec<Vec<u32>>,
}

impl CallGraph {
    pub(crate) fn of(module: &Module) -> Result<CallGraph, InstrumentError> {
        let summaries = (0..module.function_count())
            .map(|function| Summary::of(module, function))
            .collect::<Result<Vec<_>, _>>()?;
        let count = summaries.len();
        let (canonical, nodes) = canonical_types(module);
        // Node numbers: functions first, then one node per distinct type of indirect call.
        let mut edges: Vec<Vec<u32>> = summaries
            .iter()
            .map(|s| {
                let indirect = s
                    .indirect
                    .iter()
                    .map(|&ty| (count + canonical[ty as usize]) as u32);
                let mut out: Vec<u32> = s.direct.iter().copied().chain(indirect).collect();
                out.sort_unstable();
                out.dedup();
                out
            })
            .collect();
        edges.resize(count + nodes, Vec::new());
        for &function in &module.address_taken {
            let ty = canonical[module.functions[function as usize] as usize];
            edges[count + ty].push(function);
        }
        let components = strongly_connected(&edges);
        let mut cyclic = vec![false; edges.len()];
        let mut may_unwind: Vec<bool> = summaries.iter().map(|s| s.stops).collect();
        may_unwind.resize(edges.len(), false);
        let mut order = Vec::with_capacity(edges.len());
        for component in &components {
            let looped =
                component.len() > 1 || edges[component[0] as usize].contains(&component[0]);
            let unwinds = looped
                || component.iter().any(|&n| {
                    may_unwind[n as usize]
                        || edges[n as usize].iter().any(|&m| may_unwind[m as usize])
                });
            for &node in component {
                cyclic[node as usize] = looped;
                may_unwind[node as usize] = unwinds;
                order.push(node);
            }
        }
        let by_type = |flags: &[bool]| canonical.iter().map(|&ty| flags[count + ty]).collect();
        Ok(CallGraph {
            indirect_may_unwind: by_type(&may_unwind),
            indirect_cyclic: by_type(&cyclic),
            may_unwind,
            cyclic,
            order,
            edges,
        })
    }

    /// Whether a call of `function` may end in an unwind.
    pub(crate) fn may_unwind(&self, function: u32) -> bool {
        self.may_unwind[function as usize]
    }

    /// Whether a call through a table with type `ty` may end in an unwind.
    pub(crate) fn indirect_may_unwind(&self, ty: u32) -> bool {
        self.indirect_may_unwind[ty as usize]
    }

    /// Whether `function` can, directly or not, call itself.
    pub(crate) fn cyclic(&self, function: u32) -> bool {
        self.cyclic[function as usize]
    }

    /// Whether a call through a table with type `ty` can come back to its caller.
    pub(crate) fn indirect_cyclic(&self, ty: u32) -> bool {
        self.indirect_cyclic[ty as usize]
    }

    /// The largest sum of `weight` over any chain of calls, each function on cycles counted as 0.
    pub(crate) fn heaviest_chain(&self, functions: u32, weight: impl Fn(u32) -> u64) -> u64 {
        let mut heaviest = vec![0u64; self.edges.len()];
        for &node in &self.order {
            let own = if node < functions && !self.cyclic[node as usize] {
                weight(node)
            } else {
                0
            };
            let below = self.edges[node as usize]
                .iter()
                .map(|&m| heaviest[m as usize])
                .max();
            heaviest[node as usize] = own.saturating_add(below.unwrap_or(0));
        }
        heaviest.into_iter().max().unwrap_or(0)
    }
}

/// What one function's body says about calls.
#[derive(Debug, Default)]
struct Summary {
    direct: Vec<u32>,
    /// Type indices.
    indirect: Vec<u32>,
    /// It can stop by itself: an import, or a body with a loop or a bulk operation.
    stops: bool,
}

impl Summary {
    fn of(module: &Module, function: u32) -> Result<Summary, InstrumentError> {
        let mut summary = Summary::default();
        let Some(body) = module.body(function) else {
            summary.stops = true;
            return Ok(summary);
        };
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            match operators.read()? {
                Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                    summary.direct.push(function_index);
                }
                Operator::CallIndirect { type_index, .. }
                | Operator::ReturnCallIndirect { type_index, .. } => {
                    summary.indirect.push(type_index)
                }
                Operator::Loop { .. }
                | Operator::MemoryFill { .. }
                | Operator::MemoryCopy { .. } => {
                    summary.stops = true;
                }
                _ => {}
            }
        }
        Ok(summary)
    }
}

/// For each type index the number of its class of structurally equal types, and how many there are.
fn canonical_types(module: &Module) -> (Vec<usize>, usize) {
    let mut classes: HashMap<&FuncType, usize> = HashMap::new();
    let canonical = module
        .types
        .iter()
        .map(|ty| {
            let next = classes.len();
            *classes.entry(ty).or_insert(next)
        })
        .collect();
    (canonical, classes.len())
}

/// Tarjan's algorithm (SIAM J. Comput. 1972) without recursion: the components, callees first.
fn strongly_connected(edges: &[Vec<u32>]) -> Vec<Vec<u32>> {
    const UNSEEN: u32 = u32::MAX;
    let mut index = vec![UNSEEN; edges.len()];
    let mut low = vec![0u32; edges.len()];
    let mut on_stack = vec![false; edges.len()];
    let (mut stack, mut components, mut next) = (Vec::new(), Vec::new(), 0u32);
    for root in 0..edges.len() {
        if index[root] != UNSEEN {
            continue;
        }
        let mut work = vec![(root, 0usize)];
        while let Some((node, edge)) = work.last_mut() {
            let (node, at) = (*node, *edge);
            if at == 0 {
                index[node] = next;
                low[node] = next;
                next += 1;
                stack.push(node as u32);
                on_stack[node] = true;
            }
            if let Some(&child) = edges[node].get(at) {
                *edge += 1;
                let child = child as usize;
                if index[child] == UNSEEN {
                    work.push((child, 0));
                } else if on_stack[child] {
                    low[node] = low[node].min(index[child]);
                }
                continue;
            }
            work.pop();
            if let Some(&(parent, _)) = work.last() {
                low[parent] = low[parent].min(low[node]);
            }
            if low[node] == index[node] {
                let start = stack
                    .iter()
                    .rposition(|&n| n as usize == node)
                    .expect("it is on the stack");
                let component = stack.split_off(start);
                for &member in &component {
                    on_stack[member as usize] = false;
                }
                components.push(component);
            }
        }
    }
    components
}
