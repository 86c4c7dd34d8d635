//! One port of one process: [`Port`], and what travels of it: [`CarriedPort`].

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::{Deserialize, Serialize};
use sterna_ingress::{Back, Carried, ConnectionId, Decoder, Event};
use sterna_process::listener::{accept, connection, hand_over, listener};
use sterna_process::{Connection, Listener, Section, SectionError, Sections, Tag};

use super::{Clients, What};
use crate::limits::CARRIED_BYTES_MAX;
use crate::link::are_left;
use crate::watch::Token;

const BUFFER_BYTES: usize = 16 << 10;
/// What a pair has room for in each direction, as the kernel counts it and doubles it (`SO_SNDBUF`, socket(7)): half of what it is
/// usually.
const PAIR_BYTES: usize = 104 << 10;
/// Of what a process has sent beyond what may be under way, so much is put back where it came from, which then has no room.
const HELD_BYTES: usize = 16 << 10;
/// Bytes that are made ready for an attachment at once.
const FRAMES_BYTES: usize = 64 << 10;

/// Name of the section that has a [`CarriedPort`] for each port.
const PORTS: Tag = Tag::new("sterna.ports");
const PORTS_VERSION: u16 = 1;

/// Where connections come to a process.
pub(crate) struct Port {
    clients: Arc<Clients>,
    this: Weak<Self>,
    inner: Mutex<Inner>,
}

struct Inner {
    back: Back,
    /// Over which connections are handed to the process; its end, once more; and how it is watched.
    queue: OwnedFd,
    accepting: OwnedFd,
    watched: Option<Token>,
    /// The process's ends of connections that are still to be handed to it, in their order.
    waiting: VecDeque<(ConnectionId, OwnedFd)>,
    pairs: BTreeMap<ConnectionId, Pair>,
    attachment: Option<Attachment>,
    /// The process stands still, and what is there is being taken along.
    leaves: bool,
}

/// One connection.
struct Pair {
    ours: UnixStream,
    /// The process's end, once more.
    theirs: OwnedFd,
    watched: Token,
    /// The process can send nothing.
    is_held: bool,
}

/// The way to the ingress.
struct Attachment {
    stream: UnixStream,
    watched: Token,
    decoder: Decoder,
    frames: Vec<u8>,
    /// Of the frames, what was sent.
    sent: usize,
}

/// What travels of a port.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct CarriedPort {
    pub(super) connections: Carried,
    /// Those that the process has not accepted.
    waiting: Vec<ConnectionId>,
}

/// What travels of all ports of a process.
pub(crate) fn section(ports: &[Arc<Port>]) -> Result<Section, SectionError> {
    let carried: Vec<CarriedPort> = ports.iter().map(|port| port.leave()).collect();
    Section::encode(PORTS, PORTS_VERSION, &carried)
}

/// What came with a process; `None` if it had no ports.
pub(crate) fn take_from(sections: &mut Sections) -> Result<Option<Vec<CarriedPort>>, SectionError> {
    let section = sections.take(&PORTS, PORTS_VERSION..=PORTS_VERSION)?;
    section.map(|section| section.decode()).transpose()
}

impl Port {
    /// Of a process to come, and what stands for its listening socket.
    pub(crate) fn new(
        clients: &Arc<Clients>,
        back: Back,
        name: &str,
    ) -> io::Result<(Arc<Self>, Listener)> {
        let (queue, handle) = listener()?;
        let inner = Inner {
            back,
            accepting: handle.try_clone()?,
            queue,
            watched: None,
            waiting: VecDeque::new(),
            pairs: BTreeMap::new(),
            attachment: None,
            leaves: false,
        };
        let port = Arc::new_cyclic(|this| Self {
            clients: Arc::clone(clients),
            this: Weak::clone(this),
            inner: Mutex::new(inner),
        });
        let token = clients.watch(&port.this, What::Queue, &port.lock().queue)?;
        port.lock().watched = Some(token);
        let name = name.to_owned();
        Ok((port, Listener { name, handle }))
    }

