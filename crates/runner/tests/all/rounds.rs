//! Memory that goes in rounds while the process runs, and what must be over when the move is.

use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use sterna_migration::{Command, Holding, Round, RunnerEvent};
use sterna_process::{PAGE_SIZE, ProcessId};
use sterna_runner::message::{Order, Said};

use crate::rig::{Journey, PATIENCE, Runner, Service, tcp};
use crate::toys;

fn two() -> [Runner; 2] {
    [Runner::start(), Runner::start()]
}

/// A process that grows and writes, and has begun to.
fn writing(from: &Service, runner: &Runner) -> ProcessId {
    let process = from.spawn(toys::FREE, &toys::large(), runner.log("log"));
    let until = Instant::now() + PATIENCE;
    while from.seen(process).output_bytes == 0 {
        assert!(Instant::now() < until, "it says nothing");
        thread::yield_now();
    }
    process
}

impl Journey<'_> {
    /// Has written pages noted, and says how many there are to be sent.
    fn track(&self) -> Result<u64, String> {
        let attempt = self.attempt;
        self.from.step(Command::Track { attempt });
        self.from.hear("that pages are noted", |said| match said {
            Said::Event(RunnerEvent::Tracking { pages, .. }) => Some(Ok(pages)),
            Said::Event(
                RunnerEvent::TrackFailed { reason, .. } | RunnerEvent::RoundFailed { reason, .. },
            ) => Some(Err(reason)),
            _ => None,
        })
    }

    /// Sends a round, and says what came of it.
    fn round(&self, rate_max: Option<u64>) -> Result<Round, String> {
        let attempt = self.attempt;
        self.from.step(Command::Round { attempt, rate_max });
        self.from.hear("a round", |said| match said {
            Said::Event(RunnerEvent::RoundSent { round, .. }) => Some(Ok(round)),
            Said::Event(RunnerEvent::RoundFailed { reason, .. }) => Some(Err(reason)),
            _ => None,
        })
    }

    /// It stays; what was begun for the move is over.
    fn stays(&self) {
        let (attempt, process) = (self.attempt, self.attempt.process);
        self.to.step(Command::Discard { attempt });
        let epoch = attempt.epoch.next().unwrap();
        self.from.step(Command::Resume { process, epoch });
        self.from.event(&RunnerEvent::Resumed {
            process,
            epoch,
            follows: false,
        });
    }
}

/// A move whose runners are connected.
fn connected<'a>(
    process: ProcessId,
    (from, to): (&'a Service, &'a Service),
    runner: &Runner,
) -> Journey<'a> {
    let journey = Journey::of(process, from, to);
    journey.prepare(runner.log("log"));
    journey.connect();
    journey
}

/// That another move can begin to note, and goes through.
fn moves_on(process: ProcessId, (from, to): (&Service, &Service), runner: &Runner) {
    let journey = Journey::of(process, from, to);
    journey.prepare(runner.log("again"));
    journey.connect();
    assert!(journey.track().unwrap() > 0);
    journey.round(None).unwrap();
    journey.stop_and_go();
    assert!(matches!(to.seen(process).holding, Holding::Running { .. }));
}

#[test]
fn rounds_send_all_and_then_what_was_written_meanwhile() {
    let [one, two] = two();
    let (from, to) = (one.service(), two.service());
    let process = writing(&from, &one);
    let journey = connected(process, (&from, &to), &two);
    let all = journey.track().unwrap();
    let first = journey.round(None).unwrap();
    assert!(first.pages >= all && first.bytes > 0, "{first:?} of {all}");
    assert!(first.bytes <= first.pages * PAGE_SIZE as u64);
    let later = journey.round(None).unwrap();
    assert!(later.pages >= first.dirty, "{later:?} after {first:?}");
    // It stands still: then there is nothing new, and the rest is what is left.
    from.done(Order::Pause(process));
    journey.round(None).unwrap();
    let nothing = journey.round(None).unwrap();
    assert_eq!((nothing.pages, nothing.bytes, nothing.dirty), (0, 0, 0));
    from.done(Order::Resume(process));
    journey.stop_and_go();
    assert!(matches!(to.seen(process).holding, Holding::Running { .. }));
    to.done(Order::Kill(process));
}

