//! One process after the other, and many at once.

use std::fs::OpenOptions;

use sterna_process::{Exit, State};
use sterna_runner::message::Order;

use crate::rig::{Runner, went_well};
use crate::toys;

/// Lines from 1 to so many.
pub(crate) fn lines(count: u32) -> String {
    (1..=count).map(|number| format!("{number}\n")).collect()
}

#[test]
fn what_a_process_writes_is_logged_and_its_end_is_told() {
    let runner = Runner::start();
    let service = runner.service();
    let program = toys::counting(toys::COUNTED);
    let process = service.spawn(toys::FREE, &program, runner.log("log"));
    let ended = service.ended(process);
    went_well(&ended);
    // When the end is told, all output is there.
    assert_eq!(runner.text("log"), lines(toys::COUNTED));
    let seen = service.seen(process);
    assert_eq!(seen.output_bytes, lines(toys::COUNTED).len() as u64);
    assert_eq!(service.holdings().ended, [ended]);
}

/// However short its life: it may be over before the runner has entered it.
#[test]
fn the_end_of_those_that_end_at_once_is_told() {
    let runner = Runner::start();
    let service = runner.service();
    for number in 0..300 {
        let log = runner.log(&format!("log{number}"));
        let process = service.spawn(toys::FREE, &toys::ending(), log);
        assert_eq!(service.ended(process).exit, Exit::Code(7));
    }
}

#[test]
fn one_that_is_paused_stands_until_it_is_resumed_and_one_that_is_killed_ends() {
    let runner = Runner::start();
    let service = runner.service();
    let program = toys::counting(u32::MAX);
    let process = service.spawn(toys::FREE, &program, runner.log("log"));
    for _ in 0..20 {
        service.done(Order::Pause(process));
        assert_eq!(service.seen(process).stats.state, State::Paused);
        service.done(Order::Pause(process)); // it stands already
        service.done(Order::Resume(process));
        service.done(Order::Resume(process)); // it runs already
        let before = service.seen(process).output_bytes;
        while service.seen(process).output_bytes == before {}
    }
    service.done(Order::Pause(process));
    service.done(Order::Kill(process));
    assert_eq!(service.ended(process).exit, Exit::Killed);
    let text = runner.text("log");
    let count = text.lines().count() as u32;
    assert_eq!(text, lines(count));
    service.done(Order::Kill(process)); // has ended already
    let paused = service.ask(Order::Pause(process), Vec::new());
    assert!(paused.unwrap_err().contains("just ended"));
}

#[test]
fn one_whose_log_cannot_be_written_does_not_start() {
    let runner = Runner::start();
    let service = runner.service();
    let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
    let refused = service.try_spawn(toys::FREE, &toys::ending(), full);
    assert!(refused.unwrap_err().contains("could not write its log"));
    let unknown = service.try_spawn(toys::FREE, &toys::counting(3), runner.log("log"));
    assert!(unknown.unwrap_err().contains("program"));
    let kind = sterna_process::Tag::new("other");
    let foreign = service.try_spawn(kind, &toys::ending(), runner.log("log2"));
    assert!(foreign.unwrap_err().contains("no processes of kind other"));
    assert_eq!(service.holdings().held, []);
}

#[test]
fn a_thousand_idle_ones_take_little_each_and_leave_nothing() {
    const COUNT: usize = 1000;
    let runner = Runner::start();
    let service = runner.service();
    let begin = runner.uses();
    let mut all = Vec::new();
    for number in 0..COUNT {
        let log = runner.log(&format!("log{number}"));
        all.push(service.spawn(toys::WAITING, &toys::silent(), log));
    }
    let full = runner.uses();
    let each = |now: usize, then: usize| now.saturating_sub(then) / COUNT;
    println!(
        "each: {} descriptors, {} threads, {} KiB",
        each(full.0, begin.0),
        each(full.1, begin.1),
        (full.2 - begin.2) / COUNT as u64
    );
    // A log, two pipes with two ends each; a thread, which is the toy's own.
    assert!(each(full.0, begin.0) <= 5 && each(full.1, begin.1) <= 1);
    assert!((full.2 - begin.2) / (COUNT as u64) < 200);
    for process in &all {
        service.done(Order::Kill(*process));
    }
    for process in all {
        let command = sterna_migration::Command::Forget { process };
        service.step(command);
    }
    assert_eq!(service.holdings().held, []);
    crate::moves::settles(&runner, (begin.0, begin.1));
}

/// A file system of a few pages, for as long as this lives.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16k", "small"]);
        let mounted = mount.arg(folder.path()).output();
        let is_mounted = mounted.is_ok_and(|output| output.status.success());
        is_mounted.then_some(Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let mut unmount = std::process::Command::new("umount");
        let _ = unmount.arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn output_that_finds_no_room_is_missing_and_what_comes_later_is_not() {
    let Some(small) = Small::mount() else {
        return println!("SKIPPED: a small file system cannot be mounted: that takes root");
    };
    let runner = Runner::start();
    let service = runner.service();
    let ballast = small.0.path().join("ballast");
    std::fs::write(&ballast, [0; 9000]).unwrap();
    let path = small.0.path().join("log");
    let mut log = OpenOptions::new();
    let log = log.create(true).append(true).open(&path).unwrap();
    let program = toys::counting(u32::MAX);
    let process = service.spawn(toys::FREE, &program, log);
    let bytes = || service.seen(process).output_bytes;
    let full = |length: u64| bytes() > length + 1000;
    while !full(std::fs::metadata(&path).unwrap().len()) {}
    std::fs::remove_file(ballast).unwrap();
    let then = bytes();
    while bytes() < then + 100 {}
    service.done(Order::Kill(process));
    service.ended(process);
    let mut reader = sterna_runner::log::LogReader::open(std::fs::File::open(&path).unwrap());
    let reader = reader.as_mut().unwrap();
    let (mut end, mut gaps) = (0, 0);
    let all = lines(10_000_000_u32.min(bytes() as u32)).into_bytes();
    while let Some(record) = reader.next_after(0).unwrap() {
        gaps += u32::from(record.offset > end);
        end = record.offset + record.bytes.len() as u64;
        assert_eq!(record.bytes, all[record.offset as usize..end as usize]);
    }
    // A shorter record may still have found room.
    assert!(gaps > 0, "the time without room, by name");
    assert!(end > then, "and what came after it");
}
