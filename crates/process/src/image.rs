//! A process frozen into bytes: [`Image`], and the file it is kept in.
//!
//! ```text
//! ┌ image part: also what travels in a message ─────────────────────────────┐
//! │ magic "STERNAIM" │ format version u32 │ head length u32 │ head's BLAKE3 │
//! │ head: kind, program, process, epoch, memory layout, section table       │
//! │ section contents, one after the other; lengths and BLAKE3 in the table  │
//! ├ only in files ──────────────────────────────────────────────────────────┤
//! │ program, compressed with zstd (may be absent)                           │
//! │ zeros up to a multiple of 4096                                          │
//! │ pages, 4096 bytes each, in the page table's order                       │
//! │ page table: runs of stored pages with a BLAKE3 for each, runs of zeros  │
//! │ footer, 128 bytes: lengths of all parts, key id, MAC, seal, "STERNEND"  │
//! └─────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Integers outside of [postcard](https://postcard.jamesmunns.com/wire-format) parts are little-endian.
//! **Integrity:** the *root* is the BLAKE3 hash of everything but the pages; pages are covered by their hashes
//! in the page table, which is under the root. The MAC is the root's keyed hash under the key of the node or
//! user that made the file, the seal the hash of both. So every changed bit and every cut is noticed before
//! anything of it is used, and a file of [someone else](Provenance::Foreign) is told from one's own, without
//! reading all pages first: each page is checked when it is read.
//!
//! - [`section`](Section): versioned pieces of state, each of which its kind must take up
//! - [`writer`](ImageWriter): streams pages, replaces the target file at once or not at all
//! - [`reader`](ImageFile): opens a hostile file safely, for inspection and for restoring
//! - [`key`](ImageKey): who made a file

mod atomic;
mod footer;
mod key;
mod reader;
mod section;
mod table;
mod writer;

pub use key::{ImageKey, KeyId, Provenance};
pub use reader::{ImageFile, ImageReadError, PageStatistics, ReadAt, ReadLimits};
pub use section::{Section, SectionError, SectionSummary, Sections};
pub use writer::{ImageWriteError, ImageWriter, PackedProgram, Written};

use serde::{Deserialize, Serialize};

use crate::description::Description;
use crate::id::{Epoch, ProcessId, ProgramId, Tag};
use crate::memory::MemoryLayout;

/// Version of the format that is written.
pub const FORMAT_NEWEST: u32 = 1;
/// Oldest version that is read.
pub const FORMAT_OLDEST: u32 = 1;

const MAGIC: [u8; 8] = *b"STERNAIM";
const PREAMBLE_BYTES: usize = 8 + 4 + 4 + 32;
const DESCRIPTION: Tag = Tag::new("description");
const DESCRIPTION_VERSION: u16 = 1;

/// Which process an image is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageHeader {
    /// The kind that made it and can restore it.
    pub kind: Tag,
    /// The program it runs.
    pub program: ProgramId,
    /// The process.
    pub process: ProcessId,
    /// The epoch in which its owner captured it.
    pub epoch: Epoch,
    /// Its memory regions.
    pub layout: MemoryLayout,
}

/// Everything of a captured process but its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Which process.
    pub header: ImageHeader,
    /// What it is doing, for people.
    pub description: Description,
    /// Its state, for its kind.
    pub sections: Sections,
}

#[derive(Serialize, Deserialize)]
struct Head {
    header: ImageHeader,
    sections: Vec<SectionEntry>,
}

#[derive(Serialize, Deserialize)]
struct SectionEntry {
    tag: Tag,
    version: u16,
    length: u64,
    hash: [u8; 32],
}

impl Image {
    /// The image part of a file, or the contents of a message. Sections are checked when it is
    /// [decoded](Image::decode), so it can travel without further checksums.
    ///
    /// # Errors
    /// If a section cannot be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, SectionError> {
        let description = Section::encode(DESCRIPTION, DESCRIPTION_VERSION, &self.description)?;
        if let Some(twice) = self
            .sections
            .iter()
            .find(|section| section.tag() == &DESCRIPTION)
        {
            return Err(SectionError::Twice {
                tag: twice.tag().clone(),
            });
        }
        let sections = || std::iter::once(&description).chain(self.sections.iter());
        let entry = |section: &Section| SectionEntry {
            tag: section.tag().clone(),
            version: section.version(),
            length: section.contents().len() as u64,
            hash: *blake3::hash(section.contents()).as_bytes(),
        };
        let head = Head {
            header: self.header.clone(),
            sections: sections().map(entry).collect(),
        };
        let head = postcard::to_stdvec(&head)
            .map_err(|source| SectionError::Encode { tag: HEAD, source })?;
        let head_bytes = u32::try_from(head.len()).map_err(|_| SectionError::TooLong {
            tag: HEAD,
            bytes: head.len() as u64,
            limit: u32::MAX.into(),
        })?;

