//! One port: [`Port`].

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use sterna_ingress::{ConnectionId, Decoder, Event, Front};
use sterna_process::Epoch;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::client::{Client, Over};
use super::places::Places;
use crate::limits::{FRAMES_BYTES, RETRY_FIRST};

/// Number of the attachment of a port that is closed.
const CLOSED: u64 = u64::MAX;

/// A port of a process at its ingress.
pub(crate) struct Port {
    address: SocketAddr,
    state: Mutex<State>,
    /// Number of the attachment that counts.
    attachment: watch::Sender<u64>,
    accepting: OnceLock<AbortHandle>,
    places: Arc<Places>,
}

struct State {
    front: Front,
    clients: HashMap<ConnectionId, Arc<Client>>,
    /// Since when nobody is attached, if so.
    alone_since: Option<Instant>,
    /// Of the process, when somebody attached last.
    epoch: Epoch,
    /// There may be something for the process. Each attachment has its own: one that is over takes no other's word.
    changed: Arc<Notify>,
}

/// Why an attachment ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachmentError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] sterna_ingress::Malformed),
    #[error(transparent)]
    Protocol(#[from] sterna_ingress::ProtocolError),
    #[error("it was closed")]
    Closed,
}

impl Port {
    /// Listens, as nobody has with this number before, on the runtime of whoever calls.
    pub(super) fn open(
        address: SocketAddr,
        life: u64,
        places: Arc<Places>,
    ) -> io::Result<Arc<Self>> {
        let listener = StdTcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let port = Arc::new(Self {
            address,
            state: Mutex::new(State {
                front: Front::new(life),
                clients: HashMap::new(),
                alone_since: Some(Instant::now()),
                epoch: Epoch::FIRST,
                changed: Arc::default(),
            }),
            attachment: watch::Sender::new(0),
            accepting: OnceLock::new(),
            places,
        });
        // Somebody may connect at once, and finds the port whole.
        let accepting = tokio::spawn(accept(Arc::downgrade(&port), listener));
        let _ = port.accepting.set(accepting.abort_handle());
        Ok(port)
    }

    /// Where clients connect.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many clients are connected.
    pub(super) fn clients(&self) -> usize {
        self.lock().clients.len()
    }

    /// Whether anybody has ever been attached.
    pub(super) fn was_attached(&self) -> bool {
        *self.attachment.borrow() > 0
    }

    /// For how long nobody has been attached, if so.
    pub(super) fn has_waited(&self) -> Option<Duration> {
        self.lock().alone_since.map(|since| since.elapsed())
    }

    /// Cuts all clients off, and takes no more.
    pub(super) fn close(&self) {
        if let Some(accepting) = self.accepting.get() {
            accepting.abort();
        }
        self.attachment.send_replace(CLOSED);
        for (_, client) in self.lock().clients.drain() {
            client.end(Over::Broken);
        }
    }

    /// Serves an attachment until it breaks, or another one comes. Who had the process in an earlier epoch is late.
    pub(crate) async fn attach(
        &self,
        epoch: Epoch,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> Result<(), AttachmentError> {
        let (number, changed) = {
            let mut state = self.lock();
            if epoch < state.epoch || *self.attachment.borrow() == CLOSED {
                return Err(AttachmentError::Closed);
            }
            state.epoch = epoch;
            state.front.attach();
            state.alone_since = None;
            state.changed = Arc::default();
            let number = *self.attachment.borrow() + 1;
            self.attachment.send_replace(number);
            (number, Arc::clone(&state.changed))
        };
        let mut current = self.attachment.subscribe();
        let ended = tokio::select! {
            ended = self.read(&mut from, number) => ended,
            ended = self.write(&mut to, number, &changed) => ended,
            _ = current.wait_for(|current| *current != number) => Ok(()),
        };
        let mut state = self.lock();
        if *self.attachment.borrow() == number {
            state.alone_since = Some(Instant::now());
        }
        ended
    }

    /// The state, while an attachment counts.
    fn current(&self, number: u64) -> Result<MutexGuard<'_, State>, AttachmentError> {
        let state = self.lock();
        match *self.attachment.borrow() == number {
            true => Ok(state),
            false => Err(AttachmentError::Closed),
        }
    }

    async fn read(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        number: u64,
    ) -> Result<(), AttachmentError> {
        let (mut decoder, mut buffer) = (Decoder::default(), vec![0; FRAMES_BYTES]);
        loop {
            let got = from.read(&mut buffer).await?;
            if got == 0 {
                return Err(AttachmentError::Closed);
            }
            decoder.extend(&buffer[..got]);
            let mut state = self.current(number)?;
            while let Some(frame) = decoder.frame()? {
                state.front.take(&frame)?;
            }
            self.see_to_events(&mut state);
        }
    }

    async fn write(
        &self,
        to: &mut (impl AsyncWrite + Unpin),
        number: u64,
        changed: &Notify,
    ) -> Result<(), AttachmentError> {
        let mut frames = Vec::with_capacity(FRAMES_BYTES);
        loop {
            self.current(number)?.front.write(&mut frames, FRAMES_BYTES);
            if frames.is_empty() {
                changed.notified().await;
            } else {
                to.write_all(&frames).await?;
                frames.clear();
            }
        }
    }

    /// Does something with the front, and what follows from it.
    pub(super) fn with<T>(&self, deed: impl FnOnce(&mut Front) -> T) -> T {
        let mut state = self.lock();
        let done = deed(&mut state.front);
        self.see_to_events(&mut state);
        done
    }

    fn see_to_events(&self, state: &mut State) {
        while let Some(event) = state.front.event() {
            match event {
                Event::Deliver(id) | Event::Room(id) => {
                    if let Some(client) = state.clients.get(&id) {
                        client.wake();
                    }
                }
                Event::Reset(id) => end(state, id, Over::Broken),
                Event::Finished(id) => end(state, id, Over::Finished),
                Event::Opened(..) => {}
            }
        }
        if state.front.has_something() {
            state.changed.notify_one();
        }
    }

    /// A client is gone.
    pub(super) fn lost(&self, id: ConnectionId) {
        let mut state = self.lock();
        state.clients.remove(&id);
        state.front.reset(id);
        self.see_to_events(&mut state);
    }

    fn welcome(self: &Arc<Self>, stream: TcpStream, from: SocketAddr) {
        let Some(place) = self.places.take() else {
            return;
        };
        let mut state = self.lock();
        let Some(id) = state.front.accept(&from.to_string()) else {
            tracing::warn!("{} has as many clients as it may", self.address);
            return;
        };
        let client = Arc::new(Client::default());
        state.clients.insert(id, Arc::clone(&client));
        self.see_to_events(&mut state);
        drop(state);
        let served = client.serve(Arc::downgrade(self), id, stream);
        tokio::spawn(async move {
            served.await;
            drop(place);
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end(state: &mut State, id: ConnectionId, over: Over) {
    if let Some(client) = state.clients.remove(&id) {
        client.end(over);
    }
}

async fn accept(port: Weak<Port>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => match port.upgrade() {
                Some(port) => port.welcome(stream, from),
                None => return,
            },
            // Out of descriptors, say: others are being served, and will give some back.
            Err(_) => sleep(RETRY_FIRST).await,
        }
    }
}
