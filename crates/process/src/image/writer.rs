//! Writes image files: [`ImageWriter`].

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::atomic::AtomicFile;
use super::footer::{FOOTER_MAGIC, Footer, seal};
use super::table::PageTable;
use super::{Image, ImageKey, SectionError};
use crate::memory::{MemoryError, PAGE_SIZE};
use crate::pages::{PIECE_PAGES, PageProvider, ZERO_PAGE};
use crate::run::PageRun;

/// zstd's own default: most of the gain, at some hundred MB/s.
const COMPRESSION_LEVEL: i32 = 3;
const BUFFER_BYTES: usize = 1 << 20;

/// A program as an image file holds it: compressed. To be made before the process stands still.
#[derive(Debug, Clone)]
pub struct PackedProgram {
    packed: Vec<u8>,
    bytes: u64,
}

impl PackedProgram {
    /// Compresses a program.
    ///
    /// # Errors
    /// If there is not enough memory for it.
    pub fn pack(program: &[u8]) -> io::Result<Self> {
        Ok(Self {
            packed: zstd::bulk::compress(program, COMPRESSION_LEVEL)?,
            bytes: program.len() as u64,
        })
    }

    /// The program's length, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Writes an image with its pages into a file or stream, in the format described in the
/// [module](crate::image).
///
/// Pages are taken from a [`PageProvider`] piece by piece; for progress, wrap it.
#[derive(Debug, Clone)]
pub struct ImageWriter<'a> {
    image: &'a Image,
    key: &'a ImageKey,
    program: Option<&'a PackedProgram>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Length of the file.
    pub bytes: u64,
    /// Pages stored in it.
    pub pages_stored: u64,
    /// Pages of zeros, which are only named.
    pub pages_zero: u64,
    /// A hash over all of the file, which only who has it can know.
    pub root: [u8; 32],
}

impl<'a> ImageWriter<'a> {
    /// Writes `image`, marked with `key` as made by its holder.
    #[must_use]
    pub const fn new(image: &'a Image, key: &'a ImageKey) -> Self {
        Self {
            image,
            key,
            program: None,
        }
    }

    /// Puts the program in, too, so that the file can be thawed where the program is not installed.
    #[must_use]
    pub const fn with_program(mut self, program: &'a PackedProgram) -> Self {
        self.program = Some(program);
        self
    }

    /// Writes the file at `path`, readable by its owner alone. It replaces a file that is there when all is
    /// written and safe on disk; on an error nothing is changed and nothing left behind.
    ///
    /// # Errors
    /// If the file cannot be written, or the image or its pages not be read.
    pub fn write_file(
        &self,
        path: &Path,
        pages: &mut dyn PageProvider,
    ) -> Result<Written, ImageWriteError> {
        let atomic =
            AtomicFile::create(path).map_err(|source| ImageWriteError::at(path, source))?;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, &atomic.file);
        let written = self.write_to(&mut out, pages).and_then(|written| {
            out.flush().map_err(ImageWriteError::Output)?;
            Ok(written)
        });
        // What is still buffered after an error must not be written when the buffer is dropped.
        drop(out.into_parts());
        let written = written.map_err(|error| match error {
            ImageWriteError::Output(source) => ImageWriteError::at(path, source),
            other => other,
        })?;
        atomic
            .complete()
            .map_err(|source| ImageWriteError::at(path, source))?;
        Ok(written)
    }

    /// Writes what would be in a file to `out`.
    ///
    /// # Errors
    /// If `out` fails, or the image or its pages cannot be read.
    pub fn write_to(
        &self,
        out: &mut dyn Write,
        pages: &mut dyn PageProvider,
    ) -> Result<Written, ImageWriteError> {
        let mut sink = Sink {
            out,
            root: blake3::Hasher::new(),
            bytes: 0,
        };
        let image = self.image.encode()?;
        sink.covered(&image)?;
        let program = self.program.map_or(&[][..], |program| &program.packed);
        sink.covered(program)?;
        let padding = sink.bytes.next_multiple_of(PAGE_SIZE as u64) - sink.bytes;
        sink.covered(&ZERO_PAGE[..padding as usize])?;

        let (table, pages_zero) = self.write_pages(&mut sink, pages)?;
        let encoded = table.encode();
        sink.covered(&encoded)?;
        let footer = Footer {
            image_bytes: image.len() as u64,
            program_stored_bytes: program.len() as u64,
            program_bytes: self.program.map_or(0, PackedProgram::bytes),
            pages_stored: table.stored(),
            table_bytes: encoded.len() as u64,
            key: self.key.id(),
        };
        sink.covered(&footer.encode())?;
        let root = *sink.root.finalize().as_bytes();
        let mac = self.key.mac(&root);
        sink.write(mac.as_bytes())?;
        sink.write(seal(&root, mac.as_bytes()).as_bytes())?;
        sink.write(&FOOTER_MAGIC)?;
        Ok(Written {
            bytes: sink.bytes,
            pages_stored: table.stored(),
            pages_zero,
            root,
        })
    }

    fn write_pages(
        &self,
        sink: &mut Sink<'_>,
        pages: &mut dyn PageProvider,
    ) -> Result<(PageTable, u64), ImageWriteError> {
        let mut table = PageTable::default();
        let mut zeros = 0;
        let mut buffer = vec![0; PIECE_PAGES as usize * PAGE_SIZE];
        let runs = pages.runs();
        if let Some(&run) = runs
            .iter()
            .find(|&&run| !self.image.header.layout.contains(run))
        {
            return Err(MemoryError::OutOfRange { run }.into());
        }
        for piece in runs.iter().flat_map(|run| run.pieces(PIECE_PAGES)) {
            let buffer = &mut buffer[..piece.bytes() as usize];
            pages.read(piece, buffer)?;
            for (page, contents) in piece.pages().zip(buffer.chunks_exact(PAGE_SIZE)) {
                let zero = contents == ZERO_PAGE;
                if zero {
                    zeros += 1;
                } else {
                    sink.write(contents)?;
                }
                if let Some(page) = PageRun::page(piece.region(), page) {
                    table.push(page, (!zero).then(|| blake3::hash(contents)));
                }
            }
        }
        Ok((table, zeros))
    }
}

/// Counts what is written and hashes what is under the root.
struct Sink<'a> {
    out: &'a mut dyn Write,
    root: blake3::Hasher,
    bytes: u64,
}

impl Sink<'_> {
    fn covered(&mut self, bytes: &[u8]) -> Result<(), ImageWriteError> {
        self.root.update(bytes);
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ImageWriteError> {
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(ImageWriteError::Output)
    }
}

/// Why an image file was not written. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageWriteError {
    /// No room.
    #[error("no room for the image {}: free some, or write it elsewhere", path.display())]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file cannot be made or written.
    #[error("could not write the image {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The stream cannot be written.
    #[error("could not write the image")]
    Output(#[source] io::Error),
    /// A section cannot be encoded.
    #[error("could not encode the image")]
    Section(#[from] SectionError),
    /// The pages cannot be read.
    #[error("could not read the process's memory")]
    Memory(#[from] MemoryError),
}

impl ImageWriteError {
    fn at(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::NoRoom { path, source },
            _ => Self::File { path, source },
        }
    }
}
