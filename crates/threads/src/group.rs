//! [`Group`]: threads that are accounted, shared out, joined and cancelled together.
//!
//! Sharing has two levels, each by virtual run time (run time divided by weight; who has had least is next): first
//! between groups, then between the threads of one. A group of one thread and a group of nine with equal weights get
//! half each. Threads without a group are one group among the others, of weight [`WEIGHT_DEFAULT`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::cancel;
use crate::record::Record;
use crate::wait::{Cancel, Line, Outcome, Waiting};

/// The weight of a group that was given none, and of all threads without a group.
pub const WEIGHT_DEFAULT: u32 = 100;
/// Smaller caps count as this one.
const CAP_MIN: f64 = 0.001;
/// A cap holds over so long.
const CAP_WINDOW: Duration = Duration::from_millis(20);

/// A group of threads. Clones mean the same group.
///
/// User-level and hybrid runtimes share out by weight and cap. Kernel threads are scheduled by the kernel, which knows
/// nothing of groups: there a group joins, cancels and counts threads only.
#[derive(Clone)]
pub struct Group(pub(crate) Arc<GroupState>);

pub(crate) struct GroupState {
    name: Box<str>,
    weight: u32,
    /// Run time per window, if it is capped.
    cap: Option<u64>,
    /// Nanoseconds that its threads ran.
    used: AtomicU64,
    /// The same, scaled by weight: never runs backwards, jumps forward when the group was idle.
    virtual_time: AtomicU64,
    /// Number of the running window, and run time used in it.
    window: Mutex<(u64, u64)>,
    cancelled: AtomicBool,
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    threads: HashMap<u64, Weak<Record>>,
    joiners: Line,
}

impl Group {
    /// A group of weight [`WEIGHT_DEFAULT`] without a cap.
    pub fn new(name: &str) -> Self {
        Self::with(name, WEIGHT_DEFAULT, None)
    }

    /// A group with a weight (at least 1) and perhaps a cap: its share of one processor that it never exceeds for long,
    /// even if nobody else wants to run. A cap is above 0; less than a thousandth counts as that, and more than 1 for each
    /// worker is none.
    ///
    /// # Panics
    /// The weight is 0, or the cap is no number above 0.
    pub fn with(name: &str, weight: u32, cap: Option<f64>) -> Self {
        assert!(
            weight > 0,
            "the weight of group {name} is 0: give it at least 1"
        );
        if let Some(share) = cap {
            assert!(
                share > 0.0,
                "the cap of group {name} is {share}: give it a share of a processor above 0, or none"
            );
        }
        Self(Arc::new(GroupState {
            name: name.into(),
            weight,
            cap: cap.map(|share| (CAP_WINDOW.as_nanos() as f64 * share.max(CAP_MIN)) as u64),
            used: AtomicU64::new(0),
            virtual_time: AtomicU64::new(0),
            window: Mutex::default(),
            cancelled: AtomicBool::new(false),
            members: Mutex::default(),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Threads that were spawned and have not ended.
    pub fn len(&self) -> usize {
        self.0.members().threads.len()
    }

    /// Whether no thread is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How long its threads have run. Counted by user-level and hybrid runtimes, up to the last switch.
    pub fn run_time(&self) -> Duration {
        Duration::from_nanos(self.0.used.load(Ordering::Relaxed))
    }

    /// Cancels all its threads, also those that will yet be spawned in it.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        let threads: Vec<_> = self.0.members().threads.values().cloned().collect();
        for record in threads.iter().filter_map(Weak::upgrade) {
            record.cancel();
        }
    }

    /// Waits until no thread is left. What they returned is for their own joiners.
    pub fn join(&self) {
        let waiting = Waiting::begin();
        {
            let mut members = self.0.members();
            if members.threads.is_empty() {
                return;
            }
            members.joiners.push(waiting.ticket(), ());
        }
        if waiting.wait(None, Cancel::May) == Outcome::Cancelled {
            self.0.members().joiners.remove(waiting);
            cancel::raise();
        }
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Group")
            .field("name", &self.0.name)
            .field("weight", &self.0.weight)
            .finish_non_exhaustive()
    }
}

impl GroupState {
    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self, record: &Arc<Record>) {
        self.members()
            .threads
            .insert(record.id, Arc::downgrade(record));
        if self.cancelled.load(Ordering::SeqCst) {
            record.cancel();
        }
    }

    pub(crate) fn leave(&self, id: u64) {
        let mut members = self.members();
        members.threads.remove(&id);
        if members.threads.is_empty() {
            members.joiners.grant_all();
        }
    }

    pub(crate) fn virtual_time(&self) -> u64 {
        self.virtual_time.load(Ordering::Relaxed)
    }

    /// A group that was idle gets no credit for it.
    pub(crate) fn catch_up(&self, floor: u64) {
        self.virtual_time.fetch_max(floor, Ordering::Relaxed);
    }

    /// Its threads ran for `ran` nanoseconds, until `now` on the runtime's clock.
    pub(crate) fn charge(&self, ran: u64, now: u64) {
        self.used.fetch_add(ran, Ordering::Relaxed);
        let scaled = ran.saturating_mul(u64::from(WEIGHT_DEFAULT)) / u64::from(self.weight);
        self.virtual_time.fetch_add(scaled, Ordering::Relaxed);
        if self.cap.is_some() {
            let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
            let number = now / CAP_WINDOW.as_nanos() as u64;
            if window.0 != number {
                // What was run beyond the cap is owed in the windows that follow.
                let budget = self.cap.unwrap_or(0).saturating_mul(number - window.0);
                *window = (number, window.1.saturating_sub(budget));
            }
            window.1 += ran;
        }
    }

    /// If the cap is used up: when to look again, on the runtime's clock.
    pub(crate) fn throttled(&self, now: u64) -> Option<u64> {
        let cap = self.cap?;
        let window = *self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let length = CAP_WINDOW.as_nanos() as u64;
        let owed = window.1 / cap;
        let free = window.0 + owed;
        (owed > 0 && now / length < free).then(|| free * length)
    }
}

/// Nanoseconds since the first call in this process: the clock of run times.
pub(crate) fn clock() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}
