//! [`PollPage`]: the word by which a guest is stopped, on a page of its own that is full of copies of it.
//!
//! ```text
//!              protect                       unprotect_with(0)
//!   running ───────────► next poll faults ──────────────────────► retries the load, reads 0, runs on
//!                        (registers intact)  unprotect_with(1)
//!                                          ──────────────────────► retries the load, reads 1, unwinds
//! ```
//!
//! Several controllers may protect and unprotect at once (one stops a guest while another kills it): each does so as a whole.
//! A signal handler may ask [`PollPage::contains`] and nothing else.
#![allow(
    unsafe_code,
    reason = "protects and accesses a page that someone else mapped"
)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::mm::MprotectFlags;
use thiserror::Error;

use super::os_page_bytes;

/// Why a page could not be protected or unprotected.
#[derive(Debug, Error)]
#[error("changing the protection of a poll page failed")]
pub struct PollPageError(#[source] pub io::Error);

/// How many copies of the word there are, from the start of the page: a compiler may take two loads of one address for one, so
/// a guest looks at another copy at each place.
pub const POLL_COPIES: usize = 1024;

/// A kernel page whose words a guest polls. A handle: the page belongs to someone else.
#[derive(Debug)]
pub struct PollPage {
    word: NonNull<AtomicU32>,
    /// Held while the page's protection and word change together: a page that is protected between the two faults whoever stores.
    changing: Mutex<()>,
}

// SAFETY: 1. The constructor's caller vouches for the page on every thread; the word is only accessed atomically.
unsafe impl Send for PollPage {}
// SAFETY: 1. As above; mprotect may be called from any thread.
unsafe impl Sync for PollPage {}

impl PollPage {
    /// Takes the kernel page at `page`, or `None` if the pointer is null or not aligned to [`os_page_bytes`].
    ///
    /// # Safety
    /// 1. The whole page at `page` is mapped readable and writable, and stays mapped until the handle is dropped.
    /// 2. Nobody holds Rust references into it, and who accesses it without this handle (the guest) does so atomically
    ///    and copes with a fault while it is protected.
    /// 3. Nobody else changes its protection.
    pub unsafe fn new(page: *mut u8) -> Option<PollPage> {
        let word = NonNull::new(page.cast::<AtomicU32>())?;
        (page as usize)
            .is_multiple_of(os_page_bytes())
            .then(|| PollPage {
                word,
                changing: Mutex::new(()),
            })
    }

    /// Makes the page inaccessible: the guest's next poll faults. [`load`](PollPage::load) and
    /// [`store`](PollPage::store) would, too. Returns when every thread sees it (mprotect(2) flushes their translations).
    ///
    /// # Errors
    /// The kernel refuses; the page is accessible as before.
    pub fn protect(&self) -> Result<(), PollPageError> {
        let _whole = self.changing();
        self.set(MprotectFlags::empty())
    }

    /// Makes the page accessible again, with the word as it was.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn unprotect(&self) -> Result<(), PollPageError> {
        let _whole = self.changing();
        self.set(MprotectFlags::READ | MprotectFlags::WRITE)
    }

    /// Makes the page accessible, then stores `value`. A guest on another thread may see the old word once in between; the one
    /// that is parked in its fault handler sees `value`.
    ///
    /// # Errors
    /// The kernel refuses; nothing was stored.
    pub fn unprotect_with(&self, value: u32) -> Result<(), PollPageError> {
        let _whole = self.changing();
        self.set(MprotectFlags::READ | MprotectFlags::WRITE)?;
        self.store(value);
        Ok(())
    }

    /// Stores the word and its copies, the word last. The page must be accessible, or the calling thread faults.
    pub fn store(&self, value: u32) {
        for copy in self.copies().iter().rev() {
            copy.store(value, Ordering::Release);
        }
    }

    /// Reads the word. The page must be accessible, or the calling thread faults.
    pub fn load(&self) -> u32 {
        self.word().load(Ordering::Acquire)
    }

    /// Whether an address lies on the page: the question a fault handler asks.
    pub fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.word.as_ptr() as usize) < os_page_bytes()
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: 1. Mapped and aligned to a page by the constructor's contract. 2. Everyone accesses it atomically.
        // While it is protected an access faults: a signal, not undefined behaviour of another kind.
        unsafe { self.word.as_ref() }
    }

    fn copies(&self) -> &[AtomicU32] {
        // SAFETY: 1. They lie within the smallest kernel page there is, which is mapped by the constructor's contract.
        // 2. Everyone accesses them atomically.
        unsafe { std::slice::from_raw_parts(self.word.as_ptr(), POLL_COPIES) }
    }

    fn set(&self, access: MprotectFlags) -> Result<(), PollPageError> {
        // SAFETY: 1. The page is mapped, and its protection is ours to change, by the constructor's contract.
        unsafe { rustix::mm::mprotect(self.word.as_ptr().cast(), os_page_bytes(), access) }
            .map_err(|error| PollPageError(error.into()))
    }
}
