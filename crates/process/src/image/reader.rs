//! Reads image files that may be damaged or hostile: [`ImageFile`].
//!
//! Order of trust: magic and version; the file's length against the footer's lengths; limits; then the root,
//! MAC and seal over everything but pages; only then is anything decoded. Nothing is allocated by a length
//! that was not compared with the file's own length and a limit before.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::footer::{End, FOOTER_BYTES};
use super::key::{ImageKey, Provenance};
use super::table::PageTable;
use super::{
    FORMAT_NEWEST, FORMAT_OLDEST, Image, ImageHeader, PREAMBLE_BYTES, SectionError, SectionSummary,
    check_format, is_intact,
};
use crate::id::ProgramId;
use crate::memory::{Memory, MemoryError, PAGE_SIZE};
use crate::pages::PIECE_PAGES;
use crate::run::{PageRun, PageRuns};

const BUFFER_BYTES: u64 = 1 << 20;

/// What a reader accepts at most, so that a hostile file cannot use up its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadLimits {
    /// Length of the image part: head and sections.
    pub image_bytes_max: u64,
    /// Number of sections.
    pub sections_max: u64,
    /// Length of the page table: 32 bytes for each stored page, 24 for each run.
    pub page_table_bytes_max: u64,
    /// Length of the program, not compressed.
    pub program_bytes_max: u64,
}

impl Default for ReadLimits {
    /// Sections up to 512 MiB, programs up to 1 GiB, and a page table for about 100 GiB of pages.
    fn default() -> Self {
        Self {
            image_bytes_max: 512 << 20,
            sections_max: 1024,
            page_table_bytes_max: 1 << 30,
            program_bytes_max: 1 << 30,
        }
    }
}

/// Something of known length that can be read anywhere: a file, or bytes in memory.
pub trait ReadAt {
    /// Its length, in bytes.
    ///
    /// # Errors
    /// If the system does not say.
    fn length(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// If there are not enough bytes, or they cannot be read.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn length(&self) -> io::Result<u64> {
        let metadata = self.metadata()?;
        match metadata.is_file() {
            true => Ok(metadata.len()),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            )),
        }
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for &[u8] {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..));
        let from = from
            .and_then(|from| from.get(..buffer.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(from);
        Ok(())
    }
}

/// An image file that was found whole: all but its pages is in memory, pages are read and checked when they
/// are asked for. Nothing of it runs.
#[derive(Debug)]
pub struct ImageFile<S = File> {
    source: S,
    image: Image,
    table: PageTable,
    first_page_at: u64,
    program: Option<ProgramPart>,
    provenance: Provenance,
    root: [u8; 32],
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct ProgramPart {
    at: u64,
    stored_bytes: u64,
    bytes: u64,
}

/// How many pages a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct PageStatistics {
    /// Pages with their contents.
    pub stored: u64,
    /// Pages of zeros, only named.
    pub zero: u64,
}

impl ImageFile {
    /// Opens the image file at `path` as a reader who holds `key`.
    ///
    /// # Errors
    /// If it cannot be read, is not an image, of another format version, damaged, altered, or beyond the
    /// limits.
    pub fn open(
        path: impl AsRef<Path>,
        limits: &ReadLimits,
        key: &ImageKey,
    ) -> Result<Self, ImageReadError> {
        let file = File::open(path).map_err(|source| ImageReadError::File {
            doing: "open",
            source,
        })?;
        Self::from_source(file, limits, key)
    }
}

impl<S: ReadAt> ImageFile<S> {
    /// The image file with these contents; as [`ImageFile::open`].
    ///
    /// # Errors
    /// As [`ImageFile::open`].
    pub fn from_source(
        source: S,
        limits: &ReadLimits,
        key: &ImageKey,
    ) -> Result<Self, ImageReadError> {
        let bytes = source.length().map_err(|source| ImageReadError::File {
            doing: "measure",
            source,
        })?;
        let mut start = vec![0; bytes.min(PREAMBLE_BYTES as u64) as usize];
        read(&source, &mut start, 0)?;
        check_format(&start)?;
        let mut end = [0; FOOTER_BYTES];
        let footer_at = bytes
            .checked_sub(FOOTER_BYTES as u64)
            .ok_or(ImageReadError::Truncated { part: "footer" })?;
        read(&source, &mut end, footer_at)?;
        let end = End::decode(&end).ok_or(ImageReadError::Truncated { part: "end" })?;
        let footer = &end.footer;
        let (first_page_at, pages_end) = footer
            .page_area(bytes)
            .ok_or(ImageReadError::Truncated { part: "parts" })?;
        footer.check(limits)?;

        let mut root = blake3::Hasher::new();
        let image = read_part(&source, 0, footer.image_bytes, &mut root)?;
        hash_part(&source, footer.image_bytes, first_page_at, &mut root)?;
        let table = read_part(&source, pages_end, footer.table_bytes, &mut root)?;
        let (provenance, root) = end.provenance(&mut root, key)?;
        let image = Image::decode(&image, limits)?;
        let table = PageTable::decode(&table, &image.header.layout)?;
        if table.stored() != footer.pages_stored {
            let reason = "it names more or fewer pages than there are".into();
            return Err(ImageReadError::Malformed {
                part: "page table",
                reason,
            });
        }
        let program = (footer.program_stored_bytes > 0).then_some(ProgramPart {
            at: footer.image_bytes,
            stored_bytes: footer.program_stored_bytes,
            bytes: footer.program_bytes,
        });
        Ok(Self {
            source,
            image,
            table,
            first_page_at,
            program,
            provenance,
            root,
            bytes,
        })
    }

