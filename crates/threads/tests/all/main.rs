//! The package's promises, on every implementation.

mod cancels;
mod channels;
mod children;
mod corners;
mod differential;
mod endings;
mod files;
mod input_output;
mod lives;
mod locks;
mod shared;

use std::process::Command;

use sterna_threads::{Implementation, Runtime};

/// Miri knows threads of the kernel only: switching stacks is assembly.
const IMPLEMENTATIONS: &[Implementation] = if cfg!(miri) {
    &[Implementation::Kernel]
} else {
    &[
        Implementation::Kernel,
        Implementation::User,
        Implementation::Hybrid,
    ]
};

/// Orders in which user threads are run, besides that of their coming.
const SEEDS: u64 = 8;

/// Runs the same function on each implementation; the hybrid one has two workers. User threads also in other orders.
fn on_all(f: impl Fn() + Send + Sync) {
    for &implementation in IMPLEMENTATIONS {
        let runtime = Runtime::builder(implementation).workers(2).build().unwrap();
        runtime.run(&f);
    }
    in_other_orders(|seed, runtime| {
        println!("schedule of seed {seed}");
        runtime.run(&f);
    });
}

/// Calls `f` with user-level runtimes that run their threads in orders made from numbers.
fn in_other_orders(mut f: impl FnMut(u64, Runtime)) {
    if IMPLEMENTATIONS.contains(&Implementation::User) {
        for seed in 0..SEEDS {
            let builder = Runtime::builder(Implementation::User).schedule_seed(seed);
            f(seed, builder.build().unwrap());
        }
    }
}

/// Set in a child process to the test that it runs.
const CHILD: &str = "STERNA_THREADS_CHILD";

/// Runs a test in a process of its own: what it returned and wrote, or nothing in that process itself.
fn in_child(test: &str) -> Option<(bool, String)> {
    if std::env::var_os(CHILD).is_some() {
        return None;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(CHILD, test)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}
