//! The source's side of a move while memory is copied in rounds and the process runs: what it writes is noted, and sent
//! again.
//!
//! ```text
//!  Track ─► all that has changed counts as written ─► Round ─► taken, sent, said to be there ─► Round ─► …
//!                                                                                                  │
//!                        Untrack, Resume, an end, another service: nothing is noted any more ◄─────┤
//!                                                              Pause, Capture: what is left ◄──────┘
//! ```

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sterna_migration::{Attempt, Round, RoundGoing, RunnerEvent};
use sterna_process::{Memory, MemoryError, PAGE_SIZE, PageRuns};
use sterna_sys::giving_way::Turn;

use crate::fault::Midway;
use crate::hosted::{Hosted, Stage};
use crate::leaving::{Outgoing, chain};
use crate::limits::{
    CATCH_UP_PAGES_MAX, CATCH_UPS, LOOK_EVERY, LOOK_WITHIN, LOOKS_IN_A_ROUND, SETTLE_WITHIN,
    TELL_EVERY,
};
use crate::message::Said;
use crate::pump::{self, PumpError};
use crate::role::Role;
use crate::service::Service;

/// The written pages of a process, noted for one move from its beginning until [`Live::end`], at the latest until it is
/// dropped; or until [the process is gone](Live::leave).
pub(crate) struct Live {
    memory: Arc<dyn Memory>,
    /// Whether they still are.
    is_tracked: Mutex<bool>,
    /// Rounds that have gone.
    rounds: AtomicU32,
}

impl Live {
    fn start(memory: Arc<dyn Memory>) -> Result<(Self, u64), MemoryError> {
        memory.start_tracking()?;
        let live = Self {
            memory,
            is_tracked: Mutex::new(true),
            rounds: AtomicU32::new(0),
        };
        // What was written before counts as written now.
        let changed = live.memory.changed()?;
        live.memory.put_back(&changed)?;
        Ok((live, changed.page_count()))
    }

