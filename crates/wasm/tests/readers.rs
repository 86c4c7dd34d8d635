//! A program cache that one process only reads and another writes for it.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::ControlFlow::{self, Continue};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sterna_process::{
    Environment, Exit, Identity, Kind, PageSet, Paused, Pausing, Program, ProgramId, Resources,
    Running, State, Stdio, WAYPOINTS_MAX, Waypoint,
};
use sterna_wasm::builder::{BuildLimits, Launch, Progress};
use sterna_wasm::cache::{Elsewhere, ElsewhereError, ProgramCache};
use sterna_wasm::{AnticipateError, Engine, EngineOptions, WasmKind};

/// Long enough that only a mistake exceeds it.
const LONG: Duration = Duration::from_secs(60);

fn silent(_: Progress) -> ControlFlow<()> {
    Continue(())
}

fn engine() -> Engine {
    Engine::new(EngineOptions::default()).unwrap()
}

/// The node's service: it may write the cache.
struct Service {
    cache: ProgramCache,
    asked: AtomicUsize,
    prepared: Mutex<BTreeSet<Waypoint>>,
    answers: AtomicBool,
    /// Whoever has it holds all answers up.
    busy: Mutex<()>,
}

impl Service {
    fn new(directory: &Path, answers: bool) -> Arc<Service> {
        let cache = ProgramCache::open(directory, engine(), BuildLimits::default()).unwrap();
        let builder = Launch::Process {
            program: env!("CARGO_BIN_EXE_sterna-wasm-builder").into(),
            arguments: Vec::new(),
        };
        Arc::new(Service {
            cache: cache.launch(builder),
            asked: AtomicUsize::new(0),
            prepared: Mutex::default(),
            answers: AtomicBool::new(answers),
            busy: Mutex::default(),
        })
    }

    fn add(&self, name: &str) -> Program {
        let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/wasm");
        let bytes = std::fs::read(guests.join(format!("{name}.wasm"))).unwrap();
        let bytes: Arc<[u8]> = bytes.into();
        self.cache.add(&bytes, Some(name), &mut silent).unwrap();
        Program::installed(ProgramId::of(&bytes))
    }
}

impl Elsewhere for Service {
    fn prepare(&self, program: ProgramId, waypoints: &[Waypoint]) -> Result<(), ElsewhereError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        drop(self.busy.lock().unwrap());
        if !self.answers.load(Ordering::Relaxed) {
            let reason = "it is tired".into();
            return Err(ElsewhereError { reason });
        }
        self.prepared.lock().unwrap().extend(waypoints);
        let prepared = self.cache.prepare(&program, waypoints);
        prepared.map_err(|error| ElsewhereError {
            reason: error.to_string(),
        })
    }
}

/// A runner: it only reads.
fn reader(service: &Arc<Service>) -> WasmKind {
    let engine = engine();
    let directory = service.cache.directory();
    let cache = ProgramCache::open_read_only(directory, engine.clone(), service.clone());
    WasmKind::new(engine, Arc::new(cache.unwrap())).unwrap()
}

fn start(kind: &WasmKind, program: &Program, arguments: &[&str]) -> Running {
    printing(kind, program, arguments, &tempfile::tempfile().unwrap())
}

/// Starts a program that prints into a file.
fn printing(kind: &WasmKind, program: &Program, arguments: &[&str], output: &File) -> Running {
    let arguments = std::iter::once(&"program").chain(arguments);
    let environment = Environment {
        arguments: arguments.map(std::ffi::OsString::from).collect(),
        resources: resources(output),
        ..Environment::default()
    };
    kind.spawn(Identity::new(), program, environment).unwrap()
}

fn resources(output: &File) -> Resources {
    Resources {
        stdio: Stdio {
            output: Some(output.try_clone().unwrap().into()),
            ..Stdio::default()
        },
        ..Resources::default()
    }
}

fn text(output: &File) -> String {
    let mut bytes = vec![0; output.metadata().unwrap().len() as usize];
    output.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn until(so: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !so() {
        assert!(Instant::now() < deadline, "it does not come to that");
        std::thread::yield_now();
    }
}

fn paused(running: Running) -> Box<dyn Paused> {
    match running.process.pause(LONG) {
        Pausing::Paused(paused) => paused,
        _ => panic!("it runs"),
    }
}

/// Every file below, with its length and last change.
fn contents(folder: &Path) -> BTreeSet<(String, u64, std::time::SystemTime)> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let (path, metadata) = {
            let entry = entry.unwrap();
            (entry.path(), entry.metadata().unwrap())
        };
        if metadata.is_dir() {
            all.extend(contents(&path));
        }
        let name = path.display().to_string();
        all.insert((name, metadata.len(), metadata.modified().unwrap()));
    }
    all
}

