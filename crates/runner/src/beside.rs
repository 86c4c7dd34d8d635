//! What a runner itself knows of a process, in its image beside what the kind does: [`Known`].

use serde::{Deserialize, Serialize};
use sterna_process::{Epoch, Image, Section, SectionError, Sections, Tag};

use crate::input::Carried;
use crate::limits::REWINDS_MAX;

/// What is known of every process.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Beside {
    /// Bytes of output until now.
    pub output_bytes: u64,
    /// Whether its user wants it to stand still.
    pub stands: bool,
}

/// Name of the section that has it.
pub const BESIDE: Tag = Tag::new("sterna.runner");
/// Version of that section.
pub const BESIDE_VERSION: u16 = 1;

/// A process has gone on from a copy: what it had written after that is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewind {
    /// What began in an earlier epoch stays.
    pub since: Epoch,
    /// The first epoch after it.
    pub until: Epoch,
    /// Bytes of output before the copy.
    pub start: u64,
}

impl Rewind {
    /// Where what counts ends of the output that a process wrote at one place from an epoch on.
    #[must_use]
    pub fn end(rewinds: &[Self], begun: Epoch) -> u64 {
        let of_it = rewinds.iter();
        let of_it = of_it.filter(|one| (one.since..one.until).contains(&begun));
        of_it.map(|one| one.start).min().unwrap_or(u64::MAX)
    }
}

const REWINDS: Tag = Tag::new("sterna.rewinds");
const REWINDS_VERSION: u16 = 1;

/// What an image says.
pub(crate) struct Known {
    /// `None`: no runner has made it.
    pub(crate) beside: Option<Beside>,
    /// Oldest first.
    pub(crate) rewinds: Vec<Rewind>,
    /// If it has an input.
    pub(crate) carried: Option<Carried>,
}

impl Known {
    /// Takes it out of an image.
    pub(crate) fn take_from(sections: &mut Sections) -> Result<Self, SectionError> {
        let beside = sections.take(&BESIDE, BESIDE_VERSION..=BESIDE_VERSION)?;
        let rewinds = sections.take(&REWINDS, REWINDS_VERSION..=REWINDS_VERSION)?;
        let rewinds = rewinds.map(|section| section.decode()).transpose()?;
        let mut rewinds: Vec<Rewind> = rewinds.unwrap_or_default();
        keep_last(&mut rewinds);
        Ok(Self {
            beside: beside.map(|section| section.decode()).transpose()?,
            rewinds,
            carried: Carried::take_from(sections)?,
        })
    }
}

/// Puts it into an image, but for the input.
pub(crate) fn put(
    beside: &Beside,
    rewinds: &[Rewind],
    image: &mut Image,
) -> Result<(), SectionError> {
    let section = Section::encode(BESIDE, BESIDE_VERSION, beside)?;
    image.sections.push(section)?;
    if !rewinds.is_empty() {
        let section = Section::encode(REWINDS, REWINDS_VERSION, rewinds)?;
        image.sections.push(section)?;
    }
    Ok(())
}

/// Notes one more.
pub(crate) fn add(rewinds: &mut Vec<Rewind>, rewind: Rewind) {
    rewinds.push(rewind);
    keep_last(rewinds);
}

fn keep_last(rewinds: &mut Vec<Rewind>) {
    let too_many = rewinds.len().saturating_sub(REWINDS_MAX);
    rewinds.drain(..too_many);
}

/// Takes what a runner put into an image out of it, for who goes on with the process without one. Whether there was any.
///
/// # Errors
/// A newer runner has made it.
pub fn take_out(sections: &mut Sections) -> Result<bool, SectionError> {
    Ok(Known::take_from(sections)?.beside.is_some())
}
