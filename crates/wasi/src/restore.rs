//! From data to a world on this host. All that can be wrong is found before anything runs.

use crate::abi::{Errno, fdflags};
use crate::capture::{List, reopening};
use crate::clocks::ProcessClocks;
use crate::config::{Directory, Limits, Rebind};
use crate::describe::Escaped;
use crate::paths::opened;
use crate::rights::Rights;
use crate::state::{
    DescriptorState, Identity, ResourceState, RootState, WasiState, connection_label, label,
    listener_label,
};
use crate::streams::{HostKind, Stream};
use crate::table::{Entry, Place, Resource, Root, Table, stdio_rights};
use crate::wasi::{Output, Wasi, check_limits, stream};
use rustix::fs::SeekFrom;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use sterna_process::listener::{connection, listener};
use sterna_process::{Connection, Listener};

/// Why a world could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The state contradicts itself: it was not made by a capture, or was damaged.
    #[error("the saved descriptors are damaged: {0}")]
    Damaged(&'static str),
    /// The limits given do not allow what the program has open.
    #[error("the program has {open} descriptors open, and the limit is {limit}; allow it more")]
    TooMany {
        /// How many are open.
        open: usize,
        /// [`Limits::descriptors`].
        limit: u32,
    },
    /// The limit itself is out of range.
    #[error("a limit of {0} descriptors is above {max}", max = Limits::DESCRIPTORS_MAX)]
    LimitTooHigh(u32),
    /// Some of what the program has open could not be bound here.
    #[error("cannot give the program what it had open:{}", List(.0))]
    Unbound(Vec<Unbound>),
}

/// Something a program had open that could not be bound on this host. Strings are raw; the
/// display is safe to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unbound {
    /// No directory was given under this name.
    Directory {
        /// The guest's name for it.
        guest: String,
        /// Where it was on the earlier host.
        host: PathBuf,
        /// Whether it was read-only.
        read_only: bool,
    },
    /// A file or directory could not be opened again.
    Unopenable {
        /// The guest's number for it.
        number: u32,
        /// As in [`DescriptorDescription::label`](crate::DescriptorDescription::label).
        label: String,
        /// What the host said.
        errno: Errno,
    },
    /// Another file now has the name.
    Replaced {
        /// The guest's number for it.
        number: u32,
        /// As in [`DescriptorDescription::label`](crate::DescriptorDescription::label).
        label: String,
    },
    /// The file is shorter than where the program stood in it.
    Shorter {
        /// The guest's number for it.
        number: u32,
        /// As in [`DescriptorDescription::label`](crate::DescriptorDescription::label).
        label: String,
        /// Its length now, in bytes.
        size: u64,
        /// The length it must have.
        needed: u64,
    },
    /// The program writes to a file whose directory is now given read-only.
    ReadOnly {
        /// The guest's number for it.
        number: u32,
        /// As in [`DescriptorDescription::label`](crate::DescriptorDescription::label).
        label: String,
    },
    /// A standard stream that was given cannot be used.
    Stdio {
        /// 0, 1 or 2.
        slot: u8,
        /// What the host said.
        errno: Errno,
    },
}

impl fmt::Display for Unbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unbound::Directory {
                guest,
                host,
                read_only,
            } => {
                let read_only = if *read_only { ":ro" } else { "" };
                let host = host.to_string_lossy();
                write!(
                    f,
                    "directory {guest}: give one with --dir HOST::{guest}{read_only} (it was {})",
                    Escaped(&host),
                    guest = Escaped(guest),
                )
            }
            Unbound::Unopenable {
                number,
                label,
                errno: Errno::NOENT,
            } => {
                write!(
                    f,
                    "descriptor {number}: {} is gone; put it back, or give another directory",
                    Escaped(label)
                )
            }
            Unbound::Unopenable {
                number,
                label,
                errno,
            } => {
                write!(
                    f,
                    "descriptor {number}: {} cannot be opened ({errno:?})",
                    Escaped(label)
                )
            }
            Unbound::Replaced { number, label } => write!(
                f,
                "descriptor {number}: {} is another file than the one that was open; put the old one back, \
                 or give a copy of the directory if this is meant",
                Escaped(label)
            ),
            Unbound::Shorter {
                number,
                label,
                size,
                needed,
            } => write!(
                f,
                "descriptor {number}: {} has {size} bytes and must have {needed}; put back what is missing",
                Escaped(label)
            ),
            Unbound::ReadOnly { number, label } => write!(
                f,
                "descriptor {number}: {} is open for writing; give its directory without :ro",
                Escaped(label)
            ),
            Unbound::Stdio { slot, errno } => {
                write!(f, "standard stream {slot} cannot be used ({errno:?})")
            }
        }
    }
}

