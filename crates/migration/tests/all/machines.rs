//! One node by hand, step by step: what it says when.

mod anything;
mod copying;
mod following;
mod restart;
mod script;

use std::time::Duration;

use script::*;
use sterna_migration::{
    Action, Attempt, Body, CancelError, Command, Copied, Event, Holding, Life, Limits, MoveFailure,
    Moves, Notice, Outcome, Part, Readied, Refusal, Rest, RunnerEvent, StartError, Strategy,
    TargetFailure, Time, Timings,
};
use sterna_process::Epoch;

#[test]
fn a_source_goes_from_step_to_step_and_reports_them() {
    let attempt = ATTEMPT;
    let mut source = Script::source(0);
    let micros = Duration::from_micros;
    let readied = Readied {
        fetch: micros(600),
        room: micros(300),
        strategy: Strategy::StopAndCopy,
    };
    assert_eq!(
        source.hears(T, Body::Accept(readied)),
        [swap(at_rest(), declared(), None)]
    );
    let within = Limits::default().pause_within;
    assert_eq!(
        source.record(declared()),
        [told(Command::Pause { attempt, within })]
    );
    assert_eq!(
        source.runner(RunnerEvent::Paused { attempt }),
        [told(Command::Capture { attempt })]
    );
    let size = SIZE;
    assert_eq!(
        source.runner(RunnerEvent::Captured { attempt, size }),
        [
            told(Command::Push {
                attempt,
                target: T,
                rest: Rest::Along
            }),
            sent(T, state())
        ]
    );
    assert_eq!(source.runner(RunnerEvent::Pushed { attempt }), []);
    source.millis += 10;
    assert_eq!(source.hears(T, Body::Committed), []);
    let millis = Duration::from_millis;
    let timings = Timings {
        restore: millis(1),
        commit: millis(2),
        resume: millis(3),
    };
    let actions = source.hears(T, Body::Done(timings));
    assert_eq!(actions[0], discard());
    let report = report(&actions);
    let copy = Copied::Discarded;
    assert_eq!(report.outcome, Outcome::Moved { copy });
    assert_eq!(report.total, millis(17));
    // Accepted, declared, paused, captured and sent one after the other; committed ten later, done one later.
    assert_eq!(
        report.parts.iter().map(|part| part.1).sum::<Duration>(),
        report.total
    );
    assert_eq!(
        report.parts[..3],
        [
            (Part::Fetch, micros(600)),
            (Part::Room, micros(300)),
            (Part::Accept, micros(100))
        ]
    );
    assert!(report.parts.contains(&(Part::Capture, millis(1))));
    assert!(report.downtime() >= Some(millis(10)));
    assert_eq!(source.moves.holding(P), None);
    assert!(!source.moves.is_busy(P));
}

/// As an older one does.
#[test]
fn of_a_target_that_does_not_say_what_it_did_all_is_waiting() {
    let mut source = Script::source(1);
    let attempt = ATTEMPT;
    let reason = String::from("no");
    source.record(declared());
    source.runner(RunnerEvent::PauseRefused { attempt, reason });
    source.record(declared().settled().unwrap());
    let (process, epoch) = (P, NEXT);
    let report = report(&source.runner(RunnerEvent::Resumed {
        process,
        epoch,
        follows: false,
    }));
    assert_eq!(
        report.parts[0],
        (Part::Accept, Duration::from_millis(1)),
        "{report:?}"
    );
}

