//! [`Worker`]: one kernel thread that runs user threads. A user-level runtime has one, a hybrid one several.
//!
//! There is no scheduler to switch to: the thread that stops picks the next one and switches to it directly, and if
//! nobody is ready, it is on its stack that the worker sleeps. A thread that ends goes on with the next one that has
//! not started, on the same stack. [`RunQueue`] says who is next; `run` holds the switches.
//!
//! A thread that has started stays with its worker, so nothing here but the [`Inbox`] is shared.

mod inbox;
mod queue;
mod run;
mod timers;

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sterna_sys::stacks::{Context, Slab, Stack};

pub(crate) use inbox::Inbox;
pub(crate) use run::make_ready;

use crate::here;
use crate::poller::Events;
use crate::primitives::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use crate::record::{Place, Record};
use crate::ring::Ring;
use crate::runtime::Home;
use queue::{Pick, RunQueue};
use timers::Timers;

/// Turns between two looks at timers and descriptors adapt so that looks are about this far apart.
const POLL_INTERVAL: Duration = Duration::from_micros(100);
const POLL_TURNS_MAX: u32 = 4096;
/// Turns before anything is known of their length.
const TURNS: u32 = 64;
/// Reads and writes that need not wait, between two turns of others.
const CALLS_MAX: u32 = 128;
/// Threads stolen at once.
const STEAL_MAX: usize = 64;

/// How the workers of a runtime are to be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Whether files go through io_uring.
    pub(crate) io_uring: bool,
    /// What the order of threads is made from, if not their coming.
    pub(crate) schedule_seed: Option<u64>,
}

/// What the workers of one runtime share.
pub(crate) struct Shared {
    pub(crate) inboxes: Vec<Arc<Inbox>>,
    pub(crate) slab: Arc<Slab>,
    options: Options,
    closing: AtomicBool,
    /// Workers that sleep or are about to.
    sleepers: AtomicUsize,
    next: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(workers: usize, slab: Arc<Slab>, options: Options) -> std::io::Result<Self> {
        let inboxes = (0..workers).map(|_| Inbox::new().map(Arc::new));
        Ok(Self {
            inboxes: inboxes.collect::<Result<_, _>>()?,
            slab,
            options,
            closing: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
        })
    }

    /// A new thread. Given back if the runtime has ended.
    pub(crate) fn admit(self: &Arc<Self>, record: Arc<Record>) -> Result<(), Arc<Record>> {
        here::with_worker(|worker| match worker {
            Some(worker) if Arc::ptr_eq(&worker.shared, self) => {
                worker.spawn(record);
                Ok(())
            }
            _ => self.admit_from_outside(record),
        })
    }

    fn admit_from_outside(&self, record: Arc<Record>) -> Result<(), Arc<Record>> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.inboxes.len();
        let inbox = &self.inboxes[at];
        if self.inboxes.len() == 1 {
            return inbox.deliver(record);
        }
        inbox.offer_from_outside(record)?;
        if !inbox.rouse() {
            // Its worker may be held: then another one comes for it.
            self.rouse_one();
        }
        Ok(())
    }

    /// Cancels all threads. Workers end when their last one has.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        for inbox in &self.inboxes {
            inbox.set_sleeping(false);
            inbox.poller.interrupt();
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Wakes a worker for something that any can take, which was put where they look before.
    pub(crate) fn rouse_one(&self) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            self.inboxes.iter().any(|inbox| inbox.rouse());
        }
    }

    /// Puts a new thread of the worker `own` where it will run: there, or with a worker that has nothing to do and fewer
    /// new threads. Who wakes late would find that a burst has started and stays where it is.
    pub(crate) fn place(&self, own: &Inbox, record: Arc<Record>) {
        let count = own.unstarted_count();
        let others = if count == 0 { &[] } else { &*self.inboxes };
        let fewer = others
            .iter()
            .filter(|inbox| inbox.is_idle() && inbox.unstarted_count() < count);
        match fewer.min_by_key(|inbox| inbox.unstarted_count()) {
            Some(other) => {
                other.offer(record);
                if !other.rouse() {
                    self.rouse_one();
                }
            }
            None => {
                own.offer(record);
                self.rouse_one();
            }
        }
    }

    /// Has a worker sleep by `poll`, unless `is_busy` finds something to do now that everybody can see that it is about
    /// to: who puts something there from now on wakes it.
    pub(crate) fn sleep(&self, inbox: &Inbox, is_busy: impl FnOnce() -> bool, poll: impl FnOnce()) {
        inbox.set_idle(true);
        inbox.set_sleeping(true);
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !is_busy() {
            poll();
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        inbox.set_sleeping(false);
        self.awake(inbox);
    }

    /// A worker goes on, or begins.
    pub(crate) fn awake(&self, inbox: &Inbox) {
        inbox.set_idle(false);
        fence(Ordering::SeqCst);
        if inbox.has_unstarted() {
            // Others have left it alone, and may not come to it while this one does something else.
            self.rouse_one();
        }
    }
}

