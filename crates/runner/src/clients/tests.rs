//! Ports with an ingress at their other end, of which the test is the network; the process is the test, too.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use sterna_ingress::{Back, ConnectionId, Decoder, Front, WINDOW_BYTES};
use sterna_process::Listener;
use sterna_process::listener::accept;

use super::port::CarriedPort;
use super::{Clients, Port};
use crate::limits::CARRIED_BYTES_MAX;

const PATIENCE: Duration = Duration::from_secs(60);

/// The ingress, which serves its attachments on threads.
struct Ingress {
    front: Arc<Mutex<Front>>,
    /// Number of the attachment that counts, as the front has it.
    attached: Arc<AtomicU64>,
}

impl Ingress {
    fn new() -> Self {
        Self {
            front: Arc::new(Mutex::new(Front::new(1))),
            attached: Arc::default(),
        }
    }

    fn front(&self) -> MutexGuard<'_, Front> {
        self.front.lock().unwrap()
    }

    fn attach(&self, port: &Port) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let number = {
            let mut front = self.front();
            front.attach();
            self.attached.fetch_add(1, Ordering::SeqCst) + 1
        };
        port.attach(theirs.into()).unwrap();
        let (front, attached) = (Arc::clone(&self.front), Arc::clone(&self.attached));
        ours.set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        thread::spawn(move || {
            let mut decoder = Decoder::default();
            let mut buffer = [0; 4096];
            loop {
                match ours.read(&mut buffer) {
                    Ok(0) => return,
                    // There was more to read, and nobody is there any more.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
                    Ok(got) => decoder.extend(&buffer[..got]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
                let mut frames = Vec::new();
                let mut front = front.lock().unwrap();
                if attached.load(Ordering::SeqCst) != number {
                    return;
                }
                while let Some(frame) = decoder.frame().unwrap() {
                    front.take(&frame).unwrap();
                }
                front.write(&mut frames, 1 << 20);
                drop(front);
                if ours.write_all(&frames).is_err() {
                    return;
                }
            }
        });
    }

    fn client(&self, bytes: &[u8]) -> ConnectionId {
        let id = self.front().accept("192.0.2.1:7").unwrap();
        self.front().push(id, bytes);
        id
    }

    /// What a client gets, so many bytes.
    fn received(&self, id: ConnectionId, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        until(|| {
            let mut front = self.front();
            let (bytes, _) = front.pending(id);
            let got = bytes.len();
            all.extend_from_slice(bytes);
            front.delivered(id, got, false);
            all.len() >= count
        });
        all
    }
}

fn until(mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < PATIENCE, "it does not come about");
        thread::yield_now();
    }
}

fn port(back: Back) -> (Arc<Port>, Listener) {
    let clients = Clients::start().unwrap();
    Port::new(&clients, back, "http").unwrap()
}

/// The process accepts a connection.
fn accepted(listener: &Listener) -> (u64, File) {
    let mut taken = None;
    until(|| {
        taken = accept(listener.handle.as_fd()).unwrap();
        taken.is_some()
    });
    let (id, handle) = taken.unwrap();
    (id, handle.into())
}

/// The process reads so many bytes, or until there are no more.
fn read(connection: &mut File, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 64];
    until(
        || match connection.read(&mut buffer[..(count - all.len()).min(64)]) {
            Ok(got) => {
                all.extend_from_slice(&buffer[..got]);
                got == 0 || all.len() == count
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        },
    );
    all
}

fn carried(port: &Arc<Port>) -> CarriedPort {
    let section = super::section(std::slice::from_ref(port)).unwrap();
    let all: Vec<CarriedPort> = section.decode().unwrap();
    all.into_iter().next().unwrap()
}

#[test]
fn what_was_not_read_travels_and_what_was_not_taken_does() {
    let ingress = Ingress::new();
    let (source, listener) = port(Back::default());
    ingress.attach(&source);
    let id = ingress.client(b"read, not read");
    let (number, mut connection) = accepted(&listener);
    assert_eq!(number, id.0);
    assert_eq!(read(&mut connection, 6), b"read, ");
    connection.write_all(b"answer").unwrap();
    // It stands still from here on.
    let carried = carried(&source);
    let (target, _listener) = port(Back::default());
    let mut accepted = target.carry(0, carried).unwrap();
    drop((source, listener));
    let mut connection = File::from(accepted.remove(0).handle);
    assert_eq!(read(&mut connection, 8), b"not read");
    ingress.attach(&target);
    connection.write_all(b", and more").unwrap();
    assert_eq!(ingress.received(id, 16), b"answer, and more");
}

