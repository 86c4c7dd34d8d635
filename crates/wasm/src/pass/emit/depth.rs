//! The call depth: what a function takes off it, and gives back.

use wasm_encoder::{BlockType, Instruction};
use wasmparser::ValType;

use super::locals::Key;
use super::{Emitter, Entry};

impl Emitter<'_, '_> {
    /// Takes the function's share of the call depth, or traps if there is not enough left.
    pub(super) fn charge(&mut self, charge: u32) {
        let depth = self.target.depth();
        let before = self.locals.get(Key::Depth, ValType::I32);
        let after = self.locals.get(Key::DepthInside, ValType::I32);
        self.put(&Instruction::GlobalGet(depth));
        self.put(&Instruction::LocalTee(before));
        self.put(&Instruction::I32Const(-(charge as i32)));
        self.put(&Instruction::I32Add);
        self.put(&Instruction::LocalTee(after));
        self.put(&Instruction::GlobalSet(depth));
        self.put(&Instruction::LocalGet(after));
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::I32LtS);
        self.branches.push(self.body.len());
        self.put(&Instruction::If(BlockType::Empty));
        self.put(&Instruction::Unreachable);
        self.put(&Instruction::End);
    }

    /// Gives the function's share of the call depth back. A function entered at its beginning remembers
    /// what there was, so that counting one call does not wait for counting the one before.
    pub(super) fn refund(&mut self) {
        let Some(charge) = self.target.charge(self.plan.function) else {
            return;
        };
        let depth = self.target.depth();
        if self.entry == Entry::Start {
            let before = self.locals.get(Key::Depth, ValType::I32);
            self.put(&Instruction::LocalGet(before));
        } else {
            self.put(&Instruction::GlobalGet(depth));
            self.put(&Instruction::I32Const(charge as i32));
            self.put(&Instruction::I32Add);
        }
        self.put(&Instruction::GlobalSet(depth));
    }
}