    /// Takes over what came with the process. The process's ends of those connections that it has accepted.
    pub(crate) fn carry(&self, index: u32, carried: CarriedPort) -> io::Result<Vec<Connection>> {
        let mut inner = self.lock();
        let came = carried.connections.connections.len();
        inner.back = Back::carried(carried.connections);
        let lost = came - inner.back.all();
        if lost > 0 {
            tracing::warn!(
                "{lost} clients of a process are cut off: what came of them makes no sense"
            );
        }
        let mut accepted = Vec::new();
        for id in inner.back.open().collect::<Vec<_>>() {
            let handle = self.pair(&mut inner, id)?;
            match carried.waiting.contains(&id) {
                true => inner.waiting.push_back((id, handle)),
                false => accepted.push(Connection {
                    listener: index,
                    id: id.0,
                    handle,
                }),
            }
            inner.hold(id);
            inner.deliver(id);
        }
        inner.hand_over();
        Ok(accepted)
    }

    /// There is another way to the ingress.
    pub(crate) fn attach(&self, stream: OwnedFd) -> io::Result<()> {
        let stream = UnixStream::from(stream);
        stream.set_nonblocking(true)?;
        let mut inner = self.lock();
        self.detach(&mut inner);
        let watched = self.clients.watch(&self.this, What::Attachment, &stream)?;
        inner.attachment = Some(Attachment {
            stream,
            watched,
            decoder: Decoder::default(),
            frames: Vec::new(),
            sent: 0,
        });
        inner.back.attach();
        self.proceed(&mut inner);
        Ok(())
    }

    /// Something became possible.
    pub(crate) fn happened(&self, what: What) {
        let mut inner = self.lock();
        if inner.leaves {
            return;
        }
        match what {
            What::Attachment => self.read(&mut inner),
            What::Queue => inner.hand_over(),
            What::Pair(id) => {
                self.take(&mut inner, id, 0);
                inner.deliver(id);
            }
        }
        self.proceed(&mut inner);
    }

    /// The process, which stands still, leaves or is copied: takes in what it has sent, and gives what travels. Until it
    /// [stays](Self::stay) after all nothing more is done here.
    fn leave(&self) -> CarriedPort {
        let mut inner = self.lock();
        for id in inner.pairs.keys().copied().collect::<Vec<_>>() {
            self.take(&mut inner, id, usize::MAX);
        }
        self.lighten(&mut inner);
        inner.leaves = true;
        let mut taken_back = VecDeque::new();
        while let Ok(Some((id, handle))) = accept(inner.accepting.as_fd()) {
            taken_back.push_back((ConnectionId(id), handle));
        }
        taken_back.append(&mut inner.waiting);
        inner.waiting = taken_back;
        CarriedPort {
            connections: inner
                .back
                .carry(|id| inner.pairs.get(&id).map_or(Vec::new(), Pair::unread)),
            waiting: inner.waiting.iter().map(|(id, _)| *id).collect(),
        }
    }

    /// The process stays, or was only copied.
    pub(crate) fn stay(&self) {
        let mut inner = self.lock();
        if !std::mem::take(&mut inner.leaves) {
            return;
        }
        inner.hand_over();
        for id in inner.pairs.keys().copied().collect::<Vec<_>>() {
            inner.hold(id);
            self.take(&mut inner, id, 0);
            inner.deliver(id);
        }
        self.read(&mut inner);
        self.proceed(&mut inner);
    }