/// See the module.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) home: Home,
    pub(crate) inbox: Arc<Inbox>,
    number: usize,
    queue: RefCell<RunQueue>,
    timers: RefCell<Timers>,
    /// Made for the first call that needs it; `None` in it if there is to be none or the kernel has none.
    ring: OnceCell<Option<Ring>>,
    live: RefCell<Live>,
    /// Stacks of the runtime's slab, ready for use.
    stacks: RefCell<Vec<Stack>>,
    /// The stack of a thread that ended, until the switch away from it is done.
    retired: Cell<Option<Stack>>,
    /// The reference by which the running thread was taken from a queue, until it is put into another.
    spare: Cell<Option<Arc<Record>>>,
    /// Stands for the worker itself, while no thread runs.
    base: Arc<Record>,
    base_context: Cell<Context>,
    turns_left: Cell<u32>,
    turns: Cell<u32>,
    polled: Cell<Instant>,
    events: RefCell<Events>,
    /// Whether the threads of this worker were told that the runtime closes.
    told: Cell<bool>,
    /// Whether timers and descriptors wake now: those run in the order of waking.
    looking: Cell<bool>,
    calls_left: Cell<u32>,
    /// Threads that wait although they were asked to end, since a sibling that waits, too, unwinds: see
    /// [`Ending`](crate::cancel::Ending).
    postponed: RefCell<Vec<Arc<Record>>>,
    /// Whose turn it is: a thread that has not started, or one that has.
    newcomers_first: Cell<bool>,
}

/// Threads of a worker that have started and not ended: what keeps them alive, and who is cancelled at the end.
#[derive(Default)]
struct Live {
    records: Vec<Option<Arc<Record>>>,
    free: Vec<usize>,
}

impl Live {
    fn insert(&mut self, record: Arc<Record>) -> usize {
        match self.free.pop() {
            Some(at) => {
                self.records[at] = Some(record);
                at
            }
            None => {
                self.records.push(Some(record));
                self.records.len() - 1
            }
        }
    }

    fn remove(&mut self, at: usize) -> Option<Arc<Record>> {
        self.free.push(at);
        self.records[at].take()
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.records.len()
    }
}

