//! Tickets: who has one may bring one node into a cluster, once, until it expires.
//!
//! ```text
//! sterna-ticket-1-…      base 32 of │ Ticket, in postcard │ checksum, 4 bytes │
//! ```
//!
//! A ticket names the node that made it by its key, so whoever uses it talks to that node and to no other. The
//! registry keeps the [`Seal`] of its secret only: who reads the registry cannot join with what is there.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sterna_migration::NodeId;

use crate::identity::random;
use crate::limits::ADDRESSES_MAX;
use crate::message::TicketText;

const HEAD: &str = "sterna-ticket-1-";
const CHECKSUM_BYTES: usize = 4;
const CHECKSUM_CONTEXT: &str = "sterna node v1: checksum of a ticket";
const SEAL_CONTEXT: &str = "sterna node v1: seal of a ticket's secret";
/// Longest text of a ticket.
pub const TICKET_BYTES_MAX: usize = 4096;
/// Crockford's base 32 in lower case: no `i`, `l`, `o` or `u`.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A text that is not a ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseTicketError {
    /// It begins otherwise.
    #[error("this is not a ticket: one begins with `{HEAD}`, as `sterna node invite` prints it")]
    Foreign,
    /// It is of another version.
    #[error("this ticket was made by another version of sterna: use the same one on both nodes")]
    Version,
    /// It was changed.
    #[error("the ticket is damaged or was cut short: copy all of it again")]
    Damaged,
}

/// What proves that somebody was invited: 128 random bits. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret([u8; 16]);

impl Secret {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }

    /// By what it is recognised.
    #[must_use]
    pub fn seal(&self) -> Seal {
        Seal(blake3::derive_key(SEAL_CONTEXT, &self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The hash of a [`Secret`], which tells nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seal(pub(crate) [u8; 32]);

/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The node that made it, and that it is to be shown to.
    pub node: NodeId,
    /// Where that node is.
    pub addresses: Vec<SocketAddr>,
    /// What shows that it is genuine.
    pub secret: Secret,
}

impl Ticket {
    /// As text, to be handed to whoever is invited.
    #[must_use]
    pub fn text(&self) -> TicketText {
        let mut bytes = postcard::to_stdvec(self).expect("a ticket can be written");
        let checksum = blake3::derive_key(CHECKSUM_CONTEXT, &bytes);
        bytes.extend_from_slice(&checksum[..CHECKSUM_BYTES]);
        TicketText(format!("{HEAD}{}", encode(&bytes)))
    }
}

impl FromStr for Ticket {
    type Err = ParseTicketError;

    fn from_str(text: &str) -> Result<Self, ParseTicketError> {
        let text = text.trim();
        let Some(digits) = text.strip_prefix(HEAD) else {
            return Err(match text.starts_with("sterna-ticket-") {
                true => ParseTicketError::Version,
                false => ParseTicketError::Foreign,
            });
        };
        let damaged = ParseTicketError::Damaged;
        let bytes = (text.len() <= TICKET_BYTES_MAX).then(|| decode(digits));
        let bytes = bytes.flatten().ok_or(damaged.clone())?;
        let split = bytes.len().checked_sub(CHECKSUM_BYTES);
        let (body, checksum) = bytes.split_at(split.ok_or(damaged.clone())?);
        if blake3::derive_key(CHECKSUM_CONTEXT, body)[..CHECKSUM_BYTES] != *checksum {
            return Err(damaged);
        }
        match postcard::take_from_bytes::<Self>(body) {
            Ok((ticket, [])) if (1..=ADDRESSES_MAX).contains(&ticket.addresses.len()) => Ok(ticket),
            _ => Err(damaged),
        }
    }
}

fn encode(bytes: &[u8]) -> String {
    let (mut text, mut bits, mut held) = (String::new(), 0_u32, 0);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(char::from(BASE32[(bits >> held & 31) as usize]));
        }
    }
    if held > 0 {
        text.push(char::from(BASE32[(bits << (5 - held) & 31) as usize]));
    }
    text
}

/// The bytes of a text; `None` if it is not what [`encode`] would write.
fn decode(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for letter in text.bytes() {
        let value = BASE32.iter().position(|known| *known == letter)?;
        bits = bits << 5 | value as u32;
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 255) as u8);
        }
    }
    (encode(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            node: NodeId::from_bytes([9; 32]),
            addresses: vec![
                "192.0.2.1:7355".parse().unwrap(),
                "[::1]:1".parse().unwrap(),
            ],
            secret: Secret::random(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let ticket = ticket();
        let text = ticket.text();
        assert_eq!(format!(" {}\n", text.0).parse::<Ticket>().unwrap(), ticket);
        assert!(!format!("{ticket:?}{text:?}").contains(&encode(&ticket.secret.0)));
        assert_ne!(ticket.secret.seal().0[..16], ticket.secret.0);
    }

    #[test]
    fn no_letter_can_change() {
        let text = ticket().text().0;
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'7' { b'8' } else { b'7' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(changed.parse::<Ticket>().is_err(), "{at}");
            assert!(text[..at].parse::<Ticket>().is_err(), "{at}");
        }
        assert_eq!("hello".parse::<Ticket>(), Err(ParseTicketError::Foreign));
        let newer = text.replace("-1-", "-2-");
        assert_eq!(newer.parse::<Ticket>(), Err(ParseTicketError::Version));
    }

    proptest! {
        #[test]
        fn base32_goes_there_and_back(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "(sterna-ticket-1-)?[0-9a-z]{0,200}") {
            let _ = text.parse::<Ticket>();
        }
    }
}
