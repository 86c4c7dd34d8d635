//! The descriptor table: what each number of the guest stands for.

use crate::abi::{Errno, fdflags};
use crate::config::Directory;
use crate::listing::Listing;
use crate::rights::Rights;
use crate::streams::{HostFile, HostKind, Stream};
use cap_std::fs::Dir;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use sterna_process::Listener;

/// One process's descriptors.
#[derive(Debug)]
pub(crate) struct Table {
    entries: Vec<Option<Entry>>,
    limit: u32,
}

/// An open descriptor.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) resource: Resource,
    pub(crate) rights: Rights,
    pub(crate) inheriting: Rights,
    /// `fdflags`.
    pub(crate) flags: u16,
}

/// What a descriptor stands for.
#[derive(Debug)]
pub(crate) enum Resource {
    Stdio {
        slot: u8,
        stream: Stream,
    },
    File {
        host: HostFile,
        place: Place,
    },
    Directory(Box<OpenDirectory>),
    Socket {
        host: HostFile,
        name: String,
    },
    Listener {
        host: HostFile,
        index: u32,
        name: String,
        /// Its other end, if nobody else has it: then no connection ever comes.
        other: Option<OwnedFd>,
    },
    Connection(ConnectionEnd),
}

/// The process's end of a connection of a client. Whoever has the other end sees that it is closed, also while the
/// descriptor is open elsewhere.
#[derive(Debug)]
pub(crate) struct ConnectionEnd {
    pub(crate) host: HostFile,
    /// Which listener it came by.
    pub(crate) listener: u32,
    /// Its number there.
    pub(crate) id: u64,
}

impl Drop for ConnectionEnd {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(self.host.fd(), rustix::net::Shutdown::Both);
    }
}

/// A directory given to the process.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) dir: Dir,
    pub(crate) guest: String,
    pub(crate) host: PathBuf,
    pub(crate) read_only: bool,
}

impl From<Directory> for Root {
    fn from(given: Directory) -> Root {
        Root {
            dir: given.dir,
            guest: given.guest,
            host: given.host,
            read_only: given.read_only,
        }
    }
}

/// Where something was opened: a path beneath a given directory, as the guest spelled it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) root: Arc<Root>,
    pub(crate) path: PathBuf,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct OpenDirectory {
    pub(crate) dir: Dir,
    pub(crate) place: Place,
    /// Whether it is the given directory itself, with a `prestat`.
    pub(crate) preopened: bool,
    pub(crate) listing: Option<Listing>,
}

impl Table {
    pub(crate) fn new(limit: u32) -> Table {
        Table {
            entries: Vec::new(),
            limit,
        }
    }

    pub(crate) fn get(&self, fd: u32) -> Result<&Entry, Errno> {
        self.entries
            .get(fd as usize)
            .and_then(Option::as_ref)
            .ok_or(Errno::BADF)
    }

    pub(crate) fn get_mut(&mut self, fd: u32) -> Result<&mut Entry, Errno> {
        self.entries
            .get_mut(fd as usize)
            .and_then(Option::as_mut)
            .ok_or(Errno::BADF)
    }

    /// The open descriptors in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        (0..)
            .zip(&self.entries)
            .filter_map(|(number, entry)| Some((number, entry.as_ref()?)))
    }

    /// Fails with `EMFILE` unless one more descriptor can be opened.
    pub(crate) fn check_room(&self) -> Result<(), Errno> {
        let open = self.entries.iter().flatten().count();
        if open < self.limit as usize {
            Ok(())
        } else {
            Err(Errno::MFILE)
        }
    }

    /// Opens the lowest free number.
    pub(crate) fn insert(&mut self, entry: Entry) -> Result<u32, Errno> {
        self.check_room()?;
        let free = self
            .entries
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.entries.len());
        self.put(free as u32, entry)
    }

    /// Opens a given number, below [`Limits::DESCRIPTORS_MAX`](crate::Limits::DESCRIPTORS_MAX).
    pub(crate) fn put(&mut self, number: u32, entry: Entry) -> Result<u32, Errno> {
        if number >= crate::Limits::DESCRIPTORS_MAX {
            return Err(Errno::MFILE);
        }
        let index = number as usize;
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, || None);
        }
        self.entries[index] = Some(entry);
        Ok(number)
    }

    pub(crate) fn remove(&mut self, fd: u32) -> Result<Entry, Errno> {
        self.entries
            .get_mut(fd as usize)
            .and_then(Option::take)
            .ok_or(Errno::BADF)
    }

    /// Moves `from` to `to`, closing what was there. Both must be open.
    pub(crate) fn renumber(&mut self, from: u32, to: u32) -> Result<(), Errno> {
        self.get(from)?;
        self.get(to)?;
        if from != to {
            let entry = self.remove(from)?;
            self.put(to, entry)?;
        }
        Ok(())
    }
}

