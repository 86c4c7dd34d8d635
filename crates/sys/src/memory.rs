//! Memory of guests: address space, what it starts from, and which pages changed since.
//!
//! ```text
//!  Reservation   ├── initial image ──┼── zero pages ──┼──────── PROT_NONE ────────┼─ guard ─┤
//!                0                data_len          size                      capacity
//!                └────────── accessible ──────────────┘ ──grow_to──►
//! ```
//!
//! - [`InitialImage`]: sealed, sparse memory file; what a program's memory holds before it runs. Shared by all
//!   instances of the program, each of which maps it privately, so an unchanged page exists once.
//! - [`Reservation`]: the address space of one instance, which never moves.
//! - [`Scanner`]: finds the pages of a reservation that differ from its image ([`ChangedPages`]).
//! - [`PollPage`]: the word a guest polls; protecting its page stops the guest with every register intact.
//!
//! Two page sizes occur. [`PAGE_BYTES`], 4 KiB, is the unit in which pages are compared, named and sent, on every
//! machine. The kernel's own ([`os_page_bytes`]), a multiple of it, is the unit of protection and mapping.

mod image;
pub(crate) mod pagemap;
mod poll_page;
mod reservation;
mod scan;

pub use image::{BuildImageError, IMAGE_BYTES_MAX, InitialImage, OpenImageError};
pub use poll_page::{POLL_COPIES, PollPage, PollPageError};
pub use reservation::{AccessError, GrowError, Reservation, ReserveError, ResetError};
pub use scan::{ChangedPages, ScanError, ScanMethod, Scanner};

#[cfg(test)]
mod tests;

/// Size of a page as it is compared, named and sent, in bytes: the same on every machine.
pub const PAGE_BYTES: usize = 4096;

/// Size of a page of this machine's kernel in bytes: a multiple of [`PAGE_BYTES`].
pub fn os_page_bytes() -> usize {
    rustix::param::page_size()
}

/// Opens `/proc/self/pagemap` now and keeps it open for as long as the process lives: for one that is about to lose sight of
/// `/proc`, so that [`Scanner`]s and dirty-page tracking made later work all the same. Not to be followed by a fork: the
/// file goes on speaking of the process that opened it. Physical addresses are not to be had from it, even if root asks.
///
/// # Errors
/// There is no `/proc`, or this process was made not dumpable before.
pub fn keep_pagemap() -> std::io::Result<()> {
    Ok(pagemap::keep()?)
}

/// `bytes` rounded up to whole pages of the kernel; `None` if that overflows.
fn round_up_to_os_page(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(os_page_bytes())
}

/// Consecutive pages of [`PAGE_BYTES`], by number from the start of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageRun {
    /// Number of the first page.
    pub first: u64,
    /// How many pages; never 0 in what this crate returns.
    pub count: u64,
}

impl PageRun {
    /// The number after the last page.
    pub fn end(self) -> u64 {
        self.first + self.count
    }

    /// Appends page `number`, which must not be before the last run's end, to sorted runs.
    fn push(runs: &mut Vec<PageRun>, number: u64) {
        match runs.last_mut() {
            Some(last) if last.end() == number => last.count += 1,
            _ => runs.push(PageRun {
                first: number,
                count: 1,
            }),
        }
    }

    /// How many pages `runs` hold together.
    pub fn total(runs: &[PageRun]) -> u64 {
        runs.iter().map(|run| run.count).sum()
    }
}
