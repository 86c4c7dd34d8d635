//! What a node needs of whoever wires it: programs made ready, runners started, directories detached,
//! terminals.
//!
//! A node knows no kind of process and compiles nothing. The [`Workshop`] does, in builders; mostly it is a
//! [`Manager`](crate::manager::Manager).

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use sterna_process::{ProgramId, Tag, Waypoint};
use sterna_runner::message::WindowSize;

use crate::trees::{self, TreeDeed, TreeDone};

/// Does what a node itself may not or cannot. All methods may block, and are called on threads where that does no harm.
pub trait Workshop: Send + Sync + fmt::Debug {
    /// The kinds of processes that its runners host.
    fn kinds(&self) -> Vec<Tag>;

    /// Starts a runner, which will listen on a Unix stream socket that is bound already, and writes what it has to say of
    /// itself into `errors`. It outlives the node's own process. It must be the runner itself that listens: by that the
    /// kernel knows, and tells who connects, whose process is at the other end.
    ///
    /// # Errors
    /// It cannot be started.
    fn start_runner(&self, bound: OwnedFd, errors: File) -> io::Result<()>;

    /// Whether a program can be started as a process of a kind without anything being built.
    fn has(&self, kind: &Tag, program: &ProgramId) -> bool;

    /// A program's file, from its beginning. Whether it is whole is for whoever reads it to see, by its name.
    ///
    /// # Errors
    /// It is not here.
    fn module(&self, program: &ProgramId) -> Result<File, String>;

    /// Makes a program ready for processes of a kind: checks, instruments, compiles it.
    ///
    /// # Errors
    /// Text for people.
    fn add(&self, kind: &Tag, bytes: Arc<[u8]>) -> Result<(), String>;

    /// Puts what processes of a program need to go on from places where runners find it.
    ///
    /// # Errors
    /// Text for people.
    fn prepare(
        &self,
        kind: &Tag,
        program: &ProgramId,
        waypoints: &[Waypoint],
    ) -> Result<(), String>;

    /// Does, when there is nothing else to do, what will make moves of processes of a program quicker.
    fn expect_moves(&self, kind: &Tag, program: &ProgramId);

    /// A directory as a mount of its own, from which no way leads out.
    ///
    /// # Errors
    /// The machine does not allow it.
    fn detach(&self, directory: OwnedFd, read_only: bool) -> io::Result<OwnedFd>;

    /// Something with directories of users, of which the node itself may reach none.
    ///
    /// # Errors
    /// Text for people.
    fn tree(&self, deed: TreeDeed, directories: &[BorrowedFd<'_>]) -> Result<TreeDone, String> {
        let own = |directory: &BorrowedFd<'_>| directory.try_clone_to_owned();
        let directories: io::Result<Vec<OwnedFd>> = directories.iter().map(own).collect();
        trees::perform(deed, directories.map_err(|error| error.to_string())?)
    }

    /// A terminal: its master, and the end for a process. A runner may not make one itself, for it opens nothing.
    ///
    /// # Errors
    /// The machine has no more of them.
    fn terminal(&self, size: WindowSize) -> io::Result<[OwnedFd; 2]>;
}

/// A terminal, for a [`Workshop::terminal`].
///
/// # Errors
/// The machine has no more of them.
pub fn terminal(size: WindowSize) -> io::Result<[OwnedFd; 2]> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let end = ioctl_tiocgptpeer(&master, flags)?;
    // Its process waits as its kind does that, not in a call.
    fcntl_setfl(&end, fcntl_getfl(&end)? | OFlags::NONBLOCK)?;
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&end, size)?;
    Ok([master, end])
}
