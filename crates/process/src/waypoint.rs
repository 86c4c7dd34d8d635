//! Places at which a process can stand: [`Waypoint`].
//!
//! To go on from where it was stopped, a process may need something made for that place. A target that hears in time
//! where the process tends to stand makes it ready while the process runs; then the process is paused at a moment at
//! which it stands on nothing else. So nothing is made inside the pause:
//!
//! ```text
//! source: Process::waypoints ──► target: Kind::anticipate ──► source: Process::pause_among
//! ```

use serde::{Deserialize, Serialize};

/// Most waypoints that a look gives, and that a kind makes ready at once: they come from other machines.
pub const WAYPOINTS_MAX: usize = 4096;

/// A place in a program at which a frame of a process can stand: a number that the process's kind gives, the same for
/// the same program on every machine, whatever the version that runs it. Only the kind knows what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Waypoint(pub u64);

impl std::fmt::Display for Waypoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
