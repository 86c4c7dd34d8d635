//! Where demo and bench play: a directory of its own, and this program's own commands as processes in it, nodes among
//! them.
//!
//! - `server`: a server with clients, which moves between the nodes

mod server;

use std::env;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use sterna_laboratory::Condition;
use sterna_node::message::{Remains, Reply, Request};
use sterna_process::ProcessId;

use crate::host::Signals;
use crate::show::{self, Lines};
pub(super) use server::{KV, Server};

/// Where commands say what is wrong, unless they have a file of their own.
pub(super) const ERRORS: &str = "errors.txt";
/// How often it is looked whether somebody pressed Ctrl-C.
pub(super) const TICK: Duration = Duration::from_millis(20);
/// After so long without a word from a program something is wrong.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// Somebody pressed Ctrl-C.
#[derive(Debug)]
pub(super) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// The directory, and all that is needed to start processes in it. Dropping it ends them and removes the directory.
pub(super) struct Stage {
    directory: PathBuf,
    program: PathBuf,
    interrupted: Arc<AtomicBool>,
    /// In the order of [`NODES`].
    nodes: Vec<Actor>,
}

/// Names of the nodes. The first has the registry.
pub(super) const NODES: [&str; 3] = ["one", "two", "three"];

/// A process whose output is read. Dropping it ends it.
pub(super) struct Actor {
    child: Child,
    output: Receiver<Vec<u8>>,
    /// What it has to say about itself.
    errors: PathBuf,
    interrupted: Arc<AtomicBool>,
}

impl Stage {
    /// Makes the directory and puts files into it; those beneath `work` are in a folder that nodes export.
    pub(super) fn set(files: &[(&str, &[u8])]) -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
        Signals::catch()?.each(move |_| {
            if !flag.swap(true, Ordering::Relaxed) {
                show::note("ends what it has started, and clears up; that can take some seconds");
            }
        })?;
        let name = format!("sterna-stage-{}", ProcessId::random().short());
        let directory = env::temp_dir().join(name);
        let shown = directory.display();
        DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .with_context(|| {
                format!("could not make the directory {shown} (TMPDIR names another place)")
            })?;
        let stage = Self {
            program: env::current_exe().context("could not find this program's own file")?,
            directory,
            interrupted,
            nodes: Vec::new(),
        };
        let written = fs::create_dir(stage.path("work")).and_then(|()| {
            let mut files = files.iter();
            files.try_for_each(|(name, bytes)| fs::write(stage.path(name), bytes))
        });
        written.with_context(|| format!("could not write into {}", stage.directory.display()))?;
        Ok(stage)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// In what state the machine is, as far as figures depend on that.
    pub(super) fn condition(&self) -> Result<Condition> {
        let condition = Condition::now(&self.directory);
        condition.with_context(|| format!("could not write into {}", self.directory.display()))
    }

    /// How many nodes there are.
    fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Where a node keeps what it has.
    pub(super) fn data(&self, number: usize) -> PathBuf {
        self.path(NODES[number])
    }

