//! The beginning of a body: of the whole function, or of a continuation in the middle of it.

use wasm_encoder::Instruction;
use wasmparser::Operator;

use super::{Emitter, Entry, Open};
use crate::pass::InstrumentError;
use crate::pass::plan::{FrameKind, Point};
use crate::pass::record::Field;

impl Emitter<'_, '_> {
    /// Opens the frames around the entry point; returns the first operator to write.
    pub(super) fn enter(&mut self) -> Result<usize, InstrumentError> {
        let (op, after) = match self.entry {
            Entry::Start => {
                if let Some(charge) = self.target.charge(self.plan.function) {
                    self.charge(charge);
                }
                return Ok(0);
            }
            Entry::At(op) => (op, false),
            Entry::After(op) => (op, true),
        };
        let mut frames = Vec::new();
        let mut frame = self.plan.ops[op].frame;
        while frame != 0 {
            frames.push(frame);
            frame = self.plan.frames[frame as usize].parent;
        }
        let point = self
            .plan
            .point_at(op)
            .expect("continuations are asked for at points");
        let below = point.stack.len() - if after { point.arguments } else { 0 };
        let mut pushed = 0;
        for &frame in frames.iter().rev() {
            let height = self.plan.frames[frame as usize].height as usize;
            self.push_operands(point, pushed, height);
            pushed = height;
            self.open_around(frame);
        }
        self.push_operands(point, pushed, below);
        if !after {
            return Ok(op);
        }
        for (index, &ty) in point.results.iter().enumerate() {
            let local = self.field(Field::Result(index as u32), ty);
            self.put(&Instruction::LocalGet(local));
        }
        if matches!(self.plan.ops[op].operator, Operator::ReturnCall { .. }) {
            self.leave();
        } else {
            self.keep(self.plan.ops[op].produced);
        }
        Ok(op + 1)
    }

    fn push_operands(&mut self, point: &Point, from: usize, to: usize) {
        for height in from..to {
            let local = self.field(Field::Stack(height as u32), point.stack[height]);
            self.put(&Instruction::LocalGet(local));
        }
    }

    /// Opens a frame that lies around the entry point. A loop becomes two blocks: `$past`, which the
    /// rest of its body falls out of, and `$again`, which branches to its header go to.
    fn open_around(&mut self, frame: u32) {
        let plan = self.plan;
        let of = &plan.frames[frame as usize];
        self.begin_block(&[], &of.results);
        if of.kind == FrameKind::Loop {
            self.begin_block(&[], &of.params);
        }
        self.open.push(Open {
            frame,
            label: self.depth - 1,
            entered: true,
            targeted: false,
            then_live: false,
        });
    }
}
