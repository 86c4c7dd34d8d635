//! Starts, watches and moves processes, for the tests beside.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use sterna_process::image::{Image, ReadLimits};
use sterna_process::{
    Control, Directory, Environment, Exit, Identity, Kind, Limits, PageSet, Paused, Pausing,
    Process, Program, ProgramId, Resources, RestoreError, Running, SpawnError, State, Stdio,
};
use sterna_wasm::{
    Engine, EngineOptions, ImmobileWasm, Installed, ProgramError, Programs, Uncached, WasmKind,
};

/// Longer than anything here takes, also on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A program among the guests.
pub(crate) fn guest(name: &str) -> Program {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/wasm");
    Program::from_bytes(std::fs::read(guests.join(format!("{name}.wasm"))).unwrap())
}

/// A program in the text format.
pub(crate) fn text(wat: &str) -> Program {
    Program::from_bytes(wat::parse_str(wat).unwrap())
}

/// Keeps what it makes ready for the whole test run.
struct Kept {
    inner: Uncached,
    installed: Mutex<HashMap<ProgramId, Arc<Installed>>>,
}

impl Programs for Kept {
    fn get(&self, program: &Program) -> Result<Arc<Installed>, ProgramError> {
        if let Some(known) = self.installed.lock().unwrap().get(&program.id()) {
            return Ok(known.clone());
        }
        let made = self.inner.get(program)?;
        let mut installed = self.installed.lock().unwrap();
        Ok(installed.entry(program.id()).or_insert(made).clone())
    }
}

pub(crate) fn mobile() -> &'static WasmKind {
    static KIND: OnceLock<WasmKind> = OnceLock::new();
    KIND.get_or_init(|| {
        let engine = Engine::new(EngineOptions::default()).unwrap();
        let programs = Kept {
            inner: Uncached(engine.clone()),
            installed: Mutex::default(),
        };
        WasmKind::new(engine, Arc::new(programs)).unwrap()
    })
}

pub(crate) fn immobile() -> &'static ImmobileWasm {
    static KIND: OnceLock<ImmobileWasm> = OnceLock::new();
    KIND.get_or_init(|| ImmobileWasm::new(EngineOptions::default()).unwrap())
}

/// A program with what it is given, as often as it is asked for.
pub(crate) struct Job {
    pub(crate) program: Program,
    pub(crate) arguments: Vec<String>,
    pub(crate) entry: Option<String>,
    pub(crate) directories: Vec<(PathBuf, &'static str)>,
    pub(crate) limits: Limits,
    pub(crate) input: Option<OwnedFd>,
    pub(crate) output: File,
}

impl Job {
    pub(crate) fn new(program: Program) -> Job {
        Job {
            program,
            arguments: vec!["program".into()],
            entry: None,
            directories: Vec::new(),
            limits: Limits::default(),
            input: None,
            output: tempfile::tempfile().unwrap(),
        }
    }

    pub(crate) fn guest(name: &str, arguments: &[&str]) -> Job {
        Job::new(guest(name)).with(arguments)
    }

    pub(crate) fn wat(wat: &str) -> Job {
        Job::new(text(wat))
    }

    /// With these arguments after the program's name.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Job {
        self.arguments
            .extend(arguments.iter().map(|a| (*a).to_owned()));
        self
    }

    /// Calling this function.
    pub(crate) fn calling(mut self, entry: &str) -> Job {
        self.entry = Some(entry.to_owned());
        self
    }

    pub(crate) fn input(mut self, input: OwnedFd) -> Job {
        self.input = Some(input);
        self
    }

