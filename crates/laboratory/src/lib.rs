//! A laboratory for threads and processes: measures what they cost, what they do to caches and to each other, how many
//! of them run at once, and what clients see when a server moves. It measures and decides nothing; the command shows what is found.
//!
//! | module | answers |
//! |---|---|
//! | [`bench`] | what do processes and threads cost? |
//! | [`cache`] | what does a switch cost through the caches? |
//! | [`stall`] | what does a thread that does not give way do to the others? |
//! | [`tlp`] | how many threads of a program run at once? |
//! | [`clients`] | what does a move of a server cost its clients? |
//!
//! [`carrier`] has the words that all experiments use, [`plot`] draws what they find, [`role`] is the part that
//! processes play; `place` puts things on processors and `link` connects them.
#![cfg(target_os = "linux")]

pub mod bench;
pub mod cache;
pub mod carrier;
pub mod clients;
mod link;
mod place;
pub mod plot;
pub mod role;
pub mod stall;
pub mod statistics;
pub mod tlp;

pub use place::{Condition, Machine};

/// Is told what is being done, and how much of everything is done, from 0 to 1.
pub type Progress<'a> = &'a mut dyn FnMut(&str, f64);
