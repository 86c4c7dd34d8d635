//! From a running world to data.
//!
//! Every open file must have a name under which it can be opened again. The name the guest used
//! is tried first, then the one the kernel knows (the file may have been renamed since); either
//! counts only if what it leads to is the very file that is open.

use crate::clocks::nanoseconds;
use crate::describe::{Binding, DescriptorDescription, DescriptorKind, Escaped};
use crate::paths::Opening;
use crate::state::{
    DescriptorState, Identity, ResourceState, RootState, WasiState, connection_label, file_kind,
    label, listener_label, stdio_label,
};
use crate::streams::HostKind;
use crate::table::{Entry, Place, Resource, Root};
use crate::wasi::Wasi;
use rustix::fs::{AtFlags, StatxFlags, statx};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a world cannot be captured: every descriptor that cannot move.
#[derive(Debug, thiserror::Error)]
#[error("cannot move what the program has open:{}", List(.0))]
pub struct CaptureError(pub Vec<Unmovable>);

/// A descriptor that cannot move. Strings are raw; the display is safe to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmovable {
    /// The guest's number for it.
    pub number: u32,
    /// What it is, as in [`DescriptorDescription::label`].
    pub label: String,
    /// Why it cannot move, and what can be done.
    pub why: &'static str,
}

impl fmt::Display for Unmovable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "descriptor {} ({}) {}",
            self.number,
            Escaped(&self.label),
            self.why
        )
    }
}

/// Prints one item a line.
pub(crate) struct List<'a, T>(pub(crate) &'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, item) in self.0.iter().enumerate() {
            let between = if at == 0 { "" } else { ";" };
            write!(f, "{between} {item}")?;
        }
        Ok(())
    }
}

const GONE: &str = "was deleted or replaced while open, so no other process can open it; \
    try again when the program has closed it";
const NO_STATUS: &str =
    "cannot be examined; try again, or see whether its file system is still there";
const SOCKET: &str =
    "is a connection of this machine's kernel; try again when the program has closed it";
const PIPE: &str =
    "is a named pipe, whose other end would stay here; try again when the program has closed it";

impl Wasi {
    /// The world as data. Nothing is changed; the process may go on here or elsewhere, not both.
    ///
    /// # Errors
    /// All descriptors that cannot move: sockets and pipes other than the standard streams, and
    /// files that have no name any more.
    pub fn capture(&self) -> Result<WasiState, CaptureError> {
        let mut roots = Vec::new();
        let mut descriptors = Vec::new();
        let mut unmovable = Vec::new();
        for (number, entry) in self.table.iter() {
            match capture_resource(entry, &mut roots) {
                Ok(resource) => descriptors.push(DescriptorState {
                    number,
                    rights: entry.rights,
                    inheriting: entry.inheriting,
                    flags: entry.flags,
                    resource,
                }),
                Err(why) => unmovable.push(Unmovable {
                    number,
                    label: entry_label(entry),
                    why,
                }),
            }
        }
        if !unmovable.is_empty() {
            return Err(CaptureError(unmovable));
        }
        Ok(WasiState {
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            elapsed_ns: nanoseconds(self.clocks.now()),
            cpu_ns: nanoseconds(self.clocks.cpu_time()),
            output_bytes: self.output.used,
            roots: roots.into_iter().map(|(_, state)| state).collect(),
            descriptors,
            pending: self.pending.clone(),
        })
    }

    /// The descriptors, for people.
    pub fn descriptors(&self) -> Vec<DescriptorDescription> {
        self.table
            .iter()
            .map(|(number, entry)| describe(number, entry))
            .collect()
    }
}

fn describe(number: u32, entry: &Entry) -> DescriptorDescription {
    let (kind, binding) = match &entry.resource {
        Resource::Stdio { .. } => (DescriptorKind::Stdio, Binding::ByType),
        Resource::Directory(directory) if directory.preopened => {
            (DescriptorKind::Preopened, Binding::ByName)
        }
        Resource::Directory(_) => (DescriptorKind::Directory, Binding::ByPath),
        Resource::File { host, .. } if host.kind() == HostKind::Pipe => {
            (DescriptorKind::Device, Binding::Fixed)
        }
        Resource::File { host, .. } => (file_kind(host.kind()), Binding::ByPath),
        Resource::Socket { .. } => (DescriptorKind::Socket, Binding::Fixed),
        Resource::Listener { .. } | Resource::Connection(_) => {
            (DescriptorKind::Socket, Binding::Kept)
        }
    };
    let host = entry.host().filter(|host| host.kind().seeks());
    DescriptorDescription {
        number,
        kind,
        label: entry_label(entry),
        offset: host.and_then(|host| rustix::fs::tell(host.fd()).ok()),
        flags: entry.flags,
        rights: entry.rights,
        binding,
    }
}

fn entry_label(entry: &Entry) -> String {
    let of = |place: &Place| label(&place.root.guest, &place.path.to_string_lossy());
    match &entry.resource {
        Resource::Stdio { slot, .. } => stdio_label(*slot).to_owned(),
        Resource::File { place, .. } => of(place),
        Resource::Directory(directory) => of(&directory.place),
        Resource::Socket { name, .. } => name.clone(),
        Resource::Listener { name, .. } => listener_label(name),
        Resource::Connection(connection) => connection_label(connection.id),
    }
}

type Roots<'a> = Vec<(&'a Arc<Root>, RootState)>;

