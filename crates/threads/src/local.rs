//! Thread-locals of this package's threads: [`thread_local!`](crate::thread_local) and [`LocalKey`].
//!
//! The standard library's thread-locals belong to kernel threads and are therefore shared by all user threads of one
//! worker. These belong to the thread, whatever runs it. They are dropped when it ends, in the order of their making;
//! one that is made by such a drop is dropped too.

use std::any::Any;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::here;

/// Rounds of dropping thread-locals that are made anew by drops of others, before the rest is leaked.
const DROP_ROUNDS_MAX: usize = 8;

/// Values by number of the key. Most threads have none, and then it is one word.
#[derive(Default)]
pub(crate) struct Locals(Cell<Option<Box<Values>>>);

type Values = Vec<Option<Rc<dyn Any>>>;

impl Locals {
    pub(crate) fn is_empty(&self) -> bool {
        self.change(|values| values.is_none())
    }

    /// Calls `f`, which runs no code of others, with what is there.
    fn change<R>(&self, f: impl FnOnce(&mut Option<Box<Values>>) -> R) -> R {
        let mut values = self.0.take();
        let result = f(&mut values);
        self.0.set(values);
        result
    }

    fn get(&self, number: usize) -> Option<Rc<dyn Any>> {
        self.change(|values| values.as_ref()?.get(number).cloned().flatten())
    }

    /// Puts a value there: what was there before, to be dropped.
    fn set(&self, number: usize, value: Rc<dyn Any>) -> Option<Rc<dyn Any>> {
        self.change(|values| {
            let values = values.get_or_insert_default();
            if values.len() <= number {
                values.resize(number + 1, None);
            }
            values[number].replace(value)
        })
    }
}

static NEXT: AtomicUsize = AtomicUsize::new(1);

/// A key made by [`thread_local!`](crate::thread_local).
pub struct LocalKey<T: 'static> {
    init: fn() -> T,
    /// 0 until it is first used.
    number: AtomicUsize,
}

impl<T: 'static> LocalKey<T> {
    #[doc(hidden)]
    pub const fn new(init: fn() -> T) -> Self {
        Self {
            init,
            number: AtomicUsize::new(0),
        }
    }

    fn number(&self) -> usize {
        let number = self.number.load(Ordering::Relaxed);
        if number != 0 {
            return number;
        }
        let fresh = NEXT.fetch_add(1, Ordering::Relaxed);
        match self
            .number
            .compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => fresh,
            Err(other) => other,
        }
    }

    /// Calls `f` with the running thread's value, which is made first if there is none.
    pub fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        let number = self.number();
        let found = here::with_locals(|locals| locals.get(number));
        let value = found.unwrap_or_else(|| {
            let made: Rc<dyn Any> = Rc::new((self.init)());
            drop(here::with_locals(|locals| {
                locals.set(number, Rc::clone(&made))
            }));
            made
        });
        f(value
            .downcast_ref()
            .expect("a key's number is used for one type"))
    }
}

/// Drops the running thread's values. Called by the thread at its end.
pub(crate) fn clear() {
    for _ in 0..DROP_ROUNDS_MAX {
        match here::with_locals(|locals| locals.0.take()) {
            Some(values) => drop(values),
            None => return,
        }
    }
    // Nobody else may drop them: they need not be `Send`.
    std::mem::forget(here::with_locals(|locals| locals.0.take()));
}

/// Declares thread-locals of this package's threads, as `std::thread_local!` does for kernel threads.
///
/// ```
/// use std::cell::Cell;
/// sterna_threads::thread_local! {
///     static DEPTH: Cell<u32> = Cell::new(0);
/// }
/// DEPTH.with(|depth| depth.set(depth.get() + 1));
/// ```
#[macro_export]
macro_rules! thread_local {
    ($($(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty = $init:expr);+ $(;)?) => {
        $($(#[$attribute])* $visibility static $name: $crate::LocalKey<$type> = $crate::LocalKey::new(|| $init);)+
    };
}