/// As much as there is room for, as one writes who is not stopped.
fn write_all_that_fits(connection: &mut File, written: &mut Vec<u8>) -> usize {
    let before = written.len();
    loop {
        let next: Vec<u8> = (written.len()..written.len() + 1000)
            .map(|at| (at % 251) as u8)
            .collect();
        match connection.write(&next) {
            Ok(count) => written.extend_from_slice(&next[..count]),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                return written.len() - before;
            }
        }
    }
}

#[test]
fn a_client_that_takes_nothing_stays_however_often_the_process_moves() {
    let ingress = Ingress::new();
    let (mut here, listener) = port(Back::default());
    ingress.attach(&here);
    let id = ingress.client(b"x");
    let (number, mut connection) = accepted(&listener);
    assert_eq!(number, id.0);
    let (mut written, mut sent) = (Vec::new(), vec![b'x']);
    for moves in 0..12 {
        // The process reads nothing, and its client sends what there is room for.
        until(|| {
            let mut front = ingress.front();
            let room = front.room(id);
            let next: Vec<u8> = (sent.len()..sent.len() + room)
                .map(|at| (at % 241) as u8)
                .collect();
            front.push(id, &next);
            sent.extend(next);
            drop(front);
            let grown = write_all_that_fits(&mut connection, &mut written);
            grown == 0 && room == 0
        });
        // One that was to move and stays, too.
        let carried = carried(&here);
        let carried = match moves % 3 {
            2 => {
                here.stay();
                continue;
            }
            _ => carried,
        };
        let (there, _listener) = port(Back::default());
        let mut accepted = there.carry(0, carried).unwrap();
        connection = accepted.pop().unwrap().handle.into();
        ingress.attach(&there);
        here = there;
    }
    let kept = written.len();
    assert!(kept < WINDOW_BYTES + PAIR_BYTES_MAX, "it has sent {kept}");
    assert_eq!(ingress.received(id, written.len()), written);
    assert_eq!(read(&mut connection, sent.len()), sent);
    // Then all is as it was.
    assert!(write_all_that_fits(&mut connection, &mut written) > HELD);
}

/// Both sides read as they like, and much or nothing of it.
#[test]
fn nothing_is_lost_of_clients_who_read_slowly_however_often_the_process_moves() {
    for seed in 1..20_u64 {
        let mut numbers = seed;
        let mut draw = |of: usize| {
            numbers ^= numbers << 13;
            numbers ^= numbers >> 7;
            numbers ^= numbers << 17;
            numbers as usize % of
        };
        let ingress = Ingress::new();
        let (mut here, listener) = port(Back::default());
        ingress.attach(&here);
        let id = ingress.client(b"\0");
        let (_, mut connection) = accepted(&listener);
        let (mut written, mut sent) = (Vec::new(), vec![0]);
        let (mut got, mut taken) = (0, 0);
        for _ in 0..12 {
            for _ in 0..draw(40) {
                let room = ingress.front().room(id);
                let next: Vec<u8> = (sent.len()..sent.len() + room)
                    .map(|at| (at % 241) as u8)
                    .collect();
                ingress.front().push(id, &next);
                sent.extend(next);
                write_all_that_fits(&mut connection, &mut written);
                let mut buffer = vec![0; 1 + draw(40_000)];
                if let Ok(count) = connection.read(&mut buffer) {
                    assert!(
                        buffer[..count] == sent[got..got + count],
                        "seed {seed}: {got}"
                    );
                    got += count;
                }
                let mut front = ingress.front();
                let (bytes, _) = front.pending(id);
                let count = bytes.len().min(draw(3000));
                assert!(
                    bytes[..count] == written[taken..taken + count],
                    "seed {seed}: {taken}"
                );
                front.delivered(id, count, false);
                taken += count;
            }
            let (there, _listener) = port(Back::default());
            let mut accepted = there.carry(0, carried(&here)).unwrap();
            connection = accepted.pop().expect("it came along").handle.into();
            ingress.attach(&there);
            until(|| {
                assert_eq!(ingress.front().clients(), 1, "seed {seed}");
                ingress.front().is_greeted()
            });
            here = there;
        }
        let left = ingress.received(id, written.len() - taken);
        assert!(left == written[taken..], "seed {seed}");
        assert_eq!(read(&mut connection, sent.len() - got), sent[got..]);
    }
}

