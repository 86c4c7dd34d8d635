//! Pages that come later: a guest runs while some pages of its memories are missing, and waits in the kernel's fault handler
//! when it touches one, until that is given.
//!
//! ```text
//!   start ──► missing pages have no contents; their addresses are registered
//!   guest touches one ──► it waits; `touched` names the page ──► `give` puts its contents there, and the guest goes on
//!   drop  ──► nothing is registered any more: whoever still waits finds what the memory started from
//! ```
//!
//! Source: userfaultfd(2) and the kernel's `Documentation/admin-guide/mm/userfaultfd.rst`. No privilege is needed: the
//! descriptor is one for user-mode faults only, so **a system call that is given a missing page fails with `EFAULT`**. Whoever
//! hands a guest's memory to the kernel touches it first.
//!
//! Over an [`InitialImage`](crate::memory::InitialImage) a page of the image is there already as far as the kernel is concerned:
//! touching it is a *minor* fault, and contents given for it become the guest's own (Linux 5.14).
#![allow(unsafe_code, reason = "userfaultfd and its ioctls")]

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::mm::{Advice, UserfaultfdFlags};
use thiserror::Error;

use crate::memory::{PAGE_BYTES, PageRun, Reservation, os_page_bytes};
use crate::userfault::{OpenError, Userfault};

#[cfg(test)]
mod tests;

/// `_IOWR(0xAA, …)` of `include/uapi/linux/userfaultfd.h`, the same on x86-64 and AArch64.
const UFFDIO_WAKE: libc::Ioctl = 0x8010_AA02_u32 as libc::Ioctl;
const UFFDIO_COPY: libc::Ioctl = 0xC028_AA03_u32 as libc::Ioctl;
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xC020_AA04_u32 as libc::Ioctl;

const FEATURE_MISSING_SHMEM: u64 = 1 << 5;
const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
const REGISTER_MODE_MISSING: u64 = 1;
const REGISTER_MODE_MINOR: u64 = 1 << 2;
const EVENT_PAGEFAULT: u8 = 0x12;

/// Ranges that are registered, for each of which the kernel keeps a mapping of its own; it has 65,530 for all of a process.
const RANGES_MAX: usize = 2048;
/// Faults that are taken at once.
const FAULTS_AT_ONCE: usize = 16;
/// `struct uffd_msg`.
const MESSAGE_BYTES: usize = 32;

/// `struct uffdio_copy`.
#[repr(C)]
struct CopyArgument {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
struct ZeroArgument {
    start: u64,
    len: u64,
    mode: u64,
    done: i64,
}

/// `struct uffdio_range`.
#[repr(C)]
struct RangeArgument {
    start: u64,
    len: u64,
}

/// Why pages cannot come later.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartMissingError {
    /// There is no userfaultfd, or it is forbidden (seccomp, an emulated kernel).
    #[error("userfaultfd is not available")]
    Userfaultfd(#[source] io::Error),
    /// The kernel is older than 5.14.
    #[error("the kernel cannot have pages of memory files come later (Linux 5.14 can)")]
    Features(#[source] io::Error),
    /// The kernel's pages are larger than those that are moved.
    #[error(
        "the kernel's pages have {bytes} bytes: only those of {PAGE_BYTES} can come one by one"
    )]
    PageSize {
        /// Their size.
        bytes: usize,
    },
    /// Pages are not in the accessible part of a memory.
    #[error("pages {0:?} are outside the memory")]
    Outside(PageRun),
    /// The kernel refused.
    #[error("the kernel refused to have pages come later ({step})")]
    Os {
        /// The request.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A trial gave wrong contents.
    #[error("pages that come later have wrong contents on this kernel")]
    WrongContents,
}

impl From<OpenError> for StartMissingError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Unavailable(error) => Self::Userfaultfd(error),
            OpenError::Features(error) => Self::Features(error),
        }
    }
}

/// A page that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// Index of the memory.
    pub memory: usize,
    /// Number of the page in it.
    pub page: u64,
}

/// Memories of which pages are missing, until it is dropped. See the [module](self).
#[derive(Debug)]
pub struct MissingPages {
    userfault: Userfault,
    woken: OwnedFd,
    memories: Vec<Arc<Reservation>>,
}

