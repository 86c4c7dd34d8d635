//! Timer ticks: somebody computes, and a timer gives the processor to somebody else every so often, who reads a little
//! memory of his own. What does a tick cost who computes, by itself and through the cache?
//!
//! For processes and kernel threads the timer is the kernel's, and only the processor time of who computes counts. A
//! user thread is not interrupted: it looks at the clock now and then and gives way when a tick is due, which stands
//! for the timer; the switch there and back is added as it was measured.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;
use sterna_sys::clock::thread_cpu_time;
use sterna_sys::exchange::SharedWords;

use super::Plan;
use super::partner::{Turn, beside};
use super::walk::{Filler, LINE_BYTES, Set};
use crate::carrier::{Carrier, Figure, Placement};
use crate::place::{apart, pin, processors_of};
use crate::role::{COUNT, COUNTING_WORDS, Player, STOP, WORDS, started};

/// Accesses between two looks at the clock.
const STRETCH: usize = 2000;
/// Ticks that are measured, at least, unless that takes too long.
const TICKS_MIN: u32 = 20;
/// Turns for the direct cost of user threads.
const DIRECT_TURNS: u32 = 1000;

/// Ticks of one rate on a working set of one size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TickRow {
    /// What is interrupted, and by what.
    pub carrier: Carrier,
    /// Bytes of the working set of who computes.
    pub bytes: usize,
    /// Between two ticks, in microseconds.
    pub period_us: u64,
    /// What was found.
    pub ticked: Figure<Ticked>,
}

/// What ticks cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ticked {
    /// Ticks that were counted.
    pub ticks: u32,
    /// Nanoseconds of an access without ticks.
    pub quiet_ns: f64,
    /// Nanoseconds of an access with them.
    pub ticked_ns: f64,
    /// By which share computing takes longer.
    pub slowdown: f64,
    /// Nanoseconds that one tick costs who computes, if the other touches nothing.
    pub direct_ns: f64,
    /// Nanoseconds that it costs beyond that, through the caches.
    pub indirect_ns: f64,
}

/// What somebody got done, and what it took.
#[derive(Debug, Clone, Copy)]
struct Work {
    accesses: f64,
    took_ns: f64,
    ticks: u32,
}

impl Work {
    /// Nanoseconds that a tick took from who computes.
    fn per_tick(self, quiet_ns: f64) -> f64 {
        (self.took_ns - self.accesses * quiet_ns) / f64::from(self.ticks.max(1))
    }
}

pub(super) fn of(
    carrier: Carrier,
    bytes: usize,
    period: Duration,
    plan: &Plan,
    player: &Player,
) -> TickRow {
    let ticked = apart(|| {
        pin(processors_of(Placement::OneProcessor)?.0)?;
        let span = plan.span.max(period * TICKS_MIN);
        let measured = |lines| match carrier {
            Carrier::User | Carrier::Hybrid => {
                let bytes_max = plan.tick_bytes.max(LINE_BYTES);
                beside(carrier, bytes_max, player, |turn| {
                    by_turns(&Set::new(bytes), lines, (span, period), turn)
                })
            }
            Carrier::Kernel => by_thread(&Set::new(bytes), lines, (span, period)),
            Carrier::Process => by_process(&Set::new(bytes), lines, (span, period), player),
        };
        // Before, between and after, since what else the machine does changes.
        let quietly = || quiet(&Set::new(bytes), plan.span);
        let before = quietly();
        let nothing = measured(0)?;
        let between = quietly();
        let something = measured(plan.tick_bytes / LINE_BYTES)?;
        let quiet = (before + between + quietly()) / 3.0;
        let direct_ns = nothing.per_tick(quiet);
        let ticked_ns = something.took_ns / something.accesses.max(1.0);
        Ok(Ticked {
            ticks: something.ticks,
            quiet_ns: quiet,
            ticked_ns,
            slowdown: ticked_ns / quiet - 1.0,
            direct_ns,
            indirect_ns: something.per_tick(quiet) - direct_ns,
        })
    });
    TickRow {
        carrier,
        bytes,
        period_us: period.as_micros() as u64,
        ticked: Figure::of(ticked),
    }
}

