//! How processes end whose guests fail.

use sterna_process::Exit;
use wasmtime::Trap;

use crate::describe;
use crate::guest::Guest;
use crate::host::{KilledInCall, ProcessExit};
use crate::machine::MachineError;

/// How a process ended whose movable guest failed.
pub(crate) fn exit_of(guest: &mut Guest, error: MachineError) -> Exit {
    let MachineError::Guest(error) = error else {
        return Exit::Trapped {
            what: describe::chain(&error),
            back_trace: String::new(),
        };
    };
    // Its own counter ends it before the engine would.
    let unreachable = error.downcast_ref() == Some(&Trap::UnreachableCodeReached);
    let what = (unreachable && guest.is_out_of_depth()).then(|| Trap::StackOverflow);
    let killed = guest.is_killed();
    let back_trace = || describe::trap_back_trace(guest, &error);
    exit_for(&error, what, killed, back_trace)
}

/// How a process ended whose guest's call failed with `error`, which means `trap` if that is given.
pub(crate) fn exit_for(
    error: &wasmtime::Error,
    trap: Option<Trap>,
    killed: bool,
    back_trace: impl FnOnce() -> String,
) -> Exit {
    if killed || error.is::<KilledInCall>() {
        return Exit::Killed;
    }
    if let Some(ProcessExit(code)) = error.downcast_ref() {
        return Exit::Code(*code);
    }
    let what = match trap.as_ref().or_else(|| error.downcast_ref()) {
        Some(trap) => trap
            .to_string()
            .trim_start_matches("wasm trap: ")
            .to_owned(),
        None if error.is::<wasmtime::ThrownException>() => "uncaught exception".into(),
        // Without the engine's own back-trace, which is its context.
        None => error.root_cause().to_string(),
    };
    Exit::Trapped {
        what,
        back_trace: back_trace(),
    }
}
