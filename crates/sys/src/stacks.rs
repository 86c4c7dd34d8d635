//! Stacks for threads that the kernel knows nothing of: where they lie, how one switches between them, and how an
//! overflow is told from any other fault.
//!
//! ```text
//!  low addresses                                                                  high addresses
//!  │ guard │ usable stack of slot 0      │ guard │ usable stack of slot 1      │ guard │ …
//!  └───────┴──────── grows ◄─────────────┴───────┴──────── grows ◄─────────────┴─ …
//!  one mapping of many slots; the guards are marks in the page table, not mappings of their own
//! ```
//!
//! [`Slab`] hands out [`Stack`]s, [`switch`], [`leave`] and [`Context`] run code on them, [`overflow`] reports who ran over its
//! guard. Nothing here decides who runs when.

pub mod overflow;
mod sanitizer;
mod slab;
mod switch;
#[cfg(test)]
mod tests;

pub use slab::{Guards, Slab, Stack, StackError};
pub use switch::{Context, Entry, leave, prepare, switch};
