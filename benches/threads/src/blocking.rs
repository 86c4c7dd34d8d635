//! Peers whose threads block: this package's, the standard library's, and `may`. One source for all, since their calls
//! have the same names.

use std::time::Duration;

use anyhow::Result;

use crate::peers::Task;

/// Bytes of a stack where a million are to fit.
const STACK_BYTES: usize = 60 * 1024;
/// Bytes of a server's buffer: more than a request, as is usual.
const BUFFER: usize = 4096;
/// How long the thread blocks that others must not wait for.
const BLOCKS: Duration = Duration::from_millis(500);

/// The tasks, for libraries that are alike in this.
macro_rules! peer {
    ($name:ident, $spawn:expr, $yield:expr, $park:expr, $sleep:expr, $announced:expr, $channel:expr, $listener:ty) => {
        mod $name {
            use std::hint::black_box;
            use std::io::{Read, Write};
            use std::sync::Arc;
            use std::sync::atomic::{AtomicUsize, Ordering};
            use std::time::{Duration, Instant};

            use anyhow::Result;

            use super::{BLOCKS, BUFFER};
            use crate::peers::{Task, processor_time, resident, wait_for_end};

            pub(super) fn run(task: Task, count: usize) -> Result<Option<f64>> {
                let start = Instant::now();
                match task {
                    Task::Create => create(count),
                    Task::Yield => yields(count),
                    Task::Channel => channel(count),
                    Task::Blocked => return Ok(Some(blocked(count, || ()))),
                    Task::Echo => return echo(),
                    Task::Gap => return Ok(Some(gap(|| std::thread::sleep(BLOCKS)))),
                    Task::AnnouncedGap => {
                        let announced: Option<fn()> = $announced;
                        return Ok(announced.map(gap));
                    }
                    Task::Idle => {
                        let mut used = 0.0;
                        blocked(count, || {
                            $sleep(Duration::from_millis(100));
                            let before = processor_time("self");
                            $sleep(Duration::from_secs(1));
                            used = processor_time("self") - before;
                        });
                        return Ok(Some(used / 1e6));
                    }
                    Task::Share => return Ok(None),
                }
                Ok(Some(start.elapsed().as_nanos() as f64 / count as f64))
            }

            fn create(count: usize) {
                for number in 0..count {
                    assert!($spawn(move || black_box(number)).join().is_ok());
                }
            }

            fn yields(count: usize) {
                let one = move || (0..count / 2).for_each(|_| $yield());
                let handles = [$spawn(one), $spawn(one)];
                for handle in handles {
                    assert!(handle.join().is_ok());
                }
            }

            fn channel(count: usize) {
                let (there, inbox) = $channel;
                let (back, answers) = $channel;
                let echo = $spawn(move || {
                    while let Ok(value) = inbox.recv() {
                        assert!(back.send(value).is_ok());
                    }
                });
                for value in 0..count / 2 {
                    assert!(there.send(value).is_ok());
                    assert_eq!(answers.recv().ok(), Some(value));
                }
                drop(there);
                assert!(echo.join().is_ok());
            }

            /// Bytes of each of so many blocked threads; `meanwhile` is called while they are.
            fn blocked(count: usize, meanwhile: impl FnOnce()) -> f64 {
                let before = resident();
                let arrived = Arc::new(AtomicUsize::new(0));
                let mut handles = Vec::with_capacity(count);
                for _ in 0..count {
                    let arrived = Arc::clone(&arrived);
                    handles.push($spawn(move || {
                        arrived.fetch_add(1, Ordering::Relaxed);
                        $park();
                    }));
                }
                while arrived.load(Ordering::Relaxed) < count {
                    $sleep(Duration::from_millis(1));
                }
                let bytes = (resident() - before) / count as f64;
                meanwhile();
                for handle in &handles {
                    handle.thread_to_wake().unpark();
                }
                handles.into_iter().for_each(|handle| drop(handle.join()));
                bytes
            }

            fn gap(block: fn()) -> f64 {
                let blocks = $spawn(move || {
                    // The other has begun to measure.
                    $sleep(Duration::from_millis(20));
                    block();
                });
                let measures = $spawn(move || {
                    let (start, mut last, mut longest) =
                        (Instant::now(), Instant::now(), Duration::ZERO);
                    while start.elapsed() < 2 * BLOCKS {
                        $sleep(Duration::from_millis(1));
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                    }
                    longest
                });
                drop(blocks.join());
                let longest: Duration = measures.join().unwrap_or_default();
                longest.as_secs_f64() * 1e3
            }

            fn echo() -> Result<Option<f64>> {
                let listener = <$listener>::bind("127.0.0.1:0")?;
                println!("{}", listener.local_addr()?.port());
                drop($spawn(move || {
                    while let Ok((mut stream, _)) = listener.accept() {
                        drop($spawn(move || {
                            let mut buffer = [0; BUFFER];
                            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                                if stream.write_all(&buffer[..length]).is_err() {
                                    return;
                                }
                            }
                        }));
                    }
                }));
                std::thread::spawn(|| {
                    wait_for_end();
                    std::process::exit(0);
                });
                loop {
                    $park();
                }
            }

            use super::ToWake;
        }
    };
}

