//! [`RunQueue`]: the threads of one worker that are ready.
//!
//! Urgent threads come first. Then the slot: a thread that was just woken runs next, so that a value is handed over
//! while it is in the cache; after [`SLOT_RUNS_MAX`] such turns in a row the others get theirs. Then everybody in the
//! order of coming, and background threads when nobody else is ready. If there are groups, they share out by virtual
//! run time instead of the order of coming, and there is no slot.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::group::{GroupState, clock};
use crate::record::Record;
use crate::spawn::Priority;

/// Turns in a row that the slot gets while others wait.
const SLOT_RUNS_MAX: u32 = 16;
/// One of so many turns goes to background threads even if others are ready.
const BACKGROUND_EVERY: u32 = 1024;

#[derive(Default)]
pub(super) struct RunQueue {
    urgent: VecDeque<Arc<Record>>,
    slot: Option<Arc<Record>>,
    slot_runs: u32,
    normal: VecDeque<Arc<Record>>,
    background: VecDeque<Arc<Record>>,
    turns: u32,
    shares: Shares,
    /// In place of the order of coming, for tests: the state of a generator of numbers.
    shuffle: Option<u64>,
}

/// Ready threads of groups. Empty and idle until the first thread of a group comes.
#[derive(Default)]
struct Shares {
    entries: Vec<Entry>,
    /// Virtual time of the threads without a group, and nanoseconds at which the running thread began.
    rest: u64,
    began: u64,
    /// Virtual time of who ran last: the floor for who comes back from idleness.
    floor: u64,
    number: u64,
}

struct Entry {
    group: Arc<GroupState>,
    /// By run time of the thread, then order of coming.
    threads: BTreeMap<(u64, u64), Arc<Record>>,
    floor: u64,
}

/// What there is to run.
pub(super) enum Pick {
    Thread(Arc<Record>),
    Nothing,
    /// Only groups over their cap, until this time of [`clock`].
    Throttled(u64),
}