/// Whether pages can come later on this machine: `Ok`, or why not, by a trial on a few pages.
///
/// # Errors
/// What is missing.
pub fn available() -> Result<(), StartMissingError> {
    let trial = || io::Error::other("a trial memory could not be made");
    let os = |step| {
        move |_| StartMissingError::Os {
            step,
            source: trial(),
        }
    };
    let image =
        crate::memory::InitialImage::build([(0, &[1_u8; 2 * PAGE_BYTES][..])]).map_err(|_| {
            StartMissingError::Os {
                step: "memfd_create",
                source: trial(),
            }
        })?;
    let size = 4 * os_page_bytes();
    let memory = Reservation::new(size, 0, size, Some(Arc::new(image)));
    let memory = Arc::new(memory.map_err(|_| StartMissingError::Os {
        step: "mmap",
        source: trial(),
    })?);
    let pages = [
        PageRun { first: 0, count: 1 },
        PageRun { first: 2, count: 1 },
    ];
    let missing = MissingPages::start(&[(memory.clone(), &pages)])?;
    let waiting = std::thread::Builder::new().spawn(move || {
        let mut seen = [0; 2];
        for (seen, page) in seen.chunks_exact_mut(1).zip([0, 2]) {
            memory
                .read(page * PAGE_BYTES, seen)
                .expect("within the memory");
        }
        seen
    });
    let waiting = waiting.map_err(|source| StartMissingError::Os {
        step: "clone",
        source,
    })?;
    let mut given = Vec::new();
    for _ in 0..2 {
        let touched =
            missing
                .touched(Duration::from_secs(5))
                .map_err(|source| StartMissingError::Os {
                    step: "read",
                    source,
                })?;
        for Touched { page, .. } in touched {
            missing
                .give(0, page, &[7 + page as u8; PAGE_BYTES])
                .map_err(os("UFFDIO_COPY"))?;
            given.push(page);
        }
    }
    drop(missing);
    match waiting.join() {
        Ok([7, 9]) if given == [0, 2] => Ok(()),
        _ => Err(StartMissingError::WrongContents),
    }
}

impl MissingPages {
    /// Takes the contents of these pages of each memory away, and has whoever touches one wait. Nobody may use the memories
    /// meanwhile.
    ///
    /// # Errors
    /// A feature is missing, pages are outside of their memory, or the kernel is out of memory. Contents may be gone then.
    pub fn start(
        memories: &[(Arc<Reservation>, &[PageRun])],
    ) -> Result<MissingPages, StartMissingError> {
        let bytes = os_page_bytes();
        if bytes != PAGE_BYTES {
            return Err(StartMissingError::PageSize { bytes });
        }
        let features = FEATURE_MISSING_SHMEM | FEATURE_MINOR_SHMEM;
        let userfault = Userfault::open(UserfaultfdFlags::NONBLOCK, features)?;
        let os = |step| {
            move |error: Errno| StartMissingError::Os {
                step,
                source: error.into(),
            }
        };
        let woken = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let missing = MissingPages {
            userfault,
            woken: woken.map_err(os("eventfd"))?,
            memories: memories.iter().map(|(memory, _)| memory.clone()).collect(),
        };
        for (memory, runs) in memories {
            let pages = (memory.accessible() / PAGE_BYTES) as u64;
            if let Some(run) = runs.iter().find(|run| {
                run.first
                    .checked_add(run.count)
                    .is_none_or(|end| end > pages)
            }) {
                return Err(StartMissingError::Outside(*run));
            }
            for run in *runs {
                take_contents(memory, *run).map_err(os("madvise"))?;
            }
            let image_pages = memory
                .image()
                .map_or(0, |image| (image.data_len() / PAGE_BYTES) as u64);
            for range in ranges(runs) {
                // What lies over a file and what does not cannot be registered together.
                let middle = image_pages.clamp(range.first, range.end());
                for (first, end, mode) in [
                    (
                        range.first,
                        middle,
                        REGISTER_MODE_MISSING | REGISTER_MODE_MINOR,
                    ),
                    (middle, range.end(), REGISTER_MODE_MISSING),
                ] {
                    missing
                        .register(memory, first, end, mode)
                        .map_err(os("UFFDIO_REGISTER"))?;
                }
            }
        }
        Ok(missing)
    }

