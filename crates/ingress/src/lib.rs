//! Clients' connections to a process that moves while it serves them.
//!
//! One node, the *ingress*, owns the port and the connections of clients for as long as they last. Wherever the process
//! is, its node is *attached* to the ingress by one stream of bytes, on which the connections' bytes go in frames:
//!
//! ```text
//!  client ──TCP── Front ═══════ frames ═══════ Back ──socket pair── process
//!  client ──TCP──   │     one attachment, one     │
//!                   │     hop; cut by each move   │
//!            keeps what the               keeps what the ingress has
//!            process has not taken        not taken, and travels
//! ```
//!
//! Each direction of a connection counts its bytes from 0. An end keeps what it has sent until the other one has *taken*
//! it: handed it on. When an attachment breaks, because the process moves or a node dies, the next one begins with what
//! each end has, and goes on from there: no byte is lost, doubled or reordered, and clients notice nothing but the time.
//! What an end keeps is bounded by [`WINDOW_BYTES`], which is how back-pressure works through it.
//!
//! - [`Front`]: the ingress's end; [`Back`]: the process's, of which a [`Carried`] travels
//! - [`Frame`], [`Decoder`]: what goes over an attachment
//!
//! Both ends are state machines: no socket, no thread, no clock. Who drives them tells them what was read and asks what
//! is to be written.

mod back;
mod frame;
mod front;
mod half;
mod table;

pub use back::{Back, Carried, CarriedConnection};
pub use frame::{DATA_BYTES_MAX, Decoder, Frame, HEAD_BYTES, Kind, Malformed};
pub use front::Front;
pub use table::{ConnectionId, Event, ProtocolError};

/// Most bytes of one direction of a connection that are sent and not taken.
pub const WINDOW_BYTES: usize = 256 << 10;
/// The same, of a port with so many connections that they have to share [`PORT_BYTES`].
pub const WINDOW_BYTES_MIN: usize = 16 << 10;
/// What the connections of a port share, in bytes of each direction: clients that do not read must not fill the memory, nor
/// make a process so heavy that it cannot move.
pub const PORT_BYTES: usize = 64 << 20;
/// Most connections that a port has at once.
pub const CONNECTIONS_MAX: usize = 16 << 10;
