//! [`detach`]: one directory as a *detached* mount, to be handed to a process that may see that directory and nothing else.
//!
//! What is opened through such a descriptor lies in the directory: at its root `..` stays, and set-user-id programs and
//! device nodes do not work. It stands for the directory itself, so changes are seen on both sides. It needs no place in
//! any file system's tree, and goes with its last descriptor. What is mounted further below comes along as it is at that
//! moment: who hands over `/` hands over `/proc` and `/dev`, too, if without devices.
//!
//! Whoever asks passes a descriptor that the *user* opened; no path is opened with more rights than the user's:
//!
//! | who | how |
//! |---|---|
//! | with `CAP_SYS_ADMIN` | [`detach`]: the descriptor's own mount is cloned, and no path is looked at |
//! | without | [`detach_with_helper`]: a process with the same rights enters a user and a mount namespace, in which it may clone; there it opens the directory again by path, and compares device and inode, so that a path that somebody has changed leads to an error and never to another directory |
//!
//! Sources: open_tree(2), mount_setattr(2) (Linux 5.12), user_namespaces(7).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use rustix::thread::UnshareFlags;
use thiserror::Error;

use crate::messages::{self, ReceiveError};
use crate::mounts;
use crate::spawn::{Spawn, SpawnError, inherited};

#[cfg(test)]
mod tests;

/// How long a helper may take: it makes a few system calls.
const HELPER_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest account of a failure by a helper, in bytes.
const ANSWER_BYTES_MAX: usize = 1024;

/// Names of the helper's descriptors.
const DIRECTORY: &str = "TREE_DIRECTORY";
const ANSWER: &str = "TREE_ANSWER";

/// The helper's variable that says what may be done in the tree.
const ACCESS: &str = "STERNA_TREE_ACCESS";

/// The byte that a helper sends beside the tree.
const DONE: u8 = b'+';

/// What may be done in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Looking and reading.
    Read,
    /// What the user may.
    Change,
}

/// Why there is no detached mount of a directory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DetachError {
    /// This process may not mount: [`detach_with_helper`] may do.
    #[error("mounting needs privilege (CAP_SYS_ADMIN)")]
    Privilege(#[source] io::Error),
    /// Not a directory, or one of another mount namespace, or the kernel is older than 5.12.
    #[error("detaching a directory failed ({step})")]
    Os {
        /// What was done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The helper did not start.
    #[error("the helper that detaches directories did not start")]
    Helper(#[from] SpawnError),
    /// The helper said why not: no user namespaces, or the path leads to another directory by now.
    #[error("the helper could not detach the directory: {0}")]
    Refused(String),
    /// The helper ended without a word, or said nothing in time.
    #[error("the helper that detaches directories gave no answer")]
    NoAnswer(#[source] io::Error),
}

/// A detached mount of `directory` and of what is mounted below it. A directory on a read-only mount stays read-only.
///
/// # Errors
/// [`DetachError::Privilege`] without `CAP_SYS_ADMIN` in the present mount namespace; see there for the others.
pub fn detach(directory: BorrowedFd<'_>, access: Access) -> Result<OwnedFd, DetachError> {
    let os = |step| move |source: io::Error| DetachError::Os { step, source };
    let stat = rustix::fs::fstat(directory).map_err(|error| os("fstat")(error.into()))?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Err(os("fstat")(io::ErrorKind::NotADirectory.into()));
    }
    let tree = mounts::clone_tree(directory).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM) => DetachError::Privilege(source),
        _ => os("open_tree")(source),
    })?;
    let read_only =
        access == Access::Read || mounts::is_read_only(directory).map_err(os("fstatvfs"))?;
    mounts::restrict(tree.as_fd(), read_only).map_err(os("mount_setattr"))?;
    Ok(tree)
}

/// The same without privilege, by `helper`: this program, with the arguments that make it call [`run_helper`].
///
/// # Errors
/// User namespaces are forbidden on this machine, or the directory cannot be found by its path.
pub fn detach_with_helper(
    helper: Spawn,
    directory: BorrowedFd<'_>,
    access: Access,
) -> Result<OwnedFd, DetachError> {
    let no_answer = |error: io::Error| DetachError::NoAnswer(error);
    let (here, there) = UnixStream::pair().map_err(no_answer)?;
    here.set_read_timeout(Some(HELPER_TIME_MAX))
        .map_err(no_answer)?;
    let given = directory.try_clone_to_owned().map_err(no_answer)?;
    let access = match access {
        Access::Read => "read",
        Access::Change => "change",
    };
    // Killed and reaped when it goes out of scope.
    let _helper = helper
        .env(ACCESS, access)
        .descriptor(DIRECTORY, given)
        .descriptor(ANSWER, there.into())
        .die_with_this_thread()
        .start()?;
    let mut answer = [0; ANSWER_BYTES_MAX];
    let mut trees = Vec::new();
    let count = messages::receive(&here, &mut answer, &mut trees).map_err(|error| match error {
        ReceiveError::Os(error) => no_answer(error),
        other => no_answer(io::Error::other(other)),
    })?;
    match (&answer[..count], trees.pop()) {
        (&[DONE], Some(tree)) => same_directory(directory, tree),
        (b"", _) => Err(no_answer(io::ErrorKind::UnexpectedEof.into())),
        (text, _) => Err(DetachError::Refused(
            String::from_utf8_lossy(text).into_owned(),
        )),
    }
}

/// What came is what was asked for.
fn same_directory(directory: BorrowedFd<'_>, tree: OwnedFd) -> Result<OwnedFd, DetachError> {
    let stat = |of: BorrowedFd<'_>| {
        rustix::fs::fstat(of)
            .map(|stat| (stat.st_dev, stat.st_ino))
            .map_err(|error| DetachError::NoAnswer(error.into()))
    };
    if stat(directory)? == stat(tree.as_fd())? {
        Ok(tree)
    } else {
        Err(DetachError::Refused("it sent another directory".into()))
    }
}

/// The helper's whole life: detaches the directory that [`detach_with_helper`] gave, sends the mount or the reason why not,
/// and ends. Call it while the process has one thread.
pub fn run_helper() -> ExitCode {
    let Ok(answer) = inherited(ANSWER) else {
        return ExitCode::FAILURE;
    };
    let answer = UnixStream::from(answer);
    let sent = match detach_in_namespaces() {
        Ok(tree) => messages::send(&answer, &[DONE], &[tree.as_fd()]),
        Err(mut why) => {
            // Longer ones have a path in them.
            let end = why.floor_char_boundary(ANSWER_BYTES_MAX);
            why.truncate(end);
            messages::send(&answer, why.as_bytes(), &[])
        }
    };
    match sent {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn detach_in_namespaces() -> Result<OwnedFd, String> {
    let directory = inherited(DIRECTORY).map_err(|error| error.to_string())?;
    let access = match std::env::var(ACCESS).as_deref() {
        Ok("read") => Access::Read,
        Ok("change") => Access::Change,
        _ => return Err(format!("{ACCESS} is not set")),
    };
    mounts::new_namespaces(UnshareFlags::NEWNS).map_err(|(step, error)| {
        format!("this machine forbids user namespaces to this user ({step}: {error})")
    })?;
    let again = mounts::reopen(directory.as_fd()).map_err(|error| error.to_string())?;
    // The mount that was given may forbid more than the one found by path.
    let read_only = mounts::is_read_only(directory.as_fd()).map_err(|error| error.to_string())?;
    let access = if read_only { Access::Read } else { access };
    detach(again.as_fd(), access).map_err(|error| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}
