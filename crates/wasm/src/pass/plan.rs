//! What the pass knows about one function: its operators, control frames and operand-stack values,
//! and its *points*, the places at which it can be stopped or entered again.
//!
//! A plan depends on the original module alone, so the instrumented module, every continuation and
//! the reader of captured frames agree about what each point saves.

use wasmparser::{Operator, ValType};

use super::calls::CallGraph;
use super::liveness;
use super::module::Module;
use super::polls;
use super::read;
use super::sharing;
use super::{InstrumentError, limits};

/// One operator of the original body.
#[derive(Debug)]
pub(crate) struct Op<'a> {
    pub(crate) operator: Operator<'a>,
    /// Byte offset in the module.
    pub(crate) offset: u32,
    /// Whether control can reach it.
    pub(crate) live: bool,
    /// The innermost frame around it; a `block`, `loop` or `if` lies in its parent, an `else` or
    /// `end` in the frame it closes.
    pub(crate) frame: u32,
    /// The values that it leaves on the operand stack.
    pub(crate) produced: Values,
}

/// A run of operand-stack values produced by one operator, bottom first.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Values {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// One value on the operand stack, from its producer to its consumer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value {
    pub(crate) ty: ValType,
    /// How many values lie below it.
    pub(crate) height: u32,
    /// Whether it is on the stack at a point, and so must be kept in a shadow local too.
    pub(crate) kept: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Function,
    Block,
    Loop,
    If,
}

/// A control frame: the function itself, or a `block`, `loop` or `if`.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    /// The operator that opens it; 0 for the function.
    pub(crate) start: usize,
    pub(crate) otherwise: Option<usize>,
    pub(crate) end: usize,
    /// Values on the operand stack below its parameters.
    pub(crate) height: u32,
    pub(crate) params: Box<[ValType]>,
    pub(crate) results: Box<[ValType]>,
    pub(crate) parent: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PointKind {
    /// A loop header. Only polled ones can be stopped at; all can be entered again.
    Loop { polled: bool },
    /// After a call that may unwind.
    Call,
    /// A call of an import: before it, with its arguments, if it was cancelled; else after it.
    Import,
    /// Before a tail call on a cycle.
    TailCall,
    /// A bulk memory operation that is done in portions: before the rest of it.
    Bulk,
}

/// A place at which a function can be stopped, or entered again by a continuation.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) op: usize,
    pub(crate) kind: PointKind,
    /// Original local indices, in the order of the record.
    pub(crate) locals: Vec<u32>,
    /// Which of all versions of locals the first ones are that other points save too.
    pub(crate) shared: Vec<u32>,
    /// Types of the operand stack, bottom first. For [`PointKind::Call`] without the call's
    /// arguments; for the others with them.
    pub(crate) stack: Vec<ValType>,
    /// How many of `stack` are arguments of the operator.
    pub(crate) arguments: usize,
    /// What the call leaves behind.
    pub(crate) results: Vec<ValType>,
}

impl Point {
    /// Whether a running program can be stopped here.
    pub(crate) fn stops(&self) -> bool {
        self.kind != PointKind::Loop { polled: false }
    }
}

/// The plan of one function.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) function: u32,
    pub(crate) params: usize,
    pub(crate) results: Box<[ValType]>,
    /// All locals, parameters first.
    pub(crate) locals: Vec<ValType>,
    pub(crate) ops: Vec<Op<'a>>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) values: Vec<Value>,
    /// In the order of their operators.
    pub(crate) points: Vec<Point>,
    /// Whether it calls itself by its own name.
    pub(crate) calls_itself: bool,
}