    fn register(
        &self,
        memory: &Reservation,
        first: u64,
        end: u64,
        mode: u64,
    ) -> rustix::io::Result<()> {
        if first == end {
            return Ok(());
        }
        let len = (end - first) * PAGE_BYTES as u64;
        // SAFETY: 1. The range is accessible memory of our own reservation, which lives as long as this type. Who touches a
        // missing page of it waits for what `give` is given, or the drop.
        unsafe { self.userfault.register(address(memory, first), len, mode) }
    }

    /// Waits for somebody to touch a page that is not there, for so long or until [`wake`](Self::wake) is called: which ones.
    /// Beside those that were named at the start, it may be some that lie between them; they get their
    /// [initial contents](Self::give_initial).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn touched(&self, within: Duration) -> io::Result<Vec<Touched>> {
        let within = Timespec::try_from(within).ok();
        let mut ready = [
            PollFd::new(&self.userfault, PollFlags::IN),
            PollFd::new(&self.woken, PollFlags::IN),
        ];
        match rustix::event::poll(&mut ready, within.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut messages = [0; FAULTS_AT_ONCE * MESSAGE_BYTES];
        let got = match rustix::io::read(&self.userfault, &mut messages) {
            Ok(got) => got,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let faults = messages[..got].chunks_exact(MESSAGE_BYTES);
        let faults = faults.filter(|message| message[0] == EVENT_PAGEFAULT);
        Ok(faults
            .filter_map(|message| self.page_at(&message[16..24]))
            .collect())
    }

    /// The page of a fault's address.
    fn page_at(&self, address: &[u8]) -> Option<Touched> {
        let address = u64::from_ne_bytes(address.try_into().ok()?) as usize;
        let memory = self
            .memories
            .iter()
            .position(|memory| memory.contains(address))?;
        let offset = address - self.memories[memory].as_ptr() as usize;
        Some(Touched {
            memory,
            page: (offset / PAGE_BYTES) as u64,
        })
    }

    /// Has [`touched`](Self::touched) return at once, now and from now on.
    pub fn wake(&self) {
        // It is full only if it was woken before.
        let _ = rustix::io::write(&self.woken, &1_u64.to_ne_bytes());
    }

    /// Puts contents, whole pages, into a memory from page `first` on. Pages that are there already stay as they are.
    ///
    /// # Errors
    /// They do not lie in the memory, or the kernel refuses.
    pub fn give(&self, memory: usize, first: u64, bytes: &[u8]) -> io::Result<()> {
        self.fill(memory, first, bytes.len(), |to, part| {
            let mut argument = CopyArgument {
                to,
                from: bytes[part.clone()].as_ptr() as u64,
                len: part.len() as u64,
                mode: 0,
                copied: 0,
            };
            // SAFETY: 1. The argument is the structure this request reads and writes. 2. `from` is that many bytes of a slice.
            // 3. `to` is memory of our own reservation, checked by `fill`; where a page is there already, nothing is written.
            let result = unsafe { self.userfault.ask(UFFDIO_COPY, &mut argument) };
            (result, argument.copied)
        })
    }

    /// The same with zeros, which take no room where the memory has no image.
    ///
    /// # Errors
    /// See [`give`](Self::give).
    pub fn give_zeros(&self, memory: usize, run: PageRun) -> io::Result<()> {
        let len = usize::try_from(run.count)
            .unwrap_or(usize::MAX)
            .saturating_mul(PAGE_BYTES);
        let image = self.memories.get(memory).and_then(|memory| memory.image());
        let image_pages = image.map_or(0, |image| (image.data_len() / PAGE_BYTES) as u64);
        if run.first < image_pages {
            // The kernel's page of zeros there would be taken for one that was never written.
            for page in run.first..run.first.saturating_add(run.count) {
                self.give(memory, page, &[0; PAGE_BYTES])?;
            }
            return Ok(());
        }
        self.fill(memory, run.first, len, |start, part| {
            let mut argument = ZeroArgument {
                start,
                len: part.len() as u64,
                mode: 0,
                done: 0,
            };
            // SAFETY: 1. The argument is the structure this request reads and writes. 2. The range is memory of our own
            // reservation, checked by `fill`; where a page is there already, nothing is written.
            let result = unsafe { self.userfault.ask(UFFDIO_ZEROPAGE, &mut argument) };
            (result, argument.done)
        })
    }

    /// The same with what the memory had there at first.
    ///
    /// # Errors
    /// See [`give`](Self::give).
    pub fn give_initial(&self, Touched { memory, page }: Touched) -> io::Result<()> {
        let image = self.memories.get(memory).and_then(|memory| memory.image());
        match image.and_then(|image| image.page(page)) {
            Some(contents) => self.give(memory, page, contents),
            None => self.give_zeros(
                memory,
                PageRun {
                    first: page,
                    count: 1,
                },
            ),
        }
    }

    /// Asks the kernel until `len` bytes are filled, or there already.
    fn fill(
        &self,
        memory: usize,
        first: u64,
        len: usize,
        mut ask: impl FnMut(u64, Range<usize>) -> (rustix::io::Result<()>, i64),
    ) -> io::Result<()> {
        let memory = self
            .memories
            .get(memory)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let end = first
            .checked_mul(PAGE_BYTES as u64)
            .and_then(|start| start.checked_add(len as u64));
        if !len.is_multiple_of(PAGE_BYTES) || end.is_none_or(|end| end > memory.accessible() as u64)
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let start = address(memory, first);
        let (mut done, mut until) = (0, len);
        while done < len {
            let (result, filled) = ask(start + done as u64, done..until);
            done += usize::try_from(filled).unwrap_or(0);
            match result {
                Ok(()) => (done, until) = (until, len),
                // Not all of it is in one mapping: an image ends in it, or a range that is registered.
                Err(Errno::NOENT) if until - done > PAGE_BYTES => until = done + PAGE_BYTES,
                Err(Errno::EXIST) => {
                    // Who waits for it perhaps came between.
                    let _ = self.wake_at(start + done as u64);
                    done += PAGE_BYTES;
                    until = len;
                }
                // A part was done, or mappings change (another thread grows a memory).
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn wake_at(&self, start: u64) -> rustix::io::Result<()> {
        let mut argument = RangeArgument {
            start,
            len: PAGE_BYTES as u64,
        };
        // SAFETY: 1. The argument is the structure this request reads. 2. It only has threads look again.
        unsafe { self.userfault.ask(UFFDIO_WAKE, &mut argument) }
    }
}

fn address(memory: &Reservation, page: u64) -> u64 {
    memory.as_ptr() as u64 + page * PAGE_BYTES as u64
}

/// Drops what is in some pages: they are as they were at first.
fn take_contents(memory: &Reservation, run: PageRun) -> rustix::io::Result<()> {
    let start = memory
        .as_ptr()
        .wrapping_add(run.first as usize * PAGE_BYTES);
    let len = run.count as usize * PAGE_BYTES;
    // SAFETY: 1. The caller has checked that the range is accessible. 2. Private mappings fall back to the file's contents or to
    // zero (madvise(2), MADV_DONTNEED); no Rust reference to the bytes exists by the type's contract.
    unsafe { rustix::mm::madvise(start.cast(), len, Advice::LinuxDontNeed) }
}

/// The runs, joined over gaps that are as small as is needed to be no more than [`RANGES_MAX`].
fn ranges(runs: &[PageRun]) -> Vec<PageRun> {
    let mut joined = runs.to_vec();
    joined.sort_unstable();
    let mut gap = 0;
    loop {
        joined.dedup_by(|next, last| {
            let joins = next.first <= last.end().saturating_add(gap);
            if joins {
                last.count = last.end().max(next.end()) - last.first;
            }
            joins
        });
        if joined.len() <= RANGES_MAX {
            return joined;
        }
        gap = (gap * 2).max(1);
    }
}
