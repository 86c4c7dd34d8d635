//! Messages and records as bytes.
//!
//! ```text
//! │ magic "SM" or "SR" │ version u16 │ length of the body u32 │ body │
//! ```
//!
//! Integers outside of the body are little-endian; the body is in
//! [postcard](https://postcard.jamesmunns.com/wire-format), by the schema of its version (`v1`, `v2`, `v3`). Each version's
//! schema is written down in types of its own and never changes: samples in the tests hold its bytes. A node
//! writes the newest version that both sides read, and reads the newest and the one before, so that a cluster can
//! be upgraded node by node, with moves between old and new ones.
//!
//! There is one way to write a value, and nothing else is read: no bytes left over, no number longer than it must
//! be. There is no checksum: messages travel on sealed connections, and registries keep their own.

mod texts;
mod v1;
mod v2;
mod v3;

use std::ops::RangeInclusive;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::Message;
use crate::record::{Life, Record};

/// Version that is written, unless the other side is older.
pub const VERSION_NEWEST: u16 = 3;
/// Oldest version that is read: the one before the newest.
pub const VERSION_OLDEST: u16 = 2;
/// Oldest version of records that is read.
const RECORD_VERSION_OLDEST: u16 = 1;
/// Newest version of records. Each is written in the oldest version that can say it, which most nodes read.
pub const RECORD_VERSION_NEWEST: u16 = 2;
/// Length of what comes before a body: [`body_bytes`] reads it.
pub const HEAD_BYTES: usize = 2 + 2 + 4;
/// Longest body. The longest message is an offer with the most regions that a process can have.
pub const BODY_BYTES_MAX: usize = 512 << 10;
/// Longest text in a message, in bytes. Longer ones are cut when they are written and refused when they are read.
pub const TEXT_BYTES_MAX: usize = 1024;

const MESSAGE: [u8; 2] = *b"SM";
const RECORD: [u8; 2] = *b"SR";

/// Why bytes are not a message or a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// They begin otherwise.
    #[error("not a {what}")]
    Foreign {
        /// What was expected.
        what: &'static str,
    },
    /// They were written by a newer node.
    #[error(
        "version {found} is newer than {newest}, the newest that is understood: upgrade this node"
    )]
    Newer {
        /// The version.
        found: u16,
        /// The newest that is read.
        newest: u16,
    },
    /// They were written by a node that is too old.
    #[error(
        "version {found} is older than {oldest}, the oldest that is understood: upgrade the other node"
    )]
    Older {
        /// The version.
        found: u16,
        /// The oldest that is read.
        oldest: u16,
    },
    /// Something is longer than it may be.
    #[error("{what} of {bytes} bytes, {limit} are allowed")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// They end too early.
    #[error("cut short")]
    Truncated,
    /// They go on after the end.
    #[error("{bytes} bytes are left over")]
    Leftover {
        /// How many.
        bytes: usize,
    },
    /// Their body is not in the schema of their version, e.g. of a kind that is not known.
    #[error("malformed: {reason}")]
    Malformed {
        /// What the decoder says.
        reason: String,
    },
}

impl Message {
    /// Its bytes, in a version that the other side reads.
    ///
    /// # Errors
    /// If the version is unknown.
    pub fn encode(&self, version: u16) -> Result<Vec<u8>, WireError> {
        check_version(version, VERSION_OLDEST..=VERSION_NEWEST)?;
        match version {
            2 => frame(MESSAGE, version, &v2::Message::from(self)),
            _ => frame(MESSAGE, version, &v3::Message::from(self)),
        }
    }

    /// The message with these bytes, all of which must belong to it, and its version.
    ///
    /// # Errors
    /// If there is none, or it is beyond a limit.
    pub fn decode(bytes: &[u8]) -> Result<(Self, u16), WireError> {
        let (version, body) = unframe(MESSAGE, "message", bytes)?;
        let message = match version {
            2 => parse::<v2::Message>(body)?.try_into()?,
            _ => parse::<v3::Message>(body)?.try_into()?,
        };
        Ok((message, version))
    }
}

