//! From a process to a file, in the middle of its work: [`Seat::freeze`].
//!
//! If anything fails the process runs on as if nothing had been asked. One that is to run on anyway stands still
//! only while its changed pages are copied, if they are not too many; one that ends here stands still until the
//! file is safe, so that it lives in one place or the other.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sterna_process::image::Written;
use sterna_process::{
    ChangedPages, Exit, Image, ImageWriter, MemoryError, PAGE_SIZE, PackedProgram, PageProvider,
    PageRun, PageRuns, PageSet, Paused, Pausing,
};

use super::seat::{End, Held, PAUSE_WITHIN, Seat};
use crate::protocol::{FreezeOrder, FreezeReport};

/// Changed pages up to which a process that runs on is copied first.
const COPY_BYTES_MAX: u64 = 512 << 20;
const BUFFER_BYTES: usize = 1 << 20;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Told of progress: bytes that are done, and of how many.
pub(super) type OnProgress<'a> = &'a mut dyn FnMut(u64, u64);

/// When the steps were done.
#[derive(Default)]
struct Times {
    pause: Duration,
    capture: Duration,
    copy: Duration,
    write: Duration,
    stopped: Duration,
}

impl Seat {
    /// Writes the process into a file.
    pub(super) fn freeze(
        &self,
        order: &FreezeOrder,
        progress: OnProgress<'_>,
    ) -> Result<FreezeReport> {
        // Before anything stands still: what could fail without it.
        let program = match order.thin {
            true => None,
            false => Some(
                PackedProgram::pack(&self.facts().program.read()?)
                    .context("could not compress the program")?,
            ),
        };
        let begun = Instant::now();
        let (mut paused, stays_paused) = self.stand_still()?;
        let mut times = Times {
            pause: begun.elapsed(),
            ..Times::default()
        };
        let stopped = Instant::now();
        let run_on = |paused: Box<dyn Paused>| {
            self.put(match stays_paused {
                true => Held::Paused(paused),
                false => Held::Running(paused.resume().process),
            });
        };
        let (image, copy) = match self.capture(&mut *paused, order, &mut times) {
            Ok(captured) => captured,
            Err(error) => {
                run_on(paused);
                return Err(error);
            }
        };
        let sheet = Sheet {
            seat: self,
            image: &image,
            program: program.as_ref(),
            order,
        };
        let writing = Instant::now();
        let written = if let Some(copy) = copy {
            run_on(paused);
            times.stopped = stopped.elapsed();
            sheet.write(&mut &copy, progress)
        } else {
            let memory = paused.memory();
            let written = ChangedPages::of(&*memory)
                .map_err(Into::into)
                .and_then(|mut pages| sheet.write(&mut pages, progress));
            times.stopped = stopped.elapsed();
            match written.is_ok() && !order.keep {
                true => self.depart(paused, order),
                false => run_on(paused),
            }
            written
        };
        times.write = writing.elapsed();
        Ok(sheet.report(&written?, &times))
    }

    /// Makes the process stand still; says whether it did before.
    fn stand_still(&self) -> Result<(Box<dyn Paused>, bool)> {
        let process = match self.take("being frozen")? {
            Held::Paused(paused) => return Ok((paused, true)),
            Held::Running(process) => process,
            Held::Busy(_) | Held::Gone => bail!("it has just ended"),
        };
        match process.pause(PAUSE_WITHIN) {
            Pausing::Paused(paused) => Ok((paused, false)),
            Pausing::Exited(_) => {
                self.put(Held::Gone);
                bail!("it has just ended");
            }
            Pausing::Refused(process, why) => {
                self.put(Held::Running(process));
                Err(why.into())
            }
        }
    }

    /// Ends the process here, since it is in the file now.
    fn depart(&self, paused: Box<dyn Paused>, order: &FreezeOrder) {
        self.set_end(End::Frozen(order.file.clone()));
        // Not found any more before anyone is told that it is in the file: there it may be thawed at once.
        self.leave(&Exit::Departed);
        paused.discard();
        self.put(Held::Gone);
    }

