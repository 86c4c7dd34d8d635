//! Pages of a guest that come after it: it runs, and its thread waits in the kernel where it touches one that is not there.
//!
//! ```text
//!  guest ── touches ──► kernel ── touched ──► thread "touched" ── request ──► PageSource
//!    ▲                                                                            │
//!    └── goes on ◄── kernel ◄── give ── thread "followed" ◄────── completed ──────┘
//! ```
//!
//! The kernel waits for no page in a system call: host calls touch what they give to it ([`Signals::lacks`]).
//! A guest whose pages will not come is killed first, and only then finds zeros in their place: what it does with them until
//! its next poll stays in itself, since its host calls do nothing any more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sterna_process::{Arrival, MemoryError, PAGE_SIZE, PageRun, PageSet, PageSource, RegionId};
use sterna_sys::memory::{self, Reservation};
use sterna_sys::missing::{self, MissingPages};

use crate::pages::by_memory;
use crate::stop::Signals;

/// Between two looks at whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is still missing of a guest.
pub(crate) struct Later {
    missing: MissingPages,
    rest: Box<dyn PageSource>,
    signals: Arc<Signals>,
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
            over: AtomicBool::new(false),
        });
        later.signals.lacks.store(true, Ordering::Release);
        let started = |error| system("start a thread", error);
        let (touched, followed) = (later.clone(), later.clone());
        thread::Builder::new()
            .name("touched".into())
            .spawn(move || touched.ask())
            .map_err(started)?;
        let followed = thread::Builder::new()
            .name("followed".into())
            .spawn(move || {
                if !followed.take() {
                    lost();
                }
                followed.give_up();
            });
        if let Err(error) = followed {
            later.give_up();
            return Err(started(error));
        }
        Ok(later)
    }

    /// Whoever waits for a page goes on without it: the guest is dead, or will be before it does anything.
    pub(crate) fn give_up(&self) {
        self.over.store(true, Ordering::Release);
        self.missing.wake();
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Asks for what is touched.
    fn ask(&self) {
        while !self.is_over() {
            let Ok(touched) = self.missing.touched(Duration::MAX) else {
                return self.give_up();
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
                    return self.give_up();
                }
            }
        }
    }

    /// Takes what comes, until that is all; whether it is.
    fn take(&self) -> bool {
        while !self.is_over() {
            match self.rest.completed(LOOK_EVERY) {
                Ok(Arrival::Pages(pages)) => {
                    if let Err(error) = self.put(&pages) {
                        tracing::warn!(
                            "pages that have come cannot be put in their place: {error}"
                        );
                        return false;
                    }
                }
                Ok(Arrival::Nothing) => {}
                Ok(Arrival::Done) => {
                    self.signals.lacks.store(false, Ordering::Release);
                    return true;
                }
                Err(_) => return false,
            }
        }
        false
    }

    fn put(&self, pages: &PageSet) -> io::Result<()> {
        let mut bytes = Vec::new();
        for run in &pages.runs() {
            bytes.clear();
            for page in run.pages() {
                bytes.extend_from_slice(
                    pages
                        .page(run.region(), page)
                        .unwrap_or(&sterna_process::ZERO_PAGE),
                );
            }
            let memory = run.region().0 as usize;
            match bytes.iter().all(|byte| *byte == 0) {
                true => self.missing.give_zeros(
                    memory,
                    memory::PageRun {
                        first: run.first(),
                        count: run.count(),
                    },
                )?,
                false => self.missing.give(memory, run.first(), &bytes)?,
            }
        }
        Ok(())
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
