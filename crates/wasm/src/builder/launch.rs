//! Starts builders, watches them, and turns the way they end into errors.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::MemfdFlags;
use sterna_sys::spawn::{Child, Exit, Spawn};

use super::job::{Failure, Job, MESSAGE_BYTES_MAX, Message, PARTS_MAX, Stage, Task, descriptor};
use super::task::{self, Artifact, MadeProgram};
use super::{BuildError, BuildLimits, OnProgress, Progress};
use crate::cache::Compatibility;
use crate::engine::Engine;
use crate::pass;

/// How often the caller hears of a build that goes on.
const TICK: Duration = Duration::from_millis(100);
/// Threads that compile at once.
const THREADS_MAX: usize = 16;
/// Address space that a thread takes without using it: a stack and an arena of the C library's allocator.
const THREAD_ADDRESS_SPACE: u64 = 136 << 20;
/// Address space of the program itself and its libraries.
const PROGRAM_ADDRESS_SPACE: u64 = 256 << 20;
/// What is read of a builder's standard error, in bytes.
const SAID_BYTES_MAX: u64 = 4 << 10;
/// CPU time that a byte of instrumented WebAssembly takes, for estimates of progress.
const COMPILE_TIME_PER_BYTE: Duration = Duration::from_nanos(1_700);
/// An estimate is only that: it never says that the work is done.
const ESTIMATE_MAX: f32 = 0.99;

/// Where builds are done.
#[derive(Debug, Clone)]
pub enum Launch {
    /// In a process of its own, of a program that calls [`run`](super::run) when it is started so.
    Process {
        /// Path of the program.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<OsString>,
    },
    /// In this process, unconfined and without limits of time and memory: for programs that are trusted.
    Here,
}

impl Launch {
    /// The running program itself, started with `subcommand`.
    #[must_use]
    pub fn this_program(subcommand: &str) -> Launch {
        Launch::Process {
            program: "/proc/self/exe".into(),
            arguments: vec![subcommand.into()],
        }
    }
}

/// Builds for one engine, under limits.
#[derive(Debug, Clone)]
pub struct Builder {
    engine: Engine,
    options: pass::Options,
    compatibility: Compatibility,
    limits: BuildLimits,
    launch: Launch,
}

/// One build in a process.
struct Build<'b> {
    job: Job,
    input: &'b [u8],
}

impl Builder {
    /// A builder for `engine`.
    #[must_use]
    pub fn new(engine: Engine, limits: BuildLimits, launch: Launch) -> Builder {
        let options = pass::Options::default();
        Builder {
            compatibility: Compatibility::of(&engine, &options),
            engine,
            options,
            limits,
            launch,
        }
    }

    /// The same for another engine.
    pub(crate) fn for_engine(&self, engine: Engine) -> Builder {
        Builder {
            compatibility: Compatibility::of(&engine, &self.options),
            engine,
            ..self.clone()
        }
    }

