//! What a switch costs beyond itself: somebody else's data takes the place of one's own in the caches.
//!
//! - `levels`: the caches of this machine
//! - `walk`: memory that is walked, and memory that takes its place
//! - `partner`: the other party: a process, a kernel thread, a user thread, on the same processor
//! - `curve`: time per access by size of the working set, before and after a switch
//! - `ticks`: the same under a timer
//! - `lines`: which lines were evicted
//!
//! After Li, Ding, Shen: Quantifying the cost of context switch (ExpCS 2007), and Tsafrir: The context-switch overhead
//! inflicted by hardware interrupts (ExpCS 2007).

mod curve;
mod levels;
mod lines;
mod page;
mod partner;
mod ticks;
mod walk;

use std::time::Duration;

use serde::Serialize;

pub use curve::{CurveRow, Point};
pub use levels::Level;
pub use lines::{Lines, Picture};
pub(crate) use partner::read;
pub(crate) use ticks::ticking;
pub use ticks::{TickRow, Ticked};
pub use walk::LINE_BYTES;

use crate::Progress;
use crate::carrier::Carrier;
use crate::place::Machine;
use crate::role::Player;

/// What is switched between. Hybrid threads on one processor are user threads.
pub const CARRIERS: [Carrier; 3] = [Carrier::Process, Carrier::Kernel, Carrier::User];

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Sizes of working sets, in bytes, for the curve.
    pub sizes: Vec<usize>,
    /// How long each size is measured, about.
    pub span: Duration,
    /// Sizes of working sets under ticks.
    pub ticked: Vec<usize>,
    /// Times between ticks.
    pub periods: Vec<Duration>,
    /// What the other party reads at each tick.
    pub tick_bytes: usize,
    /// Looks at each portion of a cache, for the picture of its lines.
    pub looks: usize,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cache {
    /// Where.
    pub machine: Machine,
    /// Its caches.
    pub levels: Vec<Level>,
    /// Time per access by size, before and after a switch.
    pub curve: Vec<CurveRow>,
    /// What the other party read at each tick, in bytes.
    pub tick_bytes: usize,
    /// Ticks of different rates.
    pub ticks: Vec<TickRow>,
    /// Which lines were evicted.
    pub lines: Vec<Lines>,
}

/// Measures all of it.
pub fn cache(plan: &Plan, player: &Player, progress: Progress<'_>) -> Cache {
    let levels = Level::all();
    let private: Vec<Level> = levels
        .iter()
        .copied()
        .filter(|one| one.level <= 2)
        .collect();
    let ticks = plan.ticked.len() * plan.periods.len();
    let total = (CARRIERS.len() * (plan.sizes.len() + ticks + private.len())) as f64;
    let mut done = 0.0;
    let mut next = |what: String, parts: usize| {
        progress(&what, done / total);
        done += parts as f64;
    };
    let mut curve = Vec::new();
    for carrier in CARRIERS {
        next(format!("working sets, {carrier}"), plan.sizes.len());
        curve.extend(curve::of(carrier, plan, player));
    }
    let mut ticked = Vec::new();
    for carrier in CARRIERS {
        for &bytes in &plan.ticked {
            for &period in &plan.periods {
                next(format!("ticks every {period:?}, {carrier}"), 1);
                ticked.push(ticks::of(carrier, bytes, period, plan, player));
            }
        }
    }
    let mut pictures = Vec::new();
    for &level in &private {
        for carrier in CARRIERS {
            next(format!("lines of the L{} cache, {carrier}", level.level), 1);
            pictures.push(lines::of(level, carrier, plan, player));
        }
    }
    Cache {
        machine: Machine::this(),
        levels,
        curve,
        tick_bytes: plan.tick_bytes,
        ticks: ticked,
        lines: pictures,
    }
}
