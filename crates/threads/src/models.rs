//! Small programs that a model checker (loom) runs under every schedule that makes a difference: for the queues
//! between kernel threads, for parking, and for what is built on tickets. `cargo xtask test` builds and runs them.
//!
//! Threads here are the checker's, which this package takes for kernel threads that it did not make. The switching of
//! user threads is not modelled: a worker does that alone.
#![allow(
    clippy::arc_with_non_send_sync,
    reason = "the checker's cells are not `Sync`, so that it can look who uses them"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;
use sterna_sys::stacks::{Guards, Slab};

use crate::packet::packet;
use crate::primitives::atomic::{AtomicUsize, Ordering};
use crate::record::Record;
use crate::sync::channel::{Receiver, Select, Sender, bounded, unbounded};
use crate::sync::{Barrier, Condvar, Mutex, Once, RwLock, Semaphore};
use crate::wait::{Cancel, Outcome, Waiting};
use crate::worker::{Inbox, Options, Shared};
use crate::{Cancelled, current, park, scope};

/// Times that a thread is interrupted where it need not be, at most. Errors show with two, by the experience of who
/// wrote the checker; the time grows with each. `LOOM_MAX_PREEMPTIONS` in the environment says otherwise.
const PREEMPTIONS_MAX: usize = 2;

fn check(program: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(PREEMPTIONS_MAX);
    model.check(program);
}

/// What a function returned, or that it was cancelled.
fn cancellable<T>(f: impl FnOnce() -> T) -> Result<T, Cancelled> {
    let result = catch_unwind(AssertUnwindSafe(f));
    result.map_err(|payload| *payload.downcast().expect("nothing else is thrown"))
}

/// Counts drops.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn join<T>(threads: impl IntoIterator<Item = thread::JoinHandle<T>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// A number that only one may change, and nobody read meanwhile: the checker looks.
#[derive(Default)]
struct Guarded {
    touched: UnsafeCell<()>,
    number: std::sync::atomic::AtomicUsize,
}

impl Guarded {
    fn add(&self) {
        let add = |_| self.number.fetch_add(1, Ordering::Relaxed);
        self.touched.with_mut(add);
    }

    fn get(&self) -> usize {
        self.touched.with(|_| self.number.load(Ordering::Relaxed))
    }
}

#[test]
fn a_result_arrives() {
    check(|| {
        let (sender, receiver) = packet();
        let thread = thread::spawn(move || sender.finish(Ok(5)));
        assert_eq!(receiver.wait(Cancel::May).unwrap(), 5);
        thread.join().unwrap();
    });
}

