//! Lots of processes at once, and what they leave behind: nothing.

use std::collections::BTreeMap;
use std::process::Command;

use sterna_process::{Exit, State};

use crate::rig::{Job, capture, ended, pause, until, until_state};

/// Set in the process that has the counted things to itself.
const ALONE: &str = "STERNA_TEST_ALONE";

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// How many threads there are of each name.
fn threads() -> BTreeMap<String, usize> {
    let mut threads = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        // It may have ended since.
        if let Ok(name) = std::fs::read_to_string(task.unwrap().path().join("comm")) {
            *threads.entry(name.trim().to_owned()).or_default() += 1;
        }
    }
    threads
}

#[test]
// long because: one story, told in order
fn three_hundred_leave_nothing_behind() {
    if std::env::var_os(ALONE).is_none() {
        let this = std::env::current_exe().unwrap();
        let name = "many::three_hundred_leave_nothing_behind";
        let mut alone = Command::new(this);
        let done = alone
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        return;
    }
    let (input, _writer) = std::io::pipe().unwrap();
    let idle = Job::guest("idle", &[]).input(input.into());
    let (spin, hello) = (Job::guest("spin", &[]), Job::guest("hello", &[]));
    // What is made once and kept: programs, who watches for those that wait, who looks for pages.
    let first = idle.start();
    until_state(&first.control, State::Waiting);
    first.control.kill();
    assert_eq!(ended(&first.control), Exit::Killed);
    assert_eq!(ended(&hello.start().control), Exit::Code(0));
    let first = spin.hop(spin.start()).unwrap();
    first.control.kill();
    assert_eq!(ended(&first.control), Exit::Killed);
    until(|| !threads().contains_key("sterna-warm"));
    let before = descriptors();

    let running: Vec<_> = (0..300).map(|_| idle.start()).collect();
    for running in &running {
        until_state(&running.control, State::Waiting);
    }
    let guests = threads().get("sterna-guest").copied().unwrap_or_default();
    assert!(guests <= 128, "{guests} threads for guests that wait");
    let mut spinning: Vec<_> = (0..20).map(|_| spin.start()).collect();
    let moved = spinning.pop().unwrap();
    let moved = spin.hop(moved).unwrap();
    let mut paused = pause(spinning.pop().unwrap().process).unwrap();
    capture(&mut *paused);
    drop(paused);
    drop(pause(spinning.pop().unwrap().process).unwrap());
    for running in running.iter().chain(&spinning).chain([&moved]) {
        running.control.kill();
    }
    for running in running.iter().chain(&spinning).chain([&moved]) {
        assert_eq!(ended(&running.control), Exit::Killed);
    }
    for _ in 0..50 {
        assert_eq!(ended(&hello.start().control), Exit::Code(0));
    }
    drop((running, spinning, moved));
    until(|| descriptors() == before);
    // Those for guests end by themselves when they have had nothing to do for a while.
    let known = [
        "sterna-guest",
        "sterna-wait",
        "many::three_hun",
        "kind",
        "main",
    ];
    until(|| {
        let others = threads();
        let mut names = others.keys();
        let left = names.find(|name| !known.iter().any(|known| name.starts_with(known)));
        left.is_none_or(|name| name.starts_with("kind-"))
    });
}

#[test]
fn those_beyond_the_threads_take_turns() {
    let (spin, hello) = (Job::guest("spin", &[]), Job::guest("hello", &[]));
    let spinning: Vec<_> = (0..150).map(|_| spin.start()).collect();
    assert_eq!(ended(&hello.start().control), Exit::Code(0));
    for running in &spinning {
        until(|| !running.control.stats().cpu_time.is_zero());
    }
    // Whether it has a thread at the moment or not, and though it is told to give way meanwhile.
    let mut one = spin.start();
    for _ in 0..50 {
        one = pause(one.process).unwrap().resume();
    }
    let mut paused = pause(one.process).unwrap();
    capture(&mut *paused);
    drop(paused);
    for running in &spinning {
        running.control.kill();
    }
    for running in &spinning {
        assert_eq!(ended(&running.control), Exit::Killed);
    }
}