    /// The process is lost: no client is to take what it has for all that there is.
    pub(crate) fn cut_off(&self) {
        let mut inner = self.lock();
        for id in inner.pairs.keys().copied().collect::<Vec<_>>() {
            inner.back.reset(id);
            self.unpair(&mut inner, id);
        }
        self.proceed(&mut inner);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the pair of a connection. The process's end.
    fn pair(&self, inner: &mut Inner, id: ConnectionId) -> io::Result<OwnedFd> {
        let (ours, handle) = connection()?;
        let theirs = handle.try_clone()?;
        // Whatever this machine is set to: what is in there must be able to travel.
        set_socket_send_buffer_size(&ours, PAIR_BYTES)?;
        set_socket_send_buffer_size(&theirs, PAIR_BYTES)?;
        let watched = self.clients.watch(&self.this, What::Pair(id), &ours)?;
        let pair = Pair {
            ours: ours.into(),
            theirs,
            watched,
            is_held: false,
        };
        inner.pairs.insert(id, pair);
        Ok(handle)
    }

    /// The same for a client that has just come. Those that travel with a process come to it however many there are.
    fn open(&self, inner: &mut Inner, id: ConnectionId) -> io::Result<OwnedFd> {
        let handle = self.pair(inner, id)?;
        are_left(&handle).map_err(io::Error::other)?;
        Ok(handle)
    }

    fn unpair(&self, inner: &mut Inner, id: ConnectionId) {
        inner.waiting.retain(|(waiting, _)| *waiting != id);
        if let Some(pair) = inner.pairs.remove(&id) {
            self.clients.forget(pair.watched, &pair.ours);
            // The process's end is open here, too: it would not see that ours is closed.
            let _ = pair.ours.shutdown(Shutdown::Both);
        }
    }

    fn detach(&self, inner: &mut Inner) {
        if let Some(attachment) = inner.attachment.take() {
            self.clients.forget(attachment.watched, &attachment.stream);
        }
    }

    /// Reads frames until there are no more.
    fn read(&self, inner: &mut Inner) {
        let mut buffer = [0; BUFFER_BYTES];
        while let Some(attachment) = &mut inner.attachment {
            match attachment.stream.read(&mut buffer) {
                Ok(got) if got > 0 => attachment.decoder.extend(&buffer[..got]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The service brings another one.
                Ok(_) | Err(_) => return self.detach(inner),
            }
            if !inner.take_frames() {
                return self.detach(inner);
            }
            self.see_to_events(inner);
        }
    }

    /// Does what there is to do, and sends what there is to send.
    fn proceed(&self, inner: &mut Inner) {
        self.see_to_events(inner);
        while let Some(attachment) = &mut inner.attachment {
            if attachment.sent == attachment.frames.len() {
                attachment.frames.clear();
                attachment.sent = 0;
                inner.back.write(&mut attachment.frames, FRAMES_BYTES);
                if attachment.frames.is_empty() {
                    return;
                }
            }
            match attachment
                .stream
                .write(&attachment.frames[attachment.sent..])
            {
                Ok(written) if written > 0 => attachment.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return self.detach(inner),
            }
        }
    }

    fn see_to_events(&self, inner: &mut Inner) {
        while let Some(event) = inner.back.event() {
            match event {
                Event::Opened(id, address) => match self.open(inner, id) {
                    Ok(handle) => {
                        inner.waiting.push_back((id, handle));
                        inner.hand_over();
                    }
                    Err(error) => {
                        tracing::warn!("a client at {address} is turned away: {error}");
                        inner.back.reset(id);
                        self.unpair(inner, id);
                    }
                },
                Event::Deliver(id) => inner.deliver(id),
                Event::Room(id) => self.take(inner, id, 0),
                Event::Reset(id) | Event::Finished(id) => self.unpair(inner, id),
            }
        }
    }

    /// Takes what the process has sent: as long as there is room, and so many bytes if there is not.
    fn take(&self, inner: &mut Inner, id: ConnectionId, least: usize) {
        let Some(pair) = inner.pairs.get_mut(&id) else {
            return;
        };
        let mut buffer = [0; BUFFER_BYTES];
        while !inner.back.has_ended(id) {
            let room = inner.back.room(id).max(least).min(BUFFER_BYTES);
            if room == 0 {
                return;
            }
            pair.let_send();
            match pair.ours.read(&mut buffer[..room]) {
                Ok(got) if got > 0 => inner.back.push(id, &buffer[..got]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => inner.back.end(id),
            }
        }
        // It sends no more; only then can it have closed the connection.
        if pair.is_closed() {
            inner.back.close(id);
            self.unpair(inner, id);
        }
    }

    /// Cuts off the clients of whom there is most, if all together is more than can be taken along.
    fn lighten(&self, inner: &mut Inner) {
        let held = |(id, pair): (&ConnectionId, &Pair)| (inner.back.kept(*id) + pair.held(), *id);
        let mut all: Vec<(usize, ConnectionId)> = inner.pairs.iter().map(held).collect();
        all.sort_unstable();
        let mut bytes: usize = all.iter().map(|(bytes, _)| bytes).sum();
        let mut cut = 0;
        while bytes > CARRIED_BYTES_MAX
            && let Some((heaviest, id)) = all.pop()
        {
            bytes -= heaviest;
            cut += 1;
            inner.back.reset(id);
            self.unpair(inner, id);
        }
        if cut > 0 {
            tracing::warn!(
                "{cut} clients of a process that moves are cut off: they hold more unread bytes than it can take along"
            );
        }
    }
}

impl Drop for Port {
    /// The process is elsewhere, or over: what its end of connections did, nobody is to hear from here.
    fn drop(&mut self) {
        let this = self.inner.get_mut();
        let inner = this.unwrap_or_else(PoisonError::into_inner);
        for pair in inner.pairs.values() {
            self.clients.forget(pair.watched, &pair.ours);
        }
        if let Some(attachment) = &inner.attachment {
            self.clients.forget(attachment.watched, &attachment.stream);
        }
        if let Some(token) = inner.watched {
            self.clients.forget(token, &inner.queue);
        }
    }
}

impl Inner {
    /// Whether all frames that have come made sense.
    fn take_frames(&mut self) -> bool {
        let Some(attachment) = &mut self.attachment else {
            return false;
        };
        loop {
            let taken = match attachment.decoder.frame() {
                Ok(Some(frame)) => self.back.take(&frame).map_err(|error| error.to_string()),
                Ok(None) => return true,
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = taken {
                tracing::warn!("clients of a process are attached anew: {error}");
                return false;
            }
        }
    }

    /// Hands connections to the process, as many as it has room for.
    fn hand_over(&mut self) {
        while let Some((id, handle)) = self.waiting.front() {
            match hand_over(self.queue.as_fd(), id.0, handle.as_fd()) {
                Ok(true) => drop(self.waiting.pop_front()),
                // It waits until the process has taken some; or it has closed its listener, and they wait for ever.
                Ok(false) | Err(_) => return,
            }
        }
    }

    /// Keeps a process from sending more while more than may be under way has travelled with it: it would be more with each move.
    fn hold(&mut self, id: ConnectionId) {
        let Some(pair) = self.pairs.get_mut(&id).filter(|pair| !pair.is_held) else {
            return;
        };
        let last = self.back.take_back(id, HELD_BYTES);
        if last.is_empty() {
            return;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = send(&pair.theirs, &last, flags).unwrap_or(0);
        if sent == last.len() {
            // The least that there is, of which the pair has more already.
            pair.is_held = set_socket_send_buffer_size(&pair.theirs, 0).is_ok();
            return;
        }
        // It is as it was, and the process may send more.
        let _ = pair.ours.read(&mut vec![0; sent]);
        self.back.push(id, &last);
    }

    /// Gives the process what its client has sent, as long as it takes it.
    fn deliver(&mut self, id: ConnectionId) {
        let Some(pair) = self.pairs.get_mut(&id) else {
            return;
        };
        loop {
            let (bytes, end) = self.back.pending(id);
            if bytes.is_empty() {
                if end {
                    let _ = pair.ours.shutdown(Shutdown::Write);
                    self.back.delivered(id, 0, true);
                }
                return;
            }
            match pair.ours.write(bytes) {
                Ok(count) => self.back.delivered(id, count, false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It reads no more.
                Err(_) => {
                    let count = bytes.len();
                    self.back.delivered(id, count, false);
                }
            }
        }
    }
}

impl Pair {
    fn let_send(&mut self) {
        if std::mem::take(&mut self.is_held) {
            // It only has less room, if that fails.
            let _ = set_socket_send_buffer_size(&self.theirs, PAIR_BYTES);
        }
    }

    /// Whether the process has closed its end, and not only sends no more.
    fn is_closed(&self) -> bool {
        let mut polled = [PollFd::new(&self.ours, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::io::retry_on_intr(|| poll(&mut polled, Some(&now))).is_ok()
            && polled[0].revents().contains(PollFlags::HUP)
    }

    /// Bytes that the process has not read.
    fn held(&self) -> usize {
        ioctl_fionread(&self.theirs).unwrap_or(0) as usize
    }

    /// These, of a process that stands still.
    fn unread(&self) -> Vec<u8> {
        let mut unread = vec![0; self.held()];
        let looked = recv(
            &self.theirs,
            unread.as_mut_slice(),
            RecvFlags::PEEK | RecvFlags::DONTWAIT,
        );
        let count = looked.map_or(0, |(count, _)| count);
        unread.truncate(count);
        unread
    }
}
