//! The kernel threads on which guests run.
//!
//! A guest is a task. While it computes it holds a thread, so preemption and fairness among guests are
//! the kernel's; while it waits in a host call it gives the thread back and stays on its own stack. The
//! pool has as many threads as guests compute, up to a limit; beyond it guests queue, and those that have
//! computed longest give way to them.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicIsize, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Guests that can compute at once. More would only make each of them slower.
const THREADS_MAX: usize = 128;
/// How long a guest computes before it gives way to others that queue. To give way it unwinds and is continued
/// later, which costs about as much as a move within a process.
const TURN: Duration = Duration::from_millis(200);
/// A thread without work ends after this.
const IDLE: Duration = Duration::from_secs(10);

/// What a task does around each piece of work; called on the thread that does it.
pub(crate) trait Shift: Send + Sync {
    /// It begins to compute on this thread.
    fn begin(&self);
    /// It has given the thread back.
    fn end(&self);
    /// Others queue: it is to give its thread back soon, and queue behind them. Called on another thread.
    fn give_way(&self);
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Lets those go first that queue.
pub(crate) async fn queue_again() {
    let mut queued = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut queued, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

struct Task {
    work: Mutex<Option<Work>>,
    shift: Arc<dyn Shift>,
    state: AtomicU8,
    pool: &'static Pool,
}

const IDLING: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const WOKEN: u8 = 3;

/// A pool of threads.
pub(crate) struct Pool {
    threads_max: usize,
    queue: Mutex<Queue>,
    /// The queue has become empty.
    drained: Condvar,
    /// Threads that stand still with a stopped guest: they do not count. Below zero for a moment if one
    /// is let go before it has been counted.
    parked: AtomicIsize,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Arc<Task>>,
    /// Tasks that hold a thread, since when; the longest first.
    computing: VecDeque<(Arc<Task>, Instant)>,
    threads: usize,
    /// Threads without work. The last is woken first: what the guest that it ran needs is still in its processor's caches.
    idle: Vec<Thread>,
    /// Whether a thread takes care that those that compute give way.
    turning: bool,
}

impl Pool {
    /// The process's pool.
    pub(crate) fn global() -> &'static Pool {
        static POOL: OnceLock<Pool> = OnceLock::new();
        POOL.get_or_init(|| Pool::of(THREADS_MAX))
    }

    fn of(threads_max: usize) -> Pool {
        Pool {
            threads_max,
            queue: Mutex::default(),
            drained: Condvar::new(),
            parked: AtomicIsize::new(0),
        }
    }

    /// Starts a task.
    pub(crate) fn start(
        &'static self,
        shift: Arc<dyn Shift>,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = Task {
            work: Mutex::new(Some(Box::pin(work))),
            shift,
            state: AtomicU8::new(QUEUED),
            pool: self,
        };
        self.push(Arc::new(task));
    }

    /// Says that a thread stands still from now on (or, with `false`, no longer).
    pub(crate) fn park(&self, parked: bool) {
        if parked {
            self.parked.fetch_add(1, Ordering::Relaxed);
        } else {
            self.parked.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&'static self, task: Arc<Task>) {
        let mut queue = self.queue();
        queue.tasks.push_back(task);
        if let Some(thread) = queue.idle.pop() {
            thread.unpark();
            return;
        }
        let parked = usize::try_from(self.parked.load(Ordering::Relaxed)).unwrap_or(0);
        if queue.threads >= self.threads_max + parked {
            self.take_turns(&mut queue);
            return;
        }
        let thread = thread::Builder::new().name("sterna-guest".into());
        match thread.spawn(move || self.serve()) {
            Ok(_) => queue.threads += 1,
            Err(error) => {
                // The threads there are will come to it, if there are any.
                assert!(
                    queue.threads > 0,
                    "no thread for a guest could be started: {error}"
                );
            }
        }
    }

    /// Sees to it that those that compute give way, for as long as others queue.
    fn take_turns(&'static self, queue: &mut Queue) {
        if queue.turning {
            return;
        }
        let thread = thread::Builder::new().name("sterna-turns".into());
        // Without it, those that queue wait until one that computes waits or ends.
        queue.turning = thread.spawn(move || self.turn()).is_ok();
    }

    fn turn(&self) {
        let mut queue = self.queue();
        loop {
            let waited = self
                .drained
                .wait_timeout_while(queue, TURN, |queue| !queue.tasks.is_empty());
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            if queue.tasks.is_empty() {
                queue.turning = false;
                return;
            }
            let long = queue
                .computing
                .iter()
                .take_while(|(_, since)| since.elapsed() >= TURN);
            let long: Vec<_> = long
                .map(|(task, _)| task.clone())
                .take(queue.tasks.len())
                .collect();
            drop(queue);
            for task in long {
                task.shift.give_way();
            }
            queue = self.queue();
        }
    }

    fn serve(&'static self) {
        let mut queue = self.queue();
        loop {
            if let Some(task) = queue.tasks.pop_front() {
                queue.computing.push_back((task.clone(), Instant::now()));
                if queue.tasks.is_empty() {
                    self.drained.notify_one();
                }
                drop(queue);
                task.run();
                queue = self.queue();
                queue.computing.retain(|(one, _)| !Arc::ptr_eq(one, &task));
                continue;
            }
            let this = thread::current();
            let is_this = |idle: &Thread| idle.id() == this.id();
            queue.idle.push(this.clone());
            let until = Instant::now() + IDLE;
            while queue.idle.iter().any(is_this) {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    queue.threads -= 1;
                    queue.idle.retain(|idle| !is_this(idle));
                    return;
                }
                drop(queue);
                thread::park_timeout(left);
                queue = self.queue();
            }
        }
    }
}

impl Task {
    fn run(self: &Arc<Self>) {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(future) = work.as_mut() else { return };
        self.state.store(RUNNING, Ordering::Release);
        let waker = Waker::from(self.clone());
        self.shift.begin();
        let mut context = Context::from_waker(&waker);
        // A panic ends the task, not the thread: it has been reported by now.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
        self.shift.end();
        match polled {
            Ok(Poll::Ready(())) | Err(_) => *work = None,
            Ok(Poll::Pending) => {
                drop(work);
                let idle = self.state.compare_exchange(
                    RUNNING,
                    IDLING,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                if idle.is_err() {
                    self.state.store(QUEUED, Ordering::Release);
                    self.pool.push(self.clone());
                }
            }
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let next = |state| match state {
            IDLING => Some(QUEUED),
            RUNNING => Some(WOKEN),
            _ => None,
        };
        let before = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        if before == Ok(IDLING) {
            self.pool.push(self.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    use super::*;

    struct Unmetered;

    impl Shift for Unmetered {
        fn begin(&self) {}

        fn end(&self) {}

        fn give_way(&self) {}
    }

    /// Computes until it is told to give way.
    #[derive(Default)]
    struct Polite(AtomicBool);

    impl Shift for Polite {
        fn begin(&self) {}

        fn end(&self) {}

        fn give_way(&self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn those_that_queue_get_their_turn() {
        let pool: &'static Pool = Box::leak(Box::new(Pool::of(2)));
        let (turns, all_turns) = mpsc::channel();
        for number in 0..5 {
            let shift = Arc::new(Polite::default());
            let (turns, told) = (turns.clone(), shift.clone());
            pool.start(shift, async move {
                for _ in 0..3 {
                    turns.send(number).unwrap();
                    while !told.0.swap(false, Ordering::Relaxed) {
                        if turns.send(usize::MAX).is_err() {
                            return;
                        }
                        thread::yield_now();
                    }
                    queue_again().await;
                }
            });
        }
        let mut seen = [0; 5];
        while seen.iter().any(|&turns| turns < 2) {
            let turn = all_turns.recv().unwrap();
            if let Some(turns) = seen.get_mut(turn) {
                *turns += 1;
            }
        }
    }

    #[test]
    fn a_panic_ends_its_task_and_no_other() {
        let pool: &'static Pool = Box::leak(Box::new(Pool::of(THREADS_MAX)));
        let (done, all_done) = mpsc::channel();
        for number in 0..10 {
            let done = done.clone();
            pool.start(Arc::new(Unmetered), async move {
                assert!(number % 2 == 0, "as it should");
                done.send(number).unwrap();
            });
        }
        drop(done);
        let mut numbers: Vec<i32> = all_done.iter().collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 2, 4, 6, 8]);
    }
}