impl Record {
    /// Its bytes, for a registry to keep: in the oldest version that can say it.
    ///
    /// # Errors
    /// It is no record of any process: frozen in a file, and moving.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        match self.life {
            Life::Frozen(_) => frame(RECORD, 2, &v2::FrozenRecord::try_from(self)?),
            Life::Alive | Life::Ended | Life::Lost => {
                frame(RECORD, 1, &v1::Record::try_from(self)?)
            }
        }
    }

    /// The record with these bytes, all of which must belong to it.
    ///
    /// # Errors
    /// If there is none, or it is beyond a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        match unframe(RECORD, "record", bytes)? {
            (1, body) => parse::<v1::Record>(body).map(Into::into),
            (_, body) => parse::<v2::FrozenRecord>(body).map(Into::into),
        }
    }
}

/// How many bytes come after a message's head, for who reads from a stream: checked before anything is allocated.
///
/// # Errors
/// If it is no head of a message, of a version that is not understood, or the body is too long.
pub fn body_bytes(head: &[u8; HEAD_BYTES]) -> Result<usize, WireError> {
    head_of(MESSAGE, "message", head).map(|(_, length)| length)
}

fn check_version(found: u16, known: RangeInclusive<u16>) -> Result<(), WireError> {
    if known.contains(&found) {
        return Ok(());
    }
    let (oldest, newest) = known.into_inner();
    Err(match found > newest {
        true => WireError::Newer { found, newest },
        false => WireError::Older { found, oldest },
    })
}

fn check_length(what: &'static str, bytes: usize, limit: usize) -> Result<(), WireError> {
    match bytes <= limit {
        true => Ok(()),
        false => Err(WireError::TooLong { what, bytes, limit }),
    }
}

fn frame(magic: [u8; 2], version: u16, body: &impl Serialize) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let mut bytes = postcard::to_extend(body, bytes).map_err(malformed)?;
    let length = bytes.len() - HEAD_BYTES;
    check_length("body", length, BODY_BYTES_MAX)?;
    bytes[4..HEAD_BYTES].copy_from_slice(&(length as u32).to_le_bytes()); // at most the limit
    Ok(bytes)
}

/// Version and body of a whole frame.
fn unframe<'a>(
    magic: [u8; 2],
    what: &'static str,
    bytes: &'a [u8],
) -> Result<(u16, &'a [u8]), WireError> {
    let Some((head, body)) = bytes.split_first_chunk() else {
        let begins = bytes.iter().zip(magic).all(|(&byte, magic)| byte == magic);
        return Err(match begins {
            true => WireError::Truncated,
            false => WireError::Foreign { what },
        });
    };
    let (version, length) = head_of(magic, what, head)?;
    match body.len().checked_sub(length) {
        Some(0) => Ok((version, body)),
        Some(bytes) => Err(WireError::Leftover { bytes }),
        None => Err(WireError::Truncated),
    }
}

fn head_of(
    magic: [u8; 2],
    what: &'static str,
    head: &[u8; HEAD_BYTES],
) -> Result<(u16, usize), WireError> {
    let &[a, b, version_low, version_high, l0, l1, l2, l3] = head;
    if [a, b] != magic {
        return Err(WireError::Foreign { what });
    }
    let version = u16::from_le_bytes([version_low, version_high]);
    let known = match magic {
        RECORD => RECORD_VERSION_OLDEST..=RECORD_VERSION_NEWEST,
        _ => VERSION_OLDEST..=VERSION_NEWEST,
    };
    check_version(version, known)?;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    check_length("body", length, BODY_BYTES_MAX)?;
    Ok((version, length))
}

/// The value that a body holds, if these are the bytes that it would be written as.
fn parse<T: DeserializeOwned + Serialize>(body: &[u8]) -> Result<T, WireError> {
    let (value, rest): (T, _) = postcard::take_from_bytes(body).map_err(malformed)?;
    if !rest.is_empty() {
        return Err(WireError::Leftover { bytes: rest.len() });
    }
    match postcard::to_stdvec(&value).map_err(malformed)? == body {
        true => Ok(value),
        false => Err(WireError::Malformed {
            reason: "it is not written the way it should be".into(),
        }),
    }
}

fn malformed(error: postcard::Error) -> WireError {
    WireError::Malformed {
        reason: error.to_string(),
    }
}
