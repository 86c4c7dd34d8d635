//! What nobody should send to a runner.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use sterna_migration::Holding;
use sterna_process::ProcessId;
use sterna_runner::limits::{DESCRIPTORS_MAX, MESSAGE_BYTES_MAX};
use sterna_runner::link;
use sterna_runner::message::{Numbered, Order, PlacedDirectory, Side, Spawn};

use crate::rig::{Journey, Runner, SOURCE, place, tcp};
use crate::toys;

#[test]
fn frames_that_are_wrong_end_their_link_and_nothing_else() {
    let runner = Runner::start();
    let service = runner.service();
    let process = service.spawn(toys::FREE, &toys::silent(), runner.log("log"));
    let begin = runner.uses();
    let long = (MESSAGE_BYTES_MAX as u32 + 1).to_le_bytes();
    let frames: [&[u8]; 7] = [
        &[],
        b"GET / HTTP/1.1\r\n\r\n",
        &[&long[..], &[0]].concat(),
        &[255; 5],
        &[0, 0, 0, 0, 3],
        &[3, 0, 0, 0, 0, 255, 255, 255],
        &[9, 0, 0, 0, 0, 1, 2],
    ];
    for frame in frames {
        let mut peer = runner.raw();
        link::greet(&mut peer).unwrap();
        peer.write_all(frame).unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let _ = peer.read_to_end(&mut rest);
        assert_eq!(rest, b"", "{frame:?}");
    }
    // Those that say no hello, or another.
    let mut foreign = runner.raw();
    foreign.write_all(b"STRX\x01\x00").unwrap();
    let mut newer = runner.raw();
    newer.write_all(b"STRN\xff\x00").unwrap();
    for mut peer in [foreign, newer] {
        let mut hello = Vec::new();
        let _ = peer.read_to_end(&mut hello);
        assert_eq!(hello.len(), 6);
    }
    assert!(matches!(
        service.seen(process).holding,
        Holding::Running { .. }
    ));
    crate::moves::settles(&runner, (begin.0, begin.1));
}

/// Who connects and says nothing keeps nobody else away.
#[test]
fn one_that_is_silent_holds_up_no_service() {
    let runner = Runner::start();
    let _silent = runner.raw();
    let service = runner.service();
    service.holdings();
}

/// Whoever takes up all descriptors of a runner keeps services away, and ends nothing.
#[test]
fn one_that_can_have_no_more_descriptors_lives_on() {
    let runner = Runner::start();
    let service = runner.service();
    let process = service.spawn(toys::FREE, &toys::silent(), runner.log("log"));
    let begin = runner.uses();
    let few = begin.0 as u64 + 8;
    let pid = Pid::from_raw(runner.child.id() as i32);
    let limit = Rlimit {
        current: Some(few),
        maximum: Some(few),
    };
    prlimit(pid, Resource::Nofile, limit).unwrap();
    let idle: Vec<_> = (0..32).map(|_| runner.raw()).collect();
    crate::moves::until("there are no more", || runner.uses().0 as u64 == few);
    let refused = service.try_spawn(toys::FREE, &toys::silent(), runner.log("other"));
    assert!(refused.is_err());
    drop((idle, service));
    let service = runner.service();
    assert!(matches!(
        service.seen(process).holding,
        Holding::Running { .. }
    ));
}

#[test]
fn orders_without_the_descriptors_that_belong_to_them_are_refused() {
    let runner = Runner::start();
    let service = runner.service();
    let begin = runner.uses();
    let mut placed = place();
    let order = |place| {
        let program = toys::silent().id();
        Order::Spawn(Box::new(Spawn {
            process: ProcessId::random(),
            epoch: sterna_process::Epoch::FIRST,
            kind: toys::FREE,
            program,
            arguments: Vec::new(),
            variables: Vec::new(),
            entry: None,
            place,
        }))
    };
    let refused = service.ask(order(placed.clone()), Vec::new());
    assert!(refused.unwrap_err().contains("descriptor is missing"));
    placed.directories = vec![PlacedDirectory {
        guest_path: "/data".into(),
        read_only: false,
    }];
    let log = vec![runner.log("log").into()];
    let refused = service.ask(order(placed), log);
    assert!(refused.unwrap_err().contains("descriptor is missing"));
    // More than were asked for are closed.
    let many = (0..DESCRIPTORS_MAX).map(|_| OwnedFd::from(File::open("/dev/null").unwrap()));
    let looked = service.ask(Order::LookAll, many.collect());
    assert!(looked.is_ok());
    crate::moves::settles(&runner, (begin.0, begin.1));
    let journey_without = runner.service();
    assert_eq!(journey_without.holdings().held, []);
}

/// Records that are not sealed with the right key, of any sort: the arriving process is still to be had.
#[test]
fn noise_on_a_channel_harms_nobody() {
    let [one, two] = [Runner::start(), Runner::start()];
    let (from, to) = (one.service(), two.service());
    let process = from.spawn(toys::FREE, &toys::large(), one.log("log"));
    let journey = Journey::of(process, &from, &to);
    journey.prepare(two.log("log"));
    let source = SOURCE;
    let noise: [&[u8]; 5] = [
        &[],
        &[0; 4],
        &[0; 64],
        &[255; 64],
        &(256_u32 << 10).to_le_bytes(),
    ];
    for bytes in noise {
        let (mut ours, theirs) = tcp();
        to.channel(
            journey.attempt,
            theirs,
            7,
            Side::Target {
                source,
                lane: false,
            },
        );
        ours.write_all(bytes).unwrap();
        closes(ours);
    }
    // One that never ends and is never read.
    let (mut endless, theirs) = tcp();
    to.channel(
        journey.attempt,
        theirs,
        7,
        Side::Target {
            source,
            lane: false,
        },
    );
    endless.write_all(&[4, 0, 0, 0, 1]).unwrap();
    journey.connect();
    journey.pause();
    let size = journey.capture();
    journey.push().unwrap();
    journey.restore(size);
    journey.go_on();
    closes(endless);
}

/// Ends what is written, and reads until the other end has ended, too.
fn closes(mut connection: TcpStream) {
    let _ = connection.shutdown(std::net::Shutdown::Write);
    let mut rest = Vec::new();
    let _ = connection.read_to_end(&mut rest);
    assert_eq!(rest, b"");
}

/// An order that the link does not have is the end of the link; numbers are the service's own affair.
#[test]
fn the_same_number_twice_is_answered_twice() {
    let runner = Runner::start();
    let service = runner.service();
    service.spawn(toys::WAITING, &toys::silent(), runner.log("log"));
    let mut peer = runner.raw();
    link::greet(&mut peer).unwrap();
    for _ in 0..2 {
        let order = Order::Holdings;
        link::send(&peer, &Numbered { number: 5, order }, &[]).unwrap();
    }
    for _ in 0..2 {
        let (said, _) = link::receive::<sterna_runner::message::Said>(&peer).unwrap();
        let five = matches!(said, sterna_runner::message::Said::Answer { number: 5, .. });
        assert!(five, "{said:?}");
    }
}
