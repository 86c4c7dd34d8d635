//! Timer ticks: somebody computes, and a timer gives the processor to somebody else every so often, who reads a little
//! memory of his own. What does a tick cost who computes, by itself and through the cache?
//!
//! For processes and kernel threads the timer is the kernel's; only the processor time of who computes counts. A
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
use super::walk::{Filler, LINE_BYTES, Set, clock_cost};
use crate::carrier::{Carrier, Figure, Placement};
use crate::place::{apart, pin, processors_of};
use crate::role::{COUNT, COUNTING_WORDS, Player, STOP, WORDS, started};
use crate::statistics::median;

/// Accesses between two looks at the clock.
const STRETCH: usize = 2000;
/// Ticks that are measured, at least.
const TICKS_MIN: u32 = 12;
/// On a machine that is so busy that they do not come in this time, fewer must do.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who was interrupted has its data back after so many walks over it.
const WALKS_BACK: usize = 2;
/// Turns for the direct cost of user threads.
const DIRECT_TURNS: usize = 1000;

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

/// What ticks cost who computes; medians over the ticks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ticked {
    /// Ticks that were looked at.
    pub ticks: usize,
    /// Nanoseconds of an access without ticks.
    pub quiet_ns: f64,
    /// Nanoseconds that one tick costs, if the other touches nothing.
    pub direct_ns: f64,
    /// Nanoseconds that it costs beyond that if the other reads its memory, through the caches.
    pub indirect_ns: f64,
    /// Both, as a share of the time between two ticks.
    pub slowdown: f64,
}

/// What single ticks cost: how much longer than usual the stretch took in which one fell, and those after it until
/// all data should be back. The median of many is not disturbed by what else the machine does now and then.
struct Recorder {
    quiet_ns: f64,
    window: usize,
    running: Option<(f64, usize)>,
    costs_ns: Vec<f64>,
}

impl Recorder {
    fn new(set: &Set, quiet_ns: f64) -> Self {
        Self {
            quiet_ns,
            window: (WALKS_BACK * set.lines()).div_ceil(STRETCH),
            running: None,
            costs_ns: Vec::new(),
        }
    }

    /// A stretch took so long, and a tick fell into it or did not.
    fn stretch(&mut self, took_ns: f64, ticked: bool) {
        if ticked {
            self.costs_ns
                .extend(self.running.take().map(|(cost_ns, _)| cost_ns));
            self.running = Some((0.0, self.window));
        }
        let Some((cost_ns, left)) = &mut self.running else {
            return;
        };
        *cost_ns += took_ns - self.quiet_ns;
        match left.checked_sub(1) {
            Some(fewer) => *left = fewer,
            None => self
                .costs_ns
                .extend(self.running.take().map(|(cost_ns, _)| cost_ns)),
        }
    }

    fn has_enough(&self) -> bool {
        self.costs_ns.len() >= TICKS_MIN as usize
    }

    /// What a tick costs, and of how many that is the median.
    fn finish(self) -> io::Result<(f64, usize)> {
        let count = self.costs_ns.len();
        match count {
            0 => Err(io::Error::other("no tick came")),
            _ => Ok((median(&self.costs_ns), count)),
        }
    }
}

/// Between ticks, and how long they are looked at.
#[derive(Clone, Copy)]
struct Rate {
    period: Duration,
    span: Duration,
}

pub(super) fn of(
    carrier: Carrier,
    bytes: usize,
    period: Duration,
    plan: &Plan,
    player: &Player,
) -> TickRow {
    let rate = Rate {
        period,
        span: plan.span.max(period * TICKS_MIN),
    };
    let ticked = apart(|| {
        pin(processors_of(Placement::OneProcessor)?.0)?;
        let set = Set::new(bytes);
        let measured = |lines| {
            let quiet_ns = quiet(&set, plan.span);
            let recorder = Recorder::new(&set, quiet_ns);
            let costs = match carrier {
                Carrier::Kernel => by_thread(&set, lines, rate, recorder),
                Carrier::Process => by_process(&set, lines, rate, recorder, player),
                Carrier::User | Carrier::Hybrid => {
                    beside(carrier, plan.tick_bytes.max(LINE_BYTES), player, |turn| {
                        by_turns(&set, lines, rate, recorder, turn)
                    })
                }
            };
            Ok::<_, io::Error>((costs?, quiet_ns))
        };
        let ((direct_ns, _), _) = measured(0)?;
        let ((tick_ns, ticks), quiet_ns) = measured(plan.tick_bytes / LINE_BYTES)?;
        Ok(Ticked {
            ticks,
            quiet_ns: quiet_ns / STRETCH as f64,
            direct_ns,
            indirect_ns: tick_ns - direct_ns,
            slowdown: tick_ns / period.as_nanos() as f64,
        })
    });
    TickRow {
        carrier,
        bytes,
        period_us: period.as_micros() as u64,
        ticked: Figure::of(ticked),
    }
}

