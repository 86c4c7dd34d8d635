//! One direction of a connection, at both of its ends: [`Sending`] and [`Receiving`].
//!
//! A *position* counts bytes, and the end as one more, so that one number says how far somebody has come.

use std::collections::VecDeque;

use crate::WINDOW_BYTES;
use crate::table::ProtocolError;

/// Bytes on their way to the other end, kept until it has taken them.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    kept: VecDeque<u8>,
    /// Offset of the first that is kept.
    start: u64,
    /// Whether these are all.
    ended: bool,
    /// Whether the other end knows that.
    end_taken: bool,
    /// Position up to which they were sent over this attachment.
    sent: u64,
}

/// What is to be sent next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Bytes, from this offset on.
    Data(u64, &'a [u8]),
    /// The end, at this offset.
    End(u64),
}

impl Sending {
    /// As it was at another end, from this offset on.
    pub(crate) fn carried(start: u64, kept: Vec<u8>, ended: bool) -> Self {
        Self {
            kept: kept.into(),
            start,
            ended,
            end_taken: false,
            sent: start,
        }
    }

    /// What is kept, and from which offset on.
    pub(crate) fn kept(&self) -> (u64, Vec<u8>) {
        (self.start, self.kept.iter().copied().collect())
    }

    /// How many bytes are kept.
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// How many more bytes can be given, with a window of so many.
    pub(crate) fn room(&self, window: usize) -> usize {
        match self.ended {
            true => 0,
            false => window.saturating_sub(self.kept.len()),
        }
    }

    /// Takes bytes; what is more than there is room for is kept as well, and sent later.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
    }

    /// Gives the last bytes back, at most so many, of those beyond the window, which were never sent.
    pub(crate) fn take_back(&mut self, bytes_max: usize) -> Vec<u8> {
        let beyond = self.kept.len().saturating_sub(WINDOW_BYTES);
        let at = self.kept.len() - beyond.min(bytes_max);
        self.kept.split_off(at).into()
    }

    pub(crate) const fn finish(&mut self) {
        self.ended = true;
    }

    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// The other end has taken all there is, and knows that this is all.
    pub(crate) const fn is_over(&self) -> bool {
        self.end_taken
    }

    fn length(&self) -> u64 {
        self.start + self.kept.len() as u64
    }

    fn limit(&self) -> u64 {
        self.length() + u64::from(self.ended)
    }

    /// The other end has come so far.
    pub(crate) fn taken(&mut self, position: u64) -> Result<(), ProtocolError> {
        if position > self.sent {
            return Err(ProtocolError::NotSent);
        }
        let bytes = position.min(self.length()).saturating_sub(self.start);
        self.kept.drain(..bytes as usize);
        self.start += bytes;
        self.end_taken |= position > self.length();
        Ok(())
    }

    /// A new attachment begins, and the other end has so much. Whether that can be.
    pub(crate) fn resume(&mut self, position: u64) -> bool {
        let possible = (self.start..=self.limit()).contains(&position);
        if possible {
            self.sent = position;
        }
        possible
    }

    /// What comes next, at most so many bytes; it counts as sent.
    pub(crate) fn next(&mut self, bytes_max: usize) -> Option<Piece<'_>> {
        let (length, offset) = (self.length(), self.sent);
        if offset < length {
            let at = (offset - self.start) as usize;
            let bytes_max = bytes_max.min(WINDOW_BYTES.saturating_sub(at));
            if bytes_max == 0 {
                return None;
            }
            let (first, second) = self.kept.as_slices();
            let rest = match first.len() {
                before if at < before => &first[at..],
                before => &second[at - before..],
            };
            let piece = &rest[..rest.len().min(bytes_max)];
            self.sent += piece.len() as u64;
            return Some(Piece::Data(offset, piece));
        }
        let end = self.ended && offset == length;
        end.then(|| {
            self.sent += 1;
            Piece::End(length)
        })
    }

    /// Nobody wants the rest.
    pub(crate) fn give_up(&mut self) {
        self.start = self.length();
        self.kept.clear();
        (self.ended, self.end_taken) = (true, true);
        self.sent = self.limit();
    }
}

/// Bytes of the other end, until they are handed on.
#[derive(Debug, Default)]
pub(crate) struct Receiving {
    buffer: VecDeque<u8>,
    /// Offset of the next byte that is to come.
    next: u64,
    /// Whether these were all, and whether that was handed on.
    ended: bool,
    end_delivered: bool,
    /// Position that the other end was told.
    told: u64,
    /// Position up to which bytes count as handed on, since they were at another end, which has told it. Some of them may still
    /// be in the buffer.
    owed_until: u64,
}

impl Receiving {
    /// As it was at another end: so many bytes were handed on, of which these have to be once more.
    pub(crate) fn carried(next: u64, again: Vec<u8>, ended: bool) -> Self {
        Self {
            owed_until: next,
            buffer: again.into(),
            next,
            ended,
            end_delivered: false,
            told: 0,
        }
    }

