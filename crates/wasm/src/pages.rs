//! A guest's linear memories as movers see them: regions of pages, see [`sterna_process::Memory`].

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use sterna_process::{MemoryError, MemoryLayout, PageRun, PageRuns, PageSource, Region, RegionId};
use sterna_sys::memory::{self, PAGE_BYTES, Reservation, Scanner};
use sterna_sys::tracking::DirtyTracker;

use crate::later::Later;
use crate::stop::Signals;

/// Runs from this length on are provided as a whole before they are written: one request then takes less than so many
/// faults.
const POPULATED_PAGES_MIN: u64 = 8;

/// One linear memory.
pub(crate) struct GuestRegion {
    pub(crate) memory: Arc<Reservation>,
    /// The most that its type lets it grow to, in pages.
    pub(crate) pages_max: u64,
}

/// All linear memories of a guest; region numbers are original memory indices.
pub(crate) struct GuestPages {
    regions: Vec<GuestRegion>,
    trackers: Mutex<Option<Vec<DirtyTracker>>>,
    /// Those that come after the guest.
    later: OnceLock<Weak<Later>>,
}

impl GuestPages {
    pub(crate) fn new(regions: Vec<GuestRegion>) -> Arc<GuestPages> {
        Arc::new(GuestPages {
            regions,
            trackers: Mutex::new(None),
            later: OnceLock::new(),
        })
    }

    /// Has pages come after the guest, which does not run yet, and gives its memories these lengths. `lost` ends the guest.
    pub(crate) fn follow(
        &self,
        layout: &MemoryLayout,
        rest: Box<dyn PageSource>,
        signals: Arc<Signals>,
        lost: impl FnOnce() + Send + 'static,
    ) -> Result<(), MemoryError> {
        for (region, own) in layout.regions().iter().zip(&self.regions) {
            let bytes = region.pages.min(own.pages_max) as usize * PAGE_BYTES;
            let grown = own.memory.grow_to(bytes.max(own.memory.size()));
            grown.map_err(system("make room for pages"))?;
        }
        let memories: Vec<_> = self
            .regions
            .iter()
            .map(|region| region.memory.clone())
            .collect();
        let later = Later::start(&memories, rest, signals, lost)?;
        self.later.get_or_init(|| Arc::downgrade(&later));
        Ok(())
    }

    /// Nobody needs pages any more that have not come.
    pub(crate) fn give_up(&self) {
        if let Some(later) = self.later.get().and_then(Weak::upgrade) {
            later.give_up();
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.regions
            .iter()
            .map(|region| region.memory.size() as u64)
            .sum()
    }

    fn region(&self, run: PageRun) -> Result<&GuestRegion, MemoryError> {
        self.regions
            .get(run.region().0 as usize)
            .ok_or(MemoryError::OutOfRange { run })
    }

    fn runs(region: usize, runs: &[memory::PageRun]) -> impl Iterator<Item = PageRun> + '_ {
        let id = RegionId(region as u32);
        runs.iter()
            .filter_map(move |run| PageRun::new(id, run.first, run.count))
    }

    fn with_trackers<R>(
        &self,
        work: impl FnOnce(&mut [DirtyTracker]) -> Result<R, MemoryError>,
    ) -> Result<R, MemoryError> {
        let mut trackers = self.trackers.lock().unwrap_or_else(PoisonError::into_inner);
        work(trackers.as_mut().ok_or(MemoryError::NotTracking)?)
    }
}

/// Finds changed pages. Opened with the kind, since its process may be confined afterwards.
pub(crate) fn scanner() -> &'static Scanner {
    static SCANNER: OnceLock<Scanner> = OnceLock::new();
    SCANNER.get_or_init(Scanner::new)
}

fn system<E: std::error::Error + Send + Sync + 'static>(
    doing: &'static str,
) -> impl Fn(E) -> MemoryError {
    move |error| MemoryError::System {
        doing,
        source: io::Error::other(error),
    }
}

impl sterna_process::Memory for GuestPages {
    fn layout(&self) -> MemoryLayout {
        let region = |(index, region): (usize, &GuestRegion)| {
            let pages = (region.memory.size() / PAGE_BYTES) as u64;
            let pages_max = region.pages_max.max(pages).min(PageRun::MAX_PAGES);
            Region {
                id: RegionId(index as u32),
                name: format!("memory {index}"),
                pages,
                pages_max,
            }
        };
        MemoryLayout::new(self.regions.iter().enumerate().map(region).collect())
            .expect("wasmtime allows few memories, each within its maximum")
    }

