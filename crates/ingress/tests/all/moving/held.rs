//! What a node has of the process, and how it is attached.

use sterna_ingress::{ConnectionId, Frame};

use super::{Held, Link, PAIR_BYTES, State};

impl Held {
    /// Hands the process what its client has sent, as far as there is room. What stands still is given nothing.
    pub(super) fn deliver(&mut self, id: ConnectionId) {
        if let State::Standing { .. } = self.state {
            return;
        }
        loop {
            let (pending, end) = self.back.pending(id);
            let is_over = end && pending.is_empty();
            let room = PAIR_BYTES - self.pairs.get(&id).map_or(0, |(unread, _)| unread.len());
            let count = pending.len().min(room);
            if count == 0 && !is_over {
                return;
            }
            let (unread, ended) = self.pairs.entry(id).or_default();
            unread.extend(&pending[..count]);
            let end = end && count == pending.len();
            *ended |= end;
            self.back.delivered(id, count, end);
        }
    }
}

impl Link {
    /// Some bytes come out at one end.
    pub(super) fn carry<E: std::fmt::Display>(
        &mut self,
        way: usize,
        most: usize,
        mut take: impl FnMut(&Frame<'_>) -> Result<(), E>,
    ) -> Result<(), String> {
        let count = most.min(self.ways[way].len());
        let piece: Vec<u8> = self.ways[way].drain(..count).collect();
        self.decoders[way].extend(&piece);
        while let Some(frame) = self.decoders[way].frame().map_err(|why| why.to_string())? {
            take(&frame).map_err(|why| format!("{frame:?}: {why}"))?;
        }
        Ok(())
    }
}