    pub(crate) fn directory(mut self, host: &Path) -> Job {
        self.directories.push((host.to_owned(), "/d"));
        self
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Job {
        change(&mut self.limits);
        self
    }

    pub(crate) fn resources(&self) -> Resources {
        let directory =
            |(host, guest): &(PathBuf, &'static str)| Directory::open(host, *guest).unwrap();
        let output = || Some(self.output.try_clone().unwrap().into());
        Resources {
            stdio: Stdio {
                input: self.input.as_ref().map(|input| input.try_clone().unwrap()),
                output: output(),
                error: output(),
            },
            directories: self.directories.iter().map(directory).collect(),
            limits: self.limits.clone(),
            ..Resources::default()
        }
    }

    pub(crate) fn try_start_on(&self, kind: &dyn Kind) -> Result<Running, SpawnError> {
        let environment = Environment {
            arguments: self.arguments.iter().map(OsString::from).collect(),
            entry: self.entry.clone(),
            resources: self.resources(),
            ..Environment::default()
        };
        kind.spawn(Identity::new(), &self.program, environment)
    }

    pub(crate) fn start(&self) -> Running {
        self.try_start_on(mobile()).unwrap()
    }

    pub(crate) fn start_on(&self, kind: &dyn Kind) -> Running {
        self.try_start_on(kind).unwrap()
    }

    /// Runs it to its end.
    pub(crate) fn run_on(&self, kind: &dyn Kind) -> (Exit, String) {
        let exit = ended(&self.start_on(kind).control);
        (exit, self.printed())
    }

    pub(crate) fn run(&self) -> (Exit, String) {
        self.run_on(mobile())
    }

    /// Why it does not start.
    pub(crate) fn refusal(&self, kind: &dyn Kind) -> SpawnError {
        match self.try_start_on(kind) {
            Err(error) => error,
            Ok(_) => panic!("it started"),
        }
    }

    /// What has been printed so far.
    pub(crate) fn printed(&self) -> String {
        // Without touching the offset, at which the program writes on.
        let mut text = vec![0; self.output.metadata().unwrap().len() as usize];
        self.output.read_exact_at(&mut text, 0).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// A new process from what is captured.
    pub(crate) fn arrive(&self, captured: Captured) -> Result<Box<dyn Paused>, RestoreError> {
        let layout = &captured.image.header.layout;
        let arriving = mobile().prepare(&self.program, layout).unwrap();
        captured.pages.install_into(&*arriving.memory()).unwrap();
        arriving.finish(captured.image, self.resources(), None)
    }

    /// Carries a process into a new instance; `Err` if it had ended.
    pub(crate) fn hop(&self, running: Running) -> Result<Running, Exit> {
        let mut paused = pause(running.process)?;
        let captured = capture(&mut *paused);
        paused.discard();
        Ok(self.arrive(captured).unwrap().resume())
    }

    /// Starts it and moves it again and again, at the most so often, until it ends.
    pub(crate) fn run_moving(&self, hops_max: usize, every: Duration) -> (Exit, String, usize) {
        let mut running = self.start();
        let mut hops = 0;
        let exit = loop {
            let within = if hops < hops_max { every } else { LONG };
            if let Some(exit) = running.control.wait(within) {
                break exit;
            }
            match self.hop(running) {
                Ok(next) => running = next,
                Err(exit) => break exit,
            }
            hops += 1;
            assert!(hops <= hops_max, "it does not end");
        };
        (exit, self.printed(), hops)
    }
}

/// All of a process that stands still.
#[derive(Clone)]
pub(crate) struct Captured {
    pub(crate) image: Image,
    pub(crate) pages: PageSet,
}

pub(crate) fn capture(paused: &mut dyn Paused) -> Captured {
    let image = paused.capture().unwrap();
    let changed = paused.memory().changed().unwrap();
    let pages = PageSet::read_from(&*paused.memory(), &changed).unwrap();
    let image = Image::decode(&image.encode().unwrap(), &ReadLimits::default()).unwrap();
    Captured { image, pages }
}

pub(crate) fn pause(process: Box<dyn Process>) -> Result<Box<dyn Paused>, Exit> {
    match process.pause(LONG) {
        Pausing::Paused(paused) => Ok(paused),
        Pausing::Exited(exit) => Err(exit),
        Pausing::Refused(_, why) => panic!("{why}"),
    }
}

/// How it ended.
pub(crate) fn ended(control: &Control) -> Exit {
    control.wait(LONG).expect("it ends")
}

/// Waits until it is as wanted.
#[track_caller]
pub(crate) fn until(mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !reached() {
        assert!(Instant::now() < deadline, "it never comes to that");
        std::thread::yield_now();
    }
}

#[track_caller]
pub(crate) fn until_state(control: &Control, state: State) {
    until(|| control.stats().state == state);
}

/// What a trap says.
pub(crate) fn trap(exit: Exit) -> String {
    match exit {
        Exit::Trapped { what, .. } => what,
        other => panic!("{other}"),
    }
}
