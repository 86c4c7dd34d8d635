//! Thread-locals of this package's threads: [`thread_local!`](crate::thread_local) and [`LocalKey`].
//!
//! The standard library's thread-locals belong to kernel threads and are therefore shared by all user threads of one
//! worker. These belong to the thread, whatever runs it. They are dropped when it ends, in the order of their making;
//! one that is made by such a drop is dropped too.

use std::any::Any;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::here;

/// Rounds of dropping thread-locals that are made anew by drops of others, before the rest is leaked.
const DROP_ROUNDS_MAX: usize = 8;

/// Values by number of the key.
pub(crate) type Locals = Vec<Option<Rc<dyn Any>>>;

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
        let found = here::with_locals(|locals| locals.borrow().get(number).cloned().flatten());
        let value = found.unwrap_or_else(|| {
            let made: Rc<dyn Any> = Rc::new((self.init)());
            here::with_locals(|locals| {
                let mut locals = locals.borrow_mut();
                if locals.len() <= number {
                    locals.resize(number + 1, None);
                }
                locals[number] = Some(Rc::clone(&made));
            });
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
        let values = here::with_locals(|locals| std::mem::take(&mut *locals.borrow_mut()));
        if values.is_empty() {
            return;
        }
        drop(values);
    }
    // Nobody else may drop them: they need not be `Send`.
    let rest = here::with_locals(|locals| std::mem::take(&mut *locals.borrow_mut()));
    std::mem::forget(rest);
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
