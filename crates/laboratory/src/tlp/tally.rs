//! [`Tally`]: adds up how long how many threads ran, from events in the order of time.
//!
//! ```text
//!             On                   Off{ready: false}
//!   Away ───────────► Running ───────────────────────► Away
//!                      ▲   │ Off{ready: true}
//!                   On │   ▼
//!                      Ready            Ended: forgotten, from any state
//! ```
//!
//! A measurement may begin in the middle of a program's life. A thread that was then running or ready is *unclear* until
//! its first event: off means that it ran all the time before, on that it waited. Events are kept until nobody is unclear.

use std::collections::HashMap;

use serde::Serialize;

/// Events that are kept while somebody is unclear; then those threads are taken to run.
const KEPT_MAX: usize = 1 << 20;
/// Names that are told apart; threads with others are counted together.
const NAMES_MAX: usize = 1000;
/// Names in a result.
const NAMES_SHOWN: usize = 12;
/// Under which name the rest is counted.
const OTHERS: &str = "(others)";

/// For how long how many threads ran.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Histogram {
    /// Share of the time in which exactly as many threads ran as the index says. Adds up to 1.
    pub shares: Vec<f64>,
    /// Mean number of running threads while any ran; `None` if none ever did.
    pub tlp: Option<f64>,
}

impl Histogram {
    /// From the time spent at each number of threads.
    fn of(spent: &[u64]) -> Self {
        let total: u64 = spent.iter().sum();
        let busy: u64 = spent.iter().skip(1).sum();
        let weighted: f64 = spent
            .iter()
            .enumerate()
            .map(|(count, time)| count as f64 * *time as f64)
            .sum();
        Self {
            shares: spent
                .iter()
                .map(|time| *time as f64 / total.max(1) as f64)
                .collect(),
            tlp: (busy > 0).then(|| weighted / busy as f64),
        }
    }
}

/// Threads of one name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Named {
    /// Their name, as the program gave it. Not harmless to terminals.
    pub name: String,
    /// How many there were.
    pub threads: u64,
    /// How long they ran.
    pub run_seconds: f64,
}

/// What happened to a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// It got this processor.
    On { processor: i32 },
    /// It lost it, and would have run on if `ready`.
    Off { ready: bool },
    /// It became another program, and so runs.
    Executed(String),
    /// It has another name.
    Renamed(String),
    /// It was made by another thread.
    Made { by: i32 },
    /// It is no more.
    Ended,
}

/// When what happened to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) time_ns: u64,
    pub(super) thread: i32,
    pub(super) what: What,
}

/// The sums.
pub(super) struct Sums {
    pub(super) seconds: f64,
    pub(super) running: Histogram,
    pub(super) wanted: Histogram,
    pub(super) threads: u64,
    pub(super) switches: u64,
    pub(super) busiest: Vec<Named>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Away,
    Ready,
    Running { since_ns: u64 },
}

struct Thread {
    state: State,
    /// Where it was last seen to run.
    processor: Option<i32>,
    name: String,
    run_ns: u64,
}

#[derive(Default)]
struct Total {
    threads: u64,
    run_ns: u64,
}

/// Adds up.
pub(super) struct Tally {
    start_ns: u64,
    now_ns: u64,
    threads: HashMap<i32, Thread>,
    /// Who was last seen to run on a processor.
    on: HashMap<i32, i32>,
    running: usize,
    ready: usize,
    running_ns: Vec<u64>,
    wanted_ns: Vec<u64>,
    unclear: Vec<i32>,
    kept: Vec<Event>,
    names: HashMap<String, Total>,
    seen: u64,
    switches: u64,
}

impl Tally {
    pub(super) fn new(start_ns: u64) -> Self {
        Self {
            start_ns,
            now_ns: start_ns,
            threads: HashMap::new(),
            on: HashMap::new(),
            running: 0,
            ready: 0,
            running_ns: Vec::new(),
            wanted_ns: Vec::new(),
            unclear: Vec::new(),
            kept: Vec::new(),
            names: HashMap::new(),
            seen: 0,
            switches: 0,
        }
    }

