//! What clients saw of moves: [`moves`] orders them one after the other, with as much time without one after each.

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Answer, Load, us};
use crate::statistics::{median, quantile};

/// Before the first move.
const BEFORE: Duration = Duration::from_secs(2);
/// After a move, for what it delayed to get through.
const SETTLE: Duration = Duration::from_millis(200);
/// For the last answers of a stretch of time to come.
const GRACE: Duration = Duration::from_millis(20);
/// Of time, before and after a move, that a trace shows.
const LEAD_US: u64 = 150_000;
/// Points of a trace, at most, and microseconds of each, at least.
const POINTS_MAX: u64 = 600;
const POINT_US: u64 = 1000;

/// A move, as whoever ordered it saw it.
#[derive(Debug, Clone)]
pub struct Moved {
    /// When.
    pub ordered: Instant,
    /// Its parts from then on, in order.
    pub parts: Vec<(String, Duration)>,
    /// For how long nobody executed the server, if that is known.
    pub downtime: Option<Duration>,
}

/// What one move did to clients. All times are in microseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hop {
    /// The longest time between two answers that any client saw, in the move and shortly after it.
    pub gap_us: u64,
    /// When it ended, from the order on.
    pub gap_end_us: u64,
    /// The longest in as much time without a move.
    pub quiet_gap_us: u64,
    /// For how long nobody executed the server, if that is known.
    pub downtime_us: Option<u64>,
    /// For how long its memory went while it ran.
    pub copy_us: u64,
    /// From order to end.
    pub total_us: u64,
    /// What happened when.
    pub phases: Vec<Phase>,
    /// The parts of the move's report, in order, in microseconds.
    pub parts: Vec<(String, u64)>,
}

/// What a stretch of time was like for clients.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Effect {
    /// Answers a second.
    pub per_second: f64,
    /// Microseconds from when a request was due to its answer: half are faster.
    pub p50_us: u64,
    /// One of a hundred is slower.
    pub p99_us: u64,
}

/// Moves of one sort.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Way {
    /// How memory went.
    pub strategy: String,
    /// The moves.
    pub hops: Vec<Hop>,
    /// Before the first of them.
    pub before: Effect,
    /// While memory went and the server ran, if it did.
    pub copying: Option<Effect>,
    /// Between them.
    pub after: Effect,
    /// The move whose gap is the median one.
    #[serde(skip)]
    pub trace: Trace,
}

/// Response times over time around one move, in microseconds from its order on.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// When requests were due, the median of their times, and the longest.
    pub points: Vec<(i64, u64, u64)>,
    /// What the move did.
    pub phases: Vec<Phase>,
}

/// A phase of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What happened.
    pub name: String,
    /// From, in microseconds from the order on.
    pub from_us: u64,
    /// To.
    pub to_us: u64,
}

impl Way {
    /// How much longer the longest gap was than without a move, in microseconds: not more in this share of the moves.
    pub fn above_us(&self, share: f64) -> f64 {
        let above = |hop: &Hop| hop.gap_us as f64 - hop.quiet_gap_us as f64;
        quantile(&self.hops.iter().map(above).collect::<Vec<_>>(), share)
    }

    /// The median of a time, in microseconds; `None` if no move had it.
    pub fn middle_us(&self, of: &dyn Fn(&Hop) -> Option<u64>) -> Option<f64> {
        let values = self.hops.iter().filter_map(of).map(|us| us as f64);
        let middle = median(&values.collect::<Vec<_>>());
        (!middle.is_nan()).then_some(middle)
    }

    /// Answers a second, relative to before.
    pub fn share_of(&self, effect: &Effect) -> f64 {
        effect.per_second / self.before.per_second
    }
}

