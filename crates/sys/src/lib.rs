//! Everything unsafe about the operating system, as safe types. This crate decides nothing: it has no
//! policy, no protocol and no idea what a process of Sterna is. Linux on x86-64 and AArch64.
//!
//! | module | feature | gives |
//! |---|---|---|
//! | [`memory`] | `memory` | reservations with a copy-on-write initial image, finding changed pages, the page that stops a guest |
//! | [`gate`] | `gate` | where a stopped guest's thread waits for the verdict; registers at a fault; interrupting waits |
//! | [`tracking`] | `tracking` | which pages were written since the last look, while the guest runs |

#[cfg(feature = "gate")]
pub mod gate;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "tracking")]
pub mod tracking;
