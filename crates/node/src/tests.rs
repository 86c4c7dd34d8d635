//! Real nodes on loopback, and those who attack them.
//!
//! - `world`: nodes on threads of this process, and hostile peers
//! - `frames`: what is on the wire when it is not what it should be
//! - `versions`: older and newer nodes
//! - `hostile`: peers that do not keep to the protocol
//! - `broken`: connections that break, or are used up, in the middle of work
//! - `captive`: a runner that was taken over
//! - `members`: a node of the cluster that wants what is not its own
//! - `samples`: the bytes of requests and replies, and what becomes of them when they are changed
//! - `taken`: a service that was taken over, and its manager
//! - `rights`: who may do what; tickets; removed nodes
//! - `records`: the registry
//! - `durable`: that what it answered is on disk
//! - `moving`: the registry goes from node to node, which are killed meanwhile
//! - `recovery`: backups, and what happens when one is put back
//! - `etcd`: the registry in an etcd
//! - `pages`: lists that are longer than an answer
//! - `processes`: what it knows of processes
//! - `servers`: servers of buckets, for tests of stores

mod broken;
pub(crate) mod captive;
mod durable;
mod etcd;
mod frames;
mod hostile;
mod members;
mod moving;
mod pages;
mod processes;
mod records;
mod recovery;
mod rights;
mod samples;
pub(crate) mod servers;
mod taken;
mod versions;
mod world;

pub(crate) use moving::stop_at;
