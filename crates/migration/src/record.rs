//! Who owns a process: [`Record`], and the [`Swap`] by which it changes.
//!
//! ```text
//!                    declare (S)                    commit (T, with S's grant)
//!   (S, e, –) ─────────────────► (S, e, move→T) ─────────────────────────────► (T, e+1, –)
//!       │                              │
//!       │ settle (S)                   │ settle (S or T)
//!       ▼                              ▼
//!   (S, e+1, –)                   (S, e+1, –)          from both also, by S: (S, e+1, –, ended or lost)
//!
//!   (T, e, –, lost) ── recover (whoever has a copy, told to by a person) ──► (N, e+1, –)
//!
//!   (S, e, –) ── freeze (S) ──► (S, e+1, –, frozen in a file) ── thaw (whoever has that file) ──► (N, e+2, –)
//! ```
//!
//! Each epoch has one owner, and in it a record goes at most from "no move" to one move. So all records that a
//! process ever has are in one order ([`Record::version`]), and an answer that comes late is known to be old.
//! That is why answers need no numbers: a repeated swap recognises its own success by the record, and so does a
//! node that was started again.
//!
//! What a registry does is [`Swap::judge`], a pure function: the stores of `node` carry it out in a transaction.

use std::fmt;

use serde::{Deserialize, Serialize};
use sterna_process::{Epoch, ProcessId};

use crate::id::{Grant, GrantSeal, MoveId, NodeId};

/// What the registry knows of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The only node that may run it.
    pub owner: NodeId,
    /// How often this record was decided: by a change of owner, or by settling that there is none.
    pub epoch: Epoch,
    /// The move that the owner has declared.
    pub intent: Option<Intent>,
    /// Whether there is still a process.
    pub life: Life,
}

/// A declared move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Which attempt.
    pub move_id: MoveId,
    /// Where to.
    pub target: NodeId,
    /// By what the registry recognises the source's grant.
    pub seal: GrantSeal,
}

/// Whether a process is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// It runs, or stands still in a move.
    Alive,
    /// It has ended by itself, or was killed.
    Ended,
    /// Its owner's runner died, and it with it, as only the owner says; or its owner was removed from the cluster, as a user
    /// says. Silence never means this.
    Lost,
    /// It is in a file and nowhere else. The seal is of the grant that [the file](Grant::of_file) gives: who has
    /// the file goes on from it, one time. Older files of the same process have another one.
    Frozen(GrantSeal),
}

/// The place of a record in the order of all records of its process: newer ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(Epoch, bool);

impl Version {
    /// The epoch of the record.
    pub(crate) const fn epoch(self) -> Epoch {
        self.0
    }
}

impl Record {
    /// Of a process that `owner` has just started.
    #[must_use]
    pub const fn first(owner: NodeId) -> Self {
        Self::owned(owner, Epoch::FIRST)
    }

    /// Of a process that `owner` runs in `epoch`, with no move declared.
    #[must_use]
    pub const fn owned(owner: NodeId, epoch: Epoch) -> Self {
        Self {
            owner,
            epoch,
            intent: None,
            life: Life::Alive,
        }
    }

    /// Its place in the order of all records of this process.
    #[must_use]
    pub const fn version(&self) -> Version {
        Version(self.epoch, self.intent.is_some())
    }

    /// With a move declared.
    #[must_use]
    pub const fn declared(self, intent: Intent) -> Self {
        Self {
            intent: Some(intent),
            ..self
        }
    }

    /// With the target as the owner; `None` if no move is declared.
    #[must_use]
    pub fn committed(self) -> Option<Self> {
        Some(Self::owned(self.intent?.target, self.epoch.next()?))
    }

    /// With the same owner, and no move that could still commit.
    #[must_use]
    pub fn settled(self) -> Option<Self> {
        self.closed(Life::Alive)
    }

    /// The same, and what became of the process. `None` only after the last epoch, which no process reaches.
    #[must_use]
    pub fn closed(self, life: Life) -> Option<Self> {
        Some(Self {
            life,
            ..Self::owned(self.owner, self.epoch.next()?)
        })
    }