impl<'a> Plan<'a> {
    /// Plans a defined function, or the body that stands for an imported one whose address is taken.
    pub(crate) fn of(
        module: &'a Module,
        calls: &CallGraph,
        function: u32,
    ) -> Result<Plan<'a>, InstrumentError> {
        match module.body(function) {
            Some(body) => {
                let (mut plan, held) = read::read(module, calls, function, &body)?;
                plan.settle_polls(&held);
                liveness::fill(&mut plan)?;
                sharing::order(&mut plan);
                plan.check_loops()?;
                Ok(plan)
            }
            None => Ok(Self::wrapper(module, function)),
        }
    }

    /// The operators of the loop headers at which it can be entered.
    pub(crate) fn loops(&self) -> impl Iterator<Item = usize> {
        let loops = self.points.iter();
        let loops = loops.filter(|point| matches!(point.kind, PointKind::Loop { .. }));
        loops.map(|point| point.op)
    }

    /// The point at operator `op`, if there is one.
    pub(crate) fn point_at(&self, op: usize) -> Option<&Point> {
        self.points
            .binary_search_by_key(&op, |p| p.op)
            .ok()
            .map(|i| &self.points[i])
    }

    /// The point whose operator lies at byte `offset` of the module.
    pub(crate) fn point_at_offset(&self, offset: u32) -> Option<&Point> {
        let op = self
            .ops
            .binary_search_by_key(&offset, |op| op.offset)
            .ok()?;
        self.point_at(op)
    }

    /// The frame that the live `block`, `loop` or `if` at `op` opens.
    pub(crate) fn frame_opened_at(&self, op: usize) -> &Frame {
        &self.frames[self.frame_index_opened_at(op) as usize]
    }

    /// The number of that frame.
    pub(crate) fn frame_index_opened_at(&self, op: usize) -> u32 {
        // Frames lie in the order of their openers, after the function's own.
        let at = self.frames[1..].binary_search_by_key(&op, |frame| frame.start);
        1 + at.expect("a live opener has a frame") as u32
    }

    /// `local.get 0 … local.get n-1, call import, end`: what a reference to an import points to, so
    /// that a cancelled call has a frame of its own to be issued again from.
    fn wrapper(module: &Module, function: u32) -> Plan<'a> {
        let ty = module.function_type(function);
        let value = |(height, &ty): (usize, &ValType)| Value {
            ty,
            height: height as u32,
            kept: false,
        };
        let mut values: Vec<Value> = ty.params().iter().enumerate().map(value).collect();
        let op = |operator, offset, produced| Op {
            operator,
            offset,
            live: true,
            frame: 0,
            produced,
        };
        let push = |local_index| {
            let produced = Values {
                first: local_index,
                count: 1,
            };
            op(Operator::LocalGet { local_index }, local_index, produced)
        };
        let mut ops: Vec<Op<'a>> = (0..ty.params().len() as u32).map(push).collect();
        let call = ops.len();
        let results = Values {
            first: values.len() as u32,
            count: ty.results().len() as u32,
        };
        values.extend(ty.results().iter().enumerate().map(value));
        ops.push(op(
            Operator::Call {
                function_index: function,
            },
            call as u32,
            results,
        ));
        ops.push(op(Operator::End, call as u32 + 1, Values::default()));
        let point = Point {
            op: call,
            kind: PointKind::Import,
            locals: Vec::new(),
            shared: Vec::new(),
            stack: ty.params().to_vec(),
            arguments: ty.params().len(),
            results: ty.results().to_vec(),
        };
        let arguments = values.iter_mut().take(call);
        arguments.for_each(|value| value.kept = true);
        Plan {
            function,
            params: ty.params().len(),
            results: ty.results().into(),
            locals: ty.params().to_vec(),
            frames: vec![Frame {
                kind: FrameKind::Function,
                start: 0,
                otherwise: None,
                end: call + 1,
                height: 0,
                params: Box::default(),
                results: ty.results().into(),
                parent: 0,
            }],
            ops,
            values,
            points: vec![point],
            calls_itself: false,
        }
    }

    /// Whoever goes on inside of loops goes on with the whole of each of them.
    fn check_loops(&self) -> Result<(), InstrumentError> {
        let mut around = vec![0usize; self.frames.len()];
        for (index, frame) in self.frames.iter().enumerate() {
            let outside = around[frame.parent as usize];
            let own = match frame.kind {
                FrameKind::Loop => self.ops.len() - frame.start,
                _ => 0,
            };
            around[index] = outside + own;
            let what = "number of operators in a function's loops";
            limits::check(what, around[index], limits::LOOP_OPERATORS)?;
        }
        Ok(())
    }

    /// Decides which loops are polled, then marks the values that lie on the operand stack (`held`,
    /// by point) wherever the function can stop, or goes on in a function of its own.
    fn settle_polls(&mut self, held: &[Vec<u32>]) {
        let polled = polls::needed(self);
        let outlined = outlined_loops(self);
        for (point, held) in self.points.iter_mut().zip(held) {
            if let PointKind::Loop { polled: here } = &mut point.kind {
                *here = polled[point.op];
            }
            if point.stops() || outlined.binary_search(&point.op).is_ok() {
                for &value in held {
                    self.values[value as usize].kept = true;
                }
            }
        }
    }
}

/// A loop outside of all others, of at least so many operators, becomes a function of its own.
const OUTLINE_OPERATORS: usize = 1_500;
/// How often code may be there at the most because loops became functions.
const OUTLINE_COPIES: usize = 8;

/// The operators of `plan`'s loops that become functions of the main module, ascending.
pub(crate) fn outlined_loops(plan: &Plan<'_>) -> Vec<usize> {
    let mut outlined = Vec::new();
    // Such a function goes on to the end of its original, so it may be a copy of all that follows.
    let mut copied = 0;
    let mut in_loop = vec![false; plan.frames.len()];
    for (index, frame) in plan.frames.iter().enumerate() {
        let is_loop = frame.kind == FrameKind::Loop;
        // Frames lie in the order of their openers: the parent's turn was before.
        let outermost = !in_loop[frame.parent as usize];
        in_loop[index] = is_loop || !outermost;
        if is_loop && outermost && frame.end - frame.start >= OUTLINE_OPERATORS {
            copied += plan.ops.len() - frame.start;
            if copied > plan.ops.len().saturating_mul(OUTLINE_COPIES) {
                break;
            }
            outlined.push(frame.start);
        }
    }
    outlined
}
