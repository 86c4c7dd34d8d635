//! Starting, switching to and ending the threads of a worker: all of its unsafe code.
#![allow(
    unsafe_code,
    reason = "switches stacks, and touches what only a thread's worker may"
)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sterna_sys::stacks::{Context, Stack, StackError, leave, overflow, prepare, switch};

use super::{Next, Worker};
use crate::cancel::Cancelled;
use crate::here;
use crate::owned::Payload;
use crate::record::{Place, Record};

/// Stacks that a worker keeps for its next threads, with their memory.
const STACKS_KEPT_MAX: usize = 256;

/// What to switch to.
enum Target {
    /// Where the context of the thread is saved, and what it is.
    Context(*const Context, Context),
    /// A new thread that takes over the stack that was offered.
    Takeover,
    Base,
}

/// Puts a started thread, which was blocked, among the ready ones of its worker.
pub(crate) fn make_ready(record: Arc<Record>) {
    let Place::User { runtime, worker } = &record.place else {
        unreachable!("only user threads have a worker");
    };
    let number = worker.load(Ordering::Relaxed) as usize;
    let is_here = |worker: &Worker| worker.number == number && runtime.is(&worker.shared);
    let home = here::with_worker(|worker| match worker {
        Some(worker) if is_here(worker) => None,
        // SAFETY: 1. The thread was blocked and only this call can let it go on.
        _ => Some(Arc::clone(&unsafe { runtime.get() }.inboxes[number])),
    });
    if let Some(home) = home {
        let delivered = home.deliver(record);
        debug_assert!(delivered.is_ok(), "a worker outlives its threads");
    } else {
        here::with_worker(|worker| {
            if let Some(worker) = worker {
                worker.ready(record);
            }
        });
    }
}

/// Where the context of a thread of this worker is saved.
#[inline]
pub(super) fn context_of(record: &Record) -> *mut Context {
    // SAFETY: 1. The pointer is to a live record; only the address of a field is taken.
    unsafe { &raw mut (*record.owned.get()).context }
}

impl Worker {
    /// Runs the worker on this kernel thread until its runtime is closed and its last thread has ended.
    pub(crate) fn run(&self) {
        overflow::use_alternate_stack();
        self.inbox.set_task();
        // SAFETY: 1. The function reads a thread-local pointer and a record, takes no lock and allocates nothing.
        unsafe { overflow::install(here::whose_overflow) };
        here::work_as(self, || {
            here::set_record(Some(&self.base));
            self.shared.awake(&self.inbox);
            self.resume(self.base_context.as_ptr());
            here::set_record(None);
        });
    }

    /// Leaves the running thread, whose context goes to `from`; returns when it is resumed.
    #[inline]
    pub(super) fn resume(&self, from: *mut Context) {
        match self.target(None) {
            Target::Context(at, to) => {
                if std::ptr::eq(at, from) {
                    return;
                }
                // SAFETY: 1. `from` is a field of a record that is kept among the live ones, or of this worker. 2. The
                // target was suspended here, on this kernel thread, or is new; being taken from a queue, it is not
                // resumed twice.
                unsafe { switch(from, to) };
            }
            Target::Takeover => unreachable!("no stack was offered"),
            Target::Base => {
                here::set_record(Some(&self.base));
                let base = self.base_context.get();
                if !std::ptr::eq(from, self.base_context.as_ptr()) {
                    // SAFETY: 1. As above; the base is suspended whenever a thread runs.
                    unsafe { switch(from, base) };
                }
            }
        }
        self.settle();
    }

    /// This thread runs from now on.
    #[inline]
    fn arrive(&self, record: &Arc<Record>) {
        here::set_record(Some(record));
        self.inbox.note_switch(record.id);
    }

    /// After a switch: the stack of who ended is free now.
    #[inline]
    fn settle(&self) {
        if let Some(stack) = self.retired.take() {
            let mut stacks = self.stacks.borrow_mut();
            if stacks.len() < STACKS_KEPT_MAX {
                stacks.push(stack);
            }
        }
    }

