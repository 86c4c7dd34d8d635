//! Numbers of the ABI: error codes, flags, clock ids, file types and structure sizes.
//!
//! Source of everything here: `typenames.witx` of WASI snapshot preview 1.

use std::io;

/// A WASI error code; [`Errno::SUCCESS`] is success.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u16);

macro_rules! errnos {
    ($($name:ident = $value:literal $host:ident)*) => {
        impl Errno {
            $(#[doc = concat!("`E", stringify!($name), "`.")] pub const $name: Errno = Errno($value);)*

            /// The name without its `E`, in capitals.
            pub fn name(self) -> &'static str {
                match self.0 { 0 => "SUCCESS", $($value => stringify!($name),)* 76 => "NOTCAPABLE", _ => "?" }
            }
        }

        impl From<rustix::io::Errno> for Errno {
            fn from(errno: rustix::io::Errno) -> Errno {
                match errno { $(rustix::io::Errno::$host => Errno::$name,)* _ => Errno::IO }
            }
        }
    };
}

errnos! {
    TOOBIG = 1 TOOBIG        ACCES = 2 ACCESS        ADDRINUSE = 3 ADDRINUSE  ADDRNOTAVAIL = 4 ADDRNOTAVAIL
    AFNOSUPPORT = 5 AFNOSUPPORT AGAIN = 6 AGAIN      ALREADY = 7 ALREADY      BADF = 8 BADF
    BADMSG = 9 BADMSG        BUSY = 10 BUSY          CANCELED = 11 CANCELED   CHILD = 12 CHILD
    CONNABORTED = 13 CONNABORTED CONNREFUSED = 14 CONNREFUSED CONNRESET = 15 CONNRESET DEADLK = 16 DEADLK
    DESTADDRREQ = 17 DESTADDRREQ DOM = 18 DOM        DQUOT = 19 DQUOT         EXIST = 20 EXIST
    FAULT = 21 FAULT         FBIG = 22 FBIG          HOSTUNREACH = 23 HOSTUNREACH IDRM = 24 IDRM
    ILSEQ = 25 ILSEQ         INPROGRESS = 26 INPROGRESS INTR = 27 INTR        INVAL = 28 INVAL
    IO = 29 IO               ISCONN = 30 ISCONN      ISDIR = 31 ISDIR         LOOP = 32 LOOP
    MFILE = 33 MFILE         MLINK = 34 MLINK        MSGSIZE = 35 MSGSIZE     MULTIHOP = 36 MULTIHOP
    NAMETOOLONG = 37 NAMETOOLONG NETDOWN = 38 NETDOWN NETRESET = 39 NETRESET  NETUNREACH = 40 NETUNREACH
    NFILE = 41 NFILE         NOBUFS = 42 NOBUFS      NODEV = 43 NODEV         NOENT = 44 NOENT
    NOEXEC = 45 NOEXEC       NOLCK = 46 NOLCK        NOLINK = 47 NOLINK       NOMEM = 48 NOMEM
    NOMSG = 49 NOMSG         NOPROTOOPT = 50 NOPROTOOPT NOSPC = 51 NOSPC      NOSYS = 52 NOSYS
    NOTCONN = 53 NOTCONN     NOTDIR = 54 NOTDIR      NOTEMPTY = 55 NOTEMPTY   NOTRECOVERABLE = 56 NOTRECOVERABLE
    NOTSOCK = 57 NOTSOCK     NOTSUP = 58 NOTSUP      NOTTY = 59 NOTTY         NXIO = 60 NXIO
    OVERFLOW = 61 OVERFLOW   OWNERDEAD = 62 OWNERDEAD PERM = 63 PERM          PIPE = 64 PIPE
    PROTO = 65 PROTO         PROTONOSUPPORT = 66 PROTONOSUPPORT PROTOTYPE = 67 PROTOTYPE RANGE = 68 RANGE
    ROFS = 69 ROFS           SPIPE = 70 SPIPE        SRCH = 71 SRCH           STALE = 72 STALE
    TIMEDOUT = 73 TIMEDOUT   TXTBSY = 74 TXTBSY      XDEV = 75 XDEV
}

impl Errno {
    /// No error.
    pub const SUCCESS: Errno = Errno(0);
    /// The descriptor does not carry the right the call needs.
    pub const NOTCAPABLE: Errno = Errno(76);