impl Entry {
    /// A standard stream with all rights that apply to what it is.
    pub(crate) fn stdio(slot: u8, stream: Stream) -> Entry {
        let kind = stream.kind();
        let rights = stdio_rights(kind);
        let flags = stream.host().map_or(0, |host| {
            let append = rustix::fs::fcntl_getfl(host.fd())
                .is_ok_and(|f| f.contains(rustix::fs::OFlags::APPEND));
            if append { fdflags::APPEND } else { 0 }
        });
        Entry {
            resource: Resource::Stdio { slot, stream },
            rights,
            // A listening socket passes on what its connections may be used for.
            inheriting: if kind.is_socket() {
                Rights::SOCKET
            } else {
                Rights::NONE
            },
            flags,
        }
    }

    /// A socket with all rights that apply to it.
    pub(crate) fn socket(host: HostFile, name: String) -> Entry {
        let listening = rustix::net::sockopt::socket_acceptconn(host.fd()).unwrap_or(false);
        Entry {
            resource: Resource::Socket { host, name },
            rights: Rights::SOCKET,
            inheriting: if listening {
                Rights::SOCKET
            } else {
                Rights::NONE
            },
            flags: 0,
        }
    }

    /// One of the process's listeners.
    pub(crate) fn listener(index: u32, given: Listener) -> std::io::Result<Entry> {
        let host = HostFile::inherit(given.handle)?.into_socket()?;
        Ok(Entry {
            resource: Resource::Listener {
                host,
                index,
                name: given.name,
                other: None,
            },
            rights: Rights::SOCKET,
            inheriting: Rights::SOCKET,
            flags: 0,
        })
    }

    /// Keeps the other end of a listener that nobody serves.
    pub(crate) fn keep(&mut self, end: Option<OwnedFd>) {
        if let Resource::Listener { other, .. } = &mut self.resource {
            *other = end;
        }
    }

    /// A connection that came by a listener.
    pub(crate) fn connection(listener: u32, id: u64, handle: OwnedFd) -> Entry {
        Entry {
            resource: Resource::Connection(ConnectionEnd {
                host: HostFile::owned(handle, HostKind::SocketStream),
                listener,
                id,
            }),
            rights: Rights::SOCKET,
            inheriting: Rights::NONE,
            flags: 0,
        }
    }

    /// A given directory itself. Read-only is not a matter of rights: C libraries trim what they ask
    /// for to what a directory passes on, and a file asked for with write access would be opened
    /// without.
    ///
    /// # Errors
    /// `ENOTDIR`, if what was given is something else.
    pub(crate) fn preopened(root: Arc<Root>) -> std::io::Result<Entry> {
        let dir = root.dir.try_clone()?;
        if !dir.dir_metadata()?.is_dir() {
            return Err(rustix::io::Errno::NOTDIR.into());
        }
        let place = Place {
            root,
            path: PathBuf::from("."),
        };
        Ok(Entry {
            resource: Resource::Directory(Box::new(OpenDirectory {
                dir,
                place,
                preopened: true,
                listing: None,
            })),
            rights: Rights::DIRECTORY,
            inheriting: Rights::ALL,
            flags: 0,
        })
    }

    /// Fails with `ENOTCAPABLE` unless the descriptor has all of `rights`.
    pub(crate) fn require(&self, rights: Rights) -> Result<(), Errno> {
        if self.rights.contains(rights) {
            Ok(())
        } else {
            Err(Errno::NOTCAPABLE)
        }
    }

    /// The host descriptor, of all but directories and streams in memory.
    pub(crate) fn host(&self) -> Option<&HostFile> {
        match &self.resource {
            Resource::Stdio { stream, .. } => stream.host(),
            Resource::File { host, .. }
            | Resource::Socket { host, .. }
            | Resource::Listener { host, .. } => Some(host),
            Resource::Connection(connection) => Some(&connection.host),
            Resource::Directory(_) => None,
        }
    }

    pub(crate) fn kind(&self) -> HostKind {
        match &self.resource {
            Resource::Stdio { stream, .. } => stream.kind(),
            Resource::File { host, .. }
            | Resource::Socket { host, .. }
            | Resource::Listener { host, .. } => host.kind(),
            Resource::Connection(_) => HostKind::SocketStream,
            Resource::Directory(_) => HostKind::Directory,
        }
    }

    pub(crate) fn directory(&self) -> Result<&OpenDirectory, Errno> {
        match &self.resource {
            Resource::Directory(directory) => Ok(directory),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// Whether it was reached through a directory given read-only.
    pub(crate) fn read_only(&self) -> bool {
        match &self.resource {
            Resource::File { place, .. } => place.root.read_only,
            Resource::Directory(directory) => directory.place.root.read_only,
            Resource::Stdio { .. }
            | Resource::Socket { .. }
            | Resource::Listener { .. }
            | Resource::Connection(_) => false,
        }
    }
}

/// The rights of a standard stream of this kind.
pub(crate) fn stdio_rights(kind: HostKind) -> Rights {
    match kind {
        HostKind::Regular | HostKind::Block | HostKind::Character => Rights::FILE,
        HostKind::SocketStream | HostKind::SocketDatagram => Rights::SOCKET,
        _ => Rights::STREAM,
    }
}
