//! [`Aides`]: kernel threads that wait for the disk, so that an event loop does not.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use sterna_threads::sync::channel::{Sender, unbounded};
use sterna_threads::{Builder, Runtime};

use crate::files::answer::Answer;
use crate::files::connection::Inquiry;
use crate::files::range::Part;
use crate::files::site::{BUFFER_BYTES, Site};

/// What an aide is asked to do.
pub(super) enum Errand {
    Find(Inquiry<'static>),
    Load(Arc<File>, Part),
}

/// What came of it.
pub(super) enum Result {
    Found(Answer),
    /// As much of a part as was read, from its beginning; nothing at the end of the file.
    Loaded(io::Result<Vec<u8>>),
}

/// Who is answered: a connection by its place, and by a number that no other has had there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) place: usize,
    pub(super) number: u64,
}

/// Kernel threads, errands for them, and what came of those.
pub(super) struct Aides {
    /// Each connection has at most one errand, so the limit of connections bounds this.
    errands: Sender<(Client, Errand)>,
    done: Arc<Done>,
    /// Dropped last: its threads end when no errand can come any more.
    _runtime: Runtime,
}

struct Done {
    results: Mutex<Vec<(Client, Result)>>,
    event: OwnedFd,
}

impl Done {
    fn results(&self) -> MutexGuard<'_, Vec<(Client, Result)>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, client: Client, result: Result) {
        self.results().push((client, result));
        // It fails only if nobody took 2^64 results.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}

impl Aides {
    pub(super) fn new(site: &Arc<Site>, count: usize) -> io::Result<Self> {
        let runtime = Runtime::kernel()?;
        let (errands, work) = unbounded::<(Client, Errand)>();
        let done = Arc::new(Done {
            results: Mutex::default(),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        for number in 0..count.max(1) {
            let (site, work, done) = (Arc::clone(site), work.clone(), Arc::clone(&done));
            let aide = Builder::new().name(format!("aide-{number}"));
            runtime.spawn(aide, move || {
                for (client, errand) in work.iter() {
                    done.add(client, run(&site, errand));
                }
            })?;
        }
        Ok(Self {
            errands,
            done,
            _runtime: runtime,
        })
    }

    pub(super) fn send(&self, client: Client, errand: Errand) {
        // There are always aides, since they end after this sender.
        let _ = self.errands.send((client, errand));
    }

    /// What was done since the last time.
    pub(super) fn take(&self) -> Vec<(Client, Result)> {
        let _ = rustix::io::read(&self.done.event, &mut [0; 8]);
        std::mem::take(&mut *self.done.results())
    }
}

/// Readable when something was done.
impl AsFd for Aides {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.event.as_fd()
    }
}

fn run(site: &Site, errand: Errand) -> Result {
    match errand {
        Errand::Find(inquiry) => Result::Found(inquiry.make()),
        Errand::Load(file, part) => {
            let length = usize::try_from(part.length).unwrap_or(BUFFER_BYTES);
            let mut bytes = vec![0; length.min(BUFFER_BYTES)];
            let read = site.read(&file, &mut bytes, part.offset);
            Result::Loaded(read.map(|count| {
                bytes.truncate(count);
                bytes
            }))
        }
    }
}