/// Walks for so long, and until it is enough, stretch by stretch: `each` is told what processor time a stretch took, and
/// says whether it is enough.
fn stretches(
    set: &Set,
    span: Duration,
    mut each: impl FnMut(f64) -> io::Result<bool>,
) -> io::Result<()> {
    set.walk(0);
    let begun = Instant::now();
    let (mut at, mut enough) = (0, false);
    while begun.elapsed() < span || !enough && begun.elapsed() < PATIENCE {
        let before = thread_cpu_time();
        at = set.walk_on(at, STRETCH);
        enough = each((thread_cpu_time() - before).as_nanos() as f64)?;
    }
    Ok(())
}

/// Nanoseconds of a stretch while nobody ticks.
fn quiet(set: &Set, span: Duration) -> f64 {
    let mut took = Vec::new();
    let walked = stretches(set, span, |took_ns| {
        took.push(took_ns);
        Ok(true)
    });
    debug_assert!(walked.is_ok());
    median(&took)
}

/// Walks while somebody else ticks.
fn interrupted(
    set: &Set,
    rate: Rate,
    words: &SharedWords,
    mut recorder: Recorder,
) -> io::Result<(f64, usize)> {
    let mut seen = words[COUNT].load(Ordering::Relaxed);
    stretches(set, rate.span, |took_ns| {
        let count = words[COUNT].load(Ordering::Relaxed);
        recorder.stretch(took_ns, count != seen);
        seen = count;
        Ok(recorder.has_enough())
    })?;
    recorder.finish()
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

fn by_thread(set: &Set, lines: usize, rate: Rate, recorder: Recorder) -> io::Result<(f64, usize)> {
    let words = words()?;
    std::thread::scope(|threads| {
        let _stop = Stop(&words);
        let ticker = std::thread::Builder::new().name("ticker".to_owned());
        ticker.spawn_scoped(threads, || ticking(lines, rate.period, &words))?;
        interrupted(set, rate, &words, recorder)
    })
}

fn by_process(
    set: &Set,
    lines: usize,
    rate: Rate,
    recorder: Recorder,
    player: &Player,
) -> io::Result<(f64, usize)> {
    let words = words()?;
    let processor = processors_of(Placement::OneProcessor)?.0;
    let part = player.part(&[
        "tick",
        &lines.to_string(),
        &rate.period.as_micros().to_string(),
        &processor.to_string(),
    ]);
    let mut child = started(part.descriptor(WORDS, words.descriptor()?))?;
    while words[COUNT].load(Ordering::Relaxed) == 0 {
        let ended = child.wait(Some(Duration::ZERO)).map_err(io::Error::other)?;
        if ended.is_some() {
            return Err(io::Error::other("the other process has failed"));
        }
        std::thread::yield_now();
    }
    let _stop = Stop(&words);
    interrupted(set, rate, &words, recorder)
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
    rate: Rate,
    mut recorder: Recorder,
    turn: Turn<'_>,
) -> io::Result<(f64, usize)> {
    let mut direct = Vec::new();
    for _ in 0..DIRECT_TURNS {
        let begun = Instant::now();
        turn(0)?;
        direct.push(begun.elapsed().as_nanos() as f64);
    }
    let clock_ns = clock_cost().as_nanos() as f64;
    let direct_ns = (median(&direct) - clock_ns).max(0.0);
    let mut due = Instant::now() + rate.period;
    let mut ticked = false;
    stretches(set, rate.span, |took_ns| {
        recorder.stretch(took_ns, std::mem::take(&mut ticked));
        let now = Instant::now();
        if now >= due {
            turn(lines)?;
            ticked = true;
            due = (due + rate.period).max(now);
        }
        Ok(recorder.has_enough())
    })?;
    let (cost_ns, ticks) = recorder.finish()?;
    Ok((cost_ns + direct_ns, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_costs_what_its_stretches_took_longer() {
        let set = Set::new(STRETCH * LINE_BYTES); // back after two stretches
        let mut recorder = Recorder::new(&set, 100.0);
        for (took_ns, ticked) in [
            (900.0, false),
            (150.0, true),
            (110.0, false),
            (101.0, false),
            (500.0, false),
            (130.0, true),
            (160.0, true),
            (100.0, false),
            (100.0, false),
        ] {
            recorder.stretch(took_ns, ticked);
        }
        assert_eq!(recorder.costs_ns, [61.0, 30.0, 60.0]);
        assert_eq!(recorder.finish().unwrap(), (60.0, 3));
        assert!(Recorder::new(&set, 1.0).finish().is_err());
    }
}
