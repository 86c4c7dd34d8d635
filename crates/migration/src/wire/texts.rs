//! Texts for people in messages, whatever their version: cut when they are written, refused when they are too long.

use super::{TEXT_BYTES_MAX, WireError, check_length};
use crate::message::{Refusal, TargetFailure};

/// The text in a refusal.
pub(super) fn refusal_text(refusal: &mut Refusal) -> Option<&mut String> {
    match refusal {
        Refusal::Program { reason }
        | Refusal::Room { reason }
        | Refusal::NotAdmitted { reason }
        | Refusal::Unsupported { what: reason } => Some(reason),
        Refusal::Busy
        | Refusal::Held
        | Refusal::TooManyMoves
        | Refusal::TooSlow
        | Refusal::RunnerDied => None,
    }
}

/// The text in a failure.
pub(super) fn failure_text(failure: &mut TargetFailure) -> Option<&mut String> {
    match failure {
        TargetFailure::Restore { reason } => Some(reason),
        TargetFailure::Unknown
        | TargetFailure::StateLate
        | TargetFailure::RunnerDied
        | TargetFailure::Settled => None,
    }
}

/// Before it is written.
pub(super) fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
}

/// After it was read.
pub(super) fn check_text(text: Option<&mut String>) -> Result<(), WireError> {
    check_length("text", text.map_or(0, |text| text.len()), TEXT_BYTES_MAX)
}
