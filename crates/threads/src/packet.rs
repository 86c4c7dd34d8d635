//! Where a thread leaves its result for the one that joins it: a [`Sender`] for the thread, a [`Receiver`] for its
//! handle, and a packet between them that whoever is last frees.
//!
//! ```text
//!  RUNNING ──(the handle waits, its ticket is in the packet)──► WAITED ──(it gives up)──► RUNNING
//!     │ │                                                          │
//!     │ └─(the handle is dropped)─► DETACHED: the sender frees      │
//!     └──────────(the result is in the packet)──► CLOSING ◄────────┘
//!                                                    └──(the sender has let go)──► FINISHED: the receiver frees
//! ```
//!
//! Two ends that agree by one word cost less than two counted references, and this is done for every thread.
#![allow(
    unsafe_code,
    reason = "a result and a ticket that a state says whose they are"
)]

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::cancel;
use crate::primitives::atomic::{AtomicU8, Ordering};
use crate::primitives::{UnsafeCell, yield_now};
use crate::spawn::Result;
use crate::wait::{Cancel, Outcome, Ticket, Waiting};

const RUNNING: u8 = 0;
const WAITED: u8 = 1;
const CLOSING: u8 = 2;
const FINISHED: u8 = 3;
const DETACHED: u8 = 4;

struct Packet<T> {
    state: AtomicU8,
    /// The sender's until `FINISHED`, then the receiver's.
    result: UnsafeCell<Option<Result<T>>>,
    /// The receiver's while `RUNNING`; then of whoever leaves `WAITED`.
    joiner: UnsafeCell<Option<Ticket>>,
}

/// The thread's end. Dropped without a result, it leaves none.
pub(crate) struct Sender<T> {
    packet: NonNull<Packet<T>>,
    owns: PhantomData<Packet<T>>,
}

/// The handle's end.
pub(crate) struct Receiver<T> {
    packet: NonNull<Packet<T>>,
    owns: PhantomData<Packet<T>>,
}

// SAFETY: 1. The state says which end may touch which field; values move from one thread to another.
unsafe impl<T: Send> Send for Sender<T> {}
// SAFETY: 1. As above.
unsafe impl<T: Send> Send for Receiver<T> {}
// SAFETY: 1. Shared, it only reads the state.
unsafe impl<T: Send> Sync for Receiver<T> {}

/// Two ends of a new packet.
pub(crate) fn packet<T>() -> (Sender<T>, Receiver<T>) {
    let packet = Box::new(Packet {
        state: AtomicU8::new(RUNNING),
        result: UnsafeCell::new(None),
        joiner: UnsafeCell::new(None),
    });
    let packet = NonNull::from(Box::leak(packet));
    let owns = PhantomData;
    (Sender { packet, owns }, Receiver { packet, owns })
}

impl<T> Sender<T> {
    /// Leaves the result.
    pub(crate) fn finish(self, result: Result<T>) {
        // SAFETY: 1. The packet is there until the sender has let go.
        let packet = unsafe { self.packet.as_ref() };
        packet.result.with_mut(|own| {
            // SAFETY: 1. The result is the sender's.
            unsafe { *own = Some(result) }
        });
        // Dropped here, it lets go.
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        // SAFETY: 1. The packet is there until the sender has let go.
        let packet = unsafe { self.packet.as_ref() };
        let joiner = match packet.state.swap(CLOSING, Ordering::AcqRel) {
            DETACHED => {
                // SAFETY: 1. The receiver is gone.
                drop(unsafe { Box::from_raw(self.packet.as_ptr()) });
                return;
            }
            WAITED => packet.joiner.with_mut(|joiner| {
                // SAFETY: 1. This call left `WAITED`.
                unsafe { (*joiner).take() }
            }),
            _ => None,
        };
        // The last that the sender does with the packet: the receiver may free it now.
        packet.state.store(FINISHED, Ordering::Release);
        if let Some(joiner) = joiner {
            joiner.grant();
        }
    }
}

impl<T> Receiver<T> {
    fn packet(&self) -> &Packet<T> {
        // SAFETY: 1. Only the receiver frees it while there is one, unless it has detached itself.
        unsafe { self.packet.as_ref() }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.packet().state.load(Ordering::Acquire) == FINISHED
    }

    /// Waits for the result.
    pub(crate) fn wait(self, cancel: Cancel) -> Result<T> {
        if !self.is_finished() && !self.wait_unfinished(cancel) {
            drop(self);
            cancel::raise();
        }
        let result = self.packet().result.with_mut(|result| {
            // SAFETY: 1. It is the receiver's now.
            unsafe { (*result).take() }
        });
        result.expect("a thread that runs leaves a result")
    }

    /// False if it was cancelled.
    fn wait_unfinished(&self, cancel: Cancel) -> bool {
        let waiting = Waiting::begin();
        self.packet().joiner.with_mut(|joiner| {
            // SAFETY: 1. It is the receiver's, which has not set `WAITED` yet.
            unsafe { *joiner = Some(waiting.ticket()) }
        });
        if !self.exchange(RUNNING, WAITED) {
            self.wait_closed();
            return true;
        }
        if waiting.wait(None, cancel) != Outcome::Cancelled {
            return true;
        }
        if self.exchange(WAITED, RUNNING) {
            self.packet().joiner.with_mut(|joiner| {
                // SAFETY: 1. This call left `WAITED`.
                unsafe { *joiner = None }
            });
        }
        false
    }

    /// The sender is about to let go, a few instructions from now and on another kernel thread.
    fn wait_closed(&self) {
        while !self.is_finished() {
            yield_now();
        }
    }

    fn exchange(&self, from: u8, to: u8) -> bool {
        let state = &self.packet().state;
        state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if !self.is_finished() {
            if self.exchange(RUNNING, DETACHED) {
                return;
            }
            self.wait_closed();
        }
        // SAFETY: 1. The sender has let go.
        drop(unsafe { Box::from_raw(self.packet.as_ptr()) });
    }
}
