//! Reads one function's body into a [`Plan`]: follows the operand stack by value and control by
//! frame, and notes every point. Code that control cannot reach is marked and otherwise ignored,
//! since its operand stack has no definite types.

use wasmparser::{
    AbstractHeapType, FuncValidator, FunctionBody, HeapType, Operator, ValType, ValidatorResources,
};

use super::calls::CallGraph;
use super::module::Module;
use super::plan::{Frame, FrameKind, Op, Plan, Point, PointKind, Value, Values};
use super::{InstrumentError, limits};

/// The plan so far, and for each of its points the values on the operand stack there.
pub(crate) type PlanAndStacks<'a> = (Plan<'a>, Vec<Vec<u32>>);

/// Reads the body of `function`; which loops are polled and which locals are live is not yet known.
pub(crate) fn read<'a>(
    module: &'a Module,
    calls: &CallGraph,
    function: u32,
    body: &FunctionBody<'a>,
) -> Result<PlanAndStacks<'a>, InstrumentError> {
    let ty = module.function_type(function);
    let mut types = module.type_checker(function);
    let mut locals = ty.params().to_vec();
    let mut groups = body.get_locals_reader()?;
    for _ in 0..groups.get_count() {
        let offset = groups.original_position();
        let (count, ty) = groups.read()?;
        types.define_locals(offset, count, ty)?;
        locals.resize(locals.len() + count as usize, ty);
    }
    let function_frame = Frame {
        kind: FrameKind::Function,
        start: 0,
        otherwise: None,
        end: 0,
        height: 0,
        params: Box::default(),
        results: ty.results().into(),
        parent: 0,
    };
    let mut reader = Reader {
        module,
        calls,
        types,
        plan: Plan {
            function,
            params: ty.params().len(),
            results: ty.results().into(),
            locals,
            ops: Vec::new(),
            frames: vec![function_frame],
            values: Vec::new(),
            points: Vec::new(),
            calls_itself: false,
        },
        open: vec![Open {
            frame: Some(0),
            params: Vec::new(),
            targeted: false,
            opened_live: true,
            then_live: false,
        }],
        innermost: 0,
        stack: Vec::new(),
        live: true,
        held: Vec::new(),
        saved: 0,
    };
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        let (operator, offset) = operators.read_with_offset()?;
        reader.operator(operator, offset)?;
    }
    Ok((reader.plan, reader.held))
}

/// A control frame that has not ended yet.
struct Open {
    /// `None` for a frame in dead code.
    frame: Option<u32>,
    /// Values of its parameters, for the `else` arm.
    params: Vec<u32>,
    targeted: bool,
    opened_live: bool,
    /// Whether the `then` arm of an `if` fell through.
    then_live: bool,
}

struct Reader<'a, 'm> {
    module: &'m Module,
    calls: &'m CallGraph,
    types: FuncValidator<ValidatorResources>,
    plan: Plan<'a>,
    open: Vec<Open>,
    /// The frame of the last of `open` that has one.
    innermost: u32,
    stack: Vec<u32>,
    live: bool,
    held: Vec<Vec<u32>>,
    /// How many values all points save and all frames take and give.
    saved: usize,
}

