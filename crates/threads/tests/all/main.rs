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

/// Runs the same function on each implementation; the hybrid one has two workers.
fn on_all(f: impl Fn() + Send + Sync) {
    for &implementation in IMPLEMENTATIONS {
        let runtime = Runtime::builder(implementation).workers(2).build().unwrap();
        runtime.run(&f);
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
