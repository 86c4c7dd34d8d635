//! Writes a function's body so that it can be stopped at its points: the whole body, or a
//! continuation that enters it at one point.
//!
//! ```text
//! block $unwound
//!   block $cold_n … block $cold_0
//!     block $exit (results)
//!       the body; at each point: load the word, br_if $cold_k
//!     end
//!     return
//!   end
//!   save point 0's values, br to what it shares with others, or $unwound
//!   …
//! end
//! results that nobody reads
//! ```
//!
//! A continuation opens the frames around its point as plain blocks, pushes the operands that belong
//! between them, and goes on from there. Code that it cannot reach is left out. A loop around the
//! point is not copied: going round it again is a tail call of the loop's own continuation, the one
//! for the point at its header.

mod cold;
mod depth;
mod entry;
mod locals;
mod stops;

use wasm_encoder::reencode::Reencode;
use wasm_encoder::{BlockType, Encode, Instruction};
use wasmparser::{Operator, ValType};

use super::encoding::encoded;
use super::look::Look;
use super::marks::Mark;
use super::plan::{FrameKind, Plan, Point, Values};
use super::record::{self, Field};
use super::routines::Helper;
use super::{InstrumentError, Spot, limits};
use locals::{Key, Locals};

/// Where a function is entered.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Entry {
    /// At its beginning, with its parameters.
    Start,
    /// Before the point's operator: a loop header, or an operation that is issued again.
    At(usize),
    /// After the call at the point, with its results.
    After(usize),
}

impl Entry {
    /// The operator of its point, and whether it comes after it; `None` for the beginning.
    pub(crate) fn operator(self) -> Option<(u32, bool)> {
        match self {
            Entry::Start => None,
            Entry::At(op) => Some((op as u32, false)),
            Entry::After(op) => Some((op as u32, true)),
        }
    }
}

/// The module that is being written: gives indices in it for what the original module names.
pub(crate) trait Target: Reencode<Error = InstrumentError> {
    /// The memory that holds the word and the records.
    fn control(&mut self) -> u32;
    /// The global that counts down the remaining call depth.
    fn depth(&mut self) -> u32;
    fn helper(&mut self, helper: Helper) -> u32;
    /// The continuation of `function` for the loop header at operator `op`.
    fn header(&mut self, function: u32, op: usize) -> u32;
    /// Whether that continuation is a function of the main module.
    fn outlined(&self, function: u32, op: usize) -> bool;
    fn signature(&mut self, params: &[ValType], results: &[ValType]) -> u32;
    /// What entering `function` takes off the depth counter.
    fn charge(&self, function: u32) -> Option<u32>;
    /// How the word is looked at.
    fn look(&self) -> Look;
}

/// A body ready to be put into a code section.
#[derive(Debug)]
pub(crate) struct Emitted {
    pub(crate) params: Vec<ValType>,
    pub(crate) results: Box<[ValType]>,
    pub(crate) function: wasm_encoder::Function,
    /// Byte offsets, from the start of the function, of branches that are not taken.
    pub(crate) unlikely: Vec<u32>,
    /// Where the code of its points lies, from the start of the function.
    pub(crate) marks: Vec<Mark>,
}

/// Writes `plan`'s function as entered at `entry`.
pub(crate) fn emit(
    plan: &Plan<'_>,
    entry: Entry,
    target: &mut dyn Target,
) -> Result<Emitted, InstrumentError> {
    let mut emitter = Emitter {
        plan,
        entry,
        target,
        body: Vec::new(),
        locals: Locals::new(plan, entry),
        depth: 1,
        open: vec![Open {
            frame: 0,
            label: 0,
            entered: false,
            targeted: false,
            then_live: false,
        }],
        live: true,
        cold: Vec::new(),
        branches: Vec::new(),
        marks: Vec::new(),
        headers: 0,
    };
    let first = emitter.enter()?;
    emitter.run(first)?;
    emitter.finish()
}

/// The parameters of the continuation for `entry`: what they are and their types.
pub(crate) fn parameters(plan: &Plan<'_>, entry: Entry) -> Vec<(Field, ValType)> {
    let (op, after) = match entry {
        Entry::Start => {
            let local = |(index, &ty): (usize, &ValType)| (Field::Local(index as u32), ty);
            return plan.locals[..plan.params]
                .iter()
                .enumerate()
                .map(local)
                .collect();
        }
        Entry::At(op) => (op, false),
        Entry::After(op) => (op, true),
    };
    let point = plan
        .point_at(op)
        .expect("continuations are asked for at points");
    let below = (point.stack.len() - if after { point.arguments } else { 0 }) as u32;
    record::fields(point, &plan.locals)
        .filter(|(field, _)| match field {
            Field::Local(_) => true,
            Field::Stack(height) => *height < below,
            Field::Result(_) => after,
        })
        .collect()
}

