//! A service that was taken over through the network asks its manager for what it likes: it gets what belongs to its node.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, socket};
use sterna_process::{ProgramId, Tag, Waypoint};
use sterna_runner::link;
use sterna_runner::message::WindowSize;
use tempfile::TempDir;

use crate::limits::ERRANDS_MAX;
use crate::manager::message::{Answer, Answered, Asked, Errand, Ready};
use crate::manager::{Greeted, serve};
use crate::workshop::Workshop;

/// Does everything, and says what was done; but to make a program ready takes until somebody lets it.
struct Willing {
    done: Mutex<Sender<&'static str>>,
    may_add: Mutex<Receiver<()>>,
}

const WASM: Tag = Tag::new("wasm");

impl std::fmt::Debug for Willing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Willing")
    }
}

impl Willing {
    fn done(&self, what: &'static str) {
        let _ = self.done.lock().unwrap().send(what);
    }
}

impl Workshop for Willing {
    fn kinds(&self) -> Vec<Tag> {
        vec![WASM]
    }

    fn start_runner(&self, _: OwnedFd, _: File) -> io::Result<()> {
        self.done("runner");
        Ok(())
    }

    fn has(&self, _: &Tag, _: &ProgramId) -> bool {
        true
    }

    fn module(&self, _: &ProgramId) -> Result<File, String> {
        tempfile::tempfile().map_err(|error| error.to_string())
    }

    fn add(&self, _: &Tag, bytes: Arc<[u8]>) -> Result<(), String> {
        assert_eq!(&*bytes, b"program");
        self.done("add");
        let _ = self.may_add.lock().unwrap().recv();
        Ok(())
    }

    fn prepare(&self, _: &Tag, _: &ProgramId, _: &[Waypoint]) -> Result<(), String> {
        Err("nothing of it".into())
    }

    fn expect_moves(&self, _: &Tag, _: &ProgramId) {}

    fn detach(&self, directory: OwnedFd, _: bool) -> io::Result<OwnedFd> {
        self.done("detach");
        Ok(directory)
    }

    fn terminal(&self, size: WindowSize) -> io::Result<[OwnedFd; 2]> {
        crate::workshop::terminal(size)
    }
}

/// A manager on a thread, and the socket of its service.
struct Scene {
    directory: TempDir,
    done: Receiver<&'static str>,
    let_add: Sender<()>,
    service: UnixStream,
}

fn scene() -> Scene {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("hosting")).unwrap();
    let ((done, all_done), (let_add, may_add)) = (mpsc::channel(), mpsc::channel());
    let workshop = Arc::new(Willing {
        done: Mutex::new(done),
        may_add: Mutex::new(may_add),
    });
    let (service, manager) = UnixStream::pair().unwrap();
    let data = directory.path().to_owned();
    thread::spawn(move || serve(manager, &data, "full".into(), workshop));
    Scene {
        directory,
        done: all_done,
        let_add,
        service,
    }
}

impl Scene {
    /// Its service says hello itself.
    fn greet(&mut self) {
        link::greet(&mut self.service).unwrap();
        let (ready, _) = link::receive::<Ready>(&self.service).unwrap();
        assert_eq!(ready.confinement, "full");
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("hosting").join(name)
    }

    fn give(&self, errand: Errand, given: &[BorrowedFd<'_>]) {
        link::send(&self.service, &Asked { number: 7, errand }, given).unwrap();
    }

    fn answer(&self) -> Answer {
        let (Answered { number, answer }, _) = link::receive(&self.service).unwrap();
        assert_eq!(number, 7);
        answer
    }

    #[track_caller]
    fn refuses(&self, errand: Errand, given: &[BorrowedFd<'_>], why: &str) {
        self.give(errand, given);
        let answer = self.answer();
        assert!(
            matches!(&answer, Answer::Failed(said) if said.contains(why)),
            "{answer:?}"
        );
        assert!(self.done.try_recv().is_err(), "it was done all the same");
    }

    fn errors(&self) -> File {
        appended(&self.path("runner.log"))
    }
}

fn appended(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.create(true).append(true).open(path).unwrap()
}

fn bound(path: &Path) -> OwnedFd {
    let bound = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&bound, &SocketAddrUnix::new(path).unwrap()).unwrap();
    bound
}

#[test]
fn runners_are_those_of_the_node_only() {
    let mut scene = scene();
    scene.greet();
    let (errors, own) = (scene.errors(), bound(&scene.path("runner.sock")));
    let start = || Errand::StartRunner;
    let elsewhere = bound(&scene.path("other.sock"));
    let unbound = UnixStream::pair().unwrap().0;
    let datagram = socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for socket in [
        elsewhere.as_fd(),
        unbound.as_fd(),
        datagram.as_fd(),
        tcp.as_fd(),
        errors.as_fd(),
    ] {
        scene.refuses(start(), &[socket, errors.as_fd()], "runner");
    }
    let not_appended = OpenOptions::new()
        .write(true)
        .open(scene.path("runner.log"))
        .unwrap();
    let named = rustix::fs::open(scene.path("runner.log"), OFlags::PATH, Mode::empty()).unwrap();
    let other = appended(&scene.path("other.log"));
    for file in [
        not_appended.as_fd(),
        named.as_fd(),
        other.as_fd(),
        own.as_fd(),
    ] {
        scene.refuses(start(), &[own.as_fd(), file], "data directory only");
    }
    scene.refuses(start(), &[own.as_fd()], "1 descriptors came");
    scene.give(start(), &[own.as_fd(), errors.as_fd()]);
    assert_eq!(scene.answer(), Answer::Done);
    assert_eq!(scene.done.recv(), Ok("runner"));
}

#[test]
fn directories_are_those_that_the_service_could_read() {
    let mut scene = scene();
    scene.greet();
    let detach = || Errand::Detach { read_only: true };
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let named = rustix::fs::open("/", flags, Mode::empty()).unwrap();
    let file = scene.errors();
    for given in [named.as_fd(), file.as_fd(), scene.service.as_fd()] {
        scene.refuses(detach(), &[given], "opened for reading");
    }
    scene.refuses(detach(), &[], "0 descriptors came");
    let own = File::open(scene.directory.path()).unwrap();
    scene.give(detach(), &[own.as_fd()]);
    assert_eq!(scene.answer(), Answer::Done);
    assert_eq!(scene.done.recv(), Ok("detach"));
}

#[test]
fn programs_come_in_memory_that_nobody_changes() {
    let mut scene = scene();
    scene.greet();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"program").unwrap();
    let (never_ends, _writer) = io::pipe().unwrap();
    let open = rustix::fs::MemfdFlags::ALLOW_SEALING;
    let mut unsealed = File::from(rustix::fs::memfd_create("x", open).unwrap());
    unsealed.write_all(b"program").unwrap();
    for given in [file.as_fd(), never_ends.as_fd(), unsealed.as_fd()] {
        scene.refuses(Errand::Add(WASM), &[given], "sealed");
    }
}

