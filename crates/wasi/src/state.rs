//! A process's WASI world as plain data: what a capture takes and a restore needs.
//!
//! The layout is that of one version of the image section it is kept in: a change of any field is
//! a new version of that section. It holds nothing of a machine but the files' identities.

use crate::describe::{Binding, DescriptorDescription, DescriptorKind};
use crate::listing::Listing;
use crate::rights::Rights;
use crate::streams::HostKind;
use crate::wasi::Pending;
use serde::{Deserialize, Serialize};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Everything of a captured [`Wasi`](crate::Wasi).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WasiState {
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) environment: Vec<Vec<u8>>,
    /// Nanoseconds on the process's own clock.
    pub(crate) elapsed_ns: u64,
    /// CPU time used so far, in nanoseconds.
    pub(crate) cpu_ns: u64,
    /// Bytes written so far.
    pub(crate) output_bytes: u64,
    pub(crate) roots: Vec<RootState>,
    /// By ascending number.
    pub(crate) descriptors: Vec<DescriptorState>,
    pub(crate) pending: Option<Pending>,
}

/// A directory given to the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootState {
    pub(crate) guest: String,
    /// Where it was on the earlier host; bytes of a path.
    pub(crate) host: Vec<u8>,
    pub(crate) read_only: bool,
    pub(crate) identity: Identity,
}

/// One descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DescriptorState {
    pub(crate) number: u32,
    pub(crate) rights: Rights,
    pub(crate) inheriting: Rights,
    pub(crate) flags: u16,
    pub(crate) resource: ResourceState,
}

/// What a descriptor stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ResourceState {
    Stdio {
        slot: u8,
        kind: HostKind,
        /// Of a regular file: so that the same file, given again, is read on from there.
        file: Option<(Identity, u64)>,
    },
    Preopened {
        root: u32,
        listing: Option<Listing>,
    },
    Directory {
        root: u32,
        path: Vec<u8>,
        identity: Identity,
        listing: Option<Listing>,
    },
    File {
        root: u32,
        path: Vec<u8>,
        identity: Identity,
        offset: u64,
    },
    Listener {
        index: u32,
        name: String,
    },
    Connection {
        listener: u32,
        id: u64,
    },
}

/// What makes a file the same file. Device and inode numbers mean something on one machine only,
/// so they are compared only if the directory it was opened in is itself the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) kind: HostKind,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// When it was made, where the file system tells: seconds and nanoseconds.
    pub(crate) born: Option<(i64, u32)>,
    /// Bytes.
    pub(crate) size: u64,
}

/// A directory a restore has to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeededDirectory<'a> {
    /// The guest's name for it.
    pub guest: &'a str,
    /// Where it was on the earlier host: a default, to be used only if the image is trusted or its
    /// bindings were confirmed.
    pub host: &'a Path,
    /// Whether it was read-only, and will be.
    pub read_only: bool,
}

impl WasiState {
    /// The directories a restore has to be given, by name.
    pub fn directories(&self) -> impl Iterator<Item = NeededDirectory<'_>> {
        self.roots.iter().map(|root| NeededDirectory {
            guest: &root.guest,
            host: Path::new(std::ffi::OsStr::from_bytes(&root.host)),
            read_only: root.read_only,
        })
    }

    /// The descriptors, for people.
    pub fn descriptors(&self) -> Vec<DescriptorDescription> {
        self.descriptors
            .iter()
            .map(|descriptor| self.describe(descriptor))
            .collect()
    }

    /// The program's arguments.
    pub fn arguments(&self) -> &[Vec<u8>] {
        &self.arguments
    }

    /// The reading of the process's own clock.
    pub fn elapsed(&self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.elapsed_ns)
    }

    fn describe(&self, state: &DescriptorState) -> DescriptorDescription {
        let in_root = |root: u32, path: &[u8]| {
            let guest = self
                .roots
                .get(root as usize)
                .map_or("?", |root| &root.guest);
            label(guest, &String::from_utf8_lossy(path))
        };
        let (kind, label, offset, binding) = match &state.resource {
            ResourceState::Stdio { slot, file, .. } => {
                let offset = file.as_ref().map(|(_, offset)| *offset);
                (
                    DescriptorKind::Stdio,
                    stdio_label(*slot).to_owned(),
                    offset,
                    Binding::ByType,
                )
            }
            ResourceState::Preopened { root, .. } => (
                DescriptorKind::Preopened,
                in_root(*root, b"."),
                None,
                Binding::ByName,
            ),
            ResourceState::Directory { root, path, .. } => (
                DescriptorKind::Directory,
                in_root(*root, path),
                None,
                Binding::ByPath,
            ),
            ResourceState::File {
                root,
                path,
                identity,
                offset,
            } => {
                let kind = file_kind(identity.kind);
                (kind, in_root(*root, path), Some(*offset), Binding::ByPath)
            }
            ResourceState::Listener { name, .. } => (
                DescriptorKind::Socket,
                listener_label(name),
                None,
                Binding::Kept,
            ),
            ResourceState::Connection { id, .. } => (
                DescriptorKind::Socket,
                connection_label(*id),
                None,
                Binding::Kept,
            ),
        };
        DescriptorDescription {
            number: state.number,
            kind,
            label,
            offset,
            flags: state.flags,
            rights: state.rights,
            binding,
        }
    }
}

pub(crate) fn file_kind(kind: HostKind) -> DescriptorKind {
    if kind == HostKind::Regular {
        DescriptorKind::File
    } else {
        DescriptorKind::Device
    }
}

pub(crate) fn stdio_label(slot: u8) -> &'static str {
    match slot {
        0 => "standard input",
        1 => "standard output",
        _ => "standard error",
    }
}

pub(crate) fn listener_label(name: &str) -> String {
    format!("connections to {name}")
}

pub(crate) fn connection_label(id: u64) -> String {
    format!("connection {id} of a client")
}

/// A path as the guest would name it.
pub(crate) fn label(guest: &str, path: &str) -> String {
    match path.trim_start_matches("./") {
        "." | "" => guest.to_owned(),
        path => format!("{}/{path}", guest.trim_end_matches('/')),
    }
}
