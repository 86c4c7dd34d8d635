//! The commands, a module each.

pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod freeze;
pub(crate) mod given;
pub(crate) mod inspect;
pub(crate) mod node;
pub(crate) mod nodes;
pub(crate) mod programs;
pub(crate) mod ps;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod steer;
pub(crate) mod thaw;
