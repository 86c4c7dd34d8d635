//! [`Ring`]: calls of one worker's threads that the kernel carries out while they wait, through io_uring (Linux 5.6).
//!
//! A call that the kernel can answer at once is answered by the system call that submits it, and nobody waits. Otherwise
//! its thread does, and the worker learns of the answer at its poller, where the ring is watched like a descriptor.
//!
//! ```text
//!  free ──start──► in flight ──(the kernel has answered)──► answered ──take──► free
//! ```
#![allow(
    unsafe_code,
    reason = "hands memory to the kernel for the time of a call"
)]

use std::cell::RefCell;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::cancel;
use crate::here;
use crate::poller::Poller;
use crate::wait::{Cancel, Outcome, Ticket, Waiting};

/// Calls in flight of one worker. Further ones find no room and are made elsewhere.
const CALLS_MAX: usize = 256;
/// Bytes of one read or write; the kernel transfers no more at once either (`MAX_RW_COUNT`).
const BYTES_MAX: usize = 0x7fff_f000;
/// Marks answers that nobody waits for.
const NOBODY: u64 = u64::MAX;
/// For the kernel: at the file's own position, and move that.
const AT_POSITION: u64 = u64::MAX;
/// What a wait within the kernel ends with when it is interrupted. System calls turn it into `EINTR`, rings do not always.
const RESTARTSYS: Errno = Errno::from_raw_os_error(512);

/// See the module.
pub(crate) struct Ring(RefCell<Inner>);

struct Inner {
    ring: IoUring,
    slots: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Default)]
struct Slot {
    waiter: Option<Ticket>,
    answer: Option<i32>,
}

/// Whether a write to a file is to reach the disk with all that belongs to the file, or with what is needed to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    All,
    Data,
}

/// Reads at `offset`, or at the file's position, which moves.
///
/// `None` here and below: there is no ring for this thread, or no room in it; the call was not made.
pub(crate) fn read(
    file: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: Option<u64>,
) -> Option<io::Result<usize>> {
    let length = buffer.len().min(BYTES_MAX) as u32;
    let call = opcode::Read::new(types::Fd(file.as_raw_fd()), buffer.as_mut_ptr(), length);
    let call = call.offset(offset.unwrap_or(AT_POSITION)).build();
    // SAFETY: 1. Buffer and descriptor are borrowed until the function returns.
    let answer = unsafe { carry_out(call) };
    Some(answer?.map(|length| length as usize))
}

/// Writes at `offset`, or at the file's position, which moves.
pub(crate) fn write(
    file: BorrowedFd<'_>,
    bytes: &[u8],
    offset: Option<u64>,
) -> Option<io::Result<usize>> {
    let length = bytes.len().min(BYTES_MAX) as u32;
    let call = opcode::Write::new(types::Fd(file.as_raw_fd()), bytes.as_ptr(), length);
    let call = call.offset(offset.unwrap_or(AT_POSITION)).build();
    // SAFETY: 1. Bytes and descriptor are borrowed until the function returns.
    let answer = unsafe { carry_out(call) };
    Some(answer?.map(|length| length as usize))
}

/// Waits until what was written is on the disk.
pub(crate) fn sync(file: BorrowedFd<'_>, what: Sync) -> Option<io::Result<()>> {
    let flags = match what {
        Sync::All => types::FsyncFlags::empty(),
        Sync::Data => types::FsyncFlags::DATASYNC,
    };
    let call = opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(flags);
    // SAFETY: 1. The descriptor is borrowed until the function returns.
    let answer = unsafe { carry_out(call.build()) };
    Some(answer?.map(drop))
}

/// Opens a file. A FIFO is opened without waiting for its other end.
pub(crate) fn open(path: &CStr, flags: OFlags, mode: Mode) -> Option<io::Result<OwnedFd>> {
    let call = opcode::OpenAt::new(types::Fd(CWD.as_raw_fd()), path.as_ptr())
        .flags(flags.bits() as i32)
        .mode(mode.bits());
    // SAFETY: 1. The path is borrowed until the function returns.
    let answer = unsafe { carry_out(call.build()) };
    Some(answer?.map(|descriptor| {
        // SAFETY: 1. The kernel has just made it for this call.
        unsafe { OwnedFd::from_raw_fd(descriptor) }
    }))
}