/// More than a pair has room for.
const PAIR_BYTES_MAX: usize = 256 << 10;

/// What a process may send while more than may be under way has travelled with it is less.
const HELD: usize = 64 << 10;

#[test]
fn those_that_were_not_accepted_are_handed_over_at_the_target() {
    let ingress = Ingress::new();
    let (source, listener) = port(Back::default());
    ingress.attach(&source);
    let all = [0, 1, 2].map(|_| ingress.client(b"hello"));
    assert_eq!(accepted(&listener).0, all[0].0);
    let (target, listener) = port(Back::default());
    assert_eq!(target.carry(0, carried(&source)).unwrap().len(), 1);
    ingress.attach(&target);
    for waiting in &all[1..] {
        let (id, mut connection) = accepted(&listener);
        assert_eq!((id, &*read(&mut connection, 5)), (waiting.0, &b"hello"[..]));
    }
}

#[test]
fn a_process_that_stays_goes_on_with_its_clients() {
    let ingress = Ingress::new();
    let (port, listener) = port(Back::default());
    ingress.attach(&port);
    let id = ingress.client(b"0");
    let (_, mut connection) = accepted(&listener);
    for round in 0..3_u8 {
        drop(carried(&port));
        ingress.front().push(id, &[b'1' + round]);
        connection.write_all(b"while it stands").unwrap();
        port.stay();
        assert_eq!(read(&mut connection, 1), [b'0' + round]);
        assert_eq!(ingress.received(id, 15), b"while it stands");
    }
}

#[test]
fn either_side_sees_that_the_other_has_closed_a_connection() {
    let ingress = Ingress::new();
    let (port, listener) = port(Back::default());
    ingress.attach(&port);
    let [gone, closed] = [0, 1].map(|_| ingress.client(b""));
    let (_, mut broken) = accepted(&listener);
    let (_, mut connection) = accepted(&listener);
    ingress.front().reset(gone);
    assert_eq!(read(&mut broken, 1), b"");
    connection.write_all(b"goodbye").unwrap();
    rustix::net::shutdown(&connection, rustix::net::Shutdown::Both).unwrap();
    assert_eq!(ingress.received(closed, 7), b"goodbye");
    until(|| ingress.front().pending(closed).1);
    ingress.front().delivered(closed, 0, true);
    until(|| ingress.front().clients() == 0);
}

#[test]
fn one_that_ends_before_it_closes_is_seen_to_close() {
    let ingress = Ingress::new();
    let (source, listener) = port(Back::default());
    ingress.attach(&source);
    let [here, there] = [0, 1].map(|_| ingress.client(b""));
    let (_, mut lingers) = accepted(&listener);
    let (_, moves) = accepted(&listener);
    for connection in [&lingers, &moves] {
        rustix::net::shutdown(connection, rustix::net::Shutdown::Write).unwrap();
    }
    for client in [here, there] {
        until(|| ingress.front().pending(client).1);
        ingress.front().delivered(client, 0, true);
    }
    ingress.front().end(here);
    assert_eq!(read(&mut lingers, 1), b"");
    rustix::net::shutdown(&lingers, rustix::net::Shutdown::Both).unwrap();
    until(|| ingress.front().clients() == 1);
    let (target, _listener) = port(Back::default());
    let connection = target.carry(0, carried(&source)).unwrap().remove(0);
    ingress.attach(&target);
    rustix::net::shutdown(&connection.handle, rustix::net::Shutdown::Both).unwrap();
    until(|| ingress.front().clients() == 0);
}

#[test]
fn of_those_that_hold_too_much_some_are_cut_off_so_that_the_process_can_move() {
    let ingress = Ingress::new();
    let (port, listener) = port(Back::default());
    ingress.attach(&port);
    // None of them reads, so that each fills what there is for it.
    let all: Vec<ConnectionId> = (0..1200).map(|_| ingress.client(b"")).collect();
    let mut connections = Vec::new();
    for _ in &all {
        let (_, mut connection) = accepted(&listener);
        let block = [7; 64 << 10];
        while connection.write(&block).is_ok() {}
        connections.push(connection);
    }
    let carried = carried(&port);
    let bytes: usize = carried
        .connections
        .connections
        .iter()
        .map(|one| one.out.len() + one.unread.len())
        .sum();
    let count = carried.connections.connections.len();
    assert!(bytes <= CARRIED_BYTES_MAX, "{bytes} bytes");
    assert!(0 < count && count < all.len(), "{count} travel");
}
