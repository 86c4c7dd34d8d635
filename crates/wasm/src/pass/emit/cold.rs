//! Cold code: saves the frame of the point at which a function was stopped.
//!
//! Each point has code of its own for what only it saves, then goes on in code that it has in common with
//! others. The beginnings of records form a tree, by what lies in common: each node's code saves its part and
//! goes on in its parent's.

use std::collections::HashMap;

use wasm_encoder::{BlockType, Encode, Instruction};
use wasmparser::ValType;

use super::Emitter;
use super::locals::Key;
use crate::pass::encoding::{at, constant};
use crate::pass::plan::Plan;
use crate::pass::record::{self, Field};
use crate::pass::routines::{Helper, Kept};

/// A part of a record that several points have in common.
struct Part {
    parent: usize,
    /// How many points save it.
    count: usize,
    /// The local that it adds to its parent's, and where that lies in a record.
    local: u32,
    offset: u64,
    /// The same code saves it as the one part that follows it.
    joined: bool,
}

/// The parts that the records of some points begin with, parents first.
struct Parts {
    parts: Vec<Part>,
    /// For each of the points the last of its parts.
    last: Vec<usize>,
}

impl Parts {
    fn of(plan: &Plan<'_>, points: &[usize]) -> Parts {
        let mut parts = vec![Part {
            parent: 0,
            count: points.len(),
            local: 0,
            offset: u64::from(record::HEAD),
            joined: false,
        }];
        let mut known: HashMap<(usize, u32), usize> = HashMap::new();
        let mut last = Vec::new();
        for &op in points {
            let point = plan.point_at(op).expect("cold code is written for points");
            let (mut here, mut offset) = (0, u64::from(record::HEAD));
            for (&rank, &local) in point.shared.iter().zip(&point.locals) {
                let next = parts.len();
                let parent = here;
                here = *known.entry((parent, rank)).or_insert(next);
                if here == next {
                    parts.push(Part {
                        parent,
                        count: 0,
                        local,
                        offset,
                        joined: false,
                    });
                }
                parts[here].count += 1;
                offset += u64::from(record::width(plan.locals[local as usize]));
            }
            last.push(here);
        }
        for at in 1..parts.len() {
            let parent = parts[at].parent;
            parts[parent].joined |= parent != 0 && parts[at].count == parts[parent].count;
        }
        // What one point alone saves is not worth a jump.
        for here in &mut last {
            while *here != 0 && parts[*here].count == 1 {
                *here = parts[*here].parent;
            }
        }
        Parts { parts, last }
    }

    /// Those with code of their own, children first.
    fn written(&self) -> impl Iterator<Item = usize> + '_ {
        let is_written = |&at: &usize| self.parts[at].count > 1 && !self.parts[at].joined;
        (1..self.parts.len()).rev().filter(is_written)
    }

    /// How many fields of a record come before those that are not in common with others, given the
    /// last part.
    fn depth(&self, mut part: usize) -> usize {
        let mut depth = 0;
        while part != 0 {
            depth += 1;
            part = self.parts[part].parent;
        }
        depth
    }
}

impl Emitter<'_, '_> {
    /// Writes the cold code of the points at `cold`, in this order: `before` is what opens the blocks that
    /// their branches leave, `after` what comes after the body.
    pub(super) fn cold_code(&mut self, cold: &[usize], before: &mut Vec<u8>, after: &mut Vec<u8>) {
        let parts = Parts::of(self.plan, cold);
        let written: Vec<usize> = parts.written().collect();
        // How many blocks are left by whoever goes to a part's code from within all of them.
        let mut label: HashMap<usize, usize> = written.iter().copied().zip(cold.len()..).collect();
        label.insert(0, cold.len() + written.len());
        for _ in 0..=label[&0] {
            Instruction::Block(BlockType::Empty).encode(before);
        }
        for (at, &op) in cold.iter().enumerate() {
            Instruction::End.encode(after);
            self.save(op, parts.depth(parts.last[at]), after);
            Instruction::Br((label[&parts.last[at]] - at - 1) as u32).encode(after);
        }
        for (at, part) in (cold.len()..).zip(written) {
            Instruction::End.encode(after);
            self.start(after);
            let mut next = part;
            loop {
                let Part { local, offset, .. } = parts.parts[next];
                let ty = self.plan.locals[local as usize];
                self.save_field(Field::Local(local), ty, offset, after);
                next = parts.parts[next].parent;
                if !parts.parts[next].joined {
                    break;
                }
            }
            Instruction::Br((label[&next] - at - 1) as u32).encode(after);
        }
        Instruction::End.encode(after);
        self.unwound(after);
    }

