//! Panics in every position, no more descriptors, no more stacks.

use std::io::{ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sterna_threads::fs::File;
use sterna_threads::io::{TcpListener, TcpStream, UnixStream};
use sterna_threads::process::{Child, output};
use sterna_threads::sync::channel::{bounded, unbounded};
use sterna_threads::sync::{Mutex, RwLock, Semaphore};
use sterna_threads::{
    Builder, Group, Implementation, Runtime, RuntimeBuilder, blocking, park, scope, spawn,
    yield_now,
};

use crate::{IMPLEMENTATIONS, in_child, on_all};

/// Panics when dropped, without a message.
struct Bomb(u8);

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            resume_unwind(Box::new(self.0));
        }
    }
}

fn caught<T>(f: impl FnOnce() -> T) -> u8 {
    let result = catch_unwind(AssertUnwindSafe(f));
    *result.err().unwrap().downcast().unwrap()
}

#[test]
fn panics_where_they_are_not_expected() {
    on_all(|| {
        // In a value that the closure holds.
        let bomb = Bomb(1);
        let ended = spawn(move || drop(bomb)).join();
        assert_eq!(*ended.unwrap_err().downcast::<u8>().unwrap(), 1);
        // In a thread-local.
        sterna_threads::thread_local! {
            static LOCAL: Bomb = Bomb(2);
        }
        let ended = spawn(|| LOCAL.with(|_| 5)).join();
        assert_eq!(*ended.unwrap_err().downcast::<u8>().unwrap(), 2);
        // In a result, where its joiner drops it.
        assert_eq!(caught(|| drop(spawn(|| Bomb(3)).join())), 3);
        // In a scope's function, whose threads are still waited for.
        let done = AtomicBool::new(false);
        let escaped = caught(|| {
            scope(|scope| {
                scope.spawn(|| {
                    (0..10).for_each(|_| yield_now());
                    done.store(true, Ordering::SeqCst);
                });
                resume_unwind(Box::new(4_u8));
            });
        });
        assert_eq!((escaped, done.into_inner()), (4, true));
        // In what `blocking` calls.
        assert_eq!(caught(|| blocking(|| drop(Bomb(5)))), 5);
        // In a value that waits in a channel for nobody.
        let (sender, receiver) = unbounded();
        sender.send(Bomb(6)).unwrap();
        assert_eq!(caught(|| drop(receiver)), 6);
        assert!(sender.send(Bomb(7)).map_err(std::mem::forget).is_err());
    });
}

#[test]
fn a_panic_gives_back_what_was_held() {
    on_all(|| {
        let shared = Arc::new((Mutex::new(0), RwLock::new(0), Semaphore::new(1)));
        let theirs = Arc::clone(&shared);
        let group = Group::new("fails");
        let builder = Builder::new().group(&group);
        let fails = builder.spawn(move || {
            let _guards = (theirs.0.lock(), theirs.1.write(), theirs.2.acquire());
            yield_now();
            drop(Bomb(1));
        });
        let waits = (shared.0.lock(), shared.1.read(), shared.2.acquire());
        drop(waits);
        group.join();
        assert!(fails.unwrap().join().is_err());
    });
}

fn ends_the_process(implementation: Implementation, test: &str) {
    let Some((success, text)) = in_child(test) else {
        let runtime = Runtime::builder(implementation).build().unwrap();
        runtime.run(|| {
            let (go_on, gate) = bounded(0);
            let body = move || {
                gate.recv().unwrap();
                Bomb(1)
            };
            drop(Builder::new().name("unwanted").spawn(body).unwrap());
            go_on.send(()).unwrap();
        });
        drop(runtime);
        return;
    };
    let expected = "the result of unwanted panicked when it was dropped";
    assert!(!success && text.contains(expected), "{text}");
}

#[test]
fn a_result_nobody_wants_may_not_panic() {
    let test = "corners::a_result_nobody_wants_may_not_panic";
    ends_the_process(Implementation::User, test);
}

#[test]
fn nor_may_that_of_a_thread_of_the_kernel() {
    let test = "corners::nor_may_that_of_a_thread_of_the_kernel";
    ends_the_process(Implementation::Kernel, test);
}

/// Lets this process have no more descriptors than it has: the limit before, and what fills the gaps.
fn no_more_descriptors() -> (Rlimit, Vec<std::fs::File>) {
    let before = getrlimit(Resource::Nofile);
    let next = std::fs::File::open("/").unwrap();
    let current = Some(std::os::fd::AsRawFd::as_raw_fd(&next) as u64);
    let maximum = before.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let gaps = std::iter::from_fn(|| std::fs::File::open("/").ok()).collect();
    (before, gaps)
}

