//! The demo, help and completions.

use std::fs;

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
    let pids: std::collections::HashSet<String> =
        hops.iter().map(|hop| hop["to_pid"].to_string()).collect();
    assert_eq!(pids.len(), 10, "each in a process of its own");
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
}

#[test]
fn an_interrupted_demo_cleans_up() {
    let world = World::new();
    let scratch = world.path("scratch");
    fs::create_dir(&scratch).unwrap();
    let mut command = world.command(["demo"]);
    command.env("TMPDIR", &scratch);
    let mut demo = Actor::start(command);
    demo.out.wait_for("Lua");
    demo.signal(Signal::INT);
    demo.ended(130);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
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
    let help = world.ask(["--help"]).ok();
    assert!(!help.contains("__builder"));
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
