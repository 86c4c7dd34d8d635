//! Which processes to move, so that nodes share the work or some have none: [`plan`], a pure function of [loads](NodeLoad).
//!
//! To spread the work is to make the squares of all loads, each times its node's processors, as small as possible together.
//! A process of weights `ws` and `wt` at two nodes of loads `s` and `t` makes that sum smaller if `s - t` is more than
//! `(ws + wt) / 2`, and its way back makes it greater by as much. Measured loads are never quite the same twice; so a step
//! must be better by [`WORTH`], which is more than noise. Then what is really there gets better by each step, and nothing
//! goes round in circles.

use sterna_process::ProcessId;

/// By how much a step must be better than none, as a share of the greater load, if that is more than 1. Loads may be
/// measured wrong by a twentieth.
const WORTH: f64 = 0.1;
/// What wants less of a processor is not worth a move.
const WANTS_MIN: f64 = 0.05;
/// How full a node is made with what other nodes had, of its processors.
const PACKED_MAX: f64 = 0.8;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// All nodes have their share.
    Spread,
    /// As many nodes as possible have nothing to do.
    Pack,
}

/// A node that takes processes, and those that it has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeLoad {
    pub(super) processors: f64,
    /// That could be used.
    pub(super) memory_bytes: u64,
    pub(super) processes: Vec<ProcessLoad>,
}

/// A process, and what it wants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ProcessLoad {
    pub(super) id: ProcessId,
    /// Of processors, from 0 to 1.
    pub(super) wants: f64,
    pub(super) memory_bytes: u64,
    /// Whether it stays where it is.
    pub(super) is_pinned: bool,
}

/// A process is moved from one node to another; these by their place among the nodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub(super) process: ProcessId,
    pub(super) from: usize,
    pub(super) to: usize,
}

impl NodeLoad {
    /// What its processes want, of its processors.
    pub(super) fn load(&self) -> f64 {
        let wants = self.processes.iter().map(|process| process.wants);
        wants.fold(0.0, |sum, wants| sum + wants) / self.processors
    }

    /// Whether something has to stay here.
    fn keeps_some(&self) -> bool {
        self.processes.iter().any(|process| process.is_pinned)
    }

    /// How much of it a process takes.
    fn weight(&self, process: &ProcessLoad) -> f64 {
        process.wants / self.processors
    }
}

/// What to move, in this order, each process at most once. `may`: whether a process may go to a node.
pub(super) fn plan(
    nodes: &[NodeLoad],
    goal: Goal,
    may: impl Fn(ProcessId, usize) -> bool,
) -> Vec<Step> {
    let mut nodes = nodes.to_vec();
    match goal {
        Goal::Spread => spread(&mut nodes, may),
        Goal::Pack => pack(&mut nodes, may),
    }
}

/// Carries a step out on paper. The process stays where it then is.
pub(super) fn apply(nodes: &mut [NodeLoad], step: Step) {
    let processes = &mut nodes[step.from].processes;
    let at = processes
        .iter()
        .position(|process| process.id == step.process);
    if let Some(at) = at {
        let process = processes.remove(at);
        let target = &mut nodes[step.to];
        target.memory_bytes = target.memory_bytes.saturating_sub(process.memory_bytes);
        let is_pinned = true;
        target.processes.push(ProcessLoad {
            is_pinned,
            ..process
        });
    }
}

fn spread(nodes: &mut [NodeLoad], may: impl Fn(ProcessId, usize) -> bool) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some(step) = best(nodes, &may) {
        apply(nodes, step);
        steps.push(step);
    }
    steps
}

/// The step by which most is won; of several, the one that moves least memory.
fn best(nodes: &[NodeLoad], may: impl Fn(ProcessId, usize) -> bool) -> Option<Step> {
    let mut best: Option<(f64, u64, Step)> = None;
    for (from, source) in nodes.iter().enumerate() {
        for one in source.processes.iter().filter(|one| !one.is_pinned) {
            for (to, target) in nodes.iter().enumerate().filter(|(to, _)| *to != from) {
                let has_room = target.memory_bytes >= one.memory_bytes;
                let Some(won) = won(source, target, one).filter(|_| has_room) else {
                    continue;
                };
                let (process, bytes) = (one.id, one.memory_bytes);
                let is_better = best.is_none_or(|(than, less, _)| {
                    won > than || (won.total_cmp(&than).is_eq() && bytes < less)
                });
                if is_better && may(process, to) {
                    best = Some((won, bytes, Step { process, from, to }));
                }
            }
        }
    }
    best.map(|(_, _, step)| step)
}

/// What is won if a process goes from one node to another, if that is worth it.
fn won(source: &NodeLoad, target: &NodeLoad, process: &ProcessLoad) -> Option<f64> {
    let (from, to) = (source.load(), target.load());
    let (before, after) = (source.weight(process), target.weight(process));
    let better = from - to - (before + after) / 2.0;
    let is_worth =
        process.wants >= WANTS_MIN && better >= WORTH * from.max(1.0) && to + after <= from;
    is_worth.then_some(better * process.wants)
}

