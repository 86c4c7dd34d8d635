//! The kernel threads on which guests run.
//!
//! A guest is a task. While it computes it holds a thread, so preemption and fairness among guests are
//! the kernel's; while it waits in a host call it gives the thread back and stays on its own stack. The
//! pool has as many threads as guests compute, up to a limit; beyond it guests queue.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicIsize, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Guests that can compute at once. More would only make each of them slower.
const THREADS_MAX: usize = 128;
/// A thread without work ends after this.
const IDLE: Duration = Duration::from_secs(10);

/// What a task does around each piece of work; called on the thread that does it.
pub(crate) trait Shift: Send + Sync {
    /// It begins to compute on this thread.
    fn begin(&self);
    /// It has given the thread back.
    fn end(&self);
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

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
#[derive(Default)]
pub(crate) struct Pool {
    queue: Mutex<Queue>,
    ready: Condvar,
    /// Threads that stand still with a stopped guest: they do not count. Below zero for a moment if one
    /// is let go before it has been counted.
    parked: AtomicIsize,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Arc<Task>>,
    threads: usize,
    idle: usize,
}

impl Pool {
    /// The process's pool.
    pub(crate) fn global() -> &'static Pool {
        static POOL: OnceLock<Pool> = OnceLock::new();
        POOL.get_or_init(Pool::default)
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
        let enough = queue.idle >= queue.tasks.len();
        let parked = usize::try_from(self.parked.load(Ordering::Relaxed)).unwrap_or(0);
        if enough || queue.threads >= THREADS_MAX + parked {
            self.ready.notify_one();
            return;
        }
        let thread = std::thread::Builder::new().name("sterna-guest".into());
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

    fn serve(&'static self) {
        let mut queue = self.queue();
        loop {
            if let Some(task) = queue.tasks.pop_front() {
                drop(queue);
                task.run();
                queue = self.queue();
                continue;
            }
            queue.idle += 1;
            let (again, waited) = self
                .ready
                .wait_timeout(queue, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            queue = again;
            queue.idle -= 1;
            if waited.timed_out() && queue.tasks.is_empty() {
                queue.threads -= 1;
                return;
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
    use std::sync::mpsc;

    use super::*;

    struct Unmetered;

    impl Shift for Unmetered {
        fn begin(&self) {}

        fn end(&self) {}
    }

    #[test]
    fn a_panic_ends_its_task_and_no_other() {
        let pool: &'static Pool = Box::leak(Box::default());
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
