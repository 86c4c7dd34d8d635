//! [`blocking`]: calls that block in the kernel are made on kernel threads kept for that, while the user thread that
//! made them waits like for anything else. Nobody else waits with it: not its siblings, whether they have started or
//! not, and not their timers.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::here;
use crate::owned::Body;
use crate::scope::lend;

/// Calls beyond so many at once wait for each other.
const THREADS_MAX: usize = 512;
/// A kernel thread without work ends after this.
const IDLE: Duration = Duration::from_secs(10);

static POOL: Pool = Pool {
    state: Mutex::new(State {
        jobs: VecDeque::new(),
        threads: 0,
        idle: 0,
    }),
    work: Condvar::new(),
};

struct Pool {
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    jobs: VecDeque<Body<'static>>,
    threads: usize,
    idle: usize,
}

/// Makes a call that may block in the kernel, such as reading a file, looking up a name, or waiting for a lock of a
/// library, without holding up other threads. On a thread of the kernel it just calls `f`.
///
/// `f` runs on another kernel thread, so what is kept per kernel thread is that one's, and so are the thread-locals of
/// this package. The wait cannot be cancelled, since `f` may borrow from the caller.
///
/// # Panics
/// With the panic of `f`.
pub fn blocking<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    let on_worker = here::with_worker(|worker| worker.is_some());
    if on_worker {
        lend(f, |body| POOL.submit(body))
    } else {
        f()
    }
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&'static self, body: Body<'static>) {
        let mut state = self.state();
        state.jobs.push_back(body);
        if state.idle >= state.jobs.len() || state.threads >= THREADS_MAX {
            drop(state);
            self.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let builder = std::thread::Builder::new().name("blocking".to_owned());
        if builder.spawn(|| self.work()).is_err() {
            // The kernel gives no thread: the others come to it, or this one must do it itself.
            let mut state = self.state();
            state.threads -= 1;
            let own = if state.threads == 0 {
                state.jobs.pop_back()
            } else {
                None
            };
            drop(state);
            if let Some(body) = own {
                body(None);
            }
        }
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            if let Some(body) = state.jobs.pop_front() {
                drop(state);
                body(None);
                state = self.state();
                continue;
            }
            state.idle += 1;
            let (woken, waited) = self
                .work
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}
