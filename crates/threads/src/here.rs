//! What runs on this kernel thread: the current thread's record, and the worker if it is one.
#![allow(
    unsafe_code,
    reason = "follows two pointers that are set while what they point to lives"
)]

use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::Arc;
use std::time::Instant;

use crate::local::Locals;
use crate::primitives::thread_local;
use crate::record::Record;
use crate::worker::Worker;

struct Here {
    worker: Cell<*const Worker>,
    /// From `Arc::as_ptr`; whoever sets it keeps a strong count until it is set to something else.
    record: Cell<*const Record>,
}

impl Here {
    const fn nobody() -> Self {
        Self {
            worker: Cell::new(ptr::null()),
            record: Cell::new(ptr::null()),
        }
    }
}

#[cfg(not(loom))]
thread_local! {
    static HERE: Here = const { Here::nobody() };
    /// Keeps the record of a thread that this package did not make.
    static FOREIGN: RefCell<Option<Foreign>> = const { RefCell::new(None) };
}
#[cfg(loom)]
thread_local! {
    static HERE: Here = Here::nobody();
    static FOREIGN: RefCell<Option<Foreign>> = RefCell::new(None);
}

#[cfg_attr(loom, expect(dead_code, reason = "kept to be dropped"))]
struct Foreign(Arc<Record>);

// The model checker destroys thread-locals when it has no threads left to ask for theirs.
#[cfg(not(loom))]
impl Drop for Foreign {
    fn drop(&mut self) {
        crate::local::clear();
        HERE.with(|here| {
            if here.record.get() == Arc::as_ptr(&self.0) {
                here.record.set(ptr::null());
            }
        });
    }
}

/// Calls `f` with the worker that this kernel thread is, if it is one.
#[inline]
pub(crate) fn with_worker<R>(f: impl FnOnce(Option<&Worker>) -> R) -> R {
    let worker = HERE.with(|here| here.worker.get());
    // SAFETY: 1. `work_as` keeps the worker alive while it is set. 2. A user thread never changes its kernel thread, so
    // the reference stays right even if `f` switches.
    f(unsafe { worker.as_ref() })
}

/// Calls `f` with the record of the running thread.
#[inline]
pub(crate) fn with_record<R>(f: impl FnOnce(&Record) -> R) -> R {
    let record = pointer();
    // SAFETY: 1. Whoever set it keeps it alive while the thread runs, and `f` runs on the thread.
    f(unsafe { &*record })
}

#[inline]
fn pointer() -> *const Record {
    let record = HERE.with(|here| here.record.get());
    if record.is_null() { adopt() } else { record }
}

/// The record of the running thread.
#[inline]
pub(crate) fn record() -> Arc<Record> {
    // Not by way of a reference, from which the counts beside the record could not be reached.
    let record = pointer();
    // SAFETY: 1. The pointer came from `Arc::as_ptr` of a live `Arc`.
    unsafe { Arc::increment_strong_count(record) };
    // SAFETY: 1. The count was raised for this one.
    unsafe { Arc::from_raw(record) }
}

/// The record of the running thread, to be put into a queue that it waits in: the reference by which a user thread was
/// itself taken from a queue, if it still has that, and so costs nothing.
#[inline]
pub(crate) fn record_to_queue() -> Arc<Record> {
    with_worker(|worker| worker.and_then(Worker::take_spare)).unwrap_or_else(record)
}

/// A kernel thread that this package did not make gets a record when it first asks.
#[cold]
fn adopt() -> *const Record {
    let record = Record::foreign();
    let pointer = Arc::as_ptr(&record);
    let kept =
        FOREIGN.try_with(|foreign| *foreign.borrow_mut() = Some(Foreign(Arc::clone(&record))));
    if kept.is_err() {
        // This kernel thread is destroying its thread-locals: nobody is left to drop the record.
        std::mem::forget(record);
    }
    HERE.with(|here| here.record.set(pointer));
    pointer
}

/// Says which thread runs from now on. The caller keeps `record` alive until the next call.
#[inline]
pub(crate) fn set_record(record: Option<&Arc<Record>>) {
    let pointer = record.map_or(ptr::null(), Arc::as_ptr);
    HERE.with(|here| here.record.set(pointer));
}

/// Runs `f` with this kernel thread being `worker`.
pub(crate) fn work_as<R>(worker: &Worker, f: impl FnOnce() -> R) -> R {
    HERE.with(|here| here.worker.set(worker));
    let result = f();
    HERE.with(|here| here.worker.set(ptr::null()));
    result
}

/// Calls `f` with the thread-locals of the running thread.
pub(crate) fn with_locals<R>(f: impl FnOnce(&Locals) -> R) -> R {
    with_record(|record| {
        let own = record.owned.get();
        // SAFETY: 1. This is the thread's own kernel thread. 2. Nobody makes a unique reference to this field, which is
        // a cell.
        f(unsafe { &(*own).locals })
    })
}

/// Stops the running thread until it is woken or `deadline` has passed, or for no reason.
pub(crate) fn block(deadline: Option<Instant>) {
    with_worker(|worker| match worker {
        Some(worker) => worker.block(deadline),
        None => with_record(|record| record.block_kernel(deadline)),
    });
}

/// For the handler of stack overflows: whose guard was hit.
pub(crate) fn whose_overflow(fault: usize) -> Option<(&'static str, usize)> {
    let record = HERE.try_with(|here| here.record.get()).ok()?;
    // SAFETY: 1. As in `with_record`. 2. The process ends in the handler, before the record could be dropped.
    let record: &'static Record = unsafe { record.as_ref() }?;
    // SAFETY: 1. This kernel thread owns it; it stands still in the handler and does not write the field while code
    // runs on that stack.
    let stack = unsafe { &(*record.owned.get()).stack };
    let stack = stack.as_ref().filter(|stack| stack.guards(fault))?;
    Some((record.name().unwrap_or("<unnamed>"), stack.usable()))
}
