//! The commands, a module each.

pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod filed;
pub(crate) mod freeze;
pub(crate) mod given;
pub(crate) mod inspect;
pub(crate) mod logs;
pub(crate) mod moving;
pub(crate) mod node;
pub(crate) mod nodes;
pub(crate) mod placed;
pub(crate) mod programs;
pub(crate) mod ps;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod snapshot;
pub(crate) mod steer;
pub(crate) mod thaw;
pub(crate) mod wait;
