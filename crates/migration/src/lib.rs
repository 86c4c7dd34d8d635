//! How a process moves from one node to another: who owns it, and what nodes say to each other.
//!
//! Start reading at [`record`].
//!
//! - [`id`]: nodes, attempts, grants
//! - [`record`]: who owns a process, and how that changes
//! - [`message`], [`wire`]: what nodes say to each other, and its bytes

pub mod id;
pub mod message;
pub mod record;
pub mod wire;

pub use id::{Attempt, Grant, GrantSeal, MoveId, NodeId};
pub use message::{
    Body, Fault, Message, Offer, Refusal, Retry, Size, Snapshot, Strategy, TargetFailure, Timings,
};
pub use record::{Intent, Life, Record, Swap, SwapForbidden, Verdict, Version};
pub use wire::WireError;
