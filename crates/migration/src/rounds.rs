//! Copying memory in rounds while the process runs: what is wanted ([`Travel`]), what came of it ([`Travelled`]), and when
//! to stop.
//!
//! ```text
//!   all pages ──► those written meanwhile ──► those written meanwhile ──► … ──► the rest, standing still
//!                                                                           └──► the rest, running at the target
//! ```
//!
//! A round is worth it as long as it leaves less than it has sent. Whether what is left would go fast enough is computed
//! from what was measured: the best rate of a round, and for the registry's word what its last one has taken. The least
//! that a program writes in any time does not get smaller by more rounds, so their number is limited, too. What they leave
//! may then follow the process.
//!
//! Sources: C. Clark et al., *Live Migration of Virtual Machines*, NSDI 2005, section 5.3; M. R. Hines and K. Gopalan,
//! *Post-Copy Based Live Virtual Machine Migration*, VEE 2009; S. Sahni and V. Varma, *A Hybrid Approach to Live Migration of
//! Virtual Machines*, CCEM 2012.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sterna_process::PAGE_SIZE;

use crate::action::Rest;
use crate::limits::Limits;
use crate::message::Strategy;
use crate::report::MoveFailure;
use crate::time::Time;

/// Bytes a second that no two machines are known to copy, sealed, from memory to memory: whoever has less time than that takes
/// need not begin.
const RATE_CONCEIVABLE: u64 = 5_000_000_000;

/// How memory is to travel, as whoever orders the move wants it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Travel {
    /// In which way. `None`: in rounds, unless all of it goes fast enough at once; what they leave follows the process if
    /// it would not go fast enough, and the target can.
    pub strategy: Option<Strategy>,
    /// How long it may stand still. Together with [`Strategy::PreCopy`] it is kept or the move is given up; otherwise it is
    /// what rounds aim at, in place of [`Limits::downtime_goal`].
    pub downtime_max: Option<Duration>,
    /// Bytes a second that may be sent while it runs.
    pub rate_max: Option<u64>,
    /// Rounds end so long after the order; what follows the process is not held back any more.
    pub within: Option<Duration>,
}

/// Why memory cannot travel so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TravelError {
    /// At no rate nothing would ever be sent.
    #[error("at a rate of {rate} bytes a second no memory can be copied: {}K/s at least", min >> 10)]
    Rate {
        /// What was wanted.
        rate: u64,
        /// [`RATE_MIN`].
        min: u64,
    },
    /// All of it goes while the process stands still, however long that takes.
    #[error(
        "stop-and-copy makes no rounds, so downtime, rate and deadline cannot be limited: use pre-copy or auto"
    )]
    NoRounds,
    /// No time at all.
    #[error("a limit of no time at all cannot be kept")]
    NoTime,
    /// It stands still for as long as it takes to send the little that is not memory.
    #[error("post-copy has no downtime to be limited: use pre-copy or auto")]
    Downtime,
}

/// Rounds of one move of which figures are kept: a runner may say more than it was told.
const ROUNDS_KEPT_MAX: usize = 64;

/// Lowest rate that can be wanted, in bytes a second: beneath it a round of the smallest program takes minutes.
pub const RATE_MIN: u64 = 64 << 10;

impl Travel {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// If it does not.
    pub fn check(&self) -> Result<(), TravelError> {
        let some_limit =
            self.downtime_max.is_some() || self.rate_max.is_some() || self.within.is_some();
        let is_zero = |time: Option<Duration>| time.is_some_and(|time| time.is_zero());
        match (self.strategy, self.rate_max) {
            (Some(Strategy::PostCopy), _) if self.downtime_max.is_some() => {
                Err(TravelError::Downtime)
            }
            (Some(Strategy::StopAndCopy), _) if some_limit => Err(TravelError::NoRounds),
            (_, Some(rate)) if rate < RATE_MIN => Err(TravelError::Rate {
                rate,
                min: RATE_MIN,
            }),
            _ if is_zero(self.downtime_max) || is_zero(self.within) => Err(TravelError::NoTime),
            _ => Ok(()),
        }
    }

    /// What the target is offered.
    #[must_use]
    pub fn offered(&self) -> Strategy {
        let wanted = self.strategy.unwrap_or(Strategy::Hybrid);
        wanted.understood()
    }

    /// What it may not be without.
    fn needs(&self, strategy: Strategy) -> bool {
        self.strategy == Some(strategy)
    }

    /// Whether nothing is moved if memory cannot follow.
    fn must_follow(&self) -> bool {
        self.strategy.is_some_and(Strategy::follows)
    }

