//! What is measured has the shape that it should have; how large it is depends on the machine and is no test's business.
//!
//! - `bench`: costs
//! - `cache`: what a switch costs through the caches
//! - `stall`: what one thread does to the others
//! - `tlp`: programs of known parallelism

mod bench;
mod cache;
mod stall;
mod tlp;

/// What plays the parts of processes.
fn player() -> sterna_laboratory::role::Player {
    let program = env!("CARGO_BIN_EXE_sterna-laboratory-subject");
    sterna_laboratory::role::Player::new(program.into())
}
