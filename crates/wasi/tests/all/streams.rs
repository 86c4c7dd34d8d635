//! Standard streams on real pipes, terminals and sockets, and sockets passed to the process.

use crate::guest::{DATA, Guest, OUT, Time, config};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::net::{AddressFamily, SocketType, socketpair};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use sterna_wasi::{
    ConfigError, Errno, Function, Interest, PassedSocket, Rights, Stdio, Step, Wasi,
};

/// Whether a descriptor is ready, as an event loop would find.
pub(crate) fn is_ready(fd: impl AsFd, interest: Interest) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let flags = if interest.read {
        PollFlags::IN
    } else {
        PollFlags::OUT
    };
    poll(&mut [PollFd::new(&fd, flags)], Some(&Timespec::default())).unwrap() > 0
}

fn with_stdio(stdin: Stdio, stdout: Stdio) -> Guest {
    let mut given = config(&Time::default());
    given.stdio = [stdin, stdout, Stdio::Closed];
    Guest::new(given)
}

#[test]
fn reading_a_pipe_waits_and_ends() {
    let (ours, theirs) = rustix::pipe::pipe().unwrap();
    let shared = ours.try_clone().unwrap();
    let mut guest = with_stdio(Stdio::Inherit(ours), Stdio::Null);
    let wait = guest.read_waits(0);
    assert_eq!((wait.descriptors.len(), wait.deadline), (1, None));
    let (watched, interest) = &wait.descriptors[0];
    assert_eq!(*interest, Interest::READ);
    assert!(!is_ready(watched, Interest::READ));
    rustix::io::write(&theirs, b"abcdef").unwrap();
    assert!(is_ready(watched, Interest::READ));
    assert_eq!(guest.read(0, 4).unwrap(), b"abcd");
    assert_eq!(guest.read(0, 4).unwrap(), b"ef");
    drop(theirs);
    assert_eq!(guest.read(0, 4).unwrap(), b"");
    assert!(
        !fcntl_getfl(&shared).unwrap().contains(OFlags::NONBLOCK),
        "its flags are the caller's"
    );
    assert_eq!(guest.fdstat(0).unwrap().0, 0);
    assert_eq!(guest.seek(0, 0, 1), Err(Errno::SPIPE));
    assert_eq!(guest.read(2, 1), Err(Errno::BADF), "closed");
}

#[test]
fn a_pipe_whose_writers_left_before_is_at_its_end() {
    let (ours, theirs) = rustix::pipe::pipe().unwrap();
    rustix::io::write(&theirs, b"x").unwrap();
    drop(theirs);
    let mut guest = with_stdio(Stdio::Inherit(ours), Stdio::Null);
    assert_eq!(guest.read(0, 4).unwrap(), b"x");
    assert_eq!(guest.read(0, 4).unwrap(), b"");
}

