//! [`Owned`]: the part of a thread's record that only the kernel thread running it touches: stack, context, what it
//! is to run, its thread-locals.
//!
//! Who may touch it, in the order of a thread's life: whoever made the record; then whoever holds it in a queue of
//! threads that have not started, which hand it on under a lock; then its worker, until the record is dropped.
//!
//! [`RuntimeOf`] follows a rule of the same kind.
#![allow(unsafe_code, reason = "shares a cell, and a pointer, by such rules")]

use std::any::Any;
use std::cell::UnsafeCell;
use std::sync::Arc;

use sterna_sys::stacks::{Context, Stack};

use crate::local::Locals;
use crate::worker::Shared;

/// What a thread that ended without a result left behind: the payload of its panic, or why it never ran.
pub(crate) type Payload = Box<dyn Any + Send>;

/// What a thread is to do. With a payload it does not run, and its joiner gets that instead.
pub(crate) type Body<'a> = Box<dyn FnOnce(Option<Payload>) + Send + 'a>;

/// See the module.
pub(crate) struct Owned(UnsafeCell<Own>);

pub(crate) struct Own {
    pub(crate) context: Context,
    pub(crate) stack: Option<Stack>,
    pub(crate) body: Option<Body<'static>>,
    /// Place among the live threads of its worker.
    pub(crate) live: usize,
    pub(crate) locals: Locals,
}

// SAFETY: 1. The rule in the module's head; `get` is unsafe and every use states why it holds. 2. The thread-locals,
// which need not be `Send`, are dropped by the thread itself before it ends.
unsafe impl Send for Owned {}
// SAFETY: 1. As above.
unsafe impl Sync for Owned {}

impl Owned {
    pub(crate) fn new(body: Body<'static>) -> Self {
        Self::with(Some(body))
    }

    /// Of a thread that runs already.
    pub(crate) fn empty() -> Self {
        Self::with(None)
    }

    fn with(body: Option<Body<'static>>) -> Self {
        Self(UnsafeCell::new(Own {
            context: Context::NONE,
            stack: None,
            body,
            live: usize::MAX,
            locals: Locals::default(),
        }))
    }

    /// The contents.
    pub(crate) fn get(&self) -> *mut Own {
        self.0.get()
    }
}

/// The runtime of a user thread, not counted as a reference to it: a record may outlive its runtime, and is made for
/// every thread. A runtime outlives its threads, so the pointer is good while the thread has not ended.
pub(crate) struct RuntimeOf(*const Shared);

// SAFETY: 1. It is a pointer to what threads share; `get` is unsafe and every use states why it holds.
unsafe impl Send for RuntimeOf {}
// SAFETY: 1. As above.
unsafe impl Sync for RuntimeOf {}

impl RuntimeOf {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::as_ptr(shared))
    }

    pub(crate) fn is(&self, shared: &Arc<Shared>) -> bool {
        std::ptr::eq(self.0, Arc::as_ptr(shared))
    }

    /// The runtime.
    ///
    /// # Safety
    /// The thread has not ended and does not end while the reference is used.
    pub(crate) unsafe fn get(&self) -> &Shared {
        // SAFETY: 1. The contract, and the runtime's workers keep it while a thread is left.
        unsafe { &*self.0 }
    }
}
