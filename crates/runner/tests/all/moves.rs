//! Processes on their way from one runner to another, over TCP.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use sterna_migration::{Command, Holding, NodeId, RunnerEvent};
use sterna_process::State;
use sterna_runner::message::{Order, Said, Side};

use crate::life::lines;
use crate::rig::{Journey, PATIENCE, Runner, SOURCE, tcp, went_well};
use crate::toys;

/// Waits until a runner has no more descriptors and threads than that.
#[track_caller]
pub(crate) fn settles(runner: &Runner, (descriptors, threads): (usize, usize)) {
    let until = Instant::now() + PATIENCE;
    loop {
        let now = runner.uses();
        if now.0 <= descriptors && now.1 <= threads {
            return;
        }
        let left = Instant::now() < until;
        assert!(
            left,
            "{now:?} are more than {descriptors} descriptors, {threads} threads"
        );
        thread::yield_now();
    }
}

#[test]
fn output_is_one_whole_wherever_it_was_written() {
    let [one, two] = [Runner::start(), Runner::start()];
    let services = [one.service(), two.service()];
    let program = toys::counting(u32::MAX);
    let process = services[0].spawn(toys::FREE, &program, one.log("0"));
    let count = if std::env::var_os("STERNA_TEST_FULL").is_some() {
        200
    } else {
        20
    };
    for number in 1..=count {
        let (here, there) = (&services[(number + 1) % 2], &services[number % 2]);
        let runner = [&one, &two][number % 2];
        Journey::of(process, here, there).travel(runner.log(&number.to_string()));
    }
    let last = &services[count % 2];
    last.done(Order::Kill(process));
    last.ended(process);
    let text: String = (0..=count)
        .map(|number| [&one, &two][number % 2].text(&number.to_string()))
        .collect();
    let written = text.lines().count() as u32;
    assert!(written > 0 && text == lines(written), "{written} lines");
}

#[test]
fn two_hundred_moves_leave_no_descriptor_and_no_thread() {
    let [one, two] = [Runner::start(), Runner::start()];
    let services = [one.service(), two.service()];
    let process = services[0].spawn(toys::FREE, &toys::silent(), one.log("0"));
    let mut before = None;
    for number in 1..=202 {
        let (here, there) = (&services[(number + 1) % 2], &services[number % 2]);
        let runner = [&one, &two][number % 2];
        Journey::of(process, here, there).travel(runner.log(&number.to_string()));
        if number == 2 {
            // What the first moves have made is used again by the others.
            let idle = here.ask(Order::LookAll, Vec::new());
            idle.unwrap();
            let (one, two) = (one.uses(), two.uses());
            before = Some(((one.0, one.1), (two.0, two.1)));
        }
    }
    let (of_one, of_two) = before.unwrap();
    settles(&one, of_one);
    settles(&two, of_two);
}

#[test]
fn one_that_its_user_has_stopped_stands_at_the_target_too() {
    let [one, two] = [Runner::start(), Runner::start()];
    let (from, to) = (one.service(), two.service());
    let program = toys::counting(u32::MAX);
    let process = from.spawn(toys::FREE, &program, one.log("log"));
    from.done(Order::Pause(process));
    Journey::of(process, &from, &to).travel(two.log("log"));
    assert_eq!(to.seen(process).stats.state, State::Paused);
    assert_eq!(two.text("log"), "");
    to.done(Order::Resume(process));
    while to.seen(process).output_bytes == from_bytes(&one) {}
}

fn from_bytes(runner: &Runner) -> u64 {
    runner.text("log").len() as u64
}

#[test]
fn a_channel_that_breaks_is_replaced_and_all_is_pushed_again() {
    let [one, two] = [Runner::start(), Runner::start()];
    let (from, to) = (one.service(), two.service());
    let process = from.spawn(toys::FREE, &toys::large(), one.log("log"));
    let journey = Journey::of(process, &from, &to);
    journey.prepare(two.log("log"));
    journey.connect();
    journey.pause();
    let size = journey.capture();
    // The first of these cuts nothing off but the connection itself.
    for bytes in [0, 5, 300, 5_000, 30_000] {
        let (ours, source) = tcp();
        let (mine, target) = tcp();
        let relay = thread::spawn(move || cut_off_after(bytes, ours, mine));
        journey.connect_with((7, 7), (source, target));
        let pushed = journey.push();
        assert!(pushed.unwrap_err().contains("connection"));
        relay.join().unwrap();
        let holding = from.seen(process).holding;
        assert!(matches!(holding, Holding::Frozen { .. }), "{holding:?}");
    }
    let without = journey.push();
    assert!(without.unwrap_err().contains("no connection"));
    journey.connect();
    journey.push().unwrap();
    journey.connect();
    journey.push().unwrap(); // again does no harm
    journey.restore(size);
    journey.go_on();
    assert!(matches!(to.seen(process).holding, Holding::Running { .. }));
}

