//! [`Outer`]: the frames of a running guest that are not on its native stack, since it was stopped and goes on frame by
//! frame: for whoever looks where it stands.

use std::sync::{Mutex, PoisonError};

use crate::pass::Spot;

/// Those that still wait for the one that runs, outermost first.
#[derive(Debug, Default)]
pub(crate) struct Outer(Mutex<Vec<Spot>>);

impl Outer {
    /// These wait, innermost first.
    pub(crate) fn set(&self, spots: impl DoubleEndedIterator<Item = Spot>) {
        let mut outer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outer.clear();
        outer.extend(spots.rev());
    }

    /// The innermost one goes on.
    pub(crate) fn pop(&self) {
        let mut outer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outer.pop();
    }

    /// Those that wait, innermost first.
    pub(crate) fn spots(&self) -> Vec<Spot> {
        let outer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outer.iter().rev().copied().collect()
    }
}
