//! What two runners say to each other over the channel of a move: places to make ready, an image, pages.
//!
//! | source | target |
//! |---|---|
//! | `Anticipate`: places at which the process was seen | `Anticipated`: what it would need there is ready |
//! | `Pages`, `Zeros`, `Round`: all that was written until a moment | `Got` |
//! | `Continues`, if there were rounds: how many | |
//! | `Begin`, `Image` in pieces, `Pages`, `Zeros`, `Later`, `End` | `Got`: all of it is in its place, but for pages that come later |
//! | `Pages`, `Zeros` of those that come later, on several connections | `Want`: these are waited for |
//! | | `Failed`: it cannot be taken |
//!
//! A record is a letter and what belongs to it. Pages go in runs without holes, as they are in memory; pages of zeros
//! are only named.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sterna_process::{Memory, MemoryError, PAGE_SIZE, PageRun, PageRuns, Waypoint, ZERO_PAGE};

use crate::channel::{ChannelError, Sender};
use crate::fault::{self, Midway};
use crate::limits::{IMAGE_BYTES_MAX, RECORD_BYTES_MAX};

/// Pages of one record.
pub(crate) const RECORD_PAGES: u64 = 63;
const PAGES_HEAD_BYTES: usize = 1 + 4 + 8;
const RUNS_PER_RECORD: usize = 4096;

const ANTICIPATE: u8 = b'a';
const ANTICIPATED: u8 = b'A';
const BEGIN: u8 = b'b';
const IMAGE: u8 = b'i';
const PAGES: u8 = b'p';
const ZEROS: u8 = b'z';
const ROUND: u8 = b'r';
const CONTINUES: u8 = b'c';
const LATER: u8 = b'l';
const END: u8 = b'e';
const WANT: u8 = b'w';
const GOT: u8 = b'G';
const FAILED: u8 = b'F';

/// How much too early it is for so many bytes at a rate, in bytes a second, since it was begun.
pub(crate) fn early(sent: u64, rate: u64, begun: Instant) -> Duration {
    let micros = u128::from(sent) * 1_000_000 / u128::from(rate.max(1));
    let due = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
    due.saturating_sub(begun.elapsed())
}

/// Why something was not sent or not understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PumpError {
    /// The channel cannot be used.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The process's memory cannot be read or written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// What came makes no sense.
    #[error("the other runner sent something that makes no sense")]
    Malformed,
    /// There was another one in its place when the rounds were sent.
    #[error(
        "of {sent} rounds of pages that were sent before, {here} are here: its runner was started again"
    )]
    RoundsMissing {
        /// As the source says.
        sent: u32,
        /// That have come.
        here: u32,
    },
    /// The image is too large.
    #[error("the image has {bytes} bytes, {IMAGE_BYTES_MAX} are allowed")]
    ImageTooLarge {
        /// Its length.
        bytes: u64,
    },
    /// The other runner gave up.
    #[error("the other runner could not take it: {0}")]
    Failed(String),
}

impl From<io::Error> for PumpError {
    fn from(error: io::Error) -> Self {
        Self::Channel(error.into())
    }
}