#[test]
fn a_result_nobody_waits_for_is_dropped_once() {
    check(|| {
        let drops = Arc::new(AtomicUsize::new(0));
        let value = Counted(Arc::clone(&drops));
        let (sender, receiver) = packet();
        let thread = thread::spawn(move || sender.finish(Ok(value)));
        drop(receiver);
        thread.join().unwrap();
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_joiner_is_cancelled_while_the_result_comes() {
    check(|| {
        let drops = Arc::new(AtomicUsize::new(0));
        let value = Counted(Arc::clone(&drops));
        let (sender, receiver) = packet();
        let joiner = current();
        let finishes = thread::spawn(move || sender.finish(Ok(value)));
        let cancels = thread::spawn(move || joiner.cancel());
        drop(cancellable(|| receiver.wait(Cancel::May).unwrap()));
        finishes.join().unwrap();
        cancels.join().unwrap();
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn no_unpark_is_lost() {
    check(|| {
        let ready = Arc::new(AtomicUsize::new(0));
        let main = current();
        let threads = [0; 2].map(|_| {
            let (ready, main) = (Arc::clone(&ready), main.clone());
            thread::spawn(move || {
                ready.fetch_add(1, Ordering::Relaxed);
                main.unpark();
            })
        });
        while ready.load(Ordering::Relaxed) < 2 {
            park();
        }
        join(threads);
    });
}

#[test]
fn a_wait_is_granted_or_given_up() {
    check(|| {
        let main = current();
        let waiting = Waiting::begin();
        let ticket = waiting.ticket();
        let cancels = thread::spawn(move || main.cancel());
        let grants = thread::spawn(move || ticket.grant());
        let outcome = waiting.wait(None, Cancel::May);
        assert_eq!(grants.join().unwrap(), outcome == Outcome::Granted);
        cancels.join().unwrap();
    });
}

#[test]
fn a_scope_waits_for_the_last() {
    check(|| {
        let state = Arc::new(scope::State::default());
        let written = Arc::new([Guarded::default(), Guarded::default()]);
        let threads = [0, 1].map(|at| {
            state.begin();
            let (state, written) = (Arc::clone(&state), Arc::clone(&written));
            thread::spawn(move || {
                written[at].add();
                state.ended();
            })
        });
        state.wait();
        assert!(written.iter().all(|number| number.get() == 1));
        join(threads);
    });
}

fn shared(workers: usize) -> Arc<Shared> {
    let slab = Slab::new(64 * 1024, Guards::Marks).unwrap();
    Arc::new(Shared::new(workers, slab, Options::default()).unwrap())
}

/// Sleeps as a worker does, unless there is something of this kind to do.
fn sleep(shared: &Shared, inbox: &Inbox, is_busy: impl FnOnce() -> bool) {
    shared.sleep(inbox, is_busy, || inbox.poller.poll(None, &mut Vec::new()));
}

#[test]
fn mail_wakes_who_sleeps() {
    check(|| {
        let shared = shared(1);
        let threads = [0; 2].map(|_| {
            let inbox = Arc::clone(&shared.inboxes[0]);
            thread::spawn(move || assert!(inbox.deliver(Record::foreign()).is_ok()))
        });
        let inbox = &shared.inboxes[0];
        let mut got = 0;
        while got < 2 {
            if inbox.has_mail() {
                got += inbox.take_mail().len();
            } else {
                sleep(&shared, inbox, || inbox.has_mail());
            }
        }
        join(threads);
    });
}

#[test]
fn nothing_comes_after_the_end() {
    check(|| {
        let shared = shared(1);
        let (one, two) = (
            Arc::clone(&shared.inboxes[0]),
            Arc::clone(&shared.inboxes[0]),
        );
        let sends = [
            thread::spawn(move || one.deliver(Record::foreign()).is_ok()),
            thread::spawn(move || two.offer_from_outside(Record::foreign()).is_ok()),
        ];
        let inbox = &shared.inboxes[0];
        let mut got = 0;
        while !inbox.close() {
            got += inbox.take_mail().len() + inbox.take_unstarted().iter().len();
        }
        let sent = sends.map(|thread| usize::from(thread.join().unwrap()));
        assert_eq!(sent.iter().sum::<usize>(), got);
    });
}

/// Takes new threads as a worker does, until all have been taken.
fn take(shared: &Shared, number: usize, left: &AtomicUsize) {
    let inbox = &shared.inboxes[number];
    let other = &shared.inboxes[1 - number];
    shared.awake(inbox);
    while !shared.is_closing() {
        let found = inbox
            .take_unstarted()
            .or_else(|| other.steal(1).pop_front());
        if found.is_some() && left.fetch_sub(1, Ordering::Relaxed) == 1 {
            shared.close();
        }
        let is_busy = || shared.is_closing() || inbox.has_unstarted() || other.has_spoils();
        sleep(shared, inbox, is_busy);
    }
}

/// One thread that any worker may take, and two workers, of which one sleeps or both do.
#[test]
fn work_for_anybody_wakes_somebody() {
    check(|| {
        let shared = shared(2);
        let left = Arc::new(AtomicUsize::new(1));
        let workers = [0, 1].map(|number| {
            let (shared, left) = (Arc::clone(&shared), Arc::clone(&left));
            thread::spawn(move || take(&shared, number, &left))
        });
        shared.place(&shared.inboxes[0], Record::foreign());
        join(workers);
        assert_eq!(left.load(Ordering::Relaxed), 0);
    });
}

/// A worker makes two threads while the other begins, falls asleep or wakes up, and computes for ever: the other runs
/// both.
#[test]
fn what_was_given_to_who_sleeps_is_not_left() {
    check(|| {
        let shared = shared(2);
        let left = Arc::new(AtomicUsize::new(2));
        let other = {
            let (shared, left) = (Arc::clone(&shared), Arc::clone(&left));
            thread::spawn(move || take(&shared, 1, &left))
        };
        let own = &shared.inboxes[0];
        shared.awake(own);
        own.offer(Record::foreign());
        shared.place(own, Record::foreign());
        join([other]);
        assert_eq!(left.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn all_values_arrive() {
    check(|| {
        let (sender, receiver) = bounded(1);
        let threads = [1, 2].map(|value| {
            let sender: Sender<usize> = sender.clone();
            thread::spawn(move || sender.send(value).unwrap())
        });
        drop(sender);
        assert_eq!(receiver.iter().sum::<usize>(), 3);
        join(threads);
    });
}

#[test]
fn a_value_is_handed_over_or_comes_back() {
    check(|| {
        let (sender, receiver): (Sender<u32>, Receiver<u32>) = bounded(0);
        let receives = thread::spawn(move || receiver.try_recv().is_ok());
        let sent = sender.send(5);
        assert_eq!(receives.join().unwrap(), sent.is_ok());
    });
}

/// A receiver that was cancelled leaves the value to others.
#[test]
fn no_value_is_lost_with_who_waits_for_it() {
    check(|| {
        let (sender, receiver) = unbounded();
        let theirs = receiver.clone();
        let waits = thread::spawn(move || {
            let own = current();
            let cancels = thread::spawn(move || own.cancel());
            let got = cancellable(|| theirs.recv().unwrap());
            cancels.join().unwrap();
            got
        });
        sender.send(5).unwrap();
        let got = waits.join().unwrap();
        assert_eq!(got.or_else(|_| receiver.try_recv()), Ok(5));
    });
}

#[test]
fn a_select_misses_nothing() {
    check(|| {
        let (one, ones) = unbounded();
        let (two, twos) = unbounded();
        // The senders stay: a channel without any is ready for ever.
        let threads = [one, two].map(|sender| {
            thread::spawn(move || {
                sender.send(1).unwrap();
                sender
            })
        });
        let mut got = 0;
        while got < 2 {
            let mut select = Select::new();
            let receivers = [&ones, &twos];
            let _numbers = receivers.map(|receiver| select.recv(receiver));
            got += receivers[select.ready()].try_recv().unwrap_or(0);
        }
        join(threads);
    });
}

/// Two that add, one of which may be cancelled while the lock is handed to it.
#[test]
fn a_mutex_excludes_and_is_never_lost() {
    check(|| {
        let value = Arc::new(Mutex::new(Guarded::default()));
        let theirs = Arc::clone(&value);
        let adds = thread::spawn(move || cancellable(|| theirs.lock().add()).is_ok());
        let main = current();
        let cancels = thread::spawn(move || main.cancel());
        let added = cancellable(|| value.lock().add()).is_ok();
        cancels.join().unwrap();
        let count = usize::from(added) + usize::from(adds.join().unwrap());
        assert_eq!(value.try_lock().unwrap().get(), count);
    });
}

#[test]
fn a_condition_wakes_who_waits() {
    check(|| {
        let shared = Arc::new((Mutex::new(false), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let notifies = thread::spawn(move || {
            *theirs.0.lock() = true;
            theirs.1.notify_one();
        });
        drop(shared.1.wait_while(shared.0.lock(), |done| !*done));
        notifies.join().unwrap();
    });
}

#[test]
fn one_writes_or_many_read() {
    check(|| {
        let lock = Arc::new(RwLock::new(Guarded::default()));
        let theirs = Arc::clone(&lock);
        let writes = thread::spawn(move || theirs.write().add());
        let theirs = Arc::clone(&lock);
        let reads = thread::spawn(move || theirs.read().get());
        assert!(lock.read().get() < 2 && reads.join().unwrap() < 2);
        writes.join().unwrap();
    });
}

#[test]
fn permits_are_not_lost() {
    check(|| {
        let semaphore = Arc::new(Semaphore::new(1));
        let threads = [1, 2].map(|count| {
            let semaphore = Arc::clone(&semaphore);
            thread::spawn(move || drop(semaphore.acquire_many(count)))
        });
        semaphore.release(1);
        join(threads);
        assert_eq!(semaphore.available(), 2);
    });
}

#[test]
fn a_barrier_lets_all_pass_and_tells_one() {
    check(|| {
        let barrier = Arc::new(Barrier::new(2));
        let theirs = Arc::clone(&barrier);
        let waits = thread::spawn(move || theirs.wait());
        assert!(barrier.wait() != waits.join().unwrap());
    });
}

#[test]
fn once_is_once() {
    check(|| {
        let shared = Arc::new((Once::new(), Guarded::default()));
        let call = |shared: &(Once, Guarded)| {
            shared.0.call_once(|| shared.1.add());
            assert_eq!(shared.1.get(), 1);
        };
        let theirs = Arc::clone(&shared);
        let calls = thread::spawn(move || call(&theirs));
        call(&shared);
        calls.join().unwrap();
    });
}
