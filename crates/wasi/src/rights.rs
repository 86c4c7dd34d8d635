//! Rights: what a descriptor may be used for, and what descriptors opened through it may.
//!
//! A new descriptor has the rights it asks for, as far as they apply to its kind; asking for a
//! right its directory does not pass on is `ENOTCAPABLE`. Rights can be dropped
//! (`fd_fdstat_set_rights`) and never regained. Source: `rights` in WASI's `typenames.witx`.

use serde::{Deserialize, Serialize};

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Rights(u64);

macro_rules! rights {
    ($($name:ident = $bit:literal)*) => {
        impl Rights {
            $(#[doc = concat!("`", stringify!($name), "` of the witx.")] pub const $name: Rights = Rights(1 << $bit);)*
            /// Every right there is.
            pub const ALL: Rights = Rights($(1 << $bit)|*);
            const NAMES: &[(u64, &str)] = &[$((1 << $bit, stringify!($name)),)*];
        }
    };
}

rights! {
    FD_DATASYNC = 0 FD_READ = 1 FD_SEEK = 2 FD_FDSTAT_SET_FLAGS = 3 FD_SYNC = 4 FD_TELL = 5 FD_WRITE = 6
    FD_ADVISE = 7 FD_ALLOCATE = 8 PATH_CREATE_DIRECTORY = 9 PATH_CREATE_FILE = 10 PATH_LINK_SOURCE = 11
    PATH_LINK_TARGET = 12 PATH_OPEN = 13 FD_READDIR = 14 PATH_READLINK = 15 PATH_RENAME_SOURCE = 16
    PATH_RENAME_TARGET = 17 PATH_FILESTAT_GET = 18 PATH_FILESTAT_SET_SIZE = 19 PATH_FILESTAT_SET_TIMES = 20
    FD_FILESTAT_GET = 21 FD_FILESTAT_SET_SIZE = 22 FD_FILESTAT_SET_TIMES = 23 PATH_SYMLINK = 24
    PATH_REMOVE_DIRECTORY = 25 PATH_UNLINK_FILE = 26 POLL_FD_READWRITE = 27 SOCK_SHUTDOWN = 28 SOCK_ACCEPT = 29
}

impl Rights {
    /// No right at all.
    pub const NONE: Rights = Rights(0);

    /// What applies to a regular file.
    pub(crate) const FILE: Rights = Rights::FD_DATASYNC
        .and(Rights::FD_READ)
        .and(Rights::FD_SEEK)
        .and(Rights::FD_FDSTAT_SET_FLAGS)
        .and(Rights::FD_SYNC)
        .and(Rights::FD_TELL)
        .and(Rights::FD_WRITE)
        .and(Rights::FD_ADVISE)
        .and(Rights::FD_ALLOCATE)
        .and(Rights::FD_FILESTAT_GET)
        .and(Rights::FD_FILESTAT_SET_SIZE)
        .and(Rights::FD_FILESTAT_SET_TIMES)
        .and(Rights::POLL_FD_READWRITE);

    /// What applies to a directory.
    pub(crate) const DIRECTORY: Rights = Rights::ALL
        .without(Rights::FILE)
        .without(Rights::SOCK_SHUTDOWN)
        .without(Rights::SOCK_ACCEPT)
        .and(Rights::FD_FDSTAT_SET_FLAGS)
        .and(Rights::FD_SYNC)
        .and(Rights::FD_DATASYNC)
        .and(Rights::FD_ADVISE)
        .and(Rights::FD_FILESTAT_GET)
        .and(Rights::FD_FILESTAT_SET_TIMES)
        .and(Rights::POLL_FD_READWRITE);

    /// What applies to a pipe or terminal: C libraries take a character device that cannot seek
    /// for a terminal.
    pub(crate) const STREAM: Rights = Rights::FD_READ
        .and(Rights::FD_WRITE)
        .and(Rights::FD_FDSTAT_SET_FLAGS)
        .and(Rights::FD_FILESTAT_GET)
        .and(Rights::POLL_FD_READWRITE);

    /// What applies to a socket.
    pub(crate) const SOCKET: Rights = Rights::STREAM
        .and(Rights::SOCK_SHUTDOWN)
        .and(Rights::SOCK_ACCEPT);

    /// The bits of the ABI; bits that name no right are dropped.
    pub fn from_bits(bits: u64) -> Rights {
        Rights(bits & Rights::ALL.0)
    }

    /// The bits of the ABI.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Whether every right of `other` is in this set.
    pub fn contains(self, other: Rights) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any right of `other` is in this set.
    pub fn intersects(self, other: Rights) -> bool {
        self.0 & other.0 != 0
    }

    /// The rights in either set.
    pub const fn and(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }

    /// The rights in both sets.
    pub const fn only(self, other: Rights) -> Rights {
        Rights(self.0 & other.0)
    }

    /// The rights not in `other`.
    pub const fn without(self, other: Rights) -> Rights {
        Rights(self.0 & !other.0)
    }

    /// The names in the set, as the witx has them, in capitals.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Rights::NAMES
            .iter()
            .filter(move |(bit, _)| self.0 & bit != 0)
            .map(|(_, name)| *name)
    }
}

impl std::fmt::Debug for Rights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
