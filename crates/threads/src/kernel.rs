//! [`KernelRuntime`]: each thread is a thread of the kernel.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::cancel::Cancelled;
use crate::here;
use crate::owned::{Body, Owned, Payload};
use crate::record::{Given, Place, Record};

pub(crate) struct KernelRuntime {
    /// Bytes of a thread's stack unless it says otherwise.
    stack_bytes: usize,
    live: Mutex<HashMap<u64, Weak<Record>>>,
    ended: Condvar,
    closing: AtomicBool,
}

impl KernelRuntime {
    pub(crate) fn new(stack_bytes: usize) -> Self {
        Self {
            stack_bytes,
            live: Mutex::default(),
            ended: Condvar::new(),
            closing: AtomicBool::new(false),
        }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<u64, Weak<Record>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn spawn(
        self: &Arc<Self>,
        given: Given,
        stack_bytes: Option<usize>,
        body: Body<'static>,
    ) -> io::Result<Arc<Record>> {
        let stack_bytes = stack_bytes.unwrap_or(self.stack_bytes);
        let mut builder = std::thread::Builder::new().stack_size(stack_bytes);
        if let Some(name) = &given.extras.name {
            builder = builder.name(name.to_string());
        }
        let place = Place::of_kernel(Some(Arc::clone(self)));
        let record = Record::new(given, place, Owned::empty());
        if let Some(group) = &record.group {
            group.enter(&record);
        }
        self.live().insert(record.id, Arc::downgrade(&record));
        let (runtime, own) = (Arc::clone(self), Arc::clone(&record));
        let spawned = builder.spawn(move || {
            here::set_record(Some(&own));
            let refused = runtime.closing.load(Ordering::SeqCst) || own.cancel_requested();
            body(refused.then(|| Box::new(Cancelled) as Payload));
            here::set_record(None);
            runtime.live().remove(&own.id);
            runtime.ended.notify_all();
        });
        if let Err(error) = spawned {
            self.live().remove(&record.id);
            if let Some(group) = &record.group {
                group.leave(record.id);
            }
            return Err(error);
        }
        Ok(record)
    }

    /// Cancels all threads.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let live: Vec<_> = self.live().values().cloned().collect();
        for record in live.iter().filter_map(Weak::upgrade) {
            record.cancel();
        }
    }

    /// Waits until the last thread has ended.
    pub(crate) fn wait(&self) {
        let mut live = self.live();
        while !live.is_empty() {
            live = self
                .ended
                .wait(live)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
