//! [`Enclosure`]: the empty place a runner moves into at its start, before [`Confinement`](crate::confine::Confinement): no
//! files but the directories named for it, no network, no other users, no capabilities. No privilege is needed where user
//! namespaces are allowed; root gives up what it has.
//!
//! ```text
//!   before                        inside
//!   /  (all files)                /            new, empty, read-only
//!   /var/cache/programs ───────►  /programs    the same directory, read-only, no set-user-id, no devices
//!   sockets, pipes, files         still open: what was open before is not closed
//! ```
//!
//! # What is true of descriptors, mounts and Landlock
//!
//! Found by experiment on Linux 6.18, as root and without; `tests/runner.rs` keeps it true.
//!
//! - A *directory* that was opened before and stays open is a hole: `openat(fd, "..")` climbs in the old mounts up to the
//!   old root, since the new root is not on the way. So [`Enclosure::enter`] takes the descriptors it binds and looks at
//!   all others: directories that stay open are named in its answer. Files, sockets and pipes lead nowhere.
//! - The root directory of a *detached* mount (see [`trees`](../trees/index.html)) is no hole: `..` stays there, and an
//!   absolute path or symbolic link starts at the new, empty root. Such mounts may also arrive later, over a socket.
//! - Landlock refuses everything in a detached mount, unless a rule is for that directory or one in it (rules follow
//!   inodes, not mounts); so the directory would have to be known before, for rules can only narrow. Inside an enclosure, Landlock is
//!   therefore asked for network and scopes alone, and files are left to the mounts
//!   ([`files_by_mounts`](../confine/struct.Confinement.html#method.files_by_mounts)). Without one, rules for the
//!   directories known at the start are what there is.
//! - `nosuid` and `nodev` do not keep code from being mapped. `noexec` would, so it is not set on bound directories.
//! - A descriptor's mount belongs to the mount namespace it was opened in, and can be cloned by no other; so directories
//!   to be bound are opened again, by path, and compared. Detached mounts can be bound as they are.
//! - `/proc/self/pagemap` and the like must be opened before
//!   ([`memory::keep_pagemap`](../memory/fn.keep_pagemap.html)); userfaultfd needs no file.
//! - The pagemap gives physical addresses to whoever opened it as root; so it is opened without that privilege.
//! - Supplementary groups stay, and count for access to files: who starts runners as root gives them none.
//! - Other processes of the user have their numbers still (there is no process namespace, which would take a second
//!   process): signals and tracing are for Landlock's scopes and the system calls' filter to forbid.
//!
//! Sources: user_namespaces(7), mount_namespaces(7), pivot_root(2), open_tree(2), mount_setattr(2), capabilities(7),
//! landlock(7).

#![allow(
    unsafe_code,
    reason = "looks at open descriptors by number, forks a trial, and unshare"
)]

mod trial;

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::thread::UnshareFlags;
use thiserror::Error;

use crate::capabilities::{self, Kept};
use crate::mounts;

pub use trial::{Unavailable, available};

/// How much the root may hold: directories only.
const ROOT_BYTES: u64 = 64 << 10;

/// How many directories can be bound.
pub const BOUND_MAX: usize = 16;

/// What this process is to move into.
///
/// ```no_run
/// use sterna_sys::enclosure::Enclosure;
/// # fn programs() -> std::os::fd::OwnedFd { unimplemented!() }
/// // First thing in main, before starting threads:
/// let enclosed = Enclosure::new().bind("programs", programs()).enter();
/// eprintln!("enclosure: {enclosed}");
/// let programs = enclosed.directory("programs").expect("was bound");
/// ```
#[derive(Debug, Default)]
pub struct Enclosure {
    bound: Vec<(String, OwnedFd)>,
}

/// Whether one part holds.
#[derive(Debug)]
pub enum Part {
    /// It does.
    Holds,
    /// It does not.
    Missing(Reason),
}

/// Why a part does not hold.
#[derive(Debug, Error)]
#[error("{what}: {source}")]
pub struct Reason {
    /// What was done.
    pub what: String,
    /// What the kernel said.
    pub source: io::Error,
}

/// How much holds altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All.
    Full,
    /// Something is missing.
    Partial,
    /// Nothing.
    None,
}

