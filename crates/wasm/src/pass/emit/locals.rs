//! Local variables of an emitted function.

use std::collections::HashMap;

use wasmparser::ValType;

use super::{Entry, parameters};
use crate::pass::plan::Plan;
use crate::pass::record::Field;

/// Local variables of the emitted function.
pub(super) struct Locals {
    index: HashMap<Key, u32>,
    pub(super) params: Vec<ValType>,
    pub(super) declared: Vec<ValType>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Field(Field, ValType),
    /// The call depth that was left when the function was entered.
    Depth,
    /// What is left inside of it.
    DepthInside,
    /// Where the record being written begins, at which operator, and its size.
    Start,
    Operator,
    Size,
    /// What a helper returned.
    Done(ValType),
}

impl Locals {
    pub(super) fn new(plan: &Plan<'_>, entry: Entry) -> Locals {
        let params = parameters(plan, entry);
        let index = params
            .iter()
            .enumerate()
            .map(|(at, &(field, ty))| (Key::Field(field, ty), at as u32));
        let mut locals = Locals {
            index: index.collect(),
            params: params.iter().map(|&(_, ty)| ty).collect(),
            declared: Vec::new(),
        };
        if entry == Entry::Start {
            for (at, &ty) in plan.locals.iter().enumerate() {
                locals.get(Key::Field(Field::Local(at as u32), ty), ty);
            }
        }
        locals
    }

    pub(super) fn get(&mut self, key: Key, ty: ValType) -> u32 {
        let next = self.params.len() + self.declared.len();
        *self.index.entry(key).or_insert_with(|| {
            self.declared.push(ty);
            next as u32
        })
    }
}
