//! How much and how long: every limit of what nodes say to each other, by name.

use std::time::Duration;

/// Longest request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Longest reply, in bytes: a list of [`MEMBERS_MAX`] members fits.
pub const REPLY_BYTES_MAX: usize = 4 << 20;
/// Nodes of one cluster, those that were removed included.
pub const MEMBERS_MAX: usize = 4096;
/// Addresses of one node.
pub const ADDRESSES_MAX: usize = 16;
/// Longest name of a node, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest text about a node (version, confinement), in bytes.
pub const TEXT_BYTES_MAX: usize = 512;
/// Tickets that are valid at the same time.
pub const TICKETS_MAX: usize = 1024;
/// Longest time for which a ticket may be valid.
pub const TICKET_VALID_MAX: Duration = Duration::from_secs(7 * 86_400);

/// From the first packet of a connection until both sides have said hello.
pub const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// For a whole request to arrive, and for a reply to be taken.
pub const FRAME_WITHIN: Duration = Duration::from_secs(10);
/// For another node to answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// For another node to say that it is there.
pub const PROBE_WITHIN: Duration = Duration::from_secs(3);
/// Of that, for a connection that may be dead.
pub const PROBE_OLD_WITHIN: Duration = Duration::from_secs(1);
/// Between two such questions, unless somebody asks.
pub const PROBE_EVERY: Duration = Duration::from_secs(5);
/// For how long a question for changes stays open at most.
pub const WATCH_WITHIN: Duration = Duration::from_secs(20);
/// First pause after the registry could not be reached; later ones double.
pub const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest such pause.
pub const RETRY_MAX: Duration = Duration::from_secs(5);
/// For others to take notice when a node stops.
pub const GOODBYE_WITHIN: Duration = Duration::from_secs(2);
/// Silence after which a connection is dead.
pub const IDLE_MAX: Duration = Duration::from_secs(15);
/// For a stranger to be admitted, after which it is cut off.
pub const STRANGER_WITHIN: Duration = Duration::from_secs(30);

/// Connections at the same time.
pub const CONNECTIONS_MAX: usize = 1024;
/// Of those, with keys that are no member's.
pub const STRANGERS_MAX: usize = 64;
/// Connections from which on a peer must prove its address before it gets an answer.
pub const CONNECTIONS_UNPROVEN_MAX: usize = 256;
/// Requests at the same time on one connection.
pub const REQUESTS_MAX: u32 = 64;
/// Requests at the same time on the local socket.
pub const LOCAL_MAX: usize = 256;

/// By how much the clocks of two nodes may differ when one joins the other.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);
