//! The demo, help and completions.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use crate::world::{Actor, World};

#[test]
fn the_demo_moves_a_program_ten_times_and_nothing_is_lost() {
    let world = World::new();
    let scratch = world.path("scratch");
    fs::create_dir(&scratch).unwrap();
    let mut command = world.command(["demo", "--hops", "10", "--json"]);
    command.env("TMPDIR", &scratch);
    let mut demo = Actor::start(command);
    let outcome: Value = serde_json::from_str(&demo.ended(0)).unwrap();
    assert_eq!(outcome["identical"], true);
    let hops = outcome["hops"].as_array().unwrap();
    assert_eq!(hops.len(), 10);
    let mut at = "one";
    for hop in hops {
        assert_eq!(hop["from"], at, "{hop}");
        assert_ne!(hop["from"], hop["to"], "{hop}");
        at = hop["to"].as_str().unwrap();
    }
    let accident = &outcome["accident"];
    let lines = |name: &str| accident[name].as_u64().unwrap();
    assert!(lines("lines_before") < lines("lines_after"), "{accident}");
    assert_ne!(accident["node"], "one");
    nothing_is_left(&scratch);
}

#[test]
fn an_interrupted_demo_cleans_up() {
    let world = World::new();
    let scratch = world.path("scratch");
    fs::create_dir(&scratch).unwrap();
    let mut command = world.command(["demo"]);
    command.env("TMPDIR", &scratch);
    let mut demo = Actor::start(command);
    // Once while there is nothing but a builder, would be luck; now there are nodes.
    demo.out.wait_for("become a cluster");
    demo.signal(Signal::INT);
    demo.ended(130);
    nothing_is_left(&scratch);
}

/// Neither files nor processes: each process of the demo has the directory in its environment or its arguments.
fn nothing_is_left(scratch: &Path) {
    assert_eq!(fs::read_dir(scratch).unwrap().count(), 0);
    let mark = scratch.to_str().unwrap().as_bytes();
    let has_mark = |path: PathBuf| {
        let bytes = fs::read(path).unwrap_or_default();
        bytes.windows(mark.len()).any(|window| window == mark)
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let left: Vec<PathBuf> = processes
        .map(|entry| entry.path())
        .filter(|path| has_mark(path.join("cmdline")) || has_mark(path.join("environ")))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn every_command_has_help_with_examples() {
    let world = World::new();
    for command in [
        "run",
        "ps",
        "freeze",
        "thaw",
        "pause",
        "resume",
        "kill",
        "inspect",
        "programs",
        "serve",
        "demo",
        "completions",
    ] {
        let help = world.ask([command, "--help"]).ok();
        assert!(help.contains("Example"), "{command}: {help}");
        assert!(help.contains(&format!("sterna {command}")), "{command}");
    }
    for experiment in ["bench", "cache", "tlp", "stall"] {
        let help = world.ask(["threads", experiment, "--help"]).ok();
        assert!(help.contains(&format!("sterna threads {experiment}")));
    }
    let help = world.ask(["--help"]).ok();
    assert!(!help.contains("__builder") && !help.contains("__laboratory"));
}

#[test]
fn shells_can_complete() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.ask(["completions", shell]).ok();
        assert!(
            script.contains("freeze") && script.contains("--keep") || script.contains("keep"),
            "{shell}"
        );
    }
}
