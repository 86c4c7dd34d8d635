//! A detour for what is sent to nodes: it takes longer, as much as is wanted just now.
//!
//! Nodes advertise addresses of the detour, which hands datagrams and TCP connections on to theirs, and back.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// Pieces that are under way one way at once. Of more datagrams some get lost, and streams wait.
const PIECES_MAX: usize = 1024;
const PIECE_BYTES: usize = 64 << 10;
/// How often those who wait look whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Dropping it ends it.
#[derive(Clone)]
struct Way {
    delay_ms: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

pub(crate) struct Detour(Way);

/// What is under way, and when it gets there.
type Piece = (Instant, Vec<u8>);

impl Detour {
    /// One of the calling thread's network, which hands on from one address to another, for each of these.
    pub(crate) fn begin(ways: &[(SocketAddr, SocketAddr)]) -> io::Result<Self> {
        let way = Way {
            delay_ms: Arc::default(),
            is_over: Arc::default(),
        };
        for (from, to) in ways.iter().copied() {
            let datagrams = Arc::new(UdpSocket::bind(from)?);
            datagrams.set_read_timeout(Some(LOOK_EVERY))?;
            let streams = TcpListener::bind(from)?;
            set_socket_timeout(&streams, Timeout::Recv, Some(LOOK_EVERY))?;
            let (one, other) = (way.clone(), way.clone());
            thread::spawn(move || one.datagrams(&datagrams, to));
            thread::spawn(move || other.streams(&streams, to));
        }
        Ok(Self(way))
    }

    pub(crate) fn delay(&self, delay: Duration) {
        let delay_ms = delay.as_millis() as u64;
        self.0.delay_ms.store(delay_ms, Ordering::Relaxed);
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

impl Way {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn piece(&self, bytes: &[u8]) -> Piece {
        let delay = Duration::from_millis(self.delay_ms.load(Ordering::Relaxed));
        (Instant::now() + delay, bytes.to_vec())
    }

    /// Each sender gets a socket of its own towards the node, so that what comes back is known to be for it.
    fn datagrams(self, socket: &Arc<UdpSocket>, to: SocketAddr) {
        let mut senders = HashMap::new();
        let mut buffer = vec![0; PIECE_BYTES];
        while !self.is_over() {
            let Ok((got, from)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            let queue = senders.entry(from).or_insert_with(|| {
                let forth =
                    Arc::new(UdpSocket::bind((socket.local_addr().unwrap().ip(), 0)).unwrap());
                forth.connect(to).unwrap();
                forth.set_read_timeout(Some(LOOK_EVERY)).unwrap();
                let (way, back) = (self.clone(), Arc::clone(socket));
                let answers = Arc::clone(&forth);
                thread::spawn(move || way.answers(&answers, back, from));
                // Nobody may listen there just now.
                queue(move |bytes| {
                    let _ = forth.send(bytes);
                    Ok(())
                })
            });
            let _ = queue.try_send(self.piece(&buffer[..got]));
        }
    }

    fn answers(self, socket: &UdpSocket, back: Arc<UdpSocket>, to: SocketAddr) {
        let queue = queue(move |bytes| {
            let _ = back.send_to(bytes, to);
            Ok(())
        });
        let mut buffer = vec![0; PIECE_BYTES];
        while !self.is_over() {
            if let Ok(got) = socket.recv(&mut buffer) {
                let _ = queue.try_send(self.piece(&buffer[..got]));
            }
        }
    }

    fn streams(self, listener: &TcpListener, to: SocketAddr) {
        while !self.is_over() {
            let Ok((one, _)) = listener.accept() else {
                continue;
            };
            let way = self.clone();
            thread::spawn(move || {
                let other = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
                let (forth, back) = ((one.try_clone()?, other.try_clone()?), (other, one));
                let both = way.clone();
                thread::spawn(move || both.stream(forth));
                way.stream(back);
                Ok::<_, io::Error>(())
            });
        }
    }

    fn stream(self, (mut from, mut to): (TcpStream, TcpStream)) {
        let _ = from.set_nodelay(true);
        let _ = from.set_read_timeout(Some(LOOK_EVERY));
        let queue = queue(move |bytes| match bytes {
            [] => to.shutdown(Shutdown::Write),
            bytes => to.write_all(bytes),
        });
        let mut buffer = vec![0; PIECE_BYTES];
        while !self.is_over() {
            let got = match from.read(&mut buffer) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => 0,
            };
            if queue.send(self.piece(&buffer[..got])).is_err() || got == 0 {
                break;
            }
        }
    }
}

/// What is put into it is handed on when it is due.
fn queue(hand_on: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static) -> SyncSender<Piece> {
    let (queue, pieces) = sync_channel(PIECES_MAX);
    thread::spawn(move || carry(&pieces, hand_on));
    queue
}

fn carry(pieces: &Receiver<Piece>, mut hand_on: impl FnMut(&[u8]) -> io::Result<()>) {
    for (due, bytes) in pieces {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if hand_on(&bytes).is_err() {
            return;
        }
    }
}
