//! All moves of one node: [`Moves`] is what a driver holds.
//!
//! It knows what the runner holds, gives each event to the machine that it is for, and sees to it that no process
//! has two at once. A process has at most one *activity*:
//!
//! - `Source`: it is moving away
//! - `Target`: it is coming
//! - `Closing`: it is no more, and the record does not say so yet
//!
//! `questions` are what a driver may ask. `reconcile` finds out what to take up from a record and what the runner holds:
//! after a start of the service, and whenever the two differ without an activity.

mod order;
mod questions;
mod reconcile;

pub use order::{CancelError, Order, StartError, StartedError};

use std::collections::{BTreeMap, VecDeque};

use sterna_process::{Epoch, ProcessId};

use crate::action::{Action, Command, Event, Holding, RunnerEvent};
use crate::closing::Closing;
use crate::id::{Attempt, NodeId};
use crate::limits::Limits;
use crate::message::{Body, Message, Refusal, TargetFailure, Timings};
use crate::record::{Life, Record, Version};
use crate::source::Source;
use crate::target::Target;
use crate::time::Time;
use crate::turn::Turn;

/// The moves of one node, as a pure state machine. See the [crate] for an example.
///
/// A driver calls [`handle`](Self::handle) with what happens and [`handle_timeout`](Self::handle_timeout) when
/// [`next_timeout`](Self::next_timeout) has come, and after each carries out all actions in their order.
#[derive(Debug)]
pub struct Moves {
    node: NodeId,
    limits: Limits,
    holdings: BTreeMap<ProcessId, Holding>,
    /// What is being started or made, in the epoch of the record that will be written, or is to be swapped. It is not
    /// held before that is done.
    starting: BTreeMap<ProcessId, Holding>,
    /// The newest record seen of each process that is held here. Answers that come late are older.
    newest: BTreeMap<ProcessId, Version>,
    activities: BTreeMap<ProcessId, Activity>,
    actions: VecDeque<Action>,
}

/// What a process takes part in.
#[derive(Debug)]
enum Activity {
    Source(Source),
    Target(Target),
    Closing(Closing),
}

/// Room below the last epoch: a move can end in as many decisions.
const EPOCHS_SPARE: u64 = 8;

impl Moves {
    /// Those of a service that starts, beside a runner that holds `holdings`.
    ///
    /// The runner is asked first; after that, the registry's record of everything it holds, and all records in
    /// which this node is the owner or the target of an intent, are given as [`Event::Record`]. In the other
    /// order a record could be older than what is held. Giving all these records again from time to time does no
    /// harm, and finds what got lost.
    #[must_use]
    pub fn new(
        node: NodeId,
        limits: Limits,
        holdings: impl IntoIterator<Item = (ProcessId, Holding)>,
    ) -> Self {
        Self {
            node,
            limits,
            holdings: holdings.into_iter().collect(),
            starting: BTreeMap::new(),
            newest: BTreeMap::new(),
            activities: BTreeMap::new(),
            actions: VecDeque::new(),
        }
    }

    /// A process is started here, or made of a file or snapshot in the epoch in which it runs nowhere. To be said before
    /// its record is made or swapped: an owner whose runner does not hold the process has lost it.
    ///
    /// # Errors
    /// If something of it is here.
    pub fn started(&mut self, process: ProcessId, epoch: Epoch) -> Result<(), StartedError> {
        if self.activities.contains_key(&process) {
            return Err(StartedError::Busy { process });
        }
        if self.has(process) {
            return Err(StartedError::Here { process });
        }
        self.starting.insert(process, Holding::Running { epoch });
        Ok(())
    }

    /// What was said to be started here was not.
    pub fn not_started(&mut self, process: ProcessId) {
        if let Some(exited @ Holding::Exited { .. }) = self.starting.remove(&process) {
            // The runner has its end still.
            self.holdings.insert(process, exited);
        }
    }

