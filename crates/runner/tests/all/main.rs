//! The runner as a process of its own, hosting toys, under services that are good, gone, confused and hostile.
//!
//! - `rig`: runners, services, moves step by step
//! - `life`: start, output, pause, kill, end; many at once
//! - `moves`: from runner to runner, whole and broken off
//! - `following`: memory that comes after its process
//! - `rounds`: memory that goes while the process runs
//! - `services`: that die, come back, and contradict each other
//! - `hostile`: what nobody should send

mod following;
mod hostile;
mod life;
mod moves;
mod rig;
mod rounds;
mod services;
#[path = "../programs/toys.rs"]
mod toys;