#[test]
fn without_descriptors_calls_fail_and_threads_go_on() {
    let test = "corners::without_descriptors_calls_fail_and_threads_go_on";
    if let Some((success, text)) = in_child(test) {
        assert!(success, "{text}");
        return;
    }
    let kernel_threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let without_runtime = kernel_threads();
    for &implementation in IMPLEMENTATIONS {
        // Those of the runtime before close what they have as they end.
        while kernel_threads() > without_runtime {
            std::thread::yield_now();
        }
        let runtime = Runtime::builder(implementation).workers(2).build().unwrap();
        runtime.run(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            // A connection that waits to be accepted, and two that have never waited for anything.
            let mut early = TcpStream::connect(address).unwrap();
            let (mut one, mut two) = UnixStream::pair().unwrap();
            let (before, gaps) = no_more_descriptors();
            let full = |kind: std::io::Error| {
                assert_eq!(kind.raw_os_error(), Some(24), "{kind}");
            };
            full(listener.accept().unwrap_err());
            full(TcpStream::connect(address).unwrap_err());
            full(UnixStream::pair().unwrap_err());
            full(File::open("/dev/null").unwrap_err());
            full(sterna_threads::io::pipe().unwrap_err());
            full(
                Runtime::user()
                    .map(drop)
                    .and(Runtime::hybrid().map(drop))
                    .unwrap_err(),
            );
            assert!(Child::spawn(&mut std::process::Command::new("true")).is_err());
            assert!(output(&mut std::process::Command::new("true")).is_err());
            // Threads, locks and channels need none; nor do sockets that a worker watches for the first time. A thread of
            // the kernel needs one to be interrupted while it waits for a socket.
            if implementation != Implementation::Kernel {
                let (sender, receiver) = bounded(0);
                let echo = spawn(move || {
                    let mut byte = [0];
                    two.read_exact(&mut byte).unwrap();
                    sender.send(byte[0]).unwrap();
                });
                yield_now();
                one.write_all(&[9]).unwrap();
                assert_eq!(receiver.recv(), Ok(9));
                echo.join().unwrap();
            }
            setrlimit(Resource::Nofile, before).unwrap();
            drop(gaps);
            // The connection is still there.
            early.write_all(b"x").unwrap();
            listener.accept().unwrap().0.read_exact(&mut [0]).unwrap();
        });
    }
}

#[test]
fn no_stack_no_thread() {
    for &implementation in IMPLEMENTATIONS {
        let runtime = Runtime::builder(implementation).workers(1).build().unwrap();
        runtime.run(|| {
            let kind = |bytes| {
                Builder::new()
                    .stack_size(bytes)
                    .spawn(|| ())
                    .unwrap_err()
                    .kind()
            };
            assert_eq!([kind(1), kind(usize::MAX)], [ErrorKind::InvalidInput; 2]);
            // What was to be run is dropped, and the runtime is as before.
            let count = Arc::new(AtomicUsize::new(0));
            let held = Arc::clone(&count);
            let refused = Builder::new().stack_size(1).spawn(move || drop(held));
            assert!(refused.is_err());
            assert_eq!(Arc::strong_count(&count), 1);
            assert_eq!(spawn(|| 5).join().unwrap(), 5);
        });
    }
    let tiny = Runtime::builder(Implementation::User).stack_size(1).build();
    assert!(tiny.is_err());
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for &implementation in IMPLEMENTATIONS {
        let nobody = Runtime::builder(implementation).workers(0).build();
        let error = nobody.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("at least 1"), "{error}");
        let odd = |builder: RuntimeBuilder| builder.build().unwrap_err().kind();
        let new = || Runtime::builder(implementation);
        assert_eq!(odd(new().name("a\0b")), ErrorKind::InvalidInput);
        for bytes in [0, 1, usize::MAX] {
            assert_eq!(odd(new().stack_size(bytes)), ErrorKind::InvalidInput);
        }
        let runtime = new().build().unwrap();
        for thread in [Builder::new().name("a\0b"), Builder::new().stack_size(1)] {
            let refused = runtime.spawn(thread, || ()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        }
        let within = || {
            scope(|scope| {
                let named = Builder::new().name("a\0b").spawn_scoped(scope, || ());
                named.unwrap_err().kind()
            })
        };
        assert_eq!(runtime.run(within), ErrorKind::InvalidInput);
    }
    let refused = |weight, cap| {
        let made = catch_unwind(|| Group::with("odd", weight, cap));
        made.map(drop).unwrap_err().downcast::<String>().unwrap()
    };
    assert!(refused(0, None).contains("weight of group odd"));
    for cap in [0.0, -1.0, f64::NAN] {
        assert!(refused(1, Some(cap)).contains("cap of group odd"));
    }
    assert_eq!(Group::with("small", 1, Some(1e-9)).name(), "small");
}

#[test]
fn the_same_number_the_same_schedule() {
    let order = |seed| {
        let builder = Runtime::builder(Implementation::User).schedule_seed(seed);
        builder.build().unwrap().run(|| {
            let log = Arc::new(Mutex::new(Vec::new()));
            let threads: Vec<_> = (0..10)
                .map(|number| {
                    let log = Arc::clone(&log);
                    spawn(move || {
                        for _ in 0..3 {
                            log.lock().push(number);
                            yield_now();
                        }
                        // So that all orders of waking come up, too.
                        park();
                    })
                })
                .collect();
            threads.iter().for_each(|thread| thread.thread().unpark());
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
            std::mem::take(&mut *log.lock())
        })
    };
    let orders: Vec<Vec<i32>> = (0..5).map(order).collect();
    assert_eq!(orders, (0..5).map(order).collect::<Vec<_>>());
    assert!(orders.iter().any(|other| *other != orders[0]));
}
