//! Events on disk, so that they outlive the service: [`Chronicle`].
//!
//! ```text
//! events.new   │ "STEV" │ version u16 │ record │ record │ …
//! events.old   the file before it
//! record       │ length u32 │ check: 8 bytes of BLAKE3 │ event in postcard │      integers are little-endian
//! ```
//!
//! A record is written when something happens, and nobody waits for the disk: a crash of the machine may cost the last
//! ones, one of the service none. What is not whole at the end of a file is cut off. A file with [`EVENTS_MAX`] records
//! becomes the old one, so that as many are always there, and never more than twice as many.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::limits::{EVENT_BYTES_MAX, EVENTS_MAX};
use crate::message::EventRecord;
use crate::wire::{decode, encode_plain};

const MAGIC: [u8; 4] = *b"STEV";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 6;
const CHECK_BYTES: usize = 8;
const RECORD_HEAD_BYTES: usize = 4 + CHECK_BYTES;
const NEW: &str = "events.new";
const OLD: &str = "events.old";

/// The file that is written into.
pub(super) struct Chronicle {
    folder: PathBuf,
    file: File,
    bytes: u64,
    records: usize,
}

impl Chronicle {
    /// Opens the one in a folder, and gives what is in it.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Vec<EventRecord>)> {
        super::runner::make_folder(folder)?;
        let (mut events, _) = read(&folder.join(OLD))?;
        let (newer, bytes) = read(&folder.join(NEW))?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(folder.join(NEW))?;
        file.set_len(bytes)?;
        let mut chronicle = Self {
            folder: folder.to_owned(),
            file,
            bytes,
            records: newer.len(),
        };
        if bytes == 0 {
            chronicle.begin()?;
        }
        events.extend(newer);
        Ok((chronicle, events))
    }

    /// Adds an event.
    pub(super) fn add(&mut self, event: &EventRecord) -> io::Result<()> {
        if self.records >= EVENTS_MAX {
            fs::rename(self.folder.join(NEW), self.folder.join(OLD))?;
            let mut options = OpenOptions::new();
            options.create(true).append(true).mode(0o600);
            self.file = options.open(self.folder.join(NEW))?;
            (self.bytes, self.records) = (0, 0);
            self.begin()?;
        }
        let body = encode_plain(event);
        let length = (body.len() as u32).to_le_bytes();
        self.write(&[&length[..], &check(&body), &body].concat())?;
        self.records += 1;
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        self.write(&head())
    }

    /// Writes all or nothing: what follows a part of a record would not be found again.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

fn head() -> [u8; HEAD_BYTES] {
    let [m0, m1, m2, m3] = MAGIC;
    let [v0, v1] = VERSION.to_le_bytes();
    [m0, m1, m2, m3, v0, v1]
}

fn check(body: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::hash(body).as_bytes()[..CHECK_BYTES]);
    check
}

/// What a file has, and how long it is as far as it is whole. One of another version has nothing.
fn read(path: &Path) -> io::Result<(Vec<EventRecord>, u64)> {
    let limit = HEAD_BYTES + EVENTS_MAX * (RECORD_HEAD_BYTES + EVENT_BYTES_MAX);
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(limit as u64).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let Some(mut rest) = bytes.strip_prefix(&head()) else {
        return Ok((Vec::new(), 0));
    };
    let mut events = Vec::new();
    while let Some((event, after)) = record(rest) {
        events.push(event);
        rest = after;
    }
    Ok((events, (bytes.len() - rest.len()) as u64))
}

fn record(bytes: &[u8]) -> Option<(EventRecord, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (found, rest) = rest.split_first_chunk()?;
    let (body, after) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let event = (check(body) == *found).then(|| decode(body).ok())??;
    Some((event, after))
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