    /// Bytes that count as handed on, and whether their end was handed on.
    pub(crate) fn delivered_until(&self) -> (u64, bool) {
        let delivered = self.next - self.buffer.len() as u64;
        (delivered.max(self.owed_until), self.end_delivered)
    }

    /// Those of them that are still to be handed on: nobody else has them.
    pub(crate) fn owed(&self) -> impl Iterator<Item = u8> {
        let delivered = self.next - self.buffer.len() as u64;
        let count = self.owed_until.saturating_sub(delivered);
        self.buffer.iter().take(count as usize).copied()
    }

    /// Takes what comes; what is there already is passed over.
    pub(crate) fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ProtocolError> {
        let known = self
            .next
            .checked_sub(offset)
            .ok_or(ProtocolError::Gap)?
            .min(bytes.len() as u64);
        let new = &bytes[known as usize..];
        if self.ended && !new.is_empty() {
            return Err(ProtocolError::AfterEnd);
        }
        let (until, _) = self.delivered_until();
        if self.next + new.len() as u64 > until + WINDOW_BYTES as u64 {
            return Err(ProtocolError::TooMuch);
        }
        self.buffer.extend(new);
        self.next += new.len() as u64;
        Ok(())
    }

    pub(crate) fn end(&mut self, offset: u64) -> Result<(), ProtocolError> {
        if offset != self.next {
            return Err(ProtocolError::Gap);
        }
        self.ended = true;
        Ok(())
    }

    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// All was handed on, and that this was all.
    pub(crate) const fn is_over(&self) -> bool {
        self.end_delivered
    }

    /// How far the other end's bytes have come.
    pub(crate) const fn position(&self) -> u64 {
        self.next + self.ended as u64
    }

    /// Bytes to be handed on, and whether they are followed by the end, which is still to be handed on.
    pub(crate) fn pending(&self) -> (&[u8], bool) {
        let (first, second) = self.buffer.as_slices();
        (
            first,
            second.is_empty() && self.ended && !self.end_delivered,
        )
    }

    /// So many of them were handed on; with `end`, that this was all.
    pub(crate) fn delivered(&mut self, bytes: usize, end: bool) {
        self.buffer.drain(..bytes);
        self.end_delivered |= end && self.ended && self.buffer.is_empty();
    }

    /// How far bytes were handed on, if the other end was not told.
    pub(crate) fn untold(&mut self) -> Option<u64> {
        let taken = self.delivered_until().0 + u64::from(self.end_delivered);
        (taken > self.told).then(|| {
            self.told = taken;
            taken
        })
    }

    /// What the other end was told may not have come there.
    pub(crate) const fn forget_told(&mut self) {
        self.told = 0;
    }

    /// Nobody wants what is there.
    pub(crate) fn give_up(&mut self) {
        self.buffer.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_kept_until_it_is_taken() {
        let mut sending = Sending::default();
        sending.push(b"abcdef");
        assert_eq!(sending.next(4), Some(Piece::Data(0, b"abcd")));
        sending.taken(3).unwrap();
        assert!(matches!(sending.taken(5), Err(ProtocolError::NotSent)));
        // The link breaks. The other end had not handed on one byte more than it said.
        assert!(!sending.resume(2) && sending.resume(3));
        assert_eq!(sending.next(100), Some(Piece::Data(3, b"def")));
        sending.finish();
        assert_eq!(sending.next(100), Some(Piece::End(6)));
        assert_eq!(sending.next(100), None);
        sending.taken(6).unwrap();
        assert!(!sending.is_over());
        sending.taken(7).unwrap();
        assert!(sending.is_over() && sending.resume(7) && sending.next(1).is_none());
    }

    #[test]
    fn what_comes_twice_is_taken_once_and_nothing_is_passed_over() {
        let mut receiving = Receiving::default();
        receiving.data(0, b"abc").unwrap();
        receiving.data(1, b"bcd").unwrap();
        assert!(matches!(receiving.data(5, b"x"), Err(ProtocolError::Gap)));
        assert!(matches!(receiving.end(3), Err(ProtocolError::Gap)));
        receiving.end(4).unwrap();
        assert!(matches!(
            receiving.data(4, b"x"),
            Err(ProtocolError::AfterEnd)
        ));
        assert_eq!(receiving.pending(), (&b"abcd"[..], true));
        receiving.delivered(3, true);
        assert_eq!(receiving.untold(), Some(3));
        receiving.delivered(1, true);
        assert_eq!((receiving.untold(), receiving.untold()), (Some(5), None));
        assert!(receiving.is_over());
    }

    #[test]
    fn more_than_the_window_is_refused() {
        let mut receiving = Receiving::default();
        receiving.data(0, &vec![0; WINDOW_BYTES]).unwrap();
        let more = receiving.data(WINDOW_BYTES as u64, b"x");
        assert!(matches!(more, Err(ProtocolError::TooMuch)));
    }
}
