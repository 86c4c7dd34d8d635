//! The demo, help and completions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::cluster::start_with;
use crate::world::{Actor, Answer, World, guest};

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
    let accident = &outcome["accident"];
    let mut at = "one";
    for hop in hops {
        assert_eq!(hop["from"], at, "{hop}");
        assert_ne!(hop["from"], hop["to"], "{hop}");
        at = match hop["number"] == accident["hop"] {
            true => accident["recovered_on"].as_str().unwrap(),
            false => hop["to"].as_str().unwrap(),
        };
    }
    let lines = |name: &str| accident[name].as_u64().unwrap();
    assert!(
        lines("lines_of_snapshot") < lines("lines_before"),
        "{accident}"
    );
    assert_ne!(accident["node"], accident["recovered_on"]);
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
    demo.err.wait_for("clears up");
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

/// What bash offers after some words, by the script that it is given.
fn offered(world: &World, words: &[&str], node: &str) -> Vec<String> {
    let script = world.ask(["completions", "bash"]).ok();
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let program = format!(
        "{script}\nCOMP_WORDS=({}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); COMP_TYPE=9; \
         words=(\"${{COMP_WORDS[@]}}\") cword=$COMP_CWORD; \
         function_name=$(complete -p sterna | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
         $function_name sterna \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" ")
    );
    let binary = Path::new(env!("CARGO_BIN_EXE_sterna")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", &program])
        .env("PATH", path)
        .env("STERNA_DATA_DIR", world.path("own"))
        .env("STERNA_NODE", node);
    let output = Answer(bash.output().unwrap()).ok();
    output.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn shells_complete_commands_processes_and_nodes() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.ask(["completions", shell]).ok();
        assert!(script.contains("STERNA_COMPLETE"), "{shell}: {script}");
    }
    let node = start_with(&world, "lab-1", &[]);
    assert_eq!(offered(&world, &["sterna", "fre"], &node.data), ["freeze"]);
    let loops = ["-e", "while true do end"];
    for name in ["server", "worker"] {
        let words = ["run", "--detach", "--name", name, &guest("lua")];
        node_ok(&world, &node.data, &[&words[..], &loops].concat());
    }
    let mut all = offered(&world, &["sterna", "move", ""], &node.data);
    all.retain(|word| !word.starts_with('-'));
    all.sort();
    assert_eq!(all, ["server", "worker"]);
    let one = offered(&world, &["sterna", "freeze", "w"], &node.data);
    assert_eq!(one, ["worker"]);
    let to = offered(&world, &["sterna", "move", "server", "l"], &node.data);
    assert_eq!(to, ["lab-1"]);
    // Where no node runs, there is nothing to offer and nothing to say.
    let nowhere = world.path("nowhere");
    let none = offered(
        &world,
        &["sterna", "freeze", "w"],
        nowhere.to_str().unwrap(),
    );
    assert!(none.is_empty(), "{none:?}");
    node.stop(&world);
}

fn node_ok(world: &World, data: &str, words: &[&str]) {
    let (run, rest) = words.split_at(1);
    world.ask([run, &["--node", data], rest].concat()).ok();
}