/// What holds. Its text is one line: the extent and, unless it is full, what is missing and why.
#[derive(Debug)]
#[must_use = "what the machine forbids is reported here only"]
pub struct Enclosed {
    /// Namespaces of its own for users, mounts, network, System V IPC and the host's name.
    pub namespaces: Part,
    /// No path leads to other files than those of the bound directories.
    pub files: Part,
    /// No directory of the outside is open.
    pub descriptors: Part,
    /// No capability, not even in its own namespaces, for good.
    pub capabilities: Part,
    bound: Vec<(String, OwnedFd)>,
}

/// Leaves the network, for one with nothing in it: for a process that keeps its files, and does not move into an
/// enclosure. Call it while the process has one thread.
///
/// # Errors
/// Not without `CAP_SYS_ADMIN`.
pub fn leave_network() -> io::Result<()> {
    // SAFETY: 1. The table of descriptors, whose sharing I/O safety rests on, is not unshared.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}

impl Enclosure {
    /// An empty one.
    pub fn new() -> Enclosure {
        Enclosure::default()
    }

    /// Gives it a directory, to be found as `/name`: read-only, but native code can be mapped from it. A descriptor of
    /// any kind, also that of a detached mount.
    ///
    /// # Panics
    /// `name` is not the name of one directory, is given twice, or is one more than [`BOUND_MAX`].
    pub fn bind(mut self, name: &str, directory: OwnedFd) -> Enclosure {
        let valid = !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != "..";
        assert!(valid, "{name:?} is no name for a directory");
        assert!(
            self.bound.iter().all(|(taken, _)| taken != name),
            "{name:?} is bound already"
        );
        assert!(self.bound.len() < BOUND_MAX, "too many directories");
        self.bound.push((name.to_owned(), directory));
        self
    }

    /// Moves this process in, for good, as far as the machine allows. Call it while the process has one thread (with
    /// more there are no new namespaces), can be dumped, and sees `/proc`.
    pub fn enter(self) -> Enclosed {
        let bound = self.bound;
        let others = UnshareFlags::NEWNS
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS;
        let outside = place(rustix::fs::CWD, "/");
        let namespaces =
            mounts::new_namespaces(others).map_err(|(what, source)| Reason::new(what, source));
        // Before there is no /proc any more.
        let holes = outside.and_then(|(_, mount)| open_directories(&bound, mount));
        let (files, bound) = match &namespaces {
            Ok(()) => enclose_files(bound),
            Err(_) => (Err(Reason::other("mounts", "no new namespaces")), bound),
        };
        let descriptors = match (&files, holes) {
            // All files can be had anyway.
            (Err(_), _) => Err(Reason::other("directories", "files are not enclosed")),
            (_, Err(error)) => Err(Reason::new("listing open descriptors", error)),
            (Ok(()), Ok(holes)) if holes.is_empty() => Ok(()),
            (Ok(()), Ok(holes)) => Err(Reason::other(
                format!("descriptors {holes:?}"),
                "directories of the outside, still open",
            )),
        };
        let capabilities = capabilities::keep_only(Kept::Nothing)
            .map_err(|error| Reason::new("dropping capabilities", error));
        Enclosed {
            namespaces: namespaces.into(),
            files: files.into(),
            descriptors: descriptors.into(),
            capabilities: capabilities.into(),
            bound,
        }
    }
}

type Bound = Vec<(String, OwnedFd)>;

/// Replaces the root. The answer's descriptors are of the directories inside, or those that were given if that failed.
fn enclose_files(bound: Bound) -> (Result<(), Reason>, Bound) {
    let inside = match build_root(&bound) {
        Ok(inside) => inside,
        Err(reason) => return (Err(reason), bound),
    };
    // Only now: they led outside.
    drop(bound);
    (Ok(()), inside)
}

fn build_root(bound: &Bound) -> Result<Bound, Reason> {
    let step = |what: &'static str| move |source: io::Error| Reason::new(what, source);
    mounts::cut_propagation().map_err(step("cutting the propagation of mounts"))?;
    let mut trees = Vec::new();
    for (name, directory) in bound {
        let tree = bindable(directory.as_fd())
            .map_err(|error| Reason::new(format!("binding /{name}"), error))?;
        trees.push((name, tree));
    }
    let root = mounts::memory_file_system(ROOT_BYTES, 2 + BOUND_MAX as u64)
        .map_err(step("a file system in memory"))?;
    // On top of the present root: the one directory that is always there.
    mounts::attach(root.as_fd(), rustix::fs::CWD, c"/").map_err(step("mounting the new root"))?;
    let mut inside = Vec::new();
    for (name, tree) in trees {
        let failed = |error: io::Error| Reason::new(format!("binding /{name}"), error);
        let path = CString::new(name.as_str()).map_err(|error| failed(error.into()))?;
        rustix::fs::mkdirat(&root, &path, Mode::from_raw_mode(0o755))
            .map_err(|error| failed(error.into()))?;
        mounts::attach(tree.as_fd(), root.as_fd(), &path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&tree, ".", flags, Mode::empty())
            .map_err(|error| failed(error.into()))?;
        inside.push((name.clone(), directory));
    }
    mounts::restrict(root.as_fd(), true).map_err(step("making the new root read-only"))?;
    mounts::change_root(root.as_fd()).map_err(step("changing the root"))?;
    Ok(inside)
}

/// A detached, restricted mount of a directory: of a detached one itself, or of one that can be found again.
fn bindable(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let tree = match mounts::clone_tree(directory) {
        Ok(tree) => tree,
        // It belongs to the mounts outside; the new ones are copies.
        Err(_) => mounts::clone_tree(mounts::reopen(directory)?.as_fd())?,
    };
    mounts::restrict(tree.as_fd(), true)?;
    Ok(tree)
}

/// The open directories, other than `bound`, from which `..` leads elsewhere, by number. `outside`: the mount at the root.
fn open_directories(bound: &Bound, outside: u64) -> io::Result<Vec<RawFd>> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        open.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    let taken: Vec<RawFd> = bound.iter().map(|(_, given)| given.as_raw_fd()).collect();
    open.retain(|number| !taken.contains(number) && leads_upwards(*number, outside));
    Ok(open)
}