/// Has a server moved so often, and looks at what its clients see.
///
/// # Errors
/// Those of `hop`, which moves it once.
pub fn moves<E>(
    load: &Load,
    clients: usize,
    count: usize,
    hop: &mut dyn FnMut() -> Result<Moved, E>,
) -> Result<Way, E> {
    let mut history = History::new(clients);
    let [mut before, mut copying, mut after] = [(); 3].map(|()| Stretch::default());
    let begun = load.now_us();
    thread::sleep(BEFORE);
    let end = load.now_us();
    thread::sleep(GRACE);
    history.take(load);
    before.add(&history, begun, end);
    let (mut hops, mut traces) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let begun = load.now_us();
        let moved = hop()?;
        thread::sleep(SETTLE);
        let settled = load.now_us();
        thread::sleep(Duration::from_micros(settled - begun));
        let end = load.now_us();
        thread::sleep(GRACE);
        history.take(load);
        let ordered = load.at_us(moved.ordered);
        let phases = phases(&moved.parts);
        let copy = phases.iter().find(|phase| phase.name == COPY);
        if let Some(copy) = copy {
            copying.add(&history, ordered + copy.from_us, ordered + copy.to_us);
        }
        after.add(&history, settled, end);
        let (gap_us, gap_end) = history.gap(begun, settled);
        let (quiet_gap_us, _) = history.gap(settled, end);
        hops.push(Hop {
            gap_us,
            gap_end_us: gap_end.saturating_sub(ordered),
            quiet_gap_us,
            downtime_us: moved.downtime.map(us),
            copy_us: copy.map_or(0, |copy| copy.to_us - copy.from_us),
            total_us: phases.last().map_or(0, |last| last.to_us),
            phases: phases.clone(),
            parts: (moved.parts.iter())
                .map(|(part, took)| (part.clone(), us(*took)))
                .collect(),
        });
        traces.push(history.trace(ordered, phases));
        history.forget(end);
    }
    let mut order: Vec<usize> = (0..hops.len()).collect();
    order.sort_by_key(|&at| hops[at].gap_us);
    let middle = order.get(order.len() / 2);
    Ok(Way {
        strategy: String::new(),
        trace: middle.map_or_else(Trace::default, |&at| traces.swap_remove(at)),
        hops,
        before: before.effect(),
        copying: (copying.us > 0).then(|| copying.effect()),
        after: after.effect(),
    })
}

/// While this phase lasts the server runs, and the target makes ready.
pub(super) const READY: &str = "it is made ready";
/// While this one lasts it runs, and its memory goes.
pub(super) const COPY: &str = "memory goes while it runs";
/// While this one lasts nobody executes it.
pub(super) const STILL: &str = "it stands still";
/// Parts of a report in which that is so.
const STILL_PARTS: [&str; 6] = ["capture", "send", "restore", "commit", "resume", "travel"];

/// Parts of a report as people see them; those that follow each other and are alike are one.
fn phases(parts: &[(String, Duration)]) -> Vec<Phase> {
    let mut phases: Vec<Phase> = Vec::new();
    let (mut at, mut has_stood) = (Duration::ZERO, false);
    for (part, took) in parts {
        let name = match part.as_str() {
            "copy" => COPY,
            part if STILL_PARTS.contains(&part) => {
                has_stood = true;
                STILL
            }
            "confirm" => "the end is told",
            part if has_stood => part,
            _ => READY,
        };
        let (from_us, to_us) = (us(at), us(at + *took));
        at += *took;
        match phases.last_mut() {
            Some(last) if last.name == name => last.to_us = to_us,
            _ => phases.push(Phase {
                name: name.to_owned(),
                from_us,
                to_us,
            }),
        }
    }
    phases
}

/// Answers of some time, in their order.
struct History {
    clients: usize,
    answers: Vec<Answer>,
}

impl History {
    const fn new(clients: usize) -> Self {
        Self {
            clients,
            answers: Vec::new(),
        }
    }

    fn take(&mut self, load: &Load) {
        self.answers.append(&mut load.take());
    }

    /// What was long before this is of no use any more.
    fn forget(&mut self, before_us: u64) {
        let kept = before_us.saturating_sub(2 * LEAD_US);
        self.answers.retain(|answer| answer.at_us >= kept);
    }

    /// The longest time without an answer to any one client that ended within this time, or was not over at its end; and when it
    /// ended.
    fn gap(&self, from_us: u64, to_us: u64) -> (u64, u64) {
        let mut last = vec![None; self.clients];
        let mut longest = (0, from_us);
        for answer in self.answers.iter().filter(|answer| answer.at_us <= to_us) {
            let last = &mut last[answer.client as usize];
            if answer.at_us >= from_us {
                longest = longest.max((answer.at_us - last.unwrap_or(from_us), answer.at_us));
            }
            *last = Some(answer.at_us);
        }
        let open = last
            .iter()
            .map(|last| (to_us - last.unwrap_or(from_us), to_us));
        longest.max(open.max().unwrap_or_default())
    }

