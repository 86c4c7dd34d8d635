//! What a program sees of being moved: nothing.

use std::io::Write;
use std::time::Duration;

use sterna_process::{Exit, RestoreError, State};

use crate::rig::{Job, capture, ended, pause, trap, until, until_state};

#[test]
fn recursion_ends_at_the_same_depth() {
    let deep = || Job::guest("recurse", &["0", "1"]);
    let (exit, printed) = deep().run();
    assert_eq!(trap(exit), "call stack exhausted");
    let (exit, moved, hops) = deep().run_moving(8, Duration::from_micros(100));
    assert_eq!(trap(exit), "call stack exhausted");
    assert!(
        moved == printed,
        "{:?} {:?}",
        moved.lines().last(),
        printed.lines().last()
    );
    assert!(hops > 0);
    println!("{:?}, {hops} hops", printed.lines().last());

    let back = || Job::guest("recurse", &["5000"]);
    let (exit, moved, _) = back().run_moving(8, Duration::from_micros(50));
    assert_eq!((exit, moved), back().run());
}

#[test]
fn a_sleep_goes_on_for_what_is_left() {
    let job = Job::guest("sleeper", &["1", "3000"]);
    let (exit, printed, hops) = job.run_moving(10, Duration::from_millis(250));
    assert_eq!(exit, Exit::Code(0));
    let mut lines: Vec<_> = printed.lines().collect();
    lines.sort_unstable();
    let [slept, micros] = lines[..] else {
        panic!("{printed}");
    };
    assert_eq!(slept, "1 slept wall ok");
    let micros: u64 = micros.trim_end_matches(" us").parse().unwrap();
    // Sleeping anew after each move would have taken 5.5 seconds.
    assert!((3_000_000..4_700_000).contains(&micros), "{micros}");
    assert_eq!(hops, 10);
}

#[test]
fn input_is_neither_lost_nor_doubled() {
    let (input, mut writer) = std::io::pipe().unwrap();
    let job = Job::guest("echo", &[]).input(input.into());
    let mut running = job.start();
    let mut expected = String::new();
    let mut bytes = 0;
    for number in 1..=40 {
        let line = format!("this is line {number}\n");
        let (start, end) = line.split_at(number % 12);
        writer.write_all(start.as_bytes()).unwrap();
        if number % 3 == 0 {
            until_state(&running.control, State::Waiting);
        }
        running = job.hop(running).unwrap();
        writer.write_all(end.as_bytes()).unwrap();
        if number % 2 == 0 {
            running = job.hop(running).unwrap();
        }
        expected += &format!("{number}: {line}");
        bytes += line.len();
    }
    drop(writer);
    assert_eq!(ended(&running.control), Exit::Code(0));
    expected += &format!("40 lines, {bytes} bytes\n");
    assert_eq!(job.printed(), expected);
}

#[test]
fn open_files_go_on_where_they_were() {
    let (plain, moved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = |directory: &tempfile::TempDir| {
        Job::guest("files", &["/d", "150"]).directory(directory.path())
    };
    let expected = files(&plain).run();
    assert_eq!(expected.0, Exit::Code(0), "{}", expected.1);
    let (exit, printed, hops) = files(&moved).run_moving(60, Duration::from_millis(2));
    assert_eq!((exit, printed), expected, "after {hops} hops");
    assert!(hops > 0);
    for name in ["ring", "journal"] {
        let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(read(&plain), read(&moved), "{name}");
    }
}

#[test]
fn files_that_have_changed_are_noticed_before_anything_runs() {
    let directory = tempfile::tempdir().unwrap();
    let ring = directory.path().join("ring");
    let job = Job::guest("files", &["/d", "1000000"]).directory(directory.path());
    let running = job.start();
    until(|| job.printed().lines().count() > 3);
    let mut paused = pause(running.process).unwrap();
    let captured = capture(&mut *paused);
    paused.discard();
    let printed = job.printed();
    let refused = |why: &str| {
        let error = job.arrive(captured.clone()).err().expect("it is refused");
        let text = error.to_string();
        assert!(matches!(error, RestoreError::Binding { .. }), "{error:?}");
        assert!(text.contains("ring") && text.contains(why), "{text}");
    };
    let kept = directory.path().join("kept");
    std::fs::rename(&ring, &kept).unwrap();
    refused("is gone");
    std::fs::write(&ring, std::fs::read(&kept).unwrap()).unwrap();
    refused("another file");
    std::fs::rename(&kept, &ring).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&ring)
        .unwrap()
        .set_len(0)
        .unwrap();
    refused("must have");
    assert_eq!(job.printed(), printed, "nothing has run");

    let nowhere = Job::guest("files", &["/d"]);
    let error = nowhere
        .arrive(captured.clone())
        .err()
        .expect("it is refused");
    assert!(error.to_string().contains("--dir"), "{error}");
}

#[test]
fn a_program_without_memory() {
    let wat = r#"(module
        (global $g (mut i64) (i64.const 1))
        (func $step (param i64) (result i64)
            (global.set $g (i64.add (i64.mul (global.get $g) (i64.const 6364136223846793005)) (local.get 0)))
            (global.get $g))
        (func (export "run") (param i64) (result i64 f64 i32)
            (local $x i64)
            (loop $more
                (local.set $x (i64.xor (local.get $x) (call $step (local.get 0))))
                (br_if $more (i64.ne (i64.const 0) (local.tee 0 (i64.sub (local.get 0) (i64.const 1))))))
            (local.get $x) (f64.convert_i64_s (local.get $x)) (i32.wrap_i64 (local.get $x))))"#;
    let job = || Job::wat(wat).calling("run").with(&["60000000"]);
    let expected = job().run();
    assert_eq!(expected.1.lines().count(), 3);
    let (exit, printed, hops) = job().run_moving(30, Duration::from_millis(1));
    assert_eq!((exit, printed), expected, "after {hops} hops");
    assert!(hops > 0);
}

#[test]
fn a_bulk_operation_is_moved_in_its_middle() {
    let job = || Job::guest("fill", &["128", "3"]);
    let (exit, printed, hops) = job().run_moving(12, Duration::from_millis(5));
    assert_eq!((exit, printed), job().run(), "after {hops} hops");
}

#[test]
fn statistics_go_along() {
    let job = Job::guest("spin", &[]);
    let mut running = job.start();
    let started = running.control.stats().started;
    let mut used = Duration::ZERO;
    for _ in 0..5 {
        let more = used + Duration::from_millis(5);
        until(|| running.control.stats().cpu_time > more);
        running = job.hop(running).unwrap();
        let stats = running.control.stats();
        assert!(stats.cpu_time > used);
        assert_eq!(stats.started, started);
        used = stats.cpu_time;
    }
    running.control.kill();
    assert_eq!(ended(&running.control), Exit::Killed);
}
