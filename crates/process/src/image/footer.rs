//! The fixed end of an image file: the lengths of its parts, and whose it is.

use super::key::{ImageKey, KeyId, Provenance};
use super::{ImageReadError, ReadLimits, is_intact};
use crate::memory::PAGE_SIZE;

pub(super) const FOOTER_MAGIC: [u8; 8] = *b"STERNEND";
/// The beginning of the footer, which is under the root; MAC, seal and magic follow.
const FOOTER_COVERED_BYTES: usize = 5 * 8 + 16;
pub(super) const FOOTER_BYTES: usize = FOOTER_COVERED_BYTES + 32 + 32 + 8;
/// What the footer says.
pub(super) struct Footer {
    pub(super) image_bytes: u64,
    pub(super) program_stored_bytes: u64,
    pub(super) program_bytes: u64,
    pub(super) pages_stored: u64,
    pub(super) table_bytes: u64,
    pub(super) key: KeyId,
}

impl Footer {
    pub(super) fn encode(&self) -> [u8; FOOTER_COVERED_BYTES] {
        let mut bytes = [0; FOOTER_COVERED_BYTES];
        let numbers = [
            self.image_bytes,
            self.program_stored_bytes,
            self.program_bytes,
            self.pages_stored,
            self.table_bytes,
        ];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes[40..].copy_from_slice(&self.key.0);
        bytes
    }

    fn decode(bytes: &[u8; FOOTER_COVERED_BYTES]) -> Self {
        let (chunks, _) = bytes.as_chunks::<8>();
        let number = |i: usize| u64::from_le_bytes(chunks[i]);
        let mut key = [0; 16];
        key.copy_from_slice(&bytes[40..]);
        Self {
            image_bytes: number(0),
            program_stored_bytes: number(1),
            program_bytes: number(2),
            pages_stored: number(3),
            table_bytes: number(4),
            key: KeyId(key),
        }
    }

    /// Where the pages begin and where they end, if the parts fill a file of this length exactly.
    pub(super) fn page_area(&self, file_bytes: u64) -> Option<(u64, u64)> {
        let first = self.image_bytes.checked_add(self.program_stored_bytes)?;
        let first = first.checked_next_multiple_of(PAGE_SIZE as u64)?;
        let end = first.checked_add(self.pages_stored.checked_mul(PAGE_SIZE as u64)?)?;
        let total = end
            .checked_add(self.table_bytes)?
            .checked_add(FOOTER_BYTES as u64)?;
        (total == file_bytes).then_some((first, end))
    }

    pub(super) fn check(&self, limits: &ReadLimits) -> Result<(), ImageReadError> {
        ImageReadError::check_limit(
            "bytes of sections",
            self.image_bytes,
            limits.image_bytes_max,
        )?;
        ImageReadError::check_limit(
            "bytes of page table",
            self.table_bytes,
            limits.page_table_bytes_max,
        )?;
        ImageReadError::check_limit(
            "bytes of program",
            self.program_bytes,
            limits.program_bytes_max,
        )?;
        ImageReadError::check_limit(
            "bytes of program",
            self.program_stored_bytes,
            limits.program_bytes_max,
        )
    }
}

/// The hash that notices accidents, also in the MAC of a key that the reader does not have.
pub(super) fn seal(root: &[u8; 32], mac: &[u8; 32]) -> blake3::Hash {
    blake3::Hasher::new().update(root).update(mac).finalize()
}

/// The last bytes of a file, taken apart but not yet believed.
pub(super) struct End {
    pub(super) footer: Footer,
    mac: [u8; 32],
    seal: [u8; 32],
}

impl End {
    /// `None` if a file does not end like this.
    pub(super) fn decode(bytes: &[u8; FOOTER_BYTES]) -> Option<Self> {
        let (covered, rest) = bytes.split_first_chunk()?;
        let (&mac, rest) = rest.split_first_chunk()?;
        let (&seal, magic) = rest.split_first_chunk()?;
        let footer = Footer::decode(covered);
        (*magic == FOOTER_MAGIC).then_some(Self { footer, mac, seal })
    }

    /// Whose the file is, and its root, given the hash of all that the root covers before the footer.
    pub(super) fn provenance(
        &self,
        before: &mut blake3::Hasher,
        key: &ImageKey,
    ) -> Result<(Provenance, [u8; 32]), ImageReadError> {
        let root = *before.update(&self.footer.encode()).finalize().as_bytes();
        if !is_intact(seal(&root, &self.mac), &self.seal) {
            return Err(ImageReadError::Damaged { part: "file" });
        }
        match self.footer.key == key.id() {
            true if key.mac(&root) == self.mac => Ok((Provenance::Own, root)), // compared in constant time
            true => Err(ImageReadError::Altered),
            false => {
                let key = self.footer.key;
                Ok((Provenance::Foreign { key }, root))
            }
        }
    }
}
