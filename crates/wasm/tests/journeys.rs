//! Real programs, stopped and carried into new instances again and again, against the same programs left
//! alone: their output is the same byte for byte.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use sterna_process::image::{Image, ReadLimits};
use sterna_process::{
    Directory, Environment, Exit, Identity, Kind, PageSet, Pausing, Program, ProgramId, Resources,
    Running, Stdio,
};
use sterna_wasm::{Engine, EngineOptions, Installed, ProgramError, Programs, Uncached, WasmKind};

fn guests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests")
}

/// Keeps what it makes ready for the whole test run.
struct Kept {
    inner: Uncached,
    installed: Mutex<HashMap<ProgramId, Arc<Installed>>>,
}

impl Programs for Kept {
    fn get(&self, program: &Program) -> Result<Arc<Installed>, ProgramError> {
        let mut installed = self.installed.lock().unwrap();
        if let Some(known) = installed.get(&program.id()) {
            return Ok(known.clone());
        }
        let made = self.inner.get(program)?;
        installed.insert(program.id(), made.clone());
        Ok(made)
    }
}

fn kind() -> &'static WasmKind {
    static KIND: OnceLock<WasmKind> = OnceLock::new();
    KIND.get_or_init(|| {
        let engine = Engine::new(EngineOptions::default()).unwrap();
        let inner = Uncached(engine.clone());
        WasmKind::new(
            engine,
            Arc::new(Kept {
                inner,
                installed: Mutex::default(),
            }),
        )
        .unwrap()
    })
}

struct Job {
    program: Program,
    arguments: Vec<String>,
    directories: Vec<(PathBuf, &'static str)>,
}

impl Job {
    fn new(name: &str, arguments: &[&str]) -> Job {
        let bytes = std::fs::read(guests().join("wasm").join(format!("{name}.wasm"))).unwrap();
        let program = Program::from_bytes(bytes);
        let arguments = [&name]
            .into_iter()
            .chain(arguments)
            .map(|a| (*a).to_owned())
            .collect();
        Job {
            program,
            arguments,
            directories: vec![(guests(), "/guests")],
        }
    }

    fn resources(&self, output: &File) -> Resources {
        let directory =
            |(host, guest): &(PathBuf, &'static str)| Directory::open(host, *guest).unwrap();
        Resources {
            stdio: Stdio {
                input: None,
                output: Some(output.try_clone().unwrap().into()),
                error: Some(std::io::stderr().as_fd().try_clone_to_owned().unwrap()),
            },
            directories: self.directories.iter().map(directory).collect(),
            ..Resources::default()
        }
    }

    fn start(&self, output: &File) -> Running {
        let environment = Environment {
            arguments: self.arguments.iter().map(Into::into).collect(),
            resources: self.resources(output),
            ..Environment::default()
        };
        kind()
            .spawn(Identity::new(), &self.program, environment)
            .unwrap()
    }

    /// Carries a process into a new instance; `Err` if it had ended.
    fn hop(&self, running: Running, output: &File) -> Result<Running, Exit> {
        let mut paused = match running.process.pause(Duration::from_secs(20)) {
            Pausing::Paused(paused) => paused,
            Pausing::Exited(exit) => return Err(exit),
            Pausing::Refused(_, why) => panic!("{why}"),
        };
        let image = paused.capture().unwrap();
        let changed = paused.memory().changed().unwrap();
        let pages = PageSet::read_from(&*paused.memory(), &changed).unwrap();
        let image = Image::decode(&image.encode().unwrap(), &ReadLimits::default()).unwrap();
        paused.discard();
        let arriving = kind().prepare(&self.program, &image.header.layout).unwrap();
        pages.install_into(&*arriving.memory()).unwrap();
        Ok(arriving
            .finish(image, self.resources(output), None)
            .unwrap()
            .resume())
    }

    fn check(&self, hops: usize) {
        let (plain, took) = self.plain();
        let output = tempfile::tempfile().unwrap();
        let mut running = self.start(&output);
        let mut done = 0;
        // Somewhere in the middle, wherever that is on this machine today.
        let pause = took
            .mul_f64(0.8 / hops as f64)
            .min(Duration::from_millis(200));
        let exit = loop {
            let within = if done < hops {
                pause
            } else {
                Duration::from_secs(120)
            };
            if let Some(exit) = running.control.wait(within) {
                break exit;
            }
            match self.hop(running, &output) {
                Ok(next) => running = next,
                Err(exit) => break exit,
            }
            done += 1;
        };
        assert_eq!(exit, Exit::Code(0), "after {done} hops");
        assert_eq!(plain, text(output), "after {done} hops");
        println!("{}: {done} hops, {took:?}", self.arguments.join(" "));
        assert!(done > 0, "it ended before it could be moved");
    }

    fn plain(&self) -> (String, Duration) {
        let output = tempfile::tempfile().unwrap();
        kind().prepare(&self.program, &Default::default()).err();
        let began = Instant::now();
        let running = self.start(&output);
        let exit = running
            .control
            .wait(Duration::from_secs(120))
            .expect("it ends");
        assert_eq!(exit, Exit::Code(0));
        (text(output), began.elapsed())
    }
}

fn text(mut output: File) -> String {
    let mut text = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn kernels() {
    Job::new("fib", &["37"]).check(20);
    Job::new("nbody", &["3000000"]).check(20);
    Job::new("fannkuch", &["10"]).check(20);
    Job::new("matmul", &["300", "8"]).check(20);
    Job::new("sha256", &["64", "4000"]).check(20);
    Job::new("qsort", &["200000", "3"]).check(20);
}

#[test]
fn lua() {
    Job::new("lua", &["/guests/lua/fib.lua"]).check(20);
    Job::new("lua", &["/guests/lua/strings.lua"]).check(20);
    Job::new("lua", &["/guests/lua/sort.lua"]).check(20);
}

#[test]
fn sqlite() {
    Job::new("sqlite", &["20000", "2"]).check(20);
}