    /// A thread that was there at the start. `unclear`: it was running or ready.
    pub(super) fn was_there(&mut self, thread: i32, name: &str, unclear: bool) {
        self.thread(thread).name = name.to_owned();
        if unclear {
            self.unclear.push(thread);
        }
    }

    /// The next event. Events before the start count as at the start.
    pub(super) fn event(&mut self, event: Event) {
        if self.unclear.is_empty() {
            self.apply(event);
            return;
        }
        if let Some(at) = self.unclear.iter().position(|one| *one == event.thread) {
            let state = match event.what {
                What::On { .. } => Some(State::Ready),
                What::Off { .. } | What::Ended | What::Executed(_) => Some(State::Running {
                    since_ns: self.start_ns,
                }),
                What::Made { .. } | What::Renamed(_) => None,
            };
            if let Some(state) = state {
                self.unclear.swap_remove(at);
                self.set(event.thread, state);
            }
        }
        self.kept.push(event);
        if self.kept.len() >= KEPT_MAX {
            self.settle();
        } else if self.unclear.is_empty() {
            self.replay();
        }
    }

    /// How many threads ran and how many would have, over a span of time: for those who look instead of following.
    pub(super) fn looked(&mut self, span_ns: u64, running: usize, wanted: usize) {
        self.now_ns += span_ns;
        add(&mut self.running_ns, running, span_ns);
        add(&mut self.wanted_ns, wanted, span_ns);
    }

    /// A thread that was found running by a look, which counts as all of the span.
    pub(super) fn found_running(&mut self, thread: i32, name: &str, span_ns: u64) {
        let found = self.thread(thread);
        found.run_ns += span_ns;
        if found.name != name {
            found.name = name.to_owned();
        }
    }

    /// The sums at the end.
    pub(super) fn finish(mut self, end_ns: u64) -> Sums {
        self.settle();
        self.advance(end_ns);
        let all: Vec<i32> = self.threads.keys().copied().collect();
        for thread in all {
            self.set(thread, State::Away);
            self.forget(thread);
        }
        let mut busiest: Vec<Named> = self
            .names
            .into_iter()
            .map(|(name, total)| Named {
                name,
                threads: total.threads,
                run_seconds: total.run_ns as f64 / 1e9,
            })
            .collect();
        busiest.sort_by(|one, two| two.run_seconds.total_cmp(&one.run_seconds));
        busiest.truncate(NAMES_SHOWN);
        Sums {
            seconds: (self.now_ns - self.start_ns) as f64 / 1e9,
            running: Histogram::of(&self.running_ns),
            wanted: Histogram::of(&self.wanted_ns),
            threads: self.seen,
            switches: self.switches,
            busiest,
        }
    }

    /// Whoever is still unclear had no event, and so ran all the time.
    fn settle(&mut self) {
        let since_ns = self.start_ns;
        for thread in std::mem::take(&mut self.unclear) {
            self.set(thread, State::Running { since_ns });
        }
        self.replay();
    }

    fn replay(&mut self) {
        for event in std::mem::take(&mut self.kept) {
            self.apply(event);
        }
    }

    fn apply(&mut self, event: Event) {
        self.advance(event.time_ns);
        let since_ns = self.now_ns;
        let thread = event.thread;
        match event.what {
            What::On { processor } => {
                self.switches += 1;
                // One thread at a time: if another is still there, the record of its going was lost.
                let before = self.on.insert(processor, thread);
                if let Some(before) = before.filter(|before| *before != thread) {
                    self.gone(before, processor);
                }
                self.set(thread, State::Running { since_ns });
                self.thread(thread).processor = Some(processor);
            }
            What::Off { ready: true } => self.set(thread, State::Ready),
            What::Off { ready: false } => self.set(thread, State::Away),
            What::Executed(name) => {
                self.set(thread, State::Running { since_ns });
                self.thread(thread).name = name;
            }
            What::Renamed(name) => self.thread(thread).name = name,
            What::Made { by } => {
                let name = self.threads.get(&by).map(|maker| maker.name.clone());
                self.thread(thread).name = name.unwrap_or_default();
            }
            What::Ended => {
                self.set(thread, State::Away);
                self.forget(thread);
            }
        }
    }

