//! How a running guest is brought to a stop: its poll word's page is protected, so that its next poll
//! faults and its thread parks with every register intact; if it waits in a host call instead, the wait
//! is interrupted and parks there. From there it goes on, or unwinds at exactly that point.
#![allow(
    unsafe_code,
    reason = "installs a signal handler and reads the context it is given"
)]

use std::ffi::c_int;
use std::ffi::c_void;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sterna_sys::gate::{self, Arrival, Gate, RequestError, Verdict};
use tokio::sync::Notify;
use wasmtime::Store;
use wasmtime::unix::StoreExt;

use crate::control::Control;
use crate::installed::Installed;
use crate::pass::Spot;
use crate::pool::Pool;
use crate::stack::{self, Calls, Unknown};

/// Where a guest stops.
pub(crate) struct Stopper {
    control: Arc<Control>,
    signals: Arc<Signals>,
}

/// What a guest's host calls, who stops it and who watches it tell each other.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Where the guest stands still.
    pub(crate) gate: Gate,
    /// Gets it out of a wait.
    pub(crate) interrupt: Notify,
    /// Whether it waits in a host call.
    pub(crate) waiting: AtomicBool,
    /// Whether it is to end.
    pub(crate) killed: AtomicBool,
    /// Whether who stops it will ask where it stands.
    pub(crate) looked_at: AtomicBool,
    /// What it told of its stack before it parked in a host call.
    pub(crate) calls: Mutex<Calls>,
    /// Whether pages of its memory are still to come.
    pub(crate) lacks: AtomicBool,
    /// Whether its word is set: what it does now is saving its frames.
    pub(crate) unwinding: AtomicBool,
}

/// What came of asking a guest to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopping {
    Parked,
    Ended,
    TimedOut,
    /// Somebody else is stopping it.
    Busy,
}

impl Stopper {
    pub(crate) fn new(control: Arc<Control>, signals: Arc<Signals>) -> Arc<Stopper> {
        Arc::new(Stopper { control, signals })
    }

    /// Handles faults of `store`'s guest on its poll page.
    pub(crate) fn watch<T>(self: &Arc<Self>, store: &mut Store<T>) {
        let stopper = self.clone();
        let handler = move |_: c_int, info: *const libc::siginfo_t, context: *const c_void| {
            // SAFETY: the kernel gave both to the handler of a fault.
            let address = unsafe { gate::fault_address(info) };
            if !stopper.control.page().contains(address) {
                return false;
            }
            // SAFETY: as above.
            let registers = unsafe { gate::registers(context) };
            // The verdict is in the word by now: the load that faulted is done again and sees it.
            stopper.signals.gate.arrive(Some(registers));
            true
        };
        // SAFETY: the handler only reads atomics and waits on a futex.
        unsafe { store.set_signal_handler(handler) };
    }

    /// Brings the guest to a stop, at most within `within`.
    pub(crate) fn stop(&self, within: Duration) -> Stopping {
        match self.signals.gate.request() {
            Ok(()) => {}
            Err(RequestError::Closed) => return Stopping::Ended,
            Err(_) => return Stopping::Busy,
        }
        let protected = self.control.page().protect();
        self.signals.interrupt.notify_one();
        let arrival = if protected.is_ok() {
            self.signals.gate.wait_stopped(within)
        } else {
            Arrival::TimedOut
        };
        let stopping = match arrival {
            Arrival::Closed => Stopping::Ended,
            Arrival::TimedOut if self.signals.gate.withdraw() => Stopping::TimedOut,
            Arrival::Stopped => Stopping::Parked,
            // Too late to take the request back: it has just come to one or the other.
            Arrival::TimedOut => match self.signals.gate.wait_stopped(Duration::ZERO) {
                Arrival::Closed => Stopping::Ended,
                _ => Stopping::Parked,
            },
        };
        if stopping == Stopping::Parked {
            Pool::global().park(true);
        } else {
            self.open(0);
        }
        stopping
    }

    /// Shows `see` where the parked guest's frames stand that are on its stack, innermost first, until it breaks off.
    pub(crate) fn walk(
        &self,
        installed: &Installed,
        see: &mut dyn FnMut(Spot) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Unknown> {
        match self.signals.gate.stopped_at() {
            Some(registers) => {
                // SAFETY: 1. It faulted at its poll page, so it is in code that the engine made, which keeps frame
                // pointers, and stands still until it is released. 2. `walk` stops at the first address that is not
                // in a function of such code.
                let callers = unsafe { registers.callers() };
                stack::walk(installed, registers, callers, see)
            }
            None => {
                let calls = self.signals.calls.lock();
                stack::walk_calls(
                    installed,
                    &calls.unwrap_or_else(PoisonError::into_inner),
                    see,
                )
            }
        }
    }

    /// Whether the parked guest is in a host call.
    pub(crate) fn waits(&self) -> bool {
        self.signals.gate.stopped_at().is_none()
    }

    /// Lets a parked guest go on, or unwind.
    pub(crate) fn release(&self, verdict: Verdict) {
        self.open(u32::from(verdict == Verdict::Unwind));
        if self.signals.gate.release(verdict).is_ok() {
            Pool::global().park(false);
        }
    }

    /// Makes a guest that was not asked to park unwind at its next poll, or leave its host call.
    pub(crate) fn hurry(&self) {
        fence(Ordering::SeqCst);
        self.open(1);
        self.signals.interrupt.notify_one();
    }

    /// Sets the word, accessible. Of a guest that is to end it stays set, whoever clears it: a kill may
    /// come at any moment.
    pub(crate) fn open(&self, word: u32) {
        self.set(word);
        if word == 0 {
            // A kill first says so, then sets the word: one of us sees the other.
            fence(Ordering::SeqCst);
            if self.signals.killed.load(Ordering::SeqCst) {
                self.set(1);
            }
        }
    }

    fn set(&self, word: u32) {
        self.signals.unwinding.store(word != 0, Ordering::Release);
        // Only a lack of kernel memory for splitting a mapping could refuse, and this joins two.
        self.control
            .page()
            .unprotect_with(word)
            .expect("a page of this process can be made accessible");
    }
}