#[test]
fn a_round_keeps_to_its_rate() {
    let [one, two] = two();
    let (from, to) = (one.service(), two.service());
    let process = writing(&from, &one);
    let journey = connected(process, (&from, &to), &two);
    journey.track().unwrap();
    let rate = 100_000;
    let round = journey.round(Some(rate)).unwrap();
    let due = Duration::from_micros(round.bytes * 1_000_000 / rate);
    assert!(round.took >= due, "{round:?}, not before {due:?}");
    assert!(round.held_back > due / 2 && round.held_back <= round.took);
    journey.stays();
    moves_on(process, (&from, &to), &two);
}

#[test]
fn a_round_that_is_cut_off_has_failed_and_the_process_runs_on() {
    let [one, two] = two();
    let (from, to) = (one.service(), two.service());
    let process = writing(&from, &one);
    for bytes in [0, 300, 10_000] {
        let journey = Journey::of(process, &from, &to);
        journey.prepare(two.log(&bytes.to_string()));
        let (ours, source) = tcp();
        let (mine, target) = tcp();
        journey.connect_with((7, 7), (source, target));
        journey.track().unwrap();
        let relay = thread::spawn(move || crate::moves::cut_off_after(bytes, ours, mine));
        journey.round(None).unwrap_err();
        relay.join().unwrap();
        assert!(matches!(
            from.seen(process).holding,
            Holding::Running { .. }
        ));
        journey.stays();
    }
    moves_on(process, (&from, &to), &two);
}

/// Its service may hear the same offer again when its runner was started again.
#[test]
fn a_target_that_has_lost_rounds_does_not_take_the_rest_for_all() {
    let [one, two] = two();
    let (from, to) = (one.service(), two.service());
    let process = writing(&from, &one);
    let journey = connected(process, (&from, &to), &two);
    journey.track().unwrap();
    journey.round(None).unwrap();
    journey.pause();
    journey.capture();
    let attempt = journey.attempt;
    to.step(Command::Discard { attempt });
    to.ask(Order::LookAll, Vec::new()).unwrap();
    journey.prepare(two.log("anew"));
    journey.connect();
    journey.push().unwrap_err();
    let text = two.text("anew");
    assert!(text.is_empty(), "{text}");
    journey.stays();
    moves_on(process, (&from, &to), &two);
}

#[test]
fn nothing_is_noted_after_a_move_however_it_ended() {
    let [one, two] = two();
    let (mut from, mut to) = (one.service(), two.service());
    let process = writing(&from, &one);
    let endings: [&str; 4] = ["untracked", "resumed", "broken", "service"];
    for ending in endings {
        let journey = Journey::of(process, &from, &to);
        journey.prepare(two.log(ending));
        let (source, target) = tcp();
        let wire = target.try_clone().unwrap();
        journey.connect_with((7, 7), (source, target));
        journey.track().unwrap();
        journey.round(None).unwrap();
        let attempt = journey.attempt;
        match ending {
            "untracked" => from.step(Command::Untrack { attempt }),
            "broken" => {
                wire.shutdown(Shutdown::Both).unwrap();
                journey.round(None).unwrap_err();
                from.step(Command::Untrack { attempt });
            }
            _ => {}
        }
        if ending == "service" {
            to.step(Command::Discard { attempt });
            (from, to) = (one.service(), two.service());
        } else if ending == "resumed" {
            journey.stays();
        } else {
            journey.to.step(Command::Discard { attempt });
        }
    }
    moves_on(process, (&from, &to), &two);
}

#[test]
fn a_process_that_ends_in_a_round_is_told_once_and_leaves_nothing() {
    let [one, two] = two();
    let (from, to) = (one.service(), two.service());
    let before = one.uses();
    let process = writing(&from, &one);
    let journey = connected(process, (&from, &to), &two);
    journey.track().unwrap();
    from.done(Order::Kill(process));
    from.ended(process);
    journey.round(None).unwrap_err();
    let attempt = journey.attempt;
    to.step(Command::Discard { attempt });
    from.step(Command::Forget { process });
    assert_eq!(from.holdings().held, []);
    crate::moves::settles(&one, (before.0, before.1));
}

#[test]
fn without_a_connection_no_round_is_begun() {
    let [one, two] = two();
    let (from, to) = (one.service(), two.service());
    let process = writing(&from, &one);
    let journey = Journey::of(process, &from, &to);
    journey.prepare(two.log("log"));
    assert!(journey.track().unwrap_err().contains("no connection"));
    assert!(journey.round(None).unwrap_err().contains("connection"));
    journey.stays();
    moves_on(process, (&from, &to), &two);
}
