//! Which artifacts this program can use: those that it would make itself.

use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Target};
use crate::pass;

/// Version of the files beside an artifact.
const FILES_VERSION: u32 = 2;
/// Hexadecimal digits of an id: a folder's name.
const ID_DIGITS: usize = 32;

/// What an artifact is made by and for. Artifacts of the same `id` are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compatibility {
    /// A hash of the engine's version and settings, the processor's features as far as code depends on them, and
    /// the pass with its options.
    pub(crate) id: String,
    /// A hash of the versions alone: what changes with a release of Sterna.
    pub(crate) release: String,
    /// The same for people.
    pub(crate) text: String,
}

impl Compatibility {
    pub(crate) fn of(engine: &Engine, options: &pass::Options) -> Compatibility {
        let mut release = Blake(blake3::Hasher::new());
        FILES_VERSION.hash(&mut release);
        pass::PASS_VERSION.hash(&mut release);
        env!("STERNA_PASS_HASH").hash(&mut release);
        let mut whole = Blake(release.0.clone());
        engine
            .wasmtime()
            .precompile_compatibility_hash()
            .hash(&mut whole);
        engine.options().hash(&mut whole);
        options.hash(&mut whole);
        Compatibility {
            id: whole.digits(),
            release: release.digits(),
            text: format!(
                "pass {}, {}{}",
                pass::PASS_VERSION,
                match engine.options().target {
                    Target::Here => std::env::consts::ARCH.to_owned(),
                    Target::Every(processor) => format!("every {}", processor.name()),
                },
                if engine.options().canonicalize_nans {
                    ", canonical NaNs"
                } else {
                    ""
                }
            ),
        }
    }
}

/// BLAKE3 as the standard library's kind of hasher.
struct Blake(blake3::Hasher);

impl Blake {
    fn digits(&self) -> String {
        self.0.finalize().to_hex()[..ID_DIGITS].to_owned()
    }
}

impl Hasher for Blake {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes"))
    }
}
