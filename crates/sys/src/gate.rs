//! [`Gate`]: where the kernel thread of a stopped guest waits for what is to become of it; and [`Notifier`], which
//! interrupts a wait in a host call so that the guest gets there.
//!
//! A guest arrives in the fault handler of its poll page, or voluntarily from a host call, and stays until the
//! controller answers. The state is one word, changed only by atomic operations and waited for as a futex (futex(2)):
//!
//! ```text
//!                 request                 arrive                    release(v)
//!   Outside ─────────────► Outside+R ─────────────► Parked ─────────────────────► Leaving(v)
//!      ▲  ▲    withdraw        │  ▲                                                │      │ request
//!      │  └────────────────────┘  │                        guest leaves            │      ▼
//!      └──────────────────────────┼────────────────────────────────────────────────┘  Leaving(v)+R
//!                                 └───────────────────────────────────────────────────────┘
//!   Outside(+R) ──close──► Closed      no guest will come any more
//! ```
//!
//! So a new request may follow a release at once, even if the guest's thread has not run in between. Without a request
//! a guest passes through ([`Verdict::Continue`]): a fault that was under way when the request was withdrawn.
//!
//! There is one controller at a time (the owner of the gate sees to it); [`Gate::request`] refuses a second one.
//! The guest's side ([`Gate::arrive`], [`Gate::is_requested`], [`Gate::close`]) is async-signal-safe: no allocation, no lock, no
//! `errno`, nothing but atomics and the futex system call.

mod callers;
mod context;
mod notifier;

pub use callers::Callers;
pub use context::{Registers, fault_address, registers};
pub use notifier::{Notifier, NotifierError};

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::futex;
use thiserror::Error;

#[cfg(test)]
mod tests;

/// Set while a controller wants the guest to stop.
const REQUESTED: u32 = 1;
/// The guest's part of the state.
const PHASE: u32 = 0b1110;
const OUTSIDE: u32 = 0;
const PARKED: u32 = 1 << 1;
const LEAVING_CONTINUE: u32 = 2 << 1;
const LEAVING_UNWIND: u32 = 3 << 1;
const CLOSED: u32 = 4 << 1;

/// What a stopped guest is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on as if nothing had happened.
    Continue,
    /// Save the frames and return to the host.
    Unwind,
}

/// Why a stop could not be requested.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// A request is pending or the guest is stopped already.
    #[error("the guest is being stopped already")]
    Busy,
    /// The guest has ended.
    #[error("the guest has ended")]
    Closed,
}

/// How a wait for a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The guest is parked and stays so until [`Gate::release`].
    Stopped,
    /// The guest ended instead.
    Closed,
    /// It has not arrived in time. The request stands until [`Gate::withdraw`].
    TimedOut,
}

/// The guest was not parked, so there was nothing to release.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the guest is not stopped")]
pub struct NotStopped;

/// The parking place of one guest; see the module for its states.
///
/// ```
/// use std::time::Duration;
/// use sterna_sys::gate::{Arrival, Gate, Verdict};
/// let gate = Gate::new();
/// std::thread::scope(|scope| {
///     let guest = scope.spawn(|| loop {
///         // in reality: by the fault handler of the poll page, or between two host calls
///         if gate.is_requested() {
///             return gate.arrive(None);
///         }
///         std::hint::spin_loop();
///     });
///     gate.request().unwrap();
///     assert_eq!(gate.wait_stopped(Duration::from_secs(10)), Arrival::Stopped);
///     gate.release(Verdict::Unwind).unwrap();
///     assert_eq!(guest.join().unwrap(), Verdict::Unwind);
/// });
/// ```
#[derive(Debug, Default)]
pub struct Gate {
    state: AtomicU32,
    /// [`Registers`] of the parked guest, all 0 if it came from a host call. Written before `PARKED` is.
    pc: AtomicUsize,
    fp: AtomicUsize,
    sp: AtomicUsize,
}

impl Gate {
    /// An open gate: a guest passes through.
    pub const fn new() -> Gate {
        Gate {
            state: AtomicU32::new(OUTSIDE),
            pc: AtomicUsize::new(0),
            fp: AtomicUsize::new(0),
            sp: AtomicUsize::new(0),
        }
    }

    /// Guest: whether a controller waits for it. Async-signal-safe.
    pub fn is_requested(&self) -> bool {
        self.state.load(Ordering::Acquire) & REQUESTED != 0
    }

