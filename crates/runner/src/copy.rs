//! An image with its pages between a runner and its service, over a pipe: [`write`], [`Copy`].
//!
//! ```text
//! │ length u64 │ image │ length u64 │ runs in postcard │ pages of the runs, in their order │ "e" │
//! ```
//!
//! Without the last byte it is not whole, and whoever made it has failed. Both ends are on one machine: nothing is sealed.
//! A runner has no key, so files and snapshots are written by its service, which never holds more than a piece.

use std::io::{self, Read, Write};

use sterna_process::{
    Image, ImageReadError, MemoryError, PageProvider, PageRun, PageRuns, ReadLimits,
};

use crate::limits::{COPY_RUNS_BYTES_MAX, IMAGE_BYTES_MAX};

/// Pages that are read at once, as image files have them.
const PIECE_PAGES: u64 = sterna_process::PIECE_PAGES;
const END: u8 = b'e';

/// Why a copy was not written or not understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The other end is gone, or has failed.
    #[error("the copy of the process is not whole: the other side has failed or is gone")]
    Pipe(#[from] io::Error),
    /// The process's memory cannot be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// What came is no image.
    #[error("the copy of the process makes no sense")]
    Image(#[from] ImageReadError),
    /// What came is no list of pages.
    #[error("the copy's list of pages makes no sense")]
    Pages,
    /// It is larger than it may be.
    #[error("the copy has {bytes} bytes of {what}, {limit} are allowed")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many.
        bytes: u64,
        /// How many there may be.
        limit: u64,
    },
}

/// Writes a copy.
///
/// # Errors
/// See [`CopyError`].
pub fn write(
    to: &mut impl Write,
    image: &[u8],
    pages: &mut dyn PageProvider,
) -> Result<(), CopyError> {
    let runs = pages.runs();
    let encoded = postcard::to_stdvec(&runs).map_err(|_| CopyError::Pages)?;
    for part in [image, &encoded] {
        to.write_all(&(part.len() as u64).to_le_bytes())?;
        to.write_all(part)?;
    }
    let mut buffer = Vec::new();
    for piece in runs.iter().flat_map(|run| run.pieces(PIECE_PAGES)) {
        buffer.resize(piece.bytes() as usize, 0);
        pages.read(piece, &mut buffer)?;
        to.write_all(&buffer)?;
    }
    to.write_all(&[END])?;
    Ok(to.flush()?)
}

/// A copy that is being read: its image, then its pages, each once and in their order.
#[derive(Debug)]
pub struct Copy<R> {
    from: R,
    image: Image,
    runs: PageRuns,
    left: std::vec::IntoIter<PageRun>,
}

impl<R: Read> Copy<R> {
    /// Reads all but the pages.
    ///
    /// # Errors
    /// See [`CopyError`].
    pub fn begin(mut from: R) -> Result<Self, CopyError> {
        let image = part(&mut from, "image", IMAGE_BYTES_MAX)?;
        let image = Image::decode(&image, &ReadLimits::default())?;
        let runs = part(&mut from, "page runs", COPY_RUNS_BYTES_MAX)?;
        let runs: PageRuns = postcard::from_bytes(&runs).map_err(|_| CopyError::Pages)?;
        if runs.iter().any(|run| !image.header.layout.contains(*run)) {
            return Err(CopyError::Pages);
        }
        let pieces: Vec<PageRun> = runs
            .iter()
            .flat_map(|run| run.pieces(PIECE_PAGES))
            .collect();
        let mut copy = Self {
            from,
            image,
            runs,
            left: pieces.into_iter(),
        };
        if copy.left.len() == 0 {
            copy.end()?;
        }
        Ok(copy)
    }

    /// All but the pages.
    pub const fn image(&self) -> &Image {
        &self.image
    }

    fn end(&mut self) -> io::Result<()> {
        let mut end = [0];
        self.from.read_exact(&mut end)?;
        match end {
            [END] => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl<R: Read> PageProvider for Copy<R> {
    fn runs(&self) -> PageRuns {
        self.runs.clone()
    }

    fn read(&mut self, run: PageRun, buffer: &mut [u8]) -> Result<(), MemoryError> {
        MemoryError::check_length(&[run], buffer.len())?;
        if self.left.next() != Some(run) {
            return Err(MemoryError::OutOfRange { run });
        }
        let failed = |source| MemoryError::System {
            doing: "read the copy of the process, whose other side has failed",
            source,
        };
        self.from.read_exact(buffer).map_err(failed)?;
        match self.left.len() {
            0 => self.end().map_err(failed),
            _ => Ok(()),
        }
    }
}

fn part(from: &mut impl Read, what: &'static str, limit: u64) -> Result<Vec<u8>, CopyError> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let bytes = u64::from_le_bytes(length);
    if bytes > limit {
        return Err(CopyError::TooLarge { what, bytes, limit });
    }
    // No more is allocated than what comes.
    let mut part = Vec::new();
    from.take(bytes).read_to_end(&mut part)?;
    match part.len() as u64 == bytes {
        true => Ok(part),
        false => Err(CopyError::Pipe(io::ErrorKind::UnexpectedEof.into())),
    }
}

#[cfg(test)]
mod tests {
    use sterna_process::{
        Description, Epoch, ImageHeader, MemoryLayout, PAGE_SIZE, PageSet, ProcessId, ProgramId,
        Region, RegionId, Sections, Tag,
    };

    use super::*;

    fn image(pages: u64) -> Image {
        let region = Region {
            id: RegionId(0),
            name: "memory".into(),
            pages,
            pages_max: pages,
        };
        Image {
            header: ImageHeader {
                kind: Tag::new("toy"),
                program: ProgramId::of(b"p"),
                process: ProcessId::from_bytes([1; 16]),
                epoch: Epoch(3),
                layout: MemoryLayout::new(vec![region]).unwrap(),
            },
            description: Description::default(),
            sections: Sections::new(),
        }
    }

    #[test]
    fn what_was_written_is_read_and_what_is_cut_short_never_passes() {
        let mut set = PageSet::new();
        for page in [0, 1, 2, 700, 9] {
            let run = PageRun::page(RegionId(0), page).unwrap();
            set.insert(run, &[page as u8 + 1; PAGE_SIZE]).unwrap();
        }
        let image = image(1000);
        let mut bytes = Vec::new();
        write(&mut bytes, &image.encode().unwrap(), &mut &set).unwrap();
        let whole = |bytes: &[u8]| -> Result<Vec<u8>, CopyError> {
            let mut copy = Copy::begin(bytes)?;
            let mut all = Vec::new();
            for run in copy.runs().iter().flat_map(|run| run.pieces(PIECE_PAGES)) {
                let mut buffer = vec![0; run.bytes() as usize];
                copy.read(run, &mut buffer)?;
                all.extend(buffer);
            }
            Ok(all)
        };
        assert_eq!(whole(&bytes).unwrap().len(), 5 * PAGE_SIZE);
        for cut in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
            assert!(whole(&bytes[..cut]).is_err(), "{cut}");
        }
    }
}