    /// Takes a thread off a processor, if it is still on it.
    fn gone(&mut self, thread: i32, processor: i32) {
        let found = self.threads.get(&thread);
        let there = found.is_some_and(|found| {
            found.processor == Some(processor) && matches!(found.state, State::Running { .. })
        });
        if there {
            self.set(thread, State::Away);
        }
    }

    /// Counts the time up to `to_ns` at the numbers of now.
    fn advance(&mut self, to_ns: u64) {
        let span_ns = to_ns.saturating_sub(self.now_ns);
        self.now_ns += span_ns;
        add(&mut self.running_ns, self.running, span_ns);
        add(&mut self.wanted_ns, self.running + self.ready, span_ns);
    }

    fn thread(&mut self, thread: i32) -> &mut Thread {
        self.threads.entry(thread).or_insert_with(|| {
            self.seen += 1;
            Thread {
                state: State::Away,
                processor: None,
                name: String::new(),
                run_ns: 0,
            }
        })
    }

    fn set(&mut self, thread: i32, state: State) {
        // What comes after the end of a thread is the rest of its last run.
        let runs = matches!(state, State::Running { .. });
        if !runs && !self.threads.contains_key(&thread) {
            return;
        }
        let now_ns = self.now_ns;
        let changed = self.thread(thread);
        let before = std::mem::replace(&mut changed.state, state);
        if let State::Running { since_ns } = before {
            changed.run_ns += now_ns - since_ns;
        }
        match before {
            State::Running { .. } => self.running -= 1,
            State::Ready => self.ready -= 1,
            State::Away => {}
        }
        match state {
            State::Running { .. } => self.running += 1,
            State::Ready => self.ready += 1,
            State::Away => {}
        }
    }

    fn forget(&mut self, thread: i32) {
        let Some(gone) = self.threads.remove(&thread) else {
            return;
        };
        let known = self.names.len() < NAMES_MAX || self.names.contains_key(&gone.name);
        let name = if known { gone.name } else { OTHERS.to_owned() };
        let total = self.names.entry(name).or_default();
        total.threads += 1;
        total.run_ns += gone.run_ns;
    }
}

