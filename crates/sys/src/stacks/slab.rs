//! [`Slab`]: many stacks of one size in few mappings, each with a guard page below it.
//!
//! Guards are installed with `MADV_GUARD_INSTALL` (Linux 6.13), which marks pages in the page table and splits no
//! mapping, so that a million guarded stacks need a handful of mappings. Older kernels get `PROT_NONE` guards; each of
//! those is a mapping, and the kernel's limit on their number is reported by name when it is reached.
#![allow(
    unsafe_code,
    reason = "maps, guards and unmaps memory that only it knows of"
)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use thiserror::Error;

use super::sanitizer;

/// `MADV_GUARD_INSTALL` of Linux 6.13; not in the C library's headers of older systems.
const MADV_GUARD_INSTALL: libc::c_int = 102;
/// Slots in the first mapping of a slab; each further one has twice as many.
const FIRST_CHUNK_SLOTS: usize = 64;
/// A mapping has at most so many bytes, unless one slot is larger.
const CHUNK_BYTES_MAX: usize = 1 << 30;
/// A usable stack is not smaller than this.
const USABLE_BYTES_MIN: usize = 4 * 4096;
/// A usable stack is not larger than this.
const USABLE_BYTES_MAX: usize = 1 << 32;
/// Places, a cache line apart, at which stacks begin.
const COLOURS: usize = 32;
const LINE: usize = 64;

/// Why there is no stack.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StackError {
    /// No stack has this size.
    #[error("a stack of {bytes} bytes is not possible; between 16 KiB and 4 GiB are")]
    Size {
        /// Asked for, in bytes.
        bytes: usize,
    },
    /// The kernel gives no more address space.
    #[error("mapping {bytes} bytes for stacks failed")]
    Map {
        /// Asked for, in bytes.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// A guard could not be set up although the kernel has room for it.
    #[error("guarding a stack failed")]
    Guard(#[source] io::Error),
    /// This kernel needs a mapping for each guard, and the process may have no more of them.
    #[error(
        "{stacks} stacks are as many as vm.max_map_count = {limit} allows on this kernel; raise it, or use Linux 6.13"
    )]
    MappingLimit {
        /// Stacks that the slab has.
        stacks: usize,
        /// The limit, as `/proc/sys/vm/max_map_count` says; 0 if it says nothing.
        limit: usize,
    },
}

/// How guards are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guards {
    /// Marks in the page table, if the kernel can; else mappings.
    Marks,
    /// Mappings without access, as on kernels before 6.13.
    Mappings,
}

/// Stacks of one size. Address space is taken as needed and given back when the slab and all its stacks are dropped.
#[derive(Debug)]
pub struct Slab {
    usable: usize,
    guard: usize,
    marks: AtomicBool,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    /// Mappings: address and length.
    chunks: Vec<(usize, usize)>,
    /// Address and end of what the newest mapping has not handed out yet.
    fresh: (usize, usize),
    /// Guarded slots that were given back, by their usable base.
    free: Vec<usize>,
    /// Guarded slots in existence.
    made: usize,
}

/// One guarded stack. Dropped, it goes back to its slab, and its memory to the system.
#[derive(Debug)]
pub struct Stack {
    slab: Arc<Slab>,
    base: NonNull<u8>,
    pub(super) name: sanitizer::Name,
}

// SAFETY: 1. A stack is memory that only its owner knows of; the pointer is not tied to a kernel thread.
unsafe impl Send for Stack {}
// SAFETY: 1. `&Stack` gives addresses only.
unsafe impl Sync for Stack {}

impl Slab {
    /// A slab of stacks with `usable` bytes each, of which up to 2 KiB stay free above [`Stack::top`]. The guard is not
    /// counted.
    ///
    /// # Errors
    /// [`StackError::Size`].
    pub fn new(usable: usize, guards: Guards) -> Result<Arc<Self>, StackError> {
        if !(USABLE_BYTES_MIN..=USABLE_BYTES_MAX).contains(&usable) {
            return Err(StackError::Size { bytes: usable });
        }
        let page = rustix::param::page_size();
        Ok(Arc::new(Self {
            usable: usable.next_multiple_of(page),
            guard: page,
            marks: AtomicBool::new(guards == Guards::Marks),
            slots: Mutex::default(),
        }))
    }

    /// Bytes of each stack, guard not counted.
    pub fn usable(&self) -> usize {
        self.usable
    }

    /// Stacks in existence, in use or not.
    pub fn made(&self) -> usize {
        self.slots().made
    }

