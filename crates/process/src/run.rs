//! Runs of pages: [`PageRun`], and [`PageRuns`], a set of pages as few runs as possible.
//!
//! All arithmetic on page numbers is here. A run cannot be made that is empty or ends beyond any address
//! space, so nothing that is computed from one overflows, also if it came from a hostile image.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::memory::{PAGE_SIZE, RegionId};

/// One or more neighbouring pages of one region.
///
/// ```
/// use sterna_process::{PageRun, RegionId};
/// let run = PageRun::new(RegionId(0), 16, 4).unwrap();
/// assert_eq!((run.end(), run.bytes(), run.byte_offset()), (20, 16_384, 65_536));
/// assert!(PageRun::new(RegionId(0), u64::MAX, 2).is_none());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(RegionId, u64, u64)", into = "(RegionId, u64, u64)")]
pub struct PageRun {
    region: RegionId,
    first: u64,
    count: u64,
}

impl PageRun {
    /// Pages in the largest region there can be: one less would be the last whose bytes a `u64` can count.
    pub const MAX_PAGES: u64 = u64::MAX / PAGE_SIZE as u64;

    /// `count` pages from page `first` on; `None` if there are none or they end beyond
    /// [`PageRun::MAX_PAGES`].
    #[must_use]
    pub const fn new(region: RegionId, first: u64, count: u64) -> Option<Self> {
        match first.checked_add(count) {
            Some(end) if count > 0 && end <= Self::MAX_PAGES => Some(Self {
                region,
                first,
                count,
            }),
            _ => None,
        }
    }

    /// One page.
    #[must_use]
    pub const fn page(region: RegionId, page: u64) -> Option<Self> {
        Self::new(region, page, 1)
    }

    /// The whole of a region of `pages` pages; `None` if it is empty.
    #[must_use]
    pub const fn whole(region: RegionId, pages: u64) -> Option<Self> {
        Self::new(region, 0, pages)
    }

    /// The region.
    #[must_use]
    pub const fn region(self) -> RegionId {
        self.region
    }

    /// The first page's number.
    #[must_use]
    pub const fn first(self) -> u64 {
        self.first
    }

    /// How many pages; never 0.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.count
    }

    /// The number of the page after the last.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.first + self.count
    }

    /// The pages' length, in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.count * PAGE_SIZE as u64
    }

    /// Where the first page begins in its region, in bytes.
    #[must_use]
    pub const fn byte_offset(self) -> u64 {
        self.first * PAGE_SIZE as u64
    }

    /// The pages' numbers.
    #[must_use]
    pub const fn pages(self) -> std::ops::Range<u64> {
        self.first..self.end()
    }

    /// The pages that are in both runs.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let first = self.first.max(other.first);
        let end = self.end().min(other.end());
        (self.region == other.region && first < end).then(|| Self {
            region: self.region,
            first,
            count: end - first,
        })
    }

    /// The run in pieces of at most `pages` pages, for buffers of limited size. A limit of 0 counts as 1.
    pub fn pieces(self, pages: u64) -> impl Iterator<Item = Self> {
        let limit = pages.max(1);
        (0..self.count.div_ceil(limit)).map(move |piece| {
            let first = self.first + piece * limit;
            Self {
                region: self.region,
                first,
                count: limit.min(self.end() - first),
            }
        })
    }
}

impl TryFrom<(RegionId, u64, u64)> for PageRun {
    type Error = &'static str;

    fn try_from((region, first, count): (RegionId, u64, u64)) -> Result<Self, Self::Error> {
        Self::new(region, first, count)
            .ok_or("a run of pages that is empty or ends beyond any memory")
    }
}

impl From<PageRun> for (RegionId, u64, u64) {
    fn from(run: PageRun) -> Self {
        (run.region, run.first, run.count)
    }
}

impl fmt::Display for PageRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "page {} of region {}", self.first, self.region),
            _ => write!(
                f,
                "pages {}..{} of region {}",
                self.first,
                self.end(),
                self.region
            ),
        }
    }
}

/// A set of pages: runs in ascending order that neither overlap nor touch.
///
/// Made by collecting runs in any order; used as a slice of them.
///
/// ```
/// use sterna_process::{PageRun, PageRuns, RegionId};
/// let run = |first, count| PageRun::new(RegionId(0), first, count).unwrap();
/// let runs: PageRuns = [run(8, 2), run(0, 4), run(3, 5)].into_iter().collect();
/// assert_eq!(*runs, [run(0, 10)]);
/// assert_eq!(runs.page_count(), 10);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<PageRun>")]
pub struct PageRuns(Vec<PageRun>);

