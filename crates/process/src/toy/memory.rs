//! The toy's memory: words that all threads may touch, with a flag for each page.
//!
//! Every region has room for its greatest length from the beginning, so growing only moves a number. The
//! flags do what other kinds ask of the operating system: *dirty* pages were written since somebody asked,
//! *missing* ones are still at the source of a move (post-copy).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::program::{CODE, DATA, PAGE_WORDS, ToyProgram};
use crate::memory::{
    Memory, MemoryError, MemoryLayout, PAGE_SIZE, PageSink, PageSource, PageSourceError, Region,
    RegionId,
};
use crate::pages::ZERO_PAGE;
use crate::run::{PageRun, PageRuns};

/// How long a reader waits for pages that are still at the source.
const ARRIVAL_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct ToyMemory {
    blocks: [Block; 2],
    tracking: AtomicBool,
    rest: Mutex<Rest>,
    /// Some of them came, or will not.
    came: Condvar,
}

/// Pages that are missing.
enum Rest {
    /// None.
    Nothing,
    /// They come from there.
    Coming(Arc<dyn PageSource>),
    /// They will not come, and why.
    Lost(String),
}

/// One region.
struct Block {
    region: Region,
    /// Length now, in pages.
    pages: AtomicU64,
    /// What the program starts with; zeros after that.
    initial: Vec<u64>,
    words: Vec<AtomicU64>,
    dirty: Vec<AtomicBool>,
    missing: Vec<AtomicBool>,
}

/// Why an access did not happen.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    OutOfBounds,
    /// The page is still at the source of a move.
    Missing(PageRun),
}

impl ToyMemory {
    /// The memory with which the program starts.
    pub(super) fn of(program: &ToyProgram) -> Result<Self, String> {
        let layout = program.layout().map_err(|error| error.to_string())?;
        let block = |id: RegionId, initial: Vec<u64>| {
            let region = layout
                .region(id)
                .cloned()
                .ok_or_else(|| format!("it has no region {id}"));
            region.map(|region| Block::new(region, initial))
        };
        let code = program
            .code
            .iter()
            .map(|instruction| instruction.encode())
            .collect();
        let blocks = [block(CODE, code)?, block(DATA, program.data.clone())?];
        Ok(Self {
            blocks,
            tracking: AtomicBool::new(false),
            rest: Mutex::new(Rest::Nothing),
            came: Condvar::new(),
        })
    }

    pub(super) fn load(&self, region: RegionId, word: u64) -> Result<u64, Fault> {
        let (block, place) = self.touch(region, word)?;
        Ok(block.words[place].load(Ordering::Relaxed))
    }

    pub(super) fn store(&self, region: RegionId, word: u64, value: u64) -> Result<(), Fault> {
        let (block, place) = self.touch(region, word)?;
        block.words[place].store(value, Ordering::Relaxed);
        // After the write: a reader that takes the flag before it reads the page either sees the write or
        // finds the page dirty again.
        block.dirty[place / PAGE_WORDS].store(true, Ordering::Release);
        Ok(())
    }

    fn touch(&self, region: RegionId, word: u64) -> Result<(&Block, usize), Fault> {
        let block = self.block(region).ok_or(Fault::OutOfBounds)?;
        let page = word / PAGE_WORDS as u64;
        if page >= block.pages.load(Ordering::Acquire) {
            return Err(Fault::OutOfBounds);
        }
        if block.missing[page as usize].load(Ordering::Acquire) {
            return Err(PageRun::page(region, page).map_or(Fault::OutOfBounds, Fault::Missing));
        }
        Ok((block, word as usize))
    }

