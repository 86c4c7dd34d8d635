//! [`Confinement`]: what a process takes from itself, once and for all, after it has opened what it needs: for one that
//! compiles modules of strangers, for runners, and for the service and the manager of a node.
//!
//! | layer | then | source |
//! |---|---|---|
//! | limits | memory, CPU time, descriptors and file sizes end somewhere; no core dumps | setrlimit(2) |
//! | capabilities | none are left, or those few that are needed, also for programs that are started | capabilities(7) |
//! | not dumpable | other processes of the user cannot read or trace it | prctl(2), `PR_SET_DUMPABLE` |
//! | no new privileges | no set-user-id program gives it any | prctl(2), `PR_SET_NO_NEW_PRIVS` |
//! | Landlock | no file can be opened, made or removed, except as asked for; no TCP, or no listening; no signal or abstract socket leads out | landlock(7) |
//! | system calls | memory, threads and descriptors already open, and nothing else; or what a runner or a service needs; or all that a manager's children may need, but the network and the kernel's own affairs | seccomp(2) |
//!
//! Each layer holds without the others. Not every kernel has all, and an emulated one (qemu-user) may have none: the
//! answer, [`Applied`], says what holds, and the caller decides whether that is enough.
//!
//! Not limited here: the number of processes (`RLIMIT_NPROC` counts a user's, not a process's; new processes are denied by
//! the system calls' filter), and threads (their memory is).

mod files;
mod manager;
mod runner;
mod service;
mod system_calls;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{DumpableBehavior, Resource, Rlimit};

use crate::capabilities::{self, Kept};
use files::{Beneath, Files, Network};
use system_calls::Profile;

/// Limits of resources, each optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Address space in bytes: more cannot be allocated. Counts reservations too.
    pub address_space_bytes: Option<u64>,
    /// CPU time of the process in seconds, after which it is killed (`SIGXCPU`, a second later `SIGKILL`).
    pub cpu_seconds: Option<u64>,
    /// Numbers of descriptors: none from this number up can be opened.
    pub descriptors: Option<u64>,
    /// Largest size in bytes to which a file can be written; beyond, the process is killed (`SIGXFSZ`).
    pub file_bytes: Option<u64>,
}

/// What is to be taken from this process.
///
/// ```no_run
/// use sterna_sys::confine::{Confinement, Extent, Limits};
/// let limits = Limits { address_space_bytes: Some(4 << 30), cpu_seconds: Some(120), ..Limits::default() };
/// // First thing in main, after opening files and before starting threads:
/// let applied = Confinement::new().limits(limits).apply();
/// if applied.extent() != Extent::Full {
///     eprintln!("confinement: {applied}");
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    limits: Limits,
    kept: Kept,
    profile: Profile,
    files: Files,
    network: Network,
    also: Vec<i64>,
}

/// How much of one layer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// All of it.
    Full,
    /// A part, with what is missing.
    Partial(String),
    /// Nothing, with the reason.
    Unavailable(String),
}

/// How much holds altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every layer that was asked for.
    Full,
    /// Files or system calls are restricted, but something is missing.
    Partial,
    /// Neither files nor system calls are restricted.
    None,
}

/// What was applied. Its text is one line: the extent and, unless it is full, what is missing and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a layer that the kernel does not have is reported here only"]
pub struct Applied {
    /// Core dumps, and the limits that were asked for.
    pub limits: Layer,
    /// No capabilities but those that are needed.
    pub capabilities: Layer,
    /// Not to be read or traced by others.
    pub not_dumpable: Layer,
    /// No privileges through exec.
    pub no_new_privs: Layer,
    /// No access to files by path but as asked for, no TCP.
    pub landlock: Layer,
    /// System calls by list.
    pub system_calls: Layer,
}

impl Confinement {
    /// All layers, without limits of resources.
    pub fn new() -> Confinement {
        Confinement::default()
    }

    /// For a process that hosts guests: it may use files, readiness, userfaultfd and sockets that were handed to it, and
    /// run code that it maps from files. Which files, other methods and the [`enclosure`](../enclosure/index.html) say.
    pub fn for_runner() -> Confinement {
        Confinement {
            profile: Profile::Runner,
            ..Confinement::default()
        }
    }

