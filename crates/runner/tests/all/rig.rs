//! Runners as processes of their own, and services that order them about.

use std::fs::{self, File, OpenOptions};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use sterna_migration::{
    Attempt, Command, Grant, Holding, MoveId, NodeId, Offer, Rest, RunnerEvent, Size, Strategy,
};
use sterna_process::{Epoch, Exit, Limits, ProcessId, Program, Tag};
use sterna_runner::Handle;
use sterna_runner::log::{LogReader, Stream};
use sterna_runner::message::{
    Answer, Ended, Holdings, Order, Place, Said, Secret, Seen, Side, Spawn,
};
use sterna_sys::spawn::{self, Child};
use tempfile::TempDir;

/// After so long without what a test waits for, it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The node that moves come from in these tests.
pub(crate) const SOURCE: NodeId = NodeId::from_bytes([1; 32]);
const TARGET: NodeId = NodeId::from_bytes([2; 32]);
const GRANT: Grant = Grant::from_bytes([9; 16]);

/// A runner. Dropping it kills it, and nothing of it may be left.
pub(crate) struct Runner {
    folder: TempDir,
    pub(crate) child: Child,
}

impl Runner {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let child = spawn::Spawn::new(env!("CARGO_BIN_EXE_sterna-runner-trial"))
            .descriptor("RUNNER_LISTENER", listener.into())
            .stderr(std::io::stderr().as_fd().try_clone_to_owned().unwrap())
            .die_with_this_thread()
            .start()
            .unwrap();
        Self { folder, child }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A service that it obeys.
    pub(crate) fn service(&self) -> Service {
        let service = self.stranger();
        service.holdings();
        service
    }

    /// A service that has not asked what there is.
    pub(crate) fn stranger(&self) -> Service {
        let (sender, said) = mpsc::channel();
        let handle = Handle::connect(&self.path("socket"), move |said| {
            let _ = sender.send(said);
        });
        Service {
            handle: handle.unwrap(),
            said,
        }
    }

    /// A connection on which anything can be sent.
    pub(crate) fn raw(&self) -> UnixStream {
        UnixStream::connect(self.path("socket")).unwrap()
    }

    /// Open descriptors, threads, and resident memory in KiB.
    pub(crate) fn uses(&self) -> (usize, usize, u64) {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let count = |name: &str| fs::read_dir(proc.join(name)).unwrap().count();
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let resident = line.and_then(|line| line.split_whitespace().nth(1));
        (
            count("fd"),
            count("task"),
            resident.unwrap().parse().unwrap(),
        )
    }

    pub(crate) fn log(&self, name: &str) -> File {
        let path = self.path(name);
        let opened = OpenOptions::new().create_new(true).append(true).open(path);
        opened.unwrap()
    }

    /// What a process has written into a log.
    pub(crate) fn text(&self, log: &str) -> String {
        text_of(&self.path(log))
    }

    /// That it ends by itself.
    #[track_caller]
    pub(crate) fn ends(&mut self) {
        let exit = self.child.wait(Some(PATIENCE)).unwrap();
        assert!(exit.is_some_and(|exit| exit.status.success()), "{exit:?}");
    }
}

/// The output in a log, without the numbers that say where it is.
pub(crate) fn text_of(path: &Path) -> String {
    let Ok(mut reader) = LogReader::open(File::open(path).unwrap()) else {
        return String::new();
    };
    let mut text = Vec::new();
    while let Some(record) = reader.next_after(0).unwrap() {
        assert_eq!(record.stream, Stream::Output);
        text.extend(record.bytes);
    }
    String::from_utf8(text).unwrap()
}

/// The service's side of a link.
pub(crate) struct Service {
    pub(crate) handle: Handle,
    said: Receiver<Option<Said>>,
}

impl Service {
    /// Gives an order and waits for its answer.
    pub(crate) fn ask(&self, order: Order, descriptors: Vec<OwnedFd>) -> Result<Answer, String> {
        self.asked(order, descriptors)
            .recv_timeout(PATIENCE)
            .expect("an answer")
    }

    /// Gives an order whose answer is not waited for yet.
    pub(crate) fn asked(
        &self,
        order: Order,
        descriptors: Vec<OwnedFd>,
    ) -> Receiver<Result<Answer, String>> {
        let (sender, answer) = mpsc::channel();
        self.handle.ask(order, descriptors, move |result| {
            let _ = sender.send(result);
        });
        answer
    }