/// What comes over a channel.
#[derive(Debug)]
pub(crate) enum Record<'a> {
    Anticipate(Vec<Waypoint>),
    Anticipated(Vec<Waypoint>),
    /// An image of so many bytes is coming.
    Begin(u64),
    Image(&'a [u8]),
    Pages(PageRun, &'a [u8]),
    Zeros(Vec<PageRun>),
    Round,
    /// What comes goes on from so many rounds.
    Continues(u32),
    /// These come after the process.
    Later(Vec<PageRun>),
    End,
    Got,
    /// Somebody waits for these.
    Want(Vec<PageRun>),
    Failed(String),
}

impl<'a> Record<'a> {
    pub(crate) fn read(record: &'a [u8]) -> Result<Self, PumpError> {
        let (letter, body) = record.split_first().ok_or(PumpError::Malformed)?;
        match (*letter, body) {
            (ANTICIPATE, body) => decode(body).map(Self::Anticipate),
            (ANTICIPATED, body) => decode(body).map(Self::Anticipated),
            (BEGIN, body) => decode(body).map(Self::Begin),
            (IMAGE, body) => Ok(Self::Image(body)),
            (PAGES, body) => Self::pages(body),
            (ZEROS, body) => decode(body).map(Self::Zeros),
            (ROUND, []) => Ok(Self::Round),
            (CONTINUES, body) => decode(body).map(Self::Continues),
            (LATER, body) => decode(body).map(Self::Later),
            (END, []) => Ok(Self::End),
            (WANT, body) => decode(body).map(Self::Want),
            (GOT, []) => Ok(Self::Got),
            (FAILED, body) => Ok(Self::Failed(String::from_utf8_lossy(body).into_owned())),
            _ => Err(PumpError::Malformed),
        }
    }

    fn pages(body: &'a [u8]) -> Result<Self, PumpError> {
        let (head, bytes) = body
            .split_at_checked(PAGES_HEAD_BYTES - 1)
            .ok_or(PumpError::Malformed)?;
        let (region, first) = head.split_at(4);
        let region = u32::from_le_bytes(region.try_into().map_err(|_| PumpError::Malformed)?);
        let first = u64::from_le_bytes(first.try_into().map_err(|_| PumpError::Malformed)?);
        let count = (bytes.len() / PAGE_SIZE) as u64;
        let run = PageRun::new(sterna_process::RegionId(region), first, count);
        match run {
            Some(run) if bytes.len() % PAGE_SIZE == 0 => Ok(Self::Pages(run, bytes)),
            _ => Err(PumpError::Malformed),
        }
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, PumpError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(PumpError::Malformed),
    }
}

fn value(to: &mut Sender, letter: u8, value: &impl Serialize) -> Result<(), PumpError> {
    let record = to.record();
    record.push(letter);
    let body = postcard::to_stdvec(value).map_err(|_| PumpError::Malformed)?;
    record.extend(body);
    Ok(to.send()?)
}

pub(crate) fn anticipate(to: &mut Sender, places: &[Waypoint]) -> Result<(), PumpError> {
    value(to, ANTICIPATE, &places)
}

pub(crate) fn anticipated(to: &mut Sender, places: &[Waypoint]) -> Result<(), PumpError> {
    value(to, ANTICIPATED, &places)
}

pub(crate) fn got(to: &mut Sender) -> Result<(), PumpError> {
    to.record().push(GOT);
    Ok(to.send()?)
}

pub(crate) fn failed(to: &mut Sender, why: &str) -> Result<(), PumpError> {
    let record = to.record();
    record.push(FAILED);
    record.extend(why.bytes().take(1024));
    Ok(to.send()?)
}

/// Says that these pages are waited for.
pub(crate) fn want(to: &mut Sender, runs: &[PageRun]) -> Result<(), PumpError> {
    value(to, WANT, &runs)
}

/// Sends an image, and says which pages come later.
pub(crate) fn push_followed(
    to: &mut Sender,
    image: &[u8],
    runs: &PageRuns,
) -> Result<(), PumpError> {
    send_image(to, image)?;
    // At least one: so it is known that they come later, if there are none.
    let none: &[PageRun] = &[];
    for some in runs.chunks(RUNS_PER_RECORD).chain([none]) {
        value(to, LATER, &some)?;
    }
    to.record().push(END);
    Ok(to.send()?)
}

fn send_image(to: &mut Sender, image: &[u8]) -> Result<(), PumpError> {
    value(to, BEGIN, &(image.len() as u64))?;
    for piece in image.chunks(RECORD_BYTES_MAX - 1) {
        let record = to.record();
        record.push(IMAGE);
        record.extend_from_slice(piece);
        to.send()?;
    }
    Ok(())
}

/// Sends an image and the pages that belong to it.
pub(crate) fn push(
    to: &mut Sender,
    image: &[u8],
    memory: &dyn Memory,
    runs: &PageRuns,
) -> Result<(), PumpError> {
    send_image(to, image)?;
    pages(to, memory, runs, (Midway::HalfSent, |_| {}))?;
    to.record().push(END);
    Ok(to.send()?)
}

/// Ends a round.
pub(crate) fn round(to: &mut Sender) -> Result<(), PumpError> {
    to.record().push(ROUND);
    Ok(to.send()?)
}

/// Says that what comes now goes on from so many rounds.
pub(crate) fn continues(to: &mut Sender, rounds: u32) -> Result<(), PumpError> {
    value(to, CONTINUES, &rounds)
}

/// Sends pages. After each piece `sent` is told how many bytes have gone; they are the result in the end.
pub(crate) fn pages(
    to: &mut Sender,
    memory: &dyn Memory,
    runs: &PageRuns,
    (halfway, mut sent): (Midway, impl FnMut(u64)),
) -> Result<u64, PumpError> {
    let mut apart = Apart::default();
    let (half, mut pages, mut bytes) = (runs.page_count() / 2, 0, 0);
    for piece in runs.iter().flat_map(|run| run.pieces(RECORD_PAGES)) {
        bytes += send_piece(to, memory, piece, &mut apart)?;
        if (pages..pages + piece.count()).contains(&half) {
            fault::point("runner", &halfway);
        }
        pages += piece.count();
        sent(bytes);
    }
    let zeros: PageRuns = apart.zeros.into_iter().collect();
    for some in zeros.chunks(RUNS_PER_RECORD) {
        value(to, ZEROS, &some)?;
    }
    Ok(bytes)
}

/// Pages that are no simple run.
#[derive(Default)]
struct Apart {
    /// To be sent in the end, by name.
    zeros: Vec<PageRun>,
    /// A piece in which some are zeros, while the others are picked out.
    contents: Vec<u8>,
}

/// Sends a few pages; those of zeros are left for later. The bytes of the others.
fn send_piece(
    to: &mut Sender,
    memory: &dyn Memory,
    piece: PageRun,
    Apart { zeros, contents }: &mut Apart,
) -> Result<u64, PumpError> {
    let bytes = PAGES_HEAD_BYTES + piece.bytes() as usize;
    let block = to.block(bytes);
    head(block, piece);
    let read = &mut block[PAGES_HEAD_BYTES..];
    memory.read(&[piece], read)?;
    if read.chunks_exact(PAGE_SIZE).all(|page| page != ZERO_PAGE) {
        to.send_block(bytes)?;
        return Ok(piece.bytes());
    }
    contents.clear();
    contents.extend_from_slice(read);
    let mut full: Vec<PageRun> = Vec::new();
    for (page, bytes) in piece.pages().zip(contents.chunks_exact(PAGE_SIZE)) {
        let run = PageRun::page(piece.region(), page).into_iter();
        match bytes == ZERO_PAGE {
            true => zeros.extend(run),
            false => full.extend(run),
        }
    }
    let full: PageRuns = full.into_iter().collect();
    for run in full.iter() {
        let bytes = PAGES_HEAD_BYTES + run.bytes() as usize;
        let block = to.block(bytes);
        head(block, *run);
        let start = (run.first() - piece.first()) as usize * PAGE_SIZE;
        block[PAGES_HEAD_BYTES..].copy_from_slice(&contents[start..][..run.bytes() as usize]);
        to.send_block(bytes)?;
    }
    Ok(full.bytes())
}

/// What goes before pages in their record.
fn head(record: &mut [u8], run: PageRun) {
    record[0] = PAGES;
    record[1..5].copy_from_slice(&run.region().0.to_le_bytes());
    record[5..PAGES_HEAD_BYTES].copy_from_slice(&run.first().to_le_bytes());
}

/// Puts zeros into pages.
pub(crate) fn install_zeros(memory: &dyn Memory, runs: &[PageRun]) -> Result<(), PumpError> {
    let zeros = vec![0; RECORD_PAGES as usize * PAGE_SIZE];
    for piece in runs.iter().flat_map(|run| run.pieces(RECORD_PAGES)) {
        memory.install(&[piece], &zeros[..piece.bytes() as usize])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that are the same each time (xorshift64).
    fn drawn(state: &mut u64, length: usize) -> Vec<u8> {
        let mut next = || {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            *state as u8
        };
        (0..length).map(|_| next()).collect()
    }

    /// The other runner may have been taken over: its records have the right seal, and nothing else has to be right.
    #[test]
    fn any_record_is_read_or_refused() {
        let mut state = 0x5eed;
        let lengths = (0..40).chain([PAGES_HEAD_BYTES - 1, 12 + PAGE_SIZE, 13 + PAGE_SIZE]);
        for length in lengths {
            for letter in b"aAbipzrcleGwF\0x" {
                for _ in 0..50 {
                    let record = [&[*letter][..], &drawn(&mut state, length)].concat();
                    match Record::read(&record) {
                        Ok(Record::Pages(run, bytes)) => {
                            assert_eq!(run.bytes(), bytes.len() as u64);
                        }
                        Ok(Record::Image(bytes)) => assert_eq!(bytes.len(), length),
                        Ok(Record::Round | Record::End | Record::Got) => assert_eq!(length, 0),
                        Ok(_) => {}
                        Err(error) => assert!(matches!(error, PumpError::Malformed)),
                    }
                }
            }
        }
        assert!(Record::read(&[]).is_err());
    }
}