/// An open control frame.
struct Open {
    frame: u32,
    /// How many labels were open outside of the one that branches to this frame go to.
    label: u32,
    /// Opened around the entry point, not by its own operator.
    entered: bool,
    targeted: bool,
    then_live: bool,
}

struct Emitter<'p, 'a> {
    plan: &'p Plan<'a>,
    entry: Entry,
    target: &'p mut dyn Target,
    body: Vec<u8>,
    locals: Locals,
    /// Labels open in `body`, `$exit` included.
    depth: u32,
    open: Vec<Open>,
    live: bool,
    /// Operators of the points that can be stopped at, in the order of their cold code.
    cold: Vec<usize>,
    /// Offsets in `body` of the branches to cold code.
    branches: Vec<usize>,
    /// Where in `body` the code of points lies.
    marks: Vec<Mark>,
    /// Loop headers polled so far.
    headers: u32,
}

impl<'a> Emitter<'_, 'a> {
    fn put(&mut self, instruction: &Instruction<'_>) {
        instruction.encode(&mut self.body);
    }

    fn field(&mut self, field: Field, ty: ValType) -> u32 {
        self.locals.get(Key::Field(field, ty), ty)
    }

    fn begin_block(&mut self, params: &[ValType], results: &[ValType]) {
        let ty = self.block_type(params, results);
        self.put(&Instruction::Block(ty));
        self.depth += 1;
    }

    fn block_type(&mut self, params: &[ValType], results: &[ValType]) -> BlockType {
        match (params, results) {
            ([], []) => BlockType::Empty,
            ([], [ty]) => BlockType::Result(encoded(*ty)),
            _ => BlockType::FunctionType(self.target.signature(params, results)),
        }
    }

    fn run(&mut self, first: usize) -> Result<(), InstrumentError> {
        let mut index = first;
        let mut dead_nesting = 0;
        while index < self.plan.ops.len() {
            let operator = &self.plan.ops[index].operator;
            if !self.live {
                match operator {
                    Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => {
                        dead_nesting += 1
                    }
                    Operator::End if dead_nesting > 0 => dead_nesting -= 1,
                    Operator::Else if dead_nesting == 0 => index = self.otherwise(index),
                    Operator::End => self.end(),
                    _ => {}
                }
                index += 1;
                continue;
            }
            match operator {
                Operator::Else => index = self.otherwise(index),
                Operator::End => self.end(),
                Operator::Loop { .. } if self.leaves_for(index) => {
                    self.leave_for(index);
                    index = self.plan.frame_opened_at(index).end;
                }
                _ => self.operator(index)?,
            }
            index += 1;
        }
        Ok(())
    }

    fn operator(&mut self, index: usize) -> Result<(), InstrumentError> {
        let plan = self.plan;
        match &plan.ops[index].operator {
            Operator::Block { blockty } => {
                let ty = self
                    .target
                    .block_type(*blockty)
                    .map_err(InstrumentError::from)?;
                self.put(&Instruction::Block(ty));
                self.begin(index);
            }
            Operator::If { blockty } => {
                let ty = self
                    .target
                    .block_type(*blockty)
                    .map_err(InstrumentError::from)?;
                self.put(&Instruction::If(ty));
                self.begin(index);
            }
            Operator::Loop { blockty } => self.begin_loop(index, *blockty)?,
            Operator::Br { relative_depth } => {
                let label = self.label(*relative_depth);
                self.put(&Instruction::Br(label));
                self.live = false;
            }
            Operator::BrIf { relative_depth } => {
                let label = self.label(*relative_depth);
                self.put(&Instruction::BrIf(label));
            }
            Operator::BrTable { targets } => {
                let labels = targets
                    .targets()
                    .map(|depth| depth.map(|depth| self.label(depth)))
                    .collect::<Result<Vec<_>, _>>()?;
                let default = self.label(targets.default());
                self.put(&Instruction::BrTable(labels.into(), default));
                self.live = false;
            }
            Operator::Return => self.leave(),
            Operator::Unreachable => {
                self.put(&Instruction::Unreachable);
                self.live = false;
            }
            Operator::LocalGet { local_index } => self.local(*local_index, Instruction::LocalGet),
            Operator::LocalSet { local_index } => self.local(*local_index, Instruction::LocalSet),
            Operator::LocalTee { local_index } => self.local(*local_index, Instruction::LocalTee),
            operator => match plan.point_at(index) {
                Some(point) => return self.stoppable(index, operator, point),
                None => self.plain(operator)?,
            },
        }
        if self.live {
            self.keep(plan.ops[index].produced);
        }
        Ok(())
    }

    /// An operator that only needs new indices.
    fn plain(&mut self, operator: &Operator<'a>) -> Result<(), InstrumentError> {
        match *operator {
            Operator::DataDrop { data_index } => {
                self.call_helper(Helper::DataDrop { data: data_index })
            }
            Operator::ElemDrop { elem_index } => self.call_helper(Helper::ElementDrop {
                element: elem_index,
            }),
            Operator::MemoryInit { data_index, mem } => {
                self.call_helper(Helper::MemoryInit {
                    data: data_index,
                    memory: mem,
                });
            }
            Operator::TableInit { elem_index, table } => {
                self.call_helper(Helper::TableInit {
                    element: elem_index,
                    table,
                });
            }
            Operator::RefFunc { function_index } => {
                self.call_helper(Helper::Reference {
                    function: function_index,
                });
            }
            Operator::ReturnCall { .. } | Operator::ReturnCallIndirect { .. } => {
                self.refund();
                self.reencode(operator)?;
                self.live = false;
            }
            _ => self.reencode(operator)?,
        }
        Ok(())
    }

    fn reencode(&mut self, operator: &Operator<'a>) -> Result<(), InstrumentError> {
        let instruction = self
            .target
            .instruction(operator.clone())
            .map_err(InstrumentError::from)?;
        instruction.encode(&mut self.body);
        Ok(())
    }

    /// Notes that a frame whose code is what was written since `start` stands at `op`, or `after` it.
    fn mark(&mut self, start: usize, op: usize, after: bool) {
        let spot = Spot {
            function: self.plan.function,
            offset: self.plan.ops[op].offset,
            after,
        };
        self.marks
            .push(Mark::of(start..self.body.len(), Some(spot)));
    }

    fn call_helper(&mut self, helper: Helper) {
        let function = self.target.helper(helper);
        self.put(&Instruction::Call(function));
    }

    /// Copies the top operands into `locals`, bottom first, and leaves them where they are.
    fn spill(&mut self, locals: &[u32]) {
        if let [only] = locals {
            self.put(&Instruction::LocalTee(*only));
            return;
        }
        locals
            .iter()
            .rev()
            .for_each(|&local| self.put(&Instruction::LocalSet(local)));
        locals
            .iter()
            .for_each(|&local| self.put(&Instruction::LocalGet(local)));
    }

    /// Copies those of the values just produced that a later point saves into their shadow locals.
    fn keep(&mut self, produced: Values) {
        let plan = self.plan;
        let values = &plan.values[produced.first as usize..][..produced.count as usize];
        let Some(lowest) = values.iter().position(|value| value.kept) else {
            return;
        };
        let locals: Vec<u32> = values[lowest..]
            .iter()
            .map(|v| self.field(Field::Stack(v.height), v.ty))
            .collect();
        self.spill(&locals);
    }

    fn local(&mut self, index: u32, instruction: fn(u32) -> Instruction<'static>) {
        let ty = self.plan.locals[index as usize];
        let local = self.field(Field::Local(index), ty);
        self.put(&instruction(local));
    }

    /// The relative depth, in the emitted body, of the original label `depth`.
    fn label(&mut self, depth: u32) -> u32 {
        let at = self.open.len() - 1 - depth as usize;
        self.open[at].targeted = true;
        self.depth - 1 - self.open[at].label
    }

    /// Leaves the function with its results on the operand stack.
    fn leave(&mut self) {
        self.open[0].targeted = true;
        self.put(&Instruction::Br(self.depth - 1));
        self.live = false;
    }

    fn begin(&mut self, index: usize) {
        let frame = self.plan.frame_index_opened_at(index);
        self.open.push(Open {
            frame,
            label: self.depth,
            entered: false,
            targeted: false,
            then_live: false,
        });
        self.depth += 1;
    }

    /// Whether the loop at `index` is a function of its own here, compiled once and for good.
    fn leaves_for(&self, index: usize) -> bool {
        let stays = match self.entry {
            // A call of its own each time that it is entered would be dear.
            Entry::Start => self.plan.calls_itself,
            entry => entry == Entry::At(index),
        };
        !stays && self.target.outlined(self.plan.function, index)
    }

    /// Goes on in the function that is the loop at `index` and all that comes after it.
    fn leave_for(&mut self, index: usize) {
        let plan = self.plan;
        let point = plan
            .point_at(index)
            .expect("every live loop header is a point");
        // The operands below its parameters are kept already, and may belong to frames outside.
        let frame = plan.frame_opened_at(index);
        for (at, &ty) in frame.params.iter().enumerate().rev() {
            let local = self.field(Field::Stack(frame.height + at as u32), ty);
            self.put(&Instruction::LocalSet(local));
        }
        self.go_to_header(point);
    }

    fn begin_loop(
        &mut self,
        index: usize,
        ty: wasmparser::BlockType,
    ) -> Result<(), InstrumentError> {
        let plan = self.plan;
        let point = plan
            .point_at(index)
            .expect("every live loop header is a point");
        let ty = self.target.block_type(ty).map_err(InstrumentError::from)?;
        self.put(&Instruction::Loop(ty));
        self.begin(index);
        self.keep(plan.ops[index].produced);
        if point.stops() {
            self.poll_header(index);
        }
        Ok(())
    }

    /// Tail-calls the continuation of the loop header at `point`; all values are in locals.
    fn go_to_header(&mut self, point: &Point) {
        for (field, ty) in parameters(self.plan, Entry::At(point.op)) {
            let local = self.field(field, ty);
            self.put(&Instruction::LocalGet(local));
        }
        let header = self.target.header(self.plan.function, point.op);
        self.put(&Instruction::ReturnCall(header));
        self.live = false;
    }

    /// Handles the `else` at `index`; returns the operator that was handled last.
    fn otherwise(&mut self, index: usize) -> usize {
        let open = self.open.last_mut().expect("validated: else lies in an if");
        if open.entered {
            // The point lay in the first arm: the second is not reached from it.
            let end = self.plan.frames[open.frame as usize].end;
            self.end();
            return end;
        }
        // The arm's parameters are the same values as the first arm's: already kept.
        open.then_live = self.live;
        self.live = true;
        self.put(&Instruction::Else);
        index
    }

    fn end(&mut self) {
        let open = self.open.pop().expect("validated: end closes a frame");
        let plan = self.plan;
        let frame = &plan.frames[open.frame as usize];
        if frame.kind == FrameKind::Loop && open.entered {
            self.end_entered_loop(&open);
        } else {
            self.put(&Instruction::End);
            self.depth -= 1;
            let one_armed =
                frame.kind == FrameKind::If && frame.otherwise.is_none() && !open.entered;
            let by_label = open.targeted && frame.kind != FrameKind::Loop;
            self.live = self.live || by_label || open.then_live || one_armed;
        }
        if open.frame == 0 {
            return;
        }
        if self.live {
            self.keep(plan.ops[frame.end].produced);
        } else {
            self.put(&Instruction::Unreachable);
        }
    }

    fn end_entered_loop(&mut self, open: &Open) {
        let plan = self.plan;
        let frame = &plan.frames[open.frame as usize];
        let falls_out = self.live;
        if falls_out {
            self.put(&Instruction::Br(1));
        }
        self.put(&Instruction::End);
        self.depth -= 1;
        if open.targeted {
            for (at, &ty) in frame.params.iter().enumerate().rev() {
                let local = self.field(Field::Stack(frame.height + at as u32), ty);
                self.put(&Instruction::LocalSet(local));
            }
            let point = plan
                .point_at(frame.start)
                .expect("every live loop header is a point");
            self.go_to_header(point);
        } else {
            self.put(&Instruction::Unreachable);
        }
        self.put(&Instruction::End);
        self.depth -= 1;
        self.live = falls_out;
    }

    fn finish(mut self) -> Result<Emitted, InstrumentError> {
        if self.live {
            self.refund();
            self.put(&Instruction::Return);
        } else {
            self.put(&Instruction::Unreachable);
        }
        let mut before = Vec::new();
        let mut after = Vec::new();
        let cold = std::mem::take(&mut self.cold);
        if !cold.is_empty() {
            self.cold_code(&cold, &mut before, &mut after);
        }
        let results = self.plan.results.clone();
        let exit = self.block_type(&[], &results);
        Instruction::Block(exit).encode(&mut before);
        Instruction::End.encode(&mut after);
        let locals = self.locals.params.len() + self.locals.declared.len();
        limits::check("number of a function's locals", locals, limits::LOCALS)?;
        let body = before.len() + self.body.len() + after.len();
        limits::check("function, in bytes,", body, limits::BODY)?;
        let locals = self.locals.declared.iter().map(|&ty| encoded(ty));
        let mut function = wasm_encoder::Function::new_with_locals_types(locals);
        let start = function.byte_len() + before.len();
        let unlikely = self
            .branches
            .iter()
            .map(|&at| (start + at) as u32)
            .collect();
        let marks = self.marks.iter().map(|mark| mark.moved(start)).collect();
        function.raw(before).raw(self.body).raw(after);
        Ok(Emitted {
            params: self.locals.params,
            results,
            function,
            unlikely,
            marks,
        })
    }
}