    #[track_caller]
    pub(crate) fn done(&self, order: Order) {
        let answer = self.ask(order, Vec::new());
        assert!(matches!(answer, Ok(Answer::Done)), "{answer:?}");
    }

    pub(crate) fn holdings(&self) -> Holdings {
        match self.ask(Order::Holdings, Vec::new()) {
            Ok(Answer::Holdings(holdings)) => holdings,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn seen(&self, process: ProcessId) -> Seen {
        match self.ask(Order::Look(process), Vec::new()) {
            Ok(Answer::Seen(mut seen)) => seen.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// Everything that it says until something is found in it.
    #[track_caller]
    pub(crate) fn hear<T>(&self, what: &str, mut find: impl FnMut(Said) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let said = self.said.recv_timeout(left);
            let said = said.unwrap_or_else(|error| panic!("waited for {what}: {error}"));
            let said = said.unwrap_or_else(|| panic!("waited for {what}: the link has ended"));
            if let Some(found) = find(said) {
                return found;
            }
        }
    }

    #[track_caller]
    pub(crate) fn event(&self, expected: &RunnerEvent) {
        let mut heard = Vec::new();
        self.hear(&format!("{expected:?}"), |said| match said {
            Said::Event(event) if event == *expected => Some(()),
            other => {
                heard.push(format!("{other:?}"));
                assert!(heard.len() < 100, "{heard:?}");
                None
            }
        });
    }

    #[track_caller]
    pub(crate) fn ended(&self, process: ProcessId) -> Ended {
        self.hear("an end", |said| match said {
            Said::Ended(ended) if ended.process == process => Some(ended),
            _ => None,
        })
    }

    /// Waits until the link has ended.
    pub(crate) fn is_cut(&self) {
        while self.said.recv_timeout(PATIENCE).unwrap().is_some() {}
    }

    /// Starts a process that writes into this log.
    pub(crate) fn try_spawn(
        &self,
        kind: Tag,
        program: &Program,
        log: File,
    ) -> Result<ProcessId, String> {
        let (process, order) = spawn(kind, program);
        self.ask(order, vec![log.into()]).map(|_| process)
    }

    pub(crate) fn spawn(&self, kind: Tag, program: &Program, log: File) -> ProcessId {
        self.try_spawn(kind, program, log).unwrap()
    }

    pub(crate) fn step(&self, command: Command) {
        let place = None;
        self.handle
            .order(Order::Step { command, place }, Vec::new());
    }

    pub(crate) fn channel(&self, attempt: Attempt, connection: TcpStream, secret: u8, side: Side) {
        let secret = Secret([secret; 32]);
        let order = Order::Channel {
            attempt,
            secret,
            side,
        };
        self.handle.order(order, vec![connection.into()]);
    }
}

/// What a process has that has nothing but a log.
/// An order to start a process.
pub(crate) fn spawn(kind: Tag, program: &Program) -> (ProcessId, Order) {
    let process = ProcessId::random();
    let spawn = Spawn {
        process,
        epoch: Epoch::FIRST,
        kind,
        program: program.id(),
        arguments: Vec::new(),
        variables: Vec::new(),
        entry: None,
        place: place(),
    };
    (process, Order::Spawn(Box::new(spawn)))
}

pub(crate) fn place() -> Place {
    Place {
        limits: Limits::default(),
        directories: Vec::new(),
        input: false,
        came_from: None,
        terminal: false,
        ports: Vec::new(),
    }
}

/// The two ends of a TCP connection.
pub(crate) fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

/// A move, step by step.
pub(crate) struct Journey<'a> {
    pub(crate) from: &'a Service,
    pub(crate) to: &'a Service,
    pub(crate) attempt: Attempt,
    offer: Offer,
}

impl<'a> Journey<'a> {
    /// Of a process that runs there.
    pub(crate) fn of(process: ProcessId, from: &'a Service, to: &'a Service) -> Self {
        let seen = from.seen(process);
        let Holding::Running { epoch } = seen.holding else {
            panic!("it does not run: {seen:?}");
        };
        let move_id = MoveId::from_bytes(*ProcessId::random().as_bytes());
        let attempt = Attempt {
            process,
            epoch,
            move_id,
        };
        let offer = Offer {
            kind: seen.kind,
            program: seen.program,
            layout: seen.layout,
            image_format: sterna_process::image::FORMAT_NEWEST,
            strategy: Strategy::StopAndCopy,
        };
        Self {
            from,
            to,
            attempt,
            offer,
        }
    }

    /// Asks for room, with a log.
    pub(crate) fn ask_for_room(&self, log: File) {
        let command = Command::Prepare {
            attempt: self.attempt,
            offer: self.offer.clone(),
        };
        let came_from = Some(SOURCE);
        let place = Some(Box::new(Place {
            came_from,
            ..place()
        }));
        let order = Order::Step { command, place };
        self.to.handle.order(order, vec![log.into()]);
    }

    pub(crate) fn prepare(&self, log: File) {
        self.ask_for_room(log);
        let attempt = self.attempt;
        self.to.event(&RunnerEvent::Prepared {
            attempt,
            can_follow: true,
        });
    }

    /// Connects both runners.
    pub(crate) fn connect(&self) {
        self.connect_with((7, 7), tcp());
    }

    pub(crate) fn connect_with(&self, secrets: (u8, u8), (one, other): (TcpStream, TcpStream)) {
        let source = SOURCE;
        self.to.channel(
            self.attempt,
            other,
            secrets.1,
            Side::Target {
                source,
                lane: false,
            },
        );
        self.from
            .channel(self.attempt, one, secrets.0, Side::Source { lane: false });
    }

    pub(crate) fn pause(&self) {
        self.pause_within(Duration::from_secs(10));
    }

    pub(crate) fn pause_within(&self, within: Duration) {
        let attempt = self.attempt;
        self.from.step(Command::Pause { attempt, within });
        self.from.event(&RunnerEvent::Paused { attempt });
    }

    pub(crate) fn capture(&self) -> Size {
        let attempt = self.attempt;
        self.from.step(Command::Capture { attempt });
        self.from.hear("a capture", |said| match said {
            Said::Event(RunnerEvent::Captured { attempt: of, size }) if of == attempt => Some(size),
            _ => None,
        })
    }

    /// Pushes, and says what came of it.
    pub(crate) fn push(&self) -> Result<(), String> {
        self.push_so(Rest::Along)
    }

    pub(crate) fn push_so(&self, rest: Rest) -> Result<(), String> {
        let attempt = self.attempt;
        let target = TARGET;
        self.from.step(Command::Push {
            attempt,
            target,
            rest,
        });
        self.from.hear("a push", |said| match said {
            Said::Event(RunnerEvent::Pushed { attempt: of }) if of == attempt => Some(Ok(())),
            Said::Event(RunnerEvent::PushFailed {
                attempt: of,
                reason,
            }) if of == attempt => Some(Err(reason)),
            _ => None,
        })
    }

    /// The same move, with services that came later.
    pub(crate) fn taken_up(self, from: &'a Service, to: &'a Service) -> Self {
        Self { from, to, ..self }
    }

    pub(crate) fn restore(&self, size: Size) {
        let attempt = self.attempt;
        self.to.step(Command::Restore {
            attempt,
            source: SOURCE,
            grant: GRANT,
            size,
        });
        self.to.event(&RunnerEvent::Restored { attempt });
    }

    /// It belongs to the target now.
    pub(crate) fn go_on(&self) {
        let (attempt, process) = (self.attempt, self.attempt.process);
        let epoch = attempt.epoch.next().unwrap();
        self.to.step(Command::Resume { process, epoch });
        self.to.event(&RunnerEvent::Resumed {
            process,
            epoch,
            follows: false,
        });
        self.from.step(Command::Discard { attempt });
    }

    /// All of it.
    pub(crate) fn travel(&self, log: File) {
        self.prepare(log);
        self.connect();
        self.stop_and_go();
    }

    /// What is left of it, once there is a connection.
    pub(crate) fn stop_and_go(&self) {
        self.pause();
        let size = self.capture();
        self.push().unwrap();
        self.restore(size);
        self.go_on();
    }
}

/// That it ended by itself, well.
#[track_caller]
pub(crate) fn went_well(ended: &Ended) {
    assert_eq!(ended.exit, Exit::Code(0));
}
