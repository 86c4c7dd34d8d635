//! Writes down that a process of this node is no more, or that it stays after all: [`Closing`].
//!
//! ```text
//!   (me, e, –)       ──► (me, e+1, –, lost)      its runner died, or it ended: without a move
//!   (me, e, move→T)  ──► (me, e+1, –, lost)      the same, left over by a service that died: not at once, since
//!                                                the target may have all of it and commit
//!   (me, e, –)       ──► (me, e+1, –)            held for a file by a service that died: what that may still have
//!                                                written is refused from now on, and it runs on
//! ```

use sterna_process::ProcessId;

use crate::action::Notice;
use crate::record::{Life, Record, Swap};
use crate::time::{Repeat, Time};
use crate::turn::Turn;

/// A record that is being closed. It goes on until the registry answers.
#[derive(Debug)]
pub(crate) struct Closing {
    process: ProcessId,
    seen: Record,
    life: Life,
    wait_until: Option<Time>,
    repeat: Option<Repeat>,
    over: bool,
    runs_on: bool,
}

impl Closing {
    /// Begins to turn `record`, of which this node is the owner, into one that says `life`.
    pub(crate) fn begin(
        turn: &mut Turn<'_>,
        process: ProcessId,
        record: Record,
        life: Life,
    ) -> Self {
        let rescue = record.intent.is_some() && life == Life::Lost;
        let mut closing = Self {
            process,
            seen: record,
            life,
            wait_until: rescue.then(|| turn.now + turn.limits.commit_within),
            repeat: None,
            over: false,
            runs_on: false,
        };
        if !rescue {
            closing.write(turn);
        }
        closing
    }

    pub(crate) const fn is_over(&self) -> bool {
        self.over
    }

    /// The record by which the process runs on here.
    pub(crate) fn runs_on(&self) -> Option<Record> {
        (self.over && self.runs_on).then_some(self.seen)
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.wait_until.or(self.repeat.map(|repeat| repeat.at()))
    }

    pub(crate) fn timeout(&mut self, turn: &mut Turn<'_>) {
        if self.wait_until.is_some_and(|until| turn.now >= until) {
            self.wait_until = None;
            self.write(turn);
        } else if let Some(repeat) = &mut self.repeat
            && repeat.is_due(turn.now, turn.limits)
        {
            self.swap(turn);
        }
    }

    pub(crate) fn record(&mut self, turn: &mut Turn<'_>, record: Option<Record>) {
        let Some(record) = record else {
            self.over = true;
            return;
        };
        if record.version() <= self.seen.version() {
            // Closed already, in this very epoch: it was only to be gone on with here.
            self.over = record.version() == self.seen.version() && record.life != Life::Alive;
            return;
        }
        let (before, process) = (self.seen, self.process);
        self.seen = record;
        if record.owner != turn.node {
            self.over = true; // the target had all of it, and committed
        } else if record.life != Life::Alive {
            self.over = true;
            if record.life == Life::Lost && Some(record) == before.closed(Life::Lost) {
                let epoch = record.epoch;
                turn.notify(Notice::Lost { process, epoch });
            }
        } else if self.life == Life::Alive && Some(record) == before.settled() {
            (self.over, self.runs_on) = (true, true);
            turn.resume(process, record.epoch);
        } else if self.wait_until.is_none() || record.intent.is_none() {
            self.wait_until = None;
            self.write(turn);
        }
    }

    fn write(&mut self, turn: &mut Turn<'_>) {
        self.repeat = Some(turn.repeat());
        self.swap(turn);
    }

    fn swap(&mut self, turn: &mut Turn<'_>) {
        if let Some(new) = self.seen.closed(self.life) {
            turn.swap(Swap {
                process: self.process,
                expected: self.seen,
                new,
                grant: None,
            });
        }
    }
}
