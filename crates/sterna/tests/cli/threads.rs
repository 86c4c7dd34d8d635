//! The laboratory: its commands, their JSON, plots and exit codes.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use rustix::process::Signal;
use serde_json::Value;

use crate::world::{World, until};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn sum(values: &Value) -> f64 {
    let values = values.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap()).sum()
}

#[test]
fn parallelism_of_a_command() {
    let world = World::new();
    let answer = world.ask([
        "threads", "tlp", "--json", "--plot", "tlp.html", "--", "/bin/sh", "-c", "exit 7",
    ]);
    assert_eq!(answer.0.status.code(), Some(7), "the command's own code");
    let measured = json(&String::from_utf8(answer.0.stdout).unwrap());
    assert!((sum(&measured["running"]["shares"]) - 1.0).abs() < 1e-9);
    assert_eq!(measured["exit_code"], 7);
    let page = fs::read_to_string(world.path("tlp.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg"));

    let text = world
        .ask(["threads", "tlp", "--sample", "--", "/bin/sleep", "0.01"])
        .ok();
    assert!(text.contains("Thread-level parallelism:"), "{text}");
    assert!(text.contains("samples were asked for"), "{text}");
    let missing = world.ask(["threads", "tlp", "--", "/no/such/program"]);
    missing.fails(127, &["/no/such/program", "No such file"]);
    let folder = world.ask(["threads", "tlp", "--", "/"]);
    folder.fails(126, &["could not be started"]);
    let script = "/bin/sleep 4711 & echo $! >child; wait";
    let cut = [
        "threads", "tlp", "--for", "300ms", "--", "/bin/sh", "-c", script,
    ];
    world.ask(cut).ok();
    let child = fs::read_to_string(world.path("child")).unwrap();
    until("what it has started has ended, too", || {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", child.trim()));
        !line.is_ok_and(|line| line.contains("4711"))
    });
    let killed = ["threads", "tlp", "--", "/bin/sh", "-c", "kill -9 $$"];
    assert_eq!(world.ask(killed).0.status.code(), Some(137));
}

#[test]
fn what_cannot_be_measured_is_refused_first() {
    let world = World::new();
    let refused = |arguments: &[&str], code, words: &[&str]| {
        let arguments = ["threads"].iter().chain(arguments);
        world.ask(arguments).fails(code, words);
    };
    refused(&["tlp"], 2, &["--pid <PID>", "COMMAND"]);
    refused(&["tlp", "--pid", "0"], 2, &["0 is not in 1.."]);
    refused(&["stall", "--hold", "0s"], 2, &["shorter than 10ms"]);
    refused(&["cache", "--largest", "100T"], 2, &["between 4K and 1G"]);
    refused(&["bench", "--most", "5"], 2, &["choose 1000, 10000"]);
    let nowhere = ["bench", "--plot", "missing/bench.html"];
    refused(&nowhere, 1, &["could not write the plot", "missing"]);
}

#[test]
fn stalls_and_costs_as_json() {
    let world = World::new();
    let stall = json(
        &world
            .ask(["threads", "stall", "--hold", "20ms", "--json"])
            .ok(),
    );
    assert_eq!(stall["rows"].as_array().unwrap().len(), 16);
    let bench = ["threads", "bench", "--quick", "--most", "1000", "--json"];
    let bench = json(&world.ask(bench).ok());
    assert_eq!(bench["operations"].as_array().unwrap().len(), 24);
    assert_eq!(bench["memory"].as_array().unwrap().len(), 4);
    assert_eq!(bench["messages"].as_array().unwrap().len(), 64);
    for row in bench["memory"].as_array().unwrap() {
        // Enough memory for a thousand is everywhere that this test runs.
        assert!(
            row["held"]["resident_bytes"].as_f64().unwrap() > 0.0,
            "{row}"
        );
    }
}

#[test]
fn an_experiment_that_is_interrupted_leaves_nothing() {
    let world = World::new();
    let mut actor = world.start(["threads", "bench", "--quick"]);
    let pid = actor.pid();
    until("a process takes part", || !parts_of(&pid).is_empty());
    let parts = parts_of(&pid);
    actor.signal(Signal::INT);
    assert_eq!(actor.end().signal(), Some(Signal::INT.as_raw()));
    for part in parts {
        until("it is gone", || {
            let stat = fs::read_to_string(format!("/proc/{part}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        });
    }
}

/// Processes that a process has started.
fn parts_of(pid: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let children =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let children: String = children.collect();
    children.split_whitespace().map(str::to_owned).collect()
}
