//! What threads cost under each implementation, beside the standard library: nanoseconds for making and joining one,
//! for a yield between two, for handing a value or a lock over. Run with
//! `--release`, and with `taskset -c 0` for one processor.

use std::hint::black_box;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use sterna_threads::sync::Mutex;
use sterna_threads::sync::channel::bounded;
use sterna_threads::{Implementation, Runtime, spawn, yield_now};

/// Rounds of each measurement; the best counts, since everything else on the machine only adds.
const ROUNDS: usize = 5;

fn main() -> std::io::Result<()> {
    println!(
        "{:<10} {:>12} {:>12} {:>12} {:>12}",
        "ns", "create+join", "yield", "channel", "mutex"
    );
    row(
        "std",
        [
            best(2_000, std_create_join),
            best(20_000, std_yield),
            best(20_000, std_channel),
            best(20_000, std_mutex),
        ],
    );
    for implementation in [
        Implementation::User,
        Implementation::Hybrid,
        Implementation::Kernel,
    ] {
        let runtime = Runtime::builder(implementation).workers(1).build()?;
        let count = match implementation {
            Implementation::Kernel => 5_000,
            _ => 500_000,
        };
        let costs = runtime.run(|| {
            [
                best(count, create_join),
                best(count, two_yield),
                best(count, channel),
                best(count, mutex),
            ]
        });
        row(&format!("{implementation:?}"), costs);
    }
    Ok(())
}

fn row(name: &str, costs: [f64; 4]) {
    let [create, switch, channel, mutex] = costs;
    println!("{name:<10} {create:>12.1} {switch:>12.1} {channel:>12.1} {mutex:>12.1}");
}

/// Nanoseconds per operation in the best of some rounds. `f` does `count` of them.
fn best(count: usize, f: impl Fn(usize)) -> f64 {
    let once = || {
        let start = Instant::now();
        f(count);
        start.elapsed().as_nanos() as f64 / count as f64
    };
    (0..ROUNDS).map(|_| once()).fold(f64::INFINITY, f64::min)
}

fn create_join(count: usize) {
    for number in 0..count {
        let handle = spawn(move || black_box(number));
        assert!(handle.join().is_ok());
    }
}

fn two_yield(count: usize) {
    let one = move || (0..count / 2).for_each(|_| yield_now());
    let handles = [spawn(one), spawn(one)];
    for handle in handles {
        assert!(handle.join().is_ok());
    }
}

fn std_create_join(count: usize) {
    for number in 0..count {
        let handle = std::thread::spawn(move || black_box(number));
        assert!(handle.join().is_ok());
    }
}

fn std_yield(count: usize) {
    let one = move || (0..count / 2).for_each(|_| std::thread::yield_now());
    let handles = [std::thread::spawn(one), std::thread::spawn(one)];
    for handle in handles {
        assert!(handle.join().is_ok());
    }
}

/// A value goes to and fro between two threads: two hand-overs each time.
fn channel(count: usize) {
    let (there, inbox) = bounded(1);
    let (back, answers) = bounded(1);
    let echo = spawn(move || {
        inbox
            .iter()
            .for_each(|value| assert!(back.send(value).is_ok()))
    });
    for value in 0..count / 2 {
        assert!(there.send(value).is_ok());
        assert_eq!(answers.recv(), Ok(value));
    }
    drop(there);
    assert!(echo.join().is_ok());
}

fn std_channel(count: usize) {
    let (there, inbox) = std::sync::mpsc::sync_channel(1);
    let (back, answers) = std::sync::mpsc::sync_channel(1);
    let echo = std::thread::spawn(move || {
        inbox
            .iter()
            .for_each(|value| assert!(back.send(value).is_ok()));
    });
    for value in 0..count / 2 {
        assert!(there.send(value).is_ok());
        assert_eq!(answers.recv(), Ok(value));
    }
    drop(there);
    assert!(echo.join().is_ok());
}

/// Two threads lock in turn; each holds the lock while it gives way, so that the other always waits for it.
fn mutex(count: usize) {
    let lock = Arc::new(Mutex::new(0));
    let handles = [0, 1].map(|_| {
        let lock = Arc::clone(&lock);
        spawn(move || {
            for _ in 0..count / 2 {
                let mut value = lock.lock();
                yield_now();
                *value += 1;
            }
        })
    });
    for handle in handles {
        assert!(handle.join().is_ok());
    }
}

fn std_mutex(count: usize) {
    let lock = Arc::new(std::sync::Mutex::new(0));
    let handles = [0, 1].map(|_| {
        let lock = Arc::clone(&lock);
        std::thread::spawn(move || {
            for _ in 0..count / 2 {
                let mut value = lock.lock().unwrap_or_else(PoisonError::into_inner);
                std::thread::yield_now();
                *value += 1;
            }
        })
    });
    for handle in handles {
        assert!(handle.join().is_ok());
    }
}