/// A given directory, and whether it is the very one of the capture.
struct BoundRoot {
    root: Arc<Root>,
    same: bool,
}

impl Wasi {
    /// The world of a captured process, bound to what `rebind` gives. Files are opened again and
    /// must be the same files: the same inode if their directory is the same, else of the same kind
    /// and long enough. Contents may have changed. Descriptors keep their numbers, offsets, flags
    /// and rights.
    ///
    /// # Errors
    /// Everything that could not be bound, with what to give instead. Nothing has run or changed
    /// then.
    pub fn restore(state: WasiState, rebind: Rebind) -> Result<Wasi, RestoreError> {
        check_limits(&rebind.limits)
            .map_err(|_| RestoreError::LimitTooHigh(rebind.limits.descriptors))?;
        check(&state, &rebind.limits)?;
        let mut unbound = Vec::new();
        let roots = bind_roots(&state.roots, rebind.directories, &mut unbound);
        let mut table = Table::new(rebind.limits.descriptors);
        let mut clients = Clients::new(rebind.listeners, rebind.connections);
        let mut stdio = rebind.stdio.map(Some);
        for descriptor in state.descriptors {
            let number = descriptor.number;
            let entry = match descriptor.resource {
                ResourceState::Stdio { slot, .. } => {
                    let given = stdio
                        .get_mut(usize::from(slot))
                        .and_then(Option::take)
                        .unwrap_or_default();
                    bind_stdio(descriptor, slot, stream(given)).map(Some)
                }
                ResourceState::Listener { .. } | ResourceState::Connection { .. } => {
                    clients.bind(descriptor).map(Some)
                }
                _ => bind(descriptor, &roots),
            };
            match entry {
                Ok(Some(entry)) => {
                    table
                        .put(number, entry)
                        .map_err(|_| RestoreError::Damaged("a descriptor's number"))?;
                }
                Ok(None) => {} // Its directory was not given, which was said.
                Err(problem) => unbound.push(problem),
            }
        }
        if !unbound.is_empty() {
            return Err(RestoreError::Unbound(unbound));
        }
        let nanoseconds = Duration::from_nanos;
        Ok(Wasi {
            arguments: state.arguments,
            environment: state.environment,
            table,
            clocks: ProcessClocks::start(
                rebind.clocks,
                nanoseconds(state.elapsed_ns),
                nanoseconds(state.cpu_ns),
            ),
            output: Output {
                used: state.output_bytes,
                limit: rebind.limits.output_bytes,
            },
            pending: state.pending,
        })
    }
}

/// What a capture would not have made.
fn check(state: &WasiState, limits: &Limits) -> Result<(), RestoreError> {
    let damaged = |what| Err(RestoreError::Damaged(what));
    let open = state.descriptors.len();
    if open > limits.descriptors as usize {
        return Err(RestoreError::TooMany {
            open,
            limit: limits.descriptors,
        });
    }
    let strings = state.arguments.iter().chain(&state.environment);
    if strings.clone().any(|string| string.contains(&0))
        || strings.map(Vec::len).sum::<usize>() > 1 << 30
    {
        return damaged("an argument or variable");
    }
    let names: std::collections::HashSet<_> = state.roots.iter().map(|root| &root.guest).collect();
    if names.len() != state.roots.len() || state.roots.len() > open {
        return damaged("a directory is named twice or not used");
    }
    let ascending = state
        .descriptors
        .windows(2)
        .all(|pair| pair[0].number < pair[1].number);
    let highest = state.descriptors.last().map_or(0, |last| last.number);
    if !ascending || highest >= Limits::DESCRIPTORS_MAX {
        return damaged("a descriptor's number");
    }
    let mut slots = [false; 3];
    for descriptor in &state.descriptors {
        if descriptor.flags & !fdflags::ALL != 0 || !Rights::ALL.contains(descriptor.rights) {
            return damaged("a descriptor's flags or rights");
        }
        match descriptor.resource {
            ResourceState::Stdio { slot, .. } => match slots.get_mut(usize::from(slot)) {
                Some(taken @ false) => *taken = true,
                _ => return damaged("a standard stream"),
            },
            ResourceState::Preopened { root, .. }
            | ResourceState::Directory { root, .. }
            | ResourceState::File { root, .. } => {
                if root as usize >= state.roots.len() {
                    return damaged("a descriptor's directory");
                }
            }
            ResourceState::Listener { .. } | ResourceState::Connection { .. } => {}
        }
    }
    Ok(())
}

