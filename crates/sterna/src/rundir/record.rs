//! What the run directory says of a process: [`Record`].

use std::process;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sterna_process::{ProcessId, ProgramId, Tag};

use crate::show;

/// A process as its entry describes it. What changes while it runs is asked of its host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its id.
    pub(crate) id: ProcessId,
    /// What its user calls it. Escape it before printing.
    pub(crate) name: String,
    /// Its host's process id.
    pub(crate) pid: u32,
    /// Its kind.
    pub(crate) kind: Tag,
    /// Its program.
    pub(crate) program: ProgramId,
    /// The file its program came from. Escape it before printing.
    pub(crate) file: String,
    /// Since when it runs under this host, in milliseconds since 1970.
    pub(crate) hosted_ms: u64,
}

impl Record {
    /// The record of a process that starts under this host now.
    pub(crate) fn new(
        id: ProcessId,
        name: &str,
        kind: Tag,
        program: ProgramId,
        file: &str,
    ) -> Self {
        Self {
            id,
            name: name.to_owned(),
            pid: process::id(),
            kind,
            program,
            file: file.to_owned(),
            hosted_ms: show::since_epoch_ms(SystemTime::now()),
        }
    }

    /// For how long it has been running under this host.
    pub(crate) fn hosted_for(&self) -> Duration {
        let now = show::since_epoch_ms(SystemTime::now());
        Duration::from_millis(now.saturating_sub(self.hosted_ms))
    }
}
