//! Tests of the whole crate through its public API: a guest of a few lines issues calls on a small
//! memory, on real files, pipes, terminals and sockets. Time is virtual.

mod clients;
mod files;
mod functions;
mod fuzz;
mod guest;
mod moves;
mod paths;
mod polls;
mod sandbox;
mod streams;
