//! `poll_oneoff` in virtual time.

use crate::guest::{BOTH, CREAT, DATA, Guest, OUT, Time, config};
use std::time::Duration;
use sterna_wasi::{Directory, Errno, Function, Rebind, Stdio, Step, Wait};

const EVENTS: u64 = 0x8000;
const MONOTONIC: u32 = 1;
const REALTIME: u32 = 0;
const MS: u64 = 1_000_000;

pub(crate) enum On {
    Clock(u32, u64, bool),
    Read(u32),
    Write(u32),
}

/// Lays out subscriptions, numbered from 1, and polls.
pub(crate) fn poll(guest: &mut Guest, subscriptions: &[On]) -> Step {
    for (index, on) in (0..).zip(subscriptions) {
        let at = DATA + index * 48;
        guest.put(at, &[0; 48]);
        guest.put(at, &(index + 1).to_le_bytes());
        match on {
            On::Clock(id, timeout, absolute) => {
                guest.put(at + 16, &id.to_le_bytes());
                guest.put(at + 24, &timeout.to_le_bytes());
                guest.put(at + 40, &u16::from(*absolute).to_le_bytes());
            }
            On::Read(fd) => {
                guest.put(at + 8, &[1]);
                guest.put(at + 16, &fd.to_le_bytes());
            }
            On::Write(fd) => {
                guest.put(at + 8, &[2]);
                guest.put(at + 16, &fd.to_le_bytes());
            }
        }
    }
    guest.step(
        Function::PollOneoff,
        &[DATA, EVENTS, subscriptions.len() as u64, OUT],
    )
}

fn again(guest: &mut Guest, count: u64) -> Step {
    guest.step(Function::PollOneoff, &[DATA, EVENTS, count, OUT])
}

/// Who, error, type, bytes, flags.
type Event = (u64, u16, u8, u64, u16);

pub(crate) fn events(guest: &Guest, step: Step) -> Vec<Event> {
    assert!(matches!(step, Step::Done(Errno::SUCCESS)), "{step:?}");
    let u16_at = |at| u16::from_le_bytes(guest.bytes(at, 2).try_into().unwrap());
    (0..u64::from(guest.u32(OUT)))
        .map(|index| EVENTS + index * 32)
        .map(|at| {
            (
                guest.u64(at),
                u16_at(at + 8),
                guest.bytes(at, 32)[10],
                guest.u64(at + 16),
                u16_at(at + 24),
            )
        })
        .collect()
}

