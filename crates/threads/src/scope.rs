//! Threads that borrow: [`scope`] returns only when they have ended.
#![allow(
    unsafe_code,
    reason = "forgets the lifetime of what threads borrow, and waits for them instead"
)]

use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use crate::cancel::{self, Ending};
use crate::here;
use crate::owned::Body;
use crate::primitives::atomic::{AtomicUsize, Ordering};
use crate::primitives::{Mutex, lock};
use crate::runtime::Home;
use crate::spawn::{Builder, JoinHandle, Result, Thread, pack};
use crate::wait::{Cancel, Ticket, Waiting};

/// Where threads that borrow are spawned.
pub struct Scope<'scope, 'env: 'scope> {
    state: Arc<State>,
    home: Home,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// Counts the threads of a scope that have not ended.
#[derive(Default)]
pub(crate) struct State {
    running: AtomicUsize,
    waiter: Mutex<Option<Ticket>>,
}

/// Waits for the result of a thread of a scope.
#[derive(Debug)]
pub struct ScopedJoinHandle<'scope, T> {
    handle: JoinHandle<T>,
    scope: PhantomData<&'scope ()>,
}

/// Calls `f` with a [`Scope`], in which threads may borrow what outlives it. Returns when all of them have ended.
///
/// Unlike the standard library's it does not panic for a thread that panicked and was not joined: its message was
/// printed, and who wants the panic joins.
///
/// # Panics
/// With the panic of `f`, or if the running thread belongs to no runtime.
pub fn scope<'env, F, T>(f: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    match Home::of_this_thread() {
        Ok(home) => scope_in(&home, f),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn scope_in<'env, F, T>(home: &Home, f: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    let scope = Scope {
        state: Arc::default(),
        home: home.clone(),
        scope: PhantomData,
        env: PhantomData,
    };
    let result = catch_unwind(AssertUnwindSafe(|| f(&scope)));
    scope.state.wait();
    match result {
        Ok(value) => {
            if here::with_record(|record| Ending::default().is_due(record)) {
                drop(value);
                cancel::raise();
            }
            value
        }
        Err(payload) => resume_unwind(payload),
    }
}

/// Has `submit` run `f` elsewhere and waits for the result, which no cancellation can prevent.
pub(crate) fn lend<T: Send>(f: impl FnOnce() -> T + Send, submit: impl FnOnce(Body<'static>)) -> T {
    let (packet, body) = pack(f, || ());
    // SAFETY: 1. The result is left in the packet when nothing of `f` is, or when `body` was
    // dropped in a panic of `submit`; until then this function does not return.
    let body: Body<'static> = unsafe { erase(body) };
    submit(body);
    let result = packet.wait(Cancel::MayNot);
    result.unwrap_or_else(|payload| resume_unwind(payload))
}

/// Forgets what a body borrows.
///
/// # Safety
/// The body is gone before what it borrows is.
unsafe fn erase(body: Body<'_>) -> Body<'static> {
    // SAFETY: 1. Only a lifetime changes. 2. The rest is the contract.
    unsafe { std::mem::transmute(body) }
}

impl State {
    pub(crate) fn begin(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn ended(&self) {
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            let waiter = lock(&self.waiter).take();
            if let Some(waiter) = waiter {
                waiter.grant();
            }
        }
    }

    /// Cannot be cancelled: the threads use what the caller is about to drop.
    pub(crate) fn wait(&self) {
        loop {
            let waiting = {
                let mut waiter = lock(&self.waiter);
                if self.running.load(Ordering::Acquire) == 0 {
                    return;
                }
                let waiting = Waiting::begin();
                *waiter = Some(waiting.ticket());
                waiting
            };
            waiting.wait(None, Cancel::MayNot);
        }
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Makes a thread in this scope.
    ///
    /// # Panics
    /// No thread can be made; [`Builder::spawn_scoped`] returns that as an error.
    pub fn spawn<F, T>(&'scope self, f: F) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        match Builder::new().spawn_scoped(self, f) {
            Ok(handle) => handle,
            Err(error) => panic!("no thread was made: {error}"),
        }
    }
}

impl Builder {
    /// Makes a thread in a scope.
    ///
    /// # Errors
    /// As [`Builder::spawn`].
    pub fn spawn_scoped<'scope, F, T>(
        self,
        scope: &'scope Scope<'scope, '_>,
        f: F,
    ) -> io::Result<ScopedJoinHandle<'scope, T>>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        scope.state.begin();
        let state = Arc::clone(&scope.state);
        let (packet, body) = pack(f, move || state.ended());
        // SAFETY: 1. The last thing that the body does is to tell the scope that nothing borrowed is left, and the scope
        // waits for that, however it is left. 2. The handle, which may hold the result, cannot outlive the scope. 3. If
        // no thread can be made, the body is dropped before this function returns.
        let body = unsafe { erase(body) };
        let launched = self.launch(&scope.home, body);
        if launched.is_err() {
            scope.state.ended();
        }
        Ok(ScopedJoinHandle {
            handle: JoinHandle {
                packet,
                thread: launched?,
            },
            scope: PhantomData,
        })
    }
}

impl<T> ScopedJoinHandle<'_, T> {
    /// Waits until the thread has ended.
    ///
    /// # Errors
    /// The payload of its panic.
    pub fn join(self) -> Result<T> {
        self.handle.join()
    }

    /// Whether a join would return at once.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// The thread.
    pub fn thread(&self) -> &Thread {
        self.handle.thread()
    }

    /// Asks the thread to end: see [`Thread::cancel`].
    pub fn cancel(&self) {
        self.handle.cancel();
    }
}

impl std::fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Scope").finish_non_exhaustive()
    }
}
