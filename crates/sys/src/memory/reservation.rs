//! [`Reservation`]: the address space of one guest memory. It never moves, so compiled code may keep its base.
#![allow(
    unsafe_code,
    reason = "maps, protects and copies raw memory inside a range it owns"
)]

use std::ffi::CStr;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use thiserror::Error;

use super::{InitialImage, PAGE_BYTES, PageRun, os_page_bytes, round_up_to_os_page};
use crate::giving_way::Turn;

/// Why address space could not be reserved.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// Capacity and guard together overflow, or are nothing at all.
    #[error("{capacity} bytes and a guard of {guard} bytes are no possible reservation")]
    Size {
        /// Asked for, in bytes.
        capacity: usize,
        /// Asked for, in bytes.
        guard: usize,
    },
    /// The initial image does not fit into the initial size.
    #[error("an initial image of {image} bytes does not fit into a memory of {size} bytes")]
    ImageTooLarge {
        /// Length of the image in bytes.
        image: usize,
        /// What was to be accessible from the start, in bytes.
        size: usize,
    },
    /// The kernel refused, for example because of a limit on address space or on the number of mappings.
    #[error("reserving {bytes} bytes of address space failed")]
    Os {
        /// How much was to be mapped.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a memory could not grow.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GrowError {
    /// More than the reservation.
    #[error("cannot grow to {size} bytes, {capacity} are reserved")]
    BeyondCapacity {
        /// Asked for, in bytes.
        size: usize,
        /// Reserved, in bytes.
        capacity: usize,
    },
    /// A memory only grows; [`Reservation::reset`] is the way back.
    #[error("cannot shrink from {from} to {size} bytes")]
    Shrink {
        /// Current size in bytes.
        from: usize,
        /// Asked for, in bytes.
        size: usize,
    },
    /// The kernel refused.
    #[error("making {size} bytes accessible failed")]
    Os {
        /// Asked for, in bytes.
        size: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a memory could not be set back to its initial image.
#[derive(Debug, Error)]
#[error("setting a memory back to {size} bytes failed")]
pub struct ResetError {
    /// The size it was to have, in bytes.
    pub size: usize,
    /// What the kernel said; "invalid input" if the size is larger than the reservation.
    pub source: io::Error,
}

/// A range reaches beyond the accessible part of a memory.
#[derive(Debug, Error)]
#[error("bytes {offset}+{len} are outside the {accessible} accessible bytes")]
pub struct AccessError {
    /// Start of the range in bytes.
    pub offset: usize,
    /// Its length in bytes.
    pub len: usize,
    /// What is accessible, in bytes from 0 (whole kernel pages).
    pub accessible: usize,
}

/// Address space for one memory: `capacity` bytes that it can grow to and `guard` bytes that stay inaccessible.
///
/// Reserved with `PROT_NONE` and without swap accounting (mmap(2), `MAP_NORESERVE`), so that gigabytes cost nothing
/// until they are used. The first `size` bytes (in whole kernel pages) are readable and writable.
///
/// The bytes belong to a guest that may be running: [`read`](Reservation::read) and [`write`](Reservation::write) copy raw
/// memory, and a copy made while the guest writes may be torn. Whoever makes a Rust reference out of
/// [`as_ptr`](Reservation::as_ptr) must make sure that neither the guest nor `write`, `zero` and `reset` touch those bytes meanwhile.
#[derive(Debug)]
pub struct Reservation {
    base: NonNull<u8>,
    capacity: usize,
    guard: usize,
    image: Option<Arc<InitialImage>>,
    /// Size in bytes as the guest knows it. Written only under `resize`.
    size: AtomicUsize,
    resize: Mutex<()>,
}

// SAFETY: 1. The mapping belongs to the reservation alone and is not bound to a thread.
unsafe impl Send for Reservation {}
// SAFETY: 1. Sizes change under a lock. 2. Bytes are only copied raw, never lent as references, see the type's documentation.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `capacity` + `guard` bytes (each rounded up to kernel pages) of which `size` are accessible and
    /// hold `image`, or zeros.
    ///
    /// # Errors
    /// Sizes that cannot be, an image or `size` larger than the capacity, or the kernel refuses.
    pub fn new(
        capacity: usize,
        guard: usize,
        size: usize,
        image: Option<Arc<InitialImage>>,
    ) -> Result<Reservation, ReserveError> {
        let invalid = || ReserveError::Size { capacity, guard };
        let rounded = round_up_to_os_page(capacity).ok_or_else(invalid)?;
        let rounded_guard = round_up_to_os_page(guard).ok_or_else(invalid)?;
        let bytes = rounded
            .checked_add(rounded_guard)
            .filter(|sum| *sum > 0 && size <= capacity)
            .ok_or_else(invalid)?;
        let image_len = image.as_ref().map_or(0, |image| image.data_len());
        if image_len > round_up_to_os_page(size).ok_or_else(invalid)? {
            return Err(ReserveError::ImageTooLarge {
                image: image_len,
                size,
            });
        }
        let os = |error: rustix::io::Errno| ReserveError::Os {
            bytes,
            source: error.into(),
        };
        // SAFETY: 1. A new mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(os)?;
        let base = NonNull::new(base.cast()).ok_or_else(invalid)?;
        let reservation = Reservation {
            base,
            capacity: rounded,
            guard: rounded_guard,
            image,
            size: AtomicUsize::new(0),
            resize: Mutex::new(()),
        };
        reservation.map_image().map_err(os)?;
        reservation
            .grow_to(size)
            .map_err(|error| ReserveError::Os {
                bytes,
                source: io::Error::other(error),
            })?;
        Ok(reservation)
    }

    /// Maps the image's data over the start, copy on write.
    fn map_image(&self) -> rustix::io::Result<()> {
        let Some(image) = self.image.as_ref().filter(|image| image.data_len() > 0) else {
            return Ok(());
        };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: 1. `data_len` is at most `capacity` (checked by `new`), so only our own reservation is replaced.
        // 2. Called by `new` alone, before anything can point into it. 3. The file is sealed: it cannot shrink under the mapping.
        unsafe {
            rustix::mm::mmap(
                self.base.as_ptr().cast(),
                image.data_len(),
                access,
                flags,
                image.as_fd(),
                0,
            )
        }?;
        Ok(())
    }

    /// Start of the memory. Valid for [`size`](Reservation::size) bytes until the reservation is dropped.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Accessible bytes, as last given to `new`, `grow_to` or `reset`.
    pub fn size(&self) -> usize {
        self.size.load(Ordering::Acquire)
    }

    /// Bytes the memory can grow to without moving, in whole kernel pages.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Inaccessible bytes after the capacity, in whole kernel pages.
    pub fn guard(&self) -> usize {
        self.guard
    }

    /// What the memory started from.
    pub fn image(&self) -> Option<&Arc<InitialImage>> {
        self.image.as_ref()
    }

    /// Whether an address lies in the reservation, its guard included: the question a fault handler asks. Async-signal-safe.
    pub fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.base.as_ptr() as usize) < self.capacity + self.guard
    }

    /// [`size`](Reservation::size) in whole kernel pages: the bytes that can be touched.
    pub fn accessible(&self) -> usize {
        round_up_to_os_page(self.size()).expect("sizes were rounded when they were set")
    }

    /// Makes `size` bytes accessible; new bytes are zero.
    ///
    /// # Errors
    /// Smaller than now, more than was reserved, or the kernel refuses; nothing has changed then.
    pub fn grow_to(&self, size: usize) -> Result<(), GrowError> {
        let _resizing = self.resize.lock().unwrap_or_else(PoisonError::into_inner);
        let from = self.size();
        if size < from {
            return Err(GrowError::Shrink { from, size });
        }
        let target = round_up_to_os_page(size).filter(|target| *target <= self.capacity);
        let target = target.ok_or(GrowError::BeyondCapacity {
            size,
            capacity: self.capacity,
        })?;
        // The image's part was mapped accessible.
        let done = self
            .accessible()
            .max(self.image.as_ref().map_or(0, |image| image.data_len()));
        if target > done {
            self.protect(done, target, MprotectFlags::READ | MprotectFlags::WRITE)
                .map_err(|error| GrowError::Os {
                    size,
                    source: error.into(),
                })?;
        }
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    /// Drops every change: the memory has `size` bytes again and holds its initial image. Costs a system call or two
    /// and gives the pages back, instead of a new reservation.
    ///
    /// # Errors
    /// `size` is larger than the reservation or smaller than the image's data, or the kernel refuses: then the contents
    /// are unspecified and the reservation should be dropped.
    pub fn reset(&self, size: usize) -> Result<(), ResetError> {
        let failed = |source: io::Error| ResetError { size, source };
        let _resizing = self.resize.lock().unwrap_or_else(PoisonError::into_inner);
        let target = round_up_to_os_page(size).filter(|target| *target <= self.capacity);
        let target = target.ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        if self
            .image
            .as_ref()
            .is_some_and(|image| image.data_len() > target)
        {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let accessible = self.accessible();
        if accessible > 0 {
            // SAFETY: 1. The range is ours and mapped. 2. Private mappings fall back to the file's contents or to zero
            // (madvise(2), MADV_DONTNEED); no Rust reference to the bytes exists by the type's contract.
            unsafe {
                rustix::mm::madvise(self.base.as_ptr().cast(), accessible, Advice::LinuxDontNeed)
            }
            .map_err(|error| failed(error.into()))?;
        }
        let (range, access) = if target < accessible {
            (target..accessible, MprotectFlags::empty())
        } else {
            (
                accessible..target,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )
        };
        if !range.is_empty() {
            self.protect(range.start, range.end, access)
                .map_err(|error| failed(error.into()))?;
        }
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    fn protect(&self, start: usize, end: usize, access: MprotectFlags) -> rustix::io::Result<()> {
        assert!(
            start <= end && end <= self.capacity,
            "protection stays inside the reservation"
        );
        let from = self.base.as_ptr().wrapping_add(start);
        // SAFETY: 1. Checked above: the range is part of our mapping. 2. No Rust reference into it exists, see the type.
        unsafe { rustix::mm::mprotect(from.cast(), end - start, access) }
    }

    /// Copies accessible bytes from `offset` into `into`.
    ///
    /// # Errors
    /// The range is not accessible as a whole.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), AccessError> {
        let from = self.checked(offset, into.len())?;
        // SAFETY: 1. Checked: the source is mapped, and sizes only shrink in `reset`, which the caller must not run against us
        // (it would fault, not corrupt). 2. `into` is a Rust slice, hence not part of a guest's memory. 3. Any bit pattern is a u8.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    /// The range is not accessible as a whole; nothing was written then.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), AccessError> {
        let to = self.checked(offset, bytes.len())?;
        // SAFETY: 1. Checked: the target is mapped writable. 2. `bytes` is a Rust slice, hence not part of a guest's memory.
        // 3. No Rust reference to the target exists by the type's contract.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Has the kernel provide all pages of a range that is about to be overwritten, which takes less time than to provide
    /// each when it is first written (madvise(2), `MADV_POPULATE_WRITE`, Linux 5.14). Contents do not change. A refusal is
    /// not told: the pages come one by one then.
    ///
    /// # Errors
    /// The range is not accessible as a whole.
    pub fn populate(&self, offset: usize, len: usize) -> Result<(), AccessError> {
        let first = offset - offset % os_page_bytes();
        let len = len.saturating_add(offset - first);
        let from = self.checked(first, len)?;
        // SAFETY: 1. Checked: the range is mapped writable. 2. Providing pages changes no contents (madvise(2)).
        let _ = unsafe { rustix::mm::madvise(from.cast(), len, Advice::LinuxPopulateWrite) };
        Ok(())
    }

    /// Sets whole pages of [`PAGE_BYTES`] to zero.
    ///
    /// # Errors
    /// The run is not accessible as a whole; nothing was written then.
    pub fn zero(&self, run: PageRun) -> Result<(), AccessError> {
        let offset = usize::try_from(run.first)
            .unwrap_or(usize::MAX)
            .saturating_mul(PAGE_BYTES);
        let len = usize::try_from(run.count)
            .unwrap_or(usize::MAX)
            .saturating_mul(PAGE_BYTES);
        let to = self.checked(offset, len)?;
        // SAFETY: 1. Checked: the target is mapped writable. 2. No Rust reference to it exists by the type's contract.
        unsafe { std::ptr::write_bytes(to, 0, len) };
        Ok(())
    }

    fn checked(&self, offset: usize, len: usize) -> Result<*mut u8, AccessError> {
        let accessible = self.accessible();
        if offset.checked_add(len).is_none_or(|end| end > accessible) {
            return Err(AccessError {
                offset,
                len,
                accessible,
            });
        }
        Ok(self.base.as_ptr().wrapping_add(offset))
    }

    /// Gives the anonymous parts of the mapping a name in `/proc/PID/maps`, as far as the kernel can (5.17, prctl(2),
    /// `PR_SET_VMA_ANON_NAME`): for people who look, so a refusal is not reported.
    pub fn name(&self, name: &CStr) {
        const PR_SET_VMA: libc::c_int = 0x5356_4d41;
        const PR_SET_VMA_ANON_NAME: libc::c_ulong = 0;
        let bytes = self.capacity + self.guard;
        // SAFETY: 1. The call only labels our own range. 2. The kernel copies `name`, which ends with NUL.
        let _ = unsafe {
            libc::prctl(
                PR_SET_VMA,
                PR_SET_VMA_ANON_NAME,
                self.base.as_ptr(),
                bytes,
                name.as_ptr(),
            )
        };
    }
}

impl Drop for Reservation {
    /// Gives a large memory back bit by bit: the kernel takes 4 ms for 64 MiB, and who waits for this processor, milliseconds
    /// longer.
    fn drop(&mut self) {
        let (mut at, mut left) = (self.base.as_ptr(), self.capacity + self.guard);
        let mut held = self.accessible();
        let mut turn = Turn::begin();
        loop {
            let bytes = match held > GIVEN_BACK_AT_ONCE {
                true => GIVEN_BACK_AT_ONCE,
                false => left,
            };
            // SAFETY: 1. The mapping is ours from `at` on; who made pointers or references from `as_ptr` promised not to use
            // them after this. What was given back is not touched again: it may be somebody else's by now.
            // An error (too many mappings to split a neighbour off) leaks the range and nothing else.
            let _ = unsafe { rustix::mm::munmap(at.cast(), bytes) };
            left -= bytes;
            if left == 0 {
                return;
            }
            held -= bytes;
            at = at.wrapping_add(bytes);
            turn.give_way();
        }
    }
}

/// How much of a memory that is dropped is given back at once, in bytes: some 50 µs.
const GIVEN_BACK_AT_ONCE: usize = 512 << 10;
