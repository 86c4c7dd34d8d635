//! The side that has the process: [`Source`].
//!
//! ```text
//!             offer                declare             pause              capture            push, grant
//!  begin ──► Offering ─accept─► Declaring ─answer─► Pausing ─paused─► Capturing ─captured─► Granted
//!              │                    │   │               ▲ │               │                 │      │
//!              │                    │   └─► Copying ────┘ │               │                 │      │
//!              │                    │        │ ▲ │ round  │               │                 │      │
//!              │                    │        │ └─┘        │               │                 │      │
//!        refused, late,             └────────┴───────────┴─┬──────────────┴─────────────────┘      │
//!         cancelled                       late, failed, cancelled, process ended                committed
//!              │                                                ▼                                  │
//!              │                  ┌────────────────────────  Settling  ───────────────────────┐    │
//!              │                  │ the record says: mine, alive       the record says: theirs│    │
//!              │                  ▼                                                           ▼    ▼
//!              │               Resuming                                                     Confirming
//!              │                  │ runs                                                        │ done
//!              ▼                  ▼                                                             ▼
//!            Over (stayed)      Over (stayed; ended or lost, straight from Settling)         Over (moved)
//! ```
//!
//! In Copying pages go to the target in rounds while the process runs; when to stop is decided in [`rounds`]. A round
//! that failed ends the move: nobody knows which of its pages are at the target, and on another connection old ones could
//! come after new ones. What follows the process goes from runner to runner from Granted until the end of Confirming; the
//! target's word that it has committed is repeated for as long.
//!
//! From the declaration on this side is in doubt, and only a record of a later epoch ends the doubt.
//! Settling *writes* `e+1`; whether this wins or the target's commit does, the record says it. A process that
//! stands still runs again on that word only, and its copy goes when the target, or a still later record, says
//! that it runs there.
//!
//! [`rounds`]: crate::rounds

mod copying;
mod said;

use crate::action::{Command, Notice, RunnerEvent};
use crate::id::{Attempt, Grant, NodeId};
use crate::message::{Body, Offer, Size, Timings};
use crate::record::{Life, Record};
use crate::report::{Copied, Laps, MoveFailure, Outcome, Part, Report};
use crate::rounds::{Rounds, Travel};
use crate::time::{Repeat, Time};
use crate::turn::Turn;

/// Where a source is in its move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The target was asked.
    Offering,
    /// The registry was asked to write down the intent.
    Declaring,
    /// The runner was told to note what is written, or to send a round.
    Copying,
    /// The runner was told to pause.
    Pausing,
    /// The runner was told to capture.
    Capturing,
    /// The target may commit at any moment.
    Granted { pushed: bool, tries: u32 },
    /// The registry was asked to end the doubt.
    Settling,
    /// The runner was told to let the process run on here.
    Resuming,
    /// The target owns the process; whether it needs the copy is not known yet.
    Confirming { asks: u32 },
    /// Nothing more will come.
    Over,
}

/// One move, at its source.
#[derive(Debug)]
pub(crate) struct Source {
    attempt: Attempt,
    target: NodeId,
    phase: Phase,
    /// Absent in a move that a restarted service finds: it is never offered or granted again.
    plan: Option<Plan>,
    /// The newest record that was seen. The next swap expects it.
    seen: Record,
    /// What settling makes of the process. Anything but alive: its runner has no process any more.
    goal: Life,
    /// What went wrong first.
    failure: Option<MoveFailure>,
    size: Option<Size>,
    rounds: Rounds,
    /// Whether the target can have committed: it may have the grant.
    granted: bool,
    deadline: Option<Time>,
    repeat: Option<Repeat>,
    laps: Laps,
    reports: bool,
}

/// What only this life of the service knows.
#[derive(Debug)]
struct Plan {
    offer: Offer,
    grant: Grant,
}

impl Source {
    /// Offers the process, which runs here in the attempt's epoch.
    pub(crate) fn begin(
        turn: &mut Turn<'_>,
        attempt: Attempt,
        target: NodeId,
        (offer, travel): (Offer, Travel),
        grant: Grant,
    ) -> Self {
        let seen = Record::owned(turn.node, attempt.epoch);
        let mut source = Self::new(turn, attempt, target, seen);
        source.rounds = Rounds::new(travel, turn.now);
        source.plan = Some(Plan { offer, grant });
        source.deadline = Some(turn.now + turn.limits.accept_within);
        source.repeat = Some(turn.repeat());
        source.offer(turn);
        source
    }