    /// Which process the image is of.
    #[must_use]
    pub const fn header(&self) -> &ImageHeader {
        &self.image.header
    }

    /// All but the pages.
    #[must_use]
    pub const fn image(&self) -> &Image {
        &self.image
    }

    /// Its sections with their versions and sizes.
    #[must_use]
    pub fn sections(&self) -> Vec<SectionSummary> {
        self.image.summary()
    }

    /// Whose it is.
    #[must_use]
    pub const fn provenance(&self) -> Provenance {
        self.provenance
    }

    /// A hash over all of the file, the pages by theirs: only who has the file can know it.
    #[must_use]
    pub const fn root(&self) -> &[u8; 32] {
        &self.root
    }

    /// The file's length.
    #[must_use]
    pub const fn file_bytes(&self) -> u64 {
        self.bytes
    }

    /// Which pages it has.
    #[must_use]
    pub fn page_runs(&self) -> PageRuns {
        self.table.runs()
    }

    /// How many pages it has.
    #[must_use]
    pub fn page_statistics(&self) -> PageStatistics {
        let all = self
            .table
            .entries()
            .iter()
            .fold(0, |sum: u64, entry| sum.saturating_add(entry.run.count()));
        PageStatistics {
            stored: self.table.stored(),
            zero: all - self.table.stored(),
        }
    }

    /// The length of the program in the file; `None` if the file is thin.
    #[must_use]
    pub fn program_bytes(&self) -> Option<u64> {
        self.program.map(|part| part.bytes)
    }

    /// The program in the file, or `None` if the file is thin.
    ///
    /// # Errors
    /// If it cannot be read, or is not the program that the header names.
    pub fn program(&self) -> Result<Option<Vec<u8>>, ImageReadError> {
        let Some(ProgramPart {
            at,
            stored_bytes,
            bytes,
        }) = self.program
        else {
            return Ok(None);
        };
        let stored = read_part(&self.source, at, stored_bytes, &mut blake3::Hasher::new())?;
        let mut program = Vec::new();
        let decoder = zstd::stream::read::Decoder::with_buffer(&stored[..]);
        let length = decoder.and_then(|decoder| {
            decoder
                .take(bytes.saturating_add(1))
                .read_to_end(&mut program)
        });
        let length = length.map_err(|source| ImageReadError::File {
            doing: "decompress the program in",
            source,
        })?;
        if length as u64 != bytes || ProgramId::of(&program) != self.image.header.program {
            return Err(ImageReadError::Damaged { part: "program" });
        }
        Ok(Some(program))
    }

    /// The contents of the pages of `run`, checked, into a buffer of exactly their length.
    ///
    /// # Errors
    /// If a page is not in the file, damaged, or cannot be read.
    pub fn read_pages(&self, run: PageRun, buffer: &mut [u8]) -> Result<(), ImageReadError> {
        MemoryError::check_length(&[run], buffer.len())?;
        let mut buffer = buffer;
        let mut at = run.first();
        while at < run.end() {
            let entry = self
                .table
                .find(run.region(), at)
                .ok_or(MemoryError::OutOfRange { run })?;
            let pages = entry.run.count().min(run.end() - at);
            let (part, rest) = buffer.split_at_mut(pages as usize * PAGE_SIZE);
            match entry.place {
                None => part.fill(0),
                Some(place) => self.read_stored(place, part)?,
            }
            buffer = rest;
            at += pages;
        }
        Ok(())
    }

    fn read_stored(&self, place: usize, buffer: &mut [u8]) -> Result<(), ImageReadError> {
        read(
            &self.source,
            buffer,
            self.first_page_at + (place * PAGE_SIZE) as u64,
        )?;
        for (place, contents) in (place..).zip(buffer.chunks_exact(PAGE_SIZE)) {
            if !is_intact(blake3::hash(contents), self.table.hash(place)) {
                return Err(ImageReadError::Damaged { part: "page" });
            }
        }
        Ok(())
    }

