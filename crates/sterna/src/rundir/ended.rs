//! The processes that ended lately, so that who asks for one of them learns that, and not that there never was
//! one.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sterna_process::ProcessId;

use super::{Record, read_short, write_whole};
use crate::show;

/// How many are kept, and for how long.
const ENDED_MAX: usize = 64;
const KEPT_FOR: Duration = Duration::from_secs(600);

/// A process that is no more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) id: ProcessId,
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) at_ms: u64,
    /// How, e.g. `ended with code 1`.
    pub(super) how: String,
}

impl Ended {
    pub(super) fn ago(&self) -> Duration {
        let now = show::since_epoch_ms(SystemTime::now());
        Duration::from_millis(now.saturating_sub(self.at_ms))
    }
}

/// Those that are known, the last first.
pub(super) fn read(directory: &Path) -> Vec<Ended> {
    // A file that is missing, damaged or of another version only makes answers poorer.
    let text = read_short(&directory.join("ended")).unwrap_or_default();
    let mut ended: Vec<Ended> = serde_json::from_str(&text).unwrap_or_default();
    ended.retain(|ended| ended.ago() < KEPT_FOR);
    ended
}

/// Adds one. Only under the directory's lock.
pub(super) fn note(directory: &Path, record: &Record, how: &str) {
    let mut ended = read(directory);
    let one = Ended {
        id: record.id,
        name: record.name.clone(),
        pid: record.pid,
        at_ms: show::since_epoch_ms(SystemTime::now()),
        how: how.to_owned(),
    };
    ended.insert(0, one);
    ended.truncate(ENDED_MAX);
    if let Ok(text) = serde_json::to_vec(&ended) {
        let _ = write_whole(&directory.join("ended"), &text); // see `read`
    }
}
