//! The service's end of the link to its manager.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sterna_process::{ProgramId, Tag, Waypoint};
use sterna_runner::link::{self, LinkError};
use sterna_runner::message::WindowSize;

use super::message::{Answer, Answered, Asked, Errand, Ready};
use super::serve::sealed_bytes;
use crate::limits::MANAGER_WITHIN;
use crate::trees::{TreeDeed, TreeDone};
use crate::workshop::Workshop;

const GONE: &str = "the node's manager is gone";

/// A manager that has said that it is ready. No thread was started for it: its service can still confine itself.
#[derive(Debug)]
pub struct Greeted {
    stream: UnixStream,
    ready: Ready,
}

impl Greeted {
    /// Waits for the manager at the other end to be ready.
    ///
    /// # Errors
    /// It is something else, or ends, or takes too long.
    pub fn hear(mut stream: UnixStream) -> Result<Self, LinkError> {
        stream.set_read_timeout(Some(MANAGER_WITHIN))?;
        link::greet(&mut stream)?;
        let (ready, _) = link::receive(&stream)?;
        stream.set_read_timeout(None)?;
        Ok(Self { stream, ready })
    }

    /// How well it is confined.
    #[must_use]
    pub fn confinement(&self) -> &str {
        &self.ready.confinement
    }

    /// Lets errands be given to it. When it has gone, `on_gone` is called, unless that is because nobody needs it any more.
    ///
    /// # Errors
    /// The system has no more threads or descriptors.
    pub fn start(self, on_gone: impl FnOnce() + Send + 'static) -> io::Result<Manager> {
        let Self { stream, ready } = self;
        let reading = stream.try_clone()?;
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let takers = Arc::clone(&waiting);
        thread::Builder::new()
            .name("manager".into())
            .spawn(move || {
                if read(&reading, &takers) {
                    on_gone();
                }
            })?;
        Ok(Manager {
            stream: Mutex::new(stream),
            kinds: ready.kinds,
            waiting,
            next: AtomicU64::new(0),
        })
    }
}

#[derive(Default)]
struct Waiting {
    takers: HashMap<u64, SyncSender<(Answer, Vec<OwnedFd>)>>,
    is_over: bool,
    /// This side has ended the link.
    is_ended_here: bool,
}

/// A manager, as its service sees it. Dropped, it ends.
pub struct Manager {
    stream: Mutex<UnixStream>,
    kinds: Vec<Tag>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU64,
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").finish_non_exhaustive()
    }
}

impl Manager {
    /// Ends the link, and with it the manager. Whoever waits for an answer gets none.
    pub fn end(&self) {
        locked(&self.waiting).is_ended_here = true;
        let _ = locked(&self.stream).shutdown(Shutdown::Both);
    }

    /// Has an errand run, and waits for its end.
    fn ask(&self, errand: Errand, given: &[BorrowedFd<'_>]) -> Result<Brought, String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (taker, taken) = mpsc::sync_channel(1);
        {
            let mut waiting = locked(&self.waiting);
            if waiting.is_over {
                return Err(GONE.into());
            }
            waiting.takers.insert(number, taker);
        }
        let sent = link::send(&locked(&self.stream), &Asked { number, errand }, given);
        if let Err(error) = sent {
            locked(&self.waiting).takers.remove(&number);
            return Err(error.to_string());
        }
        match taken.recv() {
            Ok((Answer::Failed(why), _)) => Err(why),
            Ok((answer, descriptors)) => Ok(Brought {
                is: answer == Answer::Is(true),
                descriptors,
            }),
            Err(_) => Err(GONE.into()),
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.end();
    }
}

/// What came back from an errand.
struct Brought {
    is: bool,
    descriptors: Vec<OwnedFd>,
}

impl Brought {
    fn descriptors<const COUNT: usize>(self) -> Result<[OwnedFd; COUNT], String> {
        let all = self.descriptors.try_into();
        all.map_err(|_| "the manager answers another question".into())
    }
}

/// Gives answers to whom they belong, until the link ends. The answer: whether the other side has ended it.
fn read(stream: &UnixStream, waiting: &Mutex<Waiting>) -> bool {
    while let Ok((Answered { number, answer }, descriptors)) = link::receive(stream) {
        if let Some(taker) = locked(waiting).takers.remove(&number) {
            let _ = taker.send((answer, descriptors));
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
    let mut waiting = locked(waiting);
    waiting.is_over = true;
    waiting.takers.clear();
    !waiting.is_ended_here
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A memory file with these bytes, which nobody can change any more.
pub(super) fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("sterna", flags)?);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, super::serve::SEALS | SealFlags::SEAL)?;
    Ok(file.into())
}

impl Workshop for Manager {
    fn kinds(&self) -> Vec<Tag> {
        self.kinds.clone()
    }

    fn start_runner(&self, bound: OwnedFd, errors: File) -> io::Result<()> {
        let started = self.ask(Errand::StartRunner, &[bound.as_fd(), errors.as_fd()]);
        started.map(drop).map_err(io::Error::other)
    }

    fn has(&self, kind: &Tag, program: &ProgramId) -> bool {
        let asked = self.ask(Errand::Has(kind.clone(), *program), &[]);
        asked.is_ok_and(|brought| brought.is)
    }

    fn module(&self, program: &ProgramId) -> Result<File, String> {
        let [file] = self.ask(Errand::Module(*program), &[])?.descriptors()?;
        Ok(file.into())
    }

    fn add(&self, kind: &Tag, bytes: Arc<[u8]>) -> Result<(), String> {
        let file = sealed(&bytes).map_err(|error| error.to_string())?;
        // It may take long to compile, and is needed no more.
        drop(bytes);
        self.ask(Errand::Add(kind.clone()), &[file.as_fd()])
            .map(drop)
    }

    fn prepare(
        &self,
        kind: &Tag,
        program: &ProgramId,
        waypoints: &[Waypoint],
    ) -> Result<(), String> {
        let errand = Errand::Prepare {
            kind: kind.clone(),
            program: *program,
            waypoints: waypoints.to_vec(),
        };
        self.ask(errand, &[]).map(drop)
    }

    fn expect_moves(&self, kind: &Tag, program: &ProgramId) {
        // What is not prepared is compiled when it is needed.
        let _ = self.ask(Errand::ExpectMoves(kind.clone(), *program), &[]);
    }

    fn detach(&self, directory: OwnedFd, read_only: bool) -> io::Result<OwnedFd> {
        let brought = self.ask(Errand::Detach { read_only }, &[directory.as_fd()]);
        let [tree] = brought
            .and_then(Brought::descriptors)
            .map_err(io::Error::other)?;
        Ok(tree)
    }

    fn tree(&self, deed: TreeDeed, directories: &[BorrowedFd<'_>]) -> Result<TreeDone, String> {
        let text = |error: io::Error| error.to_string();
        let deed = postcard::to_stdvec(&deed).map_err(|error| error.to_string())?;
        let deed = sealed(&deed).map_err(text)?;
        let mut given = vec![deed.as_fd()];
        given.extend(directories);
        let [done] = self.ask(Errand::Tree, &given)?.descriptors()?;
        let done = sealed_bytes(done.into())?;
        postcard::from_bytes(&done).map_err(|error| error.to_string())
    }

    fn terminal(&self, size: WindowSize) -> io::Result<[OwnedFd; 2]> {
        let brought = self.ask(Errand::Terminal(size), &[]);
        brought
            .and_then(Brought::descriptors)
            .map_err(io::Error::other)
    }
}
