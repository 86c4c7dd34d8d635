//! What a process is given: [`Environment`] when it is started, [`Resources`] also when it arrives.
//!
//! A process has no authority but what is handed over here as open descriptors. Nobody more privileged opens
//! a path on a process's word, and a process that arrives gets what its target grants, whatever its image
//! asks for.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::listener::{Connection, Listener};

/// All that a program is started with.
#[derive(Debug, Default)]
pub struct Environment {
    /// Arguments; by custom the first is the program's name.
    pub arguments: Vec<OsString>,
    /// Environment variables, as names and values.
    pub variables: Vec<(OsString, OsString)>,
    /// The function to call instead of the program's usual entry, if its kind knows several.
    pub entry: Option<String>,
    /// Descriptors and limits.
    pub resources: Resources,
}

/// What is tied to the machine a process is on: handed over when it starts and again after each move.
#[derive(Debug, Default)]
pub struct Resources {
    /// Standard input, output and error.
    pub stdio: Stdio,
    /// Directories it may use.
    pub directories: Vec<Directory>,
    /// Where connections of its clients come in.
    pub listeners: Vec<Listener>,
    /// Connections that it has already. Those that it has and that are not given again are broken to it.
    pub connections: Vec<Connection>,
    /// How much it may use.
    pub limits: Limits,
}

/// Standard input, output and error; what is `None` is empty (input) or swallows all (output, error).
#[derive(Debug, Default)]
pub struct Stdio {
    /// Descriptor to read.
    pub input: Option<OwnedFd>,
    /// Descriptor to write.
    pub output: Option<OwnedFd>,
    /// Descriptor to write.
    pub error: Option<OwnedFd>,
}

impl Stdio {
    /// The caller's own, duplicated.
    ///
    /// # Errors
    /// If they cannot be duplicated, e.g. because the caller has none.
    pub fn inherited() -> io::Result<Self> {
        Ok(Self {
            input: Some(io::stdin().as_fd().try_clone_to_owned()?),
            output: Some(io::stdout().as_fd().try_clone_to_owned()?),
            error: Some(io::stderr().as_fd().try_clone_to_owned()?),
        })
    }
}

/// A directory that a process may use, and all below it.
#[derive(Debug)]
pub struct Directory {
    /// Its absolute path as the process sees it. After a move, this is how a binding finds its directory.
    pub guest_path: String,
    /// The directory, opened by someone who may.
    pub handle: OwnedFd,
    /// Whether writing is forbidden.
    pub read_only: bool,
}

impl Directory {
    /// Opens `host_path` with the caller's own rights.
    ///
    /// # Errors
    /// If it cannot be opened or is no directory.
    pub fn open(
        host_path: impl AsRef<std::path::Path>,
        guest_path: impl Into<String>,
    ) -> io::Result<Self> {
        let handle = File::open(host_path)?;
        if !handle.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self {
            guest_path: guest_path.into(),
            handle: handle.into(),
            read_only: false,
        })
    }
}

/// How much a process may use. What goes beyond is refused to it as its kind does that (for wasm,
/// `memory.grow` gives −1), or ends it where nothing can be refused (CPU time, output).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Length of all memory regions together.
    pub memory_bytes_max: u64,
    /// Elements of all tables together.
    pub table_elements_max: u64,
    /// Open descriptors.
    pub descriptors_max: u32,
    /// Instances of modules (or whatever the kind has for it).
    pub instances_max: u32,
    /// Bytes written to standard output and error over the process's life on this machine.
    pub output_bytes_max: Option<u64>,
    /// CPU time over the process's whole life.
    pub cpu_time_max: Option<Duration>,
}

impl Default for Limits {
    /// Room for large single programs; whoever runs programs of others should set tighter limits.
    fn default() -> Self {
        Self {
            memory_bytes_max: 4 << 30,
            table_elements_max: 10_000_000,
            descriptors_max: 1024,
            instances_max: 10_000,
            output_bytes_max: None,
            cpu_time_max: None,
        }
    }
}
