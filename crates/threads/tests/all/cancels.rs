//! Cancellation in every call that blocks, at random moments: everything stays usable, and everybody ends.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sterna_threads::fs::File;
use sterna_threads::io::{TcpListener, TcpStream, UdpSocket, UnixStream, pipe};
use sterna_threads::process::Child;
use sterna_threads::sync::channel::{Receiver, Select, Sender, bounded};
use sterna_threads::sync::{Barrier, Condvar, Mutex, OnceLock, RwLock, Semaphore};
use sterna_threads::{
    Builder, Cancelled, Group, JoinHandle, Runtime, blocking, park, park_timeout, scope, sleep,
    sleep_until, spawn, yield_now,
};

use crate::IMPLEMENTATIONS;
use crate::files::make_fifo;

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
            _ => self.input_output(kind),
        }
    }

    fn input_output(&self, kind: u8) {
        match kind {
            18 => {
                let (mut one, _two) = UnixStream::pair().unwrap();
                let _ = one.read(&mut [0]);
            }
            19 => drop(TcpListener::bind(LOOPBACK).unwrap().accept()),
            20 => drop(UdpSocket::bind(LOOPBACK).unwrap().recv(&mut [0])),
            21 => {
                let (_reader, mut writer) = pipe().unwrap();
                let _ = writer.write_all(&[0; 1 << 20]);
            }
            22 => {
                // Nobody accepts, but the kernel connects; no answer ever comes.
                let listener = TcpListener::bind(LOOPBACK).unwrap();
                let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let _ = stream.read(&mut [0]);
            }
            23 => {
                let mut command = Command::new("cat");
                command.stdin(Stdio::piped());
                let mut child = Killed(Child::spawn(&mut command).unwrap());
                let _input = child.0.stdin.take();
                let _ = child.0.wait();
            }
            33 => {
                let mut command = Command::new("cat");
                command.stdin(Stdio::piped());
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                let mut child = Child::spawn(&mut command).unwrap();
                // Open as long as the wait lasts, so the process does as well.
                let _input = child.stdin.take();
                let _ = child.wait_with_output();
            }
            24 => {
                let (reader, _writer) = std::io::pipe().unwrap();
                let mut file = File::from_std(std::os::fd::OwnedFd::from(reader).into());
                let _ = file.read(&mut [0]);
            }
            34 => {
                let fifo = tempfile::tempdir().unwrap();
                let path = fifo.path().join("fifo");
                make_fifo(&path);
                let _ = File::open(&path);
            }
            25 => {
                let group = Group::new("waited for");
                drop(Builder::new().group(&group).spawn(park).unwrap());
                let _end = EndOfGroup(&group);
                group.join();
            }
            26 => drop(self.receiver.recv_timeout(SHORT)),
            27 => drop(self.hand_in.send_timeout(1, SHORT)),
            28 => drop(self.mutex.lock_timeout(SHORT)),
            29 => drop(self.semaphore.acquire_timeout(2, SHORT)),
            30 => {
                let (_guard, _timed_out) = self.condition.wait_timeout(self.mutex.lock(), SHORT);
            }
            31 => park_timeout(SHORT),
            _ => sleep_until(Instant::now() + SHORT),
        }
    }
}

/// A process that does not outlive the wait for it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A group whose threads end with the wait for them.
struct EndOfGroup<'a>(&'a Group);

impl Drop for EndOfGroup<'_> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Number of kinds of steps.
const KINDS: u8 = 35;
const LOOPBACK: &str = "127.0.0.1:0";
const SHORT: Duration = Duration::from_micros(200);

/// Programs, one for each thread.
fn programs() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(0..KINDS, 1..12), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn everything_stays_usable(
        implementation in prop::sample::select(IMPLEMENTATIONS.to_vec()),
        programs in programs(),
        seed in prop::option::of(any::<u64>()),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut builder = Runtime::builder(implementation).workers(2);
        if let Some(seed) = seed {
            builder = builder.schedule_seed(seed);
        }
        let runtime = builder.build().unwrap();
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

    /// The runtime ends while its threads are blocked in whatever it is: they all unwind, and nothing is left behind.
    #[test]
    fn the_runtime_ends_in_any_call(
        implementation in prop::sample::select(IMPLEMENTATIONS.to_vec()),
        programs in programs(),
    ) {
        let runtime = Runtime::builder(implementation).workers(2).build().unwrap();
        let shared = Arc::new(Shared::new());
        let whole = Arc::downgrade(&shared);
        runtime.run(|| {
            for steps in programs {
                let shared = Arc::clone(&shared);
                drop(spawn(move || steps.into_iter().for_each(|kind| shared.step(kind))));
            }
            yield_now();
        });
        drop((runtime, shared));
        prop_assert!(whole.upgrade().is_none());
    }
}