    /// The next thread, ready to be switched to, and the running one from now on. A stack that is offered and not taken
    /// over is retired.
    #[inline]
    fn target(&self, mut offered: Option<Stack>) -> Target {
        loop {
            let record = match self.next() {
                Next::Thread(record) => record,
                Next::Stop => {
                    self.retired.set(offered);
                    return Target::Base;
                }
            };
            let own = record.owned.get();
            // SAFETY: 1. The record came from this worker's queue, so this kernel thread owns it.
            let is_new = unsafe { (*own).stack.is_none() };
            if !is_new {
                self.retired.set(offered);
                // SAFETY: 1. As above.
                let context = unsafe { (*own).context };
                self.arrive(&record);
                if let Some(ahead) = self.queue.borrow().ahead() {
                    // SAFETY: 1. As above.
                    unsafe { *context_of(ahead) }.prefetch();
                }
                let at = context_of(&record);
                self.spare.set(Some(record));
                return Target::Context(at, context);
            }
            if record.slab().is_none()
                && let Some(stack) = offered.take()
            {
                self.settle_in(record, stack);
                return Target::Takeover;
            }
            match self.equip(&record) {
                Ok((stack, context)) => {
                    self.retired.set(offered);
                    let at = context_of(&record);
                    self.settle_in(record, stack);
                    return Target::Context(at, context);
                }
                Err(error) => refuse(&record, Box::new(error)),
            }
        }
    }

    /// A stack for a new thread, and where it begins.
    fn equip(&self, record: &Record) -> Result<(Stack, Context), StackError> {
        let stack = match record.slab() {
            Some(slab) => slab.take()?,
            None => match self.stacks.borrow_mut().pop() {
                Some(stack) => stack,
                None => self.shared.slab.take()?,
            },
        };
        // SAFETY: 1. The stack is unused, and the record keeps it until the thread has ended.
        let context = unsafe { prepare(&stack, entry, std::ptr::from_ref(self) as usize) };
        Ok((stack, context))
    }

    /// A new thread has its stack and runs from now on.
    fn settle_in(&self, record: Arc<Record>, stack: Stack) {
        self.arrive(&record);
        let own = record.owned.get();
        let live = self.start(record);
        // SAFETY: 1. The record came from this worker's queue, so this kernel thread owns it; it is among the live ones.
        unsafe { (*own).live = live };
        // SAFETY: 1. As above.
        unsafe { (*own).stack = Some(stack) };
    }

    /// Runs the current thread to its end, and gives back its stack, on which this code still runs.
    fn run_current(&self) -> Stack {
        let body = here::with_record(|record| {
            let own = record.owned.get();
            // SAFETY: 1. This kernel thread owns the record of the thread it runs.
            let body = unsafe { (*own).body.take() };
            let refused = self.shared.is_closing() || record.cancel_requested();
            (body, refused.then(|| Box::new(Cancelled) as Payload))
        });
        if let (Some(body), payload) = body {
            body(payload);
        }
        if self.queue.borrow().sharing() {
            self.charge();
        }
        self.spare.set(None);
        let own = here::with_record(|record| record.owned.get());
        // SAFETY: 1. As above; the record is among the live ones.
        let live = unsafe { (*own).live };
        // SAFETY: 1. As above.
        let stack = unsafe { (*own).stack.take() };
        here::set_record(Some(&self.base));
        let kept = self.live.borrow_mut().remove(live);
        drop(kept);
        stack.expect("a thread runs on its stack")
    }
}

/// The thread will not run: its joiner is told why.
#[cold]
fn refuse(record: &Record, why: Payload) {
    let own = record.owned.get();
    // SAFETY: 1. The record came from this worker's queue, so this kernel thread owns it.
    let body = unsafe { (*own).body.take() };
    if let Some(body) = body {
        body(Some(why));
    }
}

/// The first function on every stack: runs its thread, then those that take over the stack.
extern "C" fn entry(worker: usize) -> ! {
    // SAFETY: 1. `equip` passes the worker, which outlives its threads.
    let worker = unsafe { &*(worker as *const Worker) };
    loop {
        worker.settle();
        let stack = worker.run_current();
        let to = match worker.target(Some(stack)) {
            Target::Takeover => continue,
            Target::Context(_, to) => to,
            Target::Base => worker.base_context.get(),
        };
        // SAFETY: 1. This stack is kept until the switch is done. 2. As in `resume`.
        unsafe { leave(to) };
    }
}
