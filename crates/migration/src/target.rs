//! The side to which a process comes: [`Target`].
//!
//! ```text
//!  offer ──► Admitting ─► Fetching ─► Preparing ─prepared─► Prepared ─state─► Restoring ─restored─► Committing
//!               │            │            │        accept      │                  │      commit        │    │
//!               └────────────┴─────┬──────┘                    └────────┬─────────┘       the record   │    │ abort,
//!                    refused, late │               late, failed, abort  │                   says: mine │    │ runner died
//!                                  ▼                                    ▼                              ▼    ▼
//!                                Over (refuse)                        Over (failed)             Resuming   Settling
//!                                                                                                   │    ◄── mine
//!                                                 Over (done) ◄───────────── runs, all is here ─────┤    │
//!                                                      ▲ all has come                               │    │
//!                                                 Following ◄── runs, some memory is at the source ─┘    │
//!                                                      ▼ the rest will not come                          │
//!                                                 Over (lost)      Over (discarded) ◄── theirs ──────────┘
//! ```
//!
//! Until Committing nobody relies on what is here, and it can be let go at any time. From Committing on it is a
//! promise: the commit may have won although no answer came, so it is kept until a record of a later epoch has
//! been seen, and who wants to give up writes. A commit is repeated without end; giving up is the source's affair.
//!
//! In Following it owns a process of which the source has a part: if that part will not come, the process is lost, and this
//! side says so. Its runner, which asks for the pages, knows when.

use sterna_process::Epoch;

use crate::action::{Action, Command, Notice, RunnerEvent};
use crate::id::{Attempt, Grant, NodeId};
use crate::message::{Body, Offer, Readied, Refusal, Snapshot, Strategy, TargetFailure, Timings};
use crate::record::{Intent, Life, Record, Swap};
use crate::time::{Repeat, Time};
use crate::turn::Turn;

/// Where a target is in its move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The node was asked whether it lets the process in.
    Admitting,
    /// The program is being fetched.
    Fetching,
    /// The runner was told to make room.
    Preparing,
    /// The source may send the process.
    Prepared,
    /// The runner was told to make the process.
    Restoring,
    /// The registry was asked to make this node the owner.
    Committing,
    /// The runner was told to let it run.
    Resuming,
    /// It runs, and some of its memory is still coming.
    Following,
    /// The registry was asked to leave it with the source.
    Settling,
    /// Nothing more will come.
    Over,
}

/// One move, at its target.
#[derive(Debug)]
pub(crate) struct Target {
    attempt: Attempt,
    source: NodeId,
    phase: Phase,
    /// Until room is made.
    offer: Option<Offer>,
    grant: Option<Grant>,
    /// The record with the intent, which a commit expects; known with the grant, or when it was seen.
    declared: Option<Record>,
    /// Whether all of its memory has come, if not all came along.
    is_whole: bool,
    /// What became of the process here: anything but alive, and the runner does not have it any more.
    life: Life,
    /// Set when this node has become the owner of a process that is no more.
    closes: Option<(Record, Life)>,
    deadline: Option<Time>,
    repeat: Option<Repeat>,
    since: Time,
    readied: Readied,
    timings: Timings,
}

impl Target {
    /// Was asked to take a process.
    pub(crate) fn begin(
        turn: &mut Turn<'_>,
        attempt: Attempt,
        source: NodeId,
        offer: Offer,
    ) -> Self {
        turn.actions.push_back(Action::Admit {
            attempt,
            source,
            offer: offer.clone(),
        });
        let mut target = Self::new(turn, attempt, source, Phase::Admitting);
        target.readied.strategy = offer.strategy.understood();
        target.offer = Some(offer);
        target.deadline = Some(turn.now + turn.limits.prepare_within);
        target
    }

    /// Takes up a move of which the runner has the process, ready, and the record still has the intent.
    pub(crate) fn ready(
        turn: &mut Turn<'_>,
        attempt: Attempt,
        declared: Record,
        grant: Grant,
    ) -> Self {
        let mut target = Self::new(turn, attempt, declared.owner, Phase::Committing);
        target.grant = Some(grant);
        target.declared = Some(declared);
        target.repeat = Some(turn.repeat());
        target.write(turn);
        target
    }

    /// Takes up a move that was committed, and whose process has not begun to run.
    pub(crate) fn committed(
        turn: &mut Turn<'_>,
        attempt: Attempt,
        source: NodeId,
        record: Record,
    ) -> Self {
        let mut target = Self::new(turn, attempt, source, Phase::Committing);
        target.won(turn, record);
        target
    }

