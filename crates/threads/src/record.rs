//! [`Record`]: what is known of one thread, whatever runs it, and how it stops and goes on.
//!
//! ```text
//!            block()                                      wake()
//!  RUNNING ───────────► BLOCKED, or POLLING (in poll) ───────────────► RUNNING, and ready to run
//!     └── wake() ─────► NOTIFIED ── block() returns at once ─────────► RUNNING
//! ```
//!
//! A wake is never lost and may be spurious: whoever blocks does so in a loop over its own condition.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use sterna_sys::stacks::Slab;

use crate::group::GroupState;
use crate::kernel::KernelRuntime;
use crate::owned::{Owned, RuntimeOf};
use crate::primitives::Word;
use crate::primitives::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::spawn::Priority;

const RUNNING: u32 = 0;
const BLOCKED: u32 = 1;
const POLLING: u32 = 2;
const NOTIFIED: u32 = 3;

/// Cancellation: not asked for, asked for, and on its way up the stack.
const NO_CANCEL: u8 = 0;
const CANCEL_REQUESTED: u8 = 1;
const CANCEL_RAISED: u8 = 2;

/// A kernel thread takes so many ids at once.
const ID_BLOCK: u64 = 1024;

static NEXT_ID: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(ID_BLOCK);

thread_local! {
    static NEXT_ID_HERE: Cell<u64> = const { Cell::new(0) };
}

/// What is known of one thread.
pub(crate) struct Record {
    pub(crate) id: u64,
    extras: Option<Box<Extras>>,
    pub(crate) priority: Priority,
    pub(crate) group: Option<Arc<GroupState>>,
    pub(crate) place: Place,
    state: Word,
    cancel: AtomicU8,
    /// The token of `park` and `unpark`.
    pub(crate) token: AtomicBool,
    /// The wait that this thread is in: see `wait`.
    pub(crate) wait: AtomicU64,
    /// Nanoseconds that it ran, where that is measured.
    run_time: AtomicU64,
    pub(crate) owned: Owned,
}

/// Who runs a thread.
pub(crate) enum Place {
    /// A worker, by its number, which is known once the thread has started.
    User {
        runtime: RuntimeOf,
        worker: AtomicU32,
    },
    Kernel(Box<KernelPlace>),
}

/// A kernel thread of a runtime, or (without one) a thread that this package did not make.
pub(crate) struct KernelPlace {
    pub(crate) runtime: Option<Arc<KernelRuntime>>,
    event: OnceLock<OwnedFd>,
}

/// What few threads have: a million that are blocked should not have room for it.
pub(crate) struct Extras {
    pub(crate) name: Option<Box<str>>,
    /// Where its stack comes from, if not from the runtime's own slab.
    pub(crate) slab: Option<Arc<Slab>>,
}

/// How a kernel thread is blocked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Blocked {
    InFutex,
    InPoll,
}

/// What a thread may be given when it is made.
pub(crate) struct Given {
    pub(crate) id: u64,
    pub(crate) extras: Extras,
    pub(crate) priority: Priority,
    pub(crate) group: Option<Arc<GroupState>>,
}

/// The id of a thread to be made.
pub(crate) fn next_id() -> u64 {
    NEXT_ID_HERE.with(|next| {
        let mut id = next.get();
        if id.is_multiple_of(ID_BLOCK) {
            id = NEXT_ID.fetch_add(ID_BLOCK, Ordering::Relaxed);
        }
        next.set(id + 1);
        id
    })
}

impl Place {
    pub(crate) fn of_kernel(runtime: Option<Arc<KernelRuntime>>) -> Self {
        Self::Kernel(Box::new(KernelPlace {
            runtime,
            event: OnceLock::new(),
        }))
    }
}

impl Record {
    pub(crate) fn new(given: Given, place: Place, owned: Owned) -> Arc<Self> {
        let Extras { name, slab } = &given.extras;
        let has_extras = name.is_some() || slab.is_some();
        Arc::new(Self {
            id: given.id,
            extras: has_extras.then(|| Box::new(given.extras)),
            priority: given.priority,
            group: given.group,
            place,
            state: Word::new(RUNNING),
            cancel: AtomicU8::new(NO_CANCEL),
            token: AtomicBool::new(false),
            wait: AtomicU64::new(0),
            run_time: AtomicU64::new(0),
            owned,
        })
    }

    /// The record of a kernel thread that was not made here.
    pub(crate) fn foreign() -> Arc<Self> {
        let given = Given {
            id: next_id(),
            extras: Extras {
                name: std::thread::current().name().map(Box::from),
                slab: None,
            },
            priority: Priority::default(),
            group: None,
        };
        Self::new(given, Place::of_kernel(None), Owned::empty())
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.extras.as_ref()?.name.as_deref()
    }