/// Passes on so many bytes, then ends both connections.
pub(crate) fn cut_off_after(bytes: usize, mut from: TcpStream, mut to: TcpStream) {
    let mut passed = vec![0; bytes];
    from.read_exact(&mut passed).unwrap();
    to.write_all(&passed).unwrap();
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_target_that_is_never_ready_leaves_time_to_stop_the_process() {
    let [one, two] = [Runner::start(), Runner::start()];
    let (from, to) = (one.service(), two.service());
    let process = from.spawn(toys::FREE, &toys::silent(), one.log("0"));
    let journey = Journey::of(process, &from, &to);
    let (connection, _silent) = tcp();
    let side = Side::Source { lane: false };
    from.channel(journey.attempt, connection, 7, side);
    journey.pause_within(Duration::from_secs(2));
}

#[test]
fn without_the_secret_nothing_gets_through() {
    let [one, two] = [Runner::start(), Runner::start()];
    let (from, to) = (one.service(), two.service());
    let process = from.spawn(toys::FREE, &toys::large(), one.log("log"));
    let journey = Journey::of(process, &from, &to);
    journey.prepare(two.log("log"));
    journey.pause();
    let size = journey.capture();
    journey.connect_with((7, 8), tcp());
    journey.push().unwrap_err();
    journey.connect_with((7, 7), tcp());
    journey.push().unwrap();
    journey.restore(size);
    journey.go_on();
}

/// A member of the cluster that knows a move's number gets nothing of the process, and can put nothing in its place.
#[test]
fn a_node_that_is_no_part_of_a_move_gets_nothing_of_it() {
    let [one, two] = [Runner::start(), Runner::start()];
    let (from, to) = (one.service(), two.service());
    let process = from.spawn(toys::FREE, &toys::large(), one.log("log"));
    let journey = Journey::of(process, &from, &to);
    let attempt = journey.attempt;
    journey.prepare(two.log("log"));
    journey.connect();
    journey.pause();
    let size = journey.capture();
    // At the source it pretends that the process comes from it, as if it were the target's caller.
    let source = NodeId::from_bytes([66; 32]);
    let (mut thief, theirs) = tcp();
    from.channel(
        attempt,
        theirs,
        7,
        Side::Target {
            source,
            lane: false,
        },
    );
    assert_eq!(thief.read(&mut [0; 16]).unwrap(), 0, "it is hung up on");
    // At the target, that it has the process.
    let (mut forger, theirs) = tcp();
    to.channel(
        attempt,
        theirs,
        7,
        Side::Target {
            source,
            lane: false,
        },
    );
    assert_eq!(forger.read(&mut [0; 16]).unwrap(), 0, "it is hung up on");
    // The right channel was not touched.
    journey.push().unwrap();
    journey.restore(size);
    journey.go_on();
    let late = Side::Target {
        source: SOURCE,
        lane: false,
    };
    let (mut late_caller, theirs) = tcp();
    to.channel(attempt, theirs, 7, late);
    assert_eq!(late_caller.read(&mut [0; 16]).unwrap(), 0, "it has arrived");
}

#[test]
fn a_move_that_is_given_up_while_room_is_made_leaves_nothing() {
    let [one, two] = [Runner::start(), Runner::start()];
    let (from, to) = (one.service(), two.service());
    let process = from.spawn(toys::FREE, &toys::silent(), one.log("log"));
    for number in 0..50 {
        let journey = Journey::of(process, &from, &to);
        let attempt = journey.attempt;
        journey.ask_for_room(two.log(&format!("log{number}")));
        to.step(Command::Discard { attempt });
        // Whichever was first: nothing stays, and it can be tried again.
        to.hear("the room's fate", |said| match said {
            Said::Event(
                RunnerEvent::Prepared { attempt: of, .. }
                | RunnerEvent::PrepareFailed { attempt: of, .. },
            ) if of == attempt => Some(()),
            _ => None,
        });
        let look = || to.ask(Order::Look(process), Vec::new());
        let until = Instant::now() + PATIENCE;
        while look().is_ok() {
            assert!(Instant::now() < until, "it is still there");
        }
    }
    Journey::of(process, &from, &to).travel(two.log("log"));
}

#[test]
fn one_that_ends_while_it_is_moved_ends_once() {
    let [one, two] = [Runner::start(), Runner::start()];
    let (from, to) = (one.service(), two.service());
    let program = toys::counting(u32::MAX);
    let process = from.spawn(toys::FREE, &program, one.log("log"));
    let journey = Journey::of(process, &from, &to);
    journey.prepare(two.log("log"));
    journey.connect();
    journey.pause();
    journey.capture();
    from.done(Order::Kill(process));
    from.ended(process);
    let attempt = journey.attempt;
    to.step(Command::Discard { attempt });
    from.step(Command::Discard { attempt });
    for service in [&from, &to] {
        assert_eq!(service.holdings().held, []);
    }
}

#[test]
fn one_that_ends_after_it_has_come_has_said_all() {
    let [one, two] = [Runner::start(), Runner::start()];
    let (from, to) = (one.service(), two.service());
    let program = toys::counting(toys::COUNTED);
    let process = from.spawn(toys::FREE, &program, one.log("log"));
    let journey = Journey::of(process, &from, &to);
    journey.travel(two.log("log"));
    went_well(&to.ended(process));
    assert_eq!(one.text("log") + &two.text("log"), lines(toys::COUNTED));
}
