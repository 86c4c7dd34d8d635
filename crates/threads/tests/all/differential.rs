//! The same programs on the standard library and on each implementation, compared by what they return.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use sterna_threads::Runtime;

use crate::{IMPLEMENTATIONS, in_other_orders};

/// What the two libraries call the same by other names, or return in a `Result` because of poison.
mod kit_of_std {
    pub(super) use std::sync::mpsc::sync_channel as channel;
    pub(super) use std::sync::{Barrier, Condvar, Mutex, OnceLock, RwLock};
    use std::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};
    pub(super) use std::thread::{park, scope, sleep, spawn, yield_now};

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(|poison| poison.into_inner())
    }
    pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
        lock.read().unwrap()
    }
    pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
        lock.write().unwrap()
    }
    pub(super) fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        condition.wait(guard).unwrap()
    }
    pub(super) fn arrive(barrier: &Barrier) -> bool {
        barrier.wait().is_leader()
    }
}

mod kit_of_ours {
    pub(super) use sterna_threads::sync::channel::bounded as channel;
    pub(super) use sterna_threads::sync::{Barrier, Condvar, Mutex, OnceLock, RwLock};
    use sterna_threads::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};
    pub(super) use sterna_threads::{park, scope, sleep, spawn, yield_now};

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock()
    }
    pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
        lock.read()
    }
    pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
        lock.write()
    }
    pub(super) fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        condition.wait(guard)
    }
    pub(super) fn arrive(barrier: &Barrier) -> bool {
        barrier.wait()
    }
}

/// On each implementation, and with several orders where those can be chosen.
fn on_each(program: impl Fn() -> Vec<u64> + Send + Sync, expected: &[u64]) {
    for &implementation in IMPLEMENTATIONS {
        let runtime = Runtime::builder(implementation).workers(2).build().unwrap();
        assert_eq!(runtime.run(&program), expected, "{implementation:?}");
    }
    in_other_orders(|seed, runtime| assert_eq!(runtime.run(&program), expected, "seed {seed}"));
}

/// Makes the same source a function for each of two libraries.
macro_rules! programs {
    ($($name:ident => $body:expr;)*) => {
        mod on_std {
            $(pub(super) fn $name() -> Vec<u64> {
                #[allow(unused_imports, reason = "not every program uses everything")]
                use {super::kit_of_std::*, std::thread, std::sync::Arc};
                $body
            })*
        }
        mod on_ours {
            $(pub(super) fn $name() -> Vec<u64> {
                #[allow(unused_imports, reason = "not every program uses everything")]
                use {super::kit_of_ours::*, sterna_threads as thread, std::sync::Arc};
                $body
            })*
        }
        $(#[test]
        fn $name() {
            on_each(on_ours::$name, &on_std::$name());
        })*
    };
}