    /// Takes up a move that was committed, and whose process runs without all of its memory.
    pub(crate) fn following(
        turn: &mut Turn<'_>,
        attempt: Attempt,
        source: NodeId,
        (record, epoch): (Record, Epoch),
    ) -> Self {
        let mut target = Self::new(turn, attempt, source, Phase::Following);
        target.declared = Some(record);
        if record.epoch > epoch {
            turn.resume(attempt.process, record.epoch);
        }
        target
    }

    /// Takes up a move of which only the intent is left. A commit may still be on its way to the registry, of a
    /// process that is no more: writing shuts it out.
    pub(crate) fn in_doubt(turn: &mut Turn<'_>, attempt: Attempt, declared: Record) -> Self {
        let mut target = Self::new(turn, attempt, declared.owner, Phase::Committing);
        target.declared = Some(declared);
        target.life = Life::Lost;
        target.settle(turn);
        target
    }

    fn new(turn: &Turn<'_>, attempt: Attempt, source: NodeId, phase: Phase) -> Self {
        Self {
            attempt,
            source,
            phase,
            offer: None,
            grant: None,
            declared: None,
            is_whole: false,
            life: Life::Alive,
            closes: None,
            deadline: None,
            repeat: None,
            since: turn.now,
            readied: Readied::default(),
            timings: Timings::default(),
        }
    }

