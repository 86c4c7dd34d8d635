//! Looking where a process stands while it runs; pausing it where its target is ready.

use std::collections::BTreeSet;
use std::time::Duration;

use sterna_process::{
    Exit, Kind, PauseRefused, Pausing, PrepareError, Process, Program, State, WAYPOINTS_MAX,
    Waypoint,
};

use crate::rig::{Job, LONG, capture, ended, immobile, mobile, until, until_state};

/// Looks so often, and gives all places that were seen.
fn looks(process: &dyn Process, times: usize) -> BTreeSet<Waypoint> {
    let mut seen = BTreeSet::new();
    for _ in 0..times {
        let waypoints = process.waypoints(LONG).unwrap();
        assert!(!waypoints.is_empty());
        let distinct: BTreeSet<_> = waypoints.iter().copied().collect();
        assert_eq!(distinct.len(), waypoints.len(), "each is named once");
        seen.extend(distinct);
    }
    seen
}

#[test]
fn looked_at_made_ready_for_and_paused_there() {
    let job = Job::guest("count", &["200", "200000"]);
    let expected = Job::guest("count", &["200", "200000"]).run();
    let mut process = job.start().process;
    let mut ready = BTreeSet::new();
    let mut hops = 0;
    let exit = loop {
        match process.waypoints(LONG) {
            Ok(waypoints) => {
                mobile().anticipate(&job.program, &waypoints).unwrap();
                ready.extend(waypoints);
            }
            // The next step says how.
            Err(PauseRefused::Ended) => {}
            Err(why) => panic!("{why}"),
        }
        process = match process.pause_among(&ready, Duration::from_millis(10)) {
            Pausing::Paused(mut paused) => {
                let captured = capture(&mut *paused);
                paused.discard();
                hops += 1;
                job.arrive(captured).unwrap().resume().process
            }
            Pausing::Exited(exit) => break exit,
            // It was seen where it does not come again: look once more.
            Pausing::Refused(process, PauseRefused::TimedOut { .. }) => process,
            Pausing::Refused(_, why) => panic!("{why}"),
        };
    };
    assert_eq!((exit, job.printed()), expected);
    assert!(hops > 3, "{hops}");
}

#[test]
fn a_place_it_never_comes_to_is_waited_for_and_given_up() {
    let running = Job::guest("spin", &[]).start();
    // Past what it does once.
    until(|| running.control.stats().cpu_time > Duration::from_millis(50));
    let seen = looks(&*running.process, 20);
    let never = BTreeSet::from([Waypoint(u64::MAX)]);
    let within = Duration::from_millis(30);
    let Pausing::Refused(process, why) = running.process.pause_among(&never, within) else {
        panic!("it was paused somewhere else");
    };
    assert_eq!(why, PauseRefused::TimedOut { within });
    assert_eq!(running.control.stats().state, State::Running);
    let Pausing::Paused(paused) = process.pause_among(&seen, LONG) else {
        panic!("it is there again and again");
    };
    paused.discard();
    assert_eq!(ended(&running.control), Exit::Departed);
}

#[test]
fn one_that_waits_is_seen_where_it_waits_and_goes_on_waiting() {
    let job = Job::guest("sleeper", &["1", "300"]);
    let running = job.start();
    until_state(&running.control, State::Waiting);
    let ready = looks(&*running.process, 50);
    until_state(&running.control, State::Waiting);
    let Pausing::Paused(mut paused) = running.process.pause_among(&ready, LONG) else {
        panic!("it waits there");
    };
    let captured = capture(&mut *paused);
    paused.discard();
    let arrived = job.arrive(captured).unwrap().resume();
    assert_eq!(ended(&arrived.control), Exit::Code(0));
}

#[test]
fn looks_and_kills_and_pauses_do_not_get_into_each_others_way() {
    for round in 0..50 {
        let running = Job::guest("spin", &[]).start();
        let control = running.control.clone();
        let describer = running.control.clone();
        let looker = std::thread::spawn(move || {
            loop {
                match running.process.waypoints(LONG) {
                    Ok(waypoints) => assert!(!waypoints.is_empty()),
                    Err(why) => return why,
                }
            }
        });
        if round % 2 == 0 {
            let _ = describer.describe(LONG);
        }
        control.kill();
        assert_eq!(ended(&control), Exit::Killed);
        assert_eq!(looker.join().unwrap(), PauseRefused::Ended);
    }
}

#[test]
fn of_one_that_has_ended_there_is_nothing_to_see() {
    let running = Job::guest("hello", &[]).start();
    ended(&running.control);
    until(|| running.process.waypoints(LONG) == Err(PauseRefused::Ended));
    let pausing = running.process.pause_among(&BTreeSet::new(), LONG);
    assert!(matches!(pausing, Pausing::Exited(_)));
}

#[test]
fn waypoints_from_elsewhere_may_be_anything() {
    let program = Job::guest("count", &[]).program;
    let anticipate = |waypoints: &[Waypoint]| mobile().anticipate(&program, waypoints);
    for nonsense in [
        0,
        1,
        u64::MAX,
        1 << 33,
        u64::MAX >> 1,
        0x1234_5678_9abc_def0,
    ] {
        let result = anticipate(&[Waypoint(nonsense)]);
        assert!(
            matches!(result, Err(PrepareError::Waypoint { waypoint }) if waypoint.0 == nonsense),
            "{nonsense:#x}"
        );
    }
    let many: Vec<_> = (0..=WAYPOINTS_MAX as u64).map(Waypoint).collect();
    assert!(matches!(
        anticipate(&many),
        Err(PrepareError::OverLimit { .. })
    ));
    anticipate(&[]).unwrap();
    let named = Program::installed(sterna_process::ProgramId::of(b"unknown"));
    assert!(matches!(
        mobile().anticipate(&named, &[]),
        Err(PrepareError::UnknownProgram { .. })
    ));
}

#[test]
fn an_immobile_one_says_so() {
    let running = Job::guest("spin", &[]).start_on(immobile());
    let refused = running.process.waypoints(LONG);
    assert!(matches!(refused, Err(PauseRefused::Immovable { .. })));
    let anticipated = immobile().anticipate(&Job::guest("spin", &[]).program, &[]);
    assert!(matches!(anticipated, Err(PrepareError::Failed { .. })));
    let pausing = running.process.pause_among(&BTreeSet::new(), LONG);
    assert!(matches!(
        pausing,
        Pausing::Refused(_, PauseRefused::Immovable { .. })
    ));
    running.control.kill();
}