    /// Takes up a move whose intent is in the record and of which nothing else is known but that the runner still
    /// has the process, whether it runs or not. `granted`: it stands still for this move.
    pub(crate) fn in_doubt(
        turn: &mut Turn<'_>,
        attempt: Attempt,
        target: NodeId,
        seen: Record,
        granted: bool,
    ) -> Self {
        let mut source = Self::new(turn, attempt, target, seen);
        source.granted = granted;
        source.settle(turn, MoveFailure::Restarted, Part::Settle);
        source
    }

    /// Takes up a move that was committed, and whose copy is still here. It makes no report: the registry has
    /// the outcome, and it may have been told before.
    pub(crate) fn committed(turn: &mut Turn<'_>, attempt: Attempt, seen: Record) -> Self {
        let mut source = Self::new(turn, attempt, seen.owner, seen);
        source.granted = true;
        source.reports = false;
        source.left(turn);
        if !source.is_over() {
            source.ask(turn);
        }
        source
    }

    fn new(turn: &Turn<'_>, attempt: Attempt, target: NodeId, seen: Record) -> Self {
        Self {
            attempt,
            target,
            phase: Phase::Offering,
            plan: None,
            seen,
            goal: Life::Alive,
            failure: None,
            size: None,
            rounds: Rounds::new(Travel::default(), turn.now),
            granted: false,
            deadline: None,
            repeat: None,
            laps: Laps::begin(turn.now),
            reports: true,
        }
    }

    pub(crate) const fn target(&self) -> NodeId {
        self.target
    }

    /// Whether the rest of its memory is to follow the process.
    pub(crate) fn is_followed(&self) -> bool {
        self.rounds.travelled().strategy.follows()
    }

    pub(crate) const fn attempt(&self) -> Attempt {
        self.attempt
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let repeat = self.repeat.map(|repeat| repeat.at());
        [self.deadline, repeat].into_iter().flatten().min()
    }

    pub(crate) fn timeout(&mut self, turn: &mut Turn<'_>) {
        if self.deadline.is_some_and(|deadline| turn.now >= deadline) {
            self.deadline = None;
            self.late(turn);
        } else if let Some(repeat) = &mut self.repeat
            && repeat.is_due(turn.now, turn.limits)
        {
            self.say_again(turn);
        }
    }

    fn late(&mut self, turn: &mut Turn<'_>) {
        let pause = |reason: &str| MoveFailure::Pause {
            reason: reason.into(),
        };
        match self.phase {
            Phase::Offering => self.withdraw(turn, MoveFailure::Unanswered),
            Phase::Declaring => self.settle(turn, MoveFailure::RegistrySilent, Part::Declare),
            Phase::Copying => {
                let reason = "the runner did not answer".into();
                self.settle(turn, MoveFailure::Copy { reason }, Part::Copy);
            }
            Phase::Pausing => self.settle(turn, pause("the runner did not answer"), Part::Pause),
            Phase::Capturing => {
                let reason = "the runner did not answer".into();
                self.settle(turn, MoveFailure::Capture { reason }, Part::Capture);
            }
            Phase::Granted { pushed: false, .. } => {
                let reason = "it took longer than the limit".into();
                self.settle(turn, MoveFailure::Push { reason }, Part::Send);
            }
            Phase::Granted { pushed: true, .. } => {
                self.settle(turn, MoveFailure::NotCommitted, Part::Commit);
            }
            Phase::Settling | Phase::Resuming | Phase::Confirming { .. } | Phase::Over => {}
        }
    }

    fn say_again(&mut self, turn: &mut Turn<'_>) {
        match self.phase {
            Phase::Offering => self.offer(turn),
            Phase::Declaring => self.declare(turn),
            Phase::Copying => turn.send(self.target, self.attempt, Body::Coming),
            Phase::Granted { .. } => self.grant(turn),
            Phase::Settling => self.write(turn),
            Phase::Confirming { asks } if asks >= turn.limits.done_asks_max => {
                self.laps.lap(Part::Confirm, turn.now);
                let copy = Copied::Kept;
                self.end(turn, Outcome::Moved { copy });
            }
            Phase::Confirming { asks } => {
                self.phase = Phase::Confirming { asks: asks + 1 };
                self.ask(turn);
            }
            Phase::Pausing | Phase::Capturing | Phase::Resuming | Phase::Over => {}
        }
    }

