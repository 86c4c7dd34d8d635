//! Where pieces of logs ended that were read: [`Marks`]. The next piece of each begins there, and is found at once.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sterna_process::{Epoch, ProcessId};
use sterna_runner::log::Mark;

use crate::limits::LOG_MARKS_MAX;

/// Places in logs, the last ones. A log says itself whether one still is a place in it.
#[derive(Debug, Default)]
pub(in crate::hosting) struct Marks(Mutex<VecDeque<(Part, Mark)>>);

/// The log of a process from an epoch on.
type Part = (ProcessId, Epoch);

impl Marks {
    /// The nearest place before a byte of output.
    pub(super) fn before(&self, part: Part, after: u64) -> Option<Mark> {
        let marks = self.lock();
        let fit = |(of, mark): &&(Part, Mark)| *of == part && mark.offset() <= after;
        let nearest = marks
            .iter()
            .filter(fit)
            .max_by_key(|(_, mark)| mark.offset());
        nearest.map(|(_, mark)| *mark)
    }

    /// Somebody will go on from here. Of too many, the oldest is forgotten.
    pub(super) fn note(&self, part: Part, mark: Option<Mark>) {
        let Some(mark) = mark else {
            return;
        };
        let mut marks = self.lock();
        marks.retain(|(of, known)| (*of, known.offset()) != (part, mark.offset()));
        if marks.len() >= LOG_MARKS_MAX {
            marks.pop_front();
        }
        marks.push_back((part, mark));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Part, Mark)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