    /// What was here in `epoch` is not any more: nobody misses it.
    pub fn gone(&mut self, now: Time, process: ProcessId, epoch: Epoch) {
        if self
            .holding(process)
            .is_some_and(|held| held.epoch() <= epoch)
        {
            self.holdings.remove(&process);
            self.step(now, process, |activity, turn| {
                if let Activity::Source(source) = activity {
                    source.taken_away(turn);
                }
            });
        }
    }

    /// Begins to move a process away.
    ///
    /// # Errors
    /// If it does not run here, is being moved already, or the order makes no sense. Nothing has happened then.
    pub fn start(&mut self, now: Time, order: Order) -> Result<Attempt, StartError> {
        let Order {
            process,
            target,
            move_id,
            grant,
            mut offer,
            travel,
        } = order;
        travel.check()?;
        offer.strategy = travel.offered();
        if self.activities.contains_key(&process) {
            return Err(StartError::Busy { process });
        }
        let Some(&Holding::Running { epoch }) = self.holdings.get(&process) else {
            return Err(StartError::NotRunning { process });
        };
        if target == self.node {
            return Err(StartError::AlreadyThere { process });
        }
        if !has_room(epoch) {
            return Err(StartError::LastEpoch { process });
        }
        let limit = self.limits.outgoing_max;
        if self.count(|activity| matches!(activity, Activity::Source(_))) >= limit {
            return Err(StartError::TooManyMoves { limit });
        }
        let attempt = Attempt {
            process,
            epoch,
            move_id,
        };
        self.begin(now, process, |turn| {
            Activity::Source(Source::begin(turn, attempt, target, (offer, travel), grant))
        });
        Ok(attempt)
    }

    /// Gives up a move that was started here. It ends as all moves do, with a report.
    ///
    /// # Errors
    /// If there is none, or it is too late.
    pub fn cancel(&mut self, now: Time, process: ProcessId) -> Result<(), CancelError> {
        let mut cancelled = Err(CancelError::NotMoving { process });
        self.step(now, process, |activity, turn| {
            if let Activity::Source(source) = activity {
                cancelled = match source.cancel(turn) {
                    true => Ok(()),
                    false => Err(CancelError::Committed { process }),
                };
            }
        });
        cancelled
    }

    /// The target of a move that was started here is silent. If it has not accepted the process yet the move ends, of
    /// which the registry knows nothing; from then on silence decides nothing.
    pub fn target_silent(&mut self, now: Time, attempt: Attempt) {
        self.step(now, attempt.process, |activity, turn| {
            if let Activity::Source(source) = activity
                && source.attempt() == attempt
            {
                source.target_silent(turn);
            }
        });
    }