#[test]
fn who_only_reads_runs_programs_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::new(&folder.path().join("cache"), true);
    let program = service.add("hello");
    let before = contents(folder.path());
    let running = start(&reader(&service), &program, &[]);
    assert_eq!(running.control.wait(LONG), Some(Exit::Code(0)));
    assert_eq!(contents(folder.path()), before);
    assert_eq!(service.asked.load(Ordering::Relaxed), 0);
    // What is not there cannot be had, not even from its bytes: nothing is built here.
    let other = Program::from_bytes(wat::parse_str("(module (func (export \"_start\")))").unwrap());
    let spawned = reader(&service).spawn(Identity::new(), &other, Environment::default());
    assert!(spawned.is_err());
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn what_is_missing_is_asked_for_once_and_then_found() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::new(&folder.path().join("cache"), true);
    let program = service.add("sqlite");
    let (source, target) = (reader(&service), reader(&service));
    let running = start(&source, &program, &["2000", "1000000"]);
    let mut ready = BTreeSet::new();
    let until = Instant::now() + LONG;
    let mut process = running.process;
    let mut moved = loop {
        let waypoints = process.waypoints(LONG).unwrap();
        target.anticipate(&program, &waypoints).unwrap();
        ready.extend(waypoints);
        assert!(Instant::now() < until, "it is never ready");
        match process.pause_among(&ready, Duration::from_millis(20)) {
            Pausing::Paused(paused) => break paused,
            Pausing::Refused(again, _) => process = again,
            Pausing::Exited(exit) => panic!("{exit}"),
        }
    };
    assert!(service.prepared.lock().unwrap().is_subset(&ready));
    let asked = service.asked.load(Ordering::Relaxed);
    assert!(asked > 0);
    let image = moved.capture().unwrap();
    let arriving = target.prepare(&program, &image.header.layout).unwrap();
    let pages = PageSet::read_from(&*moved.memory(), &moved.memory().changed().unwrap()).unwrap();
    pages.install_into(&*arriving.memory()).unwrap();
    let arrived = arriving.finish(image, Resources::default(), None).unwrap();
    assert_eq!(
        service.asked.load(Ordering::Relaxed),
        asked,
        "all was ready"
    );
    moved.discard();
    let running = arrived.resume();
    assert_eq!(running.control.wait(Duration::from_millis(50)), None);
    // It can be looked at and stopped here as anywhere, in code that came off the shelf.
    assert!(!running.process.waypoints(LONG).unwrap().is_empty());
    let resumed = paused(running).resume();
    resumed.control.kill();
    assert_eq!(resumed.control.wait(LONG), Some(Exit::Killed));
    // A second reader finds all of it.
    let third = reader(&service);
    let waypoints: Vec<Waypoint> = ready.into_iter().collect();
    third.anticipate(&program, &waypoints).unwrap();
    assert_eq!(service.asked.load(Ordering::Relaxed), asked);
}

#[test]
fn who_gets_no_answer_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::new(&folder.path().join("cache"), false);
    let program = service.add("count");
    let kind = reader(&service);
    let running = start(&kind, &program, &["200", "20000000"]);
    let waypoints = running.process.waypoints(LONG).unwrap();
    let error = kind.anticipate(&program, &waypoints).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("it is tired"), "{cause}");
    running.control.kill();
}

/// A program that counts, stopped where nothing is ready for it, and let go on, with who cannot make it ready now.
fn held(service: &Arc<Service>, kind: &WasmKind, output: &File) -> (Running, usize) {
    let program = service.add("count");
    let running = printing(kind, &program, &["200", "100000"], output);
    let asked = service.asked.load(Ordering::Relaxed);
    let mut paused = paused(running);
    paused.capture().unwrap();
    let running = paused.resume();
    until(|| service.asked.load(Ordering::Relaxed) > asked);
    until(|| running.control.stats().state == State::Waiting);
    (running, asked)
}