    /// Makes the data longer by `pages`, if it can be; says how long it was.
    pub(super) fn grow(&self, pages: u64) -> Option<u64> {
        let block = self.block(DATA)?;
        let longer = |now: u64| {
            now.checked_add(pages)
                .filter(|&longer| longer <= block.region.pages_max)
        };
        block
            .pages
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, longer)
            .ok()
    }

    /// Sets the lengths of all regions; fails if these are not regions of this memory.
    pub(super) fn resize(&self, layout: &MemoryLayout) -> Result<(), String> {
        if layout.regions().len() != self.blocks.len() {
            return Err(format!("it has {} memory regions", layout.regions().len()));
        }
        for Region {
            id,
            pages,
            pages_max,
            ..
        } in layout.regions()
        {
            let block = self
                .block(*id)
                .ok_or_else(|| format!("it has a region {id}"))?;
            if *pages < block.region.pages || *pages_max != block.region.pages_max {
                return Err(format!("region {id} has {pages} of {pages_max} pages"));
            }
            block.pages.store(*pages, Ordering::Release);
        }
        Ok(())
    }

    /// From now on, the missing pages of `rest` come from there.
    pub(super) fn attach(self: &Arc<Self>, rest: Box<dyn PageSource>) -> Result<(), MemoryError> {
        self.each_flag(rest.missing(), |block, page| {
            block.missing[page].store(true, Ordering::Release)
        })?;
        let rest: Arc<dyn PageSource> = Arc::from(rest);
        *self.rest() = Rest::Coming(Arc::clone(&rest));
        let sink: Weak<Self> = Arc::downgrade(self);
        rest.connect(sink).map_err(MemoryError::Rest)
    }

    /// Whether pages are missing that will not come.
    pub(super) fn is_lost(&self) -> bool {
        matches!(*self.rest(), Rest::Lost(_))
    }

    /// Asks for pages, and waits while they are missing, at most for the time.
    pub(super) fn fetch(&self, wanted: PageRun, within: Duration) -> Result<(), PageSourceError> {
        let gone = |reason| Err(PageSourceError::Gone { reason });
        if !self.is_missing(wanted) {
            return Ok(());
        }
        let source = match &*self.rest() {
            Rest::Coming(source) => Arc::clone(source),
            Rest::Lost(reason) => return gone(reason.clone()),
            // It has come meanwhile.
            Rest::Nothing if !self.is_missing(wanted) => return Ok(()),
            Rest::Nothing => return gone(format!("it had sent all, but not {wanted}")),
        };
        source.request(&[wanted])?;
        let comes = |rest: &mut Rest| matches!(rest, Rest::Coming(_)) && self.is_missing(wanted);
        let waited = self.came.wait_timeout_while(self.rest(), within, comes);
        match &*waited.unwrap_or_else(PoisonError::into_inner).0 {
            Rest::Lost(reason) => gone(reason.clone()),
            Rest::Nothing | Rest::Coming(_) => Ok(()),
        }
    }

    /// A page that arrives late must not overwrite what was written since it came the first time.
    fn take_in(&self, region: RegionId, page: u64, contents: &[u8]) {
        let Some(block) = self.block(region) else {
            return;
        };
        let page = page as usize;
        if block
            .missing
            .get(page)
            .is_some_and(|missing| missing.load(Ordering::Acquire))
        {
            block.write(page, contents);
            block.missing[page].store(false, Ordering::Release);
        }
    }

    fn is_missing(&self, run: PageRun) -> bool {
        let block = self.block(run.region());
        block.is_some_and(|block| {
            run.pages().any(|page| {
                block
                    .missing
                    .get(page as usize)
                    .is_some_and(|m| m.load(Ordering::Acquire))
            })
        })
    }

    fn block(&self, region: RegionId) -> Option<&Block> {
        self.blocks.iter().find(|block| block.region.id == region)
    }

    /// The block of a run, all of whose pages are there now or could be.
    fn block_of(&self, run: PageRun, grown: bool) -> Result<&Block, MemoryError> {
        let length = |block: &Block| match grown {
            true => block.region.pages_max,
            false => block.pages.load(Ordering::Acquire),
        };
        let block = self
            .block(run.region())
            .filter(|block| run.end() <= length(block));
        block.ok_or(MemoryError::OutOfRange { run })
    }

    fn each_flag(&self, runs: &[PageRun], set: impl Fn(&Block, usize)) -> Result<(), MemoryError> {
        for &run in runs {
            let block = self.block_of(run, false)?;
            run.pages().for_each(|page| set(block, page as usize));
        }
        Ok(())
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pages_where(&self, is: impl Fn(&Block, usize) -> bool) -> PageRuns {
        let mut runs = Vec::new();
        for block in &self.blocks {
            let pages = 0..block.pages.load(Ordering::Acquire);
            let chosen = pages.filter(|&page| is(block, page as usize));
            runs.extend(chosen.filter_map(|page| PageRun::page(block.region.id, page)));
        }
        runs.into()
    }

    fn check_tracking(&self) -> Result<(), MemoryError> {
        if self.tracking.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(MemoryError::NotTracking)
        }
    }
}

impl Block {
    fn new(region: Region, initial: Vec<u64>) -> Self {
        let pages = region.pages_max as usize;
        let words =
            (0..pages * PAGE_WORDS).map(|i| AtomicU64::new(initial.get(i).copied().unwrap_or(0)));
        let flags = || (0..pages).map(|_| AtomicBool::new(false)).collect();
        Self {
            pages: AtomicU64::new(region.pages),
            words: words.collect(),
            dirty: flags(),
            missing: flags(),
            initial,
            region,
        }
    }