programs! {
    tree => {
        fn sum(low: u64, high: u64) -> u64 {
            if high - low < 4 {
                return (low..high).sum();
            }
            let middle = (low + high) / 2;
            let left = spawn(move || sum(low, middle));
            sum(middle, high) + left.join().unwrap()
        }
        vec![sum(0, 200)]
    };
    turns => {
        let log = Arc::new(Mutex::new(Vec::new()));
        let main = thread::current();
        for turn in 0..20 {
            let (log, main) = (Arc::clone(&log), main.clone());
            let handle = spawn(move || {
                park();
                lock(&log).push(turn);
                main.unpark();
            });
            handle.thread().unpark();
            park();
            handle.join().unwrap();
        }
        std::mem::take(&mut *lock(&log))
    };
    borrowed => {
        let mut table = vec![0_u64; 64];
        for round in 1..5 {
            scope(|scope| {
                for (at, chunk) in table.chunks_mut(8).enumerate() {
                    scope.spawn(move || {
                        for cell in chunk {
                            yield_now();
                            *cell += round * at as u64;
                        }
                    });
                }
            });
        }
        table
    };
    failures => {
        let handles: Vec<_> = (0..10_u64)
            .map(|number| spawn(move || {
                if number % 3 == 0 {
                    std::panic::resume_unwind(Box::new(number));
                }
                number
            }))
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|payload| 1000 + payload.downcast_ref::<u64>().unwrap()))
            .collect()
    };
    pipeline => {
        let (first, mut output) = channel(2);
        for stage in 0..5_u64 {
            let (sender, next) = channel(stage as usize % 3);
            let input = std::mem::replace(&mut output, next);
            spawn(move || {
                for value in input.iter() {
                    sender.send(value * 3 + stage).unwrap();
                }
            });
        }
        let feeds = spawn(move || (0..50_u64).for_each(|value| first.send(value).unwrap()));
        let got = output.iter().collect();
        feeds.join().unwrap();
        got
    };
    buffer => {
        // Producers and consumers around a buffer of three places: every value once.
        let shared = Arc::new((Mutex::new(Vec::new()), Condvar::new(), Condvar::new()));
        let producers: Vec<_> = (0..3_u64).map(|producer| {
            let shared = Arc::clone(&shared);
            spawn(move || {
                for value in 0..20 {
                    let mut buffer = lock(&shared.0);
                    while buffer.len() == 3 {
                        buffer = wait(&shared.1, buffer);
                    }
                    buffer.push(producer * 100 + value);
                    shared.2.notify_one();
                }
            })
        }).collect();
        let consumers: Vec<_> = (0..2).map(|_| {
            let shared = Arc::clone(&shared);
            spawn(move || {
                let mut own = Vec::new();
                for _ in 0..30 {
                    let mut buffer = lock(&shared.0);
                    while buffer.is_empty() {
                        buffer = wait(&shared.2, buffer);
                    }
                    own.push(buffer.remove(0));
                    shared.1.notify_one();
                }
                own
            })
        }).collect();
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        let mut all: Vec<u64> = consumers.into_iter().flat_map(|consumer| consumer.join().unwrap()).collect();
        all.sort_unstable();
        all
    };
    phases => {
        // Nobody begins a round before all have ended the last.
        let shared = Arc::new((Barrier::new(5), Mutex::new(vec![0; 4])));
        let threads: Vec<_> = (0..5).map(|_| {
            let shared = Arc::clone(&shared);
            spawn(move || {
                let mut led = 0;
                for round in 0..4 {
                    lock(&shared.1)[round] += 1;
                    led += u64::from(arrive(&shared.0));
                    assert_eq!(lock(&shared.1)[round], 5);
                }
                led
            })
        }).collect();
        let led = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        let mut counts = lock(&shared.1).clone();
        counts.push(led);
        counts
    };
    readers => {
        let shared = Arc::new((RwLock::new((0_u64, 0_u64)), OnceLock::new()));
        let threads: Vec<_> = (0..8_u64).map(|number| {
            let shared = Arc::clone(&shared);
            spawn(move || {
                for _ in 0..20 {
                    if number < 2 {
                        let mut pair = write(&shared.0);
                        pair.0 += 1;
                        yield_now();
                        pair.1 += 1;
                    } else {
                        let pair = read(&shared.0);
                        yield_now();
                        assert_eq!(pair.0, pair.1);
                    }
                }
                *shared.1.get_or_init(|| { yield_now(); 7 })
            })
        }).collect();
        let once: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        let pair = *read(&shared.0);
        vec![pair.0, pair.1, once]
    };
    unlocked_by_panic => {
        let value = Arc::new(Mutex::new(0_u64));
        for number in 0..6_u64 {
            let value = Arc::clone(&value);
            let ended = spawn(move || {
                let mut value = lock(&value);
                *value += 1;
                if number % 2 == 0 {
                    std::panic::resume_unwind(Box::new(()));
                }
            }).join();
            assert_eq!(ended.is_err(), number % 2 == 0);
        }
        vec![*lock(&value)]
    };
    slept_in_order => {
        let log = Arc::new(Mutex::new(Vec::new()));
        let threads: Vec<_> = [40_u64, 20, 0].map(|pause| {
            let log = Arc::clone(&log);
            spawn(move || {
                sleep(std::time::Duration::from_millis(pause * 5));
                lock(&log).push(pause);
            })
        }).into();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        std::mem::take(&mut *lock(&log))
    };
}

