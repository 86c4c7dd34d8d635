//! Sockets and pipes, and calls that block in the kernel.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sterna_threads::io::{
    TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream, pipe, resolve,
};
use sterna_threads::sync::channel::bounded;
use sterna_threads::{
    Cancelled, Implementation, Runtime, blocking, scope, sleep, spawn, yield_now,
};

use crate::on_all;

const LOOPBACK: &str = "127.0.0.1:0";

#[test]
fn echo_over_tcp() {
    on_all(|| {
        let listener = TcpListener::bind(LOOPBACK).unwrap();
        let address = listener.local_addr().unwrap();
        scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20 {
                    let (mut stream, _) = listener.accept().unwrap();
                    drop(spawn(move || {
                        let mut buffer = [0; 64];
                        while let Ok(length @ 1..) = stream.read(&mut buffer) {
                            stream.write_all(&buffer[..length]).unwrap();
                        }
                    }));
                }
            });
            for number in 0..20_u8 {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.set_nodelay(true).unwrap();
                    for round in 0..50 {
                        let sent = [number, round];
                        stream.write_all(&sent).unwrap();
                        let mut got = [0; 2];
                        stream.read_exact(&mut got).unwrap();
                        assert_eq!(got, sent);
                    }
                });
            }
        });
    });
}

#[test]
fn more_than_a_buffer_goes_through_each_kind() {
    fn through(mut reader: impl Read + Send + 'static, mut writer: impl Write + Send + 'static) {
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        let sent = bytes.clone();
        let writes = spawn(move || writer.write_all(&sent).unwrap());
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert!(got == bytes);
        writes.join().unwrap();
    }
    on_all(|| {
        let (reader, writer) = pipe().unwrap();
        through(reader, writer);
        let (one, two) = UnixStream::pair().unwrap();
        through(one, two);
        let listener = TcpListener::bind(LOOPBACK).unwrap();
        let writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        through(listener.accept().unwrap().0, writer);
    });
}

/// Reads with room to spare, after which the next read waits at once: bytes, the end, and both together still arrive.
#[test]
fn what_comes_after_a_short_read() {
    fn through(mut reader: impl Read + Send + 'static, mut writer: impl Write + Send + 'static) {
        let (asks, requests) = bounded(0);
        let reads = spawn(move || {
            let mut got: Vec<u8> = Vec::new();
            loop {
                asks.send(()).unwrap();
                let mut buffer = [0; 100];
                match reader.read(&mut buffer).unwrap() {
                    0 => return got,
                    length => got.extend(&buffer[..length]),
                }
            }
        });
        for round in 0..6_u8 {
            requests.recv().unwrap();
            // Before the reader waits, and after.
            if round % 2 == 0 {
                yield_now();
            }
            writer.write_all(&[round; 3]).unwrap();
        }
        requests.recv().unwrap();
        writer.write_all(b"end").unwrap();
        drop(writer);
        while requests.recv().is_ok() {}
        let expected = (0..6).flat_map(|round| [round; 3]).chain(*b"end");
        assert_eq!(reads.join().unwrap(), expected.collect::<Vec<_>>());
    }
    on_all(|| {
        for _ in 0..50 {
            let (reader, writer) = pipe().unwrap();
            through(reader, writer);
            let (one, two) = UnixStream::pair().unwrap();
            through(one, two);
            let listener = TcpListener::bind(LOOPBACK).unwrap();
            let writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            through(listener.accept().unwrap().0, writer);
        }
        // Nothing comes: the time is over all the same.
        let (mut one, mut two) = UnixStream::pair().unwrap();
        one.set_read_timeout(Some(Duration::from_millis(2)));
        for _ in 0..3 {
            two.write_all(b"x").unwrap();
            assert_eq!(one.read(&mut [0; 9]).unwrap(), 1);
            assert_eq!(
                one.read(&mut [0; 9]).unwrap_err().kind(),
                ErrorKind::TimedOut
            );
        }
    });
}

#[test]
fn datagrams() {
    on_all(|| {
        let (one, two) = (
            UdpSocket::bind(LOOPBACK).unwrap(),
            UdpSocket::bind(LOOPBACK).unwrap(),
        );
        one.connect(two.local_addr().unwrap()).unwrap();
        let answers = spawn(move || {
            let mut buffer = [0; 16];
            let (length, from) = two.recv_from(&mut buffer).unwrap();
            two.send_to(&buffer[..length], from).unwrap();
        });
        one.send(b"tern").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(one.recv(&mut buffer).unwrap(), 4);
        answers.join().unwrap();
    });
}