impl RunQueue {
    /// Of a worker whose threads run in an order made from a number, if there is one, instead of in that of coming.
    pub(super) fn new(shuffle: Option<u64>) -> Self {
        Self {
            shuffle,
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.urgent.is_empty()
            && self.slot.is_none()
            && self.normal.is_empty()
            && self.background.is_empty()
            && self
                .shares
                .entries
                .iter()
                .all(|entry| entry.threads.is_empty())
    }

    /// A thread that waited for something which has come.
    #[inline]
    pub(super) fn push_woken(&mut self, record: Arc<Record>) {
        if record.priority != Priority::Normal || self.sharing() || record.group.is_some() {
            return self.push(record);
        }
        if let Some(before) = self.slot.replace(record) {
            self.normal.push_back(before);
        }
    }

    /// A thread that is new or has yielded.
    #[inline]
    pub(super) fn push(&mut self, record: Arc<Record>) {
        match record.priority {
            Priority::Urgent => self.urgent.push_back(record),
            Priority::Background => self.background.push_back(record),
            Priority::Normal if record.group.is_some() => self.shares.push(record),
            Priority::Normal => {
                if self.sharing() && self.normal.is_empty() {
                    self.shares.rest = self.shares.rest.max(self.shares.floor);
                }
                self.normal.push_back(record);
            }
        }
    }

    /// Whether run times must be measured.
    #[inline]
    pub(super) fn sharing(&self) -> bool {
        !self.shares.entries.is_empty()
    }

    /// Who will probably be next after the one that was taken.
    #[inline]
    pub(super) fn ahead(&self) -> Option<&Record> {
        self.normal.front().map(|record| &**record)
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Pick {
        if let Some(record) = self.urgent.pop_front() {
            return Pick::Thread(record);
        }
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(BACKGROUND_EVERY)
            && let Some(record) = self.background.pop_front()
        {
            return Pick::Thread(record);
        }
        let found = if self.sharing() {
            match self.pop_share() {
                Pick::Nothing => None,
                pick => return pick,
            }
        } else {
            self.pop_in_order()
        };
        match found.or_else(|| self.background.pop_front()) {
            Some(record) => Pick::Thread(record),
            None => Pick::Nothing,
        }
    }

    #[inline]
    fn pop_in_order(&mut self) -> Option<Arc<Record>> {
        if self.shuffle.is_some() {
            return self.pop_shuffled();
        }
        if self.slot.is_some() && (self.slot_runs < SLOT_RUNS_MAX || self.normal.is_empty()) {
            self.slot_runs += 1;
            return self.slot.take();
        }
        self.slot_runs = 0;
        self.normal.pop_front()
    }

    #[cold]
    fn pop_shuffled(&mut self) -> Option<Arc<Record>> {
        self.normal.extend(self.slot.take());
        if self.normal.is_empty() {
            // How often a worker looks in vain depends on time.
            return None;
        }
        let state = self.shuffle.as_mut()?;
        // splitmix64
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = *state;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let at = (number ^ (number >> 31)) % self.normal.len() as u64;
        self.normal.swap_remove_back(at as usize)
    }

    /// The thread `ran` leaves: its group pays.
    pub(super) fn charge(&mut self, ran: Option<&Record>) {
        let now = clock();
        let time = now.saturating_sub(self.shares.began);
        self.shares.began = now;
        let Some(record) = ran else { return };
        record.add_run_time(time);
        match &record.group {
            Some(group) => group.charge(time, now),
            None => self.shares.rest += time,
        }
    }

    fn pop_share(&mut self) -> Pick {
        if let Some(record) = self.slot.take() {
            self.normal.push_back(record);
        }
        let shares = &mut self.shares;
        let now = shares.began;
        let mut best = (!self.normal.is_empty()).then_some((shares.rest, usize::MAX));
        let mut throttled = None;
        for (at, entry) in shares.entries.iter().enumerate() {
            if entry.threads.is_empty() {
                continue;
            }
            if let Some(until) = entry.group.throttled(now) {
                throttled = Some(throttled.map_or(until, |other: u64| other.min(until)));
                continue;
            }
            let time = entry.group.virtual_time();
            if best.is_none_or(|(least, _)| time < least) {
                best = Some((time, at));
            }
        }
        let Some((time, at)) = best else {
            return throttled.map_or(Pick::Nothing, Pick::Throttled);
        };
        shares.floor = shares.floor.max(time);
        if at == usize::MAX {
            return self.normal.pop_front().map_or(Pick::Nothing, Pick::Thread);
        }
        let entry = &mut shares.entries[at];
        match entry.threads.pop_first() {
            Some(((time, _), record)) => {
                entry.floor = entry.floor.max(time);
                Pick::Thread(record)
            }
            None => Pick::Nothing,
        }
    }

    /// Forgets groups without ready threads that nobody else knows of. Without any, sharing ends.
    pub(super) fn tidy(&mut self) {
        self.shares
            .entries
            .retain(|entry| !entry.threads.is_empty() || Arc::strong_count(&entry.group) > 1);
    }
}

impl Shares {
    fn push(&mut self, record: Arc<Record>) {
        let Some(group) = &record.group else { return };
        if self.entries.is_empty() {
            self.began = clock();
        }
        let known = self
            .entries
            .iter()
            .position(|entry| Arc::ptr_eq(&entry.group, group));
        let at = known.unwrap_or_else(|| {
            self.entries.push(Entry {
                group: Arc::clone(group),
                threads: BTreeMap::new(),
                floor: 0,
            });
            self.entries.len() - 1
        });
        let entry = &mut self.entries[at];
        if entry.threads.is_empty() {
            entry.group.catch_up(self.floor.saturating_sub(CREDIT));
        }
        self.number += 1;
        let time = record.run_time().max(entry.floor.saturating_sub(CREDIT));
        entry.threads.insert((time, self.number), record);
    }
}

/// How far behind, in nanoseconds, who comes back from idleness may start: enough that a short nap costs nothing.
const CREDIT: u64 = 5_000_000;