impl PageRuns {
    /// No pages.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// How many pages, in all runs.
    #[must_use]
    pub fn page_count(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, run| sum.saturating_add(run.count))
    }

    /// Their length, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.page_count().saturating_mul(PAGE_SIZE as u64)
    }

    /// Whether the page is in the set.
    #[must_use]
    pub fn contains(&self, region: RegionId, page: u64) -> bool {
        let after = self
            .0
            .partition_point(|run| (run.region, run.first) <= (region, page));
        after > 0 && self.0[after - 1].region == region && page < self.0[after - 1].end()
    }

    /// The pages of this set and those of `other`.
    #[must_use]
    pub fn union(&self, other: &[PageRun]) -> Self {
        self.0.iter().chain(other).copied().collect()
    }

    /// The pages of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.0.len());
        let mut cuts = other.0.iter().copied().peekable();
        for &run in &self.0 {
            let mut first = run.first;
            while let Some(&cut) = cuts.peek() {
                if (cut.region, cut.first) >= (run.region, run.end()) {
                    break;
                }
                if cut.region == run.region && cut.end() > first {
                    left.extend(PageRun::new(
                        run.region,
                        first,
                        cut.first.saturating_sub(first),
                    ));
                    first = cut.end();
                }
                if (cut.region, cut.end()) > (run.region, run.end()) {
                    break; // it may reach into the next run, too
                }
                cuts.next();
            }
            left.extend(PageRun::new(
                run.region,
                first,
                run.end().saturating_sub(first),
            ));
        }
        Self(left)
    }
}

impl Deref for PageRuns {
    type Target = [PageRun];

    fn deref(&self) -> &[PageRun] {
        &self.0
    }
}

impl From<Vec<PageRun>> for PageRuns {
    fn from(mut runs: Vec<PageRun>) -> Self {
        if !runs.is_sorted() {
            runs.sort_unstable();
        }
        runs.dedup_by(|next, before| {
            let touches = next.region == before.region && next.first <= before.end();
            if touches {
                before.count = before.end().max(next.end()) - before.first;
            }
            touches
        });
        Self(runs)
    }
}

impl FromIterator<PageRun> for PageRuns {
    fn from_iter<I: IntoIterator<Item = PageRun>>(runs: I) -> Self {
        Self::from(runs.into_iter().collect::<Vec<_>>())
    }
}

impl Extend<PageRun> for PageRuns {
    fn extend<I: IntoIterator<Item = PageRun>>(&mut self, runs: I) {
        self.0.extend(runs);
        *self = Self::from(std::mem::take(&mut self.0));
    }
}

impl<'a> IntoIterator for &'a PageRuns {
    type Item = &'a PageRun;
    type IntoIter = std::slice::Iter<'a, PageRun>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn some_runs() -> impl Strategy<Value = Vec<PageRun>> {
        let run = (0..3_u32, 0..40_u64, 1..8_u64).prop_map(|(region, first, count)| {
            PageRun::new(RegionId(region), first, count).unwrap()
        });
        proptest::collection::vec(run, 0..12)
    }

    fn pages(runs: &[PageRun]) -> BTreeSet<(RegionId, u64)> {
        runs.iter()
            .flat_map(|run| run.pages().map(|page| (run.region, page)))
            .collect()
    }

    proptest! {
        #[test]
        fn runs_are_sets_of_pages(a in some_runs(), b in some_runs()) {
            let (set_a, set_b) = (pages(&a), pages(&b));
            let (a, b): (PageRuns, PageRuns) = (a.into(), b.into());
            prop_assert_eq!(pages(&a), set_a.clone());
            prop_assert_eq!(a.page_count(), set_a.len() as u64);
            prop_assert!(a.windows(2).all(|w| (w[0].region, w[0].end()) < (w[1].region, w[1].first)));
            prop_assert_eq!(pages(&a.union(&b)), &set_a | &set_b);
            let left = a.difference(&b);
            prop_assert_eq!(pages(&left), &set_a - &set_b);
            prop_assert_eq!(PageRuns::from(left.0.clone()), left);
            for region in 0..3 {
                for page in 0..50 {
                    prop_assert_eq!(a.contains(RegionId(region), page), set_a.contains(&(RegionId(region), page)));
                }
            }
        }

        #[test]
        fn pieces_are_the_run(first in 0..100_u64, count in 1..100_u64, limit in 0..20_u64) {
            let run = PageRun::new(RegionId(0), first, count).unwrap();
            let pieces: Vec<_> = run.pieces(limit).collect();
            prop_assert!(pieces.iter().all(|piece| piece.count <= limit.max(1)));
            prop_assert_eq!(pieces.iter().map(|piece| piece.count).sum::<u64>(), count);
            prop_assert_eq!(&*PageRuns::from(pieces), &[run]);
        }

        #[test]
        fn no_numbers_overflow(first: u64, count: u64) {
            if let Some(run) = PageRun::new(RegionId(0), first, count) {
                prop_assert!(run.byte_offset().checked_add(run.bytes()).is_some());
            }
            let bytes = postcard::to_stdvec(&(0_u32, first, count)).unwrap();
            prop_assert_eq!(postcard::from_bytes::<PageRun>(&bytes).ok(), PageRun::new(RegionId(0), first, count));
        }
    }
}
