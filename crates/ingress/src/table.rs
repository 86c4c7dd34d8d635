//! What both ends have in common: their connections, which of them have something to say, and what came of that.

use std::collections::{BTreeMap, VecDeque};

use crate::frame::{DATA_BYTES_MAX, Frame, Kind};
use crate::half::{Piece, Receiving, Sending};
use crate::{PORT_BYTES, WINDOW_BYTES, WINDOW_BYTES_MIN};

/// A connection of a client, as its ingress counts them: none of these numbers is ever given twice by one port.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct ConnectionId(pub u64);

/// What the other end of an attachment must not say. The attachment is over then; a new one begins with what is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Bytes are missing between those that came.
    #[error("bytes of a connection are missing")]
    Gap,
    /// Bytes came after their end.
    #[error("bytes of a connection came after its end")]
    AfterEnd,
    /// It sends more than may be under way.
    #[error("more bytes of a connection came than may be under way")]
    TooMuch,
    /// It says to have what it was not sent.
    #[error("bytes of a connection are said to be taken that were never sent")]
    NotSent,
    /// This end never hears that.
    #[error("a message that only the other end may send, or not at this time")]
    OutOfTurn,
    /// There are too many.
    #[error("more connections than a port may have")]
    TooMany,
}

/// What whoever drives an end has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client at this address has connected: only a [`Back`](crate::Back) says so.
    Opened(ConnectionId, String),
    /// There may be something to hand on: see `pending`.
    Deliver(ConnectionId),
    /// There may be room for more bytes again: see `room`.
    Room(ConnectionId),
    /// It broke, or is of no use any more: close it at once.
    Reset(ConnectionId),
    /// The process has closed it, and the client has all: it is over.
    Finished(ConnectionId),
}

/// One connection at one end.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub(crate) out: Sending,
    pub(crate) into: Receiving,
    /// The client's address.
    pub(crate) address: String,
    /// `Open` or `Close`, if it is still to be sent.
    pub(crate) notice: Option<Kind>,
    /// The process has closed it.
    pub(crate) closed: bool,
    /// The other end knows of it, and frames of it may be sent.
    pub(crate) known: bool,
    pub(crate) is_queued: bool,
}

/// The connections of one end.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) all: BTreeMap<ConnectionId, Connection>,
    /// Those that may have something to send, in the order of their turns.
    ready: VecDeque<ConnectionId>,
    /// Frames that belong to no connection of the table, to be sent first.
    first: Vec<u8>,
    pub(crate) events: VecDeque<Event>,
    /// Whether the attachment has got past its beginning.
    pub(crate) greeted: bool,
}

impl Table {
    pub(crate) fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.all.get_mut(&id)
    }

    /// It may have something to send.
    pub(crate) fn queue(&mut self, id: ConnectionId) {
        if let Some(connection) = self.all.get_mut(&id)
            && !std::mem::replace(&mut connection.is_queued, true)
        {
            self.ready.push_back(id);
        }
    }

    /// How many more bytes of a connection can be given.
    pub(crate) fn room(&self, id: ConnectionId) -> usize {
        let share = PORT_BYTES / self.all.len().max(1);
        let window = share.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES);
        self.all.get(&id).map_or(0, |one| one.out.room(window))
    }

    /// Says something at once.
    pub(crate) fn say(&mut self, kind: Kind, connection: ConnectionId, offset: u64) {
        let frame = Frame {
            kind,
            connection,
            offset,
            body: &[],
        };
        frame.write(&mut self.first);
    }

    /// There is a new attachment: nothing of what was said over the last one counts.
    pub(crate) fn begin(&mut self) {
        self.greeted = false;
        self.first.clear();
        for connection in self.all.values_mut() {
            connection.known = false;
            connection.into.forget_told();
        }
    }

    /// What both ends know and have is clear: everything may have something to send.
    pub(crate) fn greet(&mut self) {
        self.greeted = true;
        // In their order: the process tells by it which it has heard of.
        self.ready = self.all.keys().copied().collect();
        for connection in self.all.values_mut() {
            connection.is_queued = true;
        }
    }

    /// It broke here, and the other end hears of it if it knows it.
    pub(crate) fn reset(&mut self, id: ConnectionId) {
        if self.all.remove(&id).is_some_and(|gone| gone.known) && self.greeted {
            self.say(Kind::Reset, id, 0);
        }
    }

    /// What comes of a frame about bytes of a connection. Of one that is gone, some may still be under way.
    pub(crate) fn take(&mut self, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        let id = frame.connection;
        let Some(connection) = self.all.get_mut(&id) else {
            return Ok(());
        };
        match frame.kind {
            Kind::Data => connection.into.data(frame.offset, frame.body)?,
            Kind::End => connection.into.end(frame.offset)?,
            Kind::Taken => {
                connection.out.taken(frame.offset)?;
                self.events.push_back(Event::Room(id));
                self.queue(id);
                return Ok(());
            }
            Kind::Reset => {
                self.all.remove(&id);
                self.events.push_back(Event::Reset(id));
                return Ok(());
            }
            _ => return Err(ProtocolError::OutOfTurn),
        }
        self.events.push_back(Event::Deliver(id));
        Ok(())
    }

    /// Appends frames that are to be sent, until there are none or more than so many bytes. Connections take turns.
    pub(crate) fn write(&mut self, to: &mut Vec<u8>, bytes_max: usize) {
        to.append(&mut self.first);
        while self.greeted && to.len() < bytes_max {
            let Some(id) = self.ready.pop_front() else {
                return;
            };
            let Some(connection) = self.all.get_mut(&id) else {
                continue;
            };
            connection.is_queued = false;
            if connection.write(id, to) {
                self.queue(id);
            }
        }
    }

    /// Whether there is something to send.
    pub(crate) fn has_something(&self) -> bool {
        !self.first.is_empty() || self.greeted && !self.ready.is_empty()
    }
}

impl Connection {
    /// Appends what it says in one turn. Whether it may have more to say.
    fn write(&mut self, connection: ConnectionId, to: &mut Vec<u8>) -> bool {
        let mut say = |kind, offset, body: &[u8]| {
            let frame = Frame {
                kind,
                connection,
                offset,
                body,
            };
            frame.write(to);
        };
        match self.notice.take() {
            Some(Kind::Open) => say(Kind::Open, 0, self.address.as_bytes()),
            Some(kind) => say(kind, 0, &[]),
            None => {}
        }
        self.known = true;
        if let Some(position) = self.into.untold() {
            say(Kind::Taken, position, &[]);
        }
        match self.out.next(DATA_BYTES_MAX) {
            Some(Piece::Data(offset, bytes)) => say(Kind::Data, offset, bytes),
            Some(Piece::End(offset)) => {
                say(Kind::End, offset, &[]);
                return false;
            }
            None => return false,
        }
        true
    }
}