    /// A stack, recycled or new. Its contents are arbitrary.
    ///
    /// # Errors
    /// The kernel gives no more memory, or the limit on mappings is reached.
    pub fn take(self: &Arc<Self>) -> Result<Stack, StackError> {
        let mut slots = self.slots();
        let base = match slots.free.pop() {
            Some(base) => base,
            None => self.fresh(&mut slots)?,
        };
        drop(slots);
        let base = NonNull::new(base as *mut u8).expect("no mapping lies at address 0");
        Ok(Stack {
            slab: Arc::clone(self),
            base,
            name: Default::default(),
        })
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot that was never used: guarded, counted, returned by its usable base.
    fn fresh(&self, slots: &mut Slots) -> Result<usize, StackError> {
        if slots.fresh.0 == slots.fresh.1 {
            self.map_chunk(slots)?;
        }
        let low = slots.fresh.0;
        self.install_guard(low, slots.made)?;
        slots.fresh.0 += self.stride();
        slots.made += 1;
        Ok(low + self.guard)
    }

    fn stride(&self) -> usize {
        self.guard + self.usable
    }

    fn map_chunk(&self, slots: &mut Slots) -> Result<(), StackError> {
        let doubled = FIRST_CHUNK_SLOTS << slots.chunks.len().min(20);
        let count = doubled.min(CHUNK_BYTES_MAX / self.stride()).max(1);
        let bytes = count * self.stride();
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::STACK;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: 1. A new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let mapped =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, access, flags) };
        let address = mapped.map_err(|errno| StackError::Map {
            bytes,
            source: errno.into(),
        })?;
        // Huge pages would give each stack 2 MiB of memory for its first byte. A kernel without them refuses: fine.
        // SAFETY: 1. The range was mapped above and nobody knows of it yet.
        let _ = unsafe { libc::madvise(address, bytes, libc::MADV_NOHUGEPAGE) };
        slots.chunks.push((address as usize, bytes));
        slots.fresh = (address as usize, address as usize + bytes);
        Ok(())
    }

    fn install_guard(&self, low: usize, made: usize) -> Result<(), StackError> {
        let address = low as *mut core::ffi::c_void;
        if self.marks.load(Ordering::Relaxed) {
            // SAFETY: 1. The page belongs to a slot that was never handed out, so nothing is lost in it.
            let result = unsafe { libc::madvise(address, self.guard, MADV_GUARD_INSTALL) };
            if result == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(StackError::Guard(error));
            }
            self.marks.store(false, Ordering::Relaxed);
        }
        // SAFETY: 1. As above: nobody uses the page.
        let result = unsafe { rustix::mm::mprotect(address, self.guard, MprotectFlags::empty()) };
        result.map_err(|errno| match errno {
            rustix::io::Errno::NOMEM => StackError::MappingLimit {
                stacks: made,
                limit: mapping_limit(),
            },
            errno => StackError::Guard(errno.into()),
        })
    }

    fn give_back(&self, base: NonNull<u8>) {
        // Guard marks survive this. It cannot fail on a range of ours, and if it did, the memory would only stay.
        // SAFETY: 1. The range is the usable part of a slot whose owner is gone.
        let _ = unsafe { libc::madvise(base.as_ptr().cast(), self.usable, libc::MADV_DONTNEED) };
        self.slots().free.push(base.as_ptr() as usize);
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        let slots = std::mem::take(&mut *self.slots());
        for (address, bytes) in slots.chunks {
            // SAFETY: 1. The mapping is ours. 2. Each stack holds the slab, so none is left.
            let result = unsafe { rustix::mm::munmap(address as *mut _, bytes) };
            debug_assert!(result.is_ok());
        }
    }
}

impl Stack {
    /// Where an empty stack begins: a multiple of 16, up to 2 KiB below the end. What a thread that waits has used lies
    /// there, and stacks lie at equal distances: if all began at the end, a thousand would share few sets of the caches.
    pub fn top(&self) -> usize {
        let colour = self.bottom() / self.slab.stride() % COLOURS;
        self.bottom() + self.slab.usable - colour * LINE
    }

    /// The lowest usable address.
    pub fn bottom(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// Bytes between both.
    pub fn usable(&self) -> usize {
        self.slab.usable
    }

    /// Whether an access to `address` hit the guard of this stack.
    pub fn guards(&self, address: usize) -> bool {
        (self.bottom() - self.slab.guard..self.bottom()).contains(&address)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.name.end(self.bottom(), self.usable());
        self.slab.give_back(self.base);
    }
}

fn mapping_limit() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}
