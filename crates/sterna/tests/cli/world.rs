//! A world of its own for each test: run directory, key and files; the program cache is shared, so that a program
//! is compiled once.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::left;

/// After so long without what a test waits for, it fails.
const PATIENCE: Duration = Duration::from_secs(180);
/// After a test, for what was told to end.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// A committed program.
pub(crate) fn guest(name: &str) -> String {
    let path = format!(
        "{}/../../guests/wasm/{name}.wasm",
        env!("CARGO_MANIFEST_DIR")
    );
    fs::canonicalize(path).unwrap().to_str().unwrap().to_owned()
}

/// CPython, if it was downloaded.
pub(crate) fn python() -> Option<String> {
    let path = format!(
        "{}/../../target/guests/python.wasm",
        env!("CARGO_MANIFEST_DIR")
    );
    let path = fs::canonicalize(path).ok()?;
    Some(path.to_str().unwrap().to_owned())
}

/// Why a test of it is skipped.
pub(crate) const NO_PYTHON: &str =
    "CPython for WASI is not here; get it with: cargo xtask guests --download";

/// A folder of scripts.
pub(crate) fn scripts(name: &str) -> String {
    let path = format!("{}/../../guests/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::canonicalize(path).unwrap().to_str().unwrap().to_owned()
}

/// Ends the test as skipped, with a reason, in the way that the test command counts.
macro_rules! skip {
    ($($reason:tt)*) => {{
        println!("SKIPPED: {}", format_args!($($reason)*));
        return;
    }};
}
pub(crate) use skip;

pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) cache: PathBuf,
    /// As whom commands run, if not as who runs the tests.
    user: Option<u32>,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("tmp")).unwrap();
        Self {
            directory,
            cache: Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs"),
            user: None,
        }
    }

    /// A world of a user without rights, and with a program cache of its own. Only root can make one.
    pub(crate) fn of_user(user: u32) -> Self {
        let mut world = Self::new();
        world.user = Some(user);
        world.cache = world.path("programs");
        for path in [world.directory.path().to_owned(), world.path("tmp")] {
            chown(path, Some(user), Some(user)).unwrap();
        }
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file and gives its path.
    pub(crate) fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn command<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sterna"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("STERNA_RUN_DIR", self.path("run"))
            .env("STERNA_DATA_DIR", self.path("own"))
            .env("STERNA_CACHE_DIR", &self.cache)
            .env("TMPDIR", self.path("tmp"))
            .env_remove("NO_COLOR")
            .env_remove("STERNA_NODE");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Runs a command to its end, without input.
    pub(crate) fn ask<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Answer {
        let output = self.command(arguments).stdin(Stdio::null()).output();
        Answer(output.unwrap())
    }

    /// Starts a program in the background.
    pub(crate) fn start<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Actor {
        Actor::start(self.command(arguments))
    }

    /// What `ps` shows.
    pub(crate) fn ps(&self) -> Vec<Value> {
        serde_json::from_str(&self.ask(["ps", "--json"]).ok()).unwrap()
    }

    /// The files of the run directory that are there for a process.
    pub(crate) fn entries(&self) -> Vec<String> {
        let listed = fs::read_dir(self.path("run"));
        let names = listed.into_iter().flatten().flatten();
        names
            .map(|entry| entry.file_name().to_str().unwrap().to_owned())
            .filter(|name| name.ends_with(".run") || name.ends_with(".sock"))
            .collect()
    }
}

impl Drop for World {
    /// When a test is over, nothing may be left of it.
    fn drop(&mut self) {
        if !thread::panicking() {
            if !self.entries().is_empty() {
                // What killed hosts leave is swept away by whoever looks next.
                self.ask(["ps"]).ok();
            }
            let folder = self.directory.path();
            let deadline = Instant::now() + ENDS_WITHIN;
            let mut left = left::of(folder);
            while !left.is_empty() {
                assert!(Instant::now() < deadline, "left: {left:#?}");
                thread::yield_now();
                left = left::of(folder);
            }
        }
    }
}

