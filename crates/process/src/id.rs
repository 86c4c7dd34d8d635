//! Names that mean the same on every machine: [`ProcessId`], [`ProgramId`], [`Epoch`] and [`Tag`].
//!
//! A process is named by chance (128 random bits), a program by its content (a hash), a change of owner by
//! counting. None of them says where something is: that is looked up, because it changes.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Crockford's base 32 in lower case: no `i`, `l`, `o` or `u`, so that ids can be read aloud and typed.
/// Source: <https://www.crockford.com/base32.html>.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 128 bits at 5 bits a letter; the last letter carries 3 bits and two zeros.
const PROCESS_ID_LETTERS: usize = 26;
const PROGRAM_ID_PREFIX: &str = "b3:";

/// Text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Not the text of a [`ProcessId`].
    #[error("{text:?} is not a process id: expected 26 letters and digits, as `ps` shows them")]
    Process {
        /// What was given.
        text: String,
    },
    /// Not the text of a [`ProgramId`].
    #[error("{text:?} is not a program id: expected `b3:` and 64 hexadecimal digits")]
    Program {
        /// What was given.
        text: String,
    },
}

/// The name of one process, for its whole life and on every machine: 128 random bits.
///
/// Shown as 26 base-32 letters whose order is that of the bits; any beginning of them can stand for the
/// whole where it is unambiguous ([`ProcessId::has_prefix`]).
///
/// ```
/// use sterna_process::ProcessId;
/// let id = ProcessId::random();
/// let text = id.to_string();
/// assert_eq!(text.parse::<ProcessId>().unwrap(), id);
/// assert!(id.has_prefix(&text[..6]) && id.has_prefix(&text.to_uppercase()));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId([u8; 16]);

impl ProcessId {
    /// A new name, from the kernel's random generator (`getrandom(2)`).
    #[must_use]
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// The id with these bits, the most significant byte first.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bits, the most significant byte first.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The first eight letters: what tables show.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }

    /// Whether the text of this id begins with `prefix`, in either case of letters. The empty prefix names
    /// nothing.
    #[must_use]
    pub fn has_prefix(&self, prefix: &str) -> bool {
        !prefix.is_empty() && self.to_string().starts_with(&prefix.to_ascii_lowercase())
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        let text: String = (0..PROCESS_ID_LETTERS)
            .map(|i| {
                let letter = match i * 5 {
                    at @ 0..=120 => bits >> (123 - at),
                    _ => bits << 2,
                };
                char::from(BASE32[(letter & 31) as usize])
            })
            .collect();
        f.pad(&text)
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessId({self})")
    }
}

impl FromStr for ProcessId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseIdError::Process {
            text: shortened(text),
        };
        if text.len() != PROCESS_ID_LETTERS {
            return Err(wrong());
        }
        let mut bits: u128 = 0;
        for (i, letter) in text.bytes().enumerate() {
            let letter = letter.to_ascii_lowercase();
            let value = BASE32.iter().position(|&l| l == letter).ok_or_else(wrong)? as u128;
            if i + 1 < PROCESS_ID_LETTERS {
                bits = bits << 5 | value;
            } else if value & 3 == 0 {
                bits = bits << 3 | value >> 2;
            } else {
                return Err(wrong());
            }
        }
        Ok(Self(bits.to_be_bytes()))
    }
}

/// The name of a program: the BLAKE3 hash (256 bits) of its bytes, for a wasm program of its module.
///
/// Two programs with one name are one program, wherever they came from; a changed program has another name.
///
/// ```
/// use sterna_process::ProgramId;
/// let id = ProgramId::of(b"\0asm");
/// assert_eq!(id.to_string().parse::<ProgramId>().unwrap(), id);
/// assert!(id.short().starts_with("b3:"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramId([u8; 32]);

impl ProgramId {
    /// The name of the program with these bytes.
    #[must_use]
    pub fn of(program: &[u8]) -> Self {
        Self(*blake3::hash(program).as_bytes())
    }

    /// The id with this hash.
    #[must_use]
    pub const fn from_bytes(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// `b3:` and the first twelve digits: what tables show.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..PROGRAM_ID_PREFIX.len() + 12].to_owned()
    }

    /// The 64 hexadecimal digits without `b3:`, fit for a file name.
    #[must_use]
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// Whether the text of this id begins with `prefix`, with or without `b3:`. The empty prefix names
    /// nothing.
    #[must_use]
    pub fn has_prefix(&self, prefix: &str) -> bool {
        let digits = prefix.strip_prefix(PROGRAM_ID_PREFIX).unwrap_or(prefix);
        !digits.is_empty() && self.hex().starts_with(&digits.to_ascii_lowercase())
    }
}

impl fmt::Display for ProgramId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{PROGRAM_ID_PREFIX}{}", self.hex()))
    }
}

impl fmt::Debug for ProgramId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProgramId({})", self.short())
    }
}

