//! What a snapshot consists of: [`Manifest`].
//!
//! ```text
//! │ "STERNSNP" │ version u16 │ body in postcard │ MAC: keyed BLAKE3 over all before, 32 bytes │
//! ```

use serde::{Deserialize, Serialize};
use sterna_process::{Epoch, PAGE_SIZE, PageRuns, ProcessId};

const MAGIC: &[u8; 8] = b"STERNSNP";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 10;
const MAC_BYTES: usize = 32;
const MAC_CONTEXT: &str = "sterna-snapshot 2026 mark of a manifest";

/// By which those who may go on from a process's snapshots know that its owner has written them. `Debug` keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key([u8; 32]);

impl Key {
    /// The key with these bits, which must be random.
    #[must_use]
    pub const fn from_bytes(bits: [u8; 32]) -> Self {
        Self(bits)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(secret)")
    }
}

/// A snapshot: all but its pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Numbers of one folder grow.
    pub number: u64,
    /// The process.
    pub process: ProcessId,
    /// In which epoch of its record.
    pub epoch: Epoch,
    /// When it was taken, in milliseconds since 1970, by its owner's clock.
    pub at_ms: u64,
    /// Bytes of output until then.
    pub output_bytes: u64,
    /// The image, encoded.
    pub image: Vec<u8>,
    /// Its pages.
    pub runs: PageRuns,
    /// Where they are, each in its turn.
    pub places: Vec<Place>,
}

/// Where a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Nowhere: it is all zeros.
    Zero,
    /// In a pack.
    Pack {
        /// The snapshot that brought it.
        number: u64,
        /// Which of that one's packs.
        pack: u32,
        /// How many pages are before it.
        at: u32,
        /// BLAKE3 of its contents.
        hash: [u8; 32],
    },
}

/// Why bytes are no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// They begin otherwise, or are cut short.
    #[error("it is no manifest of a snapshot")]
    Foreign,
    /// A newer program wrote them.
    #[error("it is of version {found}, and this program knows {VERSION}")]
    Newer {
        /// Its version.
        found: u16,
    },
    /// They were changed, or written by somebody else.
    #[error("it is damaged, or was not written by the process's owner")]
    Damaged,
}

impl Manifest {
    /// As it is kept.
    #[must_use]
    pub fn encode(&self, key: &Key) -> Vec<u8> {
        let head = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        let mut bytes = postcard::to_extend(self, head).expect("manifests can be written");
        let mac = mac(key, &bytes);
        bytes.extend(mac.as_bytes());
        bytes
    }

    /// What was kept.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn decode(bytes: &[u8], key: &Key) -> Result<Self, ManifestError> {
        let end = bytes.len().checked_sub(MAC_BYTES);
        let (covered, found) = bytes.split_at(end.ok_or(ManifestError::Foreign)?);
        let (head, body) = covered
            .split_at_checked(HEAD_BYTES)
            .ok_or(ManifestError::Foreign)?;
        let version = u16::from_le_bytes([head[8], head[9]]);
        if head[..8] != MAGIC[..] {
            return Err(ManifestError::Foreign);
        }
        if version > VERSION {
            return Err(ManifestError::Newer { found: version });
        }
        if mac(key, covered) != *found {
            return Err(ManifestError::Damaged); // compared in constant time
        }
        let manifest: Self = postcard::from_bytes(body).map_err(|_| ManifestError::Damaged)?;
        match manifest.runs.page_count() == manifest.places.len() as u64 {
            true => Ok(manifest),
            false => Err(ManifestError::Damaged),
        }
    }

    /// The packs that it needs, each once.
    #[must_use]
    pub fn packs(&self) -> std::collections::BTreeMap<(u64, u32), u64> {
        let mut packs = std::collections::BTreeMap::new();
        for place in &self.places {
            if let Place::Pack { number, pack, .. } = place {
                *packs.entry((*number, *pack)).or_default() += 1;
            }
        }
        packs
    }

    /// The length of its pages, in bytes.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        self.places.len() as u64 * PAGE_SIZE as u64
    }
}

fn mac(key: &Key, bytes: &[u8]) -> blake3::Hash {
    let key = blake3::derive_key(MAC_CONTEXT, &key.0);
    blake3::keyed_hash(&key, bytes)
}
