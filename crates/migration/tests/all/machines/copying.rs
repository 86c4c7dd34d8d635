//! Memory that is copied in rounds while the process runs.

use std::time::Duration;

use sterna_migration::{
    Action, Body, Command, Life, Limits, MoveFailure, Notice, Outcome, Part, Readied, Round,
    RoundsEnd, RunnerEvent, Strategy, TargetFailure, Travel,
};

use super::script::*;

const GIB_PAGES: u64 = 1 << 18;

fn accepted(strategy: Strategy) -> Body {
    Body::Accept(Readied {
        strategy,
        ..Readied::default()
    })
}

fn round(pages: u64, dirty: u64) -> RunnerEvent {
    RunnerEvent::RoundSent {
        attempt: ATTEMPT,
        round: Round {
            pages,
            bytes: pages * 4096,
            took: Duration::from_micros(pages * 4),
            held_back: Duration::ZERO,
            dirty,
        },
    }
}

const fn told_round() -> Action {
    let (attempt, rate_max) = (ATTEMPT, None);
    Action::Command(Command::Round { attempt, rate_max })
}

/// What is to be done then, and that a round was told of first.
fn after_round(source: &mut Script, event: RunnerEvent) -> Vec<Action> {
    let mut actions = source.runner(event);
    let told = actions.remove(0);
    let is_round = matches!(told, Action::Notify(Notice::Round { .. }));
    assert!(is_round, "{told:?}");
    actions
}

fn pause() -> Action {
    let within = Limits::default().pause_within;
    told(Command::Pause {
        attempt: ATTEMPT,
        within,
    })
}

fn untrack() -> Action {
    told(Command::Untrack { attempt: ATTEMPT })
}

fn settle() -> Action {
    swap(declared(), closed(Life::Alive), None)
}

/// A source whose registry has the intent, and whose runner was told to note what is written.
fn copying(travel: Travel) -> Script {
    let mut source = Script::source_with(travel);
    source.hears(T, accepted(Strategy::PreCopy));
    let attempt = ATTEMPT;
    let track = told(Command::Track { attempt });
    assert_eq!(source.record(declared()), [track]);
    source
}

/// The same in its first round.
fn in_a_round(travel: Travel) -> Script {
    let mut source = copying(travel);
    let (attempt, pages) = (ATTEMPT, GIB_PAGES);
    assert_eq!(
        source.runner(RunnerEvent::Tracking { attempt, pages }),
        [told_round()]
    );
    source
}

fn strict() -> Travel {
    Travel {
        strategy: Some(Strategy::PreCopy),
        downtime_max: Some(Duration::from_millis(10)),
        ..Travel::default()
    }
}

#[test]
fn rounds_come_between_declaration_and_pause_and_are_reported() {
    let mut source = in_a_round(Travel::default());
    source.millis += 1000;
    assert_eq!(
        after_round(&mut source, round(GIB_PAGES, 20_000)),
        [told_round()]
    );
    source.millis += 80;
    assert_eq!(after_round(&mut source, round(20_000, 500)), [pause()]);
    // What was written while a good moment was looked for.
    assert_eq!(after_round(&mut source, round(500, 10)), []);
    let (attempt, size) = (ATTEMPT, SIZE);
    source.runner(RunnerEvent::Paused { attempt });
    source.runner(RunnerEvent::Captured { attempt, size });
    source.runner(RunnerEvent::Pushed { attempt });
    source.hears(T, Body::Committed);
    let report = report(&source.hears(T, Body::Done(Default::default())));
    let travelled = &report.travelled;
    assert_eq!(travelled.strategy, Strategy::PreCopy);
    assert_eq!(travelled.end, Some(RoundsEnd::Enough));
    let sent: Vec<u64> = travelled.rounds.iter().map(|round| round.pages).collect();
    assert_eq!(sent, [GIB_PAGES, 20_000, 500]);
    let parts = report.parts.iter();
    assert_eq!(parts.map(|part| part.1).sum::<Duration>(), report.total);
    let copy = (Part::Copy, Duration::from_millis(1083));
    assert!(report.parts.contains(&copy), "{report:?}");
    assert!(report.downtime() < Some(Duration::from_millis(10)));
}

