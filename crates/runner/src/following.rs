//! The source's side of a memory that follows its process: pages that are asked for go first; all others unasked, on
//! connections of their own, so that nobody waits behind them.
//!
//! ```text
//!  target ── Want ──► main connection: the page, and those around it if the last one was near ──► target
//!                     lanes: all others, from the last page on that was asked for ──► target
//! ```
//!
//! While somebody waits for page after page, the lanes hold back ([`HELD_BACK_SHARE`]): both runners' processors are what each of these
//! pages needs. Not for ever, so that there is an end.
//!
//! Source: M. R. Hines, U. Deshpande, K. Gopalan, *Post-Copy Live Migration of Virtual Machines*, ACM SIGOPS Operating Systems
//! Review 43(3), 2009: adaptive pre-paging with a pivot that moves to each fault.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sterna_migration::RoundGoing;
use sterna_process::{Memory, PAGE_SIZE, PageRun, PageRuns, RegionId};

use crate::channel::{Breaker, ChannelError, Sender};
use crate::fault::{self, Midway};
use crate::leaving::{Outgoing, chain};
use crate::left::Left;
use crate::limits::{
    AHEAD_PAGES, ASKS_FOR, BEHIND_PAGES, HELD_BACK_MAX, HELD_BACK_PAGES, HELD_BACK_SHARE, HOLD_MAX,
    LANE_WITHIN, RUNS_LOOK_EVERY, RUNS_WITHIN, TELL_EVERY,
};
use crate::pump::{self, PumpError, RECORD_PAGES};

/// What is still to go of a process that stands still.
pub(crate) struct Following {
    memory: Arc<dyn Memory>,
    left: Mutex<Going>,
    /// When pages were asked for last, in microseconds since the beginning; 0 if never.
    asked_us: AtomicU64,
    rate_max: Option<u64>,
    /// Until when that is kept to.
    kept_until: Instant,
    begun: Instant,
    /// Bytes that went unasked.
    sent: AtomicU64,
    /// All that is to go, in bytes.
    of: u64,
    told: Mutex<Instant>,
    tell: Tell,
}

/// To whom it is said how far it is.
pub(crate) type Tell = Box<dyn Fn(RoundGoing) + Send + Sync>;

/// A place in a memory: a page.
type Place = (RegionId, u64);

/// What is still to go, and what comes next.
#[derive(Debug)]
struct Going {
    left: Left,
    /// From where on pages go unasked.
    pivot: Place,
    /// Behind the page that was asked for last.
    asked: Place,
}

impl Going {
    /// Takes what is asked for; and, if the page before was near, what lies around it: that will be wanted, too.
    fn ask(&mut self, run: PageRun) -> (Vec<PageRun>, Vec<PageRun>) {
        let (region, last) = self.asked;
        let near = last.saturating_sub(AHEAD_PAGES)..last.saturating_add(2 * AHEAD_PAGES);
        let is_near = run.region() == region && near.contains(&run.first());
        self.asked = (run.region(), run.end());
        let page = self.left.take(run);
        let first = run.first().saturating_sub(BEHIND_PAGES);
        let end = run.end().saturating_add(AHEAD_PAGES);
        let around = PageRun::new(run.region(), first, end - first).filter(|_| is_near);
        self.pivot = match is_near {
            true => (run.region(), end),
            false => self.asked,
        };
        let around = around.map(|around| self.left.take(around));
        (page, around.unwrap_or_default())
    }
}

impl Following {
    pub(crate) fn new(
        memory: Arc<dyn Memory>,
        pages: &PageRuns,
        (rate_max, within): (Option<u64>, Duration),
        tell: Tell,
    ) -> Self {
        let begun = Instant::now();
        Self {
            memory,
            left: Mutex::new(Going {
                left: Left::new(pages),
                pivot: (RegionId(0), 0),
                asked: (RegionId(0), u64::MAX),
            }),
            asked_us: AtomicU64::new(0),
            rate_max,
            kept_until: begun + within,
            begun,
            sent: AtomicU64::new(0),
            of: pages.page_count() * PAGE_SIZE as u64,
            told: Mutex::new(begun),
            tell,
        }
    }

    fn left(&self) -> MutexGuard<'_, Going> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what somebody waits for, and what lies around it.
    pub(crate) fn answer(&self, to: &mut Sender, wanted: &[PageRun]) -> Result<(), PumpError> {
        self.note_asked();
        for run in wanted {
            let (page, around) = self.left().ask(*run);
            self.send(to, page)?;
            self.send(to, around)?;
        }
        self.note_asked();
        Ok(())
    }

    fn note_asked(&self) {
        let now_us = self.begun.elapsed().as_micros();
        let now_us = now_us.try_into().unwrap_or(u64::MAX);
        self.asked_us.store(now_us, Ordering::Relaxed);
    }

    /// Says now and then how much has gone.
    fn note_going(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() < TELL_EVERY {
            return;
        }
        *told = Instant::now();
        drop(told);
        let left = self.left().left.count() * PAGE_SIZE as u64;
        (self.tell)(RoundGoing {
            sent: self.of.saturating_sub(left),
            of: self.of,
            follows: true,
        });
    }

