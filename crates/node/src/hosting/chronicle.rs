//! Events on disk, so that they outlive the service: [`Chronicle`].
//!
//! ```text
//! events.new   a journal that begins with "STEV" and its version
//! events.old   the one before it
//! ```
//!
//! A file with [`EVENTS_MAX`] records becomes the old one, so that as many are always there, and never more than twice as
//! many.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::journal::{self, HEAD_BYTES, Journal, RECORD_HEAD_BYTES};
use crate::limits::{EVENT_BYTES_MAX, EVENTS_MAX};
use crate::message::EventRecord;

const HEAD: [u8; HEAD_BYTES] = *b"STEV\x01\0";
const BYTES_MAX: u64 = (HEAD_BYTES + EVENTS_MAX * (RECORD_HEAD_BYTES + EVENT_BYTES_MAX)) as u64;
const NEW: &str = "events.new";
const OLD: &str = "events.old";

/// The file that is written into.
pub(super) struct Chronicle {
    folder: PathBuf,
    journal: Journal,
    records: usize,
}

impl Chronicle {
    /// Opens the one in a folder, and gives what is in it.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Vec<EventRecord>)> {
        super::runner::make_folder(folder)?;
        let (mut events, _) = journal::read(&folder.join(OLD), HEAD, BYTES_MAX)?;
        let new = folder.join(NEW);
        let (newer, bytes) = journal::read(&new, HEAD, BYTES_MAX)?;
        let chronicle = Self {
            folder: folder.to_owned(),
            journal: Journal::append(&new, HEAD, bytes)?,
            records: newer.len(),
        };
        events.extend(newer);
        Ok((chronicle, events))
    }

    /// Adds an event.
    pub(super) fn add(&mut self, event: &EventRecord) -> io::Result<()> {
        if self.records >= EVENTS_MAX {
            let new = self.folder.join(NEW);
            fs::rename(&new, self.folder.join(OLD))?;
            self.journal = Journal::append(&new, HEAD, 0)?;
            self.records = 0;
        }
        self.journal.add(event)?;
        self.records += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::EventSort;

    fn event(number: u64) -> EventRecord {
        EventRecord {
            number,
            at_ms: 7,
            process: None,
            sort: EventSort::Other,
            what: "was seen".into(),
        }
    }

    fn numbers(events: &[EventRecord]) -> Vec<u64> {
        events.iter().map(|event| event.number).collect()
    }

    #[test]
    fn what_happened_is_there_again_and_a_torn_end_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NEW);
        let (mut chronicle, found) = Chronicle::open(folder.path()).unwrap();
        assert!(found.is_empty());
        for number in 1..=3 {
            chronicle.add(&event(number)).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        let record_bytes = (whole.len() - HEAD_BYTES) / 3;
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut chronicle, found) = Chronicle::open(folder.path()).unwrap();
            let left = cut.saturating_sub(HEAD_BYTES) / record_bytes;
            let mut expected: Vec<u64> = (1..=left as u64).collect();
            assert_eq!(numbers(&found), expected, "{cut}");
            chronicle.add(&event(9)).unwrap();
            expected.push(9);
            let (_, found) = Chronicle::open(folder.path()).unwrap();
            assert_eq!(numbers(&found), expected, "{cut}");
        }
    }

    #[test]
    fn no_more_is_kept_than_there_may_be_and_never_less() {
        let folder = tempfile::tempdir().unwrap();
        let (mut chronicle, _) = Chronicle::open(folder.path()).unwrap();
        let count = 3 * EVENTS_MAX as u64 + 5;
        for number in 1..=count {
            chronicle.add(&event(number)).unwrap();
        }
        let (_, found) = Chronicle::open(folder.path()).unwrap();
        assert_eq!(found.last().unwrap().number, count);
        assert!((EVENTS_MAX..=2 * EVENTS_MAX).contains(&found.len()));
        assert!(found.is_sorted_by(|one, next| one.number + 1 == next.number));
    }
}
