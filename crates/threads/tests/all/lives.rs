//! Being made, named, woken, joined; thread-locals; scopes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sterna_threads::{
    Builder, Implementation, Priority, Runtime, current, park, park_timeout, scope, sleep,
    sleep_until, spawn, yield_now,
};

use crate::on_all;

#[test]
fn results_come_back() {
    on_all(|| {
        let handles: Vec<_> = (0..200).map(|i| spawn(move || i * 2)).collect();
        let results: Vec<i32> = handles.into_iter().map(|h| h.join().unwrap()).collect();
        assert_eq!(results, (0..200).map(|i| i * 2).collect::<Vec<_>>());
    });
}

#[test]
fn names_and_ids() {
    on_all(|| {
        let handle = Builder::new()
            .name("tern")
            .spawn(|| (current().id(), current().name().map(str::to_owned)))
            .unwrap();
        let outside = handle.thread().id();
        let (inside, name) = handle.join().unwrap();
        assert_eq!(inside, outside);
        assert_ne!(inside, current().id());
        assert_eq!(name.as_deref(), Some("tern"));
    });
}

#[test]
fn unpark_before_park_and_after() {
    on_all(|| {
        current().unpark();
        park();
        let main = current();
        let handle = spawn(move || {
            yield_now();
            main.unpark();
            park();
            7
        });
        park();
        handle.thread().unpark();
        assert_eq!(handle.join().unwrap(), 7);
    });
}

#[test]
fn a_thread_outside_can_be_woken_too() {
    let runtime = Runtime::hybrid().unwrap();
    let outside = current();
    let handle = runtime
        .spawn(Builder::new(), move || outside.unpark())
        .unwrap();
    park();
    handle.join().unwrap();
}

#[test]
fn times_out() {
    on_all(|| {
        let start = Instant::now();
        park_timeout(Duration::from_millis(5));
        sleep(Duration::from_millis(5));
        assert!(start.elapsed() >= Duration::from_millis(10));
    });
}

#[test]
fn one_worker_wakes_in_the_order_of_deadlines() {
    let runtime = Runtime::user().unwrap();
    runtime.run(|| {
        let order = std::sync::Mutex::new(Vec::new());
        let start = Instant::now();
        scope(|scope| {
            for ms in [6_u64, 2, 4] {
                let order = &order;
                scope.spawn(move || {
                    sleep_until(start + Duration::from_millis(ms));
                    order.lock().unwrap().push(ms);
                });
            }
            yield_now();
            // All are overdue when the worker looks next.
            std::thread::sleep(Duration::from_millis(10));
        });
        assert_eq!(*order.lock().unwrap(), [2, 4, 6]);
    });
}

#[test]
fn newcomers_are_not_starved_by_a_yielder() {
    on_all(|| {
        let seen = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&seen);
        let yielder = spawn(move || {
            while !theirs.load(Ordering::Relaxed) {
                yield_now();
            }
        });
        yield_now();
        let newcomer = spawn(move || seen.store(true, Ordering::Relaxed));
        newcomer.join().unwrap();
        yielder.join().unwrap();
    });
}

#[test]
fn a_pair_that_wakes_each_other_does_not_starve_others() {
    let runtime = Runtime::user().unwrap();
    runtime.run(|| {
        let done = Arc::new(AtomicBool::new(false));
        let pair = [0, 1].map(|_| {
            let done = Arc::clone(&done);
            Arc::new(std::sync::OnceLock::<sterna_threads::Thread>::new()).clone_into_pair(done)
        });
        let [(first, first_peer), (second, second_peer)] = pair;
        first_peer.set(second.thread().clone()).unwrap();
        second_peer.set(first.thread().clone()).unwrap();
        first.thread().unpark();
        yield_now();
        let other = spawn(move || done.store(true, Ordering::Relaxed));
        other.join().unwrap();
        for handle in [first, second] {
            handle.thread().unpark();
            handle.join().unwrap();
        }
    });
}

type Peer = Arc<std::sync::OnceLock<sterna_threads::Thread>>;

/// A thread that wakes its peer and parks until told to end.
trait Pair {
    fn clone_into_pair(self, done: Arc<AtomicBool>) -> (sterna_threads::JoinHandle<()>, Peer);
}

impl Pair for Peer {
    fn clone_into_pair(self, done: Arc<AtomicBool>) -> (sterna_threads::JoinHandle<()>, Peer) {
        let peer = Arc::clone(&self);
        let handle = spawn(move || {
            park();
            while !done.load(Ordering::Relaxed) {
                if let Some(peer) = peer.get() {
                    peer.unpark();
                }
                park();
            }
        });
        (handle, self)
    }
}

sterna_threads::thread_local! {
    static DEPTH: Cell<u32> = Cell::new(1);
    static KEPT: RefCell<Option<Rc<Noted>>> = RefCell::new(None);
}

static DROPPED: AtomicUsize = AtomicUsize::new(0);

struct Noted;

