//! Memory as a mover sees it: regions of pages that can be read, installed and watched for writes.
//!
//! A process has one or more *regions* (a wasm program one for each linear memory, a virtual machine one for
//! each block of RAM), each a whole number of 4 KiB pages that may grow up to a maximum. Everything said
//! about pages is said in [`PageRun`]s. Moves are made of four questions, which [`Memory`] answers for every
//! kind: which pages differ from what the program itself starts with ([`Memory::changed`]), what is in them
//! ([`Memory::read`]), which were written since the last question ([`Memory::take_dirty`]), and here are some
//! ([`Memory::install`]). [`PageSource`] is the other side of post-copy: pages that come after the process.

use std::fmt;
use std::io;
use std::sync::Weak;

use serde::{Deserialize, Serialize};

use crate::run::{PageRun, PageRuns};

/// Bytes in a page, on every machine: images are exchanged between machines, so the hardware's page size
/// (16 or 64 KiB on some Arm systems) cannot matter.
pub const PAGE_SIZE: usize = 4096;

/// Which region of a process: a small number that its kind gives and keeps for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RegionId(pub u32);

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One region: how large it is and how large it may become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Its number.
    pub id: RegionId,
    /// What people call it, e.g. `memory 0`. Comes from the program or an image: escape it before printing.
    pub name: String,
    /// Its length now, in pages.
    pub pages: u64,
    /// The length up to which it may grow, in pages.
    pub pages_max: u64,
}

/// All regions of a process: enough for a target to make room before any image exists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Region>", into = "Vec<Region>")]
pub struct MemoryLayout {
    regions: Vec<Region>,
}

impl MemoryLayout {
    /// Most regions a process can have. Wasmtime allows a module 100 memories.
    pub const MAX_REGIONS: usize = 1024;
    /// Longest name of a region, in bytes.
    pub const MAX_NAME: usize = 256;

    /// The layout with these regions.
    ///
    /// # Errors
    /// If there are too many regions, two with one number, or one that is longer than its maximum or than
    /// any address space.
    pub fn new(mut regions: Vec<Region>) -> Result<Self, LayoutError> {
        if regions.len() > Self::MAX_REGIONS {
            return Err(LayoutError::TooMany {
                regions: regions.len(),
            });
        }
        regions.sort_by_key(|region| region.id);
        if let Some(pair) = regions.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(LayoutError::Twice { region: pair[0].id });
        }
        for Region {
            id,
            name,
            pages,
            pages_max,
        } in &regions
        {
            if pages > pages_max || *pages_max > PageRun::MAX_PAGES || name.len() > Self::MAX_NAME {
                return Err(LayoutError::Impossible {
                    region: *id,
                    pages: *pages,
                    pages_max: *pages_max,
                });
            }
        }
        Ok(Self { regions })
    }

    /// The regions, by ascending number.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region with this number.
    #[must_use]
    pub fn region(&self, id: RegionId) -> Option<&Region> {
        self.regions.iter().find(|region| region.id == id)
    }

    /// The length of all regions together, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let pages = self
            .regions
            .iter()
            .fold(0_u64, |sum, region| sum.saturating_add(region.pages));
        pages.saturating_mul(PAGE_SIZE as u64)
    }

    /// Whether all pages of the run exist now.
    #[must_use]
    pub fn contains(&self, run: PageRun) -> bool {
        self.region(run.region())
            .is_some_and(|region| run.end() <= region.pages)
    }

    /// Whether all pages of the run exist now or could after growth.
    #[must_use]
    pub fn could_contain(&self, run: PageRun) -> bool {
        self.region(run.region())
            .is_some_and(|region| run.end() <= region.pages_max)
    }
}

impl TryFrom<Vec<Region>> for MemoryLayout {
    type Error = LayoutError;

    fn try_from(regions: Vec<Region>) -> Result<Self, LayoutError> {
        Self::new(regions)
    }
}

impl From<MemoryLayout> for Vec<Region> {
    fn from(layout: MemoryLayout) -> Self {
        layout.regions
    }
}

/// Regions that no process can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// More than [`MemoryLayout::MAX_REGIONS`].
    #[error(
        "{regions} memory regions are more than the {} a process can have",
        MemoryLayout::MAX_REGIONS
    )]
    TooMany {
        /// How many there were.
        regions: usize,
    },
    /// Two regions have one number.
    #[error("memory region {region} is named twice")]
    Twice {
        /// The number.
        region: RegionId,
    },
    /// A region longer than its own maximum, or than any address space, or with an endless name.
    #[error("memory region {region} is impossible: {pages} pages now, {pages_max} at most")]
    Impossible {
        /// The region.
        region: RegionId,
        /// Its length.
        pages: u64,
        /// Its maximum.
        pages_max: u64,
    },
}

/// The memory of one process.
///
/// The same object serves a running process (pre-copy reads while it writes), a paused one and one that is
/// just arriving. All methods may be called from any thread; none waits for the process itself, so each takes
/// time in proportion to the pages it is about, except reads of pages that are still to come in post-copy.
pub trait Memory: Send + Sync {
    /// The regions as they are now. While the process runs they may grow, never shrink.
    fn layout(&self) -> MemoryLayout;

    /// Copies the pages of `runs` into `buffer`, in the order of the runs.
    ///
    /// While the process runs, a page may be read half written; it then is dirty afterwards.
    ///
    /// # Errors
    /// If a page does not exist or `buffer` is not exactly as long as the runs.
    fn read(&self, runs: &[PageRun], buffer: &mut [u8]) -> Result<(), MemoryError>;