    /// Writes the part of the record of the point at `op` that comes after its first `shared` fields.
    fn save(&mut self, op: usize, shared: usize, out: &mut Vec<u8>) {
        let plan = self.plan;
        let point = plan.point_at(op).expect("cold code is written for points");
        let number = self.locals.get(Key::Operator, ValType::I32);
        let size = self.locals.get(Key::Size, ValType::I32);
        if record::fields(point, &plan.locals).count() > shared {
            self.start(out);
        }
        let mut offset = u64::from(record::HEAD);
        for (index, (field, ty)) in record::fields(point, &plan.locals).enumerate() {
            if index >= shared {
                self.save_field(field, ty, offset, out);
            }
            offset += u64::from(record::width(ty));
        }
        for (local, value) in [(number, op as i32), (size, offset as i32)] {
            Instruction::I32Const(value).encode(out);
            Instruction::LocalSet(local).encode(out);
        }
    }

    /// Finds out where the record begins. Once in each piece of code: to bring it from one to the next would
    /// take a use in each, too.
    fn start(&mut self, out: &mut Vec<u8>) {
        let control = self.target.control();
        let start = self.locals.get(Key::Start, ValType::I32);
        Instruction::I32Const(0).encode(out);
        Instruction::I32Load(at(record::END, control)).encode(out);
        Instruction::LocalSet(start).encode(out);
    }

    fn save_field(&mut self, field: Field, ty: ValType, offset: u64, out: &mut Vec<u8>) {
        let control = self.target.control();
        let start = self.locals.get(Key::Start, ValType::I32);
        let local = self.field(field, ty);
        Instruction::LocalGet(start).encode(out);
        Instruction::LocalGet(local).encode(out);
        let to = at(offset, control);
        match ty {
            ValType::I32 => Instruction::I32Store(to).encode(out),
            ValType::I64 => Instruction::I64Store(to).encode(out),
            ValType::F32 => Instruction::F32Store(to).encode(out),
            ValType::F64 => Instruction::F64Store(to).encode(out),
            ValType::V128 => Instruction::V128Store(to).encode(out),
            ValType::Ref(ty) => {
                let kept = if ty.is_func_ref() {
                    Kept::Functions
                } else {
                    Kept::Externals
                };
                Instruction::Call(self.target.helper(Helper::Keep(kept))).encode(out);
                Instruction::I32Store(to).encode(out);
            }
        }
    }

    /// The rest of every record, where the next one begins, and results that nobody reads.
    fn unwound(&mut self, out: &mut Vec<u8>) {
        let control = self.target.control();
        let start = self.locals.get(Key::Start, ValType::I32);
        let number = self.locals.get(Key::Operator, ValType::I32);
        let size = self.locals.get(Key::Size, ValType::I32);
        self.start(out);
        let store = |offset| Instruction::I32Store(at(offset, control));
        let rest = [
            Instruction::LocalGet(start),
            Instruction::LocalGet(number),
            store(record::OPERATOR),
            Instruction::LocalGet(start),
            Instruction::I32Const(self.plan.function as i32),
            store(record::FUNCTION),
            Instruction::I32Const(0),
            Instruction::LocalGet(start),
            Instruction::LocalGet(size),
            Instruction::I32Add,
            store(record::END),
        ];
        rest.iter().for_each(|instruction| instruction.encode(out));
        for &ty in &self.plan.results {
            constant(ty, 0).encode(out);
        }
    }
}
