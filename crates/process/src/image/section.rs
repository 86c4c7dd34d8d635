//! The state in an image, in pieces with a name and a version: [`Section`] and [`Sections`].
//!
//! A kind writes each part of its state as a section of its own, and takes each up again when it restores.
//! What nobody took up is an error ([`Sections::finish`]): state that the target does not understand must not
//! be lost in silence.

use std::ops::RangeInclusive;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::Tag;

/// A piece of state: a name, the version of its contents' schema, and the contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    tag: Tag,
    version: u16,
    contents: Vec<u8>,
}

impl Section {
    /// Longest contents, in bytes. What is larger belongs into memory pages.
    pub const MAX_BYTES: usize = 256 << 20;

    /// A section that holds `value` in postcard's encoding.
    ///
    /// # Errors
    /// If the value cannot be encoded or is longer than [`Section::MAX_BYTES`].
    pub fn encode<T: Serialize + ?Sized>(
        tag: Tag,
        version: u16,
        value: &T,
    ) -> Result<Self, SectionError> {
        match postcard::to_stdvec(value) {
            Ok(contents) if contents.len() <= Self::MAX_BYTES => Ok(Self {
                tag,
                version,
                contents,
            }),
            Ok(contents) => Err(SectionError::TooLong {
                tag,
                bytes: contents.len() as u64,
                limit: Self::MAX_BYTES as u64,
            }),
            Err(source) => Err(SectionError::Encode { tag, source }),
        }
    }

    pub(super) fn from_contents(tag: Tag, version: u16, contents: Vec<u8>) -> Self {
        Self {
            tag,
            version,
            contents,
        }
    }

    /// The value in the section, of which it must be the whole contents.
    ///
    /// Memory is taken only for contents that are there; types whose elements take no bytes (`Vec<()>`) must
    /// not be used, for their number could be anything.
    ///
    /// # Errors
    /// If the contents are not such a value.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, SectionError> {
        let Self {
            tag,
            version,
            contents,
        } = self;
        match postcard::take_from_bytes(contents) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(SectionError::Leftover {
                tag: tag.clone(),
                version: *version,
                bytes: rest.len(),
            }),
            Err(source) => Err(SectionError::Decode {
                tag: tag.clone(),
                version: *version,
                source,
            }),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn tag(&self) -> &Tag {
        &self.tag
    }

    /// The version of its contents' schema.
    #[must_use]
    pub const fn version(&self) -> u16 {
        self.version
    }

    /// Its contents, encoded.
    #[must_use]
    pub fn contents(&self) -> &[u8] {
        &self.contents
    }

    /// Name, version and size.
    #[must_use]
    pub fn summary(&self) -> SectionSummary {
        SectionSummary {
            tag: self.tag.clone(),
            version: self.version,
            bytes: self.contents.len() as u64,
        }
    }
}

/// What can be said of a section without its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SectionSummary {
    /// Its name.
    pub tag: Tag,
    /// Its version.
    pub version: u16,
    /// The length of its contents.
    pub bytes: u64,
}

/// The sections of an image, no two with one name.
///
/// ```
/// use sterna_process::{Section, Sections, Tag};
/// const CLOCK: Tag = Tag::new("clock");
/// let mut sections = Sections::new();
/// sections.push(Section::encode(CLOCK, 2, &17_u64)?)?;
///
/// let clock = sections.require(&CLOCK, 1..=2)?; // versions 1 and 2 are understood
/// let time: u64 = match clock.version() {
///     1 => u64::from(clock.decode::<u32>()?), // as it was written once
///     _ => clock.decode()?,
/// };
/// assert_eq!(time, 17);
/// sections.finish()?; // nothing is left over
/// # Ok::<(), sterna_process::SectionError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sections(Vec<Section>);

impl Sections {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a section.
    ///
    /// # Errors
    /// If there is one with this name.
    pub fn push(&mut self, section: Section) -> Result<(), SectionError> {
        if self.0.iter().any(|other| other.tag == section.tag) {
            return Err(SectionError::Twice { tag: section.tag });
        }
        self.0.push(section);
        Ok(())
    }

    /// The sections.
    pub fn iter(&self) -> impl Iterator<Item = &Section> {
        self.0.iter()
    }