/// Nanoseconds of an access while nobody ticks.
fn quiet(set: &Set, span: Duration) -> f64 {
    set.walk(0);
    let begun = Instant::now();
    let cpu = thread_cpu_time();
    let (mut at, mut accesses) = (0, 0);
    while begun.elapsed() < span {
        at = set.walk_on(at, STRETCH);
        accesses += STRETCH;
    }
    (thread_cpu_time() - cpu).as_nanos() as f64 / accesses as f64
}

/// Walks while somebody else ticks, and counts its own processor time only.
fn interrupted(set: &Set, span: Duration, words: &SharedWords) -> Work {
    set.walk(0);
    let ticks = words[COUNT].load(Ordering::Relaxed);
    let begun = Instant::now();
    let cpu = thread_cpu_time();
    let (mut at, mut accesses) = (0, 0);
    while begun.elapsed() < span {
        at = set.walk_on(at, STRETCH);
        accesses += STRETCH;
    }
    Work {
        accesses: accesses as f64,
        took_ns: (thread_cpu_time() - cpu).as_nanos() as f64,
        ticks: words[COUNT].load(Ordering::Relaxed).wrapping_sub(ticks),
    }
}

fn words() -> io::Result<SharedWords> {
    SharedWords::new(COUNTING_WORDS).map_err(io::Error::other)
}

/// Lets the other end however this is left.
struct Stop<'a>(&'a SharedWords);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0[STOP].store(1, Ordering::Relaxed);
    }
}

fn by_thread(set: &Set, lines: usize, (span, period): (Duration, Duration)) -> io::Result<Work> {
    let words = words()?;
    std::thread::scope(|threads| {
        let _stop = Stop(&words);
        let ticker = std::thread::Builder::new().name("ticker".to_owned());
        ticker.spawn_scoped(threads, || ticking(lines, period, &words))?;
        Ok(interrupted(set, span, &words))
    })
}

fn by_process(
    set: &Set,
    lines: usize,
    (span, period): (Duration, Duration),
    player: &Player,
) -> io::Result<Work> {
    let words = words()?;
    let processor = processors_of(Placement::OneProcessor)?.0;
    let part = player.part(&[
        "tick",
        &lines.to_string(),
        &period.as_micros().to_string(),
        &processor.to_string(),
    ]);
    let child = started(part.descriptor(WORDS, words.descriptor()?))?;
    while words[COUNT].load(Ordering::Relaxed) == 0 {
        std::thread::yield_now();
    }
    let _stop = Stop(&words);
    let work = interrupted(set, span, &words);
    drop(child);
    Ok(work)
}

/// Ticks until it is told to stop. Ticks that were missed are not made up for.
pub(crate) fn ticking(lines: usize, period: Duration, words: &SharedWords) {
    let filler = Filler::new(lines * LINE_BYTES);
    let mut next = Instant::now() + period;
    while words[STOP].load(Ordering::Relaxed) == 0 {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        filler.read(lines);
        words[COUNT].fetch_add(1, Ordering::Relaxed);
        next = (next + period).max(Instant::now());
    }
}

fn by_turns(
    set: &Set,
    lines: usize,
    (span, period): (Duration, Duration),
    turn: Turn<'_>,
) -> io::Result<Work> {
    let begun = thread_cpu_time();
    for _ in 0..DIRECT_TURNS {
        turn(0)?;
    }
    let direct = (thread_cpu_time() - begun) / DIRECT_TURNS;
    set.walk(0);
    let (mut at, mut accesses, mut ticks) = (0, 0, 0);
    let mut others = Duration::ZERO;
    let begun = thread_cpu_time();
    let mut now = Instant::now();
    let (end, mut due) = (now + span, now + period);
    while now < end {
        at = set.walk_on(at, STRETCH);
        accesses += STRETCH;
        now = Instant::now();
        if now >= due {
            let away = thread_cpu_time();
            turn(lines)?;
            others += thread_cpu_time() - away;
            ticks += 1;
            due = (due + period).max(now);
        }
    }
    let took = thread_cpu_time() - begun;
    Ok(Work {
        accesses: accesses as f64,
        took_ns: (took - others + direct * ticks).as_nanos() as f64,
        ticks,
    })
}
