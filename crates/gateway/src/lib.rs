//! What stands between clients and the servers of a node. So far it holds a file server, which shows what threads and
//! processes do for a server: the same request code under six models.
//!
//! | module | gives |
//! |---|---|
//! | [`files`] | the file server: HTTP/1.1, its models, its limits |
//! | [`load`] | clients that measure a server: closed and open loop, fast and slow |
//! | [`compare`] | all models under the same load, as figures |
//! | [`role`] | the processes that these need: a worker, a server, clients |
#![cfg(target_os = "linux")]

pub mod compare;
pub mod files;
pub mod load;
pub mod role;
