//! [`Journal`]: a file of records, of which each is whole or not there.
//!
//! ```text
//! file     │ head: 6 bytes │ record │ record │ …
//! record   │ length u32 │ check: 8 bytes of BLAKE3 │ value in postcard │      integers are little-endian
//! ```
//!
//! Nobody waits for the disk: a crash of the machine may cost records, one of the service none. What is not whole at the end of a
//! file is cut off.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::{decode, encode_plain};

pub(super) const HEAD_BYTES: usize = 6;
const CHECK_BYTES: usize = 8;
/// What a record adds to its value.
pub(super) const RECORD_HEAD_BYTES: usize = 4 + CHECK_BYTES;

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    bytes: u64,
}

impl Journal {
    /// Goes on after so many bytes of a file; what is after those is cut off. One of none begins anew, and is made if it is not
    /// there.
    pub(super) fn append(path: &Path, head: [u8; HEAD_BYTES], bytes: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).mode(0o600).open(path)?;
        file.set_len(bytes)?;
        let mut journal = Self { file, bytes };
        if bytes == 0 {
            journal.write(&head)?;
        }
        Ok(journal)
    }

    /// How long it is.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a record.
    pub(super) fn add(&mut self, value: &impl Serialize) -> io::Result<()> {
        let body = encode_plain(value);
        let length = (body.len() as u32).to_le_bytes();
        self.write(&[&length[..], &check(&body), &body].concat())
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

/// The records in the first `bytes_max` bytes of a file, and how long it is as far as it is whole: not at all if it begins
/// otherwise, or is not there.
pub(super) fn read<T: DeserializeOwned>(
    path: &Path,
    head: [u8; HEAD_BYTES],
    bytes_max: u64,
) -> io::Result<(Vec<T>, u64)> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(bytes_max).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let Some(mut rest) = bytes.strip_prefix(&head) else {
        return Ok((Vec::new(), 0));
    };
    let mut records = Vec::new();
    while let Some((value, after)) = record(rest) {
        records.extend(value);
        rest = after;
    }
    Ok((records, (bytes.len() - rest.len()) as u64))
}

fn check(body: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::hash(body).as_bytes()[..CHECK_BYTES]);
    check
}

/// The first record, and what is after it. One that is whole and of another form is passed over.
fn record<T: DeserializeOwned>(bytes: &[u8]) -> Option<(Option<T>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (found, rest) = rest.split_first_chunk()?;
    let (body, after) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    (check(body) == *found).then(|| (decode(body).ok(), after))
}
