//! Where the demo plays: a directory of its own, and this program's own commands as processes in it.

use std::env;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::DirBuilderExt;
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
use sterna_process::{FrameDescription, ProcessId};

use super::parsed;
use crate::host::Signals;
use crate::protocol::{FreezeReport, ThawReport};
use crate::show::Lines;

/// The interpreter.
pub(super) const LUA: &[u8] = include_bytes!("../../../../../guests/wasm/lua.wasm");
const STORY: &str = include_str!("story.lua");

/// How often it is looked whether somebody pressed Ctrl-C.
const TICK: Duration = Duration::from_millis(20);
/// After so long without a word from a program something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody pressed Ctrl-C.
#[derive(Debug)]
pub(super) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// The directory, and all that is needed to start processes in it. Dropping it removes the directory.
pub(super) struct Stage {
    directory: PathBuf,
    program: PathBuf,
    interrupted: Arc<AtomicBool>,
}

/// A process whose output is read. Dropping it ends it.
pub(super) struct Actor {
    child: Child,
    output: Receiver<Vec<u8>>,
    /// What it has to say about itself.
    errors: PathBuf,
    interrupted: Arc<AtomicBool>,
}

impl Stage {
    /// Makes the directory and puts interpreter and script into it.
    pub(super) fn set() -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
        Signals::catch()?.each(move |_| flag.store(true, Ordering::Relaxed))?;
        let name = format!("sterna-demo-{}", ProcessId::random().short());
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
        };
        let written = fs::create_dir(stage.path("work"))
            .and_then(|()| fs::write(stage.path("lua.wasm"), LUA))
            .and_then(|()| fs::write(stage.path("work/story.lua"), STORY));
        written.with_context(|| format!("could not write into {}", stage.directory.display()))?;
        Ok(stage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// This program, as if it were the only one on the machine. In a process group of its own, so that Ctrl-C
    /// comes here alone.
    fn sterna(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(&self.directory)
            .env("STERNA_RUN_DIR", self.path("run"))
            .env("STERNA_DATA_DIR", self.path("data"))
            .env("STERNA_CACHE_DIR", self.path("cache"))
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    /// Compiles the interpreter, for moves too.
    pub(super) fn compile(&self) -> Result<()> {
        // On a terminal it shows how it gets on.
        let errors = match io::stderr().is_terminal() {
            true => Stdio::inherit(),
            false => self.errors()?,
        };
        let arguments = ["programs", "add", "--moves", "--json", "lua.wasm"];
        let mut actor = self.start(&arguments, errors)?;
        actor.read_to_end(&mut Vec::new())?;
        actor.ended_with(0)
    }

    /// Starts the script.
    pub(super) fn run(&self) -> Result<Actor> {
        self.start(
            &["run", "--dir", "work::/work", "lua.wasm", "/work/story.lua"],
            self.errors()?,
        )
    }

    /// Freezes it.
    pub(super) fn freeze(&self, actor: &Actor) -> Result<FreezeReport> {
        let pid = actor.pid().to_string();
        let json = self.ask(&["freeze", &pid, "-o", "lua.sterna", "--json"])?;
        parsed(&json, "freeze")
    }

    /// The calls that the frozen process is in.
    pub(super) fn frames(&self) -> Result<Vec<FrameDescription>> {
        #[derive(serde::Deserialize)]
        struct Inspected {
            description: Described,
        }
        #[derive(serde::Deserialize)]
        struct Described {
            frames: Vec<FrameDescription>,
        }
        let json = self.ask(&["inspect", "./lua.sterna", "--json"])?;
        Ok(parsed::<Inspected>(&json, "inspect")?.description.frames)
    }

    /// Lets it go on; waits until it runs.
    pub(super) fn thaw(&self) -> Result<(Actor, ThawReport)> {
        let report = self.path("thaw.json");
        let _ = fs::remove_file(&report);
        let mut actor = self.start(
            &["thaw", "--report", "thaw.json", "lua.sterna"],
            self.errors()?,
        )?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(json) = fs::read(&report)
                && let Ok(report) = serde_json::from_slice(&json)
            {
                return Ok((actor, report));
            }
            if let Some(status) = actor.child.try_wait()? {
                bail!("`sterna thaw` ended with {status}: {}", actor.said());
            }
            self.check()?;
            if Instant::now() > deadline {
                bail!("`sterna thaw` did not come so far within {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The file that the script wrote, which is removed for the next run.
    pub(super) fn take_log(&self) -> Result<Vec<u8>> {
        let path = self.path("work/log.txt");
        let log = fs::read(&path).context("the script has written no log")?;
        fs::remove_file(path)?;
        Ok(log)
    }

    /// Where the next process says what is wrong.
    fn errors(&self) -> Result<Stdio> {
        Ok(File::create(self.path("errors.txt"))?.into())
    }

    fn start(&self, arguments: &[&str], errors: Stdio) -> Result<Actor> {
        self.check()?;
        let mut child = self
            .sterna(arguments)
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("could not start {}", self.program.display()))?;
        let output = child.stdout.take().context("the output is piped")?;
        Ok(Actor {
            child,
            output: read(output)?,
            errors: self.path("errors.txt"),
            interrupted: Arc::clone(&self.interrupted),
        })
    }

    /// What a command prints.
    fn ask(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let mut actor = self.start(arguments, self.errors()?)?;
        let mut output = Vec::new();
        actor.read_to_end(&mut output)?;
        actor.ended_with(0)?;
        Ok(output)
    }

    fn check(&self) -> Result<()> {
        match self.interrupted.load(Ordering::Relaxed) {
            true => Err(Interrupted.into()),
            false => Ok(()),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
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
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads until there are so many lines.
    pub(super) fn read_lines(&mut self, output: &mut Vec<u8>, lines: usize) -> Result<()> {
        while super::count_lines(output) < lines {
            if !self.read_piece(output)? {
                bail!("the program ended before it was moved: {}", self.said());
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

    /// Waits for its end, which must be this one.
    pub(super) fn ended_with(&mut self, code: u8) -> Result<()> {
        let status: ExitStatus = self.child.wait().context("could not wait for a process")?;
        match status.code() == Some(code.into()) {
            true => Ok(()),
            false => bail!(
                "a process ended with {status} and not with {code}: {}",
                self.said()
            ),
        }
    }

    /// What it wrote to standard error.
    fn said(&self) -> String {
        Lines(&read_text(&self.errors)).to_string()
    }
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
