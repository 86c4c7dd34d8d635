//! What the tests start as programs of known parallelism, `sterna-laboratory-subject spin THREADS MILLISECONDS`, and as
//! the processes of experiments.

use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(sterna_laboratory::role::ROLE) {
        return sterna_laboratory::role::run();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["spin", threads, time_ms] => spin(
            threads.parse().expect("a number of threads"),
            Duration::from_millis(time_ms.parse().expect("a number of milliseconds")),
        ),
        _ => panic!("no case {arguments:?}"),
    }
    ExitCode::SUCCESS
}

/// Computes on so many threads at once; the first thread only waits for them, and writes the
/// seconds of processor time that all have used.
fn spin(threads: usize, time: Duration) {
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let begun = Instant::now();
                while begun.elapsed() < time {
                    std::hint::spin_loop();
                }
            });
        }
    });
    println!("{}", sterna_sys::clock::process_cpu_time().as_secs_f64());
}