impl Drop for Noted {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn thread_locals_belong_to_the_thread() {
    on_all(|| {
        let before = DROPPED.load(Ordering::Relaxed);
        let handles: Vec<_> = (0..10)
            .map(|i| {
                spawn(move || {
                    KEPT.with(|kept| *kept.borrow_mut() = Some(Rc::new(Noted)));
                    DEPTH.with(|depth| depth.set(depth.get() + i));
                    yield_now();
                    DEPTH.with(Cell::get)
                })
            })
            .collect();
        let depths: Vec<u32> = handles.into_iter().map(|h| h.join().unwrap()).collect();
        assert_eq!(depths, (1..11).collect::<Vec<_>>());
        assert_eq!(DROPPED.load(Ordering::Relaxed) - before, 10);
        assert_eq!(DEPTH.with(Cell::get), 1);
    });
}

#[test]
fn scopes_lend() {
    on_all(|| {
        let mut numbers = vec![1, 2, 3, 4];
        let sum = AtomicUsize::new(0);
        scope(|scope| {
            for number in &mut numbers {
                let sum = &sum;
                scope.spawn(move || {
                    yield_now();
                    *number *= 2;
                    sum.fetch_add(*number, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(numbers, [2, 4, 6, 8]);
        assert_eq!(sum.into_inner(), 20);
    });
}

#[test]
fn urgent_first_background_last() {
    let runtime = Runtime::user().unwrap();
    runtime.run(|| {
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let handles = [Priority::Background, Priority::Normal, Priority::Urgent].map(|priority| {
            let order = Arc::clone(&order);
            let builder = Builder::new().priority(priority);
            builder
                .spawn(move || order.lock().unwrap().push(priority))
                .unwrap()
        });
        for handle in handles {
            handle.join().unwrap();
        }
        let order = order.lock().unwrap();
        assert_eq!(
            *order,
            [Priority::Urgent, Priority::Normal, Priority::Background]
        );
    });
}

#[test]
fn what_started_keeps_its_kernel_thread() {
    let runtime = Runtime::builder(Implementation::Hybrid)
        .workers(4)
        .build()
        .unwrap();
    runtime.run(|| {
        let handles: Vec<_> = (0..200)
            .map(|_| {
                spawn(|| {
                    let not_send = Rc::new(std::thread::current().id());
                    for _ in 0..50 {
                        yield_now();
                        assert_eq!(std::thread::current().id(), *not_send);
                    }
                })
            })
            .collect();
        for handle in handles {
            handle.join().unwrap();
        }
    });
}

#[test]
fn unstarted_threads_are_taken_from_a_busy_worker() {
    let runtime = Runtime::builder(Implementation::Hybrid)
        .workers(2)
        .build()
        .unwrap();
    runtime.run(|| {
        let ran = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&ran);
        let handle = spawn(move || theirs.store(true, Ordering::Relaxed));
        // This one never gives way: only another worker can run the new one.
        while !ran.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
        handle.join().unwrap();
    });
}

#[test]
fn a_burst_is_shared_between_workers() {
    const BURSTS: usize = 20;
    const THREADS: usize = 8;
    let runtime = Runtime::builder(Implementation::Hybrid)
        .workers(2)
        .build()
        .unwrap();
    let elsewhere: usize = runtime.run(|| {
        let burst = |_| {
            // Meanwhile nobody has anything to do.
            sleep(Duration::from_millis(1));
            burst_elsewhere(THREADS)
        };
        (0..BURSTS).map(burst).sum()
    });
    // Half, but for those during which the other worker was awake already.
    assert!(elsewhere >= BURSTS * THREADS / 4, "{elsewhere}");
}

/// Makes threads: how many of them run with another worker.
fn burst_elsewhere(threads: usize) -> usize {
    let here = std::thread::current().id();
    let start = |_| spawn(|| std::thread::current().id());
    let handles: Vec<_> = (0..threads).map(start).collect();
    let ids = handles.into_iter().map(|handle| handle.join().unwrap());
    ids.filter(|&id| id != here).count()
}

/// Also while the other worker's kernel thread has not begun to run, let alone to sleep.
#[test]
fn a_burst_at_the_very_beginning_is_shared_between_workers() {
    const RUNTIMES: usize = 50;
    const THREADS: usize = 8;
    let of_one = |_| {
        let builder = Runtime::builder(Implementation::Hybrid).workers(2);
        builder.build().unwrap().run(|| burst_elsewhere(THREADS))
    };
    let elsewhere: Vec<usize> = (0..RUNTIMES).map(of_one).collect();
    let alone = elsewhere.iter().filter(|count| **count == 0).count();
    // Not none: a worker that is between two looks is given nothing.
    assert!(alone <= RUNTIMES / 5, "{elsewhere:?}");
}

#[test]
fn threads_from_outside_are_not_left_with_a_busy_worker() {
    let runtime = Runtime::builder(Implementation::Hybrid)
        .workers(2)
        .build()
        .unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&ran);
    let never_gives_way = move || {
        while theirs.load(Ordering::Relaxed) < 2 {
            std::hint::spin_loop();
        }
    };
    let mut handles = vec![runtime.spawn(Builder::new(), never_gives_way).unwrap()];
    for _ in 0..2 {
        let theirs = Arc::clone(&ran);
        let counts = move || {
            theirs.fetch_add(1, Ordering::Relaxed);
        };
        handles.push(runtime.spawn(Builder::new(), counts).unwrap());
    }
    for handle in handles {
        handle.join().unwrap();
    }
}