    /// Guest: stops here if a controller asked for it, until the controller answers. `registers` are those of the interrupted
    /// code; `None` in a host call. Async-signal-safe.
    pub fn arrive(&self, registers: Option<Registers>) -> Verdict {
        let Registers { pc, fp, sp } = registers.unwrap_or_default();
        self.pc.store(pc, Ordering::Relaxed);
        self.fp.store(fp, Ordering::Relaxed);
        self.sp.store(sp, Ordering::Relaxed);
        let requested = OUTSIDE | REQUESTED;
        if self
            .state
            .compare_exchange(requested, PARKED, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            return Verdict::Continue;
        }
        self.wake();
        loop {
            let state = self.state.load(Ordering::Acquire);
            let verdict = match state & PHASE {
                LEAVING_CONTINUE => Verdict::Continue,
                LEAVING_UNWIND => Verdict::Unwind,
                _ => {
                    self.wait_while(state, None);
                    continue;
                }
            };
            // A request for the next stop may have come by now, and stays.
            self.state.fetch_and(!PHASE, Ordering::AcqRel);
            return verdict;
        }
    }

    /// Guest: it has ended and will not arrive any more; whoever waits for it is told. Final. Async-signal-safe.
    pub fn close(&self) {
        let before = self.state.swap(CLOSED, Ordering::AcqRel);
        debug_assert_ne!(
            before & PHASE,
            PARKED,
            "a parked guest cannot close its own gate"
        );
        self.wake();
    }

    /// Controller: asks the guest to stop at its next arrival. Whatever makes it arrive (protecting the poll page,
    /// raising a [`Notifier`]) comes after this call, or it may pass through.
    ///
    /// # Errors
    /// Another request is under way, or the guest has ended.
    pub fn request(&self) -> Result<(), RequestError> {
        let add = |state| match state & (PHASE | REQUESTED) {
            OUTSIDE | LEAVING_CONTINUE | LEAVING_UNWIND => Some(state | REQUESTED),
            _ => None,
        };
        match self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add)
        {
            Ok(_) => Ok(()),
            Err(state) if state & PHASE == CLOSED => Err(RequestError::Closed),
            Err(_) => Err(RequestError::Busy),
        }
    }

    /// Controller: waits until the guest is parked, at most for `within`.
    pub fn wait_stopped(&self, within: Duration) -> Arrival {
        let deadline = Instant::now().checked_add(within);
        loop {
            let state = self.state.load(Ordering::Acquire);
            match state & PHASE {
                PARKED => return Arrival::Stopped,
                CLOSED => return Arrival::Closed,
                _ => {}
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Arrival::TimedOut;
            }
            self.wait_while(state, left);
        }
    }

    /// Controller: takes the request back (then unprotect the poll page, at which the guest keeps faulting until then). False if it is too late: the guest is parked (it must be released) or has
    /// ended, or there was no request.
    pub fn withdraw(&self) -> bool {
        let remove = |state| match state & PHASE {
            PARKED | CLOSED => None,
            _ if state & REQUESTED == 0 => None,
            _ => Some(state & !REQUESTED),
        };
        self.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, remove)
            .is_ok()
    }

    /// Controller: where the guest stopped; `None` if it is not parked or came from a host call.
    pub fn stopped_at(&self) -> Option<Registers> {
        if self.state.load(Ordering::Acquire) & PHASE != PARKED {
            return None;
        }
        let pc = self.pc.load(Ordering::Relaxed);
        let (fp, sp) = (
            self.fp.load(Ordering::Relaxed),
            self.sp.load(Ordering::Relaxed),
        );
        (pc != 0).then_some(Registers { pc, fp, sp })
    }

    /// Controller: lets the parked guest go.
    ///
    /// # Errors
    /// It is not parked.
    pub fn release(&self, verdict: Verdict) -> Result<(), NotStopped> {
        let leaving = match verdict {
            Verdict::Continue => LEAVING_CONTINUE,
            Verdict::Unwind => LEAVING_UNWIND,
        };
        self.state
            .compare_exchange(PARKED, leaving, Ordering::AcqRel, Ordering::Acquire)
            .map_err(|_| NotStopped)?;
        self.wake();
        Ok(())
    }

    /// Waits until the state may have changed from `state`; woken also for no reason, by a signal, and after `within`.
    fn wait_while(&self, state: u32, within: Option<Duration>) {
        // A time beyond what the kernel can express waits without one.
        let within = within.and_then(|within| within.try_into().ok());
        // Every result means "look again": changed already, woken, interrupted, timed out.
        let _ = futex::wait(&self.state, futex::Flags::PRIVATE, state, within.as_ref());
    }

    fn wake(&self) {
        // Guest and controller may wait on the word at different times of one stop: wake whoever does.
        // It cannot fail: the address is valid.
        let _ = futex::wake(&self.state, futex::Flags::PRIVATE, i32::MAX as u32);
    }
}
