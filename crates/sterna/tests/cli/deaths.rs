//! Freeze and thaw, with a kill -9 at each step of them: of the command, of the node's service, of its runner.
//!
//! Afterwards the process runs, or its file goes on as the same process, once; never both and never neither, unless its
//! runner itself was killed, which is reported. Steps are held by stopping who would take the next one (`SIGSTOP`), so
//! nothing in the program knows of these tests.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::{Node, two};
use crate::world::{Actor, World, guest, until};

/// It counts, one a line, with so much memory that writing it takes a while.
const PROGRAM: &str = "local all = {} for i=1,48 do all[i] = string.rep(tostring(i % 10), 1048576) end \
    local i = 0 while true do i = i + 1 for j=1,300000 do end print(i) end";
/// Less than its memory.
const SOME_BYTES: u64 = 8 << 20;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Command,
    Service,
    Runner,
}

/// The runner last: it outlives its service, and the process does not outlive it.
const VICTIMS: [Victim; 3] = [Victim::Command, Victim::Service, Victim::Runner];

/// Where a freeze is when somebody is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    /// The node has not heard of it yet.
    Asked,
    /// A part of the pages is in a file that has not its name yet.
    HalfWritten,
    /// The file is safe, under its name; the registry does not know.
    Synced,
    /// The registry knows; the command does not.
    Told,
}

/// A cluster whose registry is at `one`, and whose process is at `other`.
struct Stage {
    world: World,
    one: Node,
    other: Node,
    /// Of `other`.
    runner: Pid,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let [one, other] = two(&world);
        let runner = other.runner().unwrap();
        let stage = Self {
            world,
            one,
            other,
            runner,
        };
        stage.run();
        stage
    }

    fn run(&self) {
        let lua = guest("lua");
        let words = ["run", "--detach", "--name", "lua", &lua, "-e", PROGRAM];
        let words = [&words[..2], &["--node", &self.other.data], &words[2..]].concat();
        self.world.ask(words).ok();
        self.goes_on();
    }

    fn file(&self) -> PathBuf {
        self.world.path("frozen/lua.sterna")
    }

    /// A fresh folder, so that what is in it is of this freeze.
    fn clear(&self) {
        let _ = fs::remove_dir_all(self.world.path("frozen"));
        fs::create_dir(self.world.path("frozen")).unwrap();
    }

    fn command(&self, words: &[&str]) -> Actor {
        let mut command = self.world.command(words);
        command
            .args(["--node", &self.other.data])
            .stdin(Stdio::null());
        Actor::start(command)
    }

    fn freezing(&self) -> Actor {
        self.clear();
        self.command(&[
            "freeze",
            "lua",
            "--thin",
            "-o",
            self.file().to_str().unwrap(),
        ])
    }

    /// What the registry says: `running`, `frozen`, `lost`.
    fn state(&self) -> String {
        let listed = self.one.ok(&self.world, &["ps", "-a", "--json"]);
        let rows: Value = serde_json::from_str(&listed).unwrap();
        let rows = rows.as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == "lua");
        row.map_or_else(String::new, |row| row["state"].as_str().unwrap().to_owned())
    }

    fn id(&self) -> String {
        let listed = self.one.ok(&self.world, &["ps", "-a", "--json"]);
        let rows: Value = serde_json::from_str(&listed).unwrap();
        let rows = rows.as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == "lua").unwrap();
        row["id"].as_str().unwrap().to_owned()
    }

    fn lines(&self) -> Vec<u64> {
        let log = self.one.ok(&self.world, &["logs", "lua"]);
        log.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// That it runs, and that what it has done until now was done once.
    fn goes_on(&self) {
        let before = self
            .world
            .command(["logs", "lua", "--node", &self.one.data])
            .output();
        let before = before
            .unwrap()
            .stdout
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        until("more output", || self.lines().len() > before + 1);
        let lines = self.lines();
        assert!(
            lines.iter().copied().eq(1..=lines.len() as u64),
            "{lines:?}"
        );
    }

    /// Kills somebody, lets the others go on, and starts the service again if it is gone.
    fn kill(&mut self, victim: Victim, command: &mut Actor) {
        let runner = self.runner;
        let service = pid(&self.other.actor);
        let cli = pid(command);
        match victim {
            Victim::Command => kill(cli, Signal::KILL),
            Victim::Service => kill(service, Signal::KILL),
            Victim::Runner => kill(runner, Signal::KILL),
        }
        for other in [cli, service, runner, pid(&self.one.actor)] {
            kill(other, Signal::CONT);
        }
        command.end();
        if victim == Victim::Service {
            self.other.actor.end();
            self.other.start_again(&self.world);
        }
        // One that had no process did not outlive its service.
        if !is_runner(self.runner) {
            until("another runner", || self.other.runner().is_some());
            self.runner = self.other.runner().unwrap();
        }
    }

    /// What must be true after every death. Gives what was found; then it runs again.
    fn check(&self, victim: Victim) -> String {
        let id = self.id();
        let file = self.file();
        until("it is settled", || {
            let state = self.state();
            state == "running" && self.is_held()
                || state.contains("frozen")
                || state.contains("lost")
        });
        let state = self.state();
        if state == "running" {
            self.goes_on();
        }
        if file.exists() {
            let thawed = self.thawed(&file);
            let is_same = id.starts_with(thawed.trim());
            assert_eq!(
                is_same,
                state.contains("frozen"),
                "{state}, thawed as {thawed}"
            );
            if !is_same {
                self.other.ok(&self.world, &["kill", thawed.trim()]);
            }
        } else {
            assert!(!state.contains("frozen"), "{state}, and there is no file");
        }
        if state.contains("lost") {
            assert_eq!(victim, Victim::Runner, "lost, though its runner lives");
            self.other.ok(&self.world, &["rm", &id]);
            self.run();
        }
        self.goes_on();
        state
    }

    /// Thaws the file; if its node's runner has just died, as soon as there is another one.
    fn thawed(&self, file: &Path) -> String {
        let thaw = ["thaw", "--detach", file.to_str().unwrap()];
        let thaw = [&thaw[..], &["--node", &self.other.data]].concat();
        let thawed = RefCell::new(String::new());
        until("a runner", || {
            let answer = self.world.ask(&thaw);
            if !answer.0.status.success() {
                answer.fails(1, &["runner"]);
                return false;
            }
            *thawed.borrow_mut() = answer.out();
            true
        });
        thawed.into_inner()
    }

    /// Whether its node has it, and it is with nobody else.
    fn is_held(&self) -> bool {
        let listed = self.other.ok(&self.world, &["ps", "--json"]);
        let rows: Value = serde_json::from_str(&listed).unwrap();
        let rows = rows.as_array().unwrap();
        rows.iter()
            .any(|row| row["name"] == "lua" && row["state"] == "running")
    }

    fn end(self) {
        self.other.stop(&self.world);
        self.one.stop(&self.world);
    }
}