    /// Something happened.
    pub fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Message { from, message } => self.message(now, from, message),
            Event::Record { process, record } => self.record(now, process, record),
            Event::Expelled { process } => self.expelled(now, process),
            Event::Admitted {
                attempt,
                program_is_here,
            } => self.target(now, attempt, |target, turn| {
                target.admitted(turn, program_is_here);
            }),
            Event::Declined { attempt, refusal } => {
                self.target(now, attempt, |target, turn| target.declined(turn, refusal));
            }
            Event::ProgramFetched { attempt } => {
                self.target(now, attempt, |target, turn| target.program(turn, Ok(())));
            }
            Event::ProgramUnavailable { attempt, reason } => {
                self.target(now, attempt, |target, turn| {
                    target.program(turn, Err(reason));
                });
            }
            Event::Runner(event) => self.runner(now, &event),
            Event::RunnerDied => self.runner_died(now),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        let due = |activity: &Activity| activity.deadline().is_some_and(|at| at <= now);
        let due = self.activities.iter().filter(|entry| due(entry.1));
        let due: Vec<ProcessId> = due.map(|(process, _)| *process).collect();
        for process in due {
            self.step(now, process, |activity, turn| match activity {
                Activity::Source(source) => source.timeout(turn),
                Activity::Target(target) => target.timeout(turn),
                Activity::Closing(closing) => closing.timeout(turn),
            });
        }
    }

    /// When [`Moves::handle_timeout`] is to be called, if nothing happens before.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        self.activities
            .values()
            .filter_map(Activity::deadline)
            .min()
    }

    /// What is to be done next.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether anything of it is here, or will be in a moment.
    fn has(&self, process: ProcessId) -> bool {
        self.holdings.contains_key(&process) || self.starting.contains_key(&process)
    }

    fn count(&self, which: impl Fn(&Activity) -> bool) -> usize {
        self.activities.values().filter(|one| which(one)).count()
    }

    fn record(&mut self, now: Time, process: ProcessId, record: Option<Record>) {
        let newest = self.newest.get(&process).copied();
        let version = record.as_ref().map(Record::version);
        if self.activities.contains_key(&process) {
            self.step(now, process, |activity, turn| match activity {
                Activity::Source(source) => source.record(turn, record),
                Activity::Target(target) => target.record(turn, record),
                Activity::Closing(closing) => closing.record(turn, record),
            });
        } else {
            match record {
                Some(record) if version >= newest => self.reconcile(now, process, record),
                Some(_) => {}
                None => self.forgotten(now, process, newest),
            }
        }
        match version.max(newest) {
            Some(version) if self.has(process) => {
                self.newest.insert(process, version);
            }
            _ => {
                self.newest.remove(&process);
            }
        }
    }

    fn message(&mut self, now: Time, from: NodeId, message: Message) {
        let Message { attempt, body } = message;
        let process = attempt.process;
        match self.activities.get(&process).and_then(Activity::attempt) {
            Some(one) if one == attempt => {
                self.step(now, process, |activity, turn| match activity {
                    Activity::Source(source) => source.message(turn, from, &body),
                    Activity::Target(target) => target.message(turn, from, &body),
                    Activity::Closing(_) => {}
                });
            }
            _ => self.message_of_no_activity(now, from, attempt, body),
        }
    }

    /// A message of a move that has ended here, or never was.
    fn message_of_no_activity(&mut self, now: Time, from: NodeId, attempt: Attempt, body: Body) {
        let process = attempt.process;
        let answer = match body {
            Body::Offer(offer) => match self.objection(from, attempt) {
                Some(Objection::Refuse(refusal)) => Body::Refuse(refusal),
                Some(Objection::Older) => {
                    return self.step(now, process, |activity, turn| {
                        if let Activity::Target(target) = activity {
                            target.accept_again(turn);
                        }
                    });
                }
                None => {
                    return self.begin(now, process, |turn| {
                        Activity::Target(Target::begin(turn, attempt, from, offer))
                    });
                }
            },
            Body::Accept(_) => Body::Abort,
            Body::State(_) | Body::Ask if self.follows(attempt) => Body::Committed,
            Body::State(_) | Body::Ask if self.lived_on(attempt) => Body::Done(Timings::default()),
            Body::State(_) | Body::Coming => Body::Failed(TargetFailure::Unknown),
            Body::Refuse(_)
            | Body::Committed
            | Body::Done(_)
            | Body::Failed(_)
            | Body::Abort
            | Body::Ask => return,
        };
        self.turn(now).send(from, attempt, answer);
    }

    /// Why a process that is offered cannot be taken.
    fn objection(&self, from: NodeId, attempt: Attempt) -> Option<Objection> {
        let refuse = |refusal| Some(Objection::Refuse(refusal));
        let limit = self.limits.incoming_max;
        match self.activities.get(&attempt.process) {
            // The source has begun anew, so the older attempt is over; or this message is old.
            Some(Activity::Target(target)) if target.source() == from => Some(Objection::Older),
            Some(_) => refuse(Refusal::Busy),
            None if self.has(attempt.process) => refuse(Refusal::Held),
            None if !has_room(attempt.epoch) || from == self.node => refuse(Refusal::Unsupported {
                what: format!("epoch {} of node {from}", attempt.epoch),
            }),
            None if self.count(|one| matches!(one, Activity::Target(_))) >= limit => {
                refuse(Refusal::TooManyMoves)
            }
            None => None,
        }
    }

    /// Whether the process came here by this attempt, and some of its memory is still to come.
    fn follows(&self, attempt: Attempt) -> bool {
        matches!(
            self.holdings.get(&attempt.process),
            Some(Holding::Incomplete { attempt: own, .. }) if *own == attempt
        )
    }

    /// Whether the process came here by this attempt or a later one, has run here, and needs nothing of the source.
    fn lived_on(&self, attempt: Attempt) -> bool {
        self.holdings.get(&attempt.process).is_some_and(|holding| {
            let ran = matches!(
                holding,
                Holding::Running { .. } | Holding::Frozen { .. } | Holding::Exited { .. }
            );
            ran && holding.epoch() > attempt.epoch
        })
    }

    fn runner(&mut self, now: Time, event: &RunnerEvent) {
        let (process, attempt) = event.about();
        let active = self.activities.get(&process).and_then(Activity::attempt);
        // A service that was started again may hear of the rest of a memory before it has seen the record.
        let is_early = active.is_none() && attempt.is_some_and(|attempt| self.follows(attempt));
        if attempt.is_some() && attempt != active && !is_early {
            return; // of an attempt that has ended
        }
        let had = self.activities.contains_key(&process);
        self.note(process, event);
        self.step(now, process, |activity, turn| match activity {
            Activity::Source(source) => source.runner(turn, event),
            Activity::Target(target) => target.runner(turn, event),
            Activity::Closing(_) => {}
        });
        if matches!(event, RunnerEvent::Exited { .. })
            && let Some(Holding::Exited { epoch }) = self.holding(process)
            && !had
        {
            self.close(now, process, epoch, Life::Ended);
        }
    }

    /// Keeps up with what the runner holds.
    fn note(&mut self, process: ProcessId, event: &RunnerEvent) {
        let holding = match (event, self.activities.get(&process)) {
            (RunnerEvent::Prepared { attempt, .. }, Some(Activity::Target(_))) => {
                Holding::Arriving {
                    epoch: attempt.epoch,
                    move_id: attempt.move_id,
                }
            }
            (RunnerEvent::Restored { attempt }, Some(Activity::Target(target))) => {
                match target.grant() {
                    Some(grant) => Holding::Ready {
                        epoch: attempt.epoch,
                        move_id: attempt.move_id,
                        source: target.source(),
                        grant,
                    },
                    None => return,
                }
            }
            (RunnerEvent::Paused { attempt }, Some(Activity::Source(_))) => Holding::Frozen {
                epoch: attempt.epoch,
                move_id: attempt.move_id,
            },
            (&RunnerEvent::Resumed { epoch, follows, .. }, activity) if self.has(process) => {
                self.starting.remove(&process);
                match activity {
                    Some(Activity::Target(target)) if follows && !target.is_whole() => {
                        Holding::Incomplete {
                            epoch,
                            source: target.source(),
                            attempt: target.attempt(),
                        }
                    }
                    _ => Holding::Running { epoch },
                }
            }
            (RunnerEvent::Followed { .. }, _) => match self.holding(process) {
                Some(Holding::Incomplete { epoch, .. }) => Holding::Running { epoch },
                _ => return,
            },
            (RunnerEvent::Unfollowed { .. }, _) => {
                self.holdings.remove(&process);
                return;
            }
            (RunnerEvent::Exited { .. }, _) => match self.holding(process) {
                Some(holding) => Holding::Exited {
                    epoch: holding.epoch(),
                },
                None => {
                    if let Some(starting) = self.starting.get_mut(&process) {
                        let epoch = starting.epoch();
                        *starting = Holding::Exited { epoch };
                        // Perhaps its record is written, and the answer got lost.
                        self.actions.push_back(Action::Read { process });
                    }
                    return;
                }
            },
            _ => return,
        };
        self.holdings.insert(process, holding);
    }

    fn runner_died(&mut self, now: Time) {
        self.starting.clear();
        let held = std::mem::take(&mut self.holdings);
        let active: Vec<ProcessId> = self.activities.keys().copied().collect();
        for &process in &active {
            self.step(now, process, |activity, turn| match activity {
                Activity::Source(source) => source.runner_died(turn),
                Activity::Target(target) => target.runner_died(turn),
                Activity::Closing(_) => {}
            });
        }
        for (process, holding) in held {
            if let Holding::Running { epoch } | Holding::Incomplete { epoch, .. } = holding
                && active.binary_search(&process).is_err()
            {
                self.close(now, process, epoch, Life::Lost);
            }
        }
    }

    /// A process that ran here is no more.
    fn close(&mut self, now: Time, process: ProcessId, epoch: Epoch, life: Life) {
        let record = Record::owned(self.node, epoch);
        self.begin(now, process, |turn| {
            Activity::Closing(Closing::begin(turn, process, record, life))
        });
    }

    fn target(&mut self, now: Time, attempt: Attempt, f: impl FnOnce(&mut Target, &mut Turn<'_>)) {
        self.step(now, attempt.process, |activity, turn| {
            if let Activity::Target(target) = activity
                && target.attempt() == attempt
            {
                f(target, turn);
            }
        });
    }

    fn turn(&mut self, now: Time) -> Turn<'_> {
        Turn {
            now,
            node: self.node,
            limits: &self.limits,
            actions: &mut self.actions,
        }
    }

    /// Begins an activity of a process that has none.
    fn begin(
        &mut self,
        now: Time,
        process: ProcessId,
        make: impl FnOnce(&mut Turn<'_>) -> Activity,
    ) {
        let queued = self.actions.len();
        let activity = make(&mut self.turn(now));
        self.keep(now, process, activity, queued);
    }

    /// Lets the activity of a process, if it has one, handle something.
    fn step(
        &mut self,
        now: Time,
        process: ProcessId,
        f: impl FnOnce(&mut Activity, &mut Turn<'_>),
    ) {
        let queued = self.actions.len();
        if let Some(mut activity) = self.activities.remove(&process) {
            f(&mut activity, &mut self.turn(now));
            self.keep(now, process, activity, queued);
        }
    }

    /// Keeps an activity unless it is over. Of the actions, those from `queued` on are its own.
    fn keep(&mut self, now: Time, process: ProcessId, activity: Activity, queued: usize) {
        let discards = |action: &Action| matches!(action, Action::Command(Command::Discard { .. }));
        if self.actions.iter().skip(queued).any(discards) {
            self.holdings.remove(&process);
        }
        if !activity.is_over() {
            self.activities.insert(process, activity);
        } else if let Activity::Target(target) = &activity
            && let Some((record, life)) = target.closes()
        {
            self.begin(now, process, |turn| {
                Activity::Closing(Closing::begin(turn, process, record, life))
            });
        } else if let Some(Holding::Exited { .. }) = self.holding(process) {
            match &activity {
                Activity::Closing(closing) if let Some(record) = closing.runs_on() => {
                    self.begin(now, process, |turn| {
                        Activity::Closing(Closing::begin(turn, process, record, Life::Ended))
                    });
                }
                _ => self.forget(now, process),
            }
        }
    }

    fn forget(&mut self, now: Time, process: ProcessId) {
        self.holdings.remove(&process);
        self.turn(now).command(Command::Forget { process });
    }
}

/// What stands against an offer.
enum Objection {
    Refuse(Refusal),
    Older,
}

impl Activity {
    const fn attempt(&self) -> Option<Attempt> {
        match self {
            Self::Source(source) => Some(source.attempt()),
            Self::Target(target) => Some(target.attempt()),
            Self::Closing(_) => None,
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Source(source) => source.is_over(),
            Self::Target(target) => target.is_over(),
            Self::Closing(closing) => closing.is_over(),
        }
    }

    fn deadline(&self) -> Option<Time> {
        match self {
            Self::Source(source) => source.deadline(),
            Self::Target(target) => target.deadline(),
            Self::Closing(closing) => closing.deadline(),
        }
    }
}

fn has_room(epoch: Epoch) -> bool {
    epoch.0 < u64::MAX - EPOCHS_SPARE
}
