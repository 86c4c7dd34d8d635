//! Who moves what: [`NodeId`], [`MoveId`], [`Attempt`], and the [`Grant`] by which a source lets go.
//!
//! Nothing here is made by chance: this crate has no source of randomness. Whoever starts a move brings its
//! [`MoveId`] and [`Grant`], 128 bits each that nobody could guess.

use std::fmt;

use serde::{Deserialize, Serialize};
use sterna_process::{Epoch, ProcessId};

/// For what [`Grant::seal`] hashes, so that it is no other hash of the same bytes.
const SEAL_CONTEXT: &str = "sterna-migration 2026 seal of a grant";
const FILE_CONTEXT: &str = "sterna-migration 2026-11-29 who has the file of a frozen process";

/// A node: the Ed25519 public key by which it is known, never an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId([u8; 32]);

impl NodeId {
    /// The node with this key.
    #[must_use]
    pub const fn from_bytes(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// One attempt to move a process. An attempt that is made again has another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MoveId([u8; 16]);

impl MoveId {
    /// The id with these bits, which must be random.
    #[must_use]
    pub const fn from_bytes(bits: [u8; 16]) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// What every message, command and piece of memory of a move says it belongs to.
///
/// The epoch is the one in which the source owns the process. So what is left of an attempt can never be taken
/// for a part of a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt {
    /// The process.
    pub process: ProcessId,
    /// Its epoch at the source.
    pub epoch: Epoch,
    /// Which attempt.
    pub move_id: MoveId,
}

/// What the source of a move gives to its target once the process stands still, and without which a target
/// cannot commit: 128 random bits.
///
/// The registry knows only its [seal](Grant::seal), from the declaration on. So whatever a target does, by
/// fault or on purpose, a process that still runs at its source cannot change its owner.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grant([u8; 16]);

impl Grant {
    /// The grant with these bits, which must be random.
    #[must_use]
    pub const fn from_bytes(bits: [u8; 16]) -> Self {
        Self(bits)
    }

    /// The grant that only who has a file with this root can know: by it a frozen process is thawed. The root is
    /// a hash over all of the file, and is not to be published.
    #[must_use]
    pub fn of_file(root: &[u8; 32]) -> Self {
        let hash = blake3::derive_key(FILE_CONTEXT, root);
        let (bits, _) = hash.split_first_chunk().expect("more than 16 bytes");
        Self(*bits)
    }

    /// What the registry keeps to recognise it.
    #[must_use]
    pub fn seal(&self) -> GrantSeal {
        GrantSeal(blake3::derive_key(SEAL_CONTEXT, &self.0))
    }
}

/// The hash of a [`Grant`]: everybody may see it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrantSeal([u8; 32]);

impl GrantSeal {
    /// The seal with these bits.
    #[must_use]
    pub const fn from_bytes(bits: [u8; 32]) -> Self {
        Self(bits)
    }

    /// Its bits.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Ids are shown by their first eight hexadecimal digits.
fn short(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes[..4]
        .iter()
        .try_for_each(|byte| write!(f, "{byte:02x}"))
}

macro_rules! shown_short {
    ($($id:ident),*) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                short(&self.0, f)
            }
        }
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($id), "({})"), self)
            }
        }
    )*};
}
shown_short!(NodeId, MoveId, GrantSeal);

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grant(secret)")
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            process,
            epoch,
            move_id,
        } = self;
        write!(f, "move {move_id} of {} in epoch {epoch}", process.short())
    }
}
