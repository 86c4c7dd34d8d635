//! What a process is given: arguments, environment, standard streams, directories, sockets, limits.

use crate::clocks::Clocks;
use cap_std::fs::Dir;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use sterna_process::{Connection, Listener};

/// What a new process is started with. Descriptors are numbered as everywhere: the standard
/// streams 0 to 2, then `listeners`, then `sockets`, then `directories`.
pub struct Config {
    /// Arguments; the first is the program's name. Bytes without NUL.
    pub arguments: Vec<Vec<u8>>,
    /// Environment, `KEY=VALUE` each. Bytes without NUL.
    pub environment: Vec<Vec<u8>>,
    /// Standard input, output and error.
    pub stdio: [Stdio; 3],
    /// Directories the process may use, by the name it knows them by.
    pub directories: Vec<Directory>,
    /// Where connections come in that are accepted for the process, as descriptors from 3 on. It can move with them.
    pub listeners: Vec<Listener>,
    /// Sockets handed to the process, which cannot move while it has them.
    pub sockets: Vec<PassedSocket>,
    /// Bounds.
    pub limits: Limits,
    /// Where time comes from.
    pub clocks: Box<dyn Clocks>,
}

impl Config {
    /// No arguments, no environment, null streams, no directories, default limits.
    pub fn new(clocks: Box<dyn Clocks>) -> Config {
        Config {
            arguments: Vec::new(),
            environment: Vec::new(),
            stdio: [Stdio::Null, Stdio::Null, Stdio::Null],
            directories: Vec::new(),
            listeners: Vec::new(),
            sockets: Vec::new(),
            limits: Limits::default(),
            clocks,
        }
    }
}

/// What a restored process is given in place of what it had on its earlier host. Sockets and
/// pipes other than the standard streams cannot be given again.
pub struct Rebind {
    /// Standard input, output and error. [`Stdio::Closed`] counts as [`Stdio::Null`] where the
    /// process still has the stream open.
    pub stdio: [Stdio; 3],
    /// Directories by the guest's name; what the process does not hold is ignored. A directory that
    /// was read-only stays so.
    pub directories: Vec<Directory>,
    /// Its listeners, in their order. One that is not given never has a connection again.
    pub listeners: Vec<Listener>,
    /// Connections that it has by them. Those that are not given are broken.
    pub connections: Vec<Connection>,
    /// Bounds. What the process has used up counts.
    pub limits: Limits,
    /// Where time comes from.
    pub clocks: Box<dyn Clocks>,
}

impl Rebind {
    /// Null streams, no directories, default limits.
    pub fn new(clocks: Box<dyn Clocks>) -> Rebind {
        Rebind {
            stdio: [Stdio::Null, Stdio::Null, Stdio::Null],
            directories: Vec::new(),
            listeners: Vec::new(),
            connections: Vec::new(),
            limits: Limits::default(),
            clocks,
        }
    }
}

/// A standard stream.
#[derive(Debug, Default)]
pub enum Stdio {
    /// A descriptor of the caller: file, pipe, terminal, socket. It may stay blocking and shared;
    /// its flags are never changed.
    Inherit(OwnedFd),
    /// Reads as empty, swallows what is written.
    #[default]
    Null,
    /// The descriptor is not open.
    Closed,
    /// Reads as these bytes; writing is `EBADF`.
    Input(Vec<u8>),
    /// Collects what is written; reads as empty.
    Output(Arc<Mutex<Vec<u8>>>),
}

/// A directory given to a process.
#[derive(Debug)]
pub struct Directory {
    pub(crate) dir: Dir,
    pub(crate) guest: String,
    pub(crate) host: PathBuf,
    pub(crate) read_only: bool,
}

impl Directory {
    /// Opens `host` for the process to see as `guest`.
    ///
    /// # Errors
    /// Those of opening a directory.
    pub fn open(host: &Path, guest: impl Into<String>, read_only: bool) -> io::Result<Directory> {
        let dir = Dir::open_ambient_dir(host, cap_std::ambient_authority())?;
        Ok(Directory {
            dir,
            guest: guest.into(),
            host: host.to_path_buf(),
            read_only,
        })
    }

    /// A directory opened by someone else. `host` is shown to people and kept in states as the
    /// default for a restore; it is never opened.
    pub fn from_fd(
        fd: OwnedFd,
        host: impl Into<PathBuf>,
        guest: impl Into<String>,
        read_only: bool,
    ) -> Directory {
        let dir = Dir::from_std_file(std::fs::File::from(fd));
        Directory {
            dir,
            guest: guest.into(),
            host: host.into(),
            read_only,
        }
    }
}

/// A socket given to a process.
#[derive(Debug)]
pub struct PassedSocket {
    /// The socket; listening or connected.
    pub fd: OwnedFd,
    /// Its name, for people.
    pub name: String,
}

/// Bounds of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Descriptors open at once; `EMFILE` above. At most [`Limits::DESCRIPTORS_MAX`].
    pub descriptors: u32,
    /// Bytes written over the process's life, to streams, files and sockets, `fd_allocate`
    /// included; `EDQUOT` above. Restored processes go on counting. `None`: no bound.
    pub output_bytes: Option<u64>,
}

impl Limits {
    /// The most descriptors a process can be allowed.
    pub const DESCRIPTORS_MAX: u32 = 65_536;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            descriptors: 1024,
            output_bytes: None,
        }
    }
}

/// Why a [`Config`] cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An argument or variable holds a NUL byte, which the ABI cannot express.
    #[error("{what} number {index} contains a NUL byte")]
    Nul {
        /// `argument` or `environment variable`.
        what: &'static str,
        /// Counted from zero.
        index: usize,
    },
    /// Arguments or environment do not fit the ABI's 32-bit sizes.
    #[error("the {0} are larger than 1 GiB")]
    TooLarge(&'static str),
    /// Two directories have the same guest name.
    #[error("two directories are given as {:?}; give each its own name", crate::Escaped(.0))]
    SameName(String),
    /// More descriptors than the limit.
    #[error("{wanted} descriptors are given, and the limit is {limit}")]
    TooMany {
        /// How many were given.
        wanted: usize,
        /// [`Limits::descriptors`].
        limit: u32,
    },
    /// The limit itself is out of range.
    #[error("a limit of {0} descriptors is above {max}", max = Limits::DESCRIPTORS_MAX)]
    LimitTooHigh(u32),
    /// A descriptor could not be used.
    #[error("{name} cannot be used")]
    Unusable {
        /// Which one.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("directories", &self.directories)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Rebind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rebind")
            .field("directories", &self.directories)
            .finish_non_exhaustive()
    }
}
