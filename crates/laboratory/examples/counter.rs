//! Two processes with threads and a counter. All threads of a process see one counter, and the processes see none of
//! each other's, though both begin as copies with the same value. The threads sleep, and wake at their times however
//! many they are.
//!
//! `cargo run -p sterna-laboratory --example counter [THREADS [kernel|user|hybrid]]`

use std::hash::{BuildHasher, RandomState};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use sterna_threads::sync::Mutex;
use sterna_threads::{Implementation, Runtime, scope, sleep_until};

/// Nobody sleeps longer, in milliseconds.
const LONGEST_MS: u64 = 2000;
/// So many threads of a process say what they do; more would fill the screen.
const TALKING: usize = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        [name, x, threads, implementation] => process(name, x, threads, implementation),
        [threads, implementation] => both(threads, implementation),
        [threads] => both(threads, "hybrid"),
        [] => both("3", "hybrid"),
        _ => Err("what is counted with is THREADS [kernel|user|hybrid], and no more".into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<bool, Box<dyn std::error::Error>>;

fn random(below: u64) -> u64 {
    RandomState::new().hash_one(0) % below
}

fn number(threads: &str) -> Result<usize, String> {
    let wrong = |_| format!("{threads:?} is no number of threads: write one such as 3");
    threads.parse().map_err(wrong)
}

fn kind(implementation: &str) -> Result<Implementation, String> {
    match implementation {
        "kernel" => Ok(Implementation::Kernel),
        "user" => Ok(Implementation::User),
        "hybrid" => Ok(Implementation::Hybrid),
        other => Err(format!(
            "there are no threads of the kind {other:?}: write kernel, user or hybrid"
        )),
    }
}

fn both(threads: &str, implementation: &str) -> Outcome {
    // Said once, and not by both processes.
    number(threads)?;
    kind(implementation)?;
    let x = (10 + random(90)).to_string();
    let program = std::env::current_exe()?;
    let start = |name: &str| {
        let arguments = [name, x.as_str(), threads, implementation];
        Command::new(&program).args(arguments).spawn()
    };
    let started: std::io::Result<Vec<Child>> = ["eve", "bob"].map(start).into_iter().collect();
    let mut right = true;
    for mut child in started? {
        right &= child.wait()?.success();
    }
    Ok(right)
}

fn process(name: &str, x: &str, threads: &str, implementation: &str) -> Outcome {
    let (first, threads): (usize, usize) = (x.parse()?, number(threads)?);
    let implementation = kind(implementation)?;
    let shared = Mutex::new(first);
    println!("{name} sees shared x being {first}");
    let runtime = Runtime::builder(implementation).build()?;
    let late: Option<Duration> = runtime.run(|| {
        scope(|scope| {
            let sleepers: Vec<_> = (0..threads)
                .map(|number| {
                    let shared = &shared;
                    scope.spawn(move || sleeper(&format!("{name} {number}"), number, shared))
                })
                .collect();
            let late = sleepers.into_iter().map(|sleeper| sleeper.join());
            late.collect::<Result<Vec<_>, _>>().ok()?.into_iter().max()
        })
    });
    let last = shared.into_inner();
    let late_ms = late.unwrap_or_default().as_secs_f64() * 1e3;
    let end = if threads == 1 { "" } else { "s" };
    println!(
        "{name} sees shared x being {last}; of {threads} thread{end} the latest woke {late_ms:.1} ms late"
    );
    Ok(last == first + threads)
}

/// Sleeps, counts, and says how late it woke.
fn sleeper(name: &str, number: usize, shared: &Mutex<usize>) -> Duration {
    let time = Duration::from_millis(1 + random(LONGEST_MS));
    if number < TALKING {
        println!("{name} is going to sleep for {:.2} s", time.as_secs_f64());
    }
    let due = Instant::now() + time;
    sleep_until(due);
    let late = due.elapsed();
    let mut shared = shared.lock();
    *shared += 1;
    if number < TALKING {
        println!("{name} has woken up, seeing shared x being {}", *shared);
    }
    late
}
