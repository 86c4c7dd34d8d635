//! Memory that follows its process.

use std::time::Duration;

use sterna_migration::{
    Action, Body, Command, Event, Holding, Life, Limits, MoveFailure, Outcome, Part, Readied, Rest,
    RunnerEvent, Strategy, TargetFailure, Timings, Travel,
};

use super::script::*;

const WANTED: Travel = Travel {
    strategy: Some(Strategy::PostCopy),
    downtime_max: None,
    rate_max: None,
    within: None,
};

fn accepted(strategy: Strategy) -> Body {
    Body::Accept(Readied {
        strategy,
        ..Readied::default()
    })
}

const fn resumed(follows: bool) -> RunnerEvent {
    RunnerEvent::Resumed {
        process: P,
        epoch: NEXT,
        follows,
    }
}

const FOLLOWED: RunnerEvent = RunnerEvent::Followed { attempt: ATTEMPT };

fn unfollowed() -> RunnerEvent {
    let (attempt, reason) = (ATTEMPT, "the connection broke off".into());
    RunnerEvent::Unfollowed { attempt, reason }
}

/// What this node has that runs without all of its memory.
const INCOMPLETE: Holding = Holding::Incomplete {
    epoch: NEXT,
    source: S,
    attempt: ATTEMPT,
};

/// A source whose process was pushed without its memory.
fn pushed() -> Script {
    let mut source = Script::source_with(WANTED);
    source.hears(T, accepted(Strategy::PostCopy));
    let (attempt, size, pages) = (ATTEMPT, SIZE, 1 << 18);
    let track = told(Command::Track { attempt });
    assert_eq!(source.record(declared()), [track]);
    let within = Limits::default().pause_within;
    let pause = told(Command::Pause { attempt, within });
    let tracking = RunnerEvent::Tracking { attempt, pages };
    assert_eq!(source.runner(tracking), [pause]);
    source.runner(RunnerEvent::Paused { attempt });
    let rest = Rest::Follows {
        rate_max: None,
        within: Limits::default().follow_within,
    };
    let target = T;
    let push = told(Command::Push {
        attempt,
        target,
        rest,
    });
    let actions = source.runner(RunnerEvent::Captured { attempt, size });
    assert_eq!(actions, [push, sent(T, state())]);
    source.runner(RunnerEvent::Pushed { attempt });
    source
}

#[test]
fn a_source_keeps_its_copy_until_the_target_has_all_of_it() {
    let mut source = pushed();
    assert_eq!(source.hears(T, Body::Committed), []);
    // As long as the target lives it is waited for.
    for _ in 0..5 * Limits::default().done_asks_max {
        let asks = source.waits();
        assert!(asks.contains(&sent(T, Body::Ask)), "{asks:?}");
        assert_eq!(source.hears(T, Body::Committed), []);
    }
    let millis = Duration::from_millis;
    let timings = Timings {
        resume: millis(3),
        ..Timings::default()
    };
    let actions = source.hears(T, Body::Done(timings));
    assert_eq!(actions[0], discard());
    let report = report(&actions);
    assert_eq!(report.travelled.strategy, Strategy::PostCopy);
    let part = report.parts.iter().find(|part| part.0 == Part::Follow);
    assert!(part.unwrap().1 > millis(1000), "{report:?}");
    let downtime = report.downtime().unwrap();
    assert!(downtime < millis(20), "{downtime:?}");
}

#[test]
fn a_source_whose_target_cannot_do_it_says_so_and_nothing_is_written() {
    for answer in [Strategy::StopAndCopy, Strategy::PreCopy] {
        let mut source = Script::source_with(WANTED);
        let actions = source.hears(T, accepted(answer));
        assert_eq!(actions[0], sent(T, Body::Abort));
        let outcome = report(&actions).outcome;
        let named = matches!(outcome, Outcome::Stayed(MoveFailure::NoPostCopy { .. }));
        assert!(named, "{outcome:?}");
    }
}

#[test]
fn a_source_that_dies_when_the_target_owns_the_process_has_moved_it() {
    let mut source = pushed();
    source.hears(T, Body::Committed);
    let report = report(&source.event(Event::RunnerDied));
    assert!(matches!(report.outcome, Outcome::Moved { .. }));
}

