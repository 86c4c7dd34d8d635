//! Points: the looks at the word, and what is done again after a stop.

use wasm_encoder::{BlockType, Instruction};
use wasmparser::{Operator, ValType};

use super::Emitter;
use super::locals::Key;
use crate::pass::InstrumentError;
use crate::pass::encoding::constant;
use crate::pass::plan::{Point, PointKind};
use crate::pass::record::Field;
use crate::pass::routines::Helper;

impl<'a> Emitter<'_, 'a> {
    pub(super) fn stoppable(
        &mut self,
        index: usize,
        operator: &Operator<'a>,
        point: &Point,
    ) -> Result<(), InstrumentError> {
        match point.kind {
            PointKind::Loop { .. } => unreachable!("a loop header is written by begin_loop"),
            PointKind::TailCall => {
                self.poll(index);
                self.plain(operator)
            }
            PointKind::Bulk => self.bulk(index, operator, point),
            PointKind::Call | PointKind::Import => {
                let start = self.body.len();
                match operator {
                    Operator::ReturnCall { function_index } => {
                        self.reencode(&Operator::Call {
                            function_index: *function_index,
                        })?;
                    }
                    _ => self.reencode(operator)?,
                }
                // Who waits in the host is cancelled when it is stopped, and calls again.
                self.mark(start, index, point.kind == PointKind::Call);
                let results: Vec<u32> = (0u32..)
                    .zip(&point.results)
                    .map(|(at, &ty)| self.field(Field::Result(at), ty))
                    .collect();
                self.spill(&results);
                if matches!(operator, Operator::ReturnCall { .. }) {
                    self.poll(index);
                    self.leave();
                } else {
                    // Only then: the first result may be kept where the first argument is, which a call
                    // that was cancelled needs again.
                    self.poll(index);
                    self.keep(self.plan.ops[index].produced);
                }
                Ok(())
            }
        }
    }

    /// Loads the word and leaves for the cold code of the point at `op` if it is set.
    pub(super) fn poll(&mut self, op: usize) {
        let control = self.target.control();
        let start = self.body.len();
        self.target.look().encode(control, &mut self.body);
        self.branch_to_cold(op, 0);
        let point = self.plan.point_at(op).expect("only points are polled");
        let after = matches!(point.kind, PointKind::Call | PointKind::Import);
        self.mark(start, op, after);
    }

    /// As [`Emitter::poll`], at the header of a loop.
    pub(super) fn poll_header(&mut self, op: usize) {
        let control = self.target.control();
        // The first copy is for the points that are no loops.
        self.headers += 1;
        let start = self.body.len();
        self.target
            .look()
            .encode_at_header(control, self.headers, &mut self.body);
        self.branch_to_cold(op, 0);
        self.mark(start, op, false);
    }

    /// `nested`: labels opened since, that `depth` does not count.
    pub(super) fn branch_to_cold(&mut self, op: usize, nested: u32) {
        let label = self.depth + nested + self.cold.len() as u32;
        self.cold.push(op);
        self.branches.push(self.body.len());
        self.put(&Instruction::BrIf(label));
    }

    /// A fill or copy: as it is if it is short, else in portions with a look at the word between.
    pub(super) fn bulk(
        &mut self,
        index: usize,
        operator: &Operator<'a>,
        point: &Point,
    ) -> Result<(), InstrumentError> {
        let first = point.stack.len() - 3;
        let types = [
            point.stack[first],
            point.stack[first + 1],
            point.stack[first + 2],
        ];
        let mut operands = [0; 3];
        for (at, local) in operands.iter_mut().enumerate() {
            *local = self.field(Field::Stack((first + at) as u32), types[at]);
        }
        let (helper, moved) = match *operator {
            Operator::MemoryFill { mem } => (Helper::Fill { memory: mem }, &operands[..1]),
            Operator::MemoryCopy { dst_mem, src_mem } => (
                Helper::Copy {
                    to: dst_mem,
                    from: src_mem,
                },
                &operands[..2],
            ),
            _ => unreachable!("only fills and copies are done in portions"),
        };
        let length = operands[2];
        operands.iter().for_each(|_| self.put(&Instruction::Drop));
        self.put(&Instruction::LocalGet(length));
        self.put(&constant(types[2], u64::from(self.target.look().portion())));
        self.put(&if types[2] == ValType::I64 {
            Instruction::I64GtU
        } else {
            Instruction::I32GtU
        });
        self.put(&Instruction::If(BlockType::Empty));
        operands
            .iter()
            .for_each(|&local| self.put(&Instruction::LocalGet(local)));
        let start = self.body.len();
        self.call_helper(helper);
        self.mark(start, index, false);
        let done = self.locals.get(Key::Done(types[2]), types[2]);
        self.put(&Instruction::LocalSet(done));
        self.advance(&operands, &types, moved, done);
        self.put(&Instruction::LocalGet(length));
        if types[2] == ValType::I64 {
            self.put(&Instruction::I64Eqz);
            self.put(&Instruction::I32Eqz);
        }
        self.branch_to_cold(index, 1);
        self.put(&Instruction::Else);
        operands
            .iter()
            .for_each(|&local| self.put(&Instruction::LocalGet(local)));
        self.reencode(operator)?;
        self.put(&Instruction::End);
        Ok(())
    }

    /// Takes `done` bytes off the front, or off the back where a copy moves upwards (its helper
    /// begins at the back then, as overlapping areas need it).
    pub(super) fn advance(
        &mut self,
        operands: &[u32; 3],
        types: &[ValType; 3],
        moved: &[u32],
        done: u32,
    ) {
        if moved.len() == 2 {
            for (&local, &ty) in moved.iter().zip(types) {
                self.put(&Instruction::LocalGet(local));
                if ty != ValType::I64 {
                    self.put(&Instruction::I64ExtendI32U);
                }
            }
            self.put(&Instruction::I64LeU);
            self.put(&Instruction::If(BlockType::Empty));
        }
        for (&local, &ty) in moved.iter().zip(types) {
            self.put(&Instruction::LocalGet(local));
            self.put(&Instruction::LocalGet(done));
            if ty == ValType::I64 && types[2] != ValType::I64 {
                self.put(&Instruction::I64ExtendI32U);
            }
            self.put(&if ty == ValType::I64 {
                Instruction::I64Add
            } else {
                Instruction::I32Add
            });
            self.put(&Instruction::LocalSet(local));
        }
        if moved.len() == 2 {
            self.put(&Instruction::End);
        }
        self.put(&Instruction::LocalGet(operands[2]));
        self.put(&Instruction::LocalGet(done));
        self.put(&if types[2] == ValType::I64 {
            Instruction::I64Sub
        } else {
            Instruction::I32Sub
        });
        self.put(&Instruction::LocalSet(operands[2]));
    }
}
