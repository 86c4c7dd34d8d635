//! The command as its users meet it: the real binary on real programs, each test in a world of its own.
//!
//! - `world`: directories, processes and their output
//! - `run`: exit codes, arguments, streams, signals
//! - `moves`: freeze and thaw, snapshots, clones, what is outside of a process
//! - `journeys`: real programs, with files and input, moved again and again in the middle of their work
//! - `faults`: full disks, damaged and foreign images, killed hosts, hostile peers
//! - `found`: ps, names, pause, resume, kill, inspect
//! - `places`: the run directory, the key, the program cache
//! - `terminal`: what is different on one
//! - `nodes`: nodes that join, end, are removed; the doctor
//! - `threads`: the laboratory
//! - `serve`: files over HTTP, and the comparison of models
//! - `control`: stats, events, attach, cp, inspect of processes on nodes
//! - `parts`: service, manager and runner: what each may do, and what becomes of the others when one is killed
//! - `cluster`: processes on nodes: moved, killed, and their nodes killed
//! - `demo`: the demo, help and completions

mod cluster;
mod control;
mod demo;
mod faults;
mod found;
mod journeys;
mod keeping;
mod moves;
mod nodes;
mod parts;
mod places;
mod run;
mod serve;
mod terminal;
mod threads;
mod world;
