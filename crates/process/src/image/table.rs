//! The page table of an image file: which pages it stores, with their hashes, and which are zeros.
//!
//! Encoded as entries `region u32, kind u32, first u64, count u64`, in ascending order, each followed by
//! `count` hashes of 32 bytes if its kind is *stored* (1) and by nothing if it is *zeros* (0). Where a page's
//! bytes are follows from its place in this order, so that no offset needs to be believed.

use super::ImageReadError;
use crate::memory::{MemoryLayout, RegionId};
use crate::run::{PageRun, PageRuns};

const ENTRY_BYTES: usize = 4 + 4 + 8 + 8;
const HASH_BYTES: usize = 32;
const ZEROS: u32 = 0;
const STORED: u32 = 1;

#[derive(Debug, Default)]
pub(super) struct PageTable {
    entries: Vec<Entry>,
    hashes: Vec<[u8; HASH_BYTES]>,
}

/// Neighbouring pages that are all stored or all zeros.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) run: PageRun,
    /// The place of the first page among all stored ones; `None` for zeros.
    pub(super) place: Option<usize>,
}

impl PageTable {
    /// Adds the next page; the hash is that of its contents, or `None` if they are zeros.
    pub(super) fn push(&mut self, page: PageRun, hash: Option<blake3::Hash>) {
        let place = hash.map(|hash| {
            self.hashes.push(*hash.as_bytes());
            self.hashes.len() - 1
        });
        if let Some(last) = self.entries.last_mut() {
            let touches = last.run.region() == page.region() && last.run.end() == page.first();
            if touches && last.place.is_some() == place.is_some() {
                let longer = PageRun::new(
                    last.run.region(),
                    last.run.first(),
                    last.run.count() + page.count(),
                );
                last.run = longer.unwrap_or(last.run);
                return;
            }
        }
        self.entries.push(Entry { run: page, place });
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(self.entries.len() * ENTRY_BYTES + self.hashes.len() * HASH_BYTES);
        for Entry { run, place } in &self.entries {
            let kind = if place.is_some() { STORED } else { ZEROS };
            bytes.extend_from_slice(&run.region().0.to_le_bytes());
            bytes.extend_from_slice(&kind.to_le_bytes());
            bytes.extend_from_slice(&run.first().to_le_bytes());
            bytes.extend_from_slice(&run.count().to_le_bytes());
            if let &Some(place) = place {
                bytes
                    .extend_from_slice(self.hashes[place..][..run.count() as usize].as_flattened());
            }
        }
        bytes
    }

    pub(super) fn decode(mut bytes: &[u8], layout: &MemoryLayout) -> Result<Self, ImageReadError> {
        let mut table = Self::default();
        while !bytes.is_empty() {
            let (entry, rest) = bytes
                .split_first_chunk::<ENTRY_BYTES>()
                .ok_or_else(|| wrong("an entry is cut short"))?;
            let ([region, kind], [first, count]) = numbers(entry);
            let run = PageRun::new(RegionId(region), first, count)
                .ok_or_else(|| wrong("a run is impossible"))?;
            if !layout.contains(run) {
                return Err(wrong("a page is outside of its memory region"));
            }
            if table
                .entries
                .last()
                .is_some_and(|last| (last.run.region(), last.run.end()) > (run.region(), first))
            {
                return Err(wrong("the pages are not in ascending order"));
            }
            bytes = rest;
            let place = match kind {
                ZEROS => None,
                STORED => {
                    let length = usize::try_from(count)
                        .ok()
                        .and_then(|count| count.checked_mul(HASH_BYTES));
                    let (hashes, rest) = length
                        .and_then(|length| bytes.split_at_checked(length))
                        .ok_or_else(|| wrong("hashes are missing"))?;
                    bytes = rest;
                    let place = table.hashes.len();
                    table.hashes.extend_from_slice(hashes.as_chunks().0);
                    Some(place)
                }
                _ => return Err(wrong("a run is of an unknown kind")),
            };
            table.entries.push(Entry { run, place });
        }
        Ok(table)
    }

    /// What the table says about the page and its neighbours after it; `None` if it is not in the file.
    pub(super) fn find(&self, region: RegionId, page: u64) -> Option<Entry> {
        let after = self
            .entries
            .partition_point(|entry| (entry.run.region(), entry.run.first()) <= (region, page));
        let Entry { run, place } = *self.entries[..after].last()?;
        if run.region() != region {
            return None;
        }
        let left = run.end().checked_sub(page)?;
        let skipped = usize::try_from(page - run.first()).ok()?;
        Some(Entry {
            run: PageRun::new(region, page, left)?,
            place: place.map(|place| place + skipped),
        })
    }

    pub(super) fn hash(&self, place: usize) -> &[u8; HASH_BYTES] {
        &self.hashes[place]
    }

    pub(super) fn stored(&self) -> u64 {
        self.hashes.len() as u64
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn runs(&self) -> PageRuns {
        self.entries.iter().map(|entry| entry.run).collect()
    }
}

fn wrong(reason: &str) -> ImageReadError {
    ImageReadError::Malformed {
        part: "page table",
        reason: reason.into(),
    }
}

fn numbers(entry: &[u8; ENTRY_BYTES]) -> ([u32; 2], [u64; 2]) {
    let (chunks, _) = entry.as_chunks::<4>();
    let small = |i: usize| u32::from_le_bytes(chunks[i]);
    let large = |i: usize| u64::from(small(i)) | u64::from(small(i + 1)) << 32;
    ([small(0), small(1)], [large(2), large(4)])
}
