//! Frames, as they go over an attachment.
//!
//! ```text
//! │ kind u8 │ connection u64 │ offset u64 │ length of the body u32 │ body │      little-endian
//! ```

use crate::table::ConnectionId;

/// Length of what comes before a body.
pub const HEAD_BYTES: usize = 1 + 8 + 8 + 4;
/// Longest body.
pub const DATA_BYTES_MAX: usize = 16 << 10;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// At the beginning of an attachment, for each connection: of the other end's bytes, and their end, I have this many.
    Have = 1,
    /// Those were all. In place of a connection, the life of the ingress: its own, or the one that the process was attached
    /// to before, of which it has heard of all connections before the one of this number.
    Hello = 2,
    /// The same, from a process that is new to the ingress: connections that were opened to another are over.
    Anew = 3,
    /// A client has connected; its address as text.
    Open = 4,
    /// Bytes, the first of which has this offset.
    Data = 5,
    /// The sender's bytes end at this offset.
    End = 6,
    /// The sender has handed on this many of the other end's bytes, and their end.
    Taken = 7,
    /// The process has closed it: it reads no more, and the client is done when it has all.
    Close = 8,
    /// It broke.
    Reset = 9,
}

impl Kind {
    const fn read(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Have,
            2 => Self::Hello,
            3 => Self::Anew,
            4 => Self::Open,
            5 => Self::Data,
            6 => Self::End,
            7 => Self::Taken,
            8 => Self::Close,
            9 => Self::Reset,
            _ => return None,
        })
    }
}

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it says.
    pub kind: Kind,
    /// Of which connection.
    pub connection: ConnectionId,
    /// A number, as its kind says.
    pub offset: u64,
    /// Bytes, if its kind has any.
    pub body: &'a [u8],
}

/// Bytes that are no frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other end of an attachment sent something that makes no sense")]
pub struct Malformed;

impl Frame<'_> {
    /// Appends its bytes. A body has at most [`DATA_BYTES_MAX`].
    pub fn write(&self, to: &mut Vec<u8>) {
        debug_assert!(self.body.len() <= DATA_BYTES_MAX);
        to.push(self.kind as u8);
        to.extend(self.connection.0.to_le_bytes());
        to.extend(self.offset.to_le_bytes());
        to.extend((self.body.len() as u32).to_le_bytes());
        to.extend(self.body);
    }
}

/// Frames out of bytes that come piece by piece.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Of the buffer, what was given out.
    read: usize,
}

impl Decoder {
    /// Takes some more bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if all of it has come.
    ///
    /// # Errors
    /// It is none: nothing that follows can be told apart.
    pub fn frame(&mut self) -> Result<Option<Frame<'_>>, Malformed> {
        let rest = &self.buffer[self.read..];
        let Some((head, rest)) = rest.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let number = |at: usize| {
            let bytes = head[at..at + 8].first_chunk::<8>();
            u64::from_le_bytes(*bytes.expect("eight bytes"))
        };
        let length = u32::from_le_bytes([head[17], head[18], head[19], head[20]]) as usize;
        let kind = Kind::read(head[0]).ok_or(Malformed)?;
        if length > DATA_BYTES_MAX {
            return Err(Malformed);
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        self.read += HEAD_BYTES + length;
        Ok(Some(Frame {
            kind,
            connection: ConnectionId(number(1)),
            offset: number(9),
            body,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_pieces() {
        let data = Frame {
            kind: Kind::Data,
            connection: ConnectionId(7),
            offset: u64::MAX,
            body: b"some bytes",
        };
        let taken = Frame {
            kind: Kind::Taken,
            body: b"",
            ..data
        };
        let mut bytes = Vec::new();
        data.write(&mut bytes);
        taken.write(&mut bytes);
        for piece in 1..=bytes.len() {
            let (mut decoder, mut frames) = (Decoder::default(), 0);
            for part in bytes.chunks(piece) {
                decoder.extend(part);
                while let Some(frame) = decoder.frame().unwrap() {
                    assert_eq!(frame, [data, taken][frames]);
                    frames += 1;
                }
            }
            assert_eq!(frames, 2);
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_as_soon_as_that_shows() {
        let mut unknown = Decoder::default();
        unknown.extend(&[0; HEAD_BYTES]);
        assert_eq!(unknown.frame(), Err(Malformed));
        let mut long = Decoder::default();
        let mut head = [0; HEAD_BYTES];
        (head[0], head[20]) = (Kind::Data as u8, 1);
        long.extend(&head);
        assert_eq!(long.frame(), Err(Malformed));
    }
}
