//! What engines take, and what the pass takes on: beyond a limit a module is refused when it is
//! instrumented, never when it is to go on.
//!
//! The numbers of the engines are those of the JavaScript API specification (section "Implementation-defined
//! limits") as wasmparser enforces them.

use super::InstrumentError;

pub(crate) const TYPES: usize = 1_000_000;
pub(crate) const FUNCTIONS: usize = 1_000_000;
pub(crate) const IMPORTS: usize = 1_000_000;
pub(crate) const EXPORTS: usize = 1_000_000;
pub(crate) const GLOBALS: usize = 1_000_000;
pub(crate) const TABLES: usize = 100;
pub(crate) const MEMORIES: usize = 100;
/// Locals of a function, parameters included.
pub(crate) const LOCALS: usize = 50_000;
/// Parameters of a function, and so values that a function may keep where it can be entered again.
pub(crate) const PARAMS: usize = 1_000;
/// Bytes of a function's body. A continuation may be a little longer than its original.
pub(crate) const BODY: usize = 7_000_000;

/// Values that all points of one function save in all; each takes several bytes of code.
pub(crate) const SAVED: usize = 1 << 20;
/// Operands that the operators of one function put on its stack.
pub(crate) const VALUES: usize = 1 << 23;
/// Operators that all loops around any point of one function have in all: the continuations that are
/// compiled together when it is entered there.
pub(crate) const LOOP_OPERATORS: usize = 1 << 24;
/// Steps that finding out which locals are live may take, of about a nanosecond.
pub(crate) const LIVENESS_STEPS: usize = 1 << 31;
/// Words of the sets that it needs.
pub(crate) const LIVENESS_WORDS: usize = 1 << 25;
/// Loops nested in each other for which it is found out whether they need a poll.
pub(crate) const POLL_ROUNDS: usize = 32;

/// # Errors
/// [`InstrumentError::TooLarge`] if there is more of `what` than `limit`.
pub(crate) fn check(what: &'static str, is: usize, limit: usize) -> Result<(), InstrumentError> {
    if is > limit {
        let limit = limit as u64;
        return Err(InstrumentError::TooLarge { what, limit });
    }
    Ok(())
}
