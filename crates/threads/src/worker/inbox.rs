//! [`Inbox`]: the part of a worker that others may touch.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::poller::Poller;
use crate::primitives::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering, fence};
use crate::primitives::{Mutex, lock};
use crate::record::Record;

pub(crate) struct Inbox {
    /// Threads of this worker that others woke; if it is the only one, new ones from outside the runtime, too.
    mail: Mutex<Mail>,
    has_mail: AtomicBool,
    /// Threads that have not started: any worker may take them.
    unstarted: Mutex<VecDeque<Arc<Record>>>,
    unstarted_count: AtomicUsize,
    /// Whether the worker is about to sleep or sleeps.
    sleeping: AtomicBool,
    /// The same until it has woken up, and before its kernel thread has begun to run: what it was given meanwhile is not
    /// stolen.
    idle: AtomicBool,
    /// Switches so far, and the running thread's id or 0. Written by the worker only.
    switches: AtomicU64,
    running: AtomicU64,
    /// The kernel's id of the worker, 0 before it runs.
    task: AtomicI32,
    pub(crate) poller: Arc<Poller>,
}

#[derive(Default)]
struct Mail {
    records: Vec<Arc<Record>>,
    closed: bool,
}

impl Inbox {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            mail: Mutex::default(),
            has_mail: AtomicBool::new(false),
            unstarted: Mutex::default(),
            unstarted_count: AtomicUsize::new(0),
            sleeping: AtomicBool::new(false),
            idle: AtomicBool::new(true),
            switches: AtomicU64::new(0),
            running: AtomicU64::new(0),
            task: AtomicI32::new(0),
            poller: Arc::new(Poller::new()?),
        })
    }

    /// Hands the worker a thread that is ready. Given back if the worker has ended.
    pub(crate) fn deliver(&self, record: Arc<Record>) -> Result<(), Arc<Record>> {
        let mut mail = lock(&self.mail);
        if mail.closed {
            return Err(record);
        }
        mail.records.push(record);
        self.has_mail.store(true, Ordering::Release);
        drop(mail);
        self.rouse();
        Ok(())
    }

    #[inline]
    pub(crate) fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Acquire)
    }

    pub(crate) fn take_mail(&self) -> Vec<Arc<Record>> {
        let mut mail = lock(&self.mail);
        self.has_mail.store(false, Ordering::Relaxed);
        std::mem::take(&mut mail.records)
    }

    /// Nothing more from others from now on, unless something is there. Whether it is closed.
    pub(crate) fn close(&self) -> bool {
        let mut mail = lock(&self.mail);
        mail.closed = mail.records.is_empty() && !self.has_unstarted();
        mail.closed
    }

    /// As [`Self::offer`], by who does not run on a worker. Given back if the worker has ended.
    pub(crate) fn offer_from_outside(&self, record: Arc<Record>) -> Result<(), Arc<Record>> {
        let mail = lock(&self.mail);
        if mail.closed {
            return Err(record);
        }
        self.offer(record);
        Ok(())
    }

    pub(crate) fn offer(&self, record: Arc<Record>) {
        let mut unstarted = lock(&self.unstarted);
        unstarted.push_back(record);
        self.unstarted_count
            .store(unstarted.len(), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn has_unstarted(&self) -> bool {
        self.unstarted_count() > 0
    }

    pub(super) fn unstarted_count(&self) -> usize {
        self.unstarted_count.load(Ordering::Relaxed)
    }

    /// Whether others may take threads that have not started from here.
    pub(crate) fn has_spoils(&self) -> bool {
        self.has_unstarted() && !self.is_idle()
    }

    pub(crate) fn take_unstarted(&self) -> Option<Arc<Record>> {
        if !self.has_unstarted() {
            return None;
        }
        let mut unstarted = lock(&self.unstarted);
        let record = unstarted.pop_front();
        self.unstarted_count
            .store(unstarted.len(), Ordering::Relaxed);
        record
    }

    /// Half of what another worker has, at most `limit`: taken from the end that its owner comes to last. Nothing of one
    /// that wakes up for it.
    pub(crate) fn steal(&self, limit: usize) -> VecDeque<Arc<Record>> {
        if !self.has_spoils() {
            return VecDeque::new();
        }
        let mut unstarted = lock(&self.unstarted);
        let count = unstarted.len().div_ceil(2).min(limit);
        let rest = unstarted.len() - count;
        let stolen = unstarted.split_off(rest);
        self.unstarted_count
            .store(unstarted.len(), Ordering::Relaxed);
        stolen
    }

    pub(crate) fn is_sleeping(&self) -> bool {
        self.sleeping.load(Ordering::Relaxed)
    }

    pub(super) fn set_sleeping(&self, sleeping: bool) {
        // Not a store: it comes after what others have swapped, not beside it.
        self.sleeping.swap(sleeping, Ordering::AcqRel);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed)
    }

    /// By the worker itself.
    pub(super) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// The worker runs on this kernel thread.
    pub(super) fn set_task(&self) {
        let task = rustix::thread::gettid().as_raw_nonzero().get();
        self.task.store(task, Ordering::Relaxed);
    }

    /// The worker switches to a thread; 0 is none.
    #[inline]
    pub(super) fn note_switch(&self, id: u64) {
        let switches = self.switches.load(Ordering::Relaxed);
        self.switches.store(switches + 1, Ordering::Relaxed);
        self.running.store(id, Ordering::Relaxed);
    }

    /// Switches so far, and who runs, or 0.
    pub(crate) fn activity(&self) -> (u64, u64) {
        let switches = self.switches.load(Ordering::Relaxed);
        (switches, self.running.load(Ordering::Relaxed))
    }

    /// Whether the kernel says that the worker neither runs nor could.
    pub(crate) fn blocks_in_kernel(&self) -> bool {
        let task = self.task.load(Ordering::Relaxed);
        let stat = std::fs::read_to_string(format!("/proc/self/task/{task}/stat"));
        let stat = stat.unwrap_or_default();
        // After the name, which is in parentheses and may contain anything.
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        state.is_some_and(|state| state != 'R')
    }

    /// Wakes the worker if it sleeps, for something that was put where it looks before. Whether it did.
    pub(crate) fn rouse(&self) -> bool {
        fence(Ordering::SeqCst);
        let slept = self.is_sleeping() && self.sleeping.swap(false, Ordering::AcqRel);
        if slept {
            self.poller.interrupt();
        }
        slept
    }
}