fn is_runner(process: Pid) -> bool {
    let line = fs::read_to_string(format!("/proc/{process}/cmdline"));
    line.is_ok_and(|line| line.contains("__runner"))
}

fn pid(actor: &Actor) -> Pid {
    Pid::from_raw(actor.child.id().try_into().unwrap()).unwrap()
}

/// Tells somebody who may be gone.
fn kill(who: Pid, signal: Signal) {
    let _ = kill_process(who, signal);
}

/// Bytes in the file that has not its name yet.
fn partial(stage: &Stage) -> u64 {
    let entries = fs::read_dir(stage.world.path("frozen")).unwrap();
    let partial = entries
        .flatten()
        .find(|entry| entry.file_name() != "lua.sterna");
    partial
        .and_then(|entry| entry.metadata().ok())
        .map_or(0, |data| data.len())
}

/// Freezes it, and brings that to a step.
fn freeze_to(stage: &Stage, step: Step) -> Actor {
    let service = pid(&stage.other.actor);
    if step == Step::Asked {
        kill(service, Signal::STOP);
        return stage.freezing();
    }
    let command = stage.freezing();
    until("some pages", || partial(stage) >= SOME_BYTES);
    if step == Step::HalfWritten {
        kill(pid(&command), Signal::STOP);
        assert!(!stage.file().exists(), "it was too fast to be stopped");
        return command;
    }
    // Pages go past the service.
    kill(service, Signal::STOP);
    until("the file", || stage.file().exists());
    if step == Step::Told {
        // It will not say that it has let go of the process, so nothing is answered.
        kill(stage.runner, Signal::STOP);
        kill(service, Signal::CONT);
        until("the registry knows", || stage.state().contains("frozen"));
    }
    command
}

fn deaths_while_freezing(step: Step, expected: impl Fn(Victim, &str) -> bool) {
    let mut stage = Stage::new();
    for victim in VICTIMS {
        let mut command = freeze_to(&stage, step);
        stage.kill(victim, &mut command);
        let state = stage.check(victim);
        assert!(expected(victim, &state), "{victim:?} at {step:?}: {state}");
    }
    stage.end();
}

