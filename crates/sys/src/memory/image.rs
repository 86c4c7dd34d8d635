//! [`InitialImage`]: what a memory holds before its program runs, as a sealed sparse memory file.
//!
//! Pages without data are holes of the file: they take no memory, are known to be zero without being read
//! (reading a hole of a memory file would allocate it), and the tail after the last data is not mapped at all.
#![allow(
    unsafe_code,
    reason = "maps the sealed file, which no one can write or shorten, for comparing"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};
use rustix::mm::{MapFlags, ProtFlags};
use thiserror::Error;

use super::{PAGE_BYTES, round_up_to_os_page};

/// The largest initial image, in bytes from its start to the end of its last data.
pub const IMAGE_BYTES_MAX: u64 = 1 << 36;

/// The seals that make a memory file immutable: its mappings can be trusted not to change or to shrink.
const IMMUTABLE: SealFlags = SealFlags::WRITE
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW);

/// Why an initial image could not be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildImageError {
    /// A piece reaches beyond the limit.
    #[error("initial data ends at byte {end}, the limit is {IMAGE_BYTES_MAX}")]
    TooLarge {
        /// Where the piece ends, saturating.
        end: u64,
    },
    /// The memory file could not be made, written or sealed.
    #[error("making the memory file of an initial image failed ({step})")]
    Os {
        /// The system call.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The finished file could not be opened as an image.
    #[error("the finished memory file cannot be used")]
    Open(#[from] OpenImageError),
}

/// Why a descriptor could not be used as an initial image.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenImageError {
    /// It lacks the seals against writing, growing and shrinking.
    #[error("the file is not a memory file sealed against change")]
    NotSealed,
    /// It is not a whole number of kernel pages or is larger than [`IMAGE_BYTES_MAX`].
    #[error("a file of {bytes} bytes is not an initial image")]
    Length {
        /// Its length.
        bytes: u64,
    },
    /// A system call failed.
    #[error("opening an initial image failed ({step})")]
    Os {
        /// The system call.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The initial contents of a memory: data in places, zero everywhere else and beyond its end. Immutable.
///
/// ```
/// use sterna_sys::memory::{InitialImage, PAGE_BYTES};
/// let image = InitialImage::build([(10_000, &b"hello"[..])])?;
/// assert!(image.page(0).is_none()); // a page of zeros is not stored
/// assert_eq!(&image.page(2).unwrap()[10_000 - 2 * PAGE_BYTES..][..5], b"hello");
/// # Ok::<(), sterna_sys::memory::BuildImageError>(())
/// ```
#[derive(Debug)]
pub struct InitialImage {
    file: OwnedFd,
    view: View,
    /// One bit per page of [`PAGE_BYTES`]: whether the file has data there.
    data: Vec<u64>,
}

impl InitialImage {
    /// Builds an image from pieces `(offset in bytes, bytes)`; where pieces overlap, the later one holds.
    ///
    /// # Errors
    /// A piece ends beyond [`IMAGE_BYTES_MAX`], or the kernel refuses: out of memory or descriptors.
    pub fn build<'a>(
        pieces: impl IntoIterator<Item = (u64, &'a [u8])>,
    ) -> Result<InitialImage, BuildImageError> {
        let os = |step| {
            move |error: rustix::io::Errno| BuildImageError::Os {
                step,
                source: error.into(),
            }
        };
        let file = rustix::fs::memfd_create(
            "sterna-image",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )
        .map_err(os("memfd_create"))?;
        let mut data = Vec::new();
        let mut joined = Joined::default();
        for (offset, bytes) in pieces {
            let end = offset.saturating_add(bytes.len() as u64);
            if end > IMAGE_BYTES_MAX {
                return Err(BuildImageError::TooLarge { end });
            }
            if !joined.take(offset, bytes) {
                write_piece(&file, &mut data, joined.offset, &joined.bytes)
                    .map_err(os("pwrite"))?;
                joined.begin(offset, bytes);
            }
        }
        write_piece(&file, &mut data, joined.offset, &joined.bytes).map_err(os("pwrite"))?;
        let pages = data.len() * 64
            - data
                .last()
                .map_or(0, |word: &u64| word.leading_zeros() as usize);
        let len = round_up_to_os_page(pages * PAGE_BYTES).expect("bounded by IMAGE_BYTES_MAX");
        rustix::fs::ftruncate(&file, len as u64).map_err(os("ftruncate"))?;
        rustix::fs::fcntl_add_seals(&file, IMMUTABLE | SealFlags::SEAL)
            .map_err(os("F_ADD_SEALS"))?;
        Ok(InitialImage::open(file)?)
    }

    /// Takes a descriptor made by [`InitialImage::build`], here or in another process.
    ///
    /// # Errors
    /// The descriptor is not a memory file sealed against change, or has no sensible length.
    pub fn open(file: OwnedFd) -> Result<InitialImage, OpenImageError> {
        let os = |step| {
            move |error: rustix::io::Errno| OpenImageError::Os {
                step,
                source: error.into(),
            }
        };
        // Other kinds of file answer EINVAL: not sealed either.
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(|_| OpenImageError::NotSealed)?;
        if !seals.contains(IMMUTABLE) {
            return Err(OpenImageError::NotSealed);
        }
        let bytes = rustix::fs::fstat(&file).map_err(os("fstat"))?.st_size as u64;
        let len = usize::try_from(bytes)
            .ok()
            .filter(|len| bytes <= IMAGE_BYTES_MAX && round_up_to_os_page(*len) == Some(*len));
        let len = len.ok_or(OpenImageError::Length { bytes })?;
        let data = data_pages(&file, bytes).map_err(os("lseek"))?;
        let view = View::new(file.as_fd(), len).map_err(os("mmap"))?;
        Ok(InitialImage { file, view, data })
    }

    /// The descriptor, to hand to another process or to map.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Bytes from the start to the end of the last data, in whole kernel pages: what is mapped. 0 if all is zero.
    pub fn data_len(&self) -> usize {
        self.view.len
    }

    /// How many pages of [`PAGE_BYTES`] hold data.
    pub fn data_pages(&self) -> u64 {
        self.data
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// The contents of page `number` of [`PAGE_BYTES`], or `None` if it is zero and not stored.
    pub fn page(&self, number: u64) -> Option<&[u8; PAGE_BYTES]> {
        let number = usize::try_from(number).ok()?;
        let word = self.data.get(number / 64)?;
        if word & (1 << (number % 64)) == 0 {
            return None;
        }
        let start = number * PAGE_BYTES;
        self.view
            .bytes()
            .get(start..start + PAGE_BYTES)?
            .try_into()
            .ok()
    }
}

/// Writes `bytes` at `offset`, leaving out pages that would be zero anyway, and marks the written ones.
/// Gaps between pieces that are written over with the zeros that are there anyhow, in bytes.
const GAP_MAX: u64 = 4096;
/// Pieces are joined up to this length, in bytes.
const JOINED_MAX: usize = 1 << 20;

/// Neighbouring pieces put together: compilers leave tens of thousands of small ones.
#[derive(Default)]
struct Joined {
    offset: u64,
    bytes: Vec<u8>,
    /// Where the data written before ends: behind it, gaps are zero.
    written_end: u64,
}

impl Joined {
    /// Adds a piece that follows closely; false if it does not, and what is there is to be written first.
    fn take(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let end = self.offset + self.bytes.len() as u64;
        let fits = self.offset >= self.written_end && self.bytes.len() + bytes.len() <= JOINED_MAX;
        let follows = offset >= end && offset - end <= GAP_MAX;
        if !(fits && follows) {
            return false;
        }
        self.bytes.resize((offset - self.offset) as usize, 0);
        self.bytes.extend_from_slice(bytes);
        true
    }

    fn begin(&mut self, offset: u64, bytes: &[u8]) {
        self.written_end = self.written_end.max(self.offset + self.bytes.len() as u64);
        self.offset = offset;
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
    }
}

fn write_piece(
    file: &OwnedFd,
    data: &mut Vec<u64>,
    offset: u64,
    bytes: &[u8],
) -> rustix::io::Result<()> {
    let mut pending = 0..0;
    let mut at = 0;
    while at < bytes.len() {
        let page = (offset as usize + at) / PAGE_BYTES;
        let next = bytes.len().min((page + 1) * PAGE_BYTES - offset as usize);
        let (word, bit) = (page / 64, 1 << (page % 64));
        let written = data.get(word).is_some_and(|word| word & bit != 0);
        if written || bytes[at..next].iter().any(|byte| *byte != 0) {
            if data.len() <= word {
                data.resize(word + 1, 0);
            }
            data[word] |= bit;
            if pending.end != at {
                write_all(file, offset, bytes, pending)?;
                pending = at..at;
            }
            pending.end = next;
        }
        at = next;
    }
    write_all(file, offset, bytes, pending)
}

fn write_all(
    file: &OwnedFd,
    offset: u64,
    bytes: &[u8],
    mut range: std::ops::Range<usize>,
) -> rustix::io::Result<()> {
    while !range.is_empty() {
        range.start +=
            rustix::io::pwrite(file, &bytes[range.clone()], offset + range.start as u64)?;
    }
    Ok(())
}

/// The pages with data, from the file's own map of its holes (lseek(2), `SEEK_DATA`).
fn data_pages(file: &OwnedFd, len: u64) -> rustix::io::Result<Vec<u64>> {
    let mut data = vec![0u64; (len as usize / PAGE_BYTES).div_ceil(64)];
    let mut at = 0;
    while at < len {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        for page in start as usize / PAGE_BYTES..(at as usize).div_ceil(PAGE_BYTES) {
            data[page / 64] |= 1 << (page % 64);
        }
    }
    Ok(data)
}

/// A read-only mapping of a whole sealed file.
#[derive(Debug)]
struct View {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: 1. The mapping belongs to the view alone and is only read; any thread may read or unmap it.
unsafe impl Send for View {}
// SAFETY: 1. Its bytes are immutable (the file is sealed against writing), so shared reading is free of races.
unsafe impl Sync for View {}

impl View {
    fn new(file: BorrowedFd<'_>, len: usize) -> rustix::io::Result<View> {
        if len == 0 {
            return Ok(View {
                start: NonNull::dangling(),
                len,
            });
        }
        // SAFETY: 1. A new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::PRIVATE,
                file,
                0,
            )
        }?;
        Ok(View {
            start: NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?,
            len,
        })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: 1. `start..start + len` is mapped readable until drop, or `len` is 0 and `start` dangling.
        // 2. The file is sealed against writing and shrinking: the bytes never change and never fault with SIGBUS.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: 1. The mapping is ours, and no reference into it outlives the view.
            // An error (too many mappings to split a neighbour off) leaks the range and nothing else.
            let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }
}
