//! How processes ended, for people and for exit codes.

use sterna_node::message::{Ending, How};
use sterna_process::{Exit, Plain};

use crate::host::{EXIT_FROZEN, EXIT_KILLED, EXIT_TRAPPED};

/// How a process came to run nowhere, as a predicate: "ended with code 3".
pub(crate) fn ending(ending: Option<&Ending>) -> String {
    match ending.map(|ending| &ending.how) {
        Some(How::Exited(Exit::Killed)) => "was killed".to_owned(),
        Some(How::Exited(Exit::Trapped { what, .. })) => format!("trapped: {}", Plain(what)),
        Some(How::Exited(exit)) => exit.to_string(),
        Some(How::Unseen) | None => "has ended".to_owned(),
        Some(How::Lost { reason }) if !reason.is_empty() => format!("was lost: {}", Plain(reason)),
        Some(How::Lost { .. }) => "was lost with its runner".to_owned(),
        Some(How::Frozen { file }) if file.is_empty() => "is frozen in a file".to_owned(),
        Some(How::Frozen { file }) => format!("is frozen in {}", Plain(file)),
    }
}

/// The code that a command ends with which waited for it.
pub(crate) fn exit_code(ending: Option<&Ending>) -> u8 {
    match ending.map(|ending| &ending.how) {
        Some(How::Exited(Exit::Code(code))) => (*code).try_into().unwrap_or(u8::MAX),
        Some(How::Exited(Exit::Trapped { .. })) => EXIT_TRAPPED,
        Some(How::Frozen { .. }) => EXIT_FROZEN,
        _ => EXIT_KILLED,
    }
}
