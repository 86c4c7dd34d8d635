//! The program whose story is told, and what is done to it.

use std::fs;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sterna_node::message::{HostingReply, HostingRequest, Reply, Request};
use sterna_process::{FrameDescription, ProcessId};

use crate::command::stage::{Actor, ERRORS, NODES, PATIENCE, Stage, TICK, parsed};
use crate::show::Lines;

/// The interpreter.
pub(super) const LUA: &[u8] = include_bytes!("../../../../../guests/wasm/lua.wasm");
pub(super) const STORY: &str = include_str!("story.lua");

/// Tries of one move.
const MOVES_MAX: u32 = 3;
/// How `sterna move` ends if the process stayed and trying again can help.
const STAYED: i32 = 3;

/// What `sterna move --json` says.
#[derive(serde::Deserialize)]
pub(super) struct Moved {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) image_bytes: u64,
    pub(super) pages: u64,
    pub(super) downtime_us: Option<u64>,
    pub(super) total_us: u64,
}

/// What a process on the nodes may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Property {
    /// A directory, which all nodes export.
    Directory,
    /// Nothing: this machine cannot confine a process to directories.
    Nothing,
}

impl Stage {
    /// Keeps a process as it is now on a node.
    pub(super) fn snapshot(&self, name: &str, on: usize) -> Result<()> {
        let arguments = ["snapshot", name, "--once", "--to", NODES[on]];
        self.ask(0, &arguments).map(drop)
    }

    /// Goes on with a lost process on a node, as soon as it is known that it is lost. How much of its output there was.
    pub(super) fn recover(&self, name: &str, on: usize) -> Result<usize> {
        #[derive(serde::Deserialize)]
        struct Recovered {
            output_bytes: usize,
        }
        let arguments = ["recover", name, "--on", NODES[on], "--json"];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut actor = self.start(0, &arguments, ERRORS)?;
            let mut output = Vec::new();
            actor.read_to_end(&mut output)?;
            if actor.wait()?.success() {
                return Ok(parsed::<Recovered>(&output, "recover")?.output_bytes);
            }
            if Instant::now() > deadline {
                bail!("the process was not recovered: {}", actor.said());
            }
            thread::sleep(TICK);
        }
    }

    /// Waits until a process writes more.
    pub(super) fn wait_for_growth(&self, number: usize, process: ProcessId) -> Result<()> {
        let logs = self.data(number).join("hosting/logs");
        let own = format!("{process}.");
        let bytes = || -> u64 {
            let files = fs::read_dir(&logs).into_iter().flatten().flatten();
            files
                .filter(|file| file.file_name().to_string_lossy().starts_with(&own))
                .filter_map(|file| Some(file.metadata().ok()?.len()))
                .sum()
        };
        let (before, deadline) = (bytes(), Instant::now() + PATIENCE);
        while bytes() == before {
            self.check()?;
            if Instant::now() > deadline {
                bail!("the process has not written anything for {PATIENCE:?}");
            }
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Starts the script on the first node.
    pub(super) fn run(&self, name: &str, property: Property) -> Result<ProcessId> {
        #[derive(serde::Deserialize)]
        struct Started {
            id: ProcessId,
        }
        let run = ["run", "--detach", "--json", "--name", name];
        let rest: &[&str] = match property {
            Property::Directory => &["--dir", "work::/work:shared", "lua.wasm", "/work/story.lua"],
            Property::Nothing => &["lua.wasm", "-e", STORY],
        };
        let json = self.ask(0, &[&run[..], rest].concat())?;
        Ok(parsed::<Started>(&json, "run")?.id)
    }

    /// Follows what a process writes, wherever it is.
    pub(super) fn follow(&self, name: &str) -> Result<Actor> {
        self.start(0, &["logs", "--follow", name], "logs.txt")
    }

    /// What a process has written until now.
    pub(super) fn written(&self, name: &str) -> Result<Vec<u8>> {
        self.ask(0, &["logs", name])
    }

    /// Moves a process. If it stays, and trying again can help, it is tried again.
    pub(super) fn hop(&self, name: &str, target: usize) -> Result<Moved> {
        let arguments = ["move", name, NODES[target], "--json"];
        let mut outcome = String::new();
        for _ in 0..MOVES_MAX {
            let mut actor = self.start(0, &arguments, ERRORS)?;
            let mut output = Vec::new();
            actor.read_to_end(&mut output)?;
            let code = actor.wait()?.code();
            if code == Some(0) {
                return parsed(&output, "move");
            }
            outcome = format!(
                "{}{}",
                actor.said(),
                Lines(&String::from_utf8_lossy(&output))
            );
            if code != Some(STAYED) {
                break;
            }
        }
        bail!("the process was not moved: {outcome}")
    }

    /// The calls that a process is in, innermost first; none if it does not say.
    pub(super) fn frames(&self, process: ProcessId) -> Vec<FrameDescription> {
        let request = Request::Hosting(HostingRequest::Describe { process });
        match sterna_node::ask(&self.data(0), &request) {
            Ok(Reply::Hosting(HostingReply::Described(described))) => described.frames,
            _ => Vec::new(),
        }
    }

    /// The file that the script wrote, which is removed for the next run.
    pub(super) fn take_log(&self, property: Property) -> Result<Vec<u8>> {
        if property == Property::Nothing {
            return Ok(Vec::new());
        }
        let path = self.path("work/log.txt");
        let log = fs::read(&path).context("the script has written no log")?;
        fs::remove_file(path)?;
        Ok(log)
    }
}
