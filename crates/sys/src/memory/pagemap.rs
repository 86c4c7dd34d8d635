//! `/proc/self/pagemap`: what the kernel knows of a process's own pages, by the ioctl `PAGEMAP_SCAN` (Linux 6.7) and by
//! reading. Source: the kernel's `Documentation/admin-guide/mm/pagemap.rst` and `include/uapi/linux/fs.h`.
#![allow(unsafe_code, reason = "an ioctl that libc and rustix do not know")]

use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

/// `_IOWR('f', 16, struct pm_scan_arg)`, the same on x86-64 and AArch64.
const PAGEMAP_SCAN: libc::Ioctl = 0xC060_6610_u32 as libc::Ioctl;

/// Categories of pages, `PAGE_IS_*`.
pub(crate) const IS_FILE: u64 = 1 << 2;
pub(crate) const IS_PRESENT: u64 = 1 << 3;
pub(crate) const IS_SWAPPED: u64 = 1 << 4;
pub(crate) const IS_PFNZERO: u64 = 1 << 5;

/// Regions the kernel may report per call; scanning goes on behind the last.
const REGIONS_PER_CALL: usize = 512;

/// `struct pm_scan_arg`.
#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`: addresses of a run of pages of the same categories.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// Which pages a scan reports, and what it does to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query {
    /// `PM_SCAN_*`.
    pub(crate) flags: u64,
    /// Categories whose meaning is reversed in the masks.
    pub(crate) inverted: u64,
    /// Categories that must all hold.
    pub(crate) all_of: u64,
    /// Categories of which one must hold.
    pub(crate) any_of: u64,
}

/// The pages a process wrote to: present or swapped out, not of a file, not the shared page of zeros.
pub(crate) const PRIVATELY_WRITTEN: Query = Query {
    flags: 0,
    inverted: IS_FILE | IS_PFNZERO,
    all_of: IS_FILE | IS_PFNZERO,
    any_of: IS_PRESENT | IS_SWAPPED,
};

/// The open file. It speaks of the process that opened it, even after a fork.
#[derive(Debug)]
pub(crate) struct Pagemap {
    file: OwnedFd,
}

impl Pagemap {
    /// Opens it, or what this process opened of it first: confinement may have hidden `/proc` since.
    pub(crate) fn open() -> rustix::io::Result<Pagemap> {
        static FIRST: OnceLock<(Pid, OwnedFd)> = OnceLock::new();
        let own = rustix::process::getpid();
        if let Some((process, first)) = FIRST.get()
            && *process == own
        {
            let file = rustix::io::fcntl_dupfd_cloexec(first, 0)?;
            return Ok(Pagemap { file });
        }
        let file = rustix::fs::open(
            "/proc/self/pagemap",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // Without one to keep, the next is opened by name again.
        if let Ok(kept) = rustix::io::fcntl_dupfd_cloexec(&file, 0) {
            let _ = FIRST.set((own, kept));
        }
        Ok(Pagemap { file })
    }

    /// Calls `found` with each range of addresses in `addresses` that the query matches, in order.
    pub(crate) fn scan(
        &self,
        query: Query,
        addresses: Range<usize>,
        mut found: impl FnMut(Range<usize>),
    ) -> rustix::io::Result<()> {
        let mut regions = [Region::default(); REGIONS_PER_CALL];
        let mut at = addresses.start as u64;
        let end = addresses.end as u64;
        while at < end {
            let mut argument = ScanArgument {
                size: size_of::<ScanArgument>() as u64,
                flags: query.flags,
                start: at,
                end,
                walk_end: 0,
                vec: regions.as_mut_ptr() as u64,
                vec_len: regions.len() as u64,
                max_pages: 0,
                category_inverted: query.inverted,
                category_mask: query.all_of,
                category_anyof_mask: query.any_of,
                // Nothing of interest: neighbouring matches come back as one region, whatever else differs.
                return_mask: 0,
            };
            // SAFETY: 1. The argument has the size and layout it states. 2. `vec` points to `vec_len` writable regions that
            // outlive the call. 3. The scanned addresses are only looked up by the kernel, with write-protection (an
            // option of the query) a matter of who registered the range.
            let filled =
                unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
            let filled = usize::try_from(filled).map_err(|_| last_errno())?;
            for region in regions.iter().take(filled) {
                found(region.start as usize..region.end as usize);
            }
            if argument.walk_end <= at {
                return Err(Errno::IO); // the kernel promises progress
            }
            at = argument.walk_end;
        }
        Ok(())
    }

    /// The same as a scan for [`PRIVATELY_WRITTEN`] by reading 8 bytes per page, as every kernel can. Also reports read but
    /// unwritten pages of anonymous memory.
    pub(crate) fn read_written(
        &self,
        addresses: Range<usize>,
        mut found: impl FnMut(Range<usize>),
    ) -> rustix::io::Result<()> {
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        const FILE_OR_SHARED: u64 = 1 << 61;
        let page_bytes = super::os_page_bytes();
        let mut entries = [0u8; 8 * REGIONS_PER_CALL];
        let mut at = addresses.start;
        while at < addresses.end {
            let want = ((addresses.end - at) / page_bytes).min(REGIONS_PER_CALL) * 8;
            let got = rustix::io::pread(
                &self.file,
                &mut entries[..want],
                (at / page_bytes * 8) as u64,
            )?;
            if got < 8 {
                return Err(Errno::IO);
            }
            for entry in entries[..got].chunks_exact(8) {
                let entry = u64::from_ne_bytes(entry.try_into().expect("chunks of eight"));
                if entry & (PRESENT | SWAPPED) != 0 && entry & FILE_OR_SHARED == 0 {
                    found(at..at + page_bytes);
                }
                at += page_bytes;
            }
        }
        Ok(())
    }
}

/// The error of the libc call just made.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
