//! What is to be done about a process that is in no activity, by its record and by what the runner holds of it.
//!
//! | the runner holds | the record says | then |
//! |---|---|---|
//! | anything | an older epoch | nothing: the record is old |
//! | what is being started | not mine, or runs nowhere | nothing: its record is not written yet |
//! | running, started or not | mine | it takes up the record's epoch |
//! | incomplete | mine | it takes up the record's epoch, and the rest of its memory is waited for |
//! | incomplete | theirs, later epoch | as if it were running |
//! | running or frozen | mine, with an intent | in doubt as a source: settle |
//! | frozen | mine, later epoch | settled before: it runs on |
//! | frozen | mine, the same epoch without an intent | it was held for a file: settle, then it runs on |
//! | running | theirs, later epoch | it was recovered elsewhere: fenced |
//! | frozen | theirs, later epoch | committed: kept until the target confirms |
//! | running | mine, frozen in a file | the file has it: fenced |
//! | frozen | mine, ended or frozen in a file | let go |
//! | made | mine, later epoch | written before: it runs |
//! | made | anything else | the service that made it has died: let go |
//! | frozen | theirs, later epoch, lost | kept: a person may recover the process from it |
//! | frozen | nothing any more, and a later epoch before | a person has removed it: let go |
//! | ready | theirs, with an intent to me | in doubt as a target, with the grant: commit |
//! | ready | mine, the next epoch | committed before: it runs |
//! | ready | any other later epoch | another decision: let go |
//! | arriving | anything | nobody relies on it: let go, then as if nothing were held |
//! | exited | mine | ended, which is written down |
//! | exited | any other later epoch, or runs nowhere | decided without it: forgotten |
//! | nothing, or exited as a target | theirs, with an intent to me | in doubt as a target without a process: settle |
//! | nothing | anybody's, ended, lost or frozen in a file | nothing: so it should be |
//! | nothing | mine | lost, which is written down; not at once if there is an intent |
//! | anything | nothing, and the node was removed | ended, or let go: nobody else ever will |
//!
//! All that is written on the ground of a record is a swap that expects this record. So an old one does no harm.

use sterna_process::{Epoch, ProcessId};

use super::{Activity, Moves};
use crate::action::{Command, Holding, Notice};
use crate::closing::Closing;
use crate::id::{Attempt, Grant, MoveId, NodeId};
use crate::record::{Life, Record, Version};
use crate::source::Source;
use crate::target::Target;
use crate::time::Time;

impl Moves {
    pub(super) fn reconcile(&mut self, now: Time, process: ProcessId, record: Record) {
        let attempt = |epoch: Epoch, move_id: MoveId| Attempt {
            process,
            epoch,
            move_id,
        };
        if let Some(&starting) = self.starting.get(&process) {
            if record.owner != self.node || record.life != Life::Alive {
                return; // not written yet
            }
            self.starting.remove(&process);
            self.holdings.insert(process, starting);
        }
        let mut holding = self.holding(process);
        if let Some(Holding::Arriving { epoch, move_id }) = holding {
            self.discard(now, attempt(epoch, move_id));
            holding = None;
        }
        if holding.is_some_and(|holding| holding.epoch() > record.epoch) {
            return;
        }
        match holding {
            Some(Holding::Running { epoch }) => self.running(now, process, epoch, record),
            Some(Holding::Incomplete {
                epoch,
                source,
                attempt,
            }) => match record.owner == self.node && record.life == Life::Alive {
                true => self.begin(now, process, |turn| {
                    let record = (record, epoch);
                    Activity::Target(Target::following(turn, attempt, source, record))
                }),
                false => self.running(now, process, epoch, record),
            },
            Some(Holding::Frozen { epoch, move_id }) => {
                self.frozen(now, attempt(epoch, move_id), record);
            }
            Some(Holding::Made { epoch, move_id }) => {
                let runs = record.owner == self.node && record.life == Life::Alive;
                match runs && record.epoch > epoch {
                    true => self.turn(now).resume(process, record.epoch),
                    false => self.discard(now, attempt(epoch, move_id)),
                }
            }
            Some(Holding::Ready {
                epoch,
                move_id,
                source,
                grant,
            }) => self.ready(now, attempt(epoch, move_id), source, grant, record),
            Some(Holding::Exited { epoch }) => {
                let begun = self.absent(now, process, record, Life::Ended);
                if !begun && (record.epoch > epoch || record.life != Life::Alive) {
                    self.forget(now, process);
                }
            }
            Some(Holding::Arriving { .. }) | None => {
                self.absent(now, process, record, Life::Lost);
            }
        }
    }

    /// There is no record. That it was known before, `newest` says: a registry that is restored may still hear of a process.
    pub(super) fn forgotten(&mut self, now: Time, process: ProcessId, newest: Option<Version>) {
        if let Some(Holding::Exited { .. }) = self.starting.get(&process) {
            self.starting.remove(&process);
        }
        if let Some(Holding::Frozen { epoch, move_id }) = self.holding(process)
            && newest.is_some_and(|newest| newest.epoch() > epoch)
        {
            let attempt = Attempt {
                process,
                epoch,
                move_id,
            };
            self.discard(now, attempt);
        }
    }