    /// Whether somebody waits for page after page, and others do not go as fast as they could.
    fn holds_back(&self) -> bool {
        let since = self.begun.elapsed();
        let asked_us = self.asked_us.load(Ordering::Relaxed);
        let asked = Duration::from_micros(asked_us);
        asked_us > 0 && since < HELD_BACK_MAX && since.saturating_sub(asked) < ASKS_FOR
    }

    fn send(&self, to: &mut Sender, runs: Vec<PageRun>) -> Result<u64, PumpError> {
        let half = (Midway::SomeFollowed, |_| {});
        pump::pages(to, &*self.memory, &PageRuns::from(runs), half)
    }

    /// The next pages that nobody has asked for.
    fn next(&self, pages_max: u64) -> Option<PageRun> {
        let going = &mut *self.left();
        let next = going.left.take_next(going.pivot, pages_max)?;
        going.pivot = (next.region(), next.end());
        Some(next)
    }

    /// How long to wait before more may go unasked.
    fn early(&self) -> Duration {
        let Some(rate) = self.rate_max.filter(|_| Instant::now() < self.kept_until) else {
            return Duration::ZERO;
        };
        let sent = self.sent.load(Ordering::Relaxed);
        let left = self.kept_until.saturating_duration_since(Instant::now());
        pump::early(sent, rate, self.begun).min(left)
    }

    /// Nothing goes unasked while the process stands still: its commit needs the processors. That it runs shows when it asks for a
    /// page.
    fn wait_until_it_runs(&self, outgoing: &Outgoing) {
        let until = Instant::now() + RUNS_WITHIN;
        while self.asked_us.load(Ordering::Relaxed) == 0 && Instant::now() < until {
            outgoing.wait_for(RUNS_LOOK_EVERY);
        }
    }

    /// Sends all that is left, on one connection of several: on a lane, or where answers go.
    fn push(&self, outgoing: &Outgoing, mut lane: Option<Sender>) {
        self.wait_until_it_runs(outgoing);
        loop {
            outgoing.wait_for(self.early());
            self.note_going();
            let (held_back, begun) = (self.holds_back(), Instant::now());
            let pages_max = if held_back {
                HELD_BACK_PAGES
            } else {
                RECORD_PAGES
            };
            let Some(run) = self.next(pages_max) else {
                return;
            };
            let sent = match &mut lane {
                Some(lane) => self.send(lane, vec![run]),
                None => self.send(&mut outgoing.sender(), vec![run]),
            };
            match sent {
                Ok(bytes) => _ = self.sent.fetch_add(bytes, Ordering::Relaxed),
                Err(error) => {
                    // What was taken and did not go, nobody sends again.
                    tracing::debug!("pages do not follow: {}", chain(&error));
                    return outgoing.close();
                }
            }
            if held_back {
                let pause = begun.elapsed() * (HELD_BACK_SHARE - 1);
                outgoing.wait_for(pause.min(HOLD_MAX));
            }
        }
    }
}

/// Connections beside the one on which what is asked for goes.
#[derive(Default)]
pub(crate) struct Lanes {
    has_begun: bool,
    waiting: Vec<Sender>,
    breakers: Vec<Breaker>,
}

impl Lanes {
    pub(crate) fn hang_up(&mut self) {
        self.waiting.clear();
        self.breakers.iter().for_each(Breaker::hang_up);
    }
}

impl Outgoing {
    /// All of the memory that is left follows from now on.
    pub(crate) fn follow(self: &Arc<Self>) {
        let waiting = {
            let mut lanes = self.lanes();
            lanes.has_begun = true;
            std::mem::take(&mut lanes.waiting)
        };
        for lane in waiting {
            self.push_on("lane", Some(lane));
        }
        let outgoing = Arc::clone(self);
        let waiting = thread::Builder::new().name("lanes".into()).spawn(move || {
            outgoing.wait_for(LANE_WITHIN);
            if outgoing.lanes().breakers.is_empty() {
                outgoing.push_on("following", None);
            }
        });
        if let Err(error) = waiting {
            tracing::warn!("pages may go only where they are asked for: {error}");
        }
    }

    /// Whether its pages follow it.
    pub(crate) fn is_followed(&self) -> bool {
        self.following.get().is_some()
    }

    /// There is one more connection to the target's runner.
    pub(crate) fn add_lane(self: &Arc<Self>, lane: Sender) -> Result<(), ChannelError> {
        let breaker = lane.breaker()?;
        let mut lanes = self.lanes();
        lanes.breakers.push(breaker);
        if lanes.has_begun {
            drop(lanes);
            self.push_on("lane", Some(lane));
        } else {
            lanes.waiting.push(lane);
        }
        Ok(())
    }

    fn push_on(self: &Arc<Self>, name: &str, lane: Option<Sender>) {
        let outgoing = Arc::clone(self);
        let pushing = thread::Builder::new().name(name.into()).spawn(move || {
            fault::point("runner", &Midway::Following);
            if let Some(following) = outgoing.following.get() {
                following.push(&outgoing, lane);
            }
        });
        if let Err(error) = pushing {
            tracing::warn!("pages go on fewer connections: {error}");
        }
    }
}
