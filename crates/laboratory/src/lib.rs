//! A laboratory for threads and processes: measures what they cost, what they do to caches and to each other, and how
//! many of them run at once. It measures and decides nothing; the command shows what is found.
//!
//! | module | answers |
//! |---|---|
//! | [`tlp`] | how many threads of a program run at once? |
//!
//! [`plot`] draws what they answer.
#![cfg(target_os = "linux")]

pub mod plot;
pub mod tlp;
