//! What a source says to the target, the registry and its runner, and says again.

use super::Source;
use crate::action::Command;
use crate::message::{Body, Snapshot};
use crate::record::{Intent, Swap};
use crate::turn::Turn;

impl Source {
    pub(super) fn offer(&self, turn: &mut Turn<'_>) {
        if let Some(plan) = &self.plan {
            turn.send(self.target, self.attempt, Body::Offer(plan.offer.clone()));
        }
    }

    pub(super) fn declare(&self, turn: &mut Turn<'_>) {
        if let Some(plan) = &self.plan {
            turn.swap(Swap {
                process: self.attempt.process,
                expected: self.seen,
                new: self.seen.declared(Intent {
                    move_id: self.attempt.move_id,
                    target: self.target,
                    seal: plan.grant.seal(),
                }),
                grant: None,
            });
        }
    }

    pub(super) fn push(&self, turn: &mut Turn<'_>) {
        turn.command(Command::Push {
            attempt: self.attempt,
            target: self.target,
            rest: self.rounds.rest(turn.now, turn.limits),
        });
    }

    pub(super) fn grant(&self, turn: &mut Turn<'_>) {
        if let (Some(plan), Some(size)) = (&self.plan, self.size) {
            let snapshot = Snapshot {
                grant: plan.grant,
                size,
            };
            turn.send(self.target, self.attempt, Body::State(snapshot));
        }
    }

    pub(super) fn write(&self, turn: &mut Turn<'_>) {
        if let Some(new) = self.seen.closed(self.goal) {
            turn.swap(Swap {
                process: self.attempt.process,
                expected: self.seen,
                new,
                grant: None,
            });
        }
    }

    pub(super) fn ask(&self, turn: &mut Turn<'_>) {
        turn.send(self.target, self.attempt, Body::Ask);
        turn.read(self.attempt.process);
    }
}