fn capture_resource<'a>(
    entry: &'a Entry,
    roots: &mut Roots<'a>,
) -> Result<ResourceState, &'static str> {
    match &entry.resource {
        Resource::Stdio { slot, stream } => {
            let regular = stream
                .host()
                .filter(|host| host.kind() == HostKind::Regular);
            let file = regular.and_then(|host| {
                Some((
                    Identity::of(host.fd().as_fd()).ok()?,
                    rustix::fs::tell(host.fd()).ok()?,
                ))
            });
            Ok(ResourceState::Stdio {
                slot: *slot,
                kind: stream.kind(),
                file,
            })
        }
        Resource::Directory(directory) if directory.preopened => {
            let root = root_index(&directory.place.root, roots)?;
            Ok(ResourceState::Preopened {
                root,
                listing: directory.listing.clone(),
            })
        }
        Resource::Directory(directory) => {
            let identity = Identity::of(directory.dir.as_fd()).map_err(|_| NO_STATUS)?;
            let path = name(&directory.place, directory.dir.as_fd(), &identity).ok_or(GONE)?;
            let root = root_index(&directory.place.root, roots)?;
            Ok(ResourceState::Directory {
                root,
                path,
                identity,
                listing: directory.listing.clone(),
            })
        }
        Resource::File { host, .. } if host.kind() == HostKind::Pipe => Err(PIPE),
        Resource::File { host, place } => {
            let identity = Identity::of(host.fd().as_fd()).map_err(|_| NO_STATUS)?;
            let path = name(place, host.fd().as_fd(), &identity).ok_or(GONE)?;
            let root = root_index(&place.root, roots)?;
            let offset = if host.kind().seeks() {
                rustix::fs::tell(host.fd()).unwrap_or(0)
            } else {
                0
            };
            Ok(ResourceState::File {
                root,
                path,
                identity,
                offset,
            })
        }
        Resource::Socket { .. } => Err(SOCKET),
        Resource::Listener { index, name, .. } => Ok(ResourceState::Listener {
            index: *index,
            name: name.clone(),
        }),
        Resource::Connection(connection) => Ok(ResourceState::Connection {
            listener: connection.listener,
            id: connection.id,
        }),
    }
}

/// The number of a given directory in the state, in which it is put if it is new.
fn root_index<'a>(root: &'a Arc<Root>, roots: &mut Roots<'a>) -> Result<u32, &'static str> {
    if let Some(index) = roots.iter().position(|(known, _)| Arc::ptr_eq(known, root)) {
        return Ok(index as u32);
    }
    let identity = Identity::of(root.dir.as_fd()).map_err(|_| NO_STATUS)?;
    let state = RootState {
        guest: root.guest.clone(),
        host: root.host.as_os_str().as_bytes().to_vec(),
        read_only: root.read_only,
        identity,
    };
    roots.push((root, state));
    Ok(roots.len() as u32 - 1)
}

/// A path beneath its given directory that leads to the open file.
fn name(place: &Place, open: BorrowedFd<'_>, identity: &Identity) -> Option<Vec<u8>> {
    [Some(place.path.clone()), kernel_name(&place.root, open)]
        .into_iter()
        .flatten()
        .find(|path| leads_to(&place.root, path, identity))
        .map(|path| path.as_os_str().as_bytes().to_vec())
}

fn leads_to(root: &Root, path: &Path, identity: &Identity) -> bool {
    let Some(path) = path.to_str() else {
        return false;
    };
    // The open file's own access may have been taken from its name since; a look needs little.
    match root.dir.metadata(path) {
        Ok(metadata) => {
            use cap_std::fs::MetadataExt;
            metadata.ino() == identity.inode && metadata.dev() == identity.device
        }
        Err(_) => false,
    }
}

/// The present path of an open file, if it is beneath its given directory.
fn kernel_name(root: &Root, open: BorrowedFd<'_>) -> Option<PathBuf> {
    let read =
        |fd: BorrowedFd<'_>| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    let path = read(open)?;
    let beneath = path.strip_prefix(read(root.dir.as_fd())?).ok()?;
    Some(if beneath.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        beneath.to_path_buf()
    })
}

impl Identity {
    pub(crate) fn of(fd: BorrowedFd<'_>) -> rustix::io::Result<Identity> {
        let stat = rustix::fs::fstat(fd)?;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let born = statx(fd, "", AtFlags::EMPTY_PATH, wanted)
            .ok()
            .and_then(|extended| {
                let known =
                    StatxFlags::from_bits_retain(extended.stx_mask).contains(StatxFlags::BTIME);
                known.then_some((extended.stx_btime.tv_sec, extended.stx_btime.tv_nsec))
            });
        Ok(Identity {
            kind: HostKind::of(fd, &stat),
            device: stat.st_dev,
            inode: stat.st_ino,
            born,
            size: stat.st_size.max(0) as u64,
        })
    }
}

/// How a captured file is opened again.
pub(crate) fn reopening(rights: crate::Rights, flags: u16, directory: bool) -> Opening {
    let write = rights.contains(crate::Rights::FD_WRITE) && !directory;
    let create = if directory {
        crate::abi::oflags::DIRECTORY
    } else {
        0
    };
    Opening {
        read: rights.contains(crate::Rights::FD_READ),
        write,
        follow: true,
        create,
        flags,
    }
}
