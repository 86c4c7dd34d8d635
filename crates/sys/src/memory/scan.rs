//! [`Scanner`]: which pages of a memory differ from what it started from.
//!
//! First the candidates: pages the guest wrote to are anonymous pages of a private mapping, which the kernel can
//! list. Then each candidate is compared with the image: a page written with what it held before has not changed.
#![allow(
    unsafe_code,
    reason = "compares pages of raw memory without making references to them"
)]

use std::io;
use std::ops::Range;

use thiserror::Error;

use super::pagemap::{PRIVATELY_WRITTEN, Pagemap};
use super::{InitialImage, PAGE_BYTES, PageRun, Reservation, os_page_bytes};

static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// How candidates are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanMethod {
    /// The ioctl `PAGEMAP_SCAN` (Linux 6.7): the kernel walks only what is mapped.
    PagemapScan,
    /// Reading `/proc/self/pagemap`: 8 bytes per page.
    PagemapRead,
    /// Neither is to be had (no `/proc`, an emulated kernel): every page is compared, which touches those of the image.
    CompareAll,
}

/// Why the changed pages could not be found.
#[derive(Debug, Error)]
#[error("asking the kernel for the written pages of a memory failed")]
pub struct ScanError(#[source] pub io::Error);

/// How a memory differs from what it started from: sorted, disjoint runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedPages {
    /// Pages that differ from the image (or from zero beyond it) and are not zero: their bytes must be kept.
    pub written: Vec<PageRun>,
    /// Pages that hold data in the image and are zero now.
    pub zeroed: Vec<PageRun>,
    /// How many pages were compared.
    pub compared: u64,
}

/// Finds changed pages. Open one early: it keeps `/proc/self/pagemap` open, which confinement may hide later.
#[derive(Debug)]
pub struct Scanner {
    pagemap: Option<Pagemap>,
    method: ScanMethod,
}

impl Scanner {
    /// The fastest method that gives the right answer in a small trial on this machine.
    pub fn new() -> Scanner {
        [ScanMethod::PagemapScan, ScanMethod::PagemapRead]
            .into_iter()
            .filter_map(|method| Scanner::with_method(method).ok())
            .find(|scanner| scanner.trial().unwrap_or(false))
            .unwrap_or(Scanner {
                pagemap: None,
                method: ScanMethod::CompareAll,
            })
    }

    /// A certain method, untried.
    ///
    /// # Errors
    /// `/proc/self/pagemap` cannot be opened.
    pub fn with_method(method: ScanMethod) -> Result<Scanner, ScanError> {
        let pagemap = match method {
            ScanMethod::CompareAll => None,
            _ => Some(Pagemap::open().map_err(|error| ScanError(error.into()))?),
        };
        Ok(Scanner { pagemap, method })
    }

    /// How this scanner works.
    pub fn method(&self) -> ScanMethod {
        self.method
    }

    /// The pages of `memory` that differ from what it started from. A running guest may change more meanwhile:
    /// the answer is exact for a memory that stands still, and for a running one wherever it stood still.
    ///
    /// # Errors
    /// The kernel refuses the scan.
    pub fn changed(&self, memory: &Reservation) -> Result<ChangedPages, ScanError> {
        let base = memory.as_ptr() as usize;
        let mut changed = ChangedPages::default();
        let image = memory.image().map(|image| &**image);
        self.candidates(base..base + memory.accessible(), |range| {
            for address in range.step_by(PAGE_BYTES) {
                let page = address as *const u8;
                // SAFETY: 1. Candidates lie in the accessible part, which stays mapped while `memory` is borrowed
                // (`reset` against a scan faults by the reservation's contract).
                unsafe { changed.compare(((address - base) / PAGE_BYTES) as u64, page, image) };
            }
        })
        .map_err(|error| ScanError(error.into()))?;
        Ok(changed)
    }

    fn candidates(
        &self,
        addresses: Range<usize>,
        mut found: impl FnMut(Range<usize>),
    ) -> rustix::io::Result<()> {
        match (&self.pagemap, self.method) {
            (Some(pagemap), ScanMethod::PagemapScan) => {
                pagemap.scan(PRIVATELY_WRITTEN, addresses, found)
            }
            (Some(pagemap), ScanMethod::PagemapRead) => pagemap.read_written(addresses, found),
            _ => {
                if !addresses.is_empty() {
                    found(addresses);
                }
                Ok(())
            }
        }
    }

    /// Whether the method finds the one written page of three, in anonymous memory and over an image. An emulated
    /// kernel (qemu-user) may pass requests on that mean other addresses than ours.
    fn trial(&self) -> Option<bool> {
        let page = os_page_bytes();
        let data = vec![1u8; 3 * page];
        let image = InitialImage::build([(0, &data[..])]).ok()?;
        // Accessible: three pages of the image, three of zeros.
        let memory =
            Reservation::new(6 * page, 0, 6 * page, Some(std::sync::Arc::new(image))).ok()?;
        let mut seen = [0u8; 1];
        for offset in [0, page, 3 * page, 4 * page] {
            memory.read(offset, &mut seen).ok()?;
        }
        memory.write(page, &[2]).ok()?;
        memory.write(4 * page, &[2]).ok()?;
        let base = memory.as_ptr() as usize;
        let mut hit = [false; 6];
        let mut outside = false;
        self.candidates(base..base + 6 * page, |range| {
            for address in range.step_by(page) {
                match hit.get_mut((address.wrapping_sub(base)) / page) {
                    Some(hit) => *hit = true,
                    None => outside = true,
                }
            }
        })
        .ok()?;
        // Pages that were only read may be reported; of those of the image none may.
        Some(!outside && hit[1] && hit[4] && !hit[0] && !hit[2])
    }
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner::new()
    }
}

impl ChangedPages {
    /// # Safety
    /// `page` points to [`PAGE_BYTES`] mapped bytes.
    unsafe fn compare(&mut self, number: u64, page: *const u8, image: Option<&InitialImage>) {
        self.compared += 1;
        // SAFETY: 1. The caller's promise. 2. `memcmp` makes no reference, so a guest that writes meanwhile only makes the answer vague.
        let equals = |other: &[u8; PAGE_BYTES]| unsafe { libc::memcmp(page.cast(), other.as_ptr().cast(), PAGE_BYTES) } == 0;
        match image.and_then(|image| image.page(number)) {
            Some(initial) if equals(initial) => {}
            Some(_) if equals(&ZEROS) => PageRun::push(&mut self.zeroed, number),
            None if equals(&ZEROS) => {}
            _ => PageRun::push(&mut self.written, number),
        }
    }
}