#[test]
fn killed_before_the_node_heard_of_a_freeze() {
    deaths_while_freezing(Step::Asked, |victim, state| match victim {
        // What it had said is carried out to no end.
        Victim::Command | Victim::Service => state == "running",
        Victim::Runner => state.contains("lost"),
    });
}

#[test]
fn killed_while_half_of_the_pages_are_written() {
    deaths_while_freezing(Step::HalfWritten, |victim, state| match victim {
        Victim::Command | Victim::Service => state == "running",
        Victim::Runner => state.contains("lost"),
    });
}

#[test]
fn killed_when_the_file_is_safe_and_nobody_knows() {
    deaths_while_freezing(Step::Synced, |victim, state| match victim {
        // The seal may have been said just before.
        Victim::Command => state == "running" || state.contains("frozen"),
        Victim::Service => state == "running",
        // Whichever is written down first.
        Victim::Runner => state.contains("lost") || state.contains("frozen"),
    });
}

#[test]
fn killed_when_the_registry_knows_and_the_command_does_not() {
    deaths_while_freezing(Step::Told, |_, state| state.contains("frozen"));
}

/// Where a thaw is when somebody is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ThawStep {
    /// The node has not heard of it yet.
    Asked,
    /// A part of the pages is with the runner.
    HalfRead,
    /// The runner has it all; the registry is being told, and the command is not.
    Committing,
}

/// Bytes that a command has written, to whatever.
fn written(command: &Actor) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", command.pid())).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.map_or(0, |bytes| bytes.parse().unwrap())
}

/// How many files of a process's output there are in which something is written: one begins when the runner has it whole.
fn begun(folder: &Path, process: &str) -> usize {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let begun = files.filter(|file| {
        let is_own = file.file_name().to_string_lossy().starts_with(process);
        is_own && file.metadata().is_ok_and(|data| data.len() > 0)
    });
    begun.count()
}

/// Freezes it, thaws it, and brings that to a step.
fn thaw_to(stage: &Stage, step: ThawStep) -> Actor {
    stage.freezing().ended(0);
    let file = stage.file();
    let thaw = ["thaw", "--detach", file.to_str().unwrap()];
    if step == ThawStep::Asked {
        kill(pid(&stage.other.actor), Signal::STOP);
        return stage.command(&thaw);
    }
    let (folder, process) = (stage.world.path("two/hosting/logs"), stage.id());
    let begun = || begun(&folder, &process);
    let before = begun();
    let command = stage.command(&thaw);
    until("some pages", || written(&command) >= SOME_BYTES);
    kill(pid(&command), Signal::STOP);
    assert_eq!(begun(), before, "it was too fast to be stopped");
    if step == ThawStep::Committing {
        // Who would write down whose it is does not answer.
        kill(pid(&stage.one.actor), Signal::STOP);
        kill(pid(&command), Signal::CONT);
        until("the runner has it", || begun() > before);
    }
    command
}

fn deaths_while_thawing(step: ThawStep, expected: impl Fn(Victim, &str) -> bool) {
    let mut stage = Stage::new();
    for victim in VICTIMS {
        let mut command = thaw_to(&stage, step);
        stage.kill(victim, &mut command);
        let state = stage.check(victim);
        assert!(expected(victim, &state), "{victim:?} at {step:?}: {state}");
    }
    stage.end();
}

#[test]
fn killed_before_the_node_heard_of_a_thaw() {
    deaths_while_thawing(ThawStep::Asked, |victim, state| match victim {
        Victim::Command | Victim::Service => state.contains("frozen"),
        // The thaw goes on, at the next runner if that comes soon enough.
        Victim::Runner => state == "running" || state.contains("frozen"),
    });
}

#[test]
fn killed_while_half_of_the_pages_are_read() {
    deaths_while_thawing(ThawStep::HalfRead, |_, state| state.contains("frozen"));
}

#[test]
fn killed_while_the_registry_is_told_of_a_thaw() {
    deaths_while_thawing(ThawStep::Committing, |victim, state| match victim {
        // It has done its part.
        Victim::Command => state == "running",
        // Whether the registry had heard of it.
        Victim::Service => state == "running" || state.contains("frozen"),
        Victim::Runner => state.contains("lost") || state.contains("frozen"),
    });
}