/// What it prints when nothing is in its way.
fn undisturbed(service: &Arc<Service>, kind: &WasmKind) -> String {
    let output = tempfile::tempfile().unwrap();
    let program = service.add("count");
    let running = printing(kind, &program, &["200", "100000"], &output);
    assert_eq!(running.control.wait(LONG), Some(Exit::Code(0)));
    text(&output)
}

#[test]
fn who_lacks_what_it_needs_is_held_and_goes_on_when_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::new(&folder.path().join("cache"), false);
    let (kind, output) = (reader(&service), tempfile::tempfile().unwrap());
    let (running, asked) = held(&service, &kind, &output);
    // More than one attempt, and nothing is lost by it; meanwhile it can be looked at and described.
    until(|| service.asked.load(Ordering::Relaxed) > asked + 1);
    let waypoints = running.process.waypoints(LONG).unwrap();
    assert!(!waypoints.is_empty());
    assert!(!running.control.describe(LONG).unwrap().frames.is_empty());
    assert_eq!(running.control.wait(Duration::ZERO), None);
    service.answers.store(true, Ordering::Relaxed);
    assert_eq!(running.control.wait(LONG), Some(Exit::Code(0)));
    assert_eq!(text(&output), undisturbed(&service, &kind));
}

#[test]
fn who_is_held_can_be_killed() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::new(&folder.path().join("cache"), false);
    let output = tempfile::tempfile().unwrap();
    let (running, _) = held(&service, &reader(&service), &output);
    running.control.kill();
    assert_eq!(running.control.wait(LONG), Some(Exit::Killed));
}

#[test]
fn nobody_waits_for_who_makes_ready_what_a_held_one_needs() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::new(&folder.path().join("cache"), false);
    let output = tempfile::tempfile().unwrap();
    let (running, asked) = held(&service, &reader(&service), &output);
    let busy = service.busy.lock().unwrap();
    until(|| service.asked.load(Ordering::Relaxed) > asked + 1);
    assert!(!running.control.describe(LONG).unwrap().frames.is_empty());
    running.control.kill();
    assert_eq!(running.control.wait(LONG), Some(Exit::Killed));
    drop(busy);
}

#[test]
fn who_is_held_moves_to_where_it_can_go_on() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let full = Service::new(&folder.path().join("cache"), false);
    let roomy = Service::new(&other.path().join("cache"), true);
    let (source, target) = (reader(&full), reader(&roomy));
    let output = tempfile::tempfile().unwrap();
    let (running, _) = held(&full, &source, &output);
    let program = roomy.add("count");
    let waypoints = running.process.waypoints(LONG).unwrap();
    target.anticipate(&program, &waypoints).unwrap();
    let ready = waypoints.into_iter().collect();
    let Pausing::Paused(mut moved) = running.process.pause_among(&ready, LONG) else {
        panic!("it stands there");
    };
    let image = moved.capture().unwrap();
    let arriving = target.prepare(&program, &image.header.layout).unwrap();
    let pages = PageSet::read_from(&*moved.memory(), &moved.memory().changed().unwrap()).unwrap();
    pages.install_into(&*arriving.memory()).unwrap();
    let arrived = arriving.finish(image, resources(&output), None).unwrap();
    moved.discard();
    let running = arrived.resume();
    assert_eq!(running.control.wait(LONG), Some(Exit::Code(0)));
    assert_eq!(text(&output), undisturbed(&roomy, &target));
}

#[test]
fn who_asks_may_ask_for_anything() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::new(&folder.path().join("cache"), true);
    let program = service.add("count").id();
    let prepare = |waypoints: &[Waypoint]| service.cache.prepare(&program, waypoints);
    for nonsense in [0, 7, u64::MAX, 1 << 40] {
        let prepared = prepare(&[Waypoint(nonsense)]);
        assert!(matches!(prepared, Err(AnticipateError::Unknown(found)) if found.0 == nonsense));
    }
    let many: Vec<_> = (0..=WAYPOINTS_MAX as u64).map(Waypoint).collect();
    assert!(matches!(
        prepare(&many),
        Err(AnticipateError::TooMany { .. })
    ));
    let unknown = ProgramId::of(b"no such program");
    let prepared = service.cache.prepare(&unknown, &[]);
    assert!(matches!(
        prepared,
        Err(AnticipateError::UnknownProgram { .. })
    ));
    prepare(&[]).unwrap();
}