    /// A message of the target. Those that do not fit the phase are late, or repeated.
    pub(crate) fn message(&mut self, turn: &mut Turn<'_>, from: NodeId, body: &Body) {
        if from != self.target {
            return;
        }
        match (body, self.phase) {
            (Body::Accept(readied), Phase::Offering) => {
                self.laps.lap_accepted(readied, turn.now);
                self.accepted(turn, readied.strategy);
            }
            (Body::Refuse(refusal), Phase::Offering) => {
                self.laps.lap(Part::Accept, turn.now);
                let failure = MoveFailure::Refused(refusal.clone());
                self.end(turn, Outcome::Stayed(failure));
            }
            (Body::Failed(failure), Phase::Offering) => {
                self.withdraw(turn, MoveFailure::Target(failure.clone()));
            }
            (Body::Failed(failure), _) if self.is_settleable() => {
                let failure = MoveFailure::Target(failure.clone());
                self.settle(turn, failure, self.current_part());
            }
            (Body::Committed, Phase::Granted { .. } | Phase::Settling) if self.granted => {
                self.left(turn);
            }
            // It lives, and its memory is still coming.
            (Body::Committed, Phase::Confirming { .. }) if self.is_followed() => {
                self.phase = Phase::Confirming { asks: 0 }
            }
            (Body::Done(timings), _) if self.granted => self.done(turn, timings),
            _ => {}
        }
    }

    /// What the registry has. Only a record of a later epoch decides.
    pub(crate) fn record(&mut self, turn: &mut Turn<'_>, record: Option<Record>) {
        let Some(record) = record else {
            return self.without_record(turn);
        };
        if record.version() <= self.seen.version() {
            return;
        }
        self.seen = record;
        if record.epoch > self.attempt.epoch {
            match record.owner == turn.node {
                true => self.stays(turn),
                false if self.granted => self.left(turn),
                // Frozen into a file meanwhile, it went on from there.
                false => self.end(turn, Outcome::Ended),
            }
            return;
        }
        let declared = record.intent.map(|intent| intent.move_id);
        match self.phase {
            Phase::Declaring if declared == Some(self.attempt.move_id) => {
                let took = self.laps.lap(Part::Declare, turn.now);
                self.declared(turn, took);
            }
            Phase::Offering | Phase::Declaring => {
                self.settle(turn, MoveFailure::Leftover, self.current_part());
            }
            Phase::Settling => self.write(turn),
            _ => {}
        }
    }

    /// The runner's answers to commands of this attempt.
    pub(crate) fn runner(&mut self, turn: &mut Turn<'_>, event: &RunnerEvent) {
        match (event, self.phase) {
            (_, Phase::Copying) if self.copying(turn, event) => {}
            (RunnerEvent::RoundSent { round, .. }, Phase::Pausing) => self.note(turn, *round),
            (RunnerEvent::Paused { attempt }, Phase::Pausing) => {
                self.laps.lap(Part::Pause, turn.now);
                self.phase = Phase::Capturing;
                self.deadline = Some(turn.now + turn.limits.capture_within);
                turn.command(Command::Capture { attempt: *attempt });
            }
            (RunnerEvent::PauseRefused { reason, .. }, Phase::Pausing) => {
                let reason = reason.clone();
                self.settle(turn, MoveFailure::Pause { reason }, Part::Pause);
            }
            (RunnerEvent::Captured { size, .. }, Phase::Capturing) => {
                self.laps.lap(Part::Capture, turn.now);
                self.size = Some(*size);
                self.granted = true;
                self.phase = Phase::Granted {
                    pushed: false,
                    tries: 1,
                };
                self.deadline = Some(turn.now + turn.limits.push_within);
                self.repeat = Some(turn.repeat());
                self.push(turn);
                self.grant(turn);
            }
            (RunnerEvent::CaptureFailed { reason, .. }, Phase::Capturing) => {
                let reason = reason.clone();
                self.settle(turn, MoveFailure::Capture { reason }, Part::Capture);
            }
            (RunnerEvent::Pushed { .. }, Phase::Granted { tries, .. }) => {
                self.laps.lap(Part::Send, turn.now);
                let pushed = true;
                self.phase = Phase::Granted { pushed, tries };
                self.deadline = Some(turn.now + turn.limits.commit_within);
            }
            (RunnerEvent::PushFailed { reason, .. }, Phase::Granted { tries, .. }) => {
                self.push_failed(turn, reason, tries);
            }
            (RunnerEvent::Resumed { epoch, .. }, Phase::Resuming) if *epoch == self.seen.epoch => {
                self.laps.lap(Part::Return, turn.now);
                let failure = self.failure.take().unwrap_or(MoveFailure::Cancelled);
                self.end(turn, Outcome::Stayed(failure));
            }
            (RunnerEvent::Exited { .. }, _) => self.gone(turn, Life::Ended),
            _ => {}
        }
    }