/// How a node of a random graph learns what another has computed.
#[derive(Debug, Clone, Copy)]
enum Edge {
    Channel,
    Once,
    Condition,
}

/// A node waits for some of those before it, then computes; some fail.
#[derive(Debug, Clone)]
struct Node {
    before: Vec<(prop::sample::Index, Edge)>,
    fails: bool,
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let edge = prop::sample::select(vec![Edge::Channel, Edge::Once, Edge::Condition]);
    let before = prop::collection::vec((any::<prop::sample::Index>(), edge), 0..4);
    let node = (before, prop::bool::weighted(0.1));
    let node = node.prop_map(|(before, fails)| Node { before, fails });
    prop::collection::vec(node, 1..24)
}

/// What a node makes of its number and of what it waited for.
fn value(number: usize, inputs: impl Iterator<Item = u64>) -> u64 {
    inputs.fold(number as u64 + 1, |sum, input| {
        sum.wrapping_mul(31).wrapping_add(input)
    })
}

/// Without threads: what the others must agree with.
fn computed(nodes: &[Node]) -> Vec<u64> {
    let mut values = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let inputs = node.before.iter().filter(|_| number > 0);
        let inputs = inputs.map(|(index, _)| values[index.index(number)]);
        values.push(value(number, inputs));
    }
    values
}

macro_rules! graph {
    ($name:ident, $kit:ident) => {
        fn $name(nodes: &[Node]) -> Vec<u64> {
            use std::sync::Arc;
            use $kit::*;

            type Place = Arc<(Mutex<Option<u64>>, Condvar, OnceLock<u64>)>;
            let places: Vec<Place> = nodes
                .iter()
                .map(|_| Arc::new((Mutex::new(None), Condvar::new(), OnceLock::new())))
                .collect();
            let mut sends: Vec<Vec<_>> = nodes.iter().map(|_| Vec::new()).collect();
            let mut work = Vec::new();
            for (number, node) in nodes.iter().enumerate() {
                let mut inputs: Vec<Box<dyn FnOnce() -> u64 + Send>> = Vec::new();
                for (index, edge) in node.before.iter().filter(|_| number > 0) {
                    let from = index.index(number);
                    let place = Arc::clone(&places[from]);
                    let by_condition = move || {
                        let mut value = lock(&place.0);
                        loop {
                            match *value {
                                Some(value) => return value,
                                None => value = wait(&place.1, value),
                            }
                        }
                    };
                    inputs.push(match edge {
                        Edge::Channel => {
                            let (sender, receiver) = channel(from % 3);
                            sends[from].push(sender);
                            Box::new(move || receiver.recv().unwrap())
                        }
                        Edge::Once => {
                            let place = Arc::clone(&places[from]);
                            Box::new(move || *place.2.get_or_init(by_condition))
                        }
                        Edge::Condition => Box::new(by_condition),
                    });
                }
                work.push((Arc::clone(&places[number]), inputs, node.fails));
            }
            let threads: Vec<_> = work
                .into_iter()
                .zip(sends)
                .enumerate()
                .rev()
                .map(|(number, ((place, inputs, fails), sends))| {
                    spawn(move || {
                        let value = value(number, inputs.into_iter().map(|input| input()));
                        *lock(&place.0) = Some(value);
                        place.1.notify_all();
                        for sender in sends {
                            sender.send(value).unwrap();
                        }
                        if fails {
                            std::panic::resume_unwind(Box::new(value));
                        }
                        value
                    })
                })
                .collect();
            let joined = threads.into_iter().rev().map(|thread| thread.join());
            joined
                .map(|result| result.unwrap_or_else(|payload| *payload.downcast().unwrap()))
                .collect()
        }
    };
}

graph!(graph_on_std, kit_of_std);
graph!(graph_on_ours, kit_of_ours);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 40 }))]

    #[test]
    fn random_graphs(nodes in nodes()) {
        let expected = computed(&nodes);
        prop_assert_eq!(&graph_on_std(&nodes), &expected);
        let run = || on_each(|| graph_on_ours(&nodes), &expected);
        prop_assert!(catch_unwind(AssertUnwindSafe(run)).is_ok());
    }
}
