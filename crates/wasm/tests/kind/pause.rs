//! A process that stands still, and goes on.

use std::time::Duration;

use sterna_process::{DescribeError, Exit, PauseRefused, Pausing, ProcessId, State};

use crate::rig::{Job, capture, ended, guest, pause, until, until_state};

#[test]
fn it_goes_on_as_if_nothing_had_been() {
    let job = Job::guest("count", &["200", "200000"]);
    let expected = Job::guest("count", &["200", "200000"]).run();
    let mut running = job.start();
    let mut pauses = 0;
    let exit = loop {
        if let Some(exit) = running.control.wait(Duration::from_micros(500)) {
            break exit;
        }
        match pause(running.process) {
            Ok(paused) => running = paused.resume(),
            Err(exit) => break exit,
        }
        pauses += 1;
    };
    assert_eq!((exit, job.printed()), expected);
    assert!(pauses > 0);
}

#[test]
fn it_is_captured_in_place_again_and_again() {
    let job = Job::guest("count", &["200", "200000"]);
    let expected = Job::guest("count", &["200", "200000"]).run();
    let mut running = job.start();
    let mut captures = 0;
    let exit = loop {
        if let Some(exit) = running.control.wait(Duration::from_millis(1)) {
            break exit;
        }
        match pause(running.process) {
            Ok(mut paused) => {
                let first = paused.capture().unwrap();
                assert_eq!(first, paused.capture().unwrap(), "the same result again");
                running = paused.resume();
            }
            Err(exit) => break exit,
        }
        captures += 1;
    };
    assert_eq!((exit, job.printed()), expected);
    assert!(captures > 0);
}

#[test]
fn a_clone_goes_its_own_way() {
    let job = Job::guest("count", &["100", "300000"]);
    let expected = Job::guest("count", &["100", "300000"]).run();
    let running = job.start();
    until(|| job.printed().lines().count() > 10);
    let mut paused = pause(running.process).unwrap();
    let mut captured = capture(&mut *paused);
    let printed = job.printed();
    let original = paused.resume();
    captured.image.header.process = ProcessId::random();
    let clone = Job::guest("count", &[]);
    let copy = clone.arrive(captured).unwrap().resume();
    assert_eq!(ended(&original.control), Exit::Code(0));
    assert_eq!(ended(&copy.control), Exit::Code(0));
    assert_eq!(job.printed(), expected.1);
    assert_eq!(printed + &clone.printed(), expected.1);
}

#[test]
fn not_twice_at_once() {
    let running = Job::guest("spin", &[]).start();
    let control = running.control.clone();
    let mut paused = pause(running.process).unwrap();
    let short = Duration::from_secs(20);
    assert!(matches!(
        control.describe(short),
        Err(DescribeError::Failed { .. })
    ));
    paused.capture().unwrap();
    assert!(matches!(
        control.describe(short),
        Err(DescribeError::Failed { .. })
    ));
    let resumed = paused.resume();
    assert!(resumed.control.describe(short).is_ok());
    control.kill();
    assert_eq!(ended(&control), Exit::Killed);
    assert!(matches!(control.describe(short), Err(DescribeError::Ended)));
}

#[test]
fn too_late_and_too_soon() {
    let running = Job::guest("hello", &[]).start();
    assert_eq!(ended(&running.control), Exit::Code(0));
    assert_eq!(pause(running.process).err(), Some(Exit::Code(0)));

    let running = Job::guest("spin", &[]).start();
    until(|| running.control.stats().cpu_time > Duration::ZERO);
    match running.process.pause(Duration::ZERO) {
        Pausing::Refused(process, PauseRefused::TimedOut { .. }) => {
            assert!(pause(process).is_ok());
        }
        Pausing::Paused(_) => {}
        _ => panic!("it neither stops nor runs"),
    }
}

#[test]
fn pausing_as_it_ends() {
    let job = Job::guest("hello", &[]);
    for _ in 0..300 {
        let running = job.start();
        let exit = match pause(running.process) {
            Ok(paused) => ended(&paused.resume().control),
            Err(exit) => exit,
        };
        assert_eq!(exit, Exit::Code(0));
    }
}

#[test]
fn what_a_live_process_does() {
    let within = Duration::from_secs(20);
    let running = Job::guest("spin", &[]).start();
    until(|| running.control.stats().cpu_time > Duration::ZERO);
    let description = running.control.describe(within).unwrap();
    let names: Vec<_> = description
        .frames
        .iter()
        .filter_map(|f| f.name.as_deref())
        .collect();
    assert!(names.contains(&"_start"), "{names:?}");
    assert_eq!(running.control.stats().state, State::Running);
    running.control.kill();

    let (input, writer) = std::io::pipe().unwrap();
    let running = Job::guest("idle", &[]).input(input.into()).start();
    until_state(&running.control, State::Waiting);
    for _ in 0..3 {
        let description = running.control.describe(within).unwrap();
        assert!(!description.frames.is_empty());
        assert_eq!(description.bindings.len(), 3);
    }
    drop(writer);
    assert_eq!(ended(&running.control), Exit::Code(0));
    assert!(matches!(
        running.control.describe(within),
        Err(DescribeError::Ended)
    ));
}

#[test]
fn dropping_it_ends_it_here() {
    let job = Job::new(guest("spin"));
    let running = job.start();
    drop(pause(running.process).unwrap());
    assert_eq!(ended(&running.control), Exit::Departed);

    let running = job.start();
    let mut paused = pause(running.process).unwrap();
    paused.capture().unwrap();
    drop(paused);
    assert_eq!(ended(&running.control), Exit::Departed);

    // Whoever only watches lets it run.
    let running = job.start();
    drop(running.process);
    assert_eq!(running.control.wait(Duration::from_millis(20)), None);
    running.control.kill();
    assert_eq!(ended(&running.control), Exit::Killed);
}