pub(crate) fn waits(step: Step) -> Wait {
    match step {
        Step::Wait(wait) => wait,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sleep_ends_when_it_was_to_end() {
    let time = Time::default();
    let mut guest = Guest::new(config(&time));
    time.pass(Duration::from_secs(10));
    let wait = waits(poll(&mut guest, &[On::Clock(MONOTONIC, 300 * MS, false)]));
    assert_eq!(
        (wait.descriptors.len(), wait.deadline),
        (0, Some(Duration::from_millis(10_300)))
    );
    time.pass(Duration::from_millis(200));
    let wait = waits(again(&mut guest, 1));
    assert_eq!(
        wait.deadline,
        Some(Duration::from_millis(10_300)),
        "not counted anew"
    );
    time.pass(Duration::from_millis(100));
    let step = again(&mut guest, 1);
    assert_eq!(events(&guest, step), [(1, 0, 0, 0, 0)]);
    // The same call again is another sleep.
    let wait = waits(again(&mut guest, 1));
    assert_eq!(wait.deadline, Some(Duration::from_millis(10_600)));
    // After another call in between, too: the sleep before was given up.
    guest.call(Function::SchedYield, &[]).unwrap();
    time.pass(Duration::from_millis(50));
    assert_eq!(
        waits(again(&mut guest, 1)).deadline,
        Some(Duration::from_millis(10_650))
    );
}

#[test]
fn points_in_time() {
    let time = Time::default();
    time.set(0, Duration::from_secs(1000));
    let mut guest = Guest::new(config(&time));
    time.pass(Duration::from_secs(1));
    let subscriptions = [
        On::Clock(REALTIME, 1003 * 1000 * MS, true),
        On::Clock(MONOTONIC, 5 * 1000 * MS, true),
        On::Clock(REALTIME, 4 * 1000 * MS, false),
        On::Clock(MONOTONIC, u64::MAX, false),
    ];
    let wait = waits(poll(&mut guest, &subscriptions));
    assert_eq!(
        wait.deadline,
        Some(Duration::from_secs(3)),
        "wall time is 1001 now"
    );
    // The wall clock is set back: that point is farther away now.
    time.set(0, Duration::from_secs(900));
    assert_eq!(
        waits(again(&mut guest, 4)).deadline,
        Some(Duration::from_secs(5))
    );
    time.set(0, Duration::from_secs(2000));
    let step = again(&mut guest, 4);
    assert_eq!(events(&guest, step), [(1, 0, 0, 0, 0)]);
    time.pass(Duration::from_secs(10));
    let step = poll(
        &mut guest,
        &[On::Clock(MONOTONIC, 1, true), On::Clock(REALTIME, 1, true)],
    );
    assert_eq!(events(&guest, step), [(1, 0, 0, 0, 0), (2, 0, 0, 0, 0)]);
}

#[test]
fn what_cannot_be_polled() {
    let mut guest = Guest::new(config(&Time::default()));
    let step = poll(
        &mut guest,
        &[On::Clock(2, 5, false), On::Clock(9, 5, false), On::Read(77)],
    );
    let errors: Vec<_> = events(&guest, step)
        .into_iter()
        .map(|event| (event.1, event.2))
        .collect();
    assert_eq!(
        errors,
        [
            (Errno::NOTSUP.raw(), 0),
            (Errno::INVAL.raw(), 0),
            (Errno::BADF.raw(), 1)
        ]
    );
    let result = guest.call(Function::PollOneoff, &[DATA, EVENTS, 0, OUT]);
    assert_eq!(result, Err(Errno::INVAL));
    let end = guest.memory.len() as u64;
    assert_eq!(
        guest.call(Function::PollOneoff, &[DATA, end - 31, 1, OUT]),
        Err(Errno::FAULT)
    );
    guest.put(DATA + 8, &[3]);
    assert_eq!(
        guest.call(Function::PollOneoff, &[DATA, EVENTS, 1, OUT]),
        Err(Errno::INVAL)
    );
}

#[test]
fn descriptors_and_a_time_out() {
    let (input, writer) = rustix::pipe::pipe().unwrap();
    let (reader, output) = rustix::pipe::pipe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let time = Time::default();
    let mut given = config(&time);
    given.stdio = [Stdio::Inherit(input), Stdio::Inherit(output), Stdio::Null];
    given
        .directories
        .push(Directory::open(dir.path(), "/", false).unwrap());
    let mut guest = Guest::new(given);
    let subscriptions = [
        On::Read(0),
        On::Read(0),
        On::Clock(MONOTONIC, 5 * MS, false),
    ];
    let wait = waits(poll(&mut guest, &subscriptions));
    assert_eq!(
        (wait.descriptors.len(), wait.deadline),
        (1, Some(Duration::from_millis(5))),
        "each once"
    );
    rustix::io::write(&writer, b"abc").unwrap();
    let step = again(&mut guest, 3);
    assert_eq!(events(&guest, step), [(1, 0, 1, 3, 0), (2, 0, 1, 3, 0)]);
    let step = poll(&mut guest, &[On::Write(1), On::Write(2), On::Read(2)]);
    assert_eq!(
        events(&guest, step),
        [(1, 0, 2, 0, 0), (2, 0, 2, 0, 0), (3, 0, 1, 0, 0)]
    );
    drop(writer);
    guest.read(0, 10).unwrap();
    let step = poll(&mut guest, &[On::Read(0)]);
    assert_eq!(events(&guest, step), [(1, 0, 1, 0, 1)], "hung up");
    drop(reader);
    let step = poll(&mut guest, &[On::Write(1)]);
    assert_eq!(events(&guest, step)[0].4, 1);
    let file = guest.open(3, "f", CREAT, BOTH).unwrap();
    guest.write(file, b"12345").unwrap();
    guest.seek(file, 2, 0).unwrap();
    let step = poll(&mut guest, &[On::Read(file), On::Write(file)]);
    assert_eq!(
        events(&guest, step),
        [(1, 0, 1, 3, 0), (2, 0, 2, 0, 0)],
        "files are always ready"
    );
}

#[test]
fn a_pipe_whose_writers_left_before_is_ready() {
    let (input, writer) = rustix::pipe::pipe().unwrap();
    drop(writer);
    let mut given = config(&Time::default());
    given.stdio[0] = Stdio::Inherit(input);
    let mut guest = Guest::new(given);
    let step = poll(&mut guest, &[On::Read(0)]);
    assert_eq!(events(&guest, step), [(1, 0, 1, 0, 1)]);
}

#[test]
fn the_unstable_layout() {
    let time = Time::default();
    let mut guest = Guest::new(config(&time));
    guest.put(DATA, &7u64.to_le_bytes());
    guest.put(DATA + 16, &99u64.to_le_bytes());
    guest.put(DATA + 24, &MONOTONIC.to_le_bytes());
    guest.put(DATA + 32, &(5 * MS).to_le_bytes());
    let arguments = [DATA, EVENTS, 1, OUT];
    let wait = waits(guest.step(Function::PollOneoffUnstable, &arguments));
    assert_eq!(wait.deadline, Some(Duration::from_millis(5)));
    time.pass(Duration::from_millis(5));
    let step = guest.step(Function::PollOneoffUnstable, &arguments);
    assert_eq!(events(&guest, step), [(7, 0, 0, 0, 0)]);
}

#[test]
fn a_sleep_goes_on_over_a_move() {
    let time = Time::default();
    time.set(0, Duration::from_secs(1_000));
    let mut guest = Guest::new(config(&time));
    time.pass(Duration::from_secs(3));
    waits(poll(
        &mut guest,
        &[
            On::Clock(MONOTONIC, 10_000 * MS, false),
            On::Clock(REALTIME, 1_100_000 * MS, true),
        ],
    ));
    time.pass(Duration::from_secs(4));
    // An hour frozen, to a machine that has just started.
    let there = Time::default();
    there.set(0, Duration::from_secs(1_010));
    there.set(1, Duration::from_secs(1));
    let mut guest = guest.moved(Rebind::new(Box::new(there.clone()))).unwrap();
    assert_eq!(guest.wasi.now(), Duration::from_secs(7));
    let wait = waits(again(&mut guest, 2));
    assert_eq!(
        wait.deadline,
        Some(Duration::from_secs(13)),
        "six seconds are left"
    );
    there.pass(Duration::from_secs(6));
    let step = again(&mut guest, 2);
    assert_eq!(events(&guest, step), [(1, 0, 0, 0, 0)]);
}