/// Finds each directory among those given, by name.
fn bind_roots(
    wanted: &[RootState],
    mut given: Vec<Directory>,
    unbound: &mut Vec<Unbound>,
) -> Vec<Option<BoundRoot>> {
    let mut bind = |wanted: &RootState| {
        let Some(index) = given.iter().position(|given| given.guest == wanted.guest) else {
            unbound.push(missing(wanted));
            return None;
        };
        let mut root = Root::from(given.swap_remove(index));
        root.read_only |= wanted.read_only;
        let now = Identity::of(root.dir.as_fd());
        let same = now.is_ok_and(|now| wanted.identity.is_same_inode(&now));
        Some(BoundRoot {
            root: Arc::new(root),
            same,
        })
    };
    wanted.iter().map(&mut bind).collect()
}

fn missing(wanted: &RootState) -> Unbound {
    Unbound::Directory {
        guest: wanted.guest.clone(),
        host: PathBuf::from(std::ffi::OsString::from_vec(wanted.host.clone())),
        read_only: wanted.read_only,
    }
}

/// Listeners and connections that are given again.
struct Clients {
    listeners: BTreeMap<u32, Listener>,
    connections: BTreeMap<(u32, u64), OwnedFd>,
}

impl Clients {
    fn new(listeners: Vec<Listener>, connections: Vec<Connection>) -> Self {
        let connections = connections.into_iter();
        Self {
            listeners: (0..).zip(listeners).collect(),
            connections: connections
                .map(|one| ((one.listener, one.id), one.handle))
                .collect(),
        }
    }

    /// On what was given; otherwise on a socket whose other end is gone.
    fn bind(&mut self, state: DescriptorState) -> Result<Entry, Unbound> {
        let failed = |label: String, error: std::io::Error| Unbound::Unopenable {
            number: state.number,
            label,
            errno: error.into(),
        };
        let mut entry = match state.resource {
            ResourceState::Listener { index, name } => {
                let given = match self.listeners.remove(&index) {
                    Some(given) => Ok((None, given.handle)),
                    None => listener().map(|(other, handle)| (Some(other), handle)),
                };
                let label = listener_label(&name);
                let entry = given.and_then(|(other, handle)| {
                    let mut entry = Entry::listener(index, Listener { name, handle })?;
                    entry.keep(other);
                    Ok(entry)
                });
                entry.map_err(|error| failed(label, error))?
            }
            ResourceState::Connection { listener, id } => {
                let given = self
                    .connections
                    .remove(&(listener, id))
                    .map_or_else(|| connection().map(|(_, handle)| handle), Ok);
                let handle = given.map_err(|error| failed(connection_label(id), error))?;
                Entry::connection(listener, id, handle)
            }
            _ => return Err(failed(String::new(), rustix::io::Errno::BADF.into())),
        };
        entry.rights = entry.rights.only(state.rights);
        entry.inheriting = entry.inheriting.only(state.inheriting);
        entry.flags = state.flags;
        Ok(entry)
    }
}

/// A standard stream on what the thawing process gives. The guest keeps having dropped the rights
/// it dropped; the rest are those of what the stream is now.
fn bind_stdio(
    state: DescriptorState,
    slot: u8,
    given: std::io::Result<Option<Stream>>,
) -> Result<Entry, Unbound> {
    let stream = given
        .map_err(|error| Unbound::Stdio {
            slot,
            errno: error.into(),
        })?
        .unwrap_or(Stream::Null);
    let ResourceState::Stdio { kind, file, .. } = state.resource else {
        return Err(Unbound::Stdio {
            slot,
            errno: Errno::BADF,
        });
    };
    // The same input file, given again, is read on from where it was.
    if let (0, Some((identity, offset)), Some(host)) = (slot, file, stream.host())
        && Identity::of(host.fd().as_fd()).is_ok_and(|now| identity.is_same_inode(&now))
    {
        rustix::fs::seek(host.fd(), SeekFrom::Start(offset)).map_err(|errno| Unbound::Stdio {
            slot,
            errno: errno.into(),
        })?;
    }
    let dropped = stdio_rights(kind).without(state.rights);
    let mut entry = Entry::stdio(slot, stream);
    entry.rights = entry.rights.without(dropped);
    entry.flags |= state.flags & !fdflags::APPEND;
    Ok(entry)
}