    fn trace(&self, ordered: u64, phases: Vec<Phase>) -> Trace {
        let from = ordered.saturating_sub(LEAD_US);
        let to = ordered + phases.last().map_or(0, |last| last.to_us) + LEAD_US;
        let step = ((to - from) / POINTS_MAX).max(POINT_US);
        let mut steps = vec![Vec::new(); ((to - from) / step) as usize + 1];
        for answer in &self.answers {
            if (from..to).contains(&answer.due_us) {
                let at = (answer.due_us - from) / step;
                steps[at as usize].push(answer.at_us - answer.due_us);
            }
        }
        let point = |(at, mut times): (usize, Vec<u64>)| {
            times.sort_unstable();
            let longest = *times.last()?;
            let at = (from + at as u64 * step) as i64 - ordered as i64;
            Some((at, times[times.len() / 2], longest))
        };
        Trace {
            points: steps.into_iter().enumerate().filter_map(point).collect(),
            phases,
        }
    }
}

/// Stretches of time that are alike.
#[derive(Default)]
struct Stretch {
    us: u64,
    answers: usize,
    times: Vec<u64>,
}

impl Stretch {
    fn add(&mut self, history: &History, from_us: u64, to_us: u64) {
        self.us += to_us - from_us;
        for answer in &history.answers {
            self.answers += usize::from((from_us..to_us).contains(&answer.at_us));
            if (from_us..to_us).contains(&answer.due_us) {
                self.times.push(answer.at_us - answer.due_us);
            }
        }
    }

    fn effect(mut self) -> Effect {
        self.times.sort_unstable();
        let at = |share: f64| {
            let last = self.times.len().saturating_sub(1) as f64;
            self.times
                .get((share * last) as usize)
                .copied()
                .unwrap_or(0)
        };
        Effect {
            per_second: self.answers as f64 * 1e6 / self.us.max(1) as f64,
            p50_us: at(0.5),
            p99_us: at(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(answers: &[(u32, u64, u64)]) -> History {
        let answer = |&(client, due_us, at_us)| Answer {
            client,
            due_us,
            at_us,
        };
        History {
            clients: 2,
            answers: answers.iter().map(answer).collect(),
        }
    }

    #[test]
    fn a_gap_is_one_clients_and_counts_where_it_ends() {
        let both = history(&[(0, 0, 10), (1, 0, 12), (0, 0, 20), (1, 0, 42), (0, 0, 50)]);
        assert_eq!(both.gap(0, 60), (30, 50), "of either client");
        assert_eq!(both.gap(30, 60), (30, 50), "it began before");
        assert_eq!(both.gap(0, 41), (29, 41), "it goes on");
        assert_eq!(both.gap(43, 60), (30, 50), "the other client's, whole");
        assert_eq!(history(&[]).gap(5, 60), (55, 60), "nobody has an answer");
    }

    #[test]
    fn times_count_from_when_requests_were_due() {
        let all = history(&[(0, 0, 1000), (1, 10, 1000), (0, 900, 1001), (1, 2000, 2002)]);
        let mut stretch = Stretch::default();
        stretch.add(&all, 0, 1000);
        let effect = stretch.effect();
        assert_eq!((effect.p50_us, effect.p99_us), (990, 990));
        let mut stretch = Stretch::default();
        stretch.add(&all, 1000, 2000);
        assert_eq!(stretch.effect().per_second, 3000.0);
        let trace = all.trace(500, Vec::new());
        assert_eq!(trace.points, [(-500, 990, 1000), (1500, 2, 2)]);
    }

    #[test]
    fn parts_of_a_report_become_phases() {
        let parts = [
            "accept", "copy", "pause", "capture", "send", "confirm", "pull",
        ];
        let parts = parts.map(|part| (part.to_owned(), Duration::from_micros(5)));
        let phases = phases(&parts);
        let told: Vec<_> = phases
            .iter()
            .map(|phase| (&*phase.name, phase.from_us, phase.to_us))
            .collect();
        let expected = [
            (READY, 0, 5),
            (COPY, 5, 10),
            (READY, 10, 15),
            (STILL, 15, 25),
            ("the end is told", 25, 30),
            ("pull", 30, 35),
        ];
        assert_eq!(told, expected);
    }
}