    /// Whether the limit of the downtime is worth more than the move.
    fn is_strict(&self) -> bool {
        self.strategy == Some(Strategy::PreCopy) && self.downtime_max.is_some()
    }
}

/// One round, as the source's runner measured it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Pages that went.
    pub pages: u64,
    /// Bytes that went for them: pages of zeros are only named.
    pub bytes: u64,
    /// Until the target had them.
    pub took: Duration,
    /// For how long of that nothing was sent, to keep to [`Travel::rate_max`].
    pub held_back: Duration,
    /// Pages that were written meanwhile.
    pub dirty: u64,
}

/// How far a round is, or what follows a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundGoing {
    /// Bytes that have gone.
    pub sent: u64,
    /// Bytes that are to go, pages of zeros among them.
    pub of: u64,
    /// The process runs at the target already, and this follows it.
    pub follows: bool,
}

/// Why there was no further round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RoundsEnd {
    /// What was left would go fast enough.
    Enough,
    /// It writes as fast as it is copied.
    NotConverging,
    /// There was no time for another one.
    Late,
}

/// How memory has travelled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Travelled {
    /// In which way.
    pub strategy: Strategy,
    /// The rounds, in order.
    pub rounds: Vec<Round>,
    /// Why there was no further one.
    pub end: Option<RoundsEnd>,
    /// How long it was expected to stand still, when that was decided.
    pub expected: Option<Duration>,
    /// Why it was not done as it was wanted.
    pub why_not: Option<String>,
}

/// The rounds of one move.
#[derive(Debug)]
pub(crate) struct Rounds {
    travel: Travel,
    ordered: Time,
    /// What a downtime takes however little is sent.
    fixed: Duration,
    /// Pages that are still to be sent.
    left: u64,
    /// Whether what is written may be noted.
    tracks: bool,
    /// Whether the rest may follow the process.
    can_follow: bool,
    travelled: Travelled,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    Round,
    Pause,
    GiveUp(MoveFailure),
}

impl Rounds {
    pub(crate) fn new(travel: Travel, ordered: Time) -> Self {
        Self {
            travel,
            ordered,
            fixed: Duration::ZERO,
            left: 0,
            tracks: false,
            can_follow: false,
            travelled: Travelled::default(),
        }
    }

    /// What becomes of the pages that the target does not have when the process stands still.
    pub(crate) fn rest(&self, now: Time, limits: &Limits) -> Rest {
        let within = self.travel.within;
        let left = within.map(|within| within.saturating_sub(now.since(self.ordered)));
        match self.travelled.strategy {
            Strategy::PostCopy | Strategy::Hybrid => Rest::Follows {
                rate_max: self.travel.rate_max,
                within: left.unwrap_or(limits.follow_within),
            },
            Strategy::StopAndCopy | Strategy::PreCopy => Rest::Along,
        }
    }

    pub(crate) const fn travelled(&self) -> &Travelled {
        &self.travelled
    }

    pub(crate) const fn rate_max(&self) -> Option<u64> {
        self.travel.rate_max
    }

    /// Whether what is written may be noted.
    pub(crate) const fn tracks(&self) -> bool {
        self.tracks
    }

    /// The target takes memory in this way.
    pub(crate) fn agreed(&mut self, strategy: Strategy) -> Next {
        match (self.travel.offered(), strategy) {
            (Strategy::StopAndCopy, _) => Next::Pause,
            (_, Strategy::StopAndCopy | Strategy::PreCopy) if self.travel.must_follow() => {
                let reason = "the target's node, its kernel or this kind of process does not allow it: \
                              `sterna doctor` there says more, auto does without";
                Next::GiveUp(MoveFailure::NoPostCopy {
                    reason: reason.to_owned(),
                })
            }
            (_, Strategy::StopAndCopy) => {
                self.without("the target's node is older and takes memory in one piece only")
            }
            (_, answer) => {
                self.can_follow = answer == Strategy::PostCopy;
                self.travelled.strategy = self.travel.strategy.unwrap_or(Strategy::PreCopy);
                Next::Round
            }
        }
    }

    /// What is written is being noted now, after the registry has taken so long for its word.
    pub(crate) const fn begin(&mut self, registry: Duration) {
        self.fixed = registry;
        self.tracks = true;
    }

    /// There will be no rounds, and why not.
    pub(crate) fn without(&mut self, reason: &str) -> Next {
        self.tracks = false;
        if self.travel.needs(Strategy::PostCopy) {
            return Next::Pause; // it is found out while it stands still
        }
        self.travelled.why_not = Some(reason.to_owned());
        if self.travel.must_follow() {
            self.travelled.strategy = Strategy::PostCopy;
            return Next::Pause;
        }
        self.travelled.strategy = Strategy::StopAndCopy;
        match self.travel.is_strict() {
            true => Next::GiveUp(MoveFailure::NoPreCopy {
                reason: reason.to_owned(),
            }),
            false => Next::Pause,
        }
    }