    fn page(&self, page: usize) -> &[AtomicU64] {
        &self.words[page * PAGE_WORDS..][..PAGE_WORDS]
    }

    fn read(&self, page: usize, contents: &mut [u8]) {
        for (word, bytes) in self.page(page).iter().zip(contents.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
    }

    fn write(&self, page: usize, contents: &[u8]) {
        for (word, &bytes) in self.page(page).iter().zip(contents.as_chunks().0) {
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }

    fn differs(&self, page: usize) -> bool {
        let initial = self
            .initial
            .iter()
            .skip(page * PAGE_WORDS)
            .copied()
            .chain(std::iter::repeat(0));
        self.page(page)
            .iter()
            .zip(initial)
            .any(|(word, initial)| word.load(Ordering::Relaxed) != initial)
    }
}

impl PageSink for ToyMemory {
    fn put(&self, run: PageRun, contents: Option<&[u8]>) -> Result<(), MemoryError> {
        for (number, page) in run.pages().enumerate() {
            let contents = contents.map(|contents| &contents[number * PAGE_SIZE..][..PAGE_SIZE]);
            self.take_in(run.region(), page, contents.unwrap_or(&ZERO_PAGE));
        }
        drop(self.rest());
        self.came.notify_all();
        Ok(())
    }

    fn end(&self, end: Result<(), PageSourceError>) {
        *self.rest() = match end {
            Ok(()) => Rest::Nothing,
            Err(PageSourceError::Gone { reason }) => Rest::Lost(reason),
            Err(error) => Rest::Lost(error.to_string()),
        };
        self.came.notify_all();
    }
}

impl Memory for ToyMemory {
    fn layout(&self) -> MemoryLayout {
        let now = |block: &Block| Region {
            pages: block.pages.load(Ordering::Acquire),
            ..block.region.clone()
        };
        // The regions were checked when the program was read, and grow only up to their maximum.
        MemoryLayout::new(self.blocks.iter().map(now).collect()).unwrap_or_default()
    }

    fn read(&self, runs: &[PageRun], buffer: &mut [u8]) -> Result<(), MemoryError> {
        MemoryError::check_length(runs, buffer.len())?;
        let until = Instant::now() + ARRIVAL_WITHIN;
        let mut buffer = buffer.chunks_exact_mut(PAGE_SIZE);
        for &run in runs {
            let block = self.block_of(run, false)?;
            while self.is_missing(run) {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let reason = format!("no answer in {ARRIVAL_WITHIN:?}");
                    return Err(MemoryError::Rest(PageSourceError::Gone { reason }));
                }
                self.fetch(run, left).map_err(MemoryError::Rest)?;
            }
            run.pages()
                .zip(&mut buffer)
                .for_each(|(page, contents)| block.read(page as usize, contents));
        }
        Ok(())
    }

    fn install(&self, runs: &[PageRun], bytes: &[u8]) -> Result<(), MemoryError> {
        MemoryError::check_length(runs, bytes.len())?;
        let mut bytes = bytes.chunks_exact(PAGE_SIZE);
        for &run in runs {
            let block = self.block_of(run, true)?;
            block.pages.fetch_max(run.end(), Ordering::AcqRel);
            run.pages()
                .zip(&mut bytes)
                .for_each(|(page, contents)| block.write(page as usize, contents));
        }
        Ok(())
    }

    fn changed(&self) -> Result<PageRuns, MemoryError> {
        Ok(self.pages_where(|block, page| {
            block.missing[page].load(Ordering::Acquire) || block.differs(page)
        }))
    }

    fn start_tracking(&self) -> Result<(), MemoryError> {
        if self.tracking.swap(true, Ordering::AcqRel) {
            return Err(MemoryError::AlreadyTracking);
        }
        self.blocks
            .iter()
            .flat_map(|block| &block.dirty)
            .for_each(|flag| flag.store(false, Ordering::Release));
        Ok(())
    }

    fn take_dirty(&self) -> Result<PageRuns, MemoryError> {
        self.check_tracking()?;
        Ok(self.pages_where(|block, page| block.dirty[page].swap(false, Ordering::AcqRel)))
    }

    fn put_back(&self, runs: &[PageRun]) -> Result<(), MemoryError> {
        self.check_tracking()?;
        self.each_flag(runs, |block, page| {
            block.dirty[page].store(true, Ordering::Release)
        })
    }

    fn stop_tracking(&self) -> Result<(), MemoryError> {
        if self.tracking.swap(false, Ordering::AcqRel) {
            Ok(())
        } else {
            Err(MemoryError::NotTracking)
        }
    }
}
