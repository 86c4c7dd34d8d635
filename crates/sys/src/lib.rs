//! Everything unsafe about the operating system, as safe types. This crate decides nothing: it has no
//! policy, no protocol and no idea what a process of Sterna is. Linux on x86-64 and AArch64.
//!
//! | module | feature | gives |
//! |---|---|---|
//! | [`memory`] | `memory` | reservations with a copy-on-write initial image, finding changed pages, the page that stops a guest |

#[cfg(feature = "memory")]
pub mod memory;
