//! A runner that was taken over says what it likes to its service: other processes, and the node, are not touched.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::SystemTime;

use sterna_migration::{Attempt, Holding, MoveId, RunnerEvent, Size};
use sterna_process::{Epoch, Exit, ProcessId, ProgramId, State, Stats, Tag, Waypoint};
use sterna_runner::link;
use sterna_runner::message::{Answer, Ended, Holdings, Numbered, Order, Paging, Said, WindowSize};

use super::world::{PATIENCE, Running};
use crate::limits::PREPARING_MAX;
use crate::workshop::Workshop;

/// Starts runners that are threads of this test, and make ready nothing.
pub(crate) struct Prison {
    links: Mutex<Sender<UnixStream>>,
    preparing: AtomicUsize,
    most: AtomicUsize,
}

/// The program that it has, by its own word, and its length.
pub(super) const LARGE: ProgramId = ProgramId::from_bytes([7; 32]);
pub(super) const LARGE_BYTES: usize = 1 << 20;

impl Prison {
    /// One, and where its links come out.
    pub(crate) fn new() -> (Arc<Self>, Receiver<UnixStream>) {
        let (links, linked) = mpsc::channel();
        let prison = Self {
            links: Mutex::new(links),
            preparing: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        };
        (Arc::new(prison), linked)
    }
}

impl std::fmt::Debug for Prison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prison")
    }
}

impl Workshop for Prison {
    fn kinds(&self) -> Vec<Tag> {
        vec![Tag::new("wasm")]
    }

    fn start_runner(&self, bound: OwnedFd, _: File) -> io::Result<()> {
        rustix::net::listen(&bound, 16)?;
        let listener = UnixListener::from(bound);
        let links = self.links.lock().unwrap().clone();
        thread::spawn(move || {
            for mut link in listener.incoming().flatten() {
                if link::greet(&mut link).is_ok() && links.send(link).is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    fn has(&self, _: &Tag, _: &ProgramId) -> bool {
        true
    }

    fn terminal(&self, size: WindowSize) -> io::Result<[OwnedFd; 2]> {
        crate::workshop::terminal(size)
    }

    fn module(&self, program: &ProgramId) -> Result<File, String> {
        if *program != LARGE {
            return Err("there is none".into());
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; LARGE_BYTES]).unwrap();
        file.rewind().unwrap();
        Ok(file)
    }

    fn add(&self, _: &Tag, _: Arc<[u8]>) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&self, _: &Tag, _: &ProgramId, _: &[Waypoint]) -> Result<(), String> {
        let now = self.preparing.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        thread::yield_now();
        self.preparing.fetch_sub(1, Ordering::SeqCst);
        Err("nonsense".into())
    }

    fn expect_moves(&self, _: &Tag, _: &ProgramId) {}

    fn detach(&self, directory: OwnedFd, _: bool) -> io::Result<OwnedFd> {
        Ok(directory)
    }
}

fn holdings(held: Vec<(ProcessId, Holding)>) -> Holdings {
    Holdings {
        confinement: "full".into(),
        paging: Paging {
            dirty_pages: "none".into(),
            post_copy: "none".into(),
        },
        takes_directories: true,
        held,
        ended: Vec::new(),
    }
}

fn end_of(process: ProcessId) -> Ended {
    let now = SystemTime::UNIX_EPOCH;
    Ended {
        process,
        epoch: Epoch::FIRST,
        exit: Exit::Code(0),
        stats: Stats {
            state: State::Ended,
            started: now,
            cpu_time: PATIENCE,
            memory_bytes: 0,
            memory_bytes_peak: 0,
        },
        at: now,
    }
}

/// Answers the question that each service begins with.
pub(super) fn begin(link: &UnixStream, held: Vec<(ProcessId, Holding)>) {
    let (Numbered { number, order }, _) = link::receive(link).unwrap();
    assert!(matches!(order, Order::Holdings), "{order:?}");
    let answer = Ok(Answer::Holdings(holdings(held)));
    link::send(link, &Said::Answer { number, answer }, &[]).unwrap();
}

/// All that can be said of a process that is another node's.
fn lies(process: ProcessId) -> Vec<Said> {
    let attempt = Attempt {
        process,
        epoch: Epoch::FIRST,
        move_id: MoveId::from_bytes([3; 16]),
    };
    let (reason, epoch) = (String::from("\u{1b}[31m because"), Epoch(u64::MAX));
    let events = [
        RunnerEvent::Exited { process },
        RunnerEvent::Paused { attempt },
        RunnerEvent::Captured {
            attempt,
            size: Size {
                image_bytes: u64::MAX,
                pages: u64::MAX,
            },
        },
        RunnerEvent::Pushed { attempt },
        RunnerEvent::Prepared {
            attempt,
            can_follow: true,
        },
        RunnerEvent::Restored { attempt },
        RunnerEvent::Resumed {
            process,
            epoch,
            follows: false,
        },
        RunnerEvent::PrepareFailed {
            attempt,
            reason: reason.clone(),
        },
        RunnerEvent::PauseRefused { attempt, reason },
    ];
    let mut said = vec![Said::Ended(end_of(process))];
    said.extend(events.map(Said::Event));
    said.push(Said::Watched {
        attempt,
        us: u64::MAX,
        ready: true,
    });
    let answer = Err("of no order".into());
    let number = u64::MAX;
    said.push(Said::Answer { number, answer });
    said
}

#[test]
fn a_runner_that_was_taken_over_changes_nothing_of_others() {
    let (prison, linked) = Prison::new();
    let home = Running::start("home");
    let workshop: Arc<dyn Workshop> = prison.clone();
    let node = Running::start_with("captive", |options| options.workshop = Some(workshop));
    node.join(&home);
    // A process of the other node, by its own word.
    let process = ProcessId::random();
    let link = linked.recv_timeout(PATIENCE).unwrap();
    // It even claims to have it.
    let epoch = Epoch::FIRST;
    begin(&link, vec![(process, Holding::Running { epoch })]);
    for said in lies(process) {
        link::send(&link, &said, &[]).unwrap();
    }
    // More needs than can be met at once, and all are answered.
    let needs = 20 * PREPARING_MAX as u64;
    let writing = link.try_clone().unwrap();
    let asking = thread::spawn(move || {
        for number in 0..needs {
            let need = Said::Need {
                kind: Tag::new("wasm"),
                number,
                program: ProgramId::of(b"no program"),
                waypoints: vec![Waypoint(u64::MAX); 100],
            };
            link::send(&writing, &need, &[]).unwrap();
        }
    });
    let mut answered = 0;
    while answered < needs {
        let (Numbered { order, .. }, _) = link::receive(&link).unwrap();
        if let Order::Had { result, .. } = order {
            assert!(result.is_err());
            answered += 1;
        }
    }
    asking.join().unwrap();
    assert!(prison.most.load(Ordering::SeqCst) <= PREPARING_MAX);
    node.is_well();
    // A frame that is too long: the link is cut, and made again.
    (&link).write_all(&u32::MAX.to_le_bytes()).unwrap();
    (&link).write_all(&[0]).unwrap();
    let link = linked.recv_timeout(PATIENCE).unwrap();
    begin(&link, Vec::new());
    node.is_well();
    home.is_well();
}