    /// This program as a user of a node calls it, as if nothing else were on the machine. In a process group of its own, so that Ctrl-C
    /// comes here alone.
    fn sterna(&self, node: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(&self.directory)
            .env("STERNA_RUN_DIR", self.path("run"))
            .env("STERNA_DATA_DIR", self.path("data"))
            .env("STERNA_CACHE_DIR", self.path("cache"))
            .env("STERNA_NODE", self.data(node))
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    /// Compiles a program, for moves too.
    pub(super) fn compile(&self, program: &str) -> Result<()> {
        let arguments = ["programs", "add", "--moves", "--json", program];
        // On a terminal it shows how it gets on.
        if io::stderr().is_terminal() {
            let mut command = self.sterna(0, &arguments);
            let mut actor = self.begin(command.stderr(Stdio::inherit()), ERRORS)?;
            actor.read_to_end(&mut Vec::new())?;
            return actor.ended_with(0);
        }
        self.ask(0, &arguments).map(drop)
    }

    /// Starts so many nodes, which become one cluster.
    pub(super) fn raise_nodes(&mut self, count: usize) -> Result<()> {
        for number in 0..count.min(NODES.len()) {
            let node = self.start_node(number)?;
            self.nodes.push(node);
            if number > 0 {
                let ticket = format!("ticket-{number}");
                self.ask(0, &["node", "invite", "-o", &ticket])?;
                self.ask(number, &["node", "join", &ticket])?;
            }
        }
        Ok(())
    }

    /// Starts a node, and waits until it answers.
    fn start_node(&self, number: usize) -> Result<Actor> {
        let name = NODES[number];
        let export = format!("work={}", self.path("work").display());
        let arguments = [
            "node",
            "start",
            "--bind",
            "127.0.0.1:0",
            "--name",
            name,
            "--export",
            &export,
        ];
        let mut node = self.start(number, &arguments, &format!("{name}.log"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(Reply::Status(_)) = sterna_node::ask(&self.data(number), &Request::Status) {
                return Ok(node);
            }
            if let Some(status) = node.child.try_wait()? {
                bail!("the node {name} ended with {status}: {}", node.said());
            }
            self.check()?;
            if Instant::now() > deadline {
                bail!("the node {name} did not start within {PATIENCE:?}");
            }
            thread::sleep(TICK);
        }
    }

    /// Kills a node with all its processes, as nothing can be prevented from doing.
    pub(super) fn kill_node(&mut self, number: usize) -> Result<()> {
        end_runner(&self.data(number));
        let node = &mut self.nodes[number];
        node.child.kill().context("could not kill a node")?;
        node.child.wait().context("could not wait for a node")?;
        Ok(())
    }

    /// Starts a node again where it was.
    pub(super) fn raise_node(&mut self, number: usize) -> Result<()> {
        self.nodes[number] = self.start_node(number)?;
        Ok(())
    }

    /// Starts a command; what it has to say goes into a file of this name.
    pub(super) fn start(&self, node: usize, arguments: &[&str], errors: &str) -> Result<Actor> {
        let said = File::create(self.path(errors))?;
        self.begin(self.sterna(node, arguments).stderr(said), errors)
    }

    fn begin(&self, command: &mut Command, errors: &str) -> Result<Actor> {
        self.check()?;
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", self.program.display()))?;
        let output = child.stdout.take().context("the output is piped")?;
        Ok(Actor {
            child,
            output: read(output)?,
            errors: self.path(errors),
            interrupted: Arc::clone(&self.interrupted),
        })
    }

    /// What a command prints.
    pub(super) fn ask(&self, node: usize, arguments: &[&str]) -> Result<Vec<u8>> {
        let mut actor = self.start(node, arguments, ERRORS)?;
        let mut output = Vec::new();
        actor.read_to_end(&mut output)?;
        actor.ended_with(0)?;
        Ok(output)
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.interrupted.load(Ordering::Relaxed) {
            true => Err(Interrupted.into()),
            false => Ok(()),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for number in 0..self.nodes.len() {
            let data = self.data(number);
            let stopped = sterna_node::stop(&data, Remains::Killed);
            if stopped.is_err() {
                // Its service is gone, and its runner waits for the next one.
                end_runner(&data);
            }
        }
        self.nodes.clear();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Ends the runner of a node that has no service any more: whoever listens on its socket.
fn end_runner(data: &Path) {
    let listening = UnixStream::connect(data.join("hosting/runner.sock"));
    let peer = listening.and_then(|stream| Ok(rustix::net::sockopt::socket_peercred(&stream)?));
    if let Ok(peer) = peer {
        let _ = kill_process(peer.pid, Signal::KILL);
    }
}

/// Reads on a thread, so that waiting for output can be broken off.
fn read(mut output: ChildStdout) -> Result<Receiver<Vec<u8>>> {
    let (pieces, received) = mpsc::channel();
    let read = move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(got @ 1..) = output.read(&mut buffer) {
            if pieces.send(buffer[..got].to_vec()).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("output".into()).spawn(read)?;
    Ok(received)
}

impl Actor {
    /// Reads until there are so many lines.
    pub(super) fn read_lines(&mut self, output: &mut Vec<u8>, lines: usize) -> Result<()> {
        while count_lines(output) < lines {
            if !self.read_piece(output)? {
                bail!("its output ended too early: {}", self.said());
            }
        }
        Ok(())
    }

    pub(super) fn read_to_end(&mut self, output: &mut Vec<u8>) -> Result<()> {
        while self.read_piece(output)? {}
        Ok(())
    }

    /// Reads what comes next; `false` at the end.
    fn read_piece(&mut self, output: &mut Vec<u8>) -> Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.output.recv_timeout(TICK) {
                Ok(piece) => {
                    output.extend_from_slice(&piece);
                    return Ok(true);
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
                Err(RecvTimeoutError::Timeout) if self.interrupted.load(Ordering::Relaxed) => {
                    return Err(Interrupted.into());
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    bail!(
                        "the program has not said anything for {PATIENCE:?}: {}",
                        self.said()
                    );
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    pub(super) fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().context("could not wait for a process")
    }

    /// Waits for its end, which must be this one.
    pub(super) fn ended_with(&mut self, code: u8) -> Result<()> {
        let status = self.wait()?;
        match status.code() == Some(code.into()) {
            true => Ok(()),
            false => bail!(
                "a process ended with {status} and not with {code}: {}",
                self.said()
            ),
        }
    }

    /// What it wrote to standard error.
    pub(super) fn said(&self) -> String {
        Lines(&read_text(&self.errors)).to_string()
    }
}

pub(super) fn count_lines(output: &[u8]) -> usize {
    output.iter().filter(|&&byte| byte == b'\n').count()
}

/// What a command of ours printed as JSON.
pub(super) fn parsed<T: serde::de::DeserializeOwned>(json: &[u8], what: &str) -> Result<T> {
    if json.is_empty() {
        bail!("`sterna {what}` printed nothing");
    }
    serde_json::from_slice(json)
        .with_context(|| format!("`sterna {what}` printed what is not understood"))
}

fn read_text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

impl Drop for Actor {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // So that a builder that it has started ends, too.
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
            let _ = kill_process(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