    pub(crate) fn set_launch(&mut self, launch: Launch) {
        self.launch = launch;
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn options(&self) -> &pass::Options {
        &self.options
    }

    pub(crate) fn compatibility(&self) -> &Compatibility {
        &self.compatibility
    }

    pub(crate) fn limits(&self) -> &BuildLimits {
        &self.limits
    }

    /// Instruments and compiles a program.
    pub(crate) fn program(
        &self,
        bytes: &Arc<[u8]>,
        on_progress: OnProgress<'_>,
    ) -> Result<MadeProgram, BuildError> {
        let (size, limit) = (bytes.len() as u64, self.limits.module_bytes);
        if size > limit {
            return Err(BuildError::ModuleSize { bytes: size, limit });
        }
        if let Launch::Process { .. } = self.launch {
            let job = self.job(Task::Program(self.options.clone()), false);
            let parts = self.in_process(&Build { job, input: bytes }, on_progress)?;
            if let Some(parts) = parts {
                let [artifact, metadata, points, marks, data] =
                    parts.try_into().map_err(|_| nonsense())?;
                return Ok(MadeProgram {
                    artifact: Artifact::handed_over(artifact),
                    metadata,
                    points,
                    marks,
                    data,
                });
            }
        }
        let mut cancelled = false;
        let mut report = |stage| cancelled |= on_progress(progress(stage, 0.0)).is_break();
        let made = task::program(
            &self.engine,
            bytes.clone(),
            self.options.clone(),
            &mut report,
        )?;
        if cancelled {
            return Err(BuildError::Cancelled);
        }
        Ok(made)
    }

    /// Compiles a module that the pass wrote.
    pub(crate) fn module(
        &self,
        wasm: &[u8],
        in_background: bool,
        on_progress: OnProgress<'_>,
    ) -> Result<Artifact, BuildError> {
        if let Launch::Process { .. } = self.launch {
            let job = self.job(Task::Module, in_background);
            match self.in_process(&Build { job, input: wasm }, on_progress)? {
                Some(parts) => {
                    let [artifact] = parts.try_into().map_err(|_| nonsense())?;
                    return Ok(Artifact::handed_over(artifact));
                }
                // Nobody waits for it: it is not worth what it costs the process that would do it itself.
                None if in_background => {
                    return Err(BuildError::Start(std::io::ErrorKind::Unsupported.into()));
                }
                None => {}
            }
        }
        Ok(task::module(&self.engine, wasm)?)
    }

    fn job(&self, task: Task, in_background: bool) -> Job {
        let threads = threads(in_background) as u64 + 2;
        Job {
            task,
            engine: self.engine.options(),
            compatibility: self.compatibility.id.clone(),
            memory_bytes: self.limits.memory_bytes,
            address_space_bytes: self.limits.memory_bytes
                + PROGRAM_ADDRESS_SPACE
                + threads * THREAD_ADDRESS_SPACE,
            cpu_seconds: self.limits.cpu_time.as_secs_f64().ceil() as u64,
            output_bytes: self.limits.artifact_bytes,
            in_background,
        }
    }

    /// The parts that a process made; `None` if this machine cannot start one.
    fn in_process(
        &self,
        build: &Build<'_>,
        on_progress: OnProgress<'_>,
    ) -> Result<Option<Vec<Vec<u8>>>, BuildError> {
        let pass = |step| move |source| BuildError::Pass { step, source };
        let output = memory_file("sterna-builder-output", &[]).map_err(pass("memfd_create"))?;
        let said = memory_file("sterna-builder-errors", &[]).map_err(pass("memfd_create"))?;
        let (report, child) = match self.start(build, &output, &said) {
            Ok(started) => started,
            // An emulator of another processor runs this program, and the kernel cannot.
            Err(BuildError::Start(error)) if error.raw_os_error() == Some(libc::ENOEXEC) => {
                let none = Progress::Confined("none: this machine cannot start a builder".into());
                return match on_progress(none) {
                    ControlFlow::Continue(()) => Ok(None),
                    ControlFlow::Break(()) => Err(BuildError::Cancelled),
                };
            }
            Err(error) => return Err(error),
        };
        let mut watch = Watch {
            child,
            report,
            received: Vec::new(),
            deadline: Instant::now() + self.limits.time,
            limits: &self.limits,
            last: None,
            on_progress,
        };
        let parts = match watch.until_result()? {
            Some(parts) => parts,
            None => {
                let exit = watch
                    .child
                    .wait(Some(TICK))
                    .map_err(|e| pass(e.step)(e.source))?;
                return Err(self.explain(exit, &said));
            }
        };
        // Killed and reaped, whatever it still does: the output does not change while it is read.
        drop(watch);
        self.read_parts(&output, &parts).map(Some)
    }

    fn start(
        &self,
        build: &Build<'_>,
        output: &File,
        said: &File,
    ) -> Result<(std::io::PipeReader, Child), BuildError> {
        let pass = |step| move |source| BuildError::Pass { step, source };
        let Launch::Process { program, arguments } = &self.launch else {
            return Err(BuildError::Start(std::io::ErrorKind::Unsupported.into()));
        };
        let job = postcard::to_stdvec(&build.job).map_err(std::io::Error::other);
        let job = job.and_then(|job| memory_file("sterna-builder-job", &job));
        let input = memory_file("sterna-builder-input", build.input);
        let (report, reporter) = std::io::pipe().map_err(pass("pipe"))?;
        let (job, input) = (
            job.map_err(pass("write the job"))?,
            input.map_err(pass("write the module"))?,
        );
        let again = |file: &File| file.try_clone().map_err(pass("dup"));
        let mut spawn = Spawn::new(program)
            .descriptor(descriptor::JOB, job.into())
            .descriptor(descriptor::INPUT, input.into())
            .descriptor(descriptor::OUTPUT, again(output)?.into())
            .descriptor(descriptor::REPORT, reporter.into())
            .stderr(again(said)?)
            .env(
                "RAYON_NUM_THREADS",
                threads(build.job.in_background).to_string(),
            )
            .die_with_this_thread();
        for argument in arguments {
            spawn = spawn.arg(argument);
        }
        let child = spawn
            .start()
            .map_err(|error| BuildError::Start(error.source))?;
        Ok((report, child))
    }

    fn read_parts(&self, output: &File, sizes: &[u64]) -> Result<Vec<Vec<u8>>, BuildError> {
        let total = sizes
            .iter()
            .try_fold(0u64, |sum, size| sum.checked_add(*size));
        let limit = self.limits.artifact_bytes;
        if sizes.len() > PARTS_MAX || total.is_none_or(|total| total > limit) {
            return Err(nonsense());
        }
        let mut at = 0;
        let mut parts = Vec::new();
        for &size in sizes {
            let mut part = vec![0; size as usize];
            output
                .read_exact_at(&mut part, at)
                .map_err(|_| nonsense())?;
            at += size;
            parts.push(part);
        }
        Ok(parts)
    }

    /// Why a builder ended without a result.
    fn explain(&self, exit: Option<Exit>, said: &File) -> BuildError {
        let mut text = vec![0; SAID_BYTES_MAX as usize];
        let read = said.read_at(&mut text, 0).unwrap_or(0);
        let said = String::from_utf8_lossy(&text[..read]).into_owned();
        let Some(exit) = exit else {
            return BuildError::Crashed {
                how: "stopped reporting".into(),
                said,
            };
        };
        let limits = &self.limits;
        let used = exit.cpu_user + exit.cpu_system;
        match exit.status.signal() {
            Some(libc::SIGXCPU) => BuildError::cpu_time(limits),
            Some(libc::SIGKILL) if used >= limits.cpu_time => BuildError::cpu_time(limits),
            Some(libc::SIGXFSZ) => BuildError::ArtifactSize {
                limit: limits.artifact_bytes,
            },
            _ if is_about_memory(&said) => BuildError::Memory {
                limit: limits.memory_bytes,
            },
            Some(libc::SIGKILL) => BuildError::Crashed {
                how: "was killed; the machine may be out of memory".into(),
                said,
            },
            _ => BuildError::Crashed {
                how: format!("ended unexpectedly ({})", exit.status),
                said,
            },
        }
    }
}

impl BuildError {
    fn cpu_time(limits: &BuildLimits) -> BuildError {
        BuildError::Time {
            what: "CPU time",
            limit: limits.cpu_time,
        }
    }
}

/// What the allocator, and the library that starts threads, say when there is no memory left.
fn is_about_memory(said: &str) -> bool {
    [
        "memory allocation of",
        "os error 12",
        "os error 11",
        "Cannot allocate memory",
    ]
    .iter()
    .any(|sign| said.contains(sign))
}

fn nonsense() -> BuildError {
    BuildError::Crashed {
        how: "reported what makes no sense".into(),
        said: String::new(),
    }
}

fn threads(in_background: bool) -> usize {
    if in_background {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX))
}