fn leads_upwards(number: RawFd, outside: u64) -> bool {
    // SAFETY: 1. Borrowed for these calls alone. Listed as open just now, and this process has no other thread to close
    // it; the number of the list's own directory is closed, and the calls say so.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let Ok((here, mount)) = place(descriptor, "") else {
        return false;
    };
    // Only directories have one. The old root's is itself.
    place(descriptor, "..").is_ok_and(|(above, _)| above != here || mount == outside)
}

/// Device, inode and mount of what is at a path, as numbers to compare.
fn place(directory: BorrowedFd<'_>, path: &str) -> io::Result<((u32, u32, u64), u64)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let fields = StatxFlags::INO | StatxFlags::MNT_ID;
    let found = rustix::fs::statx(directory, path, flags, fields)?;
    let file = (found.stx_dev_major, found.stx_dev_minor, found.stx_ino);
    Ok((file, found.stx_mnt_id))
}

impl Reason {
    fn new(what: impl Into<String>, source: io::Error) -> Reason {
        let what = what.into();
        Reason { what, source }
    }

    fn other(what: impl Into<String>, why: &str) -> Reason {
        Reason::new(what, io::Error::other(why))
    }
}

impl From<Result<(), Reason>> for Part {
    fn from(result: Result<(), Reason>) -> Part {
        match result {
            Ok(()) => Part::Holds,
            Err(reason) => Part::Missing(reason),
        }
    }
}

impl Part {
    /// Whether it holds.
    pub fn holds(&self) -> bool {
        matches!(self, Part::Holds)
    }
}

impl Enclosed {
    /// How much holds altogether.
    pub fn extent(&self) -> Extent {
        let parts = self.parts();
        if parts.iter().all(|(_, part)| part.holds()) {
            Extent::Full
        } else if !self.namespaces.holds() {
            // An unprivileged process has no capabilities anyway.
            Extent::None
        } else {
            Extent::Partial
        }
    }

    /// All parts with their names.
    pub fn parts(&self) -> [(&'static str, &Part); 4] {
        [
            ("namespaces", &self.namespaces),
            ("files", &self.files),
            ("descriptors", &self.descriptors),
            ("capabilities", &self.capabilities),
        ]
    }

    /// A directory that was bound: inside, or, where files are not enclosed, the one that was given. Then it is for
    /// [`readable_beneath`](crate::confine::Confinement::readable_beneath).
    pub fn directory(&self, name: &str) -> Option<BorrowedFd<'_>> {
        let (_, directory) = self.bound.iter().find(|(bound, _)| bound == name)?;
        Some(directory.as_fd())
    }
}

impl fmt::Display for Enclosed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.extent() {
            Extent::Full => "full",
            Extent::Partial => "partial",
            Extent::None => "none",
        })?;
        for (name, part) in self.parts() {
            if let Part::Missing(reason) = part {
                write!(formatter, "; no {name}: {reason}")?;
            }
        }
        Ok(())
    }
}
