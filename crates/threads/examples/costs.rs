//! What threads cost under each implementation, beside the standard library: nanoseconds for making and joining one,
//! for a yield between two, for handing a value over. Run with `--release`; arguments name what to measure.

use std::hint::black_box;
use std::time::Instant;

use sterna_threads::{Implementation, Runtime, spawn, yield_now};

/// Rounds of each measurement; the best counts, since everything else on the machine only adds.
const ROUNDS: usize = 5;

fn main() -> std::io::Result<()> {
    println!("{:<10} {:>14} {:>14}", "ns", "create+join", "yield");
    println!(
        "{:<10} {:>14.1} {:>14.1}",
        "std",
        best(2_000, std_create_join),
        best(20_000, std_yield)
    );
    for implementation in [
        Implementation::User,
        Implementation::Hybrid,
        Implementation::Kernel,
    ] {
        let runtime = Runtime::builder(implementation).workers(1).build()?;
        let fast = implementation != Implementation::Kernel;
        let count = if fast { 1_000_000 } else { 2_000 };
        let create = runtime.run(|| best(count, create_join));
        let switch = runtime.run(|| best(count, two_yield));
        println!(
            "{:<10} {create:>14.1} {switch:>14.1}",
            format!("{implementation:?}")
        );
    }
    Ok(())
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
