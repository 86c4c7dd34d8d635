//! A sealed channel between the two runners of a move: [`Sender`] and [`Receiver`], over a TCP connection that their
//! services made.
//!
//! ```text
//! record │ length u32 │ ciphertext │ seal, 16 bytes │
//! ```
//!
//! AES-256-GCM (RFC 5116), a key for each direction, derived from a secret that the services exported from their TLS
//! session for this connection alone (RFC 5705). The nonce is the record's number, and the length is under the seal; so a
//! record that was changed, left out, repeated or moved is noticed. Nobody asks again: a channel that is broken is
//! replaced by a new one with another secret.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::limits::{CHANNEL_WITHIN, RECORD_BYTES_MAX};
use crate::message::Secret;

const LENGTH_BYTES: usize = 4;
/// What a seal adds, in bytes.
const SEAL_BYTES: usize = 16;
const FROM_SOURCE: &str = "sterna-runner 2026 channel, from source to target";
const FROM_TARGET: &str = "sterna-runner 2026 channel, from target to source";

/// Why a channel cannot be used any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The connection ended.
    #[error("the connection to the other runner ended")]
    Ended,
    /// A record is not what was sent.
    #[error("what came over the connection was not sent by the other runner")]
    Forged,
    /// A record is longer than it may be.
    #[error("a record of {bytes} bytes, {RECORD_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The connection failed, or the other end has stopped to read or write.
    #[error("the connection to the other runner failed")]
    Io(#[source] io::Error),
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => Self::Ended,
            _ => Self::Io(error),
        }
    }
}

/// Which end of the channel this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It has the process.
    Source,
    /// It gets it.
    Target,
}

/// The two directions of a channel, for one end.
///
/// # Errors
/// The connection cannot be used.
pub fn open(
    connection: TcpStream,
    secret: &Secret,
    end: End,
) -> Result<(Sender, Receiver), ChannelError> {
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(CHANNEL_WITHIN))?;
    connection.set_write_timeout(Some(CHANNEL_WITHIN))?;
    let (to, from) = match end {
        End::Source => (FROM_SOURCE, FROM_TARGET),
        End::Target => (FROM_TARGET, FROM_SOURCE),
    };
    let sender = Sender {
        connection: connection.try_clone()?,
        key: Sealing::new(to, secret),
        record: Vec::new(),
        block: Vec::new(),
    };
    let receiver = Receiver {
        connection,
        key: Sealing::new(from, secret),
        block: Vec::new(),
    };
    Ok((sender, receiver))
}

/// A key and the number of the next record.
struct Sealing {
    key: LessSafeKey,
    number: u64,
}

impl Sealing {
    fn new(context: &str, Secret(secret): &Secret) -> Self {
        let key = blake3::derive_key(context, secret);
        let key = UnboundKey::new(&AES_256_GCM, &key).expect("a key of this length");
        Self {
            key: LessSafeKey::new(key),
            number: 0,
        }
    }

    fn next(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&self.number.to_le_bytes());
        self.number += 1; // 2⁶⁴ records are never sent
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Sends records.
pub struct Sender {
    connection: TcpStream,
    key: Sealing,
    record: Vec<u8>,
    /// As long as the longest block until now: making it longer again and again would fill it with zeros each time.
    block: Vec<u8>,
}

impl Sender {
    /// The next record, empty, to be filled.
    pub fn record(&mut self) -> &mut Vec<u8> {
        self.record.clear();
        &mut self.record
    }

    /// Seals the record as it is now, and sends it.
    ///
    /// # Errors
    /// It is too long, or the other end does not take it.
    pub fn send(&mut self) -> Result<(), ChannelError> {
        send(&mut self.connection, &mut self.key, &mut self.record)
    }

    /// The next record, of so many bytes that are to be overwritten, all of them: they are what an earlier one left.
    pub fn block(&mut self, bytes: usize) -> &mut [u8] {
        if self.block.len() < bytes {
            self.block.resize(bytes, 0);
        }
        &mut self.block[..bytes]
    }

    /// Seals the first so many bytes of the block as a record, and sends them.
    ///
    /// # Errors
    /// See [`Sender::send`].
    pub fn send_block(&mut self, bytes: usize) -> Result<(), ChannelError> {
        send(
            &mut self.connection,
            &mut self.key,
            &mut self.block[..bytes],
        )
    }

    /// What ends the channel for both ends, from anywhere.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn breaker(&self) -> Result<Breaker, ChannelError> {
        Ok(Breaker(self.connection.try_clone()?))
    }
}

/// Seals a record where it is, and sends it.
fn send(
    connection: &mut TcpStream,
    key: &mut Sealing,
    record: &mut [u8],
) -> Result<(), ChannelError> {
    let bytes = record.len();
    if bytes > RECORD_BYTES_MAX {
        return Err(ChannelError::TooLong { bytes });
    }
    let length = (bytes as u32).to_le_bytes();
    let nonce = key.next();
    let sealed = key
        .key
        .seal_in_place_separate_tag(nonce, Aad::from(length), record);
    let seal = sealed.map_err(|_| ChannelError::TooLong { bytes })?;
    Ok(write_all(connection, &[&length, record, seal.as_ref()])?)
}