    /// Puts all pages where they belong in `memory`, each checked before.
    ///
    /// # Errors
    /// If a page is damaged, cannot be read, or not be installed; then the memory must not be used.
    pub fn install_into(&self, memory: &dyn Memory) -> Result<(), ImageReadError> {
        let mut buffer = Vec::new();
        for piece in self
            .table
            .entries()
            .iter()
            .flat_map(|entry| entry.run.pieces(PIECE_PAGES))
        {
            buffer.resize(piece.bytes() as usize, 0);
            self.read_pages(piece, &mut buffer)?;
            memory.install(&[piece], &buffer)?;
        }
        Ok(())
    }

    /// Checks all pages.
    ///
    /// # Errors
    /// If one is damaged or cannot be read.
    pub fn check_pages(&self) -> Result<(), ImageReadError> {
        let mut buffer = Vec::new();
        let stored = self
            .table
            .entries()
            .iter()
            .filter(|entry| entry.place.is_some());
        for piece in stored.flat_map(|entry| entry.run.pieces(PIECE_PAGES)) {
            buffer.resize(piece.bytes() as usize, 0);
            self.read_pages(piece, &mut buffer)?;
        }
        Ok(())
    }
}

fn read(source: &impl ReadAt, buffer: &mut [u8], at: u64) -> Result<(), ImageReadError> {
    source
        .read_exact_at(buffer, at)
        .map_err(|source| ImageReadError::File {
            doing: "read",
            source,
        })
}

/// Reads and hashes a part whose length was checked against the file's and a limit.
fn read_part(
    source: &impl ReadAt,
    at: u64,
    length: u64,
    root: &mut blake3::Hasher,
) -> Result<Vec<u8>, ImageReadError> {
    let mut bytes = vec![0; length as usize];
    read(source, &mut bytes, at)?;
    root.update(&bytes);
    Ok(bytes)
}

/// Hashes a part that need not be in memory.
fn hash_part(
    source: &impl ReadAt,
    mut at: u64,
    end: u64,
    root: &mut blake3::Hasher,
) -> Result<(), ImageReadError> {
    let mut buffer = vec![0; (end - at).min(BUFFER_BYTES) as usize];
    while at < end {
        let piece = &mut buffer[..(end - at).min(BUFFER_BYTES) as usize];
        read(source, piece, at)?;
        root.update(piece);
        at += piece.len() as u64;
    }
    Ok(())
}

/// Why an image could not be read. Nothing of it was used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageReadError {
    /// The system refused.
    #[error("could not {doing} the image")]
    File {
        /// What was being done.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// It does not begin as an image does.
    #[error("not an image of a process: it does not begin with \"STERNAIM\"")]
    NotAnImage,
    /// It was made by a newer version of this software.
    #[error(
        "the image is of format version {found}, this software reads up to version {FORMAT_NEWEST}: upgrade it"
    )]
    NewerFormat {
        /// Its version.
        found: u32,
    },
    /// It was made by a version of this software that is too old.
    #[error(
        "the image is of format version {found}, this software reads from version {FORMAT_OLDEST} on: \
         thaw and freeze it with an older version first"
    )]
    OlderFormat {
        /// Its version.
        found: u32,
    },
    /// Its parts do not fill it: it was cut short, or something was added.
    #[error("the image is cut short or was added to ({part}): copy it again")]
    Truncated {
        /// Where that showed.
        part: &'static str,
    },
    /// Its contents are not what they were.
    #[error("the image is damaged ({part} does not have its checksum): copy it again")]
    Damaged {
        /// Where that showed.
        part: &'static str,
    },
    /// It says that it was made by the reader, but it was not, or was changed by someone since.
    #[error(
        "the image names your key but was changed by someone who does not have it: do not use it"
    )]
    Altered,
    /// It has its checksums but is not right.
    #[error("the image's {part} is not right: {reason}")]
    Malformed {
        /// What of it.
        part: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// It is larger than the reader accepts.
    #[error("the image has {found} {what}, {limit} are allowed")]
    OverLimit {
        /// What, with its unit.
        what: &'static str,
        /// How many it has.
        found: u64,
        /// How many the reader accepts.
        limit: u64,
    },
    /// Something is wrong with a section.
    #[error("could not read the image's sections")]
    Section(#[from] SectionError),
    /// Pages that it does not have, or that could not be installed.
    #[error("could not install the image's pages")]
    Memory(#[from] MemoryError),
}

impl ImageReadError {
    pub(super) fn check_limit(what: &'static str, found: u64, limit: u64) -> Result<(), Self> {
        if found > limit {
            Err(Self::OverLimit { what, found, limit })
        } else {
            Ok(())
        }
    }
}
