//! What became of a move and how long each part of it took: [`Report`].

use std::time::Duration;

use crate::id::{Attempt, NodeId};
use crate::message::{Readied, Refusal, Retry, Size, TargetFailure, Timings};
use crate::rounds::Travelled;
use crate::time::Time;

/// A move that has ended, told by its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which move.
    pub attempt: Attempt,
    /// From where.
    pub source: NodeId,
    /// Where to.
    pub target: NodeId,
    /// What became of it.
    pub outcome: Outcome,
    /// How large the process was, if it was captured.
    pub size: Option<Size>,
    /// How its memory travelled.
    pub travelled: Travelled,
    /// From the order to the end.
    pub total: Duration,
    /// What that time went into, in order. It adds up to `total` to the microsecond.
    pub parts: Vec<(Part, Duration)>,
}

impl Report {
    /// How long nobody executed the process: from its last instruction before to the first after. `None` if it
    /// was never paused, or nobody knows.
    ///
    /// The clocks of two nodes cannot be compared, so the way of the last message is in it: it may be shorter by
    /// [`Part::Travel`], never longer.
    #[must_use]
    pub fn downtime(&self) -> Option<Duration> {
        let paused = self.parts.iter().any(|(part, _)| *part == Part::Capture);
        let still = |part: &Part| {
            !matches!(
                part,
                Part::Fetch
                    | Part::Room
                    | Part::Accept
                    | Part::Declare
                    | Part::Copy
                    | Part::Pause
                    | Part::Follow
                    | Part::Confirm
            )
        };
        let known = match &self.outcome {
            Outcome::Moved { .. } => self.parts.iter().any(|(part, _)| *part == Part::Resume),
            Outcome::Stayed(_) => true,
            Outcome::Ended | Outcome::Lost { .. } => false,
        };
        (paused && known).then(|| {
            let parts = self.parts.iter().filter(|(part, _)| still(part));
            parts.map(|(_, duration)| *duration).sum()
        })
    }
}

/// A part of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Until the target had the program, compiled. Not there if the target had it already, or did not say.
    Fetch,
    /// Until the target had room. Not there if it did not say.
    Room,
    /// What is left until the target accepted: messages on their way, and whether the process is let in.
    Accept,
    /// Until the registry had the intent.
    Declare,
    /// Until its memory was copied as far as that is worth it while it runs.
    Copy,
    /// Until the process stood still.
    Pause,
    /// Until it was captured.
    Capture,
    /// Until image and pages were with the target's runner.
    Send,
    /// From then until it was ready there. What of this overlaps with [`Part::Send`] is counted there.
    Restore,
    /// Until the registry had the target as its owner.
    Commit,
    /// Until its first instruction at the target.
    Resume,
    /// What is left until the source heard of it: messages on their way.
    Travel,
    /// Until the rest of its memory had come, while it ran at the target already, and the source heard of it.
    Follow,
    /// Waiting for news after the commit, when the target's own figures did not come.
    Confirm,
    /// Until a doubt was settled.
    Settle,
    /// Until it ran at the source again.
    Return,
}

/// What became of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The process belongs to the target.
    Moved {
        /// What became of the copy at the source.
        copy: Copied,
    },
    /// It belongs to the source as before, and runs there, and why.
    Stayed(MoveFailure),
    /// It ended, by itself or killed, or was frozen into a file, before it could be moved.
    Ended,
    /// It was lost with a runner. The registry says so.
    Lost {
        /// What became of the copy at the source.
        copy: Copied,
    },
}

/// What became of the copy that a source keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// It was let go: the process runs elsewhere.
    Discarded,
    /// It is kept frozen: nobody has said that the process runs elsewhere.
    Kept,
    /// It is gone with its runner.
    Gone,
}

/// Why a process was not moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MoveFailure {
    /// The target refused.
    #[error("the target refused the process")]
    Refused(#[source] Refusal),
    /// The target did not answer.
    #[error("the target did not answer: is its node running?")]
    Unanswered,
    /// It was cancelled.
    #[error("the move was cancelled")]
    Cancelled,
    /// The registry did not answer; the process was not paused.
    #[error("the registry did not answer, so the process was not paused: is it reachable?")]
    RegistrySilent,
    /// The registry had an intent of an earlier attempt, which is settled now.
    #[error("an earlier attempt had to be settled first: try again")]
    Leftover,
    /// The registry has no record of the process. It stays as it is, frozen if it was.
    #[error("the registry does not know the process: is it the right registry?")]
    NoRecord,
    /// Its memory could not be copied while it ran.
    #[error("its memory could not be copied while it ran: {reason}")]
    Copy {
        /// Why.
        reason: String,
    },
    /// It would stand still for too long.
    #[error(
        "it would stand still for about {expected:.1?}, and {max:.1?} are allowed: allow more, or move it when it writes less"
    )]
    Downtime {
        /// For how long.
        expected: Duration,
        /// What was allowed.
        max: Duration,
    },
    /// There is not enough time to copy its memory once.
    #[error(
        "to copy its memory takes {needed:.1?} at least, and there are {within:.1?}: allow more time, or a higher rate if it is limited"
    )]
    Deadline {
        /// How long it takes.
        needed: Duration,
        /// What was allowed.
        within: Duration,
    },
    /// Its memory cannot be copied while it runs.
    #[error("its memory cannot be copied while it runs: {reason}")]
    NoPreCopy {
        /// Why.
        reason: String,
    },
    /// It cannot run at the target before all of its memory is there.
    #[error("its memory cannot follow it: {reason}")]
    NoPostCopy {
        /// Why.
        reason: String,
    },
    /// The process could not be paused.
    #[error("the process could not be paused: {reason}")]
    Pause {
        /// Why.
        reason: String,
    },
    /// It could not be captured.
    #[error("the process could not be captured: {reason}")]
    Capture {
        /// Why.
        reason: String,
    },
    /// It did not get to the target.
    #[error("the process could not be sent: {reason}")]
    Push {
        /// Why.
        reason: String,
    },
    /// The target did not say that it committed.
    #[error("the target did not commit within the limit")]
    NotCommitted,
    /// The target gave up.
    #[error("the target gave up")]
    Target(#[source] TargetFailure),
    /// The source's service was started again in the middle.
    #[error("the source was started again in the middle of the move")]
    Restarted,
    /// The source's runner died.
    #[error("the source's runner died")]
    RunnerDied,
}