#[test]
fn whatever_ends_the_rounds_nothing_is_noted_any_more_and_it_runs_on() {
    let (attempt, reason) = (ATTEMPT, String::from("why"));
    type Step<'a> = &'a dyn Fn(&mut Script) -> Vec<Action>;
    let steps: [Step<'_>; 5] = [
        &|source| {
            let reason = reason.clone();
            source.runner(RunnerEvent::RoundFailed { attempt, reason })
        },
        &|source| source.hears(T, Body::Failed(TargetFailure::RunnerDied)),
        &|source| {
            source.moves.cancel(source.now(), P).unwrap();
            source.actions()
        },
        &|source| source.waits_for(|action| *action == untrack()),
        &|source| {
            source.runner(round(GIB_PAGES, 10));
            let reason = reason.clone();
            source.runner(RunnerEvent::PauseRefused { attempt, reason })
        },
    ];
    for step in steps {
        let mut source = in_a_round(Travel::default());
        assert_eq!(step(&mut source), [untrack(), settle()]);
        let actions = source.record(closed(Life::Alive));
        assert_eq!(actions, [sent(T, Body::Abort), resume(NEXT)]);
        let (process, epoch) = (P, NEXT);
        let report = report(&source.runner(RunnerEvent::Resumed {
            process,
            epoch,
            follows: false,
        }));
        assert!(matches!(report.outcome, Outcome::Stayed(_)));
        assert_eq!(report.downtime(), None);
    }
}

#[test]
fn a_process_that_ends_in_a_round_has_ended() {
    let mut source = in_a_round(Travel::default());
    let process = P;
    let actions = source.runner(RunnerEvent::Exited { process });
    assert_eq!(
        actions,
        [untrack(), swap(declared(), closed(Life::Ended), None)]
    );
    let report = report(&source.record(closed(Life::Ended)));
    assert_eq!(report.outcome, Outcome::Ended);
}

#[test]
fn a_strict_limit_is_kept_or_the_move_given_up() {
    let mut source = in_a_round(strict());
    let actions = after_round(&mut source, round(GIB_PAGES, GIB_PAGES));
    assert_eq!(actions, [untrack(), settle()]);
    source.record(closed(Life::Alive));
    let (process, epoch) = (P, NEXT);
    let report = report(&source.runner(RunnerEvent::Resumed {
        process,
        epoch,
        follows: false,
    }));
    let Outcome::Stayed(MoveFailure::Downtime { max, .. }) = report.outcome else {
        panic!("{report:?}");
    };
    assert_eq!(max, Duration::from_millis(10));

    // The same if there can be no rounds, before anything is written.
    let mut source = Script::source_with(strict());
    let actions = source.hears(T, accepted(Strategy::StopAndCopy));
    assert_eq!(actions[0], sent(T, Body::Abort));
    assert!(matches!(
        super::script::report(&actions).outcome,
        Outcome::Stayed(MoveFailure::NoPreCopy { .. })
    ));
}

#[test]
fn without_rounds_it_is_stopped_and_copied_and_the_report_says_why() {
    let (attempt, reason) = (ATTEMPT, String::from("the kernel is too old"));
    let mut source = copying(Travel::default());
    let refused = RunnerEvent::TrackFailed { attempt, reason };
    assert_eq!(source.runner(refused), [pause()]);
    let mut older = Script::source_with(Travel::default());
    older.hears(T, accepted(Strategy::StopAndCopy));
    assert_eq!(older.record(declared()), [pause()]);
    for mut source in [source, older] {
        source.moves.cancel(source.now(), P).unwrap();
        assert_eq!(source.actions(), [settle()]);
        source.record(closed(Life::Alive));
        let (process, epoch) = (P, NEXT);
        let report = report(&source.runner(RunnerEvent::Resumed {
            process,
            epoch,
            follows: false,
        }));
        assert_eq!(report.travelled.strategy, Strategy::StopAndCopy);
        assert!(report.travelled.why_not.is_some());
    }
}

#[test]
fn a_target_waits_as_long_as_it_hears_that_the_process_is_coming() {
    let mut source = in_a_round(Travel::default());
    assert_eq!(source.waits(), [sent(T, Body::Coming)]);
    assert_eq!(source.waits(), [sent(T, Body::Coming)]);

    let mut target = Script::target(3);
    let within = Limits::default().state_within.as_millis() as u64;
    for _ in 0..3 {
        target.millis += within - 2;
        assert_eq!(target.hears(S, Body::Coming), []);
    }
    let given_up = sent(S, Body::Failed(TargetFailure::StateLate));
    assert_eq!(target.waits()[0], given_up);
    // Afterwards the source hears of it.
    let unknown = sent(S, Body::Failed(TargetFailure::Unknown));
    assert_eq!(target.hears(S, Body::Coming), [unknown]);
}
