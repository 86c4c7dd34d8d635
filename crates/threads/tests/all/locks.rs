//! Mutexes, conditions, semaphores, barriers and what is done once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sterna_threads::sync::{Barrier, Condvar, Mutex, OnceLock, RwLock, Semaphore};
use sterna_threads::{Cancelled, Runtime, scope, sleep, spawn, yield_now};

use crate::on_all;

#[test]
fn a_mutex_excludes() {
    on_all(|| {
        let counter = Mutex::new(0_u64);
        scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let mut value = counter.lock();
                        let before = *value;
                        yield_now();
                        *value = before + 1;
                    }
                });
            }
        });
        assert_eq!(counter.into_inner(), 1000);
    });
}

#[test]
fn a_mutex_is_handed_over_in_order() {
    let runtime = Runtime::user().unwrap();
    runtime.run(|| {
        let order = Mutex::new(Vec::new());
        let held = order.lock();
        scope(|scope| {
            for number in 0..10 {
                let order = &order;
                scope.spawn(move || order.lock().push(number));
                yield_now();
            }
            drop(held);
            // Who comes now is behind all others.
            order.lock().push(10);
        });
        assert_eq!(order.into_inner(), (0..11).collect::<Vec<_>>());
    });
}

#[test]
fn waits_time_out_and_are_cancelled() {
    on_all(|| {
        let mutex = Arc::new(Mutex::new(()));
        let semaphore = Arc::new(Semaphore::new(0));
        let held = mutex.lock();
        assert!(mutex.try_lock().is_none());
        assert!(mutex.lock_timeout(Duration::from_millis(2)).is_none());
        assert!(
            semaphore
                .acquire_timeout(1, Duration::from_millis(2))
                .is_none()
        );
        let theirs = Arc::clone(&mutex);
        let one = spawn(move || drop(theirs.lock()));
        let theirs = Arc::clone(&semaphore);
        let two = spawn(move || drop(theirs.acquire()));
        yield_now();
        sleep(Duration::from_millis(1));
        one.cancel();
        two.cancel();
        assert!(one.join().unwrap_err().is::<Cancelled>());
        assert!(two.join().unwrap_err().is::<Cancelled>());
        drop(held);
        assert!(mutex.try_lock().is_some());
        semaphore.release(1);
        assert!(semaphore.try_acquire(1).is_some());
    });
}

#[test]
fn readers_share_and_writers_do_not() {
    on_all(|| {
        let lock = RwLock::new((0_u32, 0_u32));
        let readers = AtomicUsize::new(0);
        let most = AtomicUsize::new(0);
        scope(|scope| {
            for number in 0..30 {
                let (lock, readers, most) = (&lock, &readers, &most);
                scope.spawn(move || {
                    if number % 3 == 0 {
                        let mut pair = lock.write();
                        pair.0 += 1;
                        yield_now();
                        assert_eq!(readers.load(Ordering::SeqCst), 0);
                        pair.1 += 1;
                    } else {
                        let pair = lock.read();
                        let now = readers.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        yield_now();
                        assert_eq!(pair.0, pair.1);
                        readers.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(lock.into_inner(), (10, 10));
    });
}

#[test]
fn conditions_wake() {
    on_all(|| {
        let (mutex, condition) = (Mutex::new(0), Condvar::new());
        scope(|scope| {
            for turn in 0..10 {
                let (mutex, condition) = (&mutex, &condition);
                scope.spawn(move || {
                    let mut value = condition.wait_while(mutex.lock(), |value| *value != turn);
                    *value += 1;
                    condition.notify_all();
                });
            }
        });
        let (guard, timed_out) = condition.wait_timeout(mutex.lock(), Duration::from_millis(1));
        assert!(timed_out);
        assert_eq!(*guard, 10);
    });
}

#[test]
fn semaphores_count() {
    on_all(|| {
        let semaphore = Semaphore::new(3);
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let _permit = semaphore.acquire();
                    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
            drop(semaphore.acquire_many(3));
        });
        assert!(most.into_inner() <= 3);
        assert_eq!(semaphore.available(), 3);
    });
}

#[test]
fn barriers_hold_everybody() {
    on_all(|| {
        let (barrier, arrived, leaders) =
            (Barrier::new(8), AtomicUsize::new(0), AtomicUsize::new(0));
        scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 1..=5 {
                        arrived.fetch_add(1, Ordering::SeqCst);
                        if barrier.wait() {
                            leaders.fetch_add(1, Ordering::SeqCst);
                        }
                        assert!(arrived.load(Ordering::SeqCst) >= 8 * round);
                    }
                });
            }
        });
        assert_eq!(leaders.into_inner(), 5);
    });
}

#[test]
fn once_and_again_after_a_panic() {
    on_all(|| {
        let (value, runs) = (OnceLock::new(), AtomicUsize::new(0));
        scope(|scope| {
            let handles: Vec<_> = (0..10)
                .map(|_| {
                    scope.spawn(|| {
                        *value.get_or_init(|| {
                            yield_now();
                            if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                                std::panic::resume_unwind(Box::new(()));
                            }
                            5
                        })
                    })
                })
                .collect();
            let failed = handles.into_iter().filter_map(|h| h.join().err()).count();
            assert_eq!(failed, 1);
        });
        assert_eq!(runs.into_inner(), 2);
        assert_eq!(value.into_inner(), Some(5));
    });
}