    /// For a process that speaks with other machines for its users: UDP, TCP, Unix sockets, files. It starts no
    /// programs.
    pub fn for_service() -> Confinement {
        Confinement {
            profile: Profile::Service,
            network: Network::Anything,
            ..Confinement::default()
        }
    }

    /// For a process that starts others which confine themselves: it keeps the capabilities by which these are given
    /// places and mounts, and has no network. Files are left to whom it runs as: who is behind Landlock's rules for
    /// files, or whose parent is, mounts nothing.
    pub fn for_manager() -> Confinement {
        Confinement {
            profile: Profile::Manager,
            files: Files::ByMounts,
            kept: Kept::Places,
            ..Confinement::default()
        }
    }

    /// Lets files beneath a directory be read, listed and mapped, also as code, but not run as programs. Their times can be
    /// changed by a process whose system calls allow it, since Landlock has no right for that.
    pub fn readable_beneath(mut self, directory: OwnedFd) -> Confinement {
        self.files.beneath(directory, Beneath::Read);
        self
    }

    /// Lets files beneath a directory be read, written, made, renamed and removed. No devices, sockets or pipes are made.
    pub fn changeable_beneath(mut self, directory: OwnedFd) -> Confinement {
        self.files.beneath(directory, Beneath::Change);
        self
    }

    /// As [`changeable_beneath`](Self::changeable_beneath), and Unix sockets can be made.
    pub fn own_beneath(mut self, directory: OwnedFd) -> Confinement {
        self.files.beneath(directory, Beneath::Own);
        self
    }

    /// Lets one file be read, by any of its names. One that is put in its place is another.
    pub fn readable_file(mut self, file: OwnedFd) -> Confinement {
        self.files.beneath(file, Beneath::ReadFile);
        self
    }

    /// Leaves files to the mount namespace: for a process in an [`enclosure`](../enclosure/index.html), to which directories
    /// come later as detached mounts. Landlock would refuse everything in those; its rules for network and scopes stay.
    pub fn files_by_mounts(mut self) -> Confinement {
        self.files = Files::ByMounts;
        self
    }

    /// Limits resources.
    pub fn limits(mut self, limits: Limits) -> Confinement {
        self.limits = limits;
        self
    }

    /// Lets memory become executable: for who runs what it compiles or loads.
    pub fn executable_memory(mut self) -> Confinement {
        if self.profile == Profile::Computing {
            self.profile = Profile::Executing;
        }
        self
    }

    /// Allows further system calls, by the numbers of this architecture (`libc::SYS_*`), with any arguments.
    pub fn also_allow(mut self, system_calls: &[i64]) -> Confinement {
        self.also.extend_from_slice(system_calls);
        self
    }

    /// Applies everything that the kernel can, for good. Call it while the process has one thread: threads started later
    /// are confined too, but for those that run already Landlock does not hold, and the answer says so.
    pub fn apply(self) -> Applied {
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        // Read from the kernel when it is first asked for, by a call or a file that will be denied, and kept.
        let _page_bytes = rustix::param::page_size();
        // In this order: each step may be forbidden by a later one.
        let limits = self.limits.apply();
        let mut capabilities = match capabilities::keep_only(self.kept) {
            Ok(()) => Layer::Full,
            Err(error) => Layer::Unavailable(error.to_string()),
        };
        if capabilities == Layer::Full && threads > 1 {
            capabilities = Layer::Partial(format!("they are gone from one of {threads} threads"));
        }
        let not_dumpable = Layer::from(rustix::process::set_dumpable_behavior(
            DumpableBehavior::NotDumpable,
        ));
        let no_new_privs = Layer::from(rustix::thread::set_no_new_privs(true));
        let mut landlock = self.files.restrict(self.network);
        if landlock == Layer::Full && threads > 1 {
            landlock = Layer::Partial(format!("it holds for one of {threads} threads"));
        }
        let system_calls = system_calls::restrict(self.profile, &self.also);
        Applied {
            limits,
            capabilities,
            not_dumpable,
            no_new_privs,
            landlock,
            system_calls,
        }
    }
}

