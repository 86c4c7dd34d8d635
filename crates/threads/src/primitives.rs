//! What waiting and handing over are built on: atomics, short locks, cells, and words that a kernel thread waits for.
//! With `--cfg loom` they are those of a model checker, which runs the `models` under every schedule that makes a
//! difference.
//!
//! Where an order between a store and a later load of something else matters, the code has a fence: the checker knows
//! those and takes sequentially consistent accesses for weaker ones.

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::{Mutex, MutexGuard, atomic},
    thread::yield_now,
    thread_local,
};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::{Mutex, MutexGuard, atomic},
    thread::yield_now,
    thread_local,
};

#[cfg(not(loom))]
pub(crate) use real::{UnsafeCell, Word};

#[cfg(loom)]
pub(crate) use modelled::{Flag, Word};

/// Locks, whoever has panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A function that is `const`, unless the checker is at work: its primitives are made at run time only.
macro_rules! const_function {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($arguments:tt)*) -> $result:ty $body:block) => {
        #[cfg(not(loom))]
        $(#[$attribute])*
        $visibility const fn $name($($arguments)*) -> $result $body

        #[cfg(loom)]
        $(#[$attribute])*
        $visibility fn $name($($arguments)*) -> $result $body
    };
}

pub(crate) use const_function;

#[cfg(not(loom))]
mod real {
    use std::ops::Deref;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use rustix::thread::futex;

    /// The standard library's, in the checker's words.
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        #[inline]
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }

    /// A word that kernel threads wait for: see `futex(2)`.
    pub(crate) struct Word(AtomicU32);

    impl Word {
        pub(crate) const fn new(value: u32) -> Self {
            Self(AtomicU32::new(value))
        }

        /// Sleeps while the word has this value, at most for `timeout`, or for no reason less.
        pub(crate) fn wait(&self, value: u32, timeout: Option<Duration>) {
            // A time beyond what the kernel can express waits without one. Every result means "look again".
            let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
            let _ = futex::wait(&self.0, futex::Flags::PRIVATE, value, timeout.as_ref());
        }

        /// Wakes one who sleeps.
        pub(crate) fn wake(&self) {
            // It cannot fail: the address is valid.
            let _ = futex::wake(&self.0, futex::Flags::PRIVATE, 1);
        }
    }

    impl Deref for Word {
        type Target = AtomicU32;

        #[inline]
        fn deref(&self) -> &AtomicU32 {
            &self.0
        }
    }
}

#[cfg(loom)]
mod modelled {
    use std::ops::Deref;
    use std::time::Duration;

    use loom::sync::atomic::{AtomicU32, Ordering};
    use loom::sync::{Condvar, Mutex};

    use super::lock;

    /// A futex as the manual describes it: comparing and going to sleep are one step for who wakes.
    pub(crate) struct Word {
        word: AtomicU32,
        kernel: Mutex<()>,
        sleepers: Condvar,
    }

    impl Word {
        pub(crate) fn new(value: u32) -> Self {
            Self {
                word: AtomicU32::new(value),
                kernel: Mutex::new(()),
                sleepers: Condvar::new(),
            }
        }

        pub(crate) fn wait(&self, value: u32, _timeout: Option<Duration>) {
            let kernel = lock(&self.kernel);
            if self.word.load(Ordering::SeqCst) == value {
                drop(self.sleepers.wait(kernel));
            }
        }

        pub(crate) fn wake(&self) {
            let _kernel = lock(&self.kernel);
            self.sleepers.notify_one();
        }
    }

    /// What a poller is interrupted by: an event that stays until somebody has waited for it.
    #[derive(Default)]
    pub(crate) struct Flag {
        raised: Mutex<bool>,
        sleepers: Condvar,
    }

    impl Flag {
        pub(crate) fn raise(&self) {
            *lock(&self.raised) = true;
            self.sleepers.notify_one();
        }

        pub(crate) fn wait(&self) {
            let mut raised = lock(&self.raised);
            while !std::mem::take(&mut *raised) {
                raised = self.sleepers.wait(raised).expect("nobody panics with it");
            }
        }
    }

    impl Deref for Word {
        type Target = AtomicU32;

        fn deref(&self) -> &AtomicU32 {
            &self.word
        }
    }
}
