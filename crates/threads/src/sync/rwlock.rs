//! [`RwLock`]: many readers or one writer, in the order of coming, so that neither starves the other.
#![allow(unsafe_code, reason = "gives access to the value that the lock guards")]

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use super::inside;
use crate::cancel;
use crate::primitives::{self, const_function};
use crate::wait::{Cancel, Line, Outcome, Waiting};

/// Shared or exclusive access, fair, without poisoning.
#[derive(Default)]
pub struct RwLock<T: ?Sized> {
    state: primitives::Mutex<State>,
    value: UnsafeCell<T>,
}

// SAFETY: 1. The lock gives the value to one thread at a time, or shares it.
unsafe impl<T: ?Sized + Send> Send for RwLock<T> {}
// SAFETY: 1. As above, and what is shared is `Sync`.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<T> {}

#[derive(Default)]
struct State {
    readers: usize,
    writing: bool,
    line: Line<Want>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Read,
    Write,
}

/// The value, shared; unlocks when dropped.
pub struct RwLockReadGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
    value: PhantomData<&'a T>,
}

/// The value, exclusive; unlocks when dropped.
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
    value: PhantomData<&'a mut T>,
}

impl State {
    fn allows(&self, want: Want) -> bool {
        match want {
            Want::Read => !self.writing,
            Want::Write => !self.writing && self.readers == 0,
        }
    }

    fn enter(&mut self, want: Want) {
        match want {
            Want::Read => self.readers += 1,
            Want::Write => self.writing = true,
        }
    }

    fn leave(&mut self, want: Want) {
        match want {
            Want::Read => self.readers -= 1,
            Want::Write => self.writing = false,
        }
    }

    /// Lets in who is first in line, as far as it goes.
    fn let_in(&mut self) {
        while let Some(&want) = self.line.first()
            && self.allows(want)
        {
            self.enter(want);
            if !self.line.grant_first() {
                self.leave(want);
            }
        }
    }
}

impl<T> RwLock<T> {
    const_function! {
        /// Unlocked.
        pub fn new(value: T) -> Self {
            Self {
                state: primitives::Mutex::new(State {
                    readers: 0,
                    writing: false,
                    line: Line::new(),
                }),
                value: UnsafeCell::new(value),
            }
        }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits for shared access, behind writers that came before.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.acquire(Want::Read);
        self.reader()
    }

    /// Waits for exclusive access.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.acquire(Want::Write);
        self.writer()
    }

    /// Shared access if it is to be had without waiting.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        self.try_acquire(Want::Read).then(|| self.reader())
    }

    /// Exclusive access if it is to be had without waiting.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        self.try_acquire(Want::Write).then(|| self.writer())
    }

    /// The value, through the only reference to the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    fn reader(&self) -> RwLockReadGuard<'_, T> {
        RwLockReadGuard {
            lock: self,
            value: PhantomData,
        }
    }

    fn writer(&self) -> RwLockWriteGuard<'_, T> {
        RwLockWriteGuard {
            lock: self,
            value: PhantomData,
        }
    }

    fn try_acquire(&self, want: Want) -> bool {
        let mut state = inside(&self.state);
        let free = state.line.is_empty() && state.allows(want);
        if free {
            state.enter(want);
        }
        free
    }

    fn acquire(&self, want: Want) {
        let waiting = {
            let mut state = inside(&self.state);
            if state.line.is_empty() && state.allows(want) {
                return state.enter(want);
            }
            let waiting = Waiting::begin();
            state.line.push(waiting.ticket(), want);
            waiting
        };
        if waiting.wait(None, Cancel::May) == Outcome::Cancelled {
            let mut state = inside(&self.state);
            state.line.remove(waiting);
            state.let_in();
            drop(state);
            cancel::raise();
        }
    }

    fn release(&self, want: Want) {
        let mut state = inside(&self.state);
        state.leave(want);
        state.let_in();
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: 1. While the guard exists nobody writes.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.release(Want::Read);
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: 1. While the guard exists nobody else has access.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: 1. As above, and the guard is borrowed uniquely.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.release(Want::Write);
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_read() {
            Some(value) => formatter.debug_tuple("RwLock").field(&&*value).finish(),
            None => formatter.write_str("RwLock(<locked>)"),
        }
    }
}
