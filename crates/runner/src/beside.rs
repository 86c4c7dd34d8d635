//! What a runner itself knows of a process, in its image beside what the kind does: [`Known`].

use serde::{Deserialize, Serialize};
use sterna_process::{Epoch, Image, Section, SectionError, Tag};

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
    /// Takes it out of an image, which may be a stranger's.
    pub(crate) fn take_from(image: &mut Image) -> Result<Self, SectionError> {
        let (sections, epoch) = (&mut image.sections, image.header.epoch);
        let beside = sections.take(&BESIDE, BESIDE_VERSION..=BESIDE_VERSION)?;
        let rewinds = sections.take(&REWINDS, REWINDS_VERSION..=REWINDS_VERSION)?;
        let beside: Option<Beside> = beside.map(|section| section.decode()).transpose()?;
        let rewinds = rewinds.map(|section| section.decode()).transpose()?;
        let mut rewinds: Vec<Rewind> = rewinds.unwrap_or_default();
        // What is written from now on is not void.
        let written = beside.map_or(0, |beside| beside.output_bytes);
        rewinds.retain(|one| one.until <= epoch && one.start <= written);
        keep_last(&mut rewinds);
        Ok(Self {
            beside,
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
pub fn take_out(image: &mut Image) -> Result<bool, SectionError> {
    Ok(Known::take_from(image)?.beside.is_some())
}

#[cfg(test)]
mod tests {
    use sterna_process::{Description, ImageHeader, MemoryLayout, ProcessId, ProgramId, Sections};

    use super::*;

    #[test]
    fn rewinds_that_cannot_be_are_not_taken_over() {
        let mut image = Image {
            header: ImageHeader {
                kind: Tag::new("toy"),
                program: ProgramId::of(b"p"),
                process: ProcessId::from_bytes([1; 16]),
                epoch: Epoch(5),
                layout: MemoryLayout::default(),
            },
            description: Description::default(),
            sections: Sections::new(),
        };
        let rewind = |until, start| Rewind {
            since: Epoch::FIRST,
            until: Epoch(until),
            start,
        };
        let beside = Beside {
            output_bytes: 100,
            stands: false,
        };
        let said = [rewind(5, 100), rewind(6, 20), rewind(3, 101), rewind(4, 60)];
        put(&beside, &said, &mut image).unwrap();
        let known = Known::take_from(&mut image).unwrap();
        assert_eq!(known.rewinds, [rewind(5, 100), rewind(4, 60)]);
        assert!(image.sections.finish().is_ok());
    }
}
