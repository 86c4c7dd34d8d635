//! Connections that others accept for the process: it takes them, closes them, and moves with them.

use crate::guest::{Guest, OUT, Time, config};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use sterna_process::listener::{connection, hand_over, listener};
use sterna_process::{Connection, Listener};
use sterna_wasi::{Binding, Directory, Errno, Function, Rebind, Step};

/// A process with one listener, and its other end.
fn serving() -> (Guest, OwnedFd) {
    let (ours, handle) = listener().unwrap();
    let mut given = config(&Time::default());
    let name = "http".to_owned();
    given.listeners.push(Listener { name, handle });
    (Guest::new(given), ours)
}

/// A client, and the number of its connection in the process.
fn client(guest: &mut Guest, listener: &OwnedFd, id: u64) -> (File, u32) {
    let (client, handle) = connection().unwrap();
    assert!(hand_over(listener.as_fd(), id, handle.as_fd()).unwrap());
    guest.call(Function::SockAccept, &[3, 0, OUT]).unwrap();
    (client.into(), guest.u32(OUT))
}

fn rebind() -> Rebind {
    Rebind::new(Box::new(Time::default()))
}

#[test]
fn a_connection_is_taken_used_and_closed() {
    let (mut guest, listener) = serving();
    assert!(matches!(
        guest.step(Function::SockAccept, &[3, 0, OUT]),
        Step::Wait(_)
    ));
    let (mut client, fd) = client(&mut guest, &listener, 5);
    client.write_all(b"request").unwrap();
    assert_eq!(guest.read(fd, 100).unwrap(), b"request");
    guest.write(fd, b"answer").unwrap();
    // Somebody else still has the descriptor, as whoever looks after it has.
    guest.close(fd).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    assert_eq!(guest.read(3, 1), Err(Errno::NOTCONN));
    assert_eq!(guest.write(3, b"x"), Err(Errno::NOTCONN));
}

#[test]
fn connections_go_on_where_they_are_given_again_and_break_where_not() {
    let (mut guest, before) = serving();
    let (_stays, stays) = client(&mut guest, &before, 1);
    let (_breaks, breaks) = client(&mut guest, &before, 2);
    let all = guest.wasi.descriptors();
    let kept = all.iter().filter(|one| one.binding == Binding::Kept);
    assert_eq!(kept.count(), 3);
    let (after, handle) = listener().unwrap();
    let (mut there, end) = connection()
        .map(|(one, other)| (File::from(one), other))
        .unwrap();
    let mut given = rebind();
    let name = "http".to_owned();
    given.listeners.push(Listener { name, handle });
    given.connections.push(Connection {
        listener: 0,
        id: 1,
        handle: end,
    });
    let mut guest = guest.moved(given).unwrap();
    assert_eq!(guest.wasi.descriptors(), all);
    there.write_all(b"more").unwrap();
    assert_eq!(guest.read(stays, 100).unwrap(), b"more");
    assert_eq!(guest.read(breaks, 100).unwrap(), b"");
    assert_eq!(guest.write(breaks, b"x"), Err(Errno::PIPE));
    let (_third, third) = client(&mut guest, &after, 3);
    assert!(third > breaks);
}

#[test]
fn nobody_comes_to_a_listener_that_is_not_given_again() {
    let (guest, _listener) = serving();
    let mut guest = guest.moved(rebind()).unwrap();
    let accept = [3, 0, OUT];
    assert!(matches!(
        guest.step(Function::SockAccept, &accept),
        Step::Wait(_)
    ));
    guest.close(3).unwrap();
}

/// What a C library does when it starts.
#[test]
fn directories_are_found_behind_listeners() {
    let (_ours, handle) = listener().unwrap();
    let mut given = config(&Time::default());
    let name = "http".to_owned();
    given.listeners.push(Listener { name, handle });
    let dir = tempfile::tempdir().unwrap();
    let data = Directory::open(dir.path(), "/data", false).unwrap();
    given.directories.push(data);
    let mut guest = Guest::new(given);
    let mut tags = Vec::new();
    for fd in 3.. {
        match guest.call(Function::FdPrestatGet, &[fd, OUT]) {
            Ok(()) => tags.push(guest.u32(OUT)),
            Err(errno) => {
                assert_eq!(errno, Errno::BADF);
                break;
            }
        }
    }
    assert_eq!(tags, [1, 0]);
}
