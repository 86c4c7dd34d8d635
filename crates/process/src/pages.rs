//! Pages held in memory: [`PageSet`], and [`PageProvider`], from which the image writer takes pages.

use std::collections::BTreeMap;

use crate::memory::{Memory, MemoryError, PAGE_SIZE, RegionId};
use crate::run::{PageRun, PageRuns};

/// A page of zeros.
pub const ZERO_PAGE: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Pages in the pieces in which memory is read and sent: 1 MiB, enough that a system call costs nothing
/// beside the copying, little enough to stay in the cache.
pub const PIECE_PAGES: u64 = 256;

/// Some pages with their contents.
///
/// Contents are in one buffer, so a set of 1 GiB is one allocation and not 262,144; pages of zeros take no
/// room in it.
#[derive(Debug, Clone, Default)]
pub struct PageSet {
    /// Where in `bytes` each page is, in pages; `None` is a page of zeros.
    places: BTreeMap<(RegionId, u64), Option<usize>>,
    bytes: Vec<u8>,
}

impl PageSet {
    /// No pages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The pages of `runs`, read from `memory`.
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub fn read_from(memory: &dyn Memory, runs: &[PageRun]) -> Result<Self, MemoryError> {
        let mut set = Self::new();
        let mut buffer = Vec::new();
        for piece in runs.iter().flat_map(|run| run.pieces(PIECE_PAGES)) {
            buffer.resize(piece.bytes() as usize, 0);
            memory.read(&[piece], &mut buffer)?;
            set.insert(piece, &buffer)?;
        }
        Ok(set)
    }

    /// Adds the pages of `run`; those that are in the set already get the new contents.
    ///
    /// # Errors
    /// If `bytes` is not exactly as long as the run.
    pub fn insert(&mut self, run: PageRun, bytes: &[u8]) -> Result<(), MemoryError> {
        MemoryError::check_length(&[run], bytes.len())?;
        for (page, contents) in run.pages().zip(bytes.chunks_exact(PAGE_SIZE)) {
            self.insert_page(run.region(), page, contents);
        }
        Ok(())
    }

    fn insert_page(&mut self, region: RegionId, page: u64, contents: &[u8]) {
        let place = self.places.entry((region, page)).or_default();
        if let &mut Some(at) = place {
            self.bytes[at * PAGE_SIZE..][..PAGE_SIZE].copy_from_slice(contents);
        } else if contents != ZERO_PAGE {
            *place = Some(self.bytes.len() / PAGE_SIZE);
            self.bytes.extend_from_slice(contents);
        }
    }

    /// The contents of a page, if it is in the set.
    #[must_use]
    pub fn page(&self, region: RegionId, page: u64) -> Option<&[u8]> {
        self.places
            .get(&(region, page))
            .map(|&place| self.contents(place))
    }

    /// All pages with their contents, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (RegionId, u64, &[u8])> {
        self.places
            .iter()
            .map(|(&(region, page), &place)| (region, page, self.contents(place)))
    }

    fn contents(&self, place: Option<usize>) -> &[u8] {
        place.map_or(&ZERO_PAGE, |at| &self.bytes[at * PAGE_SIZE..][..PAGE_SIZE])
    }

    /// Which pages are in the set.
    #[must_use]
    pub fn runs(&self) -> PageRuns {
        self.places
            .keys()
            .filter_map(|&(region, page)| PageRun::page(region, page))
            .collect()
    }

    /// How many pages are in the set.
    #[must_use]
    pub fn page_count(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Puts all pages where they belong in `memory`.
    ///
    /// # Errors
    /// As [`Memory::install`].
    pub fn install_into(&self, memory: &dyn Memory) -> Result<(), MemoryError> {
        let mut buffer = Vec::new();
        for piece in self.runs().iter().flat_map(|run| run.pieces(PIECE_PAGES)) {
            buffer.clear();
            for page in piece.pages() {
                buffer.extend_from_slice(self.page(piece.region(), page).unwrap_or(&ZERO_PAGE));
            }
            memory.install(&[piece], &buffer)?;
        }
        Ok(())
    }
}

/// Where pages come from one piece at a time, so that memory larger than RAM can be written to a file.
pub trait PageProvider {
    /// All pages that there are.
    fn runs(&self) -> PageRuns;

    /// The contents of `run`, which is part of [`runs`](PageProvider::runs), into a buffer of exactly its
    /// length.
    ///
    /// # Errors
    /// If the pages cannot be read.
    fn read(&mut self, run: PageRun, buffer: &mut [u8]) -> Result<(), MemoryError>;
}

impl PageProvider for &PageSet {
    fn runs(&self) -> PageRuns {
        PageSet::runs(self)
    }

    fn read(&mut self, run: PageRun, buffer: &mut [u8]) -> Result<(), MemoryError> {
        MemoryError::check_length(&[run], buffer.len())?;
        for (page, contents) in run.pages().zip(buffer.chunks_exact_mut(PAGE_SIZE)) {
            contents.copy_from_slice(
                self.page(run.region(), page)
                    .ok_or(MemoryError::OutOfRange { run })?,
            );
        }
        Ok(())
    }
}

/// The pages of a paused process that its program alone does not give: what an image file needs.
pub struct ChangedPages<'a> {
    memory: &'a dyn Memory,
    runs: PageRuns,
}

impl<'a> ChangedPages<'a> {
    /// The [changed](Memory::changed) pages of `memory`, read when they are asked for.
    ///
    /// # Errors
    /// As [`Memory::changed`].
    pub fn of(memory: &'a dyn Memory) -> Result<Self, MemoryError> {
        Ok(Self {
            memory,
            runs: memory.changed()?,
        })
    }
}

impl PageProvider for ChangedPages<'_> {
    fn runs(&self) -> PageRuns {
        self.runs.clone()
    }

    fn read(&mut self, run: PageRun, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(&[run], buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u64) -> PageRun {
        PageRun::new(RegionId(1), first, count).unwrap()
    }

    #[test]
    fn pages_are_replaced_and_zeros_take_no_room() {
        let mut set = PageSet::new();
        let mut two = [ZERO_PAGE, [7; PAGE_SIZE]].concat();
        set.insert(run(4, 2), &two).unwrap();
        assert_eq!((set.page_count(), set.bytes.len()), (2, PAGE_SIZE));
        two[..PAGE_SIZE].fill(9);
        set.insert(run(5, 2), &two).unwrap();
        assert_eq!((set.page_count(), set.bytes.len()), (3, 2 * PAGE_SIZE));
        assert_eq!(*set.runs(), [run(4, 3)]);
        let mut buffer = vec![1; 3 * PAGE_SIZE];
        (&set).read(run(4, 3), &mut buffer).unwrap();
        assert_eq!(buffer, [ZERO_PAGE, [9; PAGE_SIZE], [7; PAGE_SIZE]].concat());
        assert!((&set).read(run(4, 4), &mut [0; 4 * PAGE_SIZE]).is_err());
        assert!(set.insert(run(0, 1), &[0; 3]).is_err());
    }
}
