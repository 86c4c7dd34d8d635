//! Nodes: machines that know each other by their keys, and what they agree on.
//!
//! ```text
//!  commands of this machine            other nodes
//!        │ control.sock, SO_PEERCRED         │ QUIC, TLS with the nodes' keys
//!        ▼                                   ▼
//!        └────────► Authority ──► door ◄─────┘
//!                                  │ permitted
//!                                  ▼
//!                               Service ──────► registry: here, or at the node that serves it
//! ```
//!
//! - [`identity`]: a node is an Ed25519 key
//! - `tls`, `transport`: connections on which both keys were proved
//! - [`wire`], [`message`]: frames and versions; what is said
//! - [`door`]: on whose behalf a request is made, and whether that is enough
//! - [`ticket`]: how a node gets into a cluster
//! - [`store`], [`registry`]: records that change by compare-and-swap; which ones there are, and who may change them
//! - [`handover`]: how nodes know where the registry has moved to
//! - [`data`]: what is on disk
//! - `trees`: files that are copied along with a process
//! - `hosting`: the processes of a node, and their moves; [`workshop`]: what that needs of whoever wires it;
//!   [`manager`]: the same in a process of its own
//! - `service`, [`node`]: a node at work, from its start to its end
//! - [`client`]: asks a node of this machine
//! - [`limits`]: every limit
//!
//! This crate compiles nothing and knows no kind of process. It never opens a file because somebody on the network says so.

pub mod client;
pub mod data;
pub mod door;
pub mod handover;
mod hosting;
pub mod identity;
mod ingress;
pub mod limits;
pub mod manager;
pub mod message;
pub mod node;
pub mod registry;
mod service;
pub mod store;
#[cfg(test)]
mod tests;
pub mod ticket;
mod tls;
mod transport;
mod trees;
pub mod wire;
pub mod workshop;

pub use client::{AskError, ask, ask_with, stop};
pub use hosting::{OpenStoreError, ParseStoreError, StoreAt};
pub use identity::{NodeId, NodeKey};
pub use node::{Node, Opened, Options, StartError, Stopper};
pub use ticket::Ticket;
pub use transport::DEFAULT_PORT;
pub use trees::{TreeDeed, TreeDone};
pub use workshop::Workshop;
