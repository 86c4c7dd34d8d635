//! WASI preview 1 as steps: each call either is done or says what it waits for.
//!
//! A [`Wasi`] is one process's world: its descriptors, clocks, arguments. The engine hands it each
//! call with the guest's memory ([`Wasi::call`]); the answer is a [`Step`]. A call that waits has
//! had no effect, so it can be issued again at any time with the same arguments: when what it
//! waits for has happened, or on another host, after [`Wasi::capture`] and [`Wasi::restore`].
//! The crate knows no engine, no threads and no event loop, and never blocks on a stream.
//!
//! ```text
//! Function ─► wasi ─► process  clock, arguments, random
//!              │      files, filestat, listing, paths, sockets ─► table ─► streams ─► host
//!              │      poll
//!              └────► capture ─► state ─► restore
//! ```
//!
//! | module | what is there |
//! |---|---|
//! | `abi`, `rights`, `function` | numbers, names and signatures of the witx |
//! | `memory` | checked access to the guest's memory |
//! | `step`, `wasi` | one call; the world, and the dispatch |
//! | `config`, `clocks` | what a process is given |
//! | `table`, `streams` | what descriptors stand for, and transfers that never block |
//! | `process`, `files`, `filestat`, `listing`, `paths`, `sockets`, `poll` | the functions, by theme |
//! | `capture`, `state`, `restore` | to data and back |
//! | `describe` | what people are shown |

mod abi;
mod capture;
mod clocks;
mod config;
mod describe;
mod files;
mod filestat;
mod function;
mod listing;
mod memory;
mod paths;
mod poll;
mod process;
mod restore;
mod rights;
mod sockets;
mod state;
mod step;
mod streams;
mod table;
mod wasi;

pub use abi::{Errno, ValType};
pub use capture::{CaptureError, Unmovable};
pub use clocks::{Clocks, HostClocks};
pub use config::{Config, ConfigError, Directory, Limits, PassedSocket, Rebind, Stdio};
pub use describe::{Binding, DescriptorDescription, DescriptorKind, Escaped};
pub use function::{Function, MODULE, MODULE_UNSTABLE};
pub use restore::{RestoreError, Unbound};
pub use rights::Rights;
pub use state::{NeededDirectory, WasiState};
pub use step::{Interest, Step, Wait};
pub use wasi::Wasi;