    /// Where its stack comes from, if not from the runtime's own slab.
    pub(crate) fn slab(&self) -> Option<&Arc<Slab>> {
        self.extras.as_ref()?.slab.as_ref()
    }

    /// Lets the thread go on, or not stop next time.
    pub(crate) fn wake(self: &Arc<Self>) {
        let before = self.begin_wake();
        if before == BLOCKED || before == POLLING {
            Arc::clone(self).wake_by(before);
        }
    }

    /// The same for who has a reference to spare.
    pub(crate) fn wake_owned(self: Arc<Self>) {
        let before = self.begin_wake();
        self.wake_by(before);
    }

    /// The state in which the thread was found.
    #[inline]
    fn begin_wake(&self) -> u32 {
        let mut before = self.state.load(Ordering::Relaxed);
        loop {
            // Also from notified to notified: it makes what the waker did before visible to the thread.
            let after = match before {
                RUNNING | NOTIFIED => NOTIFIED,
                _ => RUNNING,
            };
            match self.exchange(before, after) {
                Ok(_) => return before,
                Err(other) => before = other,
            }
        }
    }

    #[inline]
    fn wake_by(self: Arc<Self>, before: u32) {
        match (before, &self.place) {
            (BLOCKED, Place::User { .. }) => crate::worker::make_ready(self),
            (BLOCKED, Place::Kernel(_)) => {
                self.state.wake();
            }
            (POLLING, _) => self.interrupt_poll(),
            _ => {}
        }
    }

    fn exchange(&self, from: u32, to: u32) -> Result<u32, u32> {
        self.state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
    }

    /// First half of blocking: false if a wake came before.
    pub(crate) fn begin_block(&self) -> bool {
        self.begin(BLOCKED)
    }

    /// The same for a kernel thread that is about to call poll with [`Self::event`].
    pub(crate) fn begin_poll(&self) -> bool {
        self.begin(POLLING)
    }

    fn begin(&self, state: u32) -> bool {
        let begun = self.exchange(RUNNING, state).is_ok();
        if !begun {
            self.state.swap(RUNNING, Ordering::AcqRel);
        }
        begun
    }

    /// Runs again without having been woken, unless a wake came at the same time.
    pub(crate) fn end_block(&self, state: Blocked) {
        let state = match state {
            Blocked::InFutex => BLOCKED,
            Blocked::InPoll => POLLING,
        };
        // Either this or the waker has set it.
        let _ = self.exchange(state, RUNNING);
    }

    /// Blocks the kernel thread that this is.
    pub(crate) fn block_kernel(&self, deadline: Option<Instant>) {
        if !self.begin_block() {
            return;
        }
        while self.state.load(Ordering::Acquire) == BLOCKED {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break;
            }
            self.state.wait(BLOCKED, left);
        }
        self.end_block(Blocked::InFutex);
    }

    /// The descriptor that interrupts this kernel thread's polls.
    pub(crate) fn event(&self) -> std::io::Result<&OwnedFd> {
        let Place::Kernel(kernel) = &self.place else {
            unreachable!("user threads do not poll");
        };
        let event = &kernel.event;
        if let Some(event) = event.get() {
            return Ok(event);
        }
        use rustix::event::{EventfdFlags, eventfd};
        let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(event.get_or_init(|| made))
    }

    fn interrupt_poll(&self) {
        if let Place::Kernel(kernel) = &self.place
            && let Some(event) = kernel.event.get()
        {
            // A full counter has woken it already.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }

    pub(crate) fn run_time(&self) -> u64 {
        self.run_time.load(Ordering::Relaxed)
    }

    pub(crate) fn add_run_time(&self, nanoseconds: u64) {
        self.run_time.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Asks the thread to end at its next blocking call.
    pub(crate) fn cancel(self: &Arc<Self>) {
        let asked = self.cancel.compare_exchange(
            NO_CANCEL,
            CANCEL_REQUESTED,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if asked.is_ok() {
            self.wake();
        }
    }

    /// Whether it was asked to end and has not begun to.
    #[inline]
    pub(crate) fn cancel_is_new(&self) -> bool {
        self.cancel.load(Ordering::Acquire) == CANCEL_REQUESTED
    }

    /// Whether it was ever asked to end.
    pub(crate) fn cancel_requested(&self) -> bool {
        self.cancel.load(Ordering::Acquire) != NO_CANCEL
    }

    /// From now on blocking calls work again, so that destructors may use them.
    pub(crate) fn cancel_raised(&self) {
        self.cancel.store(CANCEL_RAISED, Ordering::Release);
    }
}