/// Has the kernel make a call and waits for its answer. A cancelled thread withdraws the call; if it was answered all
/// the same, the answer counts, and the thread ends at its next call.
///
/// # Safety
/// What the entry points to stays as it is until this returns, by unwinding too.
unsafe fn carry_out(call: Entry) -> Option<io::Result<i32>> {
    here::with_worker(|worker| {
        let ring = worker?.ring()?;
        // SAFETY: 1. `finish` returns or unwinds only when the kernel has answered; the rest is the contract.
        let at = unsafe { ring.0.borrow_mut().start(call) }?;
        Some(ring.finish(at))
    })
}

impl Ring {
    /// A ring for the kernel thread that calls this, watched by `poller`. `None` if the kernel has none to give.
    pub(crate) fn new(poller: &Poller) -> Option<Self> {
        let entries = CALLS_MAX as u32;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .build(entries)
            // Older kernels know neither flag.
            .or_else(|_| IoUring::new(entries))
            .ok()?;
        // SAFETY: 1. The ring is open while the descriptor is borrowed.
        let descriptor = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        poller.watch_ring(descriptor).ok()?;
        Some(Self(RefCell::new(Inner {
            ring,
            slots: Vec::new(),
            free: Vec::new(),
        })))
    }

    /// Lets go on whose calls were answered.
    #[inline]
    pub(crate) fn reap(&self) {
        self.0.borrow_mut().reap(None);
    }

    fn finish(&self, at: usize) -> io::Result<i32> {
        let waiting = {
            let mut inner = self.0.borrow_mut();
            inner.reap(Some(at));
            if let Some(answer) = inner.take(at) {
                return result(answer);
            }
            let waiting = Waiting::begin();
            inner.slots[at].waiter = Some(waiting.ticket());
            waiting
        };
        let outcome = waiting.wait(None, Cancel::May);
        if outcome == Outcome::Cancelled {
            let waiting = {
                let mut inner = self.0.borrow_mut();
                let waiting = Waiting::begin();
                inner.slots[at].waiter = Some(waiting.ticket());
                inner.withdraw(at);
                waiting
            };
            waiting.wait(None, Cancel::MayNot);
        }
        let answer = self.0.borrow_mut().take(at);
        let result = result(answer.expect("a grant follows the answer"));
        let withdrawn = |error: &io::Error| {
            let errno = Errno::from_io_error(error);
            matches!(errno, Some(Errno::CANCELED | Errno::INTR | RESTARTSYS))
        };
        if outcome == Outcome::Cancelled && result.as_ref().is_err_and(withdrawn) {
            cancel::raise();
        }
        result
    }
}

fn result(answer: i32) -> io::Result<i32> {
    if answer < 0 {
        Err(io::Error::from_raw_os_error(-answer))
    } else {
        Ok(answer)
    }
}

impl Inner {
    /// Submits a call: its slot, or `None` if there is no room.
    ///
    /// # Safety
    /// What the entry points to stays as it is until the slot has its answer.
    unsafe fn start(&mut self, call: Entry) -> Option<usize> {
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.slots.len() < CALLS_MAX => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
            None => return None,
        };
        let call = call.user_data(at as u64);
        // SAFETY: 1. The contract.
        let pushed = unsafe { self.ring.submission().push(&call) };
        if pushed.is_err() {
            self.free.push(at);
            return None;
        }
        self.submit();
        Some(at)
    }

    fn submit(&self) {
        // If the kernel is short of something, the entries stay in the queue until the next look around.
        let _ = self.ring.submit();
    }

    /// Asks the kernel to end a call early. It answers either way.
    fn withdraw(&mut self, at: usize) {
        let call = opcode::AsyncCancel::new(at as u64).build();
        // SAFETY: 1. The entry points to nothing.
        let pushed = unsafe { self.ring.submission().push(&call.user_data(NOBODY)) };
        if pushed.is_ok() {
            self.submit();
        }
    }

    /// Notes answers and wakes who waits for them, except for the call `own`, whose thread is the one that looks.
    fn reap(&mut self, own: Option<usize>) {
        if !self.ring.submission().is_empty() {
            self.submit();
        }
        for answer in self.ring.completion() {
            if answer.user_data() == NOBODY {
                continue;
            }
            let at = answer.user_data() as usize;
            let slot = &mut self.slots[at];
            slot.answer = Some(answer.result());
            let waiter = slot.waiter.take();
            if own != Some(at)
                && let Some(waiter) = waiter
            {
                waiter.grant();
            }
        }
    }

    fn take(&mut self, at: usize) -> Option<i32> {
        let answer = self.slots[at].answer.take()?;
        self.slots[at].waiter = None;
        self.free.push(at);
        Some(answer)
    }
}