impl FromStr for ProgramId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix(PROGRAM_ID_PREFIX)
            .and_then(|digits| blake3::Hash::from_hex(digits).ok())
            .map(|hash| Self(*hash.as_bytes()))
            .ok_or_else(|| ParseIdError::Program {
                text: shortened(text),
            })
    }
}

/// How often a process has changed its owner.
///
/// Whoever acts for a process names the epoch in which it owned it; a copy left behind by a move is of an
/// older epoch, so everybody can tell it from the living one and refuse it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a process that was just started.
    pub const FIRST: Self = Self(0);

    /// The epoch after the next change of owner; `None` if there is none, which only a forged epoch can
    /// bring about.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(next) => Some(Self(next)),
            None => None,
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A short plain name: of a kind (`wasm`) or of a section (`wasm.frames`).
///
/// 1 to [`Tag::MAX_LENGTH`] of `a`–`z`, `0`–`9`, `.`, `-`, `_`: safe to print, compare and put in a path.
///
/// ```
/// use sterna_process::Tag;
/// const FRAMES: Tag = Tag::new("wasm.frames"); // checked when it is compiled
/// assert_eq!(FRAMES.as_str(), "wasm.frames");
/// assert!(Tag::parse("\x1b[2J").is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Tag(Cow<'static, str>);

impl Tag {
    /// Longest tag, in bytes.
    pub const MAX_LENGTH: usize = 32;

    /// The tag with this text.
    ///
    /// # Panics
    /// If the text is not a tag; in a `const`, that is an error when it is compiled.
    #[must_use]
    pub const fn new(text: &'static str) -> Self {
        assert!(is_tag(text), "a tag is 1 to 32 of a-z 0-9 . - _");
        Self(Cow::Borrowed(text))
    }

    /// The tag with this text, if it is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        is_tag(text).then(|| Self(Cow::Owned(text.to_owned())))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not a tag: 1 to 32 of a-z 0-9 . - _"))
    }
}

const fn is_tag(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if !matches!(bytes[i], b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_') {
            return false;
        }
        i += 1;
    }
    !bytes.is_empty() && bytes.len() <= Tag::MAX_LENGTH
}

/// Ids are text where people read (JSON) and bytes where machines do (images, messages).
macro_rules! serde_as_text_or_bytes {
    ($id:ident, $length:literal) => {
        impl Serialize for $id {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                if to.is_human_readable() {
                    to.collect_str(self)
                } else {
                    self.0.serialize(to)
                }
            }
        }
        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                if from.is_human_readable() {
                    let text = Cow::<'de, str>::deserialize(from)?;
                    text.parse().map_err(D::Error::custom)
                } else {
                    <[u8; $length]>::deserialize(from).map(Self)
                }
            }
        }
    };
}
serde_as_text_or_bytes!(ProcessId, 16);
serde_as_text_or_bytes!(ProgramId, 32);

/// Bytes from the kernel's random generator.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Requests up to 256 bytes are never cut short, see getrandom(2); it fails only on kernels before 3.17.
    let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    assert_eq!(got.ok(), Some(N), "the kernel's random generator answers");
    bytes
}

/// What a user typed, short enough to be quoted in a message.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn process_ids_survive_text_and_keep_their_order(a: [u8; 16], b: [u8; 16]) {
            let (a, b) = (ProcessId(a), ProcessId(b));
            prop_assert_eq!(a.to_string().parse::<ProcessId>().unwrap(), a);
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
            prop_assert!(a.has_prefix(&a.short()));
        }

        #[test]
        fn any_text_is_an_id_or_refused(text in ".*") {
            if let Ok(id) = text.parse::<ProcessId>() {
                prop_assert_eq!(id.to_string(), text.to_lowercase());
            }
            prop_assert!(text.parse::<ProgramId>().is_err() || text.len() == 67);
        }
    }

    #[test]
    fn known_texts() {
        assert_eq!(ProcessId([0; 16]).to_string(), "0".repeat(26));
        assert_eq!(ProcessId([255; 16]).to_string(), "z".repeat(25) + "w");
        assert!(
            ("z".repeat(26)).parse::<ProcessId>().is_err(),
            "bits beyond the 128th"
        );
        // The hash of nothing, from the BLAKE3 paper's test vectors.
        assert!(
            ProgramId::of(b"")
                .to_string()
                .starts_with("b3:af1349b9f5f9a1a6")
        );
        assert!(!ProcessId([0; 16]).has_prefix(""));
    }

    #[test]
    fn ids_are_text_in_json_and_bytes_in_images() {
        let id = ProgramId::of(b"x");
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
        assert_eq!(postcard::to_stdvec(&id).unwrap(), id.as_bytes());
        assert_eq!(
            serde_json::from_str::<ProgramId>(&format!("\"{id}\"")).unwrap(),
            id
        );
        assert!(postcard::from_bytes::<Tag>(b"\x02A\x1b").is_err());
    }
}