#[test]
fn what_makes_no_sense_ends_the_link() {
    for bytes in [&b"STRN\xff\0"[..], b"GET / ", &[0xFF; 64]] {
        let scene = scene();
        (&scene.service).write_all(bytes).unwrap();
        scene.service.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = Vec::new();
        // Its hello, and then the end: it does not go on with it.
        io::Read::read_to_end(&mut &scene.service, &mut said).unwrap_or_default();
        assert!(said.len() <= 6, "{said:?}");
    }
}

#[test]
fn building_keeps_nobody_else_waiting_and_has_a_limit() {
    let scene = scene();
    let service = scene.service.try_clone().unwrap();
    let manager = Greeted::hear(service).unwrap().start(|| {}).unwrap();
    let manager = Arc::new(manager);
    let builds = |count: usize| {
        let build = || {
            let manager = Arc::clone(&manager);
            thread::spawn(move || manager.add(&WASM, (*b"program").into()))
        };
        std::iter::repeat_with(build)
            .take(count)
            .collect::<Vec<_>>()
    };
    let building = builds(1);
    assert_eq!(scene.done.recv(), Ok("add"));
    // One builds; everything else is done meanwhile.
    let program = ProgramId::of(b"program");
    assert!(manager.has(&WASM, &program));
    manager.module(&program).unwrap();
    assert_eq!(
        manager.prepare(&WASM, &program, &[]),
        Err("nothing of it".into())
    );
    let size = WindowSize {
        columns: 9,
        rows: 5,
    };
    let [_master, end] = manager.terminal(size).unwrap();
    assert_eq!(rustix::termios::tcgetwinsize(end).unwrap().ws_col, 9);
    // More at once than there may be: some are refused, and the others are done.
    let more = builds(2 * ERRANDS_MAX);
    let all = building.into_iter().chain(more).collect::<Vec<_>>();
    let too_many = all.len() - ERRANDS_MAX;
    while all.iter().filter(|one| one.is_finished()).count() < too_many {
        thread::yield_now();
    }
    for _ in &all {
        scene.let_add.send(()).unwrap();
    }
    let ended = all.into_iter().map(|one| one.join().unwrap());
    let failed: Vec<String> = ended.filter_map(Result::err).collect();
    assert!(!failed.is_empty() && failed.iter().all(|why| why.contains("too much")));
    manager.has(&WASM, &program);
}

#[test]
fn a_manager_that_goes_is_missed_once_and_answers_nobody() {
    let (gone, is_gone) = mpsc::channel();
    let scene = scene();
    let service = scene.service.try_clone().unwrap();
    let told = gone.clone();
    let manager = Greeted::hear(service)
        .unwrap()
        .start(move || told.send(()).unwrap());
    let manager = Arc::new(manager.unwrap());
    let waiting = Arc::clone(&manager);
    let waiting = thread::spawn(move || waiting.add(&WASM, (*b"program").into()));
    assert_eq!(scene.done.recv(), Ok("add"));
    // As if it had been killed.
    scene.service.shutdown(std::net::Shutdown::Both).unwrap();
    is_gone.recv().unwrap();
    let why = waiting.join().unwrap().unwrap_err();
    assert!(why.contains("manager is gone"), "{why}");
    assert!(!manager.has(&WASM, &ProgramId::of(b"program")));
    // Who ends it does not miss it.
    let scene = self::scene();
    let service = scene.service.try_clone().unwrap();
    let manager = Greeted::hear(service)
        .unwrap()
        .start(move || gone.send(()).unwrap());
    drop(manager);
    assert!(is_gone.recv().is_err());
}

/// The socket of a runner that has been started is not taken from it.
#[test]
fn a_socket_in_use_stays_whose_it_is() {
    let mut scene = scene();
    scene.greet();
    let path = scene.path("runner.sock");
    let _listening = UnixListener::bind(&path).unwrap();
    let errors = scene.errors();
    let connected = UnixStream::connect(&path).unwrap();
    scene.refuses(
        Errand::StartRunner,
        &[connected.as_fd(), errors.as_fd()],
        "data directory only",
    );
}