#[test]
fn a_target_goes_from_step_to_step() {
    let attempt = ATTEMPT;
    let mut target = Script::target(0);
    let (source, offer) = (S, offer());
    assert_eq!(
        target.hears(S, Body::Offer(offer.clone())),
        [Action::Admit {
            attempt,
            source,
            offer: offer.clone()
        }]
    );
    let (kind, program) = (offer.kind.clone(), offer.program);
    let admitted = Event::Admitted {
        attempt,
        program_is_here: false,
    };
    assert_eq!(
        target.event(admitted),
        [Action::FetchProgram {
            attempt,
            source,
            kind,
            program
        }]
    );
    assert_eq!(
        target.event(Event::ProgramFetched { attempt }),
        [told(Command::Prepare { attempt, offer })]
    );
    let (fetch, room) = (Duration::from_millis(1), Duration::from_millis(1));
    let readied = Readied {
        fetch,
        room,
        ..Readied::default()
    };
    assert_eq!(target.runner(prepared()), [sent(S, Body::Accept(readied))]);
    assert!(matches!(
        target.hears(S, state())[..],
        [Action::Command(Command::Restore { .. })]
    ));
    assert_eq!(
        target.runner(RunnerEvent::Restored { attempt }),
        [swap(declared(), committed(), Some(GRANT))]
    );
    assert_eq!(
        target.record(committed()),
        [resume(NEXT), sent(S, Body::Committed)]
    );
    let resumed = RunnerEvent::Resumed {
        process: P,
        epoch: NEXT,
        follows: false,
    };
    let actions = target.runner(resumed);
    let [
        Action::Send { .. },
        Action::Notify(Notice::Arrived { timings, .. }),
    ] = actions[..]
    else {
        panic!("{actions:?}");
    };
    let each = Duration::from_millis(1);
    assert_eq!([timings.restore, timings.commit, timings.resume], [each; 3]);
    assert_eq!(actions[0], sent(S, Body::Done(timings)));
}

#[test]
fn a_target_answers_when_the_move_has_ended_too() {
    let mut target = Script::target(6);
    assert_eq!(target.hears(S, Body::Ask), [sent(S, Body::Committed)]);
    let (process, epoch) = (P, NEXT);
    target.runner(RunnerEvent::Resumed {
        process,
        epoch,
        follows: false,
    });
    let done = sent(S, Body::Done(Timings::default()));
    assert_eq!(target.hears(S, Body::Ask), std::slice::from_ref(&done));
    assert_eq!(target.hears(S, state()), [done]);
}

#[test]
fn before_the_declaration_a_source_can_simply_leave() {
    let mut source = Script::source(0);
    source.moves.cancel(source.now(), P).unwrap();
    let actions = source.actions();
    assert_eq!(actions[0], sent(T, Body::Abort));
    let stayed = Outcome::Stayed(MoveFailure::Cancelled);
    assert_eq!(report(&actions).outcome, stayed);

    let mut source = Script::source(0);
    let refused = Refusal::TooManyMoves;
    let actions = source.hears(T, Body::Refuse(refused.clone()));
    let stayed = Outcome::Stayed(MoveFailure::Refused(refused));
    assert_eq!(report(&actions).outcome, stayed);

    let mut source = Script::source(0);
    let actions = source.waits_for(|action| matches!(action, Action::Notify(_)));
    let stayed = Outcome::Stayed(MoveFailure::Unanswered);
    assert_eq!(report(&actions).outcome, stayed);
}

#[test]
fn a_target_that_falls_silent_is_given_up_before_the_declaration_only() {
    let mut source = Script::source(0);
    assert!(source.moves.is_offered(ATTEMPT));
    source.moves.target_silent(source.now(), ATTEMPT);
    let actions = source.actions();
    assert_eq!(actions[0], sent(T, Body::Abort));
    let stayed = Outcome::Stayed(MoveFailure::Unanswered);
    assert_eq!(report(&actions).outcome, stayed);

    for step in 1..=5 {
        let mut source = Script::source(step);
        assert!(!source.moves.is_offered(ATTEMPT));
        source.moves.target_silent(source.now(), ATTEMPT);
        assert_eq!(source.actions(), []);
    }
}

#[test]
fn from_the_declaration_on_a_source_settles_by_writing() {
    for step in 1..=5 {
        let mut source = Script::source(step);
        source.moves.cancel(source.now(), P).unwrap();
        let known = if step == 1 { at_rest() } else { declared() };
        let settles = swap(known, closed(Life::Alive), None);
        assert_eq!(source.actions(), std::slice::from_ref(&settles));
        assert_eq!(source.waits(), [settles], "until there is an answer");
        if step == 1 {
            let settles = swap(declared(), closed(Life::Alive), None);
            assert_eq!(
                source.record(declared()),
                [settles],
                "the intent was written"
            );
        }
        assert_eq!(source.record(declared()), [], "which decides nothing");
        assert_eq!(
            source.record(closed(Life::Alive)),
            [sent(T, Body::Abort), resume(NEXT)]
        );
        let resumed = RunnerEvent::Resumed {
            process: P,
            epoch: NEXT,
            follows: false,
        };
        let report = report(&source.runner(resumed));
        assert_eq!(report.outcome, Outcome::Stayed(MoveFailure::Cancelled));
        assert_eq!(
            source.moves.holding(P),
            Some(Holding::Running { epoch: NEXT })
        );
    }
}