    fn push_failed(&mut self, turn: &mut Turn<'_>, reason: &str, tries: u32) {
        if tries < turn.limits.push_tries_max {
            self.phase = Phase::Granted {
                pushed: false,
                tries: tries + 1,
            };
            self.push(turn);
        } else {
            let reason = reason.to_owned();
            self.settle(turn, MoveFailure::Push { reason }, Part::Send);
        }
    }

    pub(crate) fn runner_died(&mut self, turn: &mut Turn<'_>) {
        self.gone(turn, Life::Lost);
    }

    /// It was frozen into a file, and is not here any more.
    pub(crate) fn taken_away(&mut self, turn: &mut Turn<'_>) {
        if !matches!(self.phase, Phase::Confirming { .. } | Phase::Over) {
            self.laps.lap(self.current_part(), turn.now);
            turn.send(self.target, self.attempt, Body::Abort);
            self.end(turn, Outcome::Ended);
        }
    }

    /// There is no process here any more. Unless the target has all of it and commits, that is what the record
    /// will say.
    fn gone(&mut self, turn: &mut Turn<'_>, life: Life) {
        if let Phase::Confirming { .. } = self.phase {
            if life == Life::Lost {
                self.laps.lap(Part::Confirm, turn.now);
                let copy = Copied::Gone;
                self.end(turn, Outcome::Moved { copy });
            }
            return;
        }
        if self.phase == Phase::Over || self.goal != Life::Alive {
            return;
        }
        self.goal = life;
        match self.phase {
            // All of it is at the target: perhaps the only copy, so it gets its time.
            Phase::Granted { pushed: true, .. } if life == Life::Lost => {}
            // The swap that is on its way may win; its answer is gone on from.
            Phase::Settling => self.write(turn),
            _ => self.settle(turn, MoveFailure::RunnerDied, self.current_part()),
        }
    }

    /// Whether the target was asked, and has not said that it takes the process.
    pub(crate) fn is_offering(&self) -> bool {
        self.phase == Phase::Offering
    }

    /// The target has not answered for so long that nobody waits for its answer any more.
    pub(crate) fn target_silent(&mut self, turn: &mut Turn<'_>) {
        if self.is_offering() {
            self.withdraw(turn, MoveFailure::Unanswered);
        }
    }

    /// Gives the move up, as far as this can still be done.
    pub(crate) fn cancel(&mut self, turn: &mut Turn<'_>) -> bool {
        match self.phase {
            Phase::Offering => self.withdraw(turn, MoveFailure::Cancelled),
            _ if self.is_settleable() => {
                self.settle(turn, MoveFailure::Cancelled, self.current_part());
            }
            Phase::Settling | Phase::Resuming => {}
            _ => return false,
        }
        true
    }

    /// Ends an attempt of which the registry knows nothing.
    fn withdraw(&mut self, turn: &mut Turn<'_>, failure: MoveFailure) {
        self.laps.lap(Part::Accept, turn.now);
        turn.send(self.target, self.attempt, Body::Abort);
        self.end(turn, Outcome::Stayed(failure));
    }

    /// Begins to write the end of the doubt. It has no limit: there is nothing else that would be right.
    fn settle(&mut self, turn: &mut Turn<'_>, failure: MoveFailure, part: Part) {
        self.laps.lap(part, turn.now);
        self.failure.get_or_insert(failure);
        self.untrack(turn);
        self.phase = Phase::Settling;
        self.deadline = None;
        self.repeat = Some(turn.repeat());
        self.write(turn);
    }