/// Empties nodes, those with least work first, if the others have room for all of it.
fn pack(nodes: &mut [NodeLoad], may: impl Fn(ProcessId, usize) -> bool) -> Vec<Step> {
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by(|one, other| nodes[*one].load().total_cmp(&nodes[*other].load()));
    let mut steps = Vec::new();
    for from in order {
        if let Some((emptied, some)) = emptied(nodes, from, &may) {
            nodes.clone_from_slice(&emptied);
            steps.extend(some);
        }
    }
    steps
}

/// The nodes without the processes of one of them, and how these go to others that have some.
fn emptied(
    nodes: &[NodeLoad],
    from: usize,
    may: impl Fn(ProcessId, usize) -> bool,
) -> Option<(Vec<NodeLoad>, Vec<Step>)> {
    let mut leaving = nodes[from].processes.clone();
    if nodes[from].keeps_some() {
        return None;
    }
    leaving.sort_by(|one, other| other.wants.total_cmp(&one.wants));
    let (mut nodes, mut steps) = (nodes.to_vec(), Vec::new());
    for process in leaving {
        let targets = nodes.iter().enumerate().filter(|(to, target)| {
            *to != from
                && !target.processes.is_empty()
                && target.memory_bytes >= process.memory_bytes
                && target.load() + target.weight(&process) <= PACKED_MAX
                && may(process.id, *to)
        });
        // Those that cannot be emptied themselves first.
        let (to, _) = targets.max_by(|(_, one), (_, other)| {
            let keeps = one.keeps_some().cmp(&other.keeps_some());
            keeps.then(one.load().total_cmp(&other.load()))
        })?;
        let process = process.id;
        let step = Step { process, from, to };
        apply(&mut nodes, step);
        steps.push(step);
    }
    (!steps.is_empty()).then_some((nodes, steps))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn process(number: u8, wants: f64, memory_bytes: u64, is_pinned: bool) -> ProcessLoad {
        ProcessLoad {
            id: ProcessId::from_bytes([number; 16]),
            wants,
            memory_bytes,
            is_pinned,
        }
    }

    fn node(processors: u32, processes: Vec<ProcessLoad>) -> NodeLoad {
        NodeLoad {
            processors: processors.into(),
            memory_bytes: 1 << 30,
            processes,
        }
    }

    fn busy(numbers: std::ops::Range<u8>) -> Vec<ProcessLoad> {
        numbers
            .map(|one| process(one, 1.0, 1 << 20, false))
            .collect()
    }

    fn anywhere(_: ProcessId, _: usize) -> bool {
        true
    }

    /// Loads after plans were carried out until there is none.
    fn at_rest(mut nodes: Vec<NodeLoad>, goal: Goal) -> Vec<NodeLoad> {
        loop {
            let steps = plan(&nodes, goal, anywhere);
            if steps.is_empty() {
                return nodes;
            }
            carry_out(&mut nodes, &steps);
        }
    }

    /// As it is in the next look: what was moved can be moved again.
    fn carry_out(nodes: &mut [NodeLoad], steps: &[Step]) {
        for step in steps {
            apply(nodes, *step);
            let moved = nodes[step.to].processes.last_mut().unwrap();
            moved.is_pinned = false;
        }
    }

    fn loads(nodes: &[NodeLoad]) -> Vec<f64> {
        nodes.iter().map(NodeLoad::load).collect()
    }

    fn most(nodes: &[NodeLoad]) -> f64 {
        loads(nodes).into_iter().fold(0.0, f64::max)
    }

    /// How many nodes have any processes.
    fn used(nodes: &[NodeLoad]) -> usize {
        let used = nodes.iter().filter(|node| !node.processes.is_empty());
        used.count()
    }

    fn squares(nodes: &[NodeLoad]) -> f64 {
        let square = |node: &NodeLoad| node.load() * node.load() * node.processors;
        nodes.iter().map(square).sum()
    }

    #[test]
    fn busy_processes_are_shared_by_processors() {
        let nodes = vec![node(2, busy(0..6)), node(2, vec![]), node(2, vec![])];
        assert_eq!(loads(&at_rest(nodes, Goal::Spread)), [1.0, 1.0, 1.0]);
        let nodes = vec![node(1, busy(0..9)), node(8, vec![])];
        assert_eq!(loads(&at_rest(nodes, Goal::Spread)), [1.0, 1.0]);
        // Small parts of a large machine.
        let nodes = vec![node(64, busy(0..64)), node(64, vec![])];
        let [one, other] = loads(&at_rest(nodes, Goal::Spread))[..] else {
            panic!("two nodes");
        };
        assert!(one - other < 0.15, "{one} {other}");
        // There is nothing to be had.
        let large = process(1, 1.0, 2 << 30, false);
        let (stays, idle) = (process(2, 1.0, 1, true), process(3, 0.01, 1, false));
        for nodes in [
            vec![node(2, busy(0..1)), node(2, vec![])],
            vec![node(2, busy(0..3)), node(2, busy(3..5))],
            vec![node(1, vec![large, stays]), node(1, vec![])],
            vec![node(1, vec![idle, stays]), node(1, vec![])],
        ] {
            assert_eq!(plan(&nodes, Goal::Spread, anywhere), []);
        }
    }

    #[test]
    fn small_nodes_are_emptied_while_others_have_room() {
        let idle = |number, wants| process(number, wants, 1 << 20, false);
        let nodes = vec![
            node(4, vec![idle(1, 0.5)]),
            node(4, vec![idle(2, 0.1), idle(3, 0.2)]),
            node(4, vec![]),
            node(4, vec![idle(4, 1.0), idle(5, 0.6)]),
        ];
        let rest = at_rest(nodes.clone(), Goal::Pack);
        assert_eq!(used(&rest), 1);
        // None goes where it may not, and a node with one that stays is not emptied.
        let steps = plan(&nodes, Goal::Pack, |_, to| to != 3);
        assert!(steps.iter().all(|step| step.to != 3), "{steps:?}");
        let mut pinned = nodes.clone();
        for node in &mut pinned {
            for process in &mut node.processes {
                process.is_pinned = [0.1, 0.5, 1.0].contains(&process.wants);
            }
        }
        assert_eq!(plan(&pinned, Goal::Pack, anywhere), []);
        let full = vec![node(1, vec![idle(1, 0.5)]), node(1, vec![idle(2, 0.4)])];
        assert_eq!(plan(&full, Goal::Pack, anywhere), []);
    }

    fn any_nodes() -> impl Strategy<Value = Vec<NodeLoad>> {
        let load = (0.0..=1.0_f64, 0..4_u64, prop::bool::weighted(0.2));
        let node = (1..9_u32, prop::collection::vec(load, 0..8));
        prop::collection::vec(node, 1..6).prop_map(|nodes| {
            let mut number = 0;
            let mut of = |(processors, loads): (u32, Vec<(f64, u64, bool)>)| NodeLoad {
                processors: processors.into(),
                memory_bytes: 8,
                processes: loads
                    .into_iter()
                    .map(|(wants, bytes, pinned)| {
                        number += 1;
                        process(number, wants, bytes, pinned)
                    })
                    .collect(),
            };
            nodes.into_iter().map(&mut of).collect()
        })
    }

    /// The same loads, as they might be measured: each by so much more or less.
    fn measured(nodes: &[NodeLoad], noise: &mut impl FnMut() -> f64) -> Vec<NodeLoad> {
        let mut nodes = nodes.to_vec();
        for node in &mut nodes {
            for process in &mut node.processes {
                process.wants *= 1.0 + 0.04 * noise();
            }
        }
        nodes
    }

    proptest! {
        #[test]
        fn each_step_is_needed_and_possible(nodes in any_nodes(), packs: bool) {
            let goal = if packs { Goal::Pack } else { Goal::Spread };
            let (mut now, mut moved) = (nodes.clone(), HashSet::new());
            for step in plan(&nodes, goal, anywhere) {
                let source = &now[step.from].processes;
                let process = *source.iter().find(|one| one.id == step.process).unwrap();
                prop_assert!(!process.is_pinned && moved.insert(process.id));
                prop_assert!(now[step.to].memory_bytes >= process.memory_bytes);
                let before = now[step.from].load().max(now[step.to].load());
                apply(&mut now, step);
                let after = now[step.from].load().max(now[step.to].load());
                match goal {
                    Goal::Spread => prop_assert!(after < before),
                    Goal::Pack => prop_assert!(now[step.to].load() <= PACKED_MAX),
                }
            }
            match goal {
                Goal::Spread => prop_assert!(most(&now) <= most(&nodes)),
                Goal::Pack => prop_assert!(used(&now) < used(&nodes) || moved.is_empty()),
            }
        }

        #[test]
        fn nothing_goes_back_and_forth(nodes in any_nodes(), packs: bool, seed: u64) {
            let goal = if packs { Goal::Pack } else { Goal::Spread };
            let mut random = seed | 1;
            let mut noise = || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random % 2001) as f64 / 1000.0 - 1.0
            };
            let mut now = nodes;
            for _ in 0..30 {
                for step in plan(&measured(&now, &mut noise), goal, anywhere) {
                    let before = (used(&now), squares(&now));
                    carry_out(&mut now, &[step]);
                    let after = (used(&now), squares(&now));
                    match goal {
                        Goal::Spread => prop_assert!(after.1 < before.1),
                        Goal::Pack => prop_assert!(after.0 <= before.0),
                    }
                }
            }
        }

        #[test]
        fn constant_loads_come_to_rest_soon(nodes in any_nodes(), packs: bool) {
            let goal = if packs { Goal::Pack } else { Goal::Spread };
            let mut now = nodes;
            let mut rounds = 0..5;
            let is_at_rest = rounds.any(|_| {
                let steps = plan(&now, goal, anywhere);
                carry_out(&mut now, &steps);
                steps.is_empty()
            });
            prop_assert!(is_at_rest);
        }
    }
}
