//! The commands, a module each.

pub(crate) mod attach;
pub(crate) mod cp;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod filed;
pub(crate) mod freeze;
pub(crate) mod given;
pub(crate) mod inspect;
pub(crate) mod logs;
mod moved;
pub(crate) mod moving;
pub(crate) mod node;
pub(crate) mod nodes;
pub(crate) mod placed;
pub(crate) mod programs;
pub(crate) mod ps;
pub(crate) mod registry;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod snapshot;
pub(crate) mod stats;
pub(crate) mod steer;
pub(crate) mod thaw;
pub(crate) mod threads;
pub(crate) mod wait;
