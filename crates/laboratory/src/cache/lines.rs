//! The picture of the lines: which were evicted by a switch, and which came back to a warm cache.
//!
//! A working set as large as a cache is used portion by portion, so that each portion holds one line of every set of
//! the cache, and the portions have ages. Then the other party reads some portions of its own. Were the cache to evict
//! strictly the least recently used line, the oldest portions would be gone, as many as the other one read. One portion
//! is then timed, and everything begins anew: timing changes what is timed.
//!
//! In a cache of the first level a portion is a page, and the picture is exact. Beyond, the kernel chooses which pages
//! share sets, and it is blurred.

use std::io;
use std::time::Duration;

use serde::Serialize;

use super::Plan;
use super::curve::median;
use super::levels::Level;
use super::partner::{Turn, beside};
use super::walk::{LINE_BYTES, Set, clock_cost};
use crate::carrier::{Carrier, Figure};
use crate::place::apart;
use crate::role::Player;

/// Beyond this a cache is shared with others, and the picture would be of them.
const BYTES_MAX: usize = 4 << 20;
/// The other party reads so many times the cache to evict everything.
const EVERYTHING: usize = 4;

/// The picture of one cache.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lines {
    /// What is switched between.
    pub carrier: Carrier,
    /// The cache.
    pub cache: Level,
    /// What was found.
    pub picture: Figure<Picture>,
}

/// Shares of lines that were evicted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Picture {
    /// Bytes of a portion.
    pub portion_bytes: usize,
    /// For each number of portions that the other read, from 0 on, the share of evicted lines by portion, the oldest
    /// first.
    pub evicted: Vec<Vec<f64>>,
    /// Nanoseconds of an access to a line that is there.
    pub hit_ns: f64,
    /// Nanoseconds of an access to a line that was evicted.
    pub miss_ns: f64,
}

pub(super) fn of(cache: Level, carrier: Carrier, plan: &Plan, player: &Player) -> Lines {
    let picture = if cache.bytes > BYTES_MAX || cache.ways < 2 {
        Err(io::Error::other("shared with others, or not divided"))
    } else {
        let bytes = cache.bytes * EVERYTHING;
        apart(|| {
            beside(carrier, bytes, player, |turn| {
                Subject::new(cache).picture(plan.looks, turn)
            })
        })
    };
    Lines {
        carrier,
        cache,
        picture: Figure::of(picture),
    }
}

/// A working set that fills a cache.
struct Subject {
    set: Set,
    ways: usize,
    portion_lines: usize,
    cache_lines: usize,
}

impl Subject {
    fn new(cache: Level) -> Self {
        let portion_bytes = cache.bytes / cache.ways;
        Self {
            set: Set::in_portions(portion_bytes * cache.ways, portion_bytes),
            ways: cache.ways,
            portion_lines: portion_bytes / LINE_BYTES,
            cache_lines: cache.bytes / LINE_BYTES,
        }
    }

    fn picture(&self, looks: usize, turn: Turn<'_>) -> io::Result<Picture> {
        let hit = self.hit(looks);
        let miss = self.look(0, self.cache_lines * EVERYTHING, looks, turn)?;
        let span = miss.saturating_sub(hit).as_nanos().max(1) as f64;
        let mut evicted = Vec::new();
        for portions in 0..=self.ways {
            let mut row = Vec::new();
            for portion in 0..self.ways {
                let took = self.look(portion, portions * self.portion_lines, looks, turn)?;
                let more = took.saturating_sub(hit).as_nanos() as f64;
                row.push((more / span).clamp(0.0, 1.0));
            }
            evicted.push(row);
        }
        let clock = clock_cost();
        let each = |span: Duration| {
            span.saturating_sub(clock).as_nanos() as f64 / self.portion_lines as f64
        };
        Ok(Picture {
            portion_bytes: self.portion_lines * LINE_BYTES,
            evicted,
            hit_ns: each(hit),
            miss_ns: each(miss),
        })
    }

    /// Time of a portion that has just been used.
    fn hit(&self, looks: usize) -> Duration {
        let mut spans: Vec<Duration> = (0..looks.max(1))
            .map(|_| {
                self.set.walk(0);
                self.set.timed(0)
            })
            .collect();
        median(&mut spans)
    }

    /// Time of a portion after all were used in their order and the other has read so many lines.
    fn look(
        &self,
        portion: usize,
        lines: usize,
        looks: usize,
        turn: Turn<'_>,
    ) -> io::Result<Duration> {
        let mut spans = Vec::new();
        for _ in 0..looks.max(1) {
            // Twice, since what was there before has ages as well.
            for portion in (0..self.ways).chain(0..self.ways) {
                self.set.walk(portion);
            }
            turn(lines)?;
            spans.push(self.set.timed(portion));
        }
        Ok(median(&mut spans))
    }
}