        let mut bytes = Vec::with_capacity(PREAMBLE_BYTES + head.len() + self.sections.bytes());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_NEWEST.to_le_bytes());
        bytes.extend_from_slice(&head_bytes.to_le_bytes());
        bytes.extend_from_slice(blake3::hash(&head).as_bytes());
        bytes.extend_from_slice(&head);
        sections().for_each(|section| bytes.extend_from_slice(section.contents()));
        Ok(bytes)
    }

    /// The image with these bytes, of which all must belong to it.
    ///
    /// # Errors
    /// If they are not an image, of another format version, changed, cut short, or beyond the limits.
    pub fn decode(bytes: &[u8], limits: &ReadLimits) -> Result<Self, ImageReadError> {
        ImageReadError::check_limit(
            "bytes of sections",
            bytes.len() as u64,
            limits.image_bytes_max,
        )?;
        let (preamble, rest) = bytes.split_at_checked(PREAMBLE_BYTES).ok_or_else(|| {
            check_format(bytes)
                .err()
                .unwrap_or(ImageReadError::Truncated { part: "beginning" })
        })?;
        check_format(preamble)?;
        let (length, hash) = preamble[12..].split_at(4);
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let (head, mut contents) = rest
            .split_at_checked(length)
            .ok_or(ImageReadError::Truncated { part: "head" })?;
        if !is_intact(blake3::hash(head), hash) {
            return Err(ImageReadError::Damaged { part: "head" });
        }
        let head: Head = match postcard::take_from_bytes(head) {
            Ok((head, [])) => head,
            Ok(_) => {
                return Err(ImageReadError::Malformed {
                    part: "head",
                    reason: "it has bytes left over".into(),
                });
            }
            Err(error) => {
                return Err(ImageReadError::Malformed {
                    part: "head",
                    reason: error.to_string(),
                });
            }
        };
        ImageReadError::check_limit("sections", head.sections.len() as u64, limits.sections_max)?;

        let mut sections = Sections::new();
        for SectionEntry {
            tag,
            version,
            length,
            hash,
        } in head.sections
        {
            let (section, rest) = usize::try_from(length)
                .ok()
                .and_then(|length| contents.split_at_checked(length))
                .ok_or(ImageReadError::Truncated { part: "section" })?;
            if !is_intact(blake3::hash(section), &hash) {
                return Err(ImageReadError::Damaged { part: "section" });
            }
            sections.push(Section::from_contents(tag, version, section.to_vec()))?;
            contents = rest;
        }
        if !contents.is_empty() {
            let reason = "it has bytes after its last section".into();
            return Err(ImageReadError::Malformed {
                part: "image",
                reason,
            });
        }
        let versions = DESCRIPTION_VERSION..=DESCRIPTION_VERSION;
        let description = sections.require(&DESCRIPTION, versions)?.decode()?;
        Ok(Self {
            header: head.header,
            description,
            sections,
        })
    }

    /// Its sections with their versions and sizes, the description's too.
    #[must_use]
    pub fn summary(&self) -> Vec<SectionSummary> {
        let description = Section::encode(DESCRIPTION, DESCRIPTION_VERSION, &self.description).ok();
        description
            .iter()
            .chain(self.sections.iter())
            .map(Section::summary)
            .collect()
    }
}

/// Under which name errors speak of the head.
const HEAD: Tag = Tag::new("head");

/// Whether a hash is as expected. A fuzzer could never guess one: for it, all are.
fn is_intact(found: blake3::Hash, expected: &[u8]) -> bool {
    cfg!(fuzzing) || found == *expected // compared in constant time
}

/// Fails unless bytes begin as an image of a readable version does.
fn check_format(bytes: &[u8]) -> Result<(), ImageReadError> {
    if bytes.len() < MAGIC.len() || bytes[..MAGIC.len()] != MAGIC {
        return Err(ImageReadError::NotAnImage);
    }
    let Some(&[a, b, c, d]) = bytes.get(8..12) else {
        return Err(ImageReadError::Truncated { part: "beginning" });
    };
    match u32::from_le_bytes([a, b, c, d]) {
        FORMAT_OLDEST..=FORMAT_NEWEST => Ok(()),
        found if found > FORMAT_NEWEST => Err(ImageReadError::NewerFormat { found }),
        found => Err(ImageReadError::OlderFormat { found }),
    }
}