    /// The length of all contents together.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|section| section.contents.len()).sum()
    }

    /// Takes up the section with this name, if there is one.
    ///
    /// # Errors
    /// If its version is not among `versions`.
    pub fn take(
        &mut self,
        tag: &Tag,
        versions: RangeInclusive<u16>,
    ) -> Result<Option<Section>, SectionError> {
        let Some(at) = self.0.iter().position(|section| &section.tag == tag) else {
            return Ok(None);
        };
        let found = self.0[at].version;
        if found > *versions.end() {
            return Err(SectionError::Newer {
                tag: tag.clone(),
                found,
                newest: *versions.end(),
            });
        }
        if found < *versions.start() {
            return Err(SectionError::Older {
                tag: tag.clone(),
                found,
                oldest: *versions.start(),
            });
        }
        Ok(Some(self.0.remove(at)))
    }

    /// Takes up the section with this name, which must be there.
    ///
    /// # Errors
    /// If it is missing or its version is not among `versions`.
    pub fn require(
        &mut self,
        tag: &Tag,
        versions: RangeInclusive<u16>,
    ) -> Result<Section, SectionError> {
        self.take(tag, versions)?
            .ok_or_else(|| SectionError::Missing { tag: tag.clone() })
    }

    /// Says that all sections that are understood have been taken up.
    ///
    /// # Errors
    /// If some are left over.
    pub fn finish(self) -> Result<(), SectionError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(SectionError::NotTaken {
            tags: self.0.into_iter().map(|section| section.tag).collect(),
        })
    }
}

/// What is wrong with a section.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SectionError {
    /// The image is from a newer version of this software.
    #[error(
        "section {tag} is of version {found}, this software reads up to version {newest}: upgrade it"
    )]
    Newer {
        /// The section.
        tag: Tag,
        /// Its version.
        found: u16,
        /// The newest version that is understood.
        newest: u16,
    },
    /// The image is from a version of this software that is too old.
    #[error(
        "section {tag} is of version {found}, this software reads from version {oldest} on: \
         thaw and freeze it with an older version first"
    )]
    Older {
        /// The section.
        tag: Tag,
        /// Its version.
        found: u16,
        /// The oldest version that is understood.
        oldest: u16,
    },
    /// State is missing.
    #[error("the image has no section {tag}")]
    Missing {
        /// The section.
        tag: Tag,
    },
    /// State that this software does not understand.
    #[error(
        "the image has state that this software does not understand ({}): upgrade it",
        list(tags)
    )]
    NotTaken {
        /// The sections.
        tags: Vec<Tag>,
    },
    /// Two sections with one name.
    #[error("the image has section {tag} twice")]
    Twice {
        /// The section.
        tag: Tag,
    },
    /// More state than a section holds.
    #[error("section {tag} would have {bytes} bytes, {limit} are allowed")]
    TooLong {
        /// The section.
        tag: Tag,
        /// Its length.
        bytes: u64,
        /// The longest allowed.
        limit: u64,
    },
    /// A value that cannot be encoded.
    #[error("section {tag} cannot be encoded")]
    Encode {
        /// The section.
        tag: Tag,
        /// Why.
        source: postcard::Error,
    },
    /// Contents that are not what the version says.
    #[error("section {tag} does not hold what version {version} of it should")]
    Decode {
        /// The section.
        tag: Tag,
        /// Its version.
        version: u16,
        /// Why.
        source: postcard::Error,
    },
    /// Contents that are longer than what the version says.
    #[error("section {tag} has {bytes} bytes more than version {version} of it should")]
    Leftover {
        /// The section.
        tag: Tag,
        /// Its version.
        version: u16,
        /// How many.
        bytes: usize,
    },
}

fn list(tags: &[Tag]) -> String {
    tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Tag = Tag::new("a");
    const B: Tag = Tag::new("b");

    #[test]
    fn each_section_is_taken_once_in_a_known_version() {
        let mut sections = Sections::new();
        sections
            .push(Section::encode(A, 3, &1_u8).unwrap())
            .unwrap();
        sections
            .push(Section::encode(B, 1, &2_u8).unwrap())
            .unwrap();
        assert!(matches!(
            sections.push(Section::encode(A, 1, &()).unwrap()),
            Err(SectionError::Twice { .. })
        ));
        assert!(matches!(
            sections.take(&A, 1..=2),
            Err(SectionError::Newer {
                found: 3,
                newest: 2,
                ..
            })
        ));
        assert!(matches!(
            sections.take(&A, 4..=5),
            Err(SectionError::Older {
                found: 3,
                oldest: 4,
                ..
            })
        ));
        assert_eq!(
            sections.require(&A, 2..=3).unwrap().decode::<u8>().unwrap(),
            1
        );
        assert!(sections.take(&A, 2..=3).unwrap().is_none());
        assert!(matches!(
            sections.require(&A, 2..=3),
            Err(SectionError::Missing { .. })
        ));
        let error = sections.finish().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the image has state that this software does not understand (b): upgrade it"
        );
    }

    #[test]
    fn contents_are_decoded_wholly_or_not_at_all() {
        let section = Section::encode(A, 1, &(1_u8, 2_u8)).unwrap();
        assert!(matches!(
            section.decode::<u8>(),
            Err(SectionError::Leftover { bytes: 1, .. })
        ));
        assert!(matches!(
            section.decode::<(u8, u8, u8)>(),
            Err(SectionError::Decode { .. })
        ));
        let endless = Section::encode(A, 1, &u64::MAX).unwrap();
        assert!(matches!(
            endless.decode::<Vec<u64>>(),
            Err(SectionError::Decode { .. })
        ));
    }
}
