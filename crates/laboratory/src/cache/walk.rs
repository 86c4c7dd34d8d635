//! Memory that is walked line by line: [`Set`] in an order that no prefetcher guesses, each load waiting for the one
//! before; [`Filler`] that just takes the place of others.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Bytes of a line of a cache, on x86-64 and most of AArch64.
pub const LINE_BYTES: usize = 64;
/// Lines of a page of 4 KiB.
pub(super) const PAGE_LINES: usize = 4096 / LINE_BYTES;
/// Coprime to every number of lines: multiples of it come by each line once.
const STRIDE: usize = 2_654_435_761;

/// One page, so that lines lie at multiples of their size and portions at the beginning of pages.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Page([Line; PAGE_LINES]);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line {
    next: u32,
}

fn pages(lines: usize) -> Vec<Page> {
    vec![Page([Line { next: 0 }; PAGE_LINES]); lines.div_ceil(PAGE_LINES)]
}

/// Lines in portions; within a portion each line names the next one, in a random circle.
pub(super) struct Set {
    pages: Vec<Page>,
    portion_lines: usize,
    lines: usize,
}

impl Set {
    /// One portion.
    pub(super) fn new(bytes: usize) -> Self {
        Self::in_portions(bytes, bytes)
    }

    /// Portions of whole pages.
    pub(super) fn in_portions(bytes: usize, portion_bytes: usize) -> Self {
        let lines = (bytes / LINE_BYTES).max(1);
        let portion_lines = (portion_bytes / LINE_BYTES).clamp(1, lines);
        let mut set = Self {
            pages: pages(lines),
            portion_lines,
            lines,
        };
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for first in (0..lines).step_by(portion_lines) {
            set.tie(first, portion_lines.min(lines - first), &mut random);
        }
        set
    }

    /// A random circle (Sattolo's algorithm).
    fn tie(&mut self, first: usize, count: usize, random: &mut u64) {
        let mut order: Vec<usize> = (first..first + count).collect();
        for last in (1..count).rev() {
            *random ^= *random << 13; // xorshift64 (Marsaglia 2003)
            *random ^= *random >> 7;
            *random ^= *random << 17;
            order.swap(last, (*random % last as u64) as usize);
        }
        for (at, line) in order.iter().enumerate() {
            let next = order[(at + 1) % count];
            self.pages[line / PAGE_LINES].0[line % PAGE_LINES].next = next as u32;
        }
    }

    pub(super) fn lines(&self) -> usize {
        self.lines
    }

    /// Goes round a portion once.
    pub(super) fn walk(&self, portion: usize) {
        self.walk_on(portion * self.portion_lines, self.portion_lines);
    }

    /// Goes on from a line for so many lines, and says where it came to.
    #[inline(never)]
    pub(super) fn walk_on(&self, from: usize, count: usize) -> usize {
        let mut at = from;
        for _ in 0..count {
            at = self.pages[at / PAGE_LINES].0[at % PAGE_LINES].next as usize;
        }
        black_box(at)
    }

    /// Goes round a portion once, and says how long that took.
    pub(super) fn timed(&self, portion: usize) -> Duration {
        let begun = Instant::now();
        self.walk(portion);
        begun.elapsed()
    }
}

/// Memory of the other party.
pub(super) struct Filler {
    pages: Vec<Page>,
}

impl Filler {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            pages: pages(bytes / LINE_BYTES),
        }
    }

    /// Reads the first lines, in no simple order.
    #[inline(never)]
    pub(super) fn read(&self, lines: usize) {
        let lines = lines.min(self.pages.len() * PAGE_LINES);
        let mut sum = 0_u32;
        for number in 0..lines {
            let line = number.wrapping_mul(STRIDE) % lines;
            sum = sum.wrapping_add(self.pages[line / PAGE_LINES].0[line % PAGE_LINES].next);
        }
        black_box(sum);
    }
}

/// What reading the clock twice adds.
pub(super) fn clock_cost() -> Duration {
    const READS: usize = 1000;
    let mut spans: Vec<Duration> = (0..READS).map(|_| Instant::now().elapsed()).collect();
    spans.sort_unstable();
    spans[READS / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_comes_by_each_line_once() {
        for (bytes, portion) in [
            (64, 64),
            (4096, 4096),
            (12 * 4096, 4096),
            (1 << 20, 1 << 20),
        ] {
            let set = Set::in_portions(bytes, portion);
            let portion_lines = portion / LINE_BYTES;
            for first in (0..set.lines()).step_by(portion_lines) {
                let mut seen = vec![false; set.lines()];
                let mut at = first;
                for _ in 0..portion_lines {
                    assert!(!std::mem::replace(&mut seen[at], true));
                    at = set.walk_on(at, 1);
                }
                assert_eq!(at, first);
                assert!(seen[first..first + portion_lines].iter().all(|seen| *seen));
            }
        }
    }

    #[test]
    fn lines_are_as_large_as_they_should_be() {
        assert_eq!(size_of::<Line>(), LINE_BYTES);
        assert_eq!(size_of::<Page>(), 4096);
        assert_eq!(align_of::<Page>(), 4096);
        Filler::new(4096).read(1_000_000);
    }
}
