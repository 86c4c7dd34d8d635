//! What a process may use, also after a move.

use std::time::Duration;

use sterna_process::{Exit, RestoreError, SpawnError};

use crate::rig::{Job, capture, ended, mobile, pause, trap, until};

const GROWS: &str = r#"(module
    (memory (export "memory") 1)
    (table $t 1 funcref)
    (func (export "memory_grow") (param i32) (result i32 i32)
        (memory.grow (local.get 0)) (memory.size))
    (func (export "table_grow") (param i32) (result i32 i32)
        (table.grow $t (ref.null func) (local.get 0)) (table.size $t)))"#;

#[test]
fn memory_and_tables_do_not_grow_beyond() {
    let check = |entry: &str, more: &str, printed: &str| {
        let job = Job::wat(GROWS)
            .calling(entry)
            .with(&[more])
            .limits(|limits| {
                limits.memory_bytes_max = 3 << 16;
                limits.table_elements_max = 10;
            });
        assert_eq!(job.run(), (Exit::Code(0), printed.into()), "{entry} {more}");
    };
    check("memory_grow", "2", "1\n3\n");
    check("memory_grow", "3", "-1\n1\n");
    check("table_grow", "9", "1\n10\n");
    check("table_grow", "10", "-1\n1\n");
}

#[test]
fn a_program_that_begins_beyond_does_not_begin() {
    let limited = |change: fn(&mut sterna_process::Limits)| {
        Job::wat(GROWS)
            .calling("memory_grow")
            .with(&["1"])
            .limits(change)
    };
    let refusal = limited(|limits| limits.memory_bytes_max = 1000).refusal(mobile());
    assert!(
        matches!(
            refusal,
            SpawnError::OverLimit {
                needed: 65536,
                limit: 1000,
                ..
            }
        ),
        "{refusal:?}"
    );
    limited(|limits| limits.table_elements_max = 0).refusal(mobile());
    limited(|limits| limits.descriptors_max = 2).refusal(mobile());
}

#[test]
fn the_process_that_arrives_keeps_to_those_of_the_new_place() {
    let job = Job::guest("fill", &["64", "0"]);
    let running = job.start();
    until(|| running.control.stats().memory_bytes > 32 << 20);
    let mut paused = pause(running.process).unwrap();
    let captured = capture(&mut *paused);
    paused.discard();
    let narrow = Job::guest("fill", &[]).limits(|limits| limits.memory_bytes_max = 16 << 20);
    let error = narrow
        .arrive(captured.clone())
        .err()
        .expect("it is too large");
    assert!(matches!(error, RestoreError::OverLimit { .. }), "{error:?}");
    let few = Job::guest("fill", &[]).limits(|limits| limits.descriptors_max = 1);
    assert!(few.arrive(captured).is_err());
}

#[test]
fn output() {
    let job = Job::guest("count", &["100", "1"]).limits(|l| l.output_bytes_max = Some(50));
    let (_, printed) = job.run();
    let all = Job::guest("count", &["100", "1"]).run().1;
    assert_eq!(printed, all[..50]);
}

#[test]
fn cpu_time_of_a_whole_life() {
    let max = Duration::from_millis(100);
    let job = Job::guest("spin", &[]).limits(|limits| limits.cpu_time_max = Some(max));
    let what = trap(job.run().0);
    assert!(what.contains("CPU time"), "{what}");
    // What was used elsewhere counts.
    let elsewhere = Job::guest("spin", &[]);
    let running = elsewhere.start();
    until(|| running.control.stats().cpu_time > max);
    let mut paused = pause(running.process).unwrap();
    let captured = capture(&mut *paused);
    paused.discard();
    let arrived = job.arrive(captured).unwrap().resume();
    let used = arrived.control.stats().cpu_time;
    assert!(used >= max, "{used:?}");
    assert!(trap(ended(&arrived.control)).contains("CPU time"));
}

#[test]
fn descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let job = Job::guest("files", &["/d", "3"]).directory(directory.path());
    let (exit, printed) = job.limits(|limits| limits.descriptors_max = 5).run();
    assert_eq!(exit, Exit::Code(1), "{printed}");
    assert!(printed.contains("files: "), "{printed}");
}
