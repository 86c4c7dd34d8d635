//! The process's end: [`Back`], and what travels of it: [`Carried`].

use serde::{Deserialize, Serialize};

use crate::frame::{Frame, Kind};
use crate::half::{Receiving, Sending};
use crate::table::{Connection, ConnectionId, Event, ProtocolError, Table};
use crate::{CONNECTIONS_MAX, WINDOW_BYTES};

/// Most bytes of a process that travel with a connection: what is under way, and what the system has of it.
const KEPT_BYTES_MAX: usize = 4 * WINDOW_BYTES;

/// The connections of one port, where the process is.
#[derive(Debug, Default)]
pub struct Back {
    table: Table,
    /// The life of the ingress that it was attached to last.
    life: u64,
    /// All connections of that before the one of this number were heard of.
    seen: u64,
    /// The ingress is still to hear that connections of an earlier life are over.
    is_new: bool,
}

/// What travels with a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The life of the ingress that it was attached to last.
    pub life: u64,
    /// All connections of that before the one of this number were heard of.
    pub seen: u64,
    /// The ingress is still to hear that connections of an earlier life are over.
    pub is_new: bool,
    /// Those that are open.
    pub connections: Vec<CarriedConnection>,
}

/// One connection that travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedConnection {
    /// Its number.
    pub id: ConnectionId,
    /// The client's address.
    pub address: String,
    /// The process's bytes that the ingress may not have, and from which offset on.
    pub out: Vec<u8>,
    /// See `out`.
    pub out_start: u64,
    /// Whether the process sends no more.
    pub out_ended: bool,
    /// The client's bytes that were handed to the process.
    pub into_bytes: u64,
    /// Of these, the last ones, which it has not read or not been given yet.
    pub unread: Vec<u8>,
    /// Whether it was told that the client sends no more.
    pub into_ended: bool,
    /// Whether it has closed it.
    pub closed: bool,
}

impl Back {
    /// Of a process that was made of a copy: connections of the one before are not its own.
    #[must_use]
    pub fn anew() -> Self {
        Self {
            is_new: true,
            ..Self::default()
        }
    }

    /// What came with a process. Connections beyond what can be are left out, and break.
    #[must_use]
    pub fn carried(carried: Carried) -> Self {
        let mut back = Self {
            life: carried.life,
            seen: carried.seen,
            is_new: carried.is_new,
            ..Self::default()
        };
        for one in carried.connections.into_iter().take(CONNECTIONS_MAX) {
            let fits = one.unread.len() as u64 <= one.into_bytes
                && one.unread.len() <= WINDOW_BYTES
                && one.out.len() <= KEPT_BYTES_MAX
                && one.out_start < u64::MAX >> 1;
            if !fits || one.id.0 >= back.seen {
                continue;
            }
            let connection = Connection {
                out: Sending::carried(one.out_start, one.out, one.out_ended),
                into: Receiving::carried(one.into_bytes, one.unread, one.into_ended),
                address: one.address,
                closed: one.closed,
                ..Connection::default()
            };
            back.table.all.insert(one.id, connection);
        }
        back
    }

    /// What travels. `unread` gives what was handed on to a connection and is not read.
    pub fn carry(&self, mut unread: impl FnMut(ConnectionId) -> Vec<u8>) -> Carried {
        let connections = self.table.all.iter().map(|(id, one)| {
            let (out_start, out) = one.out.kept();
            let (into_bytes, into_ended) = one.into.delivered_until();
            CarriedConnection {
                id: *id,
                address: one.address.clone(),
                out,
                out_start,
                out_ended: one.out.has_ended(),
                into_bytes,
                unread: match one.closed {
                    true => Vec::new(),
                    false => unread(*id).into_iter().chain(one.into.owed()).collect(),
                },
                into_ended,
                closed: one.closed,
            }
        });
        Carried {
            life: self.life,
            seen: self.seen,
            is_new: self.is_new,
            connections: connections.collect(),
        }
    }

    /// How many there are, with those that the process has closed.
    #[must_use]
    pub fn all(&self) -> usize {
        self.table.all.len()
    }

    /// Those that the process has open.
    pub fn open(&self) -> impl Iterator<Item = ConnectionId> {
        let all = self.table.all.iter();
        all.filter(|(_, one)| !one.closed).map(|(id, _)| *id)
    }

    /// How many more bytes of the process can be given.
    #[must_use]
    pub fn room(&self, id: ConnectionId) -> usize {
        self.table.room(id)
    }

    /// The process has sent bytes: no more than there is [room](Self::room) for, unless they have to travel.
    pub fn push(&mut self, id: ConnectionId, bytes: &[u8]) {
        if let Some(one) = self.table.get(id) {
            one.out.push(bytes);
            self.table.queue(id);
        }
    }

    /// Gives the last bytes of the process back, at most so many, of those beyond what may be under way: there are none unless
    /// they had to travel.
    pub fn take_back(&mut self, id: ConnectionId, bytes_max: usize) -> Vec<u8> {
        match self.table.get(id) {
            Some(one) if !one.out.has_ended() => one.out.take_back(bytes_max),
            _ => Vec::new(),
        }
    }

    /// The process will send no more.
    pub fn end(&mut self, id: ConnectionId) {
        if let Some(one) = self.table.get(id) {
            one.out.finish();
            self.table.queue(id);
        }
    }

    /// The process has closed it. What it has sent before still gets to the client.
    pub fn close(&mut self, id: ConnectionId) {
        if let Some(one) = self.table.get(id) {
            one.out.finish();
            one.into.give_up();
            one.closed = true;
            one.notice = Some(Kind::Close);
            self.table.queue(id);
            self.finish(id);
        }
    }

