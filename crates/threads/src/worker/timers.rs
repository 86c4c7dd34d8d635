//! [`Timers`]: when to wake which thread of one worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::record::Record;

/// By time, then by id of the thread, which waits for one deadline at a time.
#[derive(Default)]
pub(super) struct Timers(BTreeMap<(Instant, u64), Arc<Record>>);

impl Timers {
    pub(super) fn insert(&mut self, deadline: Instant, record: Arc<Record>) {
        self.0.insert((deadline, record.id), record);
    }

    pub(super) fn remove(&mut self, deadline: Instant, id: u64) {
        self.0.remove(&(deadline, id));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// One thread whose time has come.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Arc<Record>> {
        let first = self.0.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