/// A target that was told to let it run.
fn resuming() -> Script {
    Script::target(6)
}

#[test]
fn a_target_is_done_when_all_has_come_and_not_before() {
    let mut target = resuming();
    let actions = target.runner(resumed(true));
    assert!(matches!(actions[..], [Action::Notify(_)]), "{actions:?}");
    assert_eq!(target.moves.holding(P), Some(INCOMPLETE));
    assert!(target.moves.is_busy(P));
    let committed = sent(S, Body::Committed);
    for asked in [Body::Ask, state()] {
        assert_eq!(target.hears(S, asked), std::slice::from_ref(&committed));
    }
    assert_eq!(target.hears(S, Body::Abort), []);
    let done = target.runner(FOLLOWED);
    assert!(
        matches!(&done[..], [Action::Send { message, .. }] if matches!(message.body, Body::Done(_)))
    );
    assert_eq!(
        target.moves.holding(P),
        Some(Holding::Running { epoch: NEXT })
    );
    assert!(!target.moves.is_busy(P));
}

#[test]
fn what_comes_before_it_runs_is_not_waited_for() {
    for step in [3, 4, 5, 6] {
        let mut target = Script::target(step);
        assert_eq!(target.runner(FOLLOWED), []);
        let attempt = ATTEMPT;
        if step < 4 {
            target.hears(S, state());
        }
        if step < 5 {
            target.runner(RunnerEvent::Restored { attempt });
        }
        if step < 6 {
            target.record(committed());
        }
        let actions = target.runner(resumed(true));
        assert!(
            matches!(&actions[0], Action::Send { message, .. } if matches!(message.body, Body::Done(_)))
        );
        assert_eq!(
            target.moves.holding(P),
            Some(Holding::Running { epoch: NEXT })
        );
    }
}

#[test]
fn what_does_not_come_loses_the_process_if_it_was_committed() {
    let lost = swap(committed(), committed().closed(Life::Lost).unwrap(), None);
    for follows in [false, true] {
        let mut target = resuming();
        if follows {
            target.runner(resumed(true));
        }
        assert_eq!(target.runner(unfollowed()), std::slice::from_ref(&lost));
    }
    // In doubt it is shut out that it was.
    let mut target = Script::target(5);
    let settle = swap(declared(), closed(Life::Alive), None);
    assert_eq!(target.runner(unfollowed()), [settle]);
    let died = sent(S, Body::Failed(TargetFailure::RunnerDied));
    assert_eq!(target.record(closed(Life::Alive)), [died]);
    // Before, it only fails.
    for step in [3, 4] {
        let mut target = Script::target(step);
        let actions = target.runner(unfollowed());
        assert!(matches!(&actions[..], [Action::Send { message, .. }]
            if matches!(message.body, Body::Failed(TargetFailure::Restore { .. }))));
    }
}

#[test]
fn a_process_that_ends_before_all_has_come_has_ended() {
    let mut target = resuming();
    target.runner(resumed(true));
    let process = P;
    let ended = swap(committed(), committed().closed(Life::Ended).unwrap(), None);
    assert_eq!(target.runner(RunnerEvent::Exited { process }), [ended]);
}

#[test]
fn a_service_that_starts_waits_on_for_what_has_not_come() {
    let mut target = Script::new(T, Some(INCOMPLETE));
    assert_eq!(target.hears(S, Body::Ask), [sent(S, Body::Committed)]);
    assert_eq!(target.record(committed()), []);
    assert!(target.moves.is_busy(P));
    let done = target.runner(FOLLOWED);
    assert!(
        matches!(&done[..], [Action::Send { message, .. }] if matches!(message.body, Body::Done(_)))
    );

    // It came, or not, before the record was seen.
    let mut target = Script::new(T, Some(INCOMPLETE));
    assert_eq!(target.runner(FOLLOWED), []);
    assert_eq!(target.record(committed()), []);
    assert!(!target.moves.is_busy(P));
    let done = sent(S, Body::Done(Timings::default()));
    assert_eq!(target.hears(S, Body::Ask), [done]);

    let mut target = Script::new(T, Some(INCOMPLETE));
    assert_eq!(target.runner(unfollowed()), []);
    let lost = swap(committed(), committed().closed(Life::Lost).unwrap(), None);
    assert_eq!(target.record(committed()), [lost]);
}