    /// How many rounds the target has.
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.load(Ordering::Relaxed)
    }

    fn tracked(&self) -> MutexGuard<'_, bool> {
        self.is_tracked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The pages to be sent, which count as sent; of a process that stands still, the rest. That they are noted is not ended
    /// while it does: of a large memory this takes a while, and costs nothing before it runs again.
    pub(crate) fn take(&self) -> Result<PageRuns, MemoryError> {
        match *self.tracked() {
            true => self.memory.take_dirty(),
            // Another move may have begun since.
            false => Err(MemoryError::NotTracking),
        }
    }

    /// How many there are.
    fn count(&self) -> Result<u64, MemoryError> {
        let tracked = self.tracked();
        if !*tracked {
            return Err(MemoryError::NotTracking);
        }
        let dirty = self.memory.take_dirty()?;
        self.memory.put_back(&dirty)?;
        Ok(dirty.page_count())
    }

    /// Its process is not to run here again: that it is noted what that writes ends with its memory, which costs nothing.
    pub(crate) fn leave(&self) {
        *self.tracked() = false;
    }

    /// Nothing is noted any more. Of a large memory this takes a while: not while nobody executes the process.
    pub(crate) fn end(&self) {
        let mut tracked = self.tracked();
        if std::mem::take(&mut *tracked)
            && let Err(error) = self.memory.stop_tracking()
        {
            tracing::warn!("what a process writes is still noted: {}", chain(&error));
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

impl Outgoing {
    /// Sends what was written since the last round.
    fn round(
        &self,
        live: &Live,
        rate_max: Option<u64>,
        tell: impl Fn(RoundGoing),
    ) -> Result<Round, PumpError> {
        let begun = Instant::now();
        let pages = live.take()?;
        let of = pages.page_count() * PAGE_SIZE as u64;
        let (mut held_back, mut told) = (Duration::ZERO, begun);
        let mut turn = Turn::begin();
        let goes = |sent: u64| {
            turn.give_way();
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                tell(RoundGoing {
                    sent,
                    of,
                    follows: false,
                });
            }
            let Some(rate) = rate_max else { return };
            let early = pump::early(sent, rate, begun);
            if !early.is_zero() {
                let waited = Instant::now();
                self.wait_for(early);
                held_back += waited.elapsed();
            }
        };
        let bytes = self.send_and_wait(|sender| {
            let half = (Midway::HalfRound, goes);
            let bytes = pump::pages(sender, &*live.memory, &pages, half)?;
            pump::round(sender)?;
            Ok(bytes)
        })?;
        live.rounds.fetch_add(1, Ordering::Relaxed);
        let took = begun.elapsed();
        Ok(Round {
            pages: pages.page_count(),
            bytes,
            took,
            held_back,
            dirty: live.count()?,
        })
    }

    /// Sends what was written since the last round, if there was one and it is not too much, to a target that is about to
    /// get the rest; and again, as long as less than half is left.
    pub(crate) fn catch_up(&self, service: &Service, attempt: Attempt) -> Result<(), String> {
        let live = self.live.get();
        let Some(live) = live.filter(|live| live.rounds() > 0) else {
            return Ok(());
        };
        if live.count().map_err(|error| chain(&error))? > CATCH_UP_PAGES_MAX {
            return Ok(());
        }
        for _ in 0..CATCH_UPS {
            let round = self
                .round(live, None, |_| {})
                .map_err(|error| chain(&error))?;
            service.say(&Said::Event(RunnerEvent::RoundSent { attempt, round }));
            if round.dirty > round.pages / 2 {
                break;
            }
        }
        Ok(())
    }
}

/// Notes from now on what a process writes.
pub(crate) fn track(role: &Role, service: &Service, attempt: Attempt) {
    let Some(hosted) = role.hosted(attempt.process) else {
        return;
    };
    hosted.settle(SETTLE_WITHIN);
    let Some(outgoing) = hosted.outgoing(attempt) else {
        let reason = "there is no connection to the target's runner".into();
        return service.say(&Said::Event(RunnerEvent::RoundFailed { attempt, reason }));
    };
    let memory = match &hosted.lock().stage {
        Stage::Running(process) => process.memory(),
        Stage::Standing(paused) => paused.memory(),
        _ => return,
    };
    let started = Live::start(memory).map(|(live, pages)| {
        let _ = outgoing.live.set(live);
        pages
    });
    // Whoever has given the move up meanwhile has found nothing to end.
    if hosted.outgoing(attempt).is_none() {
        outgoing.hang_up();
    }
    service.say(&Said::Event(match started {
        Ok(pages) => RunnerEvent::Tracking { attempt, pages },
        Err(error) => RunnerEvent::TrackFailed {
            attempt,
            reason: chain(&error),
        },
    }));
}

/// Has the target make ready what the process would need where it is, so that it is soon brought to a stand when the
/// rounds are over. Not before it is ready with what it was told.
fn look(hosted: &Hosted, outgoing: &Outgoing) {
    if !outgoing.is_ready(Duration::ZERO) {
        return;
    }
    for _ in 0..LOOKS_IN_A_ROUND {
        let places = match &hosted.lock().stage {
            Stage::Running(process) => process.waypoints(LOOK_WITHIN),
            _ => return,
        };
        match places {
            Ok(places) => outgoing.tell(&places),
            Err(_) => return,
        }
        outgoing.wait_for(LOOK_EVERY);
    }
}

/// Sends a round.
pub(crate) fn round(role: &Role, service: &Service, attempt: Attempt, rate_max: Option<u64>) {
    let Some(hosted) = role.hosted(attempt.process) else {
        return;
    };
    let outgoing = hosted.outgoing(attempt);
    let tracked = outgoing
        .as_ref()
        .and_then(|outgoing| Some((outgoing, outgoing.live.get()?)));
    let sent = match tracked {
        Some((outgoing, live)) => {
            look(&hosted, outgoing);
            let tell = |going| service.say(&Said::Going { attempt, going });
            let sent = outgoing.round(live, rate_max, tell);
            sent.map_err(|error| chain(&error))
        }
        None => Err("the connection to the target's runner is gone".into()),
    };
    service.say(&Said::Event(match sent {
        Ok(round) => RunnerEvent::RoundSent { attempt, round },
        Err(reason) => RunnerEvent::RoundFailed { attempt, reason },
    }));
}

/// There will be no more rounds.
pub(crate) fn untrack(hosted: &Hosted, attempt: Attempt) {
    let mut inner = hosted.lock();
    if let Some((_, outgoing)) = inner.outgoing.take_if(|(of, _)| *of == attempt) {
        outgoing.hang_up();
    }
}

impl Hosted {
    /// The connection of this move.
    pub(crate) fn outgoing(&self, attempt: Attempt) -> Option<Arc<Outgoing>> {
        let inner = self.lock();
        let own = inner.outgoing.as_ref().filter(|(of, _)| *of == attempt);
        own.map(|(_, outgoing)| Arc::clone(outgoing))
    }
}