/// Ends a channel.
#[derive(Debug)]
pub struct Breaker(TcpStream);

impl Breaker {
    /// Whoever sends or receives hears of it.
    pub fn hang_up(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// All parts in one packet, where they fit.
fn write_all(connection: &mut TcpStream, parts: &[&[u8]; 3]) -> io::Result<()> {
    let mut slices = parts.map(IoSlice::new);
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match connection.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Receives records.
pub struct Receiver {
    connection: TcpStream,
    key: Sealing,
    /// As long as the longest record until now, as that of a [`Sender`].
    block: Vec<u8>,
}

impl Receiver {
    /// The next record.
    ///
    /// # Errors
    /// The connection ended or failed, or what came was not sent by the other end.
    pub fn receive(&mut self) -> Result<&mut [u8], ChannelError> {
        let mut length = [0; LENGTH_BYTES];
        self.connection.read_exact(&mut length)?;
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > RECORD_BYTES_MAX {
            return Err(ChannelError::TooLong { bytes });
        }
        let sealed = bytes + SEAL_BYTES;
        if self.block.len() < sealed {
            self.block.resize(sealed, 0);
        }
        let record = &mut self.block[..sealed];
        self.connection.read_exact(record)?;
        let nonce = self.key.next();
        self.key
            .key
            .open_in_place(nonce, Aad::from(length), record)
            .map_err(|_| ChannelError::Forged)
    }

    /// Waits until a record begins to come.
    ///
    /// # Errors
    /// The connection ended or failed, or nothing comes for as long as it may.
    pub fn wait(&self) -> Result<(), ChannelError> {
        match self.connection.peek(&mut [0])? {
            0 => Err(ChannelError::Ended),
            _ => Ok(()),
        }
    }

    /// What ends the channel for both ends, from anywhere.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn breaker(&self) -> Result<Breaker, ChannelError> {
        Ok(Breaker(self.connection.try_clone()?))
    }

    /// For how long the other end may say nothing.
    ///
    /// # Errors
    /// The socket refuses.
    pub fn set_patience(&self, within: Option<std::time::Duration>) -> Result<(), ChannelError> {
        Ok(self.connection.set_read_timeout(within)?)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn records_come_as_they_were_sent_in_both_directions() {
        let (one, other) = pair();
        let secret = Secret([7; 32]);
        let (mut to, mut back) = open(one, &secret, End::Source).unwrap();
        let (mut answer, mut from) = open(other, &secret, End::Target).unwrap();
        for length in [0, 1, 4096, RECORD_BYTES_MAX] {
            let sent = vec![length as u8; length];
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    to.record().extend(&sent);
                    to.send().unwrap();
                });
                assert_eq!(from.receive().unwrap(), sent);
            });
        }
        to.block(9).fill(9);
        to.block(3).copy_from_slice(b"new");
        to.send_block(2).unwrap();
        assert_eq!(from.receive().unwrap(), b"ne");
        answer.record().extend(b"fine");
        answer.send().unwrap();
        assert_eq!(back.receive().unwrap(), b"fine");
        to.record().resize(RECORD_BYTES_MAX + 1, 0);
        let long = to.send();
        assert!(matches!(long, Err(ChannelError::TooLong { .. })));
        to.breaker().unwrap().hang_up();
        assert!(matches!(from.receive(), Err(ChannelError::Ended)));
    }

    /// Somebody in the middle who sends other bytes than he got.
    fn check(change: impl FnOnce(&mut Vec<u8>), secret: [u8; 32]) {
        let (one, mut tap) = pair();
        let (mut inject, other) = pair();
        let (mut to, _back) = open(one, &Secret([7; 32]), End::Source).unwrap();
        let (_answer, mut from) = open(other, &Secret(secret), End::Target).unwrap();
        for text in [b"first ", b"second"] {
            to.record().extend(text);
            to.send().unwrap();
        }
        let mut bytes = vec![0; 2 * (LENGTH_BYTES + 6 + SEAL_BYTES)];
        tap.read_exact(&mut bytes).unwrap();
        change(&mut bytes);
        inject.write_all(&bytes).unwrap();
        drop(inject);
        let first = from.receive().map(|record| record.to_vec());
        let both = first.and_then(|_| from.receive().map(|record| record.to_vec()));
        assert!(both.is_err());
    }

    #[test]
    fn what_was_changed_repeated_or_swapped_is_noticed() {
        let record = LENGTH_BYTES + 6 + SEAL_BYTES;
        for at in 0..2 * record {
            check(|bytes| bytes[at] ^= 1, [7; 32]);
        }
        check(|bytes| bytes.rotate_left(record), [7; 32]);
        check(|bytes| bytes.copy_within(..record, record), [7; 32]);
        check(|bytes| bytes.truncate(record + 3), [7; 32]);
        check(|_| {}, [8; 32]);
    }
}