/// Who runs next.
enum Next {
    Thread(Arc<Record>),
    /// The worker's own end.
    Stop,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: usize) -> Self {
        let seed = shared.options.schedule_seed;
        // Workers differ.
        let seed = seed.map(|seed| seed.wrapping_add(number as u64));
        Self {
            inbox: Arc::clone(&shared.inboxes[number]),
            number,
            home: Home::Workers(Arc::clone(&shared)),
            shared,
            queue: RefCell::new(RunQueue::new(seed)),
            timers: RefCell::default(),
            ring: OnceCell::new(),
            live: RefCell::default(),
            stacks: RefCell::default(),
            retired: Cell::new(None),
            spare: Cell::new(None),
            base: Record::foreign(),
            base_context: Cell::new(Context::NONE),
            turns_left: Cell::new(1),
            turns: Cell::new(TURNS),
            polled: Cell::new(Instant::now()),
            events: RefCell::default(),
            told: Cell::new(false),
            looking: Cell::new(false),
            calls_left: Cell::new(CALLS_MAX),
            postponed: RefCell::default(),
            newcomers_first: Cell::new(false),
        }
    }

    /// What calls to files go through, if the kernel has it.
    pub(crate) fn ring(&self) -> Option<&Ring> {
        let make = || {
            self.shared
                .options
                .io_uring
                .then(|| Ring::new(&self.inbox.poller))
        };
        self.ring.get_or_init(|| make().flatten()).as_ref()
    }

    fn reap(&self) {
        if let Some(Some(ring)) = self.ring.get() {
            ring.reap();
        }
    }

    /// A new thread of the running one.
    fn spawn(&self, record: Arc<Record>) {
        if self.shared.inboxes.len() == 1 || self.queue.borrow().sharing() {
            self.queue.borrow_mut().push(record);
        } else {
            self.shared.place(&self.inbox, record);
        }
    }

    /// A thread of this worker was woken.
    #[inline]
    fn ready(&self, record: Arc<Record>) {
        let mut queue = self.queue.borrow_mut();
        if self.looking.get() {
            queue.push(record);
        } else {
            queue.push_woken(record);
        }
    }

    /// See [`here::record_to_queue`].
    #[inline]
    pub(crate) fn take_spare(&self) -> Option<Arc<Record>> {
        self.spare.take()
    }

    /// Whether no thread runs, but the worker itself.
    fn is_base(&self, record: &Record) -> bool {
        std::ptr::eq(record, Arc::as_ptr(&self.base))
    }

    /// Lets the others have their turn.
    #[inline]
    pub(crate) fn yield_now(&self) {
        if here::with_record(|record| self.is_base(record)) {
            return;
        }
        let record = here::record_to_queue();
        let from = run::context_of(&record);
        self.queue.borrow_mut().push(record);
        self.resume(from);
    }

    /// The running thread made a call that did not have to wait. Who never waits gives way now and then all the same.
    pub(crate) fn count_call(&self) {
        let left = self.calls_left.get() - 1;
        self.calls_left.set(left);
        if left == 0 {
            self.calls_left.set(CALLS_MAX);
            self.yield_now();
        }
    }

    /// Stops the running thread: see [`here::block`].
    #[inline]
    pub(crate) fn block(&self, deadline: Option<Instant>) {
        here::with_record(|record| {
            if self.is_base(record) {
                return self.base.block_kernel(deadline);
            }
            if !record.begin_block() {
                return;
            }
            if record.cancel_is_new() && std::thread::panicking() {
                self.postponed.borrow_mut().push(here::record());
            }
            let from = run::context_of(record);
            match deadline {
                None => {
                    self.spare.set(None); // among the live ones it is kept
                    self.resume(from);
                }
                Some(deadline) => {
                    let own = here::record_to_queue();
                    self.timers.borrow_mut().insert(deadline, own);
                    self.resume(from);
                    self.timers.borrow_mut().remove(deadline, record.id);
                }
            }
        });
    }

    /// Who runs next. Sleeps if nobody is ready.
    #[inline]
    fn next(&self) -> Next {
        if self.queue.borrow().sharing() {
            self.charge();
        }
        loop {
            let left = self.turns_left.get() - 1;
            self.turns_left.set(left);
            if left == 0 {
                self.look_around();
            }
            if self.inbox.has_mail() {
                self.read_mail();
            }
            let until = match self.pick() {
                Pick::Thread(record) => return Next::Thread(record),
                Pick::Throttled(until) => Some(until),
                Pick::Nothing => None,
            };
            if self.remind() {
                continue;
            }
            if self.may_stop() {
                return Next::Stop;
            }
            self.sleep(until);
        }
    }

    #[cold]
    fn charge(&self) {
        here::with_record(|record| {
            let mut queue = self.queue.borrow_mut();
            let is_thread = !self.is_base(record);
            queue.charge(is_thread.then_some(record));
        });
    }

    #[inline]
    fn pick(&self) -> Pick {
        if self.shared.inboxes.len() == 1 {
            return self.queue.borrow_mut().pop();
        }
        // New threads and started ones take turns, so that neither starves the other.
        let newcomers_first = self.newcomers_first.replace(!self.newcomers_first.get());
        if (newcomers_first || self.queue.borrow().sharing())
            && let Some(record) = self.inbox.take_unstarted()
        {
            if record.group.is_none() && record.priority == Default::default() {
                return Pick::Thread(record);
            }
            self.queue.borrow_mut().push(record);
        }
        match self.queue.borrow_mut().pop() {
            Pick::Nothing => {}
            pick => return pick,
        }
        if let Some(record) = self.inbox.take_unstarted() {
            return Pick::Thread(record);
        }
        self.steal().map_or(Pick::Nothing, Pick::Thread)
    }

    fn steal(&self) -> Option<Arc<Record>> {
        for victim in &self.shared.inboxes {
            if Arc::ptr_eq(victim, &self.inbox) {
                continue;
            }
            let mut stolen = victim.steal(STEAL_MAX);
            let first = stolen.pop_front();
            for record in stolen {
                self.inbox.offer(record);
            }
            if first.is_some() {
                return first;
            }
        }
        None
    }

    /// Descriptors and the rest, while there are threads to run. Adapts how soon it comes again.
    #[cold]
    fn look_around(&self) {
        let now = Instant::now();
        let since = now - self.polled.get();
        let turns = self.turns.get();
        if since > 2 * POLL_INTERVAL {
            let slower = since.as_nanos() / POLL_INTERVAL.as_nanos();
            self.turns.set((u128::from(turns) / slower).max(1) as u32);
        } else if since < POLL_INTERVAL / 2 {
            self.turns.set((turns * 2).min(POLL_TURNS_MAX));
        }
        if self.inbox.poller.is_watching() {
            self.poll(Some(Duration::ZERO));
        }
        self.attend(now);
    }

    fn poll(&self, timeout: Option<Duration>) {
        self.looking.set(true);
        let mut events = self.events.borrow_mut();
        self.inbox.poller.poll(timeout, &mut events);
        self.looking.set(false);
    }

    /// All but descriptors, which were just polled: answers of the ring, timers, the end of the runtime.
    fn attend(&self, now: Instant) {
        self.polled.set(now);
        self.turns_left.set(self.turns.get());
        self.looking.set(true);
        self.reap();
        self.expire(now);
        self.remind();
        self.looking.set(false);
        self.queue.borrow_mut().tidy();
        if self.shared.is_closing() && !self.told.replace(true) {
            let live: Vec<_> = self
                .live
                .borrow()
                .records
                .iter()
                .flatten()
                .cloned()
                .collect();
            for record in live {
                record.cancel();
            }
        }
    }

    /// Lets who could not know whether to end look again, now that nobody unwinds. Whether there was somebody.
    fn remind(&self) -> bool {
        let due = !self.postponed.borrow().is_empty() && !std::thread::panicking();
        if due {
            for record in self.postponed.take() {
                record.wake();
            }
        }
        due
    }

    fn expire(&self, now: Instant) {
        while !self.timers.borrow().is_empty() {
            let Some(record) = self.timers.borrow_mut().expired(now) else {
                return;
            };
            record.wake();
        }
    }

    fn read_mail(&self) {
        for record in self.inbox.take_mail() {
            self.queue.borrow_mut().push(record);
        }
    }

    fn may_stop(&self) -> bool {
        self.shared.is_closing()
            && self.told.get()
            && self.live.borrow().is_empty()
            && self.queue.borrow().is_empty()
            && !self.inbox.has_unstarted()
            && self.inbox.close()
    }

    /// Sleeps until there may be something to do. `until` is a time of the groups' clock.
    fn sleep(&self, until: Option<u64>) {
        self.inbox.note_switch(0);
        let is_busy = || {
            let all = &self.shared.inboxes;
            self.inbox.has_mail()
                || self.inbox.has_unstarted()
                || self.shared.is_closing() && (!self.told.get() || self.live.borrow().is_empty())
                || all.iter().any(|inbox| inbox.has_spoils())
        };
        self.shared.sleep(&self.inbox, is_busy, || {
            self.poll(self.time_to_sleep(until));
        });
        if self.queue.borrow().sharing() {
            // Nobody pays for the sleep.
            self.queue.borrow_mut().charge(None);
        }
        self.attend(Instant::now());
        // What follows may be slower than what was before.
        self.turns_left.set(self.turns.get().min(TURNS));
    }

    /// Until the next timer, or until a group may run again.
    fn time_to_sleep(&self, until: Option<u64>) -> Option<Duration> {
        let timer = self.timers.borrow().next();
        let timeout = timer.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let group =
            until.map(|until| Duration::from_nanos(until.saturating_sub(crate::group::clock())));
        timeout.into_iter().chain(group).min()
    }

    /// Keeps a thread among the live ones until it ends: its place there.
    fn start(&self, record: Arc<Record>) -> usize {
        if let Place::User { worker, .. } = &record.place {
            worker.store(self.number as u32, Ordering::Relaxed);
        }
        self.live.borrow_mut().insert(record)
    }
}
