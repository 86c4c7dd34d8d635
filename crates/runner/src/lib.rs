//! The runner role: hosts the processes of one slice on one node, and moves their pages.
//!
//! ```text
//!  service ──orders, descriptors──► role ──► hosted: one process each ──► kind
//!     ▲                               │            │
//!     └───────events, answers─────────┘            └─ streams ──► log
//!
//!  leaving ──► channel (sealed, TCP) ──► arriving          between the runners of two nodes
//! ```
//!
//! A runner has no rights but what it was given as descriptors: it opens no socket and no path, and has no key. It knows
//! no node, no registry and no kind by name. It outlives its service, so that processes run on while that is started
//! again.
//!
//! - [`message`]: what is ordered and said; [`link`], [`bytes`]: its bytes
//! - [`role`]: the runner at work; `service`: whom it obeys; `hosted`: one process; `serving`: what users want of it
//! - `leaving`, `arriving`: the two sides of a move; `live`: rounds before it, while the process runs
//! - `following`, `rest`: the two sides of a memory that comes after its process; `left`: what is left of it
//! - `pump`: what runners say to each other; [`channel`]: sealed records
//! - `beside`: what it knows itself of a process, on its way in an image
//! - `copying`: copies for files and snapshots, and processes made of them; [`copy`]: their bytes
//! - `streams`, [`log`]: output on its way into a file; `input`: what users type, on its way to a process
//! - [`files`]: what users copy from and to a process's directories
//! - [`handle`]: the service's end
//! - [`fault`]: where tests have it stand still
//! - [`limits`]: every limit

mod arriving;
mod beside;
pub mod bytes;
pub mod channel;
mod clients;
pub mod copy;
mod copying;
pub mod fault;
pub mod files;
mod following;
pub mod handle;
mod hosted;
mod input;
mod leaving;
mod left;
pub mod limits;
pub mod link;
mod live;
pub mod log;
pub mod message;
mod pump;
mod rest;
pub mod role;
mod service;
mod serving;
mod streams;
mod watch;

pub use beside::{BESIDE, BESIDE_VERSION, Beside, Rewind, take_out};
pub use handle::{Handle, HandleError};
pub use pump::PumpError;
pub use role::{Elsewhere, Given, Kinds, run};

/// For fuzz targets.
#[cfg(fuzzing)]
pub mod fuzz {
    /// Reads a record of a channel, after its seal was opened.
    pub fn record(bytes: &[u8]) {
        let _ = crate::pump::Record::read(bytes);
    }
}
