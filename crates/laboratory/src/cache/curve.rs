//! The curve: time per access over the size of the working set, before a switch, after a switch to somebody who does
//! nothing, and after one to somebody who uses as much memory.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Plan;
use super::partner::{Turn, beside};
use super::walk::{LINE_BYTES, Set, clock_cost};
use crate::carrier::{Carrier, Figure};
use crate::place::apart;
use crate::role::Player;

/// Rounds for a size, at least and at most.
const ROUNDS_MIN: u32 = 3;
const ROUNDS_MAX: u32 = 2000;
/// Turns for the direct cost.
const DIRECT_TURNS: u32 = 2000;

/// A size of the working set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurveRow {
    /// What is switched between.
    pub carrier: Carrier,
    /// Bytes of the working set.
    pub bytes: usize,
    /// What was found.
    pub point: Figure<Point>,
}

/// Times at one size, in nanoseconds; medians.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Of an access, before.
    pub before_ns: f64,
    /// Of an access, in the first walk after a switch to somebody who touches nothing, and back.
    pub after_nothing_ns: f64,
    /// Of an access, in the first walk after a switch to somebody who uses as much memory, and back.
    pub after_ns: f64,
    /// The switch there and back itself.
    pub direct_ns: f64,
    /// What the first walk takes longer after a switch to somebody who uses as much memory.
    pub indirect_ns: f64,
}

impl Point {
    /// Share of the indirect cost in all of it.
    pub fn indirect_share(self) -> f64 {
        let indirect = self.indirect_ns.max(0.0);
        indirect / (indirect + self.direct_ns).max(f64::MIN_POSITIVE)
    }
}

/// All sizes beside one partner.
pub(super) fn of(carrier: Carrier, plan: &Plan, player: &Player) -> Vec<CurveRow> {
    let largest = plan.sizes.iter().copied().max().unwrap_or(0);
    let points = apart(|| {
        beside(carrier, largest, player, |turn| {
            let direct = direct(turn)?;
            let mut points = Vec::new();
            for &bytes in &plan.sizes {
                points.push(point(bytes, direct, plan.span, turn)?);
            }
            Ok(points)
        })
    });
    let row = |bytes, point| CurveRow {
        carrier,
        bytes,
        point,
    };
    match points {
        Ok(points) => {
            let rows = plan.sizes.iter().zip(points);
            rows.map(|(bytes, point)| row(*bytes, Figure::Measured(point)))
                .collect()
        }
        Err(error) => {
            let rows = plan.sizes.iter();
            rows.map(|bytes| row(*bytes, Figure::skipped(error.to_string())))
                .collect()
        }
    }
}

/// A turn in which nothing is done.
fn direct(turn: Turn<'_>) -> io::Result<Duration> {
    let mut spans = Vec::new();
    for _ in 0..DIRECT_TURNS {
        let begun = Instant::now();
        turn(0)?;
        spans.push(begun.elapsed());
    }
    Ok(median(&mut spans).saturating_sub(clock_cost()))
}

fn point(bytes: usize, direct: Duration, span: Duration, turn: Turn<'_>) -> io::Result<Point> {
    let set = Set::new(bytes);
    let clock = clock_cost();
    set.walk(0);
    let once = set.timed(0).max(Duration::from_nanos(1));
    let rounds = (span.as_nanos() / (once.as_nanos() * 8)) as u32;
    let (mut before, mut nothing, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds.clamp(ROUNDS_MIN, ROUNDS_MAX) {
        set.walk(0);
        before.push(set.timed(0));
        turn(0)?;
        nothing.push(set.timed(0));
        set.walk(0);
        turn(bytes / LINE_BYTES)?;
        after.push(set.timed(0));
    }
    let lines = set.lines() as f64;
    let each =
        |spans: &mut Vec<Duration>| median(spans).saturating_sub(clock).as_nanos() as f64 / lines;
    let (before_ns, after_ns) = (each(&mut before), each(&mut after));
    Ok(Point {
        before_ns,
        after_nothing_ns: each(&mut nothing),
        after_ns,
        direct_ns: direct.as_nanos() as f64,
        indirect_ns: (after_ns - before_ns) * lines,
    })
}

pub(super) fn median(spans: &mut [Duration]) -> Duration {
    spans.sort_unstable();
    spans.get(spans.len() / 2).copied().unwrap_or_default()
}