impl<'a> Reader<'a, '_> {
    fn operator(&mut self, operator: Operator<'a>, offset: usize) -> Result<(), InstrumentError> {
        let arity = operator.operator_arity(&self.types);
        self.types.op(offset, &operator)?;
        let index = self.plan.ops.len();
        self.plan.ops.push(Op {
            operator: operator.clone(),
            offset: u32::try_from(offset).map_err(|_| InstrumentError::TooLarge {
                what: "module",
                limit: u64::from(u32::MAX),
            })?,
            live: self.live,
            frame: self.innermost,
            produced: Values::default(),
        });
        let itself = self.plan.function;
        self.plan.calls_itself |= self.live
            && matches!(operator, Operator::Call { function_index } if function_index == itself);
        match operator {
            Operator::Block { blockty } => self.begin(index, FrameKind::Block, blockty),
            Operator::Loop { blockty } => self.begin(index, FrameKind::Loop, blockty),
            Operator::If { blockty } => self.begin(index, FrameKind::If, blockty),
            Operator::Else => self.otherwise(index),
            Operator::End => self.end(index),
            _ if !self.live => {}
            ref plain => {
                let (pops, pushes) = arity.ok_or(InstrumentError::Refused {
                    feature: format!("operator {plain:?}"),
                    offset: offset as u64,
                })?;
                self.plain(index, plain, pops as usize, pushes as usize);
            }
        }
        limits::check(
            "number of values saved in one function",
            self.saved,
            limits::SAVED,
        )?;
        limits::check(
            "number of values in one function",
            self.plan.values.len(),
            limits::VALUES,
        )
    }

    fn plain(&mut self, index: usize, operator: &Operator<'_>, pops: usize, pushes: usize) {
        if let Some(kind) = point_kind(self.module, self.calls, self.plan.function, operator) {
            self.point(index, kind, pops, pushes);
        }
        match operator {
            Operator::Br { relative_depth } | Operator::BrIf { relative_depth } => {
                self.target(*relative_depth);
            }
            Operator::BrTable { targets } => {
                self.target(targets.default());
                targets
                    .targets()
                    .flatten()
                    .for_each(|depth| self.target(depth));
            }
            _ => {}
        }
        if matches!(operator, Operator::BrIf { .. }) {
            // What it leaves is what it found: the same values, not new ones.
            self.stack.pop();
            return;
        }
        self.stack.truncate(self.stack.len() - pops);
        let ends = matches!(
            operator,
            Operator::Br { .. }
                | Operator::BrTable { .. }
                | Operator::Return
                | Operator::Unreachable
                | Operator::ReturnCall { .. }
                | Operator::ReturnCallIndirect { .. }
        );
        if ends {
            self.live = false;
        } else {
            self.produce(index, pushes);
        }
    }

    /// Notes a point at operator `index`, which takes `arguments` values and gives `results`.
    fn point(&mut self, index: usize, kind: PointKind, arguments: usize, results: usize) {
        let operator = &self.plan.ops[index].operator;
        let held = match kind {
            PointKind::Call => self.stack.len() - arguments,
            _ => self.stack.len(),
        };
        let stack = self.stack[..held].to_vec();
        let after_call = matches!(kind, PointKind::Call | PointKind::Import);
        self.saved += held + results;
        self.plan.points.push(Point {
            op: index,
            kind,
            locals: Vec::new(),
            shared: Vec::new(),
            stack: stack
                .iter()
                .map(|&v| self.plan.values[v as usize].ty)
                .collect(),
            arguments: if kind == PointKind::Call {
                0
            } else {
                arguments
            },
            results: match operator {
                Operator::ReturnCall { function_index } if kind == PointKind::Import => self
                    .module
                    .function_type(*function_index)
                    .results()
                    .to_vec(),
                _ if after_call => self.top_types(results),
                _ => Vec::new(),
            },
        });
        self.held.push(stack);
    }

    /// The types of the top `count` operands, after the operator at hand.
    fn top_types(&self, count: usize) -> Vec<ValType> {
        let operand = |depth| self.types.get_operand_type(depth).flatten();
        (0..count)
            .rev()
            .map(|depth| declarable(operand(depth).expect("live code has definite types")))
            .collect()
    }

    fn produce(&mut self, index: usize, count: usize) {
        let types = self.top_types(count);
        self.produce_types(index, &types);
    }

    fn produce_types(&mut self, index: usize, types: &[ValType]) {
        let first = self.plan.values.len() as u32;
        for &ty in types {
            let height = self.stack.len() as u32;
            self.stack.push(self.plan.values.len() as u32);
            self.plan.values.push(Value {
                ty,
                height,
                kept: false,
            });
        }
        self.plan.ops[index].produced = Values {
            first,
            count: types.len() as u32,
        };
    }

    fn target(&mut self, depth: u32) {
        let at = self.open.len() - 1 - depth as usize;
        self.open[at].targeted = true;
    }

    fn begin(&mut self, index: usize, kind: FrameKind, blockty: wasmparser::BlockType) {
        if !self.live {
            self.open.push(Open {
                frame: None,
                params: Vec::new(),
                targeted: false,
                opened_live: false,
                then_live: false,
            });
            return;
        }
        if kind == FrameKind::If {
            self.stack.pop();
        }
        let (params, results) = self.module.block_type(blockty);
        let height = self.stack.len() - params.len();
        let parent = self.plan.ops[index].frame;
        let frame = self.plan.frames.len() as u32;
        let inside = match kind {
            FrameKind::If => self.stack[height..].to_vec(),
            _ => Vec::new(),
        };
        self.saved += params.len() + results.len();
        self.innermost = frame;
        if kind == FrameKind::Loop {
            self.stack.truncate(height);
            self.produce_types(index, &params);
            self.point(index, PointKind::Loop { polled: true }, 0, 0);
        }
        self.plan.frames.push(Frame {
            kind,
            start: index,
            otherwise: None,
            end: 0,
            height: height as u32,
            params,
            results,
            parent,
        });
        self.open.push(Open {
            frame: Some(frame),
            params: inside,
            targeted: false,
            opened_live: true,
            then_live: false,
        });
    }

    fn otherwise(&mut self, index: usize) {
        let open = self.open.last_mut().expect("validated: else lies in an if");
        open.then_live = self.live;
        let Some(frame) = open.frame else { return };
        let frame = &mut self.plan.frames[frame as usize];
        frame.otherwise = Some(index);
        self.stack.truncate(frame.height as usize);
        self.stack.extend_from_slice(&open.params);
        self.live = open.opened_live;
        self.plan.ops[index].live = true;
    }

    fn end(&mut self, index: usize) {
        let open = self.open.pop().expect("validated: end closes a frame");
        let Some(at) = open.frame else { return };
        let frame = &mut self.plan.frames[at as usize];
        frame.end = index;
        self.innermost = frame.parent;
        let one_armed = frame.kind == FrameKind::If && frame.otherwise.is_none();
        let by_label = open.targeted && frame.kind != FrameKind::Loop;
        self.live = self.live || by_label || open.then_live || one_armed;
        self.plan.ops[index].live = true;
        if self.live {
            let (height, results) = (frame.height as usize, frame.results.clone());
            self.stack.truncate(height);
            self.produce_types(index, &results);
        }
    }
}