#[test]
fn writing_a_full_pipe_waits_and_loses_nothing() {
    let (theirs, ours) = rustix::pipe::pipe().unwrap();
    let mut theirs = std::fs::File::from(theirs);
    let mut guest = with_stdio(Stdio::Null, Stdio::Inherit(ours));
    let data: Vec<u8> = (0..200_000u32).map(|i| (i / 3) as u8).collect();
    let (mut sent, mut got) = (0, Vec::new());
    let mut waits = 0;
    while sent < data.len() {
        match guest.write_step(1, &data[sent..]) {
            Step::Done(Errno::SUCCESS) => sent += guest.u32(OUT) as usize,
            Step::Wait(wait) => {
                assert_eq!(wait.descriptors[0].1, Interest::WRITE);
                assert!(!is_ready(&wait.descriptors[0].0, Interest::WRITE));
                waits += 1;
                let mut some = vec![0; 50_000];
                let count = theirs.read(&mut some).unwrap();
                got.extend_from_slice(&some[..count]);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(waits > 1);
    drop(guest);
    theirs.read_to_end(&mut got).unwrap();
    assert_eq!(got, data);
}

#[test]
fn a_pipe_without_reader_is_broken() {
    let (theirs, ours) = rustix::pipe::pipe().unwrap();
    let mut guest = with_stdio(Stdio::Null, Stdio::Inherit(ours));
    guest.write(1, b"x").unwrap();
    drop(theirs);
    assert_eq!(guest.write(1, b"x"), Err(Errno::PIPE));
}

#[test]
fn a_nonblocking_descriptor_does_not_wait() {
    let (ours, _theirs) = rustix::pipe::pipe().unwrap();
    let mut guest = with_stdio(Stdio::Inherit(ours), Stdio::Null);
    guest.call(Function::FdFdstatSetFlags, &[0, 4]).unwrap();
    assert_eq!(guest.read(0, 4), Err(Errno::AGAIN));
    guest.call(Function::FdFdstatSetFlags, &[0, 0]).unwrap();
    guest.read_waits(0);
}

/// A terminal: the side of its user, and the side of programs.
pub(crate) fn terminal() -> (OwnedFd, OwnedFd) {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&user).unwrap();
    let program = ioctl_tiocgptpeer(&user, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    (user, program)
}

#[test]
fn a_terminal_looks_like_one() {
    let (user, program) = terminal();
    let mut guest = with_stdio(
        Stdio::Inherit(program.try_clone().unwrap()),
        Stdio::Inherit(program),
    );
    let (kind, _, rights, _) = guest.fdstat(0).unwrap();
    // What wasi-libc's isatty() looks at.
    assert!(kind == 2 && !rights.intersects(Rights::FD_SEEK.and(Rights::FD_TELL)));
    guest.read_waits(0);
    rustix::io::write(&user, b"half").unwrap();
    guest.read_waits(0);
    rustix::io::write(&user, b" a line\nnext").unwrap();
    assert_eq!(guest.read(0, 100).unwrap(), b"half a line\n");
    rustix::io::write(&user, b"\x04\x04").unwrap();
    assert_eq!(guest.read(0, 100).unwrap(), b"next");
    assert_eq!(guest.read(0, 100).unwrap(), b"", "end of input");
    guest.read_waits(0);
    drop(user);
    assert_eq!(guest.read(0, 100).unwrap(), b"", "the user is gone");
}

#[test]
fn a_terminal_nobody_reads_is_waited_for() {
    let (user, program) = terminal();
    let mut guest = with_stdio(Stdio::Null, Stdio::Inherit(program));
    let line = [b'x'; 1000];
    let mut written = 0;
    let wait = loop {
        match guest.write_step(1, &line) {
            Step::Done(Errno::SUCCESS) => written += guest.u32(OUT) as usize,
            Step::Wait(wait) => break wait,
            other => panic!("{other:?}"),
        }
        assert!(written < 10_000_000);
    };
    assert_eq!(wait.descriptors[0].1, Interest::WRITE);
    let mut buffer = vec![0; 1 << 16];
    let mut read = 0;
    while is_ready(&user, Interest::READ) {
        read += rustix::io::read(&user, &mut buffer).unwrap();
    }
    assert_eq!(read, written);
    guest.write(1, &line).unwrap();
}

#[test]
fn redirected_files_can_be_sought() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    file.rewind().unwrap();
    let mut guest = with_stdio(
        Stdio::Inherit(file.try_clone().unwrap().into()),
        Stdio::Null,
    );
    assert_eq!(guest.fdstat(0).unwrap().0, 4);
    assert_eq!(guest.read(0, 3).unwrap(), b"012");
    assert_eq!(guest.seek(0, -1, 2), Ok(9));
    assert_eq!(
        file.stream_position().unwrap(),
        9,
        "the offset is shared with the caller, as it should be"
    );
}

#[test]
fn null_is_not_a_terminal() {
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let mut guest = with_stdio(
        Stdio::Inherit(null.try_clone().unwrap().into()),
        Stdio::Inherit(null.into()),
    );
    assert!(guest.fdstat(1).unwrap().2.contains(Rights::FD_SEEK));
    assert_eq!(guest.read(0, 10).unwrap(), b"");
    assert_eq!(guest.write(1, b"abc"), Ok(3));
}

#[test]
fn streams_in_memory() {
    let output = Arc::new(Mutex::new(Vec::new()));
    let mut guest = with_stdio(
        Stdio::Input(b"hello".to_vec()),
        Stdio::Output(output.clone()),
    );
    assert_eq!(guest.read(0, 2).unwrap(), b"he");
    assert_eq!(guest.read(0, 9).unwrap(), b"llo");
    assert_eq!(guest.read(0, 9).unwrap(), b"");
    assert_eq!(guest.write(0, b"x"), Err(Errno::BADF));
    assert_eq!(guest.write(1, b"out"), Ok(3));
    assert_eq!(*output.lock().unwrap(), b"out");
    guest.call(Function::FdFilestatGet, &[0, OUT]).unwrap();
}

fn with_socket(fd: OwnedFd) -> Guest {
    let mut given = config(&Time::default());
    given.sockets.push(PassedSocket {
        fd,
        name: "web".to_owned(),
    });
    Guest::new(given)
}

#[test]
fn sockets_accept_receive_and_send() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let mut guest = with_socket(listener.into());
    let accept = [3, 0, OUT];
    let Step::Wait(wait) = guest.step(Function::SockAccept, &accept) else {
        panic!()
    };
    let mut client = UnixStream::connect(&path).unwrap();
    assert!(is_ready(&wait.descriptors[0].0, Interest::READ));
    guest.call(Function::SockAccept, &accept).unwrap();
    let fd = guest.u32(OUT);
    assert_eq!(fd, 4);
    assert_eq!(guest.fdstat(fd).unwrap().0, 6);
    guest.read_waits(fd);
    client.write_all(b"request").unwrap();
    let [at, count] = guest.vectors(&[(DATA, 3), (DATA + 100, 100)]);
    let peek = [fd.into(), at, count, 1, OUT, OUT + 8];
    guest.call(Function::SockRecv, &peek).unwrap();
    let take = [fd.into(), at, count, 0, OUT, OUT + 8];
    guest.call(Function::SockRecv, &take).unwrap();
    assert_eq!(guest.u32(OUT), 7);
    assert_eq!(
        [guest.bytes(DATA, 3), guest.bytes(DATA + 100, 4)].concat(),
        b"request"
    );
    assert!(matches!(
        guest.step(Function::SockRecv, &take),
        Step::Wait(_)
    ));
    guest.put(DATA, b"ans");
    let [at, count] = guest.vectors(&[(DATA, 3)]);
    guest
        .call(Function::SockSend, &[fd.into(), at, count, 0, OUT])
        .unwrap();
    guest.write(fd, b"wer").unwrap();
    guest.call(Function::SockShutdown, &[fd.into(), 2]).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    drop(client);
    assert_eq!(guest.read(fd, 10).unwrap(), b"");
    assert_eq!(guest.write(fd, b"x"), Err(Errno::PIPE));
    assert_eq!(
        guest.call(Function::SockShutdown, &[fd.into(), 4]),
        Err(Errno::INVAL)
    );
    assert_eq!(
        guest.call(Function::SockSend, &[1, at, count, 0, OUT]),
        Err(Errno::NOTSOCK)
    );
    assert_eq!(
        guest.call(Function::SockSend, &[fd.into(), at, count, 1, OUT]),
        Err(Errno::INVAL)
    );
    guest.call(Function::FdFdstatSetFlags, &[3, 4]).unwrap();
    assert_eq!(
        guest.call(Function::SockAccept, &[3, 0, OUT]),
        Err(Errno::AGAIN)
    );
}

#[test]
fn datagrams_are_cut_and_say_so() {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        rustix::net::SocketFlags::empty(),
        None,
    )
    .unwrap();
    let mut guest = with_socket(ours);
    assert_eq!(guest.fdstat(3).unwrap().0, 5);
    rustix::io::write(&theirs, b"datagram").unwrap();
    let [at, count] = guest.vectors(&[(DATA, 4)]);
    guest
        .call(Function::SockRecv, &[3, at, count, 0, OUT, OUT + 4])
        .unwrap();
    assert_eq!((guest.u32(OUT), guest.u32(OUT + 4)), (4, 1));
}

#[test]
fn only_sockets_are_passed_as_sockets() {
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let mut given = config(&Time::default());
    given.sockets.push(PassedSocket {
        fd: pipe,
        name: "p".to_owned(),
    });
    assert!(matches!(
        Wasi::new(given),
        Err(ConfigError::Unusable { .. })
    ));
}
