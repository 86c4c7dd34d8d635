//! Pages that are still to go, or to come: [`Left`].

use std::collections::BTreeMap;

use sterna_process::{PageRun, RegionId};

/// A set of pages from which one after the other is taken, in time that does not depend on how they lie.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// A bit for each page, up to the last.
    regions: BTreeMap<RegionId, Vec<u64>>,
    count: u64,
}

impl Left {
    pub(crate) fn new(runs: &[PageRun]) -> Self {
        let mut left = Self::default();
        for run in runs {
            let words = left.regions.entry(run.region()).or_default();
            words.resize(words.len().max(run.end().div_ceil(64) as usize), 0);
            for page in run.pages() {
                words[page as usize / 64] |= 1 << (page % 64);
            }
            left.count += run.count();
        }
        left
    }

    /// How many there are.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    fn has(&self, region: RegionId, page: u64) -> bool {
        let words = self.regions.get(&region);
        let word = words.and_then(|words| words.get(page as usize / 64));
        word.is_some_and(|word| word & 1 << (page % 64) != 0)
    }

    /// Takes those that are there of a run.
    pub(crate) fn take(&mut self, run: PageRun) -> Vec<PageRun> {
        let Some(words) = self.regions.get_mut(&run.region()) else {
            return Vec::new();
        };
        let mut taken: Vec<PageRun> = Vec::new();
        for page in run.first()..run.end().min(words.len() as u64 * 64) {
            let bit = 1 << (page % 64);
            if words[page as usize / 64] & bit == 0 {
                continue;
            }
            words[page as usize / 64] &= !bit;
            self.count -= 1;
            let (first, count) = match taken.last() {
                Some(last) if last.end() == page => (last.first(), last.count() + 1),
                _ => (page, 1),
            };
            if count > 1 {
                taken.pop();
            }
            taken.extend(PageRun::new(run.region(), first, count));
        }
        taken
    }

    /// Takes the next run from a page on, of at most so many; after the last comes the first.
    pub(crate) fn take_next(
        &mut self,
        (region, page): (RegionId, u64),
        pages_max: u64,
    ) -> Option<PageRun> {
        let (region, first) = self
            .next((region, page))
            .or_else(|| self.next((RegionId(0), 0)))?;
        let mut end = first + 1;
        while end - first < pages_max && self.has(region, end) {
            end += 1;
        }
        self.take(PageRun::new(region, first, end - first)?).pop()
    }

    fn next(&self, (region, page): (RegionId, u64)) -> Option<(RegionId, u64)> {
        self.regions.range(region..).find_map(|(own, words)| {
            let from = if *own == region { page } else { 0 };
            let words = words.iter().enumerate().skip(from as usize / 64);
            words
                .filter_map(|(at, word)| {
                    let begun = at == from as usize / 64;
                    let word = if begun {
                        word & (u64::MAX << (from % 64))
                    } else {
                        *word
                    };
                    (word != 0).then(|| (*own, at as u64 * 64 + u64::from(word.trailing_zeros())))
                })
                .next()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(region: u32, first: u64, count: u64) -> PageRun {
        PageRun::new(RegionId(region), first, count).unwrap()
    }

    #[test]
    fn each_page_is_taken_once() {
        let mut left = Left::new(&[run(0, 3, 4), run(0, 62, 70), run(2, 0, 1)]);
        assert_eq!(left.count(), 75);
        assert_eq!(left.take(run(0, 0, 65)), [run(0, 3, 4), run(0, 62, 3)]);
        assert_eq!(left.take(run(0, 0, 66)), [run(0, 65, 1)]);
        assert_eq!(left.take(run(1, 0, 1000)), []);
        assert_eq!(left.take(run(2, 0, u64::from(u32::MAX))), [run(2, 0, 1)]);
        assert_eq!(left.count(), 66);
    }

    #[test]
    fn what_comes_next_begins_anew_after_the_last() {
        let mut left = Left::new(&[run(0, 3, 4), run(0, 62, 70), run(2, 0, 1)]);
        assert_eq!(
            left.take_next((RegionId(0), 100), 20),
            Some(run(0, 100, 20))
        );
        assert_eq!(
            left.take_next((RegionId(0), 120), 20),
            Some(run(0, 120, 12))
        );
        assert_eq!(left.take_next((RegionId(0), 132), 20), Some(run(2, 0, 1)));
        assert_eq!(left.take_next((RegionId(2), 1), 20), Some(run(0, 3, 4)));
        assert_eq!(left.take_next((RegionId(9), 0), 64), Some(run(0, 62, 38)));
        assert_eq!(
            (left.take_next((RegionId(0), 0), 64), left.count()),
            (None, 0)
        );
    }
}
