//! Cancellation: a thread that is asked to end does so at its next blocking call, by unwinding, so that destructors
//! run. Only calls of this package that may block look; a thread that computes is not interrupted.

use std::panic::resume_unwind;

use crate::here;

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
    if here::with_record(|record| record.cancel_pending()) {
        raise();
    }
}

/// Whether somebody asked the running thread to end.
pub fn is_cancelled() -> bool {
    here::with_record(|record| record.cancel_requested())
}

/// Unwinds the running thread. No panic message: nothing went wrong.
pub(crate) fn raise() -> ! {
    here::with_record(|record| record.cancel_raised());
    resume_unwind(Box::new(Cancelled));
}