    /// Of a lost or frozen process, with the node that goes on from a copy or from the file.
    #[must_use]
    pub fn recovered(self, owner: NodeId) -> Option<Self> {
        Some(Self::owned(owner, self.epoch.next()?))
    }

    /// Whether `by` may turn this record into `new`.
    fn allows(&self, new: &Self, by: NodeId, grant: Option<&Grant>) -> bool {
        let owner = by == self.owner;
        let next = |record: Option<Self>| record.as_ref() == Some(new);
        match (self.life, self.intent) {
            (Life::Ended, _) => false,
            (Life::Lost, _) => next(self.recovered(by)),
            (Life::Frozen(seal), _) => {
                grant.is_some_and(|grant| grant.seal() == seal) && next(self.recovered(by))
            }
            (Life::Alive, None) => {
                let declares = new
                    .intent
                    .is_some_and(|intent| intent.target != by && *new == self.declared(intent));
                owner && (declares || self.closes_to(new))
            }
            (Life::Alive, Some(intent)) => {
                let granted = grant.is_some_and(|grant| grant.seal() == intent.seal);
                owner && self.closes_to(new)
                    || by == intent.target
                        && (next(self.settled()) || granted && next(self.committed()))
            }
        }
    }

    fn closes_to(&self, new: &Self) -> bool {
        self.closed(new.life).as_ref() == Some(new)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {}", self.owner, self.epoch)?;
        match &self.intent {
            Some(intent) => write!(f, ", {} to {}", intent.move_id, intent.target)?,
            None => f.write_str(", no move")?,
        }
        match self.life {
            Life::Alive => f.write_str(")"),
            Life::Ended => f.write_str(", ended)"),
            Life::Lost => f.write_str(", lost)"),
            Life::Frozen(seal) => write!(f, ", frozen in {seal})"),
        }
    }
}

/// A request to the registry: if the record is still `expected`, it becomes `new`.
///
/// The answer to it, lost or not, is the record as it is afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swap {
    /// Whose record.
    pub process: ProcessId,
    /// What it must be.
    pub expected: Record,
    /// What it becomes.
    pub new: Record,
    /// The source's grant, if this is a commit; the file's, if a process is thawed.
    pub grant: Option<Grant>,
}

/// What comes of a swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The new record is to be written.
    Write,
    /// Nothing is to be done: the record is what was asked for, from an earlier try, or is something else.
    Keep,
}

/// A swap that its author may not make, whatever the record is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {by} may not turn the record {from} into {to}")]
pub struct SwapForbidden {
    /// Who wanted to.
    pub by: NodeId,
    /// The record.
    pub from: Box<Record>,
    /// What it was to become.
    pub to: Box<Record>,
}

