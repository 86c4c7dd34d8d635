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
//! - `attacks`: other users, forged programs, and where secrets might be
//! - `threads`: the laboratory
//! - `serve`: files over HTTP, and the comparison of models
//! - `control`: stats, events, attach, cp, inspect of processes on nodes
//! - `cluster`: nodes for tests; `left`: what must not be there any more when a test is over
//! - `hosted`: processes on nodes: moved, killed, and their nodes killed
//! - `trial`: moves that are disturbed at a certain point
//! - `phases`: each role of a move killed and stopped at each of its phases
//! - `recovery`: what is gone on with when a target dies early
//! - `live`: memory that goes while its process runs
//! - `network`: namespaces with links that are cut and lossy; `detour`: whatever is sent to nodes takes longer
//! - `following`: memory that comes after its process
//! - `networks`: nodes in networks of their own: cut, lossy, of IPv6 alone
//! - `hardship`: nodes whose disks are full; `clocks`: nodes whose clocks are wrong
//! - `clients`: servers with clients that stay connected while they move; `kv`: one such client
//! - `leaks`: what is left of moves in which somebody is killed, while all others live on
//! - `histories`: what clients see whatever happens to everybody else, and `linear`, whether it can have happened
//! - `copied`: directories that are copied along; moves that cannot be because of directories
//! - `keeping`: processes in files, clones, snapshots; `deaths`: a kill -9 at each step of freeze and thaw
//! - `buckets`: snapshots in buckets; `servers`: who has these
//! - `etcd`: the same with the registry in an etcd, which is killed, too
//! - `parts`: service, manager and runner: what each may do, and what becomes of the others when one is killed
//! - `draining`: nodes that are emptied before their machines go; `balancing`: nodes that share the work
//! - `demo`: the demo, help and completions

mod attacks;
mod balancing;
mod buckets;
mod clients;
mod clocks;
mod cluster;
mod control;
mod copied;
mod deaths;
mod demo;
mod detour;
mod draining;
mod etcd;
mod faults;
mod following;
mod found;
mod hardship;
mod histories;
mod hosted;
mod journeys;
mod keeping;
mod kv;
mod leaks;
mod left;
mod linear;
mod live;
mod moves;
mod network;
mod networks;
mod nodes;
mod parts;
mod phases;
mod places;
mod recovery;
mod run;
mod serve;
#[path = "../../../node/src/tests/servers.rs"]
mod servers;
mod terminal;
mod threads;
mod trial;
mod world;
