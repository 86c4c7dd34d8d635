//! [`Mutex`]: one word when nobody waits, a line of tickets when somebody does.
#![allow(unsafe_code, reason = "gives access to the value that the lock guards")]

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use super::inside;
use crate::cancel;
use crate::primitives::atomic::{AtomicU32, Ordering};
use crate::primitives::{self, const_function};
use crate::wait::{Cancel, Line, Outcome, Waiting};

const FREE: u32 = 0;
const LOCKED: u32 = 1;
/// Somebody waits; only set together with `LOCKED`, and only changed under the lock of the line.
const WAITED_FOR: u32 = 2;

/// Mutual exclusion, fair, without poisoning.
#[derive(Default)]
pub struct Mutex<T: ?Sized> {
    word: AtomicU32,
    line: primitives::Mutex<Line>,
    value: UnsafeCell<T>,
}

// SAFETY: 1. The lock gives the value to one thread at a time.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: 1. As above.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

/// The locked value; unlocks when dropped.
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    value: PhantomData<&'a mut T>,
}

impl<T> Mutex<T> {
    const_function! {
        /// Unlocked.
        pub fn new(value: T) -> Self {
            Self {
                word: AtomicU32::new(FREE),
                line: primitives::Mutex::new(Line::new()),
                value: UnsafeCell::new(value),
            }
        }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks, after all who came before.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if !self.try_acquire() {
            self.acquire(None, Cancel::May);
        }
        self.guard()
    }

    /// Locks if nobody holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.try_acquire().then(|| self.guard())
    }

    /// Locks within `timeout`, or gives up.
    pub fn lock_timeout(&self, timeout: Duration) -> Option<MutexGuard<'_, T>> {
        let locked =
            self.try_acquire() || self.acquire(Instant::now().checked_add(timeout), Cancel::May);
        locked.then(|| self.guard())
    }

    /// The value, through the only reference to the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    fn guard(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            mutex: self,
            value: PhantomData,
        }
    }

    /// After a condition: cannot be cancelled, since the caller was promised a guard.
    pub(super) fn lock_again(&self) -> MutexGuard<'_, T> {
        if !self.try_acquire() {
            self.acquire(None, Cancel::MayNot);
        }
        self.guard()
    }

    #[inline]
    fn try_acquire(&self) -> bool {
        self.word
            .compare_exchange(FREE, LOCKED, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[cold]
    fn acquire(&self, deadline: Option<Instant>, cancel: Cancel) -> bool {
        let waiting = {
            let mut line = inside(&self.line);
            let before = self.word.fetch_or(LOCKED | WAITED_FOR, Ordering::Acquire);
            if before & LOCKED == 0 {
                // It was just given back, and whoever gives it back with others in line hands it over.
                self.word.store(LOCKED, Ordering::Relaxed);
                return true;
            }
            let waiting = Waiting::begin();
            line.push(waiting.ticket(), ());
            waiting
        };
        let outcome = waiting.wait(deadline, cancel);
        if outcome == Outcome::Granted {
            return true;
        }
        let mut line = inside(&self.line);
        line.remove(waiting);
        if line.is_empty() {
            self.word.fetch_and(!WAITED_FOR, Ordering::Relaxed);
        }
        drop(line);
        if outcome == Outcome::Cancelled {
            cancel::raise();
        }
        false
    }

    #[inline]
    fn release(&self) {
        let released =
            self.word
                .compare_exchange(LOCKED, FREE, Ordering::Release, Ordering::Relaxed);
        if released.is_err() {
            self.hand_over();
        }
    }

    #[cold]
    fn hand_over(&self) {
        let mut line = inside(&self.line);
        if line.grant_one() {
            // The next holder cannot give it back before this is done: it needs the line for that.
            if line.is_empty() {
                self.word.store(LOCKED, Ordering::Release);
            }
        } else {
            self.word.store(FREE, Ordering::Release);
        }
    }
}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    pub(super) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: 1. The guard exists only while its thread holds the lock.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: 1. As above, and the guard is borrowed uniquely.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.mutex.release();
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(value) => formatter.debug_tuple("Mutex").field(&&*value).finish(),
            None => formatter.write_str("Mutex(<locked>)"),
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}