    /// Overwrites the pages of `runs` with `bytes`, in the order of the runs. A run that ends beyond its
    /// region's length, but within its maximum, makes the region longer. Installed pages are not dirty.
    ///
    /// Only for memory whose process does not run.
    ///
    /// # Errors
    /// If a page cannot exist or `bytes` is not exactly as long as the runs; then nothing is known about the
    /// contents of these pages, and the memory must not be used.
    fn install(&self, runs: &[PageRun], bytes: &[u8]) -> Result<(), MemoryError>;

    /// The pages whose contents may differ from what the program alone gives: its own initial memory, and
    /// zeros beyond that. An image needs these and no others; a page that was written with zeros *is* among
    /// them if the program did not start with zeros there.
    ///
    /// # Errors
    /// If the operating system refuses to say.
    fn changed(&self) -> Result<PageRuns, MemoryError>;

    /// Begins to note which pages are written. At first none is dirty.
    ///
    /// # Errors
    /// If it was already begun, or the operating system refuses.
    fn start_tracking(&self) -> Result<(), MemoryError>;

    /// The pages written since tracking began or since they were last taken. They are clean afterwards:
    /// whoever took them must copy them or [put them back](Memory::put_back).
    ///
    /// # Errors
    /// If tracking was not begun, or the operating system refuses.
    fn take_dirty(&self) -> Result<PageRuns, MemoryError>;

    /// Makes pages dirty again that were taken but could not be sent.
    ///
    /// # Errors
    /// If tracking was not begun.
    fn put_back(&self, runs: &[PageRun]) -> Result<(), MemoryError>;

    /// Ends what [`Memory::start_tracking`] began. What is dirty is forgotten.
    ///
    /// # Errors
    /// If tracking was not begun, or the operating system refuses.
    fn stop_tracking(&self) -> Result<(), MemoryError>;
}

/// The pages that a process in post-copy does not have yet, and the way to get them.
///
/// It is asynchronous: a page can be requested while others are on their way, so faults of several threads,
/// prefetch around them and pages pushed unasked all travel at once.
pub trait PageSource: Send + Sync {
    /// The pages that were missing at the beginning. Until such a page has arrived, nobody may see what is in
    /// its place.
    fn missing(&self) -> &PageRuns;

    /// Asks for pages soon. Pages that are on their way or have arrived may be asked for again.
    ///
    /// # Errors
    /// If the other side is gone: then these pages, and with them the process, are lost here.
    fn request(&self, runs: &[PageRun]) -> Result<(), PageSourceError>;

    /// Says where pages go, requested ones and others that come unasked. Until then none arrive.
    ///
    /// # Errors
    /// If the other side is gone.
    fn connect(&self, sink: Weak<dyn PageSink>) -> Result<(), PageSourceError>;
}

/// Where pages go that come after their process. Whoever receives a page puts it into its place itself: a guest waits for it.
pub trait PageSink: Send + Sync {
    /// Puts pages into their place; `None` are zeros. Several threads do so at once; each page comes once.
    ///
    /// # Errors
    /// If the operating system refuses. The process cannot go on then.
    fn put(&self, run: PageRun, contents: Option<&[u8]>) -> Result<(), MemoryError>;

    /// Called at most once: all missing pages are in their place, and nobody puts any more; or some will not come, while others
    /// may still be put. Not called if the process is let go of before.
    fn end(&self, end: Result<(), PageSourceError>);
}

/// Why pages could not be read, installed or watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The pages are outside of the region, or there is no such region.
    #[error("{run} is outside of the process's memory")]
    OutOfRange {
        /// The pages.
        run: PageRun,
    },
    /// A buffer has not the length of the pages it is for.
    #[error("a buffer of {got} bytes was given for pages of {expected} bytes")]
    BufferLength {
        /// Length of the pages, in bytes.
        expected: u64,
        /// Length of the buffer, in bytes.
        got: u64,
    },
    /// Tracking was begun twice, e.g. by two moves at once.
    #[error("the pages written are already being noted: another move of this process is under way")]
    AlreadyTracking,
    /// Dirty pages were asked for without tracking.
    #[error("the pages written are not being noted: begin with start_tracking")]
    NotTracking,
    /// The rest of the pages did not come in post-copy.
    #[error("pages that were still at the source did not arrive")]
    Rest(#[source] PageSourceError),
    /// The operating system refused.
    #[error("could not {doing}")]
    System {
        /// What was being done, e.g. `scan for dirty pages`.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

impl MemoryError {
    /// Fails unless a buffer of `got` bytes is exactly as long as `runs`.
    ///
    /// # Errors
    /// [`MemoryError::BufferLength`].
    pub fn check_length(runs: &[PageRun], got: usize) -> Result<(), Self> {
        let expected = runs
            .iter()
            .fold(0_u64, |sum, run| sum.saturating_add(run.bytes()));
        match u64::try_from(got) {
            Ok(got) if got == expected => Ok(()),
            _ => Err(Self::BufferLength {
                expected,
                got: got as u64,
            }),
        }
    }
}

/// Why the rest of the pages does not come in post-copy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageSourceError {
    /// The side that has the pages is gone.
    #[error(
        "the machine that holds the remaining pages is gone: {reason}; recover the process from its last image"
    )]
    Gone {
        /// How that showed.
        reason: String,
    },
    /// A page was asked for that is not among the missing ones.
    #[error("{run} was asked for but is not missing")]
    NotMissing {
        /// The pages.
        run: PageRun,
    },
}