    /// Bytes of the process that the ingress may not have.
    #[must_use]
    pub fn kept(&self, id: ConnectionId) -> usize {
        self.table.all.get(&id).map_or(0, |one| one.out.len())
    }

    /// Whether the process sends no more.
    #[must_use]
    pub fn has_ended(&self, id: ConnectionId) -> bool {
        self.table
            .all
            .get(&id)
            .is_some_and(|one| one.out.has_ended())
    }

    /// It cannot be served.
    pub fn reset(&mut self, id: ConnectionId) {
        self.table.reset(id);
    }

    /// Bytes for the process, and whether they are followed by the end.
    pub fn pending(&mut self, id: ConnectionId) -> (&[u8], bool) {
        match self.table.get(id) {
            Some(one) if !one.closed => one.into.pending(),
            _ => (&[], false),
        }
    }

    /// The process was given so many of them; with `end`, that this was all.
    pub fn delivered(&mut self, id: ConnectionId, bytes: usize, end: bool) {
        if let Some(one) = self.table.get(id)
            && !one.closed
        {
            one.into.delivered(bytes, end);
            self.table.queue(id);
        }
    }

    /// There is a new attachment, and none other any more.
    pub fn attach(&mut self) {
        self.table.begin();
        let haves: Vec<(ConnectionId, u64)> = self
            .table
            .all
            .iter()
            .map(|(id, one)| (*id, one.into.position()))
            .collect();
        for (id, position) in haves {
            self.table.say(Kind::Have, id, position);
        }
        let hello = match self.is_new {
            true => Kind::Anew,
            false => Kind::Hello,
        };
        self.table.say(hello, ConnectionId(self.life), self.seen);
    }

    /// Takes a frame of the attachment.
    ///
    /// # Errors
    /// It must not be said: the attachment is of no use.
    pub fn take(&mut self, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        let id = frame.connection;
        match (frame.kind, self.table.greeted) {
            (Kind::Have, false) => {
                if let Some(one) = self.table.get(id) {
                    one.known = one.out.resume(frame.offset);
                }
            }
            // Of what was named at the beginning, the ingress does not have this.
            (Kind::Reset, false) => {}
            (Kind::Hello, false) => self.greet(id.0),
            (Kind::Open, true) => {
                if id.0 < self.seen || self.table.all.len() >= CONNECTIONS_MAX {
                    return Err(ProtocolError::OutOfTurn);
                }
                self.seen = id.0 + 1;
                let address = String::from_utf8_lossy(frame.body).into_owned();
                let one = Connection {
                    address: address.clone(),
                    known: true,
                    ..Connection::default()
                };
                self.table.all.insert(id, one);
                self.table.events.push_back(Event::Opened(id, address));
            }
            (Kind::Data | Kind::End, true) if self.table.get(id).is_some_and(|one| one.closed) => {}
            (_, true) => {
                self.table.take(frame)?;
                self.finish(id);
            }
            (_, false) => return Err(ProtocolError::OutOfTurn),
        }
        Ok(())
    }

    /// The ingress has said what it has. Connections that it did not name are over.
    fn greet(&mut self, life: u64) {
        self.is_new = false;
        if std::mem::replace(&mut self.life, life) != life {
            self.seen = 0;
        }
        let all: Vec<ConnectionId> = self.table.all.keys().copied().collect();
        for id in all {
            match self.table.get(id) {
                Some(one) if one.known => {
                    one.notice = one.closed.then_some(Kind::Close);
                    self.finish(id);
                }
                _ => {
                    self.table.all.remove(&id);
                    self.table.events.push_back(Event::Reset(id));
                }
            }
        }
        self.table.greet();
    }

    /// If the process has closed it, and the ingress has all and knows, it is over.
    fn finish(&mut self, id: ConnectionId) {
        if let Some(one) = self.table.get(id)
            && one.closed
            && one.notice.is_none()
            && one.out.is_over()
        {
            self.table.all.remove(&id);
            self.table.events.push_back(Event::Finished(id));
        }
    }

    /// The next thing to do.
    pub fn event(&mut self) -> Option<Event> {
        self.table.events.pop_front()
    }

    /// Appends what is to be sent to the ingress, until that is all or more than so many bytes.
    pub fn write(&mut self, to: &mut Vec<u8>, bytes_max: usize) {
        self.table.write(to, bytes_max);
    }

    /// Whether there is something to send.
    #[must_use]
    pub fn has_something(&self) -> bool {
        self.table.has_something()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pair at the target had room for the first of them only when the process left again.
    #[test]
    fn what_came_along_and_is_not_handed_on_yet_travels_on() {
        let id = ConnectionId(0);
        let one = CarriedConnection {
            id,
            address: "192.0.2.1:7".to_owned(),
            out: Vec::new(),
            out_start: 0,
            out_ended: false,
            into_bytes: 10,
            unread: b"abcd".to_vec(),
            into_ended: false,
            closed: false,
        };
        let mut back = Back::carried(Carried {
            life: 1,
            seen: 1,
            is_new: false,
            connections: vec![one.clone()],
        });
        assert_eq!(back.pending(id), (&b"abcd"[..], false));
        back.delivered(id, 1, false);
        assert_eq!(back.carry(|_| b"a".to_vec()).connections, [one]);
        // What is handed on after that counts.
        back.delivered(id, 3, false);
        assert_eq!(
            back.carry(|_| b"bcd".to_vec()).connections[0].into_bytes,
            10
        );
    }
}