#[test]
fn sockets_in_the_file_system() {
    let path = std::env::temp_dir().join(format!("sterna-threads-{}", std::process::id()));
    on_all(|| {
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let accepts = spawn(move || listener.accept().unwrap().0.write_all(b"hi").unwrap());
        let mut text = String::new();
        UnixStream::connect(&path)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "hi");
        accepts.join().unwrap();
    });
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn reads_time_out_and_are_cancelled() {
    on_all(|| {
        let (mut one, two) = UnixStream::pair().unwrap();
        one.set_read_timeout(Some(Duration::from_millis(3)));
        assert_eq!(one.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
        one.set_read_timeout(None);
        let reads = spawn(move || one.read(&mut [0]).unwrap());
        let listener = TcpListener::bind(LOOPBACK).unwrap();
        let accepts = spawn(move || listener.accept().map(drop));
        sleep(Duration::from_millis(2));
        reads.cancel();
        accepts.cancel();
        assert!(reads.join().unwrap_err().is::<Cancelled>());
        assert!(accepts.join().unwrap_err().is::<Cancelled>());
        drop(two);
    });
}

#[test]
fn nobody_listens() {
    on_all(|| {
        let listener = TcpListener::bind(LOOPBACK).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = TcpStream::connect(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(
            resolve("127.0.0.1", 1).unwrap(),
            ["127.0.0.1:1".parse().unwrap()]
        );
    });
}

#[test]
fn one_socket_in_two_runtimes() {
    let (one, two) = UnixStream::pair().unwrap();
    let (one, two) = (Arc::new(one), Arc::new(two));
    for _ in 0..2 {
        on_all(|| {
            let theirs = Arc::clone(&one);
            let reads = spawn(move || {
                let mut byte = [0];
                (&*theirs).read_exact(&mut byte).unwrap();
                byte[0]
            });
            yield_now();
            sleep(Duration::from_millis(1));
            (&*two).write_all(&[5]).unwrap();
            assert_eq!(reads.join().unwrap(), 5);
        });
    }
}

#[test]
fn a_call_that_blocks_stops_nobody_else() {
    let runtime = Runtime::builder(Implementation::User).build().unwrap();
    runtime.run(|| {
        let text = String::from("borrowed");
        let (begun, go_on) = (AtomicBool::new(false), AtomicBool::new(false));
        scope(|scope| {
            let slow = scope.spawn(|| {
                blocking(|| {
                    begun.store(true, Ordering::SeqCst);
                    while !go_on.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    text.len()
                })
            });
            // On one kernel thread: if the call held it, nobody would ever let it go on.
            while !begun.load(Ordering::SeqCst) {
                yield_now();
            }
            sleep(Duration::from_millis(1));
            go_on.store(true, Ordering::SeqCst);
            assert_eq!(slow.join().unwrap(), 8);
        });
        let failed = spawn(|| blocking(|| std::panic::resume_unwind(Box::new(3_u8))));
        let failed: Result<(), _> = failed.join();
        assert!(failed.unwrap_err().is::<u8>());
    });
}

#[test]
fn who_never_waits_for_input_gives_way() {
    let runtime = Runtime::user().unwrap();
    runtime.run(|| {
        let (mut one, mut two) = UnixStream::pair().unwrap();
        let other = spawn(|| 5);
        while !other.is_finished() {
            one.write_all(b"x").unwrap();
            two.read_exact(&mut [0]).unwrap();
        }
        assert_eq!(other.join().unwrap(), 5);
    });
}

#[test]
fn descriptors_are_given_back() {
    on_all(|| {
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let round = || {
            let (mut one, mut two) = UnixStream::pair().unwrap();
            let reads = spawn(move || one.read(&mut [0; 4]).unwrap());
            yield_now();
            two.write_all(b"x").unwrap();
            reads.join().unwrap();
        };
        round();
        let before = count();
        (0..2000).for_each(|_| round());
        // Other tests run beside this one.
        assert!(count() < before + 500);
    });
}