    pub(crate) const fn attempt(&self) -> Attempt {
        self.attempt
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// What is to be written about the process when this is over.
    pub(crate) const fn closes(&self) -> Option<(Record, Life)> {
        self.closes
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let repeat = self.repeat.map(|repeat| repeat.at());
        [self.deadline, repeat].into_iter().flatten().min()
    }

    pub(crate) fn timeout(&mut self, turn: &mut Turn<'_>) {
        if self.deadline.is_some_and(|deadline| turn.now >= deadline) {
            self.deadline = None;
            match self.phase {
                Phase::Admitting | Phase::Fetching | Phase::Preparing => {
                    self.refuse(turn, Refusal::TooSlow);
                }
                Phase::Prepared => self.fail(turn, TargetFailure::StateLate),
                Phase::Restoring => {
                    let reason = "it took longer than the limit".into();
                    self.fail(turn, TargetFailure::Restore { reason });
                }
                Phase::Committing
                | Phase::Resuming
                | Phase::Following
                | Phase::Settling
                | Phase::Over => {}
            }
        } else if let Some(repeat) = &mut self.repeat
            && repeat.is_due(turn.now, turn.limits)
        {
            self.write(turn);
        }
    }

    /// A message of the source. What it repeats is answered again.
    pub(crate) fn message(&mut self, turn: &mut Turn<'_>, from: NodeId, body: &Body) {
        if from != self.source {
            return;
        }
        match (body, self.phase) {
            (Body::Offer(_), _) => self.accept_again(turn),
            (Body::Coming, Phase::Prepared) => {
                self.deadline = Some(turn.now + turn.limits.state_within);
            }
            (Body::State(snapshot), Phase::Prepared) => self.restore(turn, snapshot),
            (Body::State(_) | Body::Ask, Phase::Resuming | Phase::Following) => {
                turn.send(self.source, self.attempt, Body::Committed);
            }
            (Body::Abort, Phase::Committing) => self.settle(turn),
            (Body::Abort, Phase::Resuming | Phase::Following | Phase::Settling | Phase::Over) => {}
            (Body::Abort, _) => self.drop_it(turn),
            _ => {}
        }
    }

    /// Says that room is made, if it is. If the source has given this attempt up, it will say so.
    pub(crate) fn accept_again(&self, turn: &mut Turn<'_>) {
        if self.phase == Phase::Prepared {
            turn.send(self.source, self.attempt, Body::Accept(self.readied));
        }
    }

    /// Whether all of its memory has come that did not come along.
    pub(crate) const fn is_whole(&self) -> bool {
        self.is_whole
    }

    pub(crate) const fn grant(&self) -> Option<Grant> {
        self.grant
    }

    pub(crate) const fn source(&self) -> NodeId {
        self.source
    }

    pub(crate) fn admitted(&mut self, turn: &mut Turn<'_>, program_is_here: bool) {
        if self.phase != Phase::Admitting {
            return;
        }
        if program_is_here {
            return self.prepare(turn);
        }
        if let Some(offer) = &self.offer {
            self.phase = Phase::Fetching;
            self.since = turn.now;
            turn.actions.push_back(Action::FetchProgram {
                attempt: self.attempt,
                source: self.source,
                kind: offer.kind.clone(),
                program: offer.program,
            });
        }
    }

    pub(crate) fn declined(&mut self, turn: &mut Turn<'_>, refusal: Refusal) {
        if self.phase == Phase::Admitting {
            self.refuse(turn, refusal);
        }
    }

    /// The program is here, or why it is not.
    pub(crate) fn program(&mut self, turn: &mut Turn<'_>, fetched: Result<(), String>) {
        match (self.phase, fetched) {
            (Phase::Fetching, Ok(())) => {
                self.readied.fetch = turn.now.since(self.since);
                self.prepare(turn);
            }
            (Phase::Fetching, Err(reason)) => self.refuse(turn, Refusal::Program { reason }),
            _ => {}
        }
    }

    fn prepare(&mut self, turn: &mut Turn<'_>) {
        if let Some(offer) = self.offer.take() {
            self.phase = Phase::Preparing;
            self.since = turn.now;
            let attempt = self.attempt;
            turn.command(Command::Prepare { attempt, offer });
        }
    }

    fn restore(&mut self, turn: &mut Turn<'_>, snapshot: &Snapshot) {
        self.phase = Phase::Restoring;
        self.deadline = Some(turn.now + turn.limits.restore_within);
        self.since = turn.now;
        self.grant = Some(snapshot.grant);
        let intent = Intent {
            move_id: self.attempt.move_id,
            target: turn.node,
            seal: snapshot.grant.seal(),
        };
        self.declared = Some(Record::owned(self.source, self.attempt.epoch).declared(intent));
        turn.command(Command::Restore {
            attempt: self.attempt,
            source: self.source,
            grant: snapshot.grant,
            size: snapshot.size,
        });
    }

    /// What the registry has. Only a record of a later epoch decides.
    pub(crate) fn record(&mut self, turn: &mut Turn<'_>, record: Option<Record>) {
        if !matches!(self.phase, Phase::Committing | Phase::Settling) {
            return;
        }
        let Some(record) = record else {
            return self.fail(turn, TargetFailure::Settled);
        };
        if record.epoch <= self.attempt.epoch {
            return; // it is old: the grant came after the declaration
        }
        if record.owner == turn.node && record.life == Life::Alive {
            match self.life {
                Life::Alive => self.won(turn, record),
                Life::Ended | Life::Lost | Life::Frozen(_) => self.close(record),
            }
        } else if self.phase == Phase::Committing {
            self.fail(turn, TargetFailure::Settled);
        } else {
            self.drop_it(turn);
        }
    }

    fn won(&mut self, turn: &mut Turn<'_>, record: Record) {
        self.timings.commit = turn.now.since(self.since);
        self.since = turn.now;
        self.phase = Phase::Resuming;
        (self.deadline, self.repeat) = (None, None);
        self.declared = Some(record);
        turn.resume(self.attempt.process, record.epoch);
        turn.send(self.source, self.attempt, Body::Committed);
    }

    /// The runner's answers to commands of this attempt.
    pub(crate) fn runner(&mut self, turn: &mut Turn<'_>, event: &RunnerEvent) {
        match (event, self.phase) {
            (
                RunnerEvent::Prepared {
                    attempt,
                    can_follow,
                },
                Phase::Preparing,
            ) => {
                if self.readied.strategy == Strategy::PostCopy && !can_follow {
                    self.readied.strategy = Strategy::PreCopy;
                }
                self.readied.room = turn.now.since(self.since);
                self.phase = Phase::Prepared;
                self.deadline = Some(turn.now + turn.limits.state_within);
                turn.send(self.source, *attempt, Body::Accept(self.readied));
            }
            (RunnerEvent::PrepareFailed { reason, .. }, Phase::Preparing) => {
                let reason = reason.clone();
                self.refuse(turn, Refusal::Room { reason });
            }
            (RunnerEvent::Restored { .. }, Phase::Restoring) => {
                self.timings.restore = turn.now.since(self.since);
                self.since = turn.now;
                self.phase = Phase::Committing;
                self.deadline = None;
                self.repeat = Some(turn.repeat());
                self.write(turn);
            }
            (RunnerEvent::RestoreFailed { reason, .. }, Phase::Restoring) => {
                let reason = reason.clone();
                self.fail(turn, TargetFailure::Restore { reason });
            }
            (RunnerEvent::Resumed { epoch, follows, .. }, Phase::Resuming)
                if self.declared.is_some_and(|record| record.epoch == *epoch) =>
            {
                self.timings.resume = turn.now.since(self.since);
                let (attempt, source, timings) = (self.attempt, self.source, self.timings);
                self.phase = Phase::Following;
                if self.is_whole || !follows {
                    self.done(turn);
                }
                turn.notify(Notice::Arrived {
                    attempt,
                    source,
                    timings,
                });
            }
            (RunnerEvent::Followed { .. }, Phase::Following) => self.done(turn),
            (RunnerEvent::Followed { .. }, _) => self.is_whole = true,
            (RunnerEvent::Unfollowed { reason, .. }, phase) => {
                if let Phase::Prepared | Phase::Restoring = phase {
                    self.life = Life::Lost;
                    let reason = reason.clone();
                    return self.fail(turn, TargetFailure::Restore { reason });
                }
                self.gone(turn, Life::Lost);
            }
            (RunnerEvent::Exited { .. }, _) => self.gone(turn, Life::Ended),
            _ => {}
        }
    }

    /// The process runs here and needs nothing of the source.
    fn done(&mut self, turn: &mut Turn<'_>) {
        turn.send(self.source, self.attempt, Body::Done(self.timings));
        self.over();
    }

    pub(crate) fn runner_died(&mut self, turn: &mut Turn<'_>) {
        self.gone(turn, Life::Lost);
    }

    fn gone(&mut self, turn: &mut Turn<'_>, life: Life) {
        self.life = life;
        match (self.phase, self.declared) {
            (Phase::Admitting | Phase::Fetching | Phase::Preparing, _) => {
                self.refuse(turn, Refusal::RunnerDied);
            }
            (Phase::Prepared | Phase::Restoring, _) => self.fail(turn, TargetFailure::RunnerDied),
            (Phase::Committing, _) => self.settle(turn),
            (Phase::Resuming | Phase::Following, Some(record)) => self.close(record),
            (Phase::Resuming | Phase::Following | Phase::Settling | Phase::Over, _) => {}
        }
    }

    /// Begins to write that the process stays with the source. It has no limit: what is here may be promised.
    fn settle(&mut self, turn: &mut Turn<'_>) {
        self.phase = Phase::Settling;
        self.deadline = None;
        self.repeat = Some(turn.repeat());
        self.write(turn);
    }

    fn write(&self, turn: &mut Turn<'_>) {
        let Some(expected) = self.declared else {
            return;
        };
        let (new, grant) = match self.phase {
            Phase::Committing => (expected.committed(), self.grant),
            Phase::Settling => (expected.settled(), None),
            _ => return,
        };
        if let Some(new) = new {
            turn.swap(Swap {
                process: self.attempt.process,
                expected,
                new,
                grant,
            });
        }
    }

    /// This node owns a process that it does not have.
    fn close(&mut self, record: Record) {
        self.closes = Some((record, self.life));
        self.over();
    }

    fn refuse(&mut self, turn: &mut Turn<'_>, refusal: Refusal) {
        turn.send(self.source, self.attempt, Body::Refuse(refusal));
        self.let_go(turn);
    }

    fn fail(&mut self, turn: &mut Turn<'_>, failure: TargetFailure) {
        turn.send(self.source, self.attempt, Body::Failed(failure));
        self.let_go(turn);
    }

    /// The source knows, or need not know.
    fn drop_it(&mut self, turn: &mut Turn<'_>) {
        match self.life {
            Life::Alive => self.let_go(turn),
            Life::Ended | Life::Lost | Life::Frozen(_) => {
                self.fail(turn, TargetFailure::RunnerDied)
            }
        }
    }

    fn let_go(&mut self, turn: &mut Turn<'_>) {
        let asked = !matches!(self.phase, Phase::Admitting | Phase::Fetching);
        if self.life == Life::Alive && asked {
            let attempt = self.attempt;
            turn.command(Command::Discard { attempt });
        }
        self.over();
    }

    fn over(&mut self) {
        self.phase = Phase::Over;
        (self.deadline, self.repeat) = (None, None);
    }
}