impl Limits {
    fn apply(self) -> Layer {
        let mut failed = Vec::new();
        let mut set = |name: &str, resource: Resource, soft: u64, hard: u64| {
            // Never above what the process may have.
            let ceiling = rustix::process::getrlimit(resource)
                .maximum
                .unwrap_or(u64::MAX);
            let wanted = Rlimit {
                current: Some(soft.min(ceiling)),
                maximum: Some(hard.min(ceiling)),
            };
            let result = rustix::process::setrlimit(resource, wanted);
            // An emulated kernel may accept a limit and forget it.
            if let Err(error) = result {
                failed.push(format!("{name}: {}", io::Error::from(error)));
            } else if rustix::process::getrlimit(resource) != wanted {
                failed.push(format!("{name}: accepted but not in force"));
            }
        };
        set("core", Resource::Core, 0, 0);
        let mut asked = 1;
        let mut set_optional = |name: &str, resource: Resource, value: Option<u64>, slack: u64| {
            if let Some(value) = value {
                asked += 1;
                set(name, resource, value, value.saturating_add(slack));
            }
        };
        set_optional("address space", Resource::As, self.address_space_bytes, 0);
        set_optional("CPU time", Resource::Cpu, self.cpu_seconds, 1);
        set_optional("descriptors", Resource::Nofile, self.descriptors, 0);
        set_optional("file size", Resource::Fsize, self.file_bytes, 0);
        match failed.len() {
            0 => Layer::Full,
            count if count == asked => Layer::Unavailable(failed.join(", ")),
            _ => Layer::Partial(failed.join(", ")),
        }
    }
}

impl From<rustix::io::Result<()>> for Layer {
    fn from(result: rustix::io::Result<()>) -> Layer {
        match result {
            Ok(()) => Layer::Full,
            Err(error) => Layer::Unavailable(io::Error::from(error).to_string()),
        }
    }
}

impl Layer {
    fn holds(&self) -> bool {
        matches!(self, Layer::Full | Layer::Partial(_))
    }
}

impl Applied {
    /// How much holds altogether.
    pub fn extent(&self) -> Extent {
        if !self.landlock.holds() && !self.system_calls.holds() {
            Extent::None
        } else if self
            .layers()
            .iter()
            .any(|(_, layer)| **layer != Layer::Full)
        {
            Extent::Partial
        } else {
            Extent::Full
        }
    }

    /// All layers with their names, in the order in which they were applied.
    pub fn layers(&self) -> [(&'static str, &Layer); 6] {
        [
            ("limits", &self.limits),
            ("drop of capabilities", &self.capabilities),
            ("not dumpable", &self.not_dumpable),
            ("no new privileges", &self.no_new_privs),
            ("landlock", &self.landlock),
            ("system calls", &self.system_calls),
        ]
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.extent() {
            Extent::Full => "full",
            Extent::Partial => "partial",
            Extent::None => "none",
        })?;
        for (name, layer) in self.layers() {
            match layer {
                Layer::Full => {}
                Layer::Partial(why) => write!(formatter, "; {name} in part: {why}")?,
                Layer::Unavailable(why) => write!(formatter, "; no {name}: {why}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(landlock: Layer, system_calls: Layer) -> Applied {
        let full = Layer::Full;
        Applied {
            limits: full.clone(),
            capabilities: full.clone(),
            not_dumpable: full.clone(),
            no_new_privs: full,
            landlock,
            system_calls,
        }
    }

    #[test]
    fn extent_and_its_text() {
        let missing = || Layer::Unavailable("why".into());
        assert_eq!(applied(Layer::Full, Layer::Full).to_string(), "full");
        let partial = applied(missing(), Layer::Full);
        assert_eq!(
            (partial.extent(), partial.to_string()),
            (Extent::Partial, "partial; no landlock: why".into())
        );
        let partial = applied(Layer::Partial("old".into()), Layer::Full);
        assert_eq!(partial.to_string(), "partial; landlock in part: old");
        let none = applied(missing(), missing());
        assert_eq!(
            (none.extent(), none.to_string()),
            (
                Extent::None,
                "none; no landlock: why; no system calls: why".into()
            )
        );
    }
}
