//! Looking where a process stands while it runs, and pausing it where the target is ready for it.

use std::collections::BTreeSet;
use std::time::Duration;

use sterna_process::toy::{Instruction, Toy, ToyProgram};
use sterna_process::*;

use crate::LONG;

/// A program that counts for ever, at instructions 2 and 3.
fn counter() -> Program {
    let code = vec![
        Instruction::Set(0, 1),
        Instruction::Set(1, 2),
        Instruction::Add(2, 0),
        Instruction::JumpIfLess(0, 1, 2),
    ];
    let program = ToyProgram {
        code,
        data: vec![],
        data_pages: 0,
        data_pages_max: 0,
    };
    Program::from_bytes(program.encode())
}

fn spawn() -> Running {
    Toy::new()
        .spawn(Identity::new(), &counter(), Environment::default())
        .unwrap()
}

/// Where a paused process goes on.
fn stands_at(paused: &mut dyn Paused) -> Waypoint {
    Waypoint(paused.capture().unwrap().description.frames[0].offset)
}

#[test]
fn paused_only_where_the_target_is_ready() {
    let mut running = spawn();
    let mut place = running.process.waypoints(LONG).unwrap();
    while place[0] < Waypoint(2) {
        place = running.process.waypoints(LONG).unwrap();
    }
    Toy::new().anticipate(&counter(), &place).unwrap();
    for ready in [2, 3, 2, 3] {
        let ready = BTreeSet::from([Waypoint(ready), Waypoint(0)]);
        let Pausing::Paused(mut paused) = running.process.pause_among(&ready, LONG) else {
            panic!("it comes there again and again");
        };
        assert!(ready.contains(&stands_at(&mut *paused)));
        running = paused.resume();
    }
    // It does not come there any more, and runs on.
    let never = BTreeSet::from([Waypoint(0)]);
    let within = Duration::from_millis(20);
    let Pausing::Refused(process, why) = running.process.pause_among(&never, within) else {
        panic!("it was paused elsewhere");
    };
    assert_eq!(why, PauseRefused::TimedOut { within });
    let Pausing::Paused(_) = process.pause(LONG) else {
        panic!("any place is good enough now");
    };
}

#[test]
fn of_a_process_that_has_ended_there_is_nothing_to_see() {
    let running = spawn();
    running.control.kill();
    assert_eq!(running.control.wait(LONG), Some(Exit::Killed));
    assert_eq!(running.process.waypoints(LONG), Err(PauseRefused::Ended));
    let pausing = running.process.pause_among(&BTreeSet::new(), LONG);
    assert!(matches!(pausing, Pausing::Exited(Exit::Killed)));
}

#[test]
fn places_that_the_program_does_not_have_are_refused() {
    let anticipate = |waypoints: &[Waypoint]| Toy::new().anticipate(&counter(), waypoints);
    anticipate(&[Waypoint(0), Waypoint(3)]).unwrap();
    assert!(matches!(
        anticipate(&[Waypoint(1), Waypoint(4)]),
        Err(PrepareError::Waypoint {
            waypoint: Waypoint(4)
        })
    ));
    let many = vec![Waypoint(1); WAYPOINTS_MAX + 1];
    assert!(matches!(
        anticipate(&many),
        Err(PrepareError::OverLimit { .. })
    ));
    let named = Program::installed(counter().id());
    assert!(matches!(
        Toy::new().anticipate(&named, &[]),
        Err(PrepareError::UnknownProgram { .. })
    ));
}