    /// The image, and a copy of its pages if the process need not wait for the writing.
    fn capture(
        &self,
        paused: &mut dyn Paused,
        order: &FreezeOrder,
        times: &mut Times,
    ) -> Result<(Image, Option<PageSet>)> {
        let begun = Instant::now();
        let mut image = paused.capture()?;
        self.facts().local.put_into(&mut image)?;
        times.capture = begun.elapsed();
        if !order.keep {
            return Ok((image, None));
        }
        let begun = Instant::now();
        let memory = paused.memory();
        let runs = memory.changed()?;
        let bytes = runs
            .iter()
            .fold(0, |sum: u64, run| sum.saturating_add(run.bytes()));
        if bytes > COPY_BYTES_MAX {
            return Ok((image, None));
        }
        let copy = PageSet::read_from(&*memory, &runs)?;
        times.copy = begun.elapsed();
        Ok((image, Some(copy)))
    }
}

/// What is written.
struct Sheet<'a> {
    seat: &'a Seat,
    image: &'a Image,
    program: Option<&'a PackedProgram>,
    order: &'a FreezeOrder,
}

impl Sheet<'_> {
    fn write(&self, pages: &mut dyn PageProvider, progress: OnProgress<'_>) -> Result<Written> {
        let mut writer = ImageWriter::new(self.image, &self.seat.facts().key);
        if let Some(program) = self.program {
            writer = writer.with_program(program);
        }
        let total = pages
            .runs()
            .iter()
            .fold(0, |sum: u64, run| sum.saturating_add(run.bytes()));
        let mut pages = Counted {
            pages,
            seat: self.seat,
            progress,
            done: 0,
            total,
            told: Instant::now(),
        };
        let path = &self.order.file;
        match special(path)? {
            false => Ok(writer.write_file(path, &mut pages)?),
            true => {
                let written = write_device(&writer, path, &mut pages)?;
                ensure!(
                    fs::metadata(path)?.file_type().is_block_device(),
                    "{} keeps nothing that is written to it: freeze into a file",
                    path.display()
                );
                Ok(written)
            }
        }
    }

    fn report(&self, written: &Written, times: &Times) -> FreezeReport {
        let us = |time: Duration| time.as_micros().try_into().unwrap_or(u64::MAX);
        let description = &self.image.description;
        FreezeReport {
            process: self.seat.facts().id,
            name: self.seat.facts().local.name.clone(),
            file: self.order.file.clone(),
            kept: self.order.keep,
            thin: self.order.thin,
            image_bytes: written.bytes,
            program_bytes: self.program.map_or(0, PackedProgram::bytes),
            pages_stored: written.pages_stored,
            pages_zero: written.pages_zero,
            frames: description.frames.len() as u64 + description.frames_omitted,
            pause_us: Some(us(times.pause)),
            capture_us: Some(us(times.capture)),
            copy_us: Some(us(times.copy)),
            write_us: us(times.write),
            stopped_us: us(times.stopped),
        }
    }
}

/// Whether the path is something that cannot be replaced by a file: then it is written to. Pipes and sockets,
/// where it would not be known whether anybody has read the image, are refused.
fn special(path: &Path) -> Result<bool> {
    let Ok(found) = fs::metadata(path) else {
        return Ok(false);
    };
    let kind = found.file_type();
    if kind.is_fifo() || kind.is_socket() {
        bail!("{} is a pipe or socket: freeze into a file", path.display());
    }
    Ok(kind.is_char_device() || kind.is_block_device())
}

fn write_device(
    writer: &ImageWriter<'_>,
    path: &Path,
    pages: &mut dyn PageProvider,
) -> Result<Written> {
    let what = || format!("could not write the image {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .with_context(what)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, &file);
    let written = writer.write_to(&mut out, pages);
    let flushed = out.flush();
    drop(out.into_parts()); // what is left after an error must not be written
    let written = written.with_context(what)?;
    flushed.with_context(what)?;
    match file.sync_all() {
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(error).with_context(what),
        _ => Ok(written), // a device that cannot be synced is as safe as it gets
    }
}

/// Pages that are counted while they are read.
struct Counted<'a> {
    pages: &'a mut dyn PageProvider,
    seat: &'a Seat,
    progress: OnProgress<'a>,
    done: u64,
    total: u64,
    told: Instant,
}

impl PageProvider for Counted<'_> {
    fn runs(&self) -> PageRuns {
        self.pages.runs()
    }

    fn read(&mut self, run: PageRun, buffer: &mut [u8]) -> Result<(), MemoryError> {
        debug_assert_eq!(buffer.len() % PAGE_SIZE, 0);
        if self.seat.is_hurried() {
            return Err(MemoryError::System {
                doing: "finish the image",
                source: io::Error::other("interrupted"),
            });
        }
        self.pages.read(run, buffer)?;
        self.done += buffer.len() as u64;
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            (self.progress)(self.done, self.total);
        }
        Ok(())
    }
}