/// The type of a local that can hold a value of type `ty`: the type checker knows more exactly to what
/// a reference points (`ref.func`) than a mobile module can say.
fn declarable(ty: ValType) -> ValType {
    let ValType::Ref(reference) = ty else {
        return ty;
    };
    match reference.heap_type() {
        HeapType::Abstract {
            ty: AbstractHeapType::Extern | AbstractHeapType::NoExtern,
            ..
        } => ValType::EXTERNREF,
        _ => ValType::FUNCREF,
    }
}

/// Whether a function can be stopped at `operator` (loops aside), and how.
fn point_kind(
    module: &Module,
    calls: &CallGraph,
    function: u32,
    operator: &Operator<'_>,
) -> Option<PointKind> {
    let imported = |callee: u32| callee < module.imported_functions;
    let point = |kind: PointKind, wanted: bool| wanted.then_some(kind);
    match *operator {
        Operator::Call { function_index } | Operator::ReturnCall { function_index }
            if imported(function_index) =>
        {
            Some(PointKind::Import)
        }
        Operator::Call { function_index } => {
            point(PointKind::Call, calls.may_unwind(function_index))
        }
        Operator::CallIndirect { type_index, .. } => {
            point(PointKind::Call, calls.indirect_may_unwind(type_index))
        }
        Operator::ReturnCall { function_index } => point(
            PointKind::TailCall,
            calls.cyclic(function_index) && calls.cyclic(function),
        ),
        Operator::ReturnCallIndirect { type_index, .. } => point(
            PointKind::TailCall,
            calls.indirect_cyclic(type_index) && calls.cyclic(function),
        ),
        Operator::MemoryFill { .. } | Operator::MemoryCopy { .. } => Some(PointKind::Bulk),
        _ => None,
    }
}