impl MoveFailure {
    /// Whether trying again can help.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Refused(refusal) => refusal.retry(),
            Self::Target(failure) => failure.retry(),
            Self::NoPreCopy { .. } | Self::NoPostCopy { .. } => Retry::Elsewhere,
            Self::Cancelled
            | Self::Capture { .. }
            | Self::Deadline { .. }
            | Self::RunnerDied
            | Self::NoRecord => Retry::Never,
            Self::Unanswered
            | Self::RegistrySilent
            | Self::Leftover
            | Self::Copy { .. }
            | Self::Downtime { .. }
            | Self::Pause { .. }
            | Self::Push { .. }
            | Self::NotCommitted
            | Self::Restarted => Retry::Later,
        }
    }
}

/// Measures the parts of a move: every moment belongs to exactly one, so they add up.
#[derive(Debug, Clone)]
pub(crate) struct Laps {
    begun: Time,
    last: Time,
    parts: Vec<(Part, Duration)>,
}

impl Laps {
    pub(crate) const fn begin(now: Time) -> Self {
        Self {
            begun: now,
            last: now,
            parts: Vec::new(),
        }
    }

    /// What went on since the last lap was `part`; how long that was.
    pub(crate) fn lap(&mut self, part: Part, now: Time) -> Duration {
        let duration = now.since(self.last);
        self.push(part, duration);
        self.last = now.max(self.last);
        duration
    }

    /// The same for all that the target did, with its figures for how long; what they leave is travel. Should
    /// they be longer than what has passed, they are cut.
    pub(crate) fn lap_target(&mut self, timings: &Timings, now: Time) {
        let parts = [
            (Part::Restore, timings.restore),
            (Part::Commit, timings.commit),
            (Part::Resume, timings.resume),
        ];
        self.lap_told(&parts, Part::Travel, now);
    }

    /// The same if memory came after the process: what the target's figures leave is that. If the source has `heard` of
    /// the commit, they are about what was before, but for the last.
    pub(crate) fn lap_followed(&mut self, timings: &Timings, heard: bool, now: Time) {
        let parts = [
            (Part::Restore, timings.restore),
            (Part::Commit, timings.commit),
            (Part::Resume, timings.resume),
        ];
        let told = if heard { &parts[2..] } else { &parts[..] };
        self.lap_told(told, Part::Follow, now);
    }

    /// The same for what a target has done before it accepted, as far as it says.
    pub(crate) fn lap_accepted(&mut self, readied: &Readied, now: Time) {
        let parts = [(Part::Fetch, readied.fetch), (Part::Room, readied.room)];
        let told: Vec<_> = parts.into_iter().filter(|told| !told.1.is_zero()).collect();
        self.lap_told(&told, Part::Accept, now);
    }

    /// What went on since the last lap, by the figures of the other side; the rest is `rest`.
    fn lap_told(&mut self, told: &[(Part, Duration)], rest: Part, now: Time) {
        let mut left = now.since(self.last);
        self.last = now.max(self.last);
        let cut = |&(part, duration): &(Part, Duration)| {
            let duration = duration.min(left);
            left -= duration;
            (part, duration)
        };
        let cut: Vec<_> = told.iter().rev().map(cut).collect();
        for (part, duration) in cut.into_iter().rev() {
            self.push(part, duration);
        }
        self.push(rest, left);
    }

    fn push(&mut self, part: Part, duration: Duration) {
        match self.parts.iter_mut().find(|(other, _)| *other == part) {
            Some((_, sum)) => *sum += duration,
            None => self.parts.push((part, duration)),
        }
    }

    /// The total, and its parts.
    pub(crate) fn end(&self) -> (Duration, Vec<(Part, Duration)>) {
        (self.last.since(self.begun), self.parts.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }

    #[test]
    fn parts_add_up_whatever_the_target_says() {
        let millis = Duration::from_millis;
        for (restore, commit, resume) in [(1, 2, 3), (0, 0, 0), (100, 2, 3), (5, 900, 4)] {
            let mut laps = Laps::begin(at(5));
            let (fetch, room) = (millis(restore), millis(commit));
            let readied = Readied {
                fetch,
                room,
                ..Readied::default()
            };
            laps.lap_accepted(&readied, at(7));
            laps.lap(Part::Send, at(20));
            let timings = Timings {
                restore: millis(restore),
                commit: millis(commit),
                resume: millis(resume),
            };
            laps.lap_target(&timings, at(40));
            let (total, parts) = laps.end();
            assert_eq!(total, millis(35));
            assert_eq!(parts.iter().map(|part| part.1).sum::<Duration>(), total);
        }
    }

    #[test]
    fn a_clock_that_goes_backwards_does_no_harm() {
        let mut laps = Laps::begin(at(5));
        laps.lap(Part::Accept, at(9));
        laps.lap(Part::Declare, at(3));
        laps.lap(Part::Pause, at(10));
        let (total, parts) = laps.end();
        assert_eq!(total, Duration::from_millis(5));
        assert_eq!(parts.iter().map(|part| part.1).sum::<Duration>(), total);
    }
}
