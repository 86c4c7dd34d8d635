//! Who made an image file: [`ImageKey`], and what a reader learns of it, [`Provenance`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::random_bytes;

/// The secret under which a node or user marks the image files it makes (256 bits, keyed BLAKE3).
///
/// Who has it can make files that are thawed without a question; keep it as private as the files are.
#[derive(Clone)]
pub struct ImageKey([u8; 32]);

impl ImageKey {
    /// A new key from the kernel's random generator.
    #[must_use]
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// The key with these bits.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bits, to be stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its public name: tells nothing about the key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let hash = blake3::derive_key("sterna image v1: name of a key", &self.0);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        KeyId(id)
    }

    pub(super) fn mac(&self, root: &[u8; 32]) -> blake3::Hash {
        let key = blake3::derive_key("sterna image v1: message authentication", &self.0);
        blake3::keyed_hash(&key, root)
    }
}

impl fmt::Debug for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageKey({}, secret)", self.id())
    }
}

/// The public name of an [`ImageKey`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub(super) [u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// Whether a file was made by the holder of the reader's own key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// It was, and nobody has changed it since.
    Own,
    /// It says that it was made under another key, which the reader cannot check. It is whole, but anyone
    /// could have made it: show its bindings and ask before it runs.
    Foreign {
        /// The key that it names.
        key: KeyId,
    },
}
