//! Pages of a guest that come after it: it runs, and its thread waits in the kernel where it touches one that is not there.
//!
//! ```text
//!  guest ── touches ──► kernel ── touched ──► thread "touched" ── request ──► PageSource
//!    ▲                                                                            │
//!    └── goes on ◄── kernel ◄── give ◄────────── put ── whoever receives it ──────┘
//! ```
//!
//! The kernel waits for no page in a system call: host calls touch what they give to it ([`Signals::lacks`]).
//! A guest whose pages will not come is killed first, and only then finds zeros in their place: what it does with them until
//! its next poll stays in itself, since its host calls do nothing any more.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use sterna_process::{
    MemoryError, PAGE_SIZE, PageRun, PageSink, PageSource, PageSourceError, RegionId,
};
use sterna_sys::memory::{self, Reservation};
use sterna_sys::missing::{self, MissingPages};

use crate::pages::by_memory;
use crate::stop::Signals;

/// Ends a guest whose pages will not come.
type Lost = Box<dyn FnOnce() + Send>;

/// What is still missing of a guest.
pub(crate) struct Later {
    missing: MissingPages,
    rest: Box<dyn PageSource>,
    signals: Arc<Signals>,
    lost: Mutex<Option<Lost>>,
    /// Nobody needs the pages any more, or they will not come.
    over: AtomicBool,
}

/// Whether this machine can do it; tried once.
pub(crate) fn is_possible() -> bool {
    static POSSIBLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *POSSIBLE.get_or_init(|| {
        let possible = missing::available();
        if let Err(error) = &possible {
            tracing::info!(
                "no process can come here before its memory: {}",
                crate::describe::chain(error)
            );
        }
        possible.is_ok()
    })
}

impl Later {
    /// Has what is missing of `memories` come from `rest`. If it does not come, `lost` ends the guest.
    pub(crate) fn start(
        memories: &[Arc<Reservation>],
        rest: Box<dyn PageSource>,
        signals: Arc<Signals>,
        lost: impl FnOnce() + Send + 'static,
    ) -> Result<Arc<Later>, MemoryError> {
        let runs: Vec<_> = rest.missing().iter().copied().collect();
        let runs = by_memory(&runs, memories.len())?;
        let runs = memories.iter().cloned().zip(runs.iter().map(Vec::as_slice));
        let missing = MissingPages::start(&runs.collect::<Vec<_>>());
        let later = Arc::new(Later {
            missing: missing
                .map_err(|error| system("have pages come later", io::Error::other(error)))?,
            rest,
            signals,
            lost: Mutex::new(Some(Box::new(lost))),
            over: AtomicBool::new(false),
        });
        later.signals.lacks.store(true, Ordering::Release);
        let touched = later.clone();
        thread::Builder::new()
            .name("touched".into())
            .spawn(move || touched.ask())
            .map_err(|error| system("start a thread", error))?;
        let sink: Weak<Later> = Arc::downgrade(&later);
        if let Err(error) = later.rest.connect(sink) {
            later.give_up();
            return Err(MemoryError::Rest(error));
        }
        Ok(later)
    }

    /// Whoever waits for a page goes on without it: the guest is dead, or will be before it does anything.
    pub(crate) fn give_up(&self) {
        self.over.store(true, Ordering::Release);
        self.missing.wake();
    }

    /// Ends the guest, unless all has come; then whoever waits for a page goes on without it.
    fn lose(&self) {
        if let Some(lost) = self.take_lost() {
            lost();
        }
        self.give_up();
    }

    fn take_lost(&self) -> Option<Lost> {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.take()
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Asks for what is touched.
    fn ask(&self) {
        while !self.is_over() {
            let Ok(touched) = self.missing.touched(Duration::MAX) else {
                return self.lose();
            };
            for touched in touched {
                let region = RegionId(touched.memory as u32);
                let own = self.rest.missing().contains(region, touched.page);
                let wanted = PageRun::page(region, touched.page).filter(|_| own);
                let given = match wanted {
                    // If nobody is there, who waits for pages hears of it.
                    Some(run) => {
                        let _ = self.rest.request(&[run]);
                        Ok(())
                    }
                    None => self.missing.give_initial(touched),
                };
                if given.is_err() {
                    return self.lose();
                }
            }
        }
    }
}

impl PageSink for Later {
    fn put(&self, run: PageRun, contents: Option<&[u8]>) -> Result<(), MemoryError> {
        if self.is_over() {
            return Ok(());
        }
        let memory = run.region().0 as usize;
        let (first, count) = (run.first(), run.count());
        let put = match contents {
            Some(bytes) => self.missing.give(memory, first, bytes),
            None => self
                .missing
                .give_zeros(memory, memory::PageRun { first, count }),
        };
        put.map_err(|error| system("put pages into their place", error))
    }

    fn end(&self, end: Result<(), PageSourceError>) {
        match end {
            Ok(()) => {
                drop(self.take_lost());
                self.signals.lacks.store(false, Ordering::Release);
                self.give_up();
            }
            Err(_) => self.lose(),
        }
    }
}

impl Drop for Later {
    /// Before its pages are let go of: a guest that has not ended finds no invented ones.
    fn drop(&mut self) {
        self.lose();
    }
}

/// Touches every page of an area; whether what was found there is the guest's own.
pub(crate) fn touch(area: &[u8], signals: &Signals) -> bool {
    let pages = area.chunks(PAGE_SIZE).filter_map(|page| page.first());
    let read = pages
        .chain(area.last())
        .fold(0, |read, byte| read | *std::hint::black_box(byte));
    std::hint::black_box(read);
    !signals.killed.load(Ordering::Acquire)
}

fn system(doing: &'static str, source: io::Error) -> MemoryError {
    MemoryError::System { doing, source }
}