/// What a command answered.
pub(crate) struct Answer(pub(crate) Output);

impl Answer {
    pub(crate) fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(&self) -> String {
        assert!(self.0.status.success(), "{}: {}", self.0.status, self.err());
        self.out()
    }

    /// That it ended so, and said all of this on standard error.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, said: &[&str]) {
        let err = self.err();
        assert_eq!(self.0.status.code(), Some(code), "{err}");
        for said in said {
            assert!(err.contains(said), "{said:?} is not in: {err}");
        }
    }
}

/// A process whose output is collected. Dropping it kills it.
pub(crate) struct Actor {
    pub(crate) child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) out: Stream,
    pub(crate) err: Stream,
}

impl Actor {
    pub(crate) fn start(mut command: Command) -> Self {
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            stdin: child.stdin.take(),
            out: Stream::collect(child.stdout.take().unwrap()),
            err: Stream::collect(child.stderr.take().unwrap()),
            child,
        }
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    #[track_caller]
    pub(crate) fn say(&mut self, text: &str) {
        if let Err(error) = self.stdin.as_mut().unwrap().write_all(text.as_bytes()) {
            let status = self.end();
            panic!("{error}, {status}: {}", self.err.text());
        }
    }

    /// Ends its input.
    pub(crate) fn hang_up(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        self.out.wait_for_end(deadline);
        self.err.wait_for_end(deadline);
        self.child.wait().unwrap()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// That it ended with this code; gives all its output.
    #[track_caller]
    pub(crate) fn ended(&mut self, code: i32) -> String {
        let status = self.end();
        assert_eq!(status.code(), Some(code), "{status}: {}", self.err.text());
        self.out.text()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has written until now.
#[derive(Clone)]
pub(crate) struct Stream(Arc<(Mutex<Collected>, Condvar)>);

#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    ended: bool,
}

impl Stream {
    fn collect(mut from: impl Read + Send + 'static) -> Self {
        let stream = Self(Arc::default());
        let to = stream.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let got = from.read(&mut buffer).unwrap_or(0);
                let (collected, changed) = &*to.0;
                let mut collected = collected.lock().unwrap();
                collected.bytes.extend_from_slice(&buffer[..got]);
                collected.ended = got == 0;
                changed.notify_all();
                if got == 0 {
                    return;
                }
            }
        });
        stream
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.0.lock().unwrap().bytes).into_owned()
    }

    /// Whether no more will come.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.0.lock().unwrap().ended
    }

    /// Waits until a text is in it.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        self.wait(deadline, text, |collected| {
            String::from_utf8_lossy(&collected.bytes).contains(text)
        });
    }

    /// Waits until there are so many lines.
    #[track_caller]
    pub(crate) fn wait_for_lines(&self, lines: usize) {
        let deadline = Instant::now() + PATIENCE;
        self.wait(deadline, "lines", |collected| {
            collected
                .bytes
                .iter()
                .filter(|&&byte| byte == b'\n')
                .count()
                >= lines
        });
    }

    #[track_caller]
    fn wait_for_end(&self, deadline: Instant) {
        self.wait(deadline, "its end", |collected| collected.ended);
    }

    #[track_caller]
    fn wait(&self, deadline: Instant, what: &str, is: impl Fn(&Collected) -> bool) {
        let (collected, changed) = &*self.0;
        let mut collected = collected.lock().unwrap();
        while !is(&collected) {
            let left = deadline.saturating_duration_since(Instant::now());
            let said = String::from_utf8_lossy(&collected.bytes).into_owned();
            assert!(
                !left.is_zero() && !collected.ended,
                "waited for {what:?}, got: {said}"
            );
            collected = changed.wait_timeout(collected, left).unwrap().0;
        }
    }
}

/// Waits until something is so that nobody tells.
#[track_caller]
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "waited for {what}");
        thread::yield_now();
    }
}
