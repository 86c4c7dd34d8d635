//! [`Settings`] and [`Limits`]: what the server serves, and how much others can make it do.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is served, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// The directory that is the root of all paths. Nothing outside it is opened, whatever a path or a link says.
    pub root: PathBuf,
    /// The file that is sent for a directory.
    pub index: String,
    /// A directory without an index is listed; otherwise it is refused.
    pub listing: bool,
    /// Names that begin with a dot are served, too. `.well-known` always is.
    pub hidden: bool,
    /// How much others can make the server do.
    pub limits: Limits,
    /// For measurements: how reads of files are made slow.
    pub slowness: Slowness,
}

impl Settings {
    /// Serves a directory in the usual way.
    pub fn of(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            index: "index.html".to_owned(),
            listing: false,
            hidden: false,
            limits: Limits::default(),
            slowness: Slowness::None,
        }
    }
}

/// How much others can make the server do. What is beyond is refused or closed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limits {
    /// Connections at once. One more is answered with 503 and closed.
    pub connections: usize,
    /// Bytes of a request's first line and header fields.
    pub head_bytes: usize,
    /// Bytes of a request's body. Bodies mean nothing to a server of files, and are thrown away.
    pub body_bytes: u64,
    /// From the first byte of a request to the end of its head.
    pub head_time: Duration,
    /// Without any request on a connection.
    pub idle_time: Duration,
    /// Without the client taking any byte of a response. Up to 8 MiB that the kernels of both sides hold by then it may
    /// take unseen, so it has the time for these at [`rate_min`](Self::rate_min) besides.
    pub stall_time: Duration,
    /// Bytes per second that a client must take of a response on average, beyond one stall.
    pub rate_min: u64,
    /// After a stop was asked for, until what is still being sent is cut off.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            head_bytes: 16 * 1024,
            body_bytes: 64 * 1024,
            head_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(75),
            stall_time: Duration::from_secs(30),
            rate_min: 4096,
            grace: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// How long a response of so many bytes may take.
    pub(crate) fn response_time(&self, bytes: u64) -> Duration {
        self.stall_time + Duration::from_secs(bytes / self.rate_min.max(1))
    }

    /// How often a model that looks for connections out of time must look.
    pub(crate) fn sweep(&self) -> Duration {
        const OFTEN: Duration = Duration::from_millis(10);
        const SELDOM: Duration = Duration::from_secs(1);
        let least = self.head_time.min(self.idle_time).min(self.stall_time);
        (least / 4).clamp(OFTEN, SELDOM)
    }
}

/// How reads of files are made slow, to see what a model does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slowness {
    /// They are as fast as the machine.
    None,
    /// Each read blocks its kernel thread for so long, as one of a slow disk does.
    Injected(Duration),
    /// What was sent is dropped from the page cache, so that the next read really comes from the disk.
    Cold,
}