    /// The record says that the process is this node's: no commit can win any more.
    fn stays(&mut self, turn: &mut Turn<'_>) {
        self.laps.lap(self.current_part(), turn.now);
        turn.send(self.target, self.attempt, Body::Abort);
        // If this side did not settle, the target of an earlier attempt did.
        self.failure.get_or_insert(MoveFailure::Leftover);
        let (process, epoch) = (self.attempt.process, self.seen.epoch);
        match (self.seen.life, self.goal) {
            (Life::Alive, Life::Alive) => {
                self.phase = Phase::Resuming;
                (self.deadline, self.repeat) = (None, None);
                turn.resume(process, epoch);
            }
            (Life::Alive, _) => {
                self.phase = Phase::Settling;
                self.deadline = None;
                self.repeat = Some(turn.repeat());
                self.write(turn);
            }
            (Life::Ended | Life::Frozen(_), _) => self.end(turn, Outcome::Ended),
            (Life::Lost, _) => {
                turn.notify(Notice::Lost { process, epoch });
                let copy = Copied::Gone;
                self.end(turn, Outcome::Lost { copy });
            }
        }
    }

    /// The record, or the target, says that the process is the target's.
    fn left(&mut self, turn: &mut Turn<'_>) {
        if !matches!(self.phase, Phase::Confirming { .. }) {
            self.laps.lap(self.current_part(), turn.now);
            if self.goal != Life::Alive {
                let copy = Copied::Gone;
                return self.end(turn, Outcome::Moved { copy });
            }
            self.phase = Phase::Confirming { asks: 0 };
            self.deadline = None;
            self.repeat = Some(turn.repeat());
        }
        // What the target wrote after its commit, it wrote about a process that ran there.
        if self.seen.owner != turn.node && self.attempt.epoch.next() < Some(self.seen.epoch) {
            self.laps.lap(Part::Confirm, turn.now);
            if self.seen.life == Life::Lost {
                let copy = Copied::Kept;
                return self.end(turn, Outcome::Lost { copy });
            }
            self.discard(turn);
        }
    }

    fn done(&mut self, turn: &mut Turn<'_>, timings: &Timings) {
        match self.phase {
            Phase::Confirming { .. } if *timings == Timings::default() => {
                self.laps.lap(Part::Confirm, turn.now);
            }
            Phase::Granted { .. } | Phase::Settling | Phase::Confirming { .. }
                if self.is_followed() =>
            {
                let heard = matches!(self.phase, Phase::Confirming { .. });
                self.laps.lap_followed(timings, heard, turn.now);
            }
            Phase::Granted { .. } | Phase::Settling | Phase::Confirming { .. } => {
                self.laps.lap_target(timings, turn.now);
            }
            _ => return,
        }
        self.discard(turn);
    }

    fn discard(&mut self, turn: &mut Turn<'_>) {
        let attempt = self.attempt;
        turn.command(Command::Discard { attempt });
        let copy = match self.goal {
            Life::Alive => Copied::Discarded,
            Life::Ended | Life::Lost | Life::Frozen(_) => Copied::Gone,
        };
        self.end(turn, Outcome::Moved { copy });
    }

    fn without_record(&mut self, turn: &mut Turn<'_>) {
        if self.phase == Phase::Over {
            return;
        }
        self.laps.lap(self.current_part(), turn.now);
        turn.send(self.target, self.attempt, Body::Abort);
        self.end(turn, Outcome::Stayed(MoveFailure::NoRecord));
    }

    fn end(&mut self, turn: &mut Turn<'_>, outcome: Outcome) {
        self.untrack(turn);
        let (total, parts) = self.laps.end();
        let report = Report {
            attempt: self.attempt,
            source: turn.node,
            target: self.target,
            outcome,
            size: self.size,
            travelled: self.rounds.travelled().clone(),
            total,
            parts,
        };
        if self.reports {
            turn.notify(Notice::MoveEnded(Box::new(report)));
        }
        self.phase = Phase::Over;
        (self.deadline, self.repeat) = (None, None);
    }

    /// Whether the registry may know of the move, and nobody has decided it yet.
    const fn is_settleable(&self) -> bool {
        matches!(
            self.phase,
            Phase::Declaring
                | Phase::Copying
                | Phase::Pausing
                | Phase::Capturing
                | Phase::Granted { .. }
        )
    }

    /// What is going on, for the report.
    const fn current_part(&self) -> Part {
        match self.phase {
            Phase::Offering => Part::Accept,
            Phase::Declaring => Part::Declare,
            Phase::Copying => Part::Copy,
            Phase::Pausing => Part::Pause,
            Phase::Capturing => Part::Capture,
            Phase::Granted { pushed: false, .. } => Part::Send,
            Phase::Granted { pushed: true, .. } => Part::Commit,
            Phase::Settling => Part::Settle,
            Phase::Resuming => Part::Return,
            Phase::Confirming { .. } | Phase::Over => Part::Confirm,
        }
    }
}