#[test]
fn a_source_that_comes_too_late_keeps_its_copy_until_the_target_is_done() {
    let mut source = Script::source(5);
    let settles = |action: &Action| matches!(action, Action::Swap(_));
    source.waits_for(settles);
    assert_eq!(source.record(committed()), [], "the commit was first");
    let cancelled = source.moves.cancel(source.now(), P);
    assert_eq!(cancelled, Err(CancelError::Committed { process: P }));
    assert_eq!(
        source.waits(),
        [sent(T, Body::Ask), Action::Read { process: P }]
    );
    let lost = committed().closed(Life::Lost).unwrap();
    let report = report(&source.record(lost));
    let copy = Copied::Kept;
    assert_eq!(report.outcome, Outcome::Lost { copy });
    let frozen = Holding::Frozen {
        epoch: E,
        move_id: MOVE,
    };
    assert_eq!(source.moves.holding(P), Some(frozen));
}

#[test]
fn a_target_that_was_silent_is_asked_again_and_the_copy_goes() {
    let mut source = Script::source(5);
    source.hears(T, Body::Committed);
    assert_eq!(source.moves.kept().next(), None, "it is being asked");
    let actions = source.waits_for(|action| matches!(action, Action::Notify(_)));
    let copy = Copied::Kept;
    assert_eq!(report(&actions).outcome, Outcome::Moved { copy });
    assert_eq!(source.moves.kept().collect::<Vec<_>>(), [P]);
    assert_eq!(source.record(committed())[0], sent(T, Body::Ask));
    let attempt = ATTEMPT;
    let discard = told(Command::Discard { attempt });
    assert_eq!(source.hears(T, Body::Done(Timings::default())), [discard]);
    assert_eq!(source.moves.holding(P), None);
}

#[test]
fn when_the_source_runner_dies_a_target_that_has_everything_gets_its_time() {
    let mut source = Script::source(4);
    let lost = swap(declared(), closed(Life::Lost), None);
    assert_eq!(source.event(Event::RunnerDied), std::slice::from_ref(&lost));

    let mut source = Script::source(5);
    assert_eq!(source.event(Event::RunnerDied), []);
    let report_of_commit = report(&source.hears(T, Body::Committed));
    let copy = Copied::Gone;
    assert_eq!(report_of_commit.outcome, Outcome::Moved { copy });

    let mut source = Script::source(5);
    source.event(Event::RunnerDied);
    let actions = source.waits_for(|action| matches!(action, Action::Swap(_)));
    assert_eq!(actions, [lost]);
    let actions = source.record(closed(Life::Lost));
    assert_eq!(report(&actions).outcome, Outcome::Lost { copy });
    let (process, epoch) = (P, NEXT);
    assert!(actions.contains(&Action::Notify(Notice::Lost { process, epoch })));
}

#[test]
fn a_target_lets_go_freely_until_it_commits_and_by_writing_after() {
    for step in 1..=4 {
        let actions = Script::target(step).hears(S, Body::Abort);
        let asked = [discard()];
        assert_eq!(actions, asked[..usize::from(step > 1)], "step {step}");
    }
    let mut target = Script::target(5);
    let settles = swap(declared(), closed(Life::Alive), None);
    assert_eq!(target.hears(S, Body::Abort), [settles]);
    assert_eq!(target.record(closed(Life::Alive)), [discard()]);

    let mut target = Script::target(5);
    target.hears(S, Body::Abort);
    assert_eq!(
        target.record(committed()),
        [resume(NEXT), sent(S, Body::Committed)],
        "the commit had won"
    );
}

#[test]
fn a_target_whose_runner_died_settles_and_owns_up() {
    let mut target = Script::target(5);
    let settles = swap(declared(), closed(Life::Alive), None);
    assert_eq!(target.event(Event::RunnerDied), [settles]);
    let lost = committed().closed(Life::Lost).unwrap();
    assert_eq!(
        target.record(committed()),
        [swap(committed(), lost, None)],
        "the commit had won"
    );
    let (process, epoch) = (P, lost.epoch);
    assert_eq!(
        target.record(lost),
        [Action::Notify(Notice::Lost { process, epoch })]
    );
}