    /// So many pages are to be sent in all.
    pub(crate) fn counted(&mut self, pages: u64, now: Time, limits: &Limits) -> Next {
        self.left = pages;
        let rate_max = self.travel.rate_max.unwrap_or(u64::MAX);
        let needed = time_for(pages, rate_max.min(RATE_CONCEIVABLE));
        if let Some(within) = self.travel.within
            && needed > within
        {
            return Next::GiveUp(MoveFailure::Deadline { needed, within });
        }
        if self.travel.needs(Strategy::PostCopy) {
            return Next::Pause;
        }
        let is_chosen = self.travel.strategy.is_none();
        if is_chosen && time_for(pages, limits.rate_assumed) <= self.goal(limits) {
            self.travelled.strategy = Strategy::StopAndCopy;
            return self.stop(RoundsEnd::Enough, limits);
        }
        match self.has_time(now, limits) {
            true => Next::Round,
            false => self.stop(RoundsEnd::Late, limits),
        }
    }

    /// Whether there is to be another one after this, which was [noted](Self::note).
    pub(crate) fn sent(&mut self, round: &Round, now: Time, limits: &Limits) -> Next {
        if self.left == 0 || self.expected(limits) <= self.goal(limits) {
            return self.stop(RoundsEnd::Enough, limits);
        }
        if round.dirty >= round.pages || self.travelled.rounds.len() >= limits.rounds_max {
            return self.stop(RoundsEnd::NotConverging, limits);
        }
        match self.has_time(now, limits) {
            true => Next::Round,
            false => self.stop(RoundsEnd::Late, limits),
        }
    }

    /// One has been sent. Whether its figures are kept: before a process stands still there may be some with nothing to send.
    pub(crate) fn note(&mut self, round: Round) -> bool {
        self.left = round.dirty;
        let rounds = &self.travelled.rounds;
        let is_told = round.pages > 0 || rounds.is_empty();
        let is_kept = is_told && rounds.len() < ROUNDS_KEPT_MAX;
        if is_kept {
            self.travelled.rounds.push(round);
        }
        is_kept
    }

    fn stop(&mut self, end: RoundsEnd, limits: &Limits) -> Next {
        let expected = self.expected(limits);
        self.travelled.end = Some(end);
        // A little that is slow is no reason to depend on the source for longer.
        let saved = expected.saturating_sub(self.fixed);
        let is_better = || self.can_follow && saved > self.goal(limits);
        if self.travel.must_follow() || self.travel.strategy.is_none() && is_better() {
            self.travelled.strategy = Strategy::Hybrid;
            self.travelled.expected = Some(self.fixed);
            return Next::Pause;
        }
        self.travelled.expected = Some(expected);
        match self.travel.downtime_max {
            Some(max) if self.travel.is_strict() && expected > max => {
                Next::GiveUp(MoveFailure::Downtime { expected, max })
            }
            _ => Next::Pause,
        }
    }

    fn goal(&self, limits: &Limits) -> Duration {
        self.travel.downtime_max.unwrap_or(limits.downtime_goal)
    }

    /// For how long it would stand still now.
    pub(crate) fn expected(&self, limits: &Limits) -> Duration {
        self.fixed + time_for(self.left, self.rate(limits))
    }

    /// How long the next round may take.
    pub(crate) fn next_takes(&self, limits: &Limits) -> Duration {
        let rate = self.rate(limits);
        time_for(
            self.left,
            rate.min(self.travel.rate_max.unwrap_or(u64::MAX)),
        )
    }

    fn has_time(&self, now: Time, limits: &Limits) -> bool {
        let until = |within| self.ordered + within;
        let within = self.travel.within;
        within.is_none_or(|within| now + self.next_takes(limits) <= until(within))
    }

    /// Bytes a second, while nothing holds back. Small rounds measure the way there and back: the best one counts.
    fn rate(&self, limits: &Limits) -> u64 {
        let rate = |round: &Round| {
            let micros = round.took.saturating_sub(round.held_back).as_micros();
            let rate = u128::from(round.bytes) * 1_000_000 / micros.max(1);
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        let best = self.travelled.rounds.iter().map(rate).max();
        best.unwrap_or(limits.rate_assumed).max(1)
    }
}

/// For so many pages, at so many bytes a second.
fn time_for(pages: u64, rate: u64) -> Duration {
    let bytes = u128::from(pages) * PAGE_SIZE as u128;
    let micros = bytes * 1_000_000 / u128::from(rate.max(1));
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
