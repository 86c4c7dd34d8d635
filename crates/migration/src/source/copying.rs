//! What a source does while memory is copied and the process runs.

use std::time::Duration;

use super::{Phase, Source};
use crate::action::{Command, Notice, RunnerEvent};
use crate::message::Strategy;
use crate::report::{MoveFailure, Part};
use crate::rounds::{Next, Round};
use crate::turn::Turn;

impl Source {
    /// The target takes the process, and its memory in this way.
    pub(super) fn accepted(&mut self, turn: &mut Turn<'_>, strategy: Strategy) {
        if let Next::GiveUp(failure) = self.rounds.agreed(strategy) {
            return self.withdraw(turn, failure);
        }
        self.phase = Phase::Declaring;
        self.deadline = Some(turn.now + turn.limits.declare_within);
        self.repeat = Some(turn.repeat());
        self.declare(turn);
    }

    /// The registry has the intent, and has taken so long for it.
    pub(super) fn declared(&mut self, turn: &mut Turn<'_>, took: Duration) {
        if self.rounds.travelled().strategy == Strategy::StopAndCopy {
            return self.pause(turn);
        }
        self.rounds.begin(took);
        self.phase = Phase::Copying;
        self.deadline = Some(turn.now + turn.limits.round_within);
        self.repeat = Some(turn.repeat());
        let attempt = self.attempt;
        turn.command(Command::Track { attempt });
    }

    /// The runner's answers while it copies. Whether this was one.
    pub(super) fn copying(&mut self, turn: &mut Turn<'_>, event: &RunnerEvent) -> bool {
        let next = match event {
            RunnerEvent::Tracking { pages, .. } => {
                self.rounds.counted(*pages, turn.now, turn.limits)
            }
            RunnerEvent::TrackFailed { reason, .. } => self.rounds.without(reason),
            RunnerEvent::RoundSent { round, .. } => {
                self.note(turn, *round);
                self.rounds.sent(round, turn.now, turn.limits)
            }
            RunnerEvent::RoundFailed { reason, .. } => {
                let reason = reason.clone();
                Next::GiveUp(MoveFailure::Copy { reason })
            }
            _ => return false,
        };
        match next {
            Next::Round => self.round(turn),
            Next::Pause => {
                self.laps.lap(Part::Copy, turn.now);
                self.pause(turn);
            }
            Next::GiveUp(failure) => self.settle(turn, failure, Part::Copy),
        }
        true
    }

    /// Begins to bring it to a stand.
    fn pause(&mut self, turn: &mut Turn<'_>) {
        self.phase = Phase::Pausing;
        let within = turn.limits.pause_within;
        self.deadline = Some(turn.now + within * 2); // the runner keeps to the limit, usually
        self.repeat = None;
        let attempt = self.attempt;
        turn.command(Command::Pause { attempt, within });
    }

    /// A round was sent: one that was told to be, or a last one before it stands still.
    pub(super) fn note(&mut self, turn: &mut Turn<'_>, round: Round) {
        if self.rounds.note(round) {
            turn.notify(Notice::Round {
                attempt: self.attempt,
                round,
                expected: self.rounds.expected(turn.limits),
            });
        }
    }

    fn round(&mut self, turn: &mut Turn<'_>) {
        let within = turn.limits.round_within + self.rounds.next_takes(turn.limits);
        self.deadline = Some(turn.now + within);
        turn.command(Command::Round {
            attempt: self.attempt,
            rate_max: self.rounds.rate_max(),
        });
    }

    /// If pages that are written may be noted for this move, nobody needs that any more.
    pub(super) fn untrack(&self, turn: &mut Turn<'_>) {
        if self.rounds.tracks() && matches!(self.phase, Phase::Copying | Phase::Pausing) {
            let attempt = self.attempt;
            turn.command(Command::Untrack { attempt });
        }
    }
}
