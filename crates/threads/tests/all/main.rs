//! The package's promises, on every implementation.

mod cancels;
mod channels;
mod differential;
mod endings;
mod input_output;
mod lives;
mod locks;

use sterna_threads::{Implementation, Runtime};

const IMPLEMENTATIONS: [Implementation; 3] = [
    Implementation::Kernel,
    Implementation::User,
    Implementation::Hybrid,
];

/// Runs the same function on each implementation; the hybrid one has two workers.
fn on_all(f: impl Fn() + Send + Sync) {
    for implementation in IMPLEMENTATIONS {
        let runtime = Runtime::builder(implementation).workers(2).build().unwrap();
        runtime.run(&f);
    }
}
