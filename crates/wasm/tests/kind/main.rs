//! How processes of the wasm kind behave: real programs and small ones, run, stopped, moved, killed.
//!
//! - `rig` how a test starts, watches and moves a process
//! - `immobile` programs that cannot be moved
//! - `kill`, `pause` the two ways to interfere with a process
//! - `moves` what a program sees of being moved: nothing
//! - `limits` what a process may use
//! - `entry` what of a program is called, and what is refused
//! - `forged` images that no process made
//! - `waypoints` where a running process stands, and pausing it where its target is ready
//! - `many` lots of processes, and what they leave behind

mod entry;
mod forged;
mod immobile;
mod kill;
mod limits;
mod many;
mod moves;
mod pause;
mod rig;
mod waypoints;