/// Any other descriptor; none if its directory was not given.
fn bind(state: DescriptorState, roots: &[Option<BoundRoot>]) -> Result<Option<Entry>, Unbound> {
    let number = state.number;
    let (root, path, file, listing) = match state.resource {
        ResourceState::Preopened { root, listing } => (root, b".".to_vec(), None, listing),
        ResourceState::Directory {
            root,
            path,
            identity,
            listing,
        } => (root, path, Some((identity, 0)), listing),
        ResourceState::File {
            root,
            path,
            identity,
            offset,
        } => (root, path, Some((identity, offset)), None),
        ResourceState::Stdio { .. }
        | ResourceState::Listener { .. }
        | ResourceState::Connection { .. } => return Ok(None),
    };
    let Some(Some(bound)) = roots.get(root as usize) else {
        return Ok(None);
    };
    let path = PathBuf::from(OsStr::from_bytes(&path));
    let label = label(&bound.root.guest, &path.to_string_lossy());
    let place = Place {
        root: Arc::clone(&bound.root),
        path,
    };
    let unopenable = |errno| Unbound::Unopenable {
        number,
        label: label.clone(),
        errno,
    };
    let mut entry = match &file {
        None => {
            Entry::preopened(Arc::clone(&bound.root)).map_err(|error| unopenable(error.into()))?
        }
        Some((identity, offset)) => {
            let opening = reopening(
                state.rights,
                state.flags,
                identity.kind == HostKind::Directory,
            );
            if opening.write && bound.root.read_only {
                return Err(Unbound::ReadOnly { number, label });
            }
            let path = place
                .path
                .to_str()
                .ok_or_else(|| unopenable(Errno::ILSEQ))?;
            let fd = opening.open(&bound.root.dir, path).map_err(unopenable)?;
            let now = Identity::of(fd.as_fd()).map_err(|errno| unopenable(errno.into()))?;
            identity.check(&now, bound.same, *offset, number, &label)?;
            if identity.kind.seeks() && identity.kind != HostKind::Directory {
                rustix::fs::seek(&fd, SeekFrom::Start(*offset))
                    .map_err(|errno| unopenable(errno.into()))?;
            }
            opened(fd, place, state.rights, state.inheriting, state.flags).map_err(unopenable)?
        }
    };
    entry.rights = entry.rights.only(state.rights);
    entry.inheriting = state.inheriting.only(Rights::ALL);
    entry.flags = state.flags;
    if let Resource::Directory(directory) = &mut entry.resource {
        directory.listing = listing;
    }
    Ok(Some(entry))
}

impl Identity {
    /// Whether both are of one inode, as far as can be told. Device numbers may change when a
    /// machine starts anew, so they decide only where the time of birth is not known.
    fn is_same_inode(&self, now: &Identity) -> bool {
        self.kind == now.kind
            && self.inode == now.inode
            && match (self.born, now.born) {
                (Some(then), Some(now)) => then == now,
                _ => self.device == now.device,
            }
    }

    /// Fails unless the file opened again can take the place of the captured one.
    fn check(
        &self,
        now: &Identity,
        same_directory: bool,
        offset: u64,
        number: u32,
        label: &str,
    ) -> Result<(), Unbound> {
        let same = if same_directory {
            self.is_same_inode(now)
        } else {
            self.kind == now.kind
        };
        if !same {
            return Err(Unbound::Replaced {
                number,
                label: label.to_owned(),
            });
        }
        // Standing behind the end is allowed, but not more so than it was.
        let needed = offset.min(self.size);
        if self.kind == HostKind::Regular && now.size < needed {
            return Err(Unbound::Shorter {
                number,
                label: label.to_owned(),
                size: now.size,
                needed,
            });
        }
        Ok(())
    }
}
