//! The ingress's end: [`Front`].

use std::collections::BTreeMap;

use crate::CONNECTIONS_MAX;
use crate::frame::{Frame, Kind};
use crate::table::{Connection, ConnectionId, Event, ProtocolError, Table};

/// The connections of one port, at its ingress.
#[derive(Debug)]
pub struct Front {
    table: Table,
    /// By which this one is told from others that had the port before.
    life: u64,
    /// Number of the next connection.
    next: u64,
    /// What the process has, until it has said all.
    haves: BTreeMap<ConnectionId, u64>,
}

impl Front {
    /// One without clients. `life` is a number that no other of this port has: random, and not 0.
    #[must_use]
    pub fn new(life: u64) -> Self {
        Self {
            table: Table::default(),
            life,
            next: 0,
            haves: BTreeMap::new(),
        }
    }

    /// A client has connected. `None`: there are too many, and it should be turned away.
    pub fn accept(&mut self, address: &str) -> Option<ConnectionId> {
        if self.table.all.len() >= CONNECTIONS_MAX {
            return None;
        }
        let id = ConnectionId(self.next);
        self.next += 1;
        let connection = Connection {
            address: address.to_owned(),
            notice: Some(Kind::Open),
            ..Connection::default()
        };
        self.table.all.insert(id, connection);
        self.table.queue(id);
        Some(id)
    }

    /// How many more bytes of a client can be given.
    #[must_use]
    pub fn room(&self, id: ConnectionId) -> usize {
        self.table.room(id)
    }

    /// A client has sent bytes, no more than there is [room](Self::room) for.
    pub fn push(&mut self, id: ConnectionId, bytes: &[u8]) {
        if let Some(client) = self.table.get(id)
            && !client.closed
        {
            client.out.push(bytes);
            self.table.queue(id);
        }
    }

    /// A client will send no more.
    pub fn end(&mut self, id: ConnectionId) {
        if let Some(client) = self.table.get(id) {
            client.out.finish();
            self.table.queue(id);
        }
    }

    /// A client is gone.
    pub fn reset(&mut self, id: ConnectionId) {
        self.table.reset(id);
    }

    /// Bytes for a client, and whether they are followed by the end.
    pub fn pending(&mut self, id: ConnectionId) -> (&[u8], bool) {
        match self.table.get(id) {
            Some(client) => client.into.pending(),
            None => (&[], false),
        }
    }

    /// A client was given so many of them; with `end`, that this was all.
    pub fn delivered(&mut self, id: ConnectionId, bytes: usize, end: bool) {
        if let Some(client) = self.table.get(id) {
            client.into.delivered(bytes, end);
            self.table.queue(id);
            self.finish(id);
        }
    }

    /// There is a new attachment, and none other any more.
    pub fn attach(&mut self) {
        self.table.begin();
        self.haves.clear();
    }

    /// Takes a frame of the attachment.
    ///
    /// # Errors
    /// It must not be said: the attachment is of no use.
    pub fn take(&mut self, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        let id = frame.connection;
        match (frame.kind, self.table.greeted) {
            (Kind::Have, false) if self.haves.len() < CONNECTIONS_MAX => {
                self.haves.insert(id, frame.offset);
            }
            (Kind::Have, false) => return Err(ProtocolError::TooMany),
            (Kind::Hello, false) => {
                let mut seen = frame.offset;
                if id.0 != self.life {
                    // What it has is of another ingress, which gave the same numbers.
                    self.haves.clear();
                    seen = 0;
                }
                self.greet(|id| id.0 < seen);
            }
            (Kind::Anew, false) => self.greet(|_| true),
            (Kind::Close, true) => {
                if let Some(client) = self.table.get(id) {
                    client.closed = true;
                    client.out.give_up();
                    self.table.events.push_back(Event::Room(id));
                    self.finish(id);
                }
            }
            (_, true) => self.table.take(frame)?,
            (_, false) => return Err(ProtocolError::OutOfTurn),
        }
        Ok(())
    }

    /// The process has said what it has. Those that it had been told of, and does not name, it is done with.
    fn greet(&mut self, was_told: impl Fn(ConnectionId) -> bool) {
        let haves = std::mem::take(&mut self.haves);
        let all: Vec<ConnectionId> = self.table.all.keys().copied().collect();
        for id in haves.keys() {
            if !self.table.all.contains_key(id) {
                self.table.say(Kind::Reset, *id, 0);
            }
        }
        for id in all {
            let Some(client) = self.table.get(id) else {
                continue;
            };
            match haves.get(&id) {
                Some(has) if client.closed || client.out.resume(*has) => {
                    client.notice = None;
                    client.known = true;
                    let position = client.into.position();
                    self.table.say(Kind::Have, id, position);
                }
                None if client.into.has_ended() && was_told(id) => {
                    client.closed = true;
                    client.out.give_up();
                    self.finish(id);
                }
                None if client.notice.is_some() => {}
                None if !was_told(id) => {
                    // The notice was lost with the last attachment.
                    let restarted = client.out.resume(0);
                    debug_assert!(restarted, "nobody has taken any of it");
                    client.notice = Some(Kind::Open);
                }
                _ => {
                    self.table.say(Kind::Reset, id, 0);
                    self.table.all.remove(&id);
                    self.table.events.push_back(Event::Reset(id));
                }
            }
        }
        self.table
            .say(Kind::Hello, ConnectionId(self.life), self.next);
        self.table.greet();
    }

    /// If the process has closed it, and the client has all, it is over.
    fn finish(&mut self, id: ConnectionId) {
        if let Some(client) = self.table.get(id)
            && client.closed
            && client.into.is_over()
        {
            let position = client.into.position();
            self.table.all.remove(&id);
            if self.table.greeted {
                self.table.say(Kind::Taken, id, position);
            }
            self.table.events.push_back(Event::Finished(id));
        }
    }

    /// The next thing to do.
    pub fn event(&mut self) -> Option<Event> {
        self.table.events.pop_front()
    }

    /// Appends what is to be sent to the process, until that is all or more than so many bytes.
    pub fn write(&mut self, to: &mut Vec<u8>, bytes_max: usize) {
        self.table.write(to, bytes_max);
    }

    /// Whether there is something to send.
    #[must_use]
    pub fn has_something(&self) -> bool {
        self.table.has_something()
    }

    /// Whether the process, where it is now, has said what it has.
    #[must_use]
    pub const fn is_greeted(&self) -> bool {
        self.table.greeted
    }

    /// How many clients there are.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.table.all.len()
    }
}