impl Swap {
    /// What a registry does with a swap that the authenticated node `by` asks for, when the record is
    /// `current`. Comparing and writing must be one step.
    ///
    /// # Errors
    /// If the node has no right to this change.
    pub fn judge(&self, current: &Record, by: NodeId) -> Result<Verdict, SwapForbidden> {
        if current != &self.expected {
            return Ok(Verdict::Keep);
        }
        if !current.allows(&self.new, by, self.grant.as_ref()) {
            return Err(SwapForbidden {
                by,
                from: Box::new(*current),
                to: Box::new(self.new),
            });
        }
        Ok(Verdict::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: NodeId = NodeId::from_bytes([1; 32]);
    const T: NodeId = NodeId::from_bytes([2; 32]);
    const U: NodeId = NodeId::from_bytes([3; 32]);
    const GRANT: Grant = Grant::from_bytes([4; 16]);

    /// In a file that gives the grant.
    fn frozen() -> Life {
        Life::Frozen(GRANT.seal())
    }

    /// In another one.
    fn frozen_otherwise() -> Life {
        Life::Frozen(Grant::from_bytes([9; 16]).seal())
    }

    fn intent(target: NodeId) -> Intent {
        Intent {
            move_id: MoveId::from_bytes([5; 16]),
            target,
            seal: GRANT.seal(),
        }
    }

    fn judge(from: Record, to: Record, by: NodeId, grant: Option<Grant>) -> bool {
        let swap = Swap {
            process: ProcessId::from_bytes([0; 16]),
            expected: from,
            new: to,
            grant,
        };
        matches!(swap.judge(&from, by), Ok(Verdict::Write))
    }

    /// Every record that is near: all that any rule could write, and some that none may.
    fn records() -> Vec<Record> {
        let mut records = Vec::new();
        for owner in [S, T, U] {
            for epoch in [6, 7, 8] {
                for life in [
                    Life::Alive,
                    Life::Ended,
                    Life::Lost,
                    frozen(),
                    frozen_otherwise(),
                ] {
                    for intent in [None, Some(intent(S)), Some(intent(T)), Some(intent(U))] {
                        records.push(Record {
                            owner,
                            epoch: Epoch(epoch),
                            intent,
                            life,
                        });
                    }
                }
            }
        }
        records
    }

    #[test]
    fn whatever_is_allowed_makes_the_version_grow() {
        for from in records() {
            for to in records() {
                for by in [S, T, U] {
                    if judge(from, to, by, Some(GRANT)) {
                        assert!(to.version() > from.version(), "{from} to {to} by {by}");
                    }
                }
            }
        }
    }

    /// All that may become of a record, by whom, with and without the grant.
    #[track_caller]
    fn check(from: Record, mut expected: Vec<(NodeId, Record, bool)>) {
        for to in records() {
            for by in [S, T, U] {
                for granted in [false, true] {
                    let found = judge(from, to, by, granted.then_some(GRANT));
                    let rule = expected
                        .iter()
                        .any(|rule| rule.0 == by && rule.1 == to && (granted || !rule.2));
                    assert_eq!(found, rule, "{from} to {to} by {by}, granted: {granted}");
                }
            }
        }
        expected.retain(|(_, to, _)| !records().contains(to));
        assert_eq!(expected, [], "rules about records that were not tried");
    }

    #[test]
    fn only_the_owner_changes_a_record_at_rest() {
        let from = Record::owned(S, Epoch(7));
        let closed = |life| Record {
            life,
            ..Record::owned(S, Epoch(8))
        };
        check(
            from,
            vec![
                (S, from.declared(intent(T)), false),
                (S, from.declared(intent(U)), false),
                (S, closed(Life::Alive), false),
                (S, closed(Life::Ended), false),
                (S, closed(Life::Lost), false),
                (S, closed(frozen()), false),
                (S, closed(frozen_otherwise()), false),
            ],
        );
    }

    #[test]
    fn a_declared_move_is_committed_by_its_target_alone_and_only_with_the_grant() {
        let from = Record::owned(S, Epoch(7)).declared(intent(T));
        let closed = |life| Record {
            life,
            ..Record::owned(S, Epoch(8))
        };
        check(
            from,
            vec![
                (S, closed(Life::Alive), false),
                (S, closed(Life::Ended), false),
                (S, closed(Life::Lost), false),
                (S, closed(frozen()), false),
                (S, closed(frozen_otherwise()), false),
                (T, closed(Life::Alive), false),
                (T, Record::owned(T, Epoch(8)), true),
            ],
        );
    }

    #[test]
    fn what_is_lost_can_be_recovered_and_what_has_ended_cannot() {
        let closed = |life| Record {
            life,
            ..Record::owned(S, Epoch(7))
        };
        let recovered = |by| (by, Record::owned(by, Epoch(8)), false);
        check(
            closed(Life::Lost),
            vec![recovered(S), recovered(T), recovered(U)],
        );
        check(closed(Life::Ended), vec![]);
    }

    #[test]
    fn what_is_frozen_goes_on_at_whoever_has_that_file() {
        let closed = |life| Record {
            life,
            ..Record::owned(S, Epoch(7))
        };
        let thawed = |by| (by, Record::owned(by, Epoch(8)), true);
        check(closed(frozen()), vec![thawed(S), thawed(T), thawed(U)]);
        check(closed(frozen_otherwise()), vec![]);
    }

    #[test]
    fn the_last_epoch_has_no_next() {
        let last = Record::owned(S, Epoch(u64::MAX)).declared(intent(T));
        assert_eq!(last.committed(), None);
        assert_eq!(last.settled(), None);
    }
}
