//! Asks something of a process's host: [`ask`].

use std::error::Error;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use sterna_process::Plain;

use crate::protocol::{self, Reply, Request};
use crate::rundir::{Found, Record, RunDirectory};

/// Longest wait for the next sign of a host that works on a request.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait when many processes are asked.
pub(crate) const PATIENCE_IN_LISTS: Duration = Duration::from_millis(1500);

/// Asks something of a process that was found, and shows progress through `progress` (bytes, of how many).
pub(crate) fn ask(
    found: &Found,
    request: &Request,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Reply> {
    let Found { directory, record } = found;
    ask_within(directory, record, request, PATIENCE, progress)
        .with_context(|| format!("process {} ({})", record.id.short(), Plain(&record.name)))
}

/// As [`ask`], waiting at most `patience` for each sign.
pub(crate) fn ask_within(
    directory: &RunDirectory,
    record: &Record,
    request: &Request,
    patience: Duration,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Reply> {
    if is_stopped(record.pid) {
        return Err(stopped(record));
    }
    let explained = |error: anyhow::Error| explain(error, record, patience);
    let mut stream = directory
        .connect(record)
        .map_err(|error| explained(error.into()))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    protocol::check_peer(&stream)?;
    protocol::send(&mut stream, request).map_err(explained)?;
    loop {
        match protocol::receive(&mut stream).map_err(explained)? {
            Some(Reply::Progress { done, total }) => progress(done, total),
            Some(Reply::Failed { message }) => bail!("{message}"),
            Some(reply) => return Ok(reply),
            None => {
                return Err(explained(
                    io::Error::from(ErrorKind::ConnectionReset).into(),
                ));
            }
        }
    }
}

/// The answer that was not expected; a fault of the program.
pub(crate) fn unexpected(reply: &Reply) -> anyhow::Error {
    anyhow!("the host gave an answer to another question: {reply:?}")
}

/// The process was found, and was gone before it could answer.
#[derive(Debug)]
struct JustEnded;

impl fmt::Display for JustEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it has just ended")
    }
}

impl Error for JustEnded {}

/// Whether an error of [`ask`] says that the process is gone.
pub(crate) fn has_ended(error: &anyhow::Error) -> bool {
    error.is::<JustEnded>()
}

/// Says what an error on the connection means for the process.
fn explain(error: anyhow::Error, record: &Record, patience: Duration) -> anyhow::Error {
    let Some(kind) = error.downcast_ref::<io::Error>().map(io::Error::kind) else {
        return error;
    };
    match kind {
        ErrorKind::NotFound
        | ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => JustEnded.into(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut if is_stopped(record.pid) => stopped(record),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            anyhow!(
                "its host (pid {}) did not answer for {patience:?}",
                record.pid
            )
        }
        _ => error,
    }
}

fn stopped(record: &Record) -> anyhow::Error {
    anyhow!(
        "its host is stopped (Ctrl-Z?): continue it with `fg`, or with `kill -CONT {}`",
        record.pid
    )
}

/// Whether the kernel has stopped a process on a signal: proc_pid_stat(5).
pub(crate) fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    matches!(state, Some('T' | 't'))
}
