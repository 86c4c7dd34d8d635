//! Cancellation in every call that blocks, at random moments: everything stays usable, and everybody ends.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use sterna_threads::io::UnixStream;
use sterna_threads::sync::channel::{Receiver, Select, Sender, bounded};
use sterna_threads::sync::{Barrier, Condvar, Mutex, OnceLock, RwLock, Semaphore};
use sterna_threads::{
    Cancelled, JoinHandle, Runtime, blocking, park, scope, sleep, spawn, yield_now,
};

use crate::IMPLEMENTATIONS;

/// Things to block on, shared by all threads of one program.
struct Shared {
    mutex: Mutex<u64>,
    condition: Condvar,
    lock: RwLock<u64>,
    semaphore: Semaphore,
    barrier: Barrier,
    once: OnceLock<u64>,
    sender: Sender<u64>,
    receiver: Receiver<u64>,
    hand_in: Sender<u64>,
    hand_out: Receiver<u64>,
}

impl Shared {
    fn new() -> Self {
        let (sender, receiver) = bounded(2);
        let (hand_in, hand_out) = bounded(0);
        Self {
            mutex: Mutex::new(0),
            condition: Condvar::new(),
            lock: RwLock::new(0),
            semaphore: Semaphore::new(2),
            barrier: Barrier::new(3),
            once: OnceLock::new(),
            sender,
            receiver,
            hand_in,
            hand_out,
        }
    }

    fn step(&self, kind: u8) {
        match kind {
            0 => {
                let mut value = self.mutex.lock();
                *value += 1;
                yield_now();
            }
            1 => drop(self.condition.wait(self.mutex.lock())),
            2 => {
                self.condition.notify_one();
            }
            3 => {
                let _value = self.lock.read();
                yield_now();
            }
            4 => {
                let mut value = self.lock.write();
                *value += 1;
                yield_now();
            }
            5 => {
                let _permits = self.semaphore.acquire_many(2);
                yield_now();
            }
            6 => {
                self.barrier.wait();
            }
            7 => {
                self.once.get_or_init(|| {
                    sleep(Duration::from_micros(100));
                    1
                });
            }
            8 => drop(self.sender.send(1)),
            9 => drop(self.receiver.recv()),
            10 => drop(self.hand_in.send(1)),
            11 => drop(self.hand_out.recv()),
            12 => {
                let mut select = Select::new();
                select.recv(&self.receiver);
                select.recv(&self.hand_out);
                select.send(&self.sender);
                select.ready();
            }
            13 => park(),
            14 => sleep(Duration::from_micros(200)),
            15 => drop(spawn(|| sleep(Duration::from_micros(100))).join()),
            16 => scope(|scope| drop(scope.spawn(yield_now))),
            17 => blocking(|| std::thread::sleep(Duration::from_micros(50))),
            _ => {
                let (mut one, _two) = UnixStream::pair().unwrap();
                let _ = one.read(&mut [0]);
            }
        }
    }
}

/// Number of kinds of steps.
const KINDS: u8 = 19;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn everything_stays_usable(
        implementation in prop::sample::select(IMPLEMENTATIONS.to_vec()),
        programs in prop::collection::vec(prop::collection::vec(0..KINDS, 1..12), 1..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let runtime = Runtime::builder(implementation).workers(2).build().unwrap();
        runtime.run(|| {
            let shared = Arc::new(Shared::new());
            let handles: Vec<JoinHandle<()>> = programs.into_iter().map(|steps| {
                let shared = Arc::clone(&shared);
                spawn(move || steps.into_iter().for_each(|kind| shared.step(kind)))
            }).collect();
            for index in order {
                yield_now();
                index.get(&handles).cancel();
            }
            handles.iter().for_each(JoinHandle::cancel);
            for handle in handles {
                if let Err(payload) = handle.join() {
                    assert!(payload.is::<Cancelled>());
                }
            }
            // Nothing is held, nobody is in line.
            assert!(shared.mutex.try_lock().is_some());
            assert!(shared.lock.try_write().is_some());
            assert_eq!(shared.semaphore.available(), 2);
            assert!(!shared.condition.notify_one());
            assert_eq!(*shared.once.get_or_init(|| 2), *shared.once.get().unwrap());
            while shared.receiver.try_recv().is_ok() {}
            shared.sender.try_send(1).unwrap();
            assert!(shared.hand_in.try_send(1).is_err());
            assert!(shared.hand_out.try_recv().is_err());
        });
    }
}