fn add(spent: &mut Vec<u64>, count: usize, span_ns: u64) {
    if span_ns == 0 {
        return;
    }
    if spent.len() <= count {
        spent.resize(count + 1, 0);
    }
    spent[count] += span_ns;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(time_ns: u64, thread: i32, what: What) -> Event {
        Event {
            time_ns,
            thread,
            what,
        }
    }

    /// On a processor of its own.
    fn on(processor: i32) -> What {
        What::On { processor }
    }

    const OFF: What = What::Off { ready: false };
    const INTERRUPTED: What = What::Off { ready: true };

    #[test]
    fn the_formula_on_a_known_program() {
        let mut tally = Tally::new(1000);
        // Nobody for 10, one for 20, two for 30, one for 40.
        for (time_ns, thread, what) in [
            (1010, 1, on(1)),
            (1030, 2, on(2)),
            (1060, 1, OFF),
            (1100, 2, OFF),
        ] {
            tally.event(event(time_ns, thread, what));
        }
        let sums = tally.finish(1100);
        assert_eq!(sums.running.shares, [0.1, 0.6, 0.3]);
        assert_eq!(
            sums.running.tlp,
            Some((60.0 + 2.0 * 30.0) / 90.0),
            "(1·0.6 + 2·0.3) / (1 − 0.1)"
        );
        assert_eq!((sums.threads, sums.switches), (2, 2));
        assert_eq!(sums.busiest[0].run_seconds, 120e-9);
    }

    #[test]
    fn interrupted_threads_want_a_processor() {
        let mut tally = Tally::new(0);
        tally.event(event(0, 1, on(1)));
        tally.event(event(50, 1, INTERRUPTED));
        tally.event(event(50, 2, on(2)));
        let sums = tally.finish(100);
        assert_eq!(sums.running.shares, [0.0, 1.0]);
        assert_eq!(sums.wanted.shares, [0.0, 0.5, 0.5]);
    }

    #[test]
    fn who_ran_before_the_start_is_counted_from_the_start() {
        let mut tally = Tally::new(0);
        tally.was_there(1, "ran", true);
        tally.was_there(2, "waited", true);
        tally.was_there(3, "never switched", true);
        tally.was_there(4, "slept", false);
        tally.event(event(10, 4, on(4)));
        tally.event(event(20, 1, OFF));
        tally.event(event(40, 2, on(2)));
        let sums = tally.finish(50);
        // Threads 1 and 3; then 1, 3, 4; then 3, 4; then 2, 3, 4.
        assert_eq!(sums.running.shares, [0.0, 0.0, 0.6, 0.4]);
        assert_eq!(sums.wanted.shares, [0.0, 0.0, 0.0, 0.8, 0.2]);
        let ran: Vec<_> = sums
            .busiest
            .iter()
            .map(|named| {
                (
                    named.name.as_str(),
                    (named.run_seconds * 1e9).round() as u64,
                )
            })
            .collect();
        assert_eq!(
            ran,
            [
                ("never switched", 50),
                ("slept", 40),
                ("ran", 20),
                ("waited", 10)
            ]
        );
    }

    #[test]
    fn lost_and_late_events_do_no_harm() {
        let mut tally = Tally::new(100);
        tally.event(event(90, 1, on(1))); // before the start
        tally.event(event(110, 1, on(1))); // its end was lost
        tally.event(event(120, 1, What::Ended));
        tally.event(event(121, 1, OFF)); // of a thread that has ended
        tally.event(event(130, 2, OFF)); // never seen before
        let sums = tally.finish(140);
        assert_eq!(sums.running.shares, [0.5, 0.5]);
        assert_eq!(sums.threads, 1);
        assert_eq!(sums.running.shares.iter().sum::<f64>(), 1.0);
    }

    #[test]
    fn no_more_run_at_once_than_there_are_processors() {
        let mut tally = Tally::new(0);
        tally.event(event(0, 1, on(7)));
        tally.event(event(10, 2, on(7))); // that 1 went was lost
        tally.event(event(15, 1, on(8)));
        tally.event(event(20, 3, on(7)));
        let sums = tally.finish(30);
        assert_eq!(sums.running.shares[..2], [0.0, 0.5]);
        assert_eq!(sums.running.shares.len(), 3);
    }

    #[test]
    fn nothing_that_ran_has_no_parallelism() {
        let sums = Tally::new(0).finish(100);
        assert_eq!(sums.running.shares, [1.0]);
        assert_eq!(sums.running.tlp, None);
    }

    #[test]
    fn names_come_from_the_maker_until_they_are_changed() {
        let mut tally = Tally::new(0);
        tally.event(event(0, 1, What::Executed("shell".to_owned())));
        tally.event(event(1, 2, What::Made { by: 1 }));
        tally.event(event(2, 2, on(2)));
        tally.event(event(3, 2, What::Ended));
        tally.event(event(4, 3, What::Made { by: 1 }));
        tally.event(event(5, 3, What::Renamed("worker".to_owned())));
        let sums = tally.finish(6);
        let mut names: Vec<_> = sums
            .busiest
            .iter()
            .map(|named| (named.name.as_str(), named.threads))
            .collect();
        names.sort_unstable();
        assert_eq!(names, [("shell", 2), ("worker", 1)]);
    }
}
