//! Nodes on this machine: [`Cluster`] starts, asks and ends them.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use sterna_migration::Travel;
use sterna_node::NodeId;
use sterna_node::message::{
    Deed, HostingReply, HostingRequest, MoveEnd, MoveReport, ProcessEntry, Remains, Reply, Request,
};
use sterna_process::ProcessId;
use tempfile::TempDir;

use crate::Plan;

/// For a node to answer after its start, and for a program to have begun.
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// By so much the parts of a report may miss their sum: each is cut to whole microseconds.
const ROUNDING_US: u64 = 12;

/// Nodes that belong together. Dropping it ends them and all their processes.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// Dropped last.
    _folder: TempDir,
}

/// One node.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    sterna: PathBuf,
    folder: PathBuf,
    child: Child,
}

impl Cluster {
    /// So many nodes, each with empty caches; the first has the registry, or an etcd of this address.
    pub(crate) fn start(plan: &Plan, count: usize, etcd: Option<&str>) -> Result<Cluster> {
        let registry = etcd.map(|etcd| ["--registry", etcd]);
        let registry = registry.as_ref().map_or(&[][..], <[_; 2]>::as_slice);
        Self::start_so(
            plan,
            count,
            |number| if number == 0 { registry } else { &[] },
        )
    }

    /// Each with options of its own.
    pub(crate) fn start_so<'a>(
        plan: &Plan,
        count: usize,
        options: impl Fn(usize) -> &'a [&'a str],
    ) -> Result<Cluster> {
        let folder = TempDir::new()?;
        let mut cluster = Cluster {
            nodes: Vec::new(),
            _folder: folder,
        };
        for number in 0..count {
            let folder = cluster._folder.path().join(format!("node-{number}"));
            fs::create_dir(&folder)?;
            let name = format!("node-{number}");
            let node = Node::start(&plan.sterna, &folder, &name, options(number))?;
            if let Some(first) = cluster.nodes.first() {
                node.join(first)?;
            }
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    /// Moves a process to the other node of two, and reports; the report adds up.
    pub(crate) fn hop(&self, process: ProcessId, from: usize) -> Result<MoveReport> {
        Ok(self.hop_so(process, from, Travel::default())?.report)
    }

    /// The same, with its memory in a certain way.
    pub(crate) fn hop_so(
        &self,
        process: ProcessId,
        from: usize,
        travel: Travel,
    ) -> Result<MoveEnd> {
        let [source, target] = [&self.nodes[from], &self.nodes[1 - from]];
        let request = HostingRequest::MoveSo {
            process,
            target: target.id,
            travel,
            dry_run: false,
        };
        let HostingReply::Moving {
            source: at,
            attempt,
        } = source.ask(request)?
        else {
            bail!("the node answers another question");
        };
        loop {
            let request = HostingRequest::MoveProgress {
                source: at,
                attempt,
                after: u32::MAX,
            };
            let HostingReply::MoveProgress(progress) = source.ask(request)? else {
                bail!("the node answers another question");
            };
            if let Some(end) = progress.ended {
                let report = &end.report;
                ensure!(report.moved, "it was not moved: it {}", report.outcome);
                add_up(report)?;
                return Ok(*end);
            }
        }
    }
}

/// A part of a report, in microseconds; 0 if it has none of this name.
pub(crate) fn part(report: &MoveReport, name: &str) -> u64 {
    let found = report.parts.iter().find(|(part, _)| part == name);
    found.map_or(0, |(_, us)| *us)
}

fn add_up(report: &MoveReport) -> Result<()> {
    let sum: u64 = report.parts.iter().map(|(_, us)| us).sum();
    ensure!(
        sum.abs_diff(report.total_us) <= ROUNDING_US,
        "the parts of a report are {sum} µs, and all of it {} µs: {:?}",
        report.total_us,
        report.parts
    );
    if let Some(downtime) = report.downtime_us {
        let still = ["capture", "send", "restore", "commit", "resume", "travel"];
        let still: u64 = still.iter().map(|name| part(report, name)).sum();
        ensure!(
            still.abs_diff(downtime) <= ROUNDING_US,
            "it stood still for {downtime} µs, and the parts of that are {still} µs: {:?}",
            report.parts
        );
    }
    Ok(())
}

impl Node {
    fn start(sterna: &Path, folder: &Path, name: &str, options: &[&str]) -> Result<Node> {
        let errors = File::create(folder.join("errors"))?;
        let mut command = command(sterna, folder);
        command
            .args(["node", "start", "--bind", "127.0.0.1:0", "--name", name])
            .args(options)
            .stdout(Stdio::null())
            .stderr(errors);
        let mut child = command.spawn().context("could not start a node")?;
        let until = Instant::now() + READY_WITHIN;
        loop {
            if let Ok(Reply::Status(status)) = sterna_node::ask(&data(folder), &Request::Status) {
                return Ok(Node {
                    id: status.id,
                    sterna: sterna.to_owned(),
                    folder: folder.to_owned(),
                    child,
                });
            }
            if child.try_wait()?.is_some() || Instant::now() > until {
                let said = fs::read_to_string(folder.join("errors")).unwrap_or_default();
                let _ = child.kill();
                let _ = child.wait();
                bail!("a node did not start: {said}");
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn join(&self, first: &Node) -> Result<()> {
        let ticket = first.run(&["node", "invite"])?;
        let mut joining = self.command();
        joining
            .args(["node", "join"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut joining = joining.spawn()?;
        let mut stdin = joining.stdin.take().context("the input is piped")?;
        stdin.write_all(&ticket)?;
        drop(stdin);
        let output = joining.wait_with_output()?;
        ensure!(
            output.status.success(),
            "a node did not join: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// The command, as a user of this node calls it.
    pub(crate) fn command(&self) -> Command {
        command(&self.sterna, &self.folder)
    }

    /// What a command prints.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = self.command().args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "sterna {arguments:?}: {said}");
        Ok(output.stdout)
    }

    /// Starts a process by the command, and gives its id.
    pub(crate) fn start_process(&self, arguments: &[&str]) -> Result<ProcessId> {
        let all = [&["run", "--detach", "--json"][..], arguments].concat();
        let told: serde_json::Value = serde_json::from_slice(&self.run(&all)?)?;
        let id = told["id"].as_str().and_then(|id| id.parse().ok());
        id.with_context(|| format!("no id of a process: {told}"))
    }

    pub(crate) fn data(&self) -> PathBuf {
        data(&self.folder)
    }

    /// Asks about processes.
    pub(crate) fn ask(&self, request: HostingRequest) -> Result<HostingReply> {
        match sterna_node::ask(&self.data(), &Request::Hosting(request))? {
            Reply::Hosting(reply) => Ok(reply),
            _ => Err(anyhow!("the node answers another question")),
        }
    }

    /// What the registry knows of a process.
    pub(crate) fn entry(&self, process: ProcessId) -> Result<ProcessEntry> {
        let text = process.to_string();
        match self.ask(HostingRequest::Find { text })? {
            HostingReply::Found(mut found) if found.entries.len() == 1 => {
                Ok(found.entries.remove(0))
            }
            _ => Err(anyhow!("the process is not found")),
        }
    }

    /// Bytes that a process of this node has written.
    pub(crate) fn output_bytes(&self, process: ProcessId) -> Result<u64> {
        let HostingReply::Held(held) = self.ask(HostingRequest::Held)? else {
            bail!("the node answers another question");
        };
        let found = held.iter().find(|brief| brief.process == process);
        Ok(found.map_or(0, |brief| brief.output_bytes))
    }

    /// Waits until a process has written so many bytes.
    pub(crate) fn wait_for_output(&self, process: ProcessId, bytes: u64) -> Result<()> {
        let until = Instant::now() + READY_WITHIN;
        loop {
            if self.output_bytes(process)? >= bytes {
                return Ok(());
            }
            ensure!(Instant::now() < until, "a program does not say anything");
            thread::sleep(LOOK_EVERY);
        }
    }

    pub(crate) fn kill(&self, process: ProcessId) -> Result<()> {
        let deed = Deed::Kill;
        let request = Request::Hosting(HostingRequest::Steer { process, deed });
        sterna_node::ask(&self.data(), &request)?;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if sterna_node::stop(&self.data(), Remains::Killed).is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn data(folder: &Path) -> PathBuf {
    folder.join("node")
}

fn command(sterna: &Path, folder: &Path) -> Command {
    let mut command = Command::new(sterna);
    command
        .env("STERNA_NODE", data(folder))
        .env("STERNA_DATA_DIR", folder)
        .env("STERNA_RUN_DIR", folder.join("run"))
        .env("STERNA_CACHE_DIR", folder.join("cache"))
        .env("PYTHONHASHSEED", "0")
        .stdin(Stdio::null());
    command
}