    fn read(&self, runs: &[PageRun], buffer: &mut [u8]) -> Result<(), MemoryError> {
        MemoryError::check_length(runs, buffer.len())?;
        let mut rest = buffer;
        for &run in runs {
            let (into, more) = rest.split_at_mut(run.bytes() as usize);
            rest = more;
            let memory = &self.region(run)?.memory;
            memory
                .read(run.byte_offset() as usize, into)
                .map_err(|_| MemoryError::OutOfRange { run })?;
        }
        Ok(())
    }

    fn install(&self, runs: &[PageRun], bytes: &[u8]) -> Result<(), MemoryError> {
        MemoryError::check_length(runs, bytes.len())?;
        let mut rest = bytes;
        for &run in runs {
            let (from, more) = rest.split_at(run.bytes() as usize);
            rest = more;
            let region = self.region(run)?;
            let end = run.byte_offset() + run.bytes();
            if run.end() > region.pages_max {
                return Err(MemoryError::OutOfRange { run });
            }
            if end > region.memory.size() as u64 {
                region
                    .memory
                    .grow_to(end as usize)
                    .map_err(system("make room for pages"))?;
            }
            let (memory, offset) = (&region.memory, run.byte_offset() as usize);
            let provided = match run.count() >= POPULATED_PAGES_MIN {
                true => memory.populate(offset, from.len()),
                false => Ok(()),
            };
            provided
                .and_then(|()| memory.write(offset, from))
                .map_err(|_| MemoryError::OutOfRange { run })?;
        }
        Ok(())
    }

    fn changed(&self) -> Result<PageRuns, MemoryError> {
        let scanner = scanner();
        let mut changed = PageRuns::new();
        for (index, region) in self.regions.iter().enumerate() {
            let pages = scanner
                .changed(&region.memory)
                .map_err(system("find the changed pages"))?;
            changed.extend(Self::runs(index, &pages.written));
            changed.extend(Self::runs(index, &pages.zeroed));
        }
        Ok(changed)
    }

    fn start_tracking(&self) -> Result<(), MemoryError> {
        let mut trackers = self.trackers.lock().unwrap_or_else(PoisonError::into_inner);
        if trackers.is_some() {
            return Err(MemoryError::AlreadyTracking);
        }
        let start = |region: &GuestRegion| DirtyTracker::start(region.memory.clone());
        let started = self
            .regions
            .iter()
            .map(start)
            .collect::<Result<Vec<_>, _>>();
        *trackers = Some(started.map_err(system("watch for written pages"))?);
        Ok(())
    }

    fn take_dirty(&self) -> Result<PageRuns, MemoryError> {
        self.with_trackers(|trackers| {
            let mut dirty = PageRuns::new();
            for (index, tracker) in trackers.iter_mut().enumerate() {
                let runs = tracker.take().map_err(system("look for written pages"))?;
                dirty.extend(Self::runs(index, &runs));
            }
            Ok(dirty)
        })
    }

    fn put_back(&self, runs: &[PageRun]) -> Result<(), MemoryError> {
        self.with_trackers(|trackers| {
            let runs = by_memory(runs, trackers.len())?;
            // All at once: each time they are put in order.
            for (tracker, runs) in trackers.iter_mut().zip(runs) {
                tracker.put_back(&runs);
            }
            Ok(())
        })
    }

    fn stop_tracking(&self) -> Result<(), MemoryError> {
        let mut trackers = self.trackers.lock().unwrap_or_else(PoisonError::into_inner);
        trackers.take().map(drop).ok_or(MemoryError::NotTracking)
    }
}

/// The runs of each of so many memories.
pub(crate) fn by_memory(
    runs: &[PageRun],
    count: usize,
) -> Result<Vec<Vec<memory::PageRun>>, MemoryError> {
    let mut all = vec![Vec::new(); count];
    for &run in runs {
        let of_memory = all.get_mut(run.region().0 as usize);
        of_memory
            .ok_or(MemoryError::OutOfRange { run })?
            .push(memory::PageRun {
                first: run.first(),
                count: run.count(),
            });
    }
    Ok(all)
}
