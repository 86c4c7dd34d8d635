//! The manager: a process of its own that does a node's [`Workshop`] for its service. It has what privilege there is and
//! no network; the service has the network and no privilege.
//!
//! ```text
//!  service: Manager ──Asked, descriptors──► serve(): checks, a thread for each, Workshop
//!              ▲                               │
//!              └────Answered, descriptors──────┘     over a pair of sockets, framed as between a service and its runner
//! ```
//!
//! - [`message`]: what is asked and answered
//! - [`Greeted`], [`Manager`]: the service's end
//! - [`serve`]: the manager's end. A service may have been taken over through the network: it gets runners of its own data
//!   directory, one at a time, directories that it could read anyway, programs made ready, and nothing else
//!
//! Either end sees by the socket that the other one has gone.

pub mod message;
mod remote;
mod serve;

pub use remote::{Greeted, Manager};
pub use serve::serve;