#[test]
fn a_second_move_is_refused_clearly() {
    let mut source = Script::source(2);
    let second = source.moves.start(source.now(), order(U));
    assert_eq!(second, Err(StartError::Busy { process: P }));
    let refuses = |refusal| [sent_of(OTHER, U, Body::Refuse(refusal))];
    let back = source.hears_of(OTHER, U, Body::Offer(offer()));
    assert_eq!(back, refuses(Refusal::Busy));

    let mut idle = Script::new(S, Some(Holding::Running { epoch: E }));
    let held = idle.hears_of(OTHER, U, Body::Offer(offer()));
    assert_eq!(held, refuses(Refusal::Held));

    let mut target = Script::target(3);
    let other = target.hears_of(OTHER, U, Body::Offer(offer()));
    assert_eq!(other, refuses(Refusal::Busy));
    let newer = target.hears_of(OTHER, S, Body::Offer(offer()));
    let readied = Readied {
        fetch: Duration::ZERO,
        room: Duration::from_millis(1),
        strategy: Strategy::StopAndCopy,
    };
    assert_eq!(
        newer,
        [sent(S, Body::Accept(readied))],
        "is the first one still meant?"
    );
}

#[test]
fn what_comes_twice_late_or_from_somebody_else_changes_nothing() {
    let mut source = Script::source(2);
    assert_eq!(source.hears(T, Body::Accept(Readied::default())), []);
    assert_eq!(source.hears(T, Body::Committed), [], "nothing was granted");
    assert_eq!(source.hears(T, Body::Done(Timings::default())), []);
    assert_eq!(source.hears(U, Body::Failed(TargetFailure::Unknown)), []);
    assert_eq!(source.record(at_rest()), []);
    let attempt = Attempt {
        move_id: OTHER,
        ..ATTEMPT
    };
    assert_eq!(source.runner(RunnerEvent::Paused { attempt }), []);
    let running = Some(Holding::Running { epoch: E });
    assert_eq!(
        source.moves.holding(P),
        running,
        "that was of another attempt"
    );
    let mut target = Script::target(5);
    assert_eq!(target.hears(S, state()), []);
    assert_eq!(target.hears(U, Body::Abort), []);
    assert_eq!(target.record(at_rest()), []);
    assert_eq!(target.record(declared()), []);
    assert_eq!(
        Script::new(T, None).hears(S, state()),
        [sent(S, Body::Failed(TargetFailure::Unknown))]
    );
    assert_eq!(
        Script::new(S, None).hears(T, Body::Accept(Readied::default())),
        [sent(T, Body::Abort)]
    );
}

#[test]
fn limits_and_impossible_orders_are_refused() {
    let limits = Limits {
        outgoing_max: 0,
        incoming_max: 0,
        ..Limits::default()
    };
    let mut moves = Moves::new(S, limits, [(P, Holding::Running { epoch: E })]);
    let process = P;
    assert_eq!(
        moves.start(Time::ZERO, order(S)),
        Err(StartError::AlreadyThere { process })
    );
    assert_eq!(
        moves.start(Time::ZERO, order(T)),
        Err(StartError::TooManyMoves { limit: 0 })
    );
    let epoch = Epoch(u64::MAX);
    let mut last = Script::new(S, Some(Holding::Running { epoch }));
    assert_eq!(
        last.moves.start(Time::ZERO, order(T)),
        Err(StartError::LastEpoch { process })
    );
    let mut none = Script::new(S, None);
    assert_eq!(
        none.moves.start(Time::ZERO, order(T)),
        Err(StartError::NotRunning { process })
    );
    let mut full = Script::new(U, None);
    full.moves = Moves::new(
        U,
        Limits {
            incoming_max: 0,
            ..Limits::default()
        },
        [],
    );
    assert_eq!(
        full.hears(S, Body::Offer(offer())),
        [sent(S, Body::Refuse(Refusal::TooManyMoves))]
    );
}

#[test]
fn without_a_record_a_process_stays_as_it_is() {
    let mut source = Script::source(5);
    let record = None;
    let process = P;
    let actions = source.event(Event::Record { process, record });
    let stayed = Outcome::Stayed(MoveFailure::NoRecord);
    assert_eq!(report(&actions).outcome, stayed);
    let commands = |action: &Action| matches!(action, Action::Command(_));
    assert!(!actions.iter().any(commands), "it stands still");
}
