//! A process can be ended whatever it is doing, and whatever somebody else is doing to it.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::Duration;

use sterna_process::{CaptureError, Exit, Kind, State};

use crate::rig::{Job, ended, immobile, mobile, pause, until, until_state};

#[test]
fn a_loop_and_a_giant_fill() {
    for job in [Job::guest("spin", &[]), Job::guest("fill", &["1024", "0"])] {
        let control = job.start().control;
        until(|| control.stats().cpu_time > Duration::from_millis(5));
        assert_eq!(control.wait(Duration::ZERO), None);
        control.kill();
        assert_eq!(ended(&control), Exit::Killed);
        control.kill();
        assert_eq!(control.stats().state, State::Ended);
    }
}

/// An engine that takes a later loop's look at the word for an earlier one's, since nothing was stored in between,
/// would let such a loop run for ever.
#[test]
fn in_loops_that_store_nothing() {
    let text = "(module (func (export \"f\") (local i32)
        (loop $first
          (local.set 0 (i32.add (local.get 0) (i32.const 1)))
          (br_if $first (i32.lt_u (local.get 0) (i32.const 1000))))
        (loop $outer
          (loop $inner (br_if $inner (i32.eqz (local.tee 0 (i32.add (local.get 0) (i32.const 1))))))
          (br_if $outer (local.get 0)))))";
    let endless = text.replace("(br_if $outer (local.get 0))", "(br $outer)");
    for text in [
        endless.clone(),
        endless.replace("(br $outer)", "(loop $last (br $last))"),
    ] {
        let control = Job::wat(&text).calling("f").start().control;
        until(|| control.stats().cpu_time > Duration::from_millis(5));
        control.kill();
        assert_eq!(ended(&control), Exit::Killed);
    }
}

#[test]
fn while_it_waits() {
    let (input, _writer) = std::io::pipe().unwrap();
    for job in [
        Job::guest("idle", &[]).input(input.into()),
        Job::guest("idle", &["sleep"]),
    ] {
        let control = job.start().control;
        until_state(&control, State::Waiting);
        control.kill();
        assert_eq!(ended(&control), Exit::Killed);
    }
}

#[test]
fn while_its_results_find_no_room() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[0; 65536]).unwrap();
    let mut job =
        Job::wat("(module (func (export \"f\") (result i32) (i32.const 1)))").calling("f");
    job.output = File::from(OwnedFd::from(writer));
    for kind in [mobile() as &dyn Kind, immobile()] {
        let control = job.start_on(kind).control;
        until_state(&control, State::Waiting);
        control.kill();
        assert_eq!(ended(&control), Exit::Killed);
    }
    drop(reader);
}

#[test]
fn while_it_is_parked() {
    let running = Job::guest("spin", &[]).start();
    let mut paused = pause(running.process).unwrap();
    assert_eq!(running.control.stats().state, State::Paused);
    running.control.kill();
    assert_eq!(ended(&running.control), Exit::Killed);
    assert!(matches!(paused.capture(), Err(CaptureError::Killed)));
    let resumed = paused.resume();
    assert_eq!(ended(&resumed.control), Exit::Killed);
}

#[test]
fn while_its_owner_has_it() {
    let running = Job::guest("spin", &[]).start();
    let mut paused = pause(running.process).unwrap();
    paused.capture().unwrap();
    running.control.kill();
    assert_eq!(ended(&running.control), Exit::Killed);
    assert!(matches!(paused.capture(), Err(CaptureError::Killed)));
    let resumed = paused.resume();
    assert_eq!(ended(&resumed.control), Exit::Killed);
}

#[test]
fn before_it_has_run_at_all() {
    let job = Job::guest("spin", &[]);
    for _ in 0..50 {
        let control = job.start().control;
        control.kill();
        assert_eq!(ended(&control), Exit::Killed);
    }
}

#[test]
fn at_the_same_time_as_anything_else() {
    let (input, _writer) = std::io::pipe().unwrap();
    let jobs = [
        Job::guest("spin", &[]),
        Job::guest("idle", &[]).input(input.into()),
    ];
    for round in 0..200 {
        let running = jobs[round % 2].start();
        let control = running.control.clone();
        let killer = {
            let control = control.clone();
            std::thread::spawn(move || {
                (0..round * 7 % 5).for_each(|_| std::thread::yield_now());
                control.kill();
            })
        };
        match round % 3 {
            0 => drop(control.describe(Duration::from_micros(50))),
            how => {
                if let Ok(mut paused) = pause(running.process) {
                    if how == 2 {
                        let _ = paused.capture();
                    }
                    paused.resume();
                }
            }
        }
        assert_eq!(ended(&control), Exit::Killed, "round {round}");
        killer.join().unwrap();
    }
}