fn memory_file(name: &str, contents: &[u8]) -> std::io::Result<File> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(contents)?;
    file.rewind()?;
    Ok(file)
}

fn progress(stage: Stage, done: f32) -> Progress {
    match stage {
        Stage::Checking => Progress::Checking,
        Stage::Instrumenting => Progress::Instrumenting,
        Stage::Compiling(_) => Progress::Compiling { done },
    }
}

/// A builder at work.
struct Watch<'w> {
    child: Child,
    report: std::io::PipeReader,
    received: Vec<u8>,
    deadline: Instant,
    limits: &'w BuildLimits,
    last: Option<Stage>,
    on_progress: OnProgress<'w>,
}

impl Watch<'_> {
    /// The sizes of the parts that it made; `None` if it ended without a word.
    fn until_result(&mut self) -> Result<Option<Vec<u64>>, BuildError> {
        let mut chunk = [0; 4096];
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(BuildError::Time {
                    what: "time",
                    limit: self.limits.time,
                });
            }
            let wait = left.min(TICK).try_into().ok();
            let poll = &mut [PollFd::new(&self.report, PollFlags::IN)];
            match rustix::event::poll(poll, wait.as_ref()) {
                Ok(0) => {
                    self.tick()?;
                    continue;
                }
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(reading(error.into())),
            }
            let read = self.report.read(&mut chunk).map_err(reading)?;
            if read == 0 {
                return Ok(None);
            }
            self.received.extend_from_slice(&chunk[..read]);
            while let Some(message) = self.next_message()? {
                if let Some(parts) = self.hear(message)? {
                    return Ok(Some(parts));
                }
            }
        }
    }

    fn next_message(&mut self) -> Result<Option<Message>, BuildError> {
        let Some(length) = self.received.first_chunk::<4>() else {
            return Ok(None);
        };
        let end = 4 + u32::from_le_bytes(*length) as usize;
        if end > MESSAGE_BYTES_MAX {
            return Err(nonsense());
        }
        let Some(message) = self.received.get(4..end) else {
            return Ok(None);
        };
        let message = postcard::from_bytes(message).map_err(|_| nonsense())?;
        self.received.drain(..end);
        Ok(Some(message))
    }

    fn hear(&mut self, message: Message) -> Result<Option<Vec<u64>>, BuildError> {
        match message {
            Message::Confined(how) => self.tell(Progress::Confined(how))?,
            Message::Stage(stage) => {
                self.last = Some(stage);
                self.tick()?;
            }
            Message::Done(parts) => return Ok(Some(parts)),
            Message::Failed(Failure::Compile(text) | Failure::Output(text))
                if is_about_memory(&text) =>
            {
                return Err(BuildError::Memory {
                    limit: self.limits.memory_bytes,
                });
            }
            Message::Failed(failure) => return Err(failure.into()),
        }
        Ok(None)
    }

    fn tick(&mut self) -> Result<(), BuildError> {
        let Some(stage) = self.last else {
            return Ok(());
        };
        let mut done = 0.0;
        if let Stage::Compiling(bytes) = stage {
            let expected = COMPILE_TIME_PER_BYTE.as_secs_f32() * bytes as f32;
            done = (cpu_time(self.child.id()).as_secs_f32() / expected).min(ESTIMATE_MAX);
        }
        self.tell(progress(stage, done))
    }

    fn tell(&mut self, progress: Progress) -> Result<(), BuildError> {
        match (self.on_progress)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(BuildError::Cancelled),
        }
    }
}

fn reading(source: std::io::Error) -> BuildError {
    BuildError::Pass {
        step: "read its report",
        source,
    }
}

/// CPU time of process `id`, zero if it cannot be read (proc_pid_stat(5), fields 14 and 15).
fn cpu_time(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name before may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 = fields
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