    /// There is no record, and there never will be one here again: whatever is held is let go.
    pub(super) fn expelled(&mut self, now: Time, process: ProcessId) {
        self.record(now, process, None);
        if self.activities.contains_key(&process) {
            return;
        }
        match self.holding(process) {
            Some(Holding::Running { epoch } | Holding::Incomplete { epoch, .. }) => {
                self.fence(now, process, epoch);
            }
            Some(
                Holding::Frozen { epoch, move_id }
                | Holding::Made { epoch, move_id }
                | Holding::Ready { epoch, move_id, .. }
                | Holding::Arriving { epoch, move_id },
            ) => {
                let attempt = Attempt {
                    process,
                    epoch,
                    move_id,
                };
                self.discard(now, attempt);
            }
            Some(Holding::Exited { .. }) => self.forget(now, process),
            None => {}
        }
    }

    fn fence(&mut self, now: Time, process: ProcessId, epoch: Epoch) {
        self.holdings.remove(&process);
        let mut turn = self.turn(now);
        turn.command(Command::Fence { process, epoch });
        turn.notify(Notice::Fenced { process, epoch });
    }

    fn running(&mut self, now: Time, process: ProcessId, epoch: Epoch, record: Record) {
        let mine = record.owner == self.node && record.life == Life::Alive;
        if mine && self.in_doubt(now, process, record, None) {
            return;
        }
        if epoch == record.epoch {
            return;
        }
        if mine {
            self.turn(now).resume(process, record.epoch);
            return;
        }
        self.fence(now, process, epoch);
    }

    fn frozen(&mut self, now: Time, attempt: Attempt, record: Record) {
        let process = attempt.process;
        let later = record.epoch > attempt.epoch;
        if record.owner != self.node {
            if later && record.life != Life::Lost {
                self.begin(now, process, |turn| {
                    Activity::Source(Source::committed(turn, attempt, record))
                });
            }
            return;
        }
        match record.life {
            Life::Alive if self.in_doubt(now, process, record, Some(attempt.move_id)) => {}
            Life::Alive if later => self.turn(now).resume(process, record.epoch),
            Life::Alive if record.epoch == attempt.epoch => self.begin(now, process, |turn| {
                Activity::Closing(Closing::begin(turn, process, record, Life::Alive))
            }),
            Life::Ended | Life::Frozen(_) if later => self.discard(now, attempt),
            Life::Alive | Life::Ended | Life::Lost | Life::Frozen(_) => {}
        }
    }

    fn ready(&mut self, now: Time, attempt: Attempt, source: NodeId, grant: Grant, record: Record) {
        let process = attempt.process;
        if record.epoch > attempt.epoch {
            let committed = Record::owned(self.node, record.epoch);
            if record == committed && attempt.epoch.next() == Some(record.epoch) {
                return self.begin(now, process, |turn| {
                    Activity::Target(Target::committed(turn, attempt, source, record))
                });
            }
            return self.discard(now, attempt);
        }
        let declared = record.intent.map(|intent| (intent.move_id, intent.target));
        if declared == Some((attempt.move_id, self.node)) {
            self.begin(now, process, |turn| {
                Activity::Target(Target::ready(turn, attempt, record, grant))
            });
        }
    }

    /// There is no process here any more. Whether something is to be written about that.
    fn absent(&mut self, now: Time, process: ProcessId, record: Record, life: Life) -> bool {
        if record.life != Life::Alive {
            return false;
        }
        if record.owner == self.node {
            self.begin(now, process, |turn| {
                Activity::Closing(Closing::begin(turn, process, record, life))
            });
            return true;
        }
        let Some(intent) = record.intent.filter(|intent| intent.target == self.node) else {
            return false;
        };
        let attempt = Attempt {
            process,
            epoch: record.epoch,
            move_id: intent.move_id,
        };
        self.begin(now, process, |turn| {
            Activity::Target(Target::in_doubt(turn, attempt, record))
        });
        true
    }

    /// Takes up a move of this node's own, if the record has an intent of one. `stands_for`: for what it stands still.
    fn in_doubt(
        &mut self,
        now: Time,
        process: ProcessId,
        record: Record,
        stands_for: Option<MoveId>,
    ) -> bool {
        let Some(intent) = record.intent else {
            return false;
        };
        let attempt = Attempt {
            process,
            epoch: record.epoch,
            move_id: intent.move_id,
        };
        self.begin(now, process, |turn| {
            let granted = stands_for == Some(intent.move_id);
            Activity::Source(Source::in_doubt(
                turn,
                attempt,
                intent.target,
                record,
                granted,
            ))
        });
        true
    }

    fn discard(&mut self, now: Time, attempt: Attempt) {
        self.holdings.remove(&attempt.process);
        self.turn(now).command(Command::Discard { attempt });
    }
}