/// The thread of a handle, under one name.
trait ToWake {
    type Thread;
    fn thread_to_wake(&self) -> &Self::Thread;
}

impl<T> ToWake for std::thread::JoinHandle<T> {
    type Thread = std::thread::Thread;
    fn thread_to_wake(&self) -> &Self::Thread {
        self.thread()
    }
}

impl<T> ToWake for sterna_threads::JoinHandle<T> {
    type Thread = sterna_threads::Thread;
    fn thread_to_wake(&self) -> &Self::Thread {
        self.thread()
    }
}

impl<T> ToWake for may::coroutine::JoinHandle<T> {
    type Thread = may::coroutine::Coroutine;
    fn thread_to_wake(&self) -> &Self::Thread {
        self.coroutine()
    }
}

peer!(
    of_std,
    std::thread::spawn,
    std::thread::yield_now,
    std::thread::park,
    std::thread::sleep,
    Some(|| std::thread::sleep(BLOCKS)),
    std::sync::mpsc::sync_channel(1),
    std::net::TcpListener
);
peer!(
    of_sterna,
    sterna_threads::spawn,
    sterna_threads::yield_now,
    sterna_threads::park,
    sterna_threads::sleep,
    Some(|| sterna_threads::blocking(|| std::thread::sleep(BLOCKS))),
    sterna_threads::sync::channel::bounded(1),
    sterna_threads::io::TcpListener
);
// It has no bounded channel, and nothing that announces a call.
peer!(
    of_may,
    crate::blocking::spawn_may,
    may::coroutine::yield_now,
    may::coroutine::park,
    may::coroutine::sleep,
    None,
    may::sync::mpsc::channel(),
    may::net::TcpListener
);

fn spawn_may<F, T>(f: F) -> may::coroutine::JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    may::go!(f)
}

pub(crate) fn std(task: Task, count: usize) -> Result<Option<f64>> {
    of_std::run(task, count)
}

pub(crate) fn may(task: Task, count: usize) -> Result<Option<f64>> {
    may::config().set_workers(1);
    let handle = spawn_may(move || of_may::run(task, count));
    let panicked = |_| anyhow::anyhow!("a coroutine has panicked");
    handle.join().map_err(panicked)?
}

pub(crate) fn sterna(name: &str, task: Task, count: usize) -> Result<Option<f64>> {
    let mut builder = sterna_threads::Runtime::builder(implementation(name)).workers(1);
    if task == Task::Blocked && name != "kernel" {
        builder = builder.stack_size(STACK_BYTES);
    }
    builder.build()?.run(|| of_sterna::run(task, count))
}

pub(crate) fn implementation(name: &str) -> sterna_threads::Implementation {
    match name {
        "kernel" => sterna_threads::Implementation::Kernel,
        "user" => sterna_threads::Implementation::User,
        _ => sterna_threads::Implementation::Hybrid,
    }
}
