//! Cancellation: a thread that is asked to end does so at its next blocking call, by unwinding, so that destructors
//! run. Only calls of this package that may block look; a thread that computes is not interrupted.

use std::panic::resume_unwind;

use crate::here;
use crate::record::Record;

/// What `join` returns as the error of a thread that was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl std::fmt::Display for Cancelled {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the thread was cancelled")
    }
}

impl std::error::Error for Cancelled {}

/// Ends the running thread here if it was cancelled. For loops that compute long and call nothing that blocks.
pub fn checkpoint() {
    Ending::default().check();
}

/// Whether somebody asked the running thread to end.
pub fn is_cancelled() -> bool {
    here::with_record(|record| record.cancel_requested())
}

/// Whether the running thread may end here, as far as one call that blocks has learned: not while it unwinds, since that
/// would end the process.
///
/// The standard library says only whether any thread of this kernel thread unwinds. So what is true when a call begins
/// stays true while it waits, whatever siblings do meanwhile. If a sibling is blocked inside of a destructor even when
/// it begins, nothing is known before that one has gone on, and the worker lets it look again then.
#[derive(Default)]
pub(crate) struct Ending {
    may: bool,
}

impl Ending {
    /// Looks again whether the thread should end now.
    #[inline]
    pub(crate) fn is_due(&mut self, record: &Record) -> bool {
        self.may = self.may || !std::thread::panicking();
        self.may && record.cancel_is_new()
    }

    /// The same; ends it.
    #[inline]
    pub(crate) fn check(&mut self) {
        if here::with_record(|record| self.is_due(record)) {
            raise();
        }
    }
}

/// Unwinds the running thread. No panic message: nothing went wrong.
pub(crate) fn raise() -> ! {
    here::with_record(|record| record.cancel_raised());
    resume_unwind(Box::new(Cancelled));
}
