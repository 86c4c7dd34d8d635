//! Two processes that sleep: each for a time of its own, at the same time, and neither knows of the other.
//!
//! `cargo run -p sterna-laboratory --example sleepers`

use std::hash::{BuildHasher, RandomState};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Nobody sleeps longer, in tenths of a second.
const LONGEST: u64 = 20;

fn main() -> std::io::Result<()> {
    if let Some(name) = std::env::args().nth(1) {
        sleeper(&name);
        return Ok(());
    }
    let begun = Instant::now();
    let started: std::io::Result<Vec<Child>> = ["eve", "bob"].into_iter().map(process).collect();
    for mut child in started? {
        child.wait()?;
    }
    println!("both are done after {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Starts this program again, as a process with a name.
fn process(name: &str) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?).arg(name).spawn()
}

fn sleeper(name: &str) {
    let tenths = 1 + RandomState::new().hash_one(name) % LONGEST;
    let time = Duration::from_millis(100 * tenths);
    let pid = std::process::id();
    println!(
        "{name} (process {pid}) is going to sleep for {:.1} s",
        time.as_secs_f64()
    );
    let due = Instant::now() + time;
    std::thread::sleep(time);
    println!(
        "{name} has woken up, {:.1} ms late",
        due.elapsed().as_secs_f64() * 1e3
    );
}