    /// The number a guest sees as the call's result.
    pub fn raw(self) -> u16 {
        self.0
    }
}

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl From<io::Error> for Errno {
    /// An escape from a directory's sandbox is an `io::Error` without a system error code; it
    /// becomes `EPERM`, as in wasmtime.
    fn from(error: io::Error) -> Errno {
        if let Some(errno) = rustix::io::Errno::from_io_error(&error) {
            return errno.into();
        }
        match error.kind() {
            io::ErrorKind::PermissionDenied => Errno::PERM,
            io::ErrorKind::InvalidInput => Errno::INVAL,
            io::ErrorKind::NotFound => Errno::NOENT,
            io::ErrorKind::AlreadyExists => Errno::EXIST,
            io::ErrorKind::NotADirectory => Errno::NOTDIR,
            io::ErrorKind::IsADirectory => Errno::ISDIR,
            io::ErrorKind::Unsupported => Errno::NOTSUP,
            _ => Errno::IO,
        }
    }
}

/// A type in the signature of a WASI function: the ABI uses no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValType {
    /// A 32-bit integer: pointers, sizes, descriptors, flags.
    I32,
    /// A 64-bit integer: offsets, times, rights, cookies.
    I64,
}

/// `fdflags`.
pub(crate) mod fdflags {
    pub(crate) const APPEND: u16 = 1;
    pub(crate) const DSYNC: u16 = 2;
    pub(crate) const NONBLOCK: u16 = 4;
    pub(crate) const RSYNC: u16 = 8;
    pub(crate) const SYNC: u16 = 16;
    pub(crate) const ALL: u16 = 31;
}

/// `oflags`.
pub(crate) mod oflags {
    pub(crate) const CREAT: u16 = 1;
    pub(crate) const DIRECTORY: u16 = 2;
    pub(crate) const EXCL: u16 = 4;
    pub(crate) const TRUNC: u16 = 8;
    pub(crate) const ALL: u16 = 15;
}

/// `lookupflags`: follow a symbolic link in the last component.
pub(crate) const LOOKUP_SYMLINK_FOLLOW: u32 = 1;

/// `fstflags`.
pub(crate) mod fstflags {
    pub(crate) const ATIM: u16 = 1;
    pub(crate) const ATIM_NOW: u16 = 2;
    pub(crate) const MTIM: u16 = 4;
    pub(crate) const MTIM_NOW: u16 = 8;
    pub(crate) const ALL: u16 = 15;
}

/// `clockid`.
pub(crate) mod clockid {
    pub(crate) const REALTIME: u32 = 0;
    pub(crate) const MONOTONIC: u32 = 1;
    pub(crate) const PROCESS_CPUTIME: u32 = 2;
    pub(crate) const THREAD_CPUTIME: u32 = 3;
}

/// `filetype`.
pub(crate) mod filetype {
    pub(crate) const UNKNOWN: u8 = 0;
    pub(crate) const BLOCK_DEVICE: u8 = 1;
    pub(crate) const CHARACTER_DEVICE: u8 = 2;
    pub(crate) const DIRECTORY: u8 = 3;
    pub(crate) const REGULAR_FILE: u8 = 4;
    pub(crate) const SOCKET_DGRAM: u8 = 5;
    pub(crate) const SOCKET_STREAM: u8 = 6;
    pub(crate) const SYMBOLIC_LINK: u8 = 7;
}

/// Which of the two versions of preview 1 a call was made by. They differ in the layout of
/// `filestat` and `subscription` and in the order of `whence`, and in nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Snapshot1,
    Unstable,
}

/// Bytes of an `event`.
pub(crate) const EVENT_BYTES: u32 = 32;
/// Bytes of a `fdstat`.
pub(crate) const FDSTAT_BYTES: u32 = 24;
/// Bytes of a `prestat`.
pub(crate) const PRESTAT_BYTES: u32 = 8;
/// Tag of a `prestat` that is none of a directory, whose is 0.
pub(crate) const PRESTAT_OTHER: u8 = 1;
/// Bytes of a `dirent`, which the name follows.
pub(crate) const DIRENT_BYTES: u32 = 24;

impl Version {
    /// Bytes of a `filestat`.
    pub(crate) fn filestat_bytes(self) -> u32 {
        match self {
            Version::Snapshot1 => 64,
            Version::Unstable => 56,
        }
    }

    /// Bytes of a `subscription`.
    pub(crate) fn subscription_bytes(self) -> u32 {
        match self {
            Version::Snapshot1 => 48,
            Version::Unstable => 56,
        }
    }
}
