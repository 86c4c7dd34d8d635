//! Everything unsafe about the operating system, as safe types. This crate decides nothing: it has no
//! policy, no protocol and no idea what a process of Sterna is. Linux on x86-64 and AArch64.
//!
//! Each module is a cargo feature of the same name; all but `stacks` are on by default.
//!
//! | module | gives |
//! |---|---|
//! | [`memory`] | reservations with a copy-on-write initial image, finding changed pages, the page that stops a guest |
//! | [`missing`] | pages that come while the guest runs already, which waits where it touches them |
//! | [`tracking`] | which pages were written since the last look, while the guest runs |
//! | [`gate`] | where a stopped guest's thread waits for the verdict; registers at a fault; interrupting waits |
//! | [`spawn`] | starting a program with named descriptors only, limits of time, usage, no zombies |
//! | [`confine`] | what a process takes from itself: files, system calls, resources, and the report of what holds |
//! | [`clock`] | CPU time of threads |
//! | [`exchange`] | words of memory that processes share, message queues |
//! | [`ability`] | what this kernel has: Landlock, seccomp |
//! | [`identity`] | who is at the other end of a local socket, which boot this is |
//! | [`messages`] | descriptors beside bytes over a local socket; waiting for and killing the process at its other end |
//! | [`enclosure`] | an empty place with nothing but named directories in it, without network and capabilities |
//! | [`trees`] | one directory as a detached mount, to be handed to who may see nothing else |
//! | `stacks` | guarded stacks, switching between them, telling an overflow from other faults |

#[cfg(feature = "ability")]
pub mod ability;
#[cfg(any(feature = "confine", feature = "enclosure"))]
mod capabilities;
#[cfg(feature = "clock")]
pub mod clock;
#[cfg(feature = "confine")]
pub mod confine;
#[cfg(feature = "enclosure")]
pub mod enclosure;
#[cfg(feature = "exchange")]
pub mod exchange;
#[cfg(feature = "gate")]
pub mod gate;
#[cfg(feature = "giving_way")]
pub mod giving_way;
#[cfg(feature = "identity")]
pub mod identity;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "messages")]
pub mod messages;
#[cfg(feature = "missing")]
pub mod missing;
#[cfg(any(feature = "enclosure", feature = "trees"))]
mod mounts;
#[cfg(feature = "spawn")]
pub mod spawn;
#[cfg(feature = "stacks")]
pub mod stacks;
#[cfg(feature = "tracking")]
pub mod tracking;
#[cfg(feature = "trees")]
pub mod trees;
#[cfg(any(feature = "missing", feature = "tracking"))]
mod userfault;
