//! `sterna freeze` and `sterna thaw` of processes on nodes. The file is written and read here, with this user's rights and
//! key; a node only gets a pipe.

use std::io::{self, BufReader, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use sterna_migration::{Grant, NodeId};
use sterna_node::limits::PROGRAM_BYTES_MAX;
use sterna_node::message::{HostingReply, HostingRequest, ProcessEntry, ThawOrder};
use sterna_process::image::Written;
use sterna_process::{
    Image, ImageFile, ImageWriter, Limits, MemoryError, PackedProgram, PageProvider, PageRun,
    PageRuns, ProcessId, ProgramId,
};
use sterna_runner::copy::{self, Copy};

use crate::host::{Guarded, Signals};
use crate::kinds::{self, BuildOptions};
use crate::local::Local;
use crate::node::{self, Which};
use crate::protocol::FreezeReport;
use crate::{key, show};

const BUFFER_BYTES: usize = 1 << 20;

/// A process of a node that is to be frozen.
pub(crate) struct Freezing<'a> {
    pub(crate) which: &'a Which,
    pub(crate) entry: &'a ProcessEntry,
    pub(crate) file: &'a Path,
    pub(crate) keep: bool,
    pub(crate) thin: bool,
}

impl Freezing<'_> {
    pub(crate) fn run(&self) -> Result<FreezeReport> {
        let key = key::own()?;
        let program = match self.thin {
            true => None,
            false => Some(self.program()?),
        };
        let signals = Signals::catch()?.interrupt_reading()?;
        let (reading, writing) = io::pipe().context("could not make a pipe")?;
        let (ours, theirs) = UnixStream::pair().context("could not make a socket")?;
        let request = HostingRequest::Freeze {
            process: self.entry.process,
            keep: self.keep,
            file: show::path(self.file).to_string(),
        };
        thread::scope(|scope| {
            let (writing, theirs): (OwnedFd, OwnedFd) = (writing.into(), theirs.into());
            // It has the only other ends here until they are sent, so that a node which fails shows as the end of the copy.
            let asking =
                scope.spawn(move || self.which.hosting_with(request, vec![writing, theirs]));
            let begun = Instant::now();
            let written = self.write(&key, program.as_ref(), signals.guard(reading));
            if let (Err(_), Some(signal)) = (&written, signals.signal()) {
                self.give_up(signal);
            }
            if let (Ok((_, written)), false) = (&written, self.keep) {
                let seal = Grant::of_file(&written.root).seal();
                // If the node does not hear it, its answer says so.
                let _ = (&ours).write_all(seal.as_bytes());
            }
            drop(ours);
            let answered = asking.join().map_err(|_| anyhow!("a thread failed"))?;
            let stood_us = match (&written, answered) {
                (_, Ok(Some(HostingReply::Frozen { stood_us }))) => stood_us,
                (_, Ok(_)) => return Err(node::unexpected()),
                (Ok(_), Err(error)) if !self.keep => {
                    return Err(error).with_context(|| {
                        format!(
                            "{} is a snapshot, and no more: unless the registry comes to say otherwise, the process \
                             runs on",
                            show::path(self.file)
                        )
                    });
                }
                (Err(own), Err(error)) if own.downcast_ref::<copy::CopyError>().is_none() => {
                    drop(error); // that there is no file, which is known here
                    return Err(written.map(drop).unwrap_err());
                }
                (_, Err(error)) => return Err(error),
            };
            let (image, written) = written?;
            Ok(self.report(&image, &written, (program.as_ref(), stood_us, begun)))
        })
    }

    /// Ends this program, whose half of a file is removed. The node sees that, and was given no seal: it keeps the process.
    fn give_up(&self, signal: i32) -> ! {
        show::note(format_args!(
            "interrupted: {} was not written, and process {} stays as it is",
            show::path(self.file),
            self.entry.process.short()
        ));
        std::process::exit(128 + signal);
    }

    fn program(&self) -> Result<PackedProgram> {
        let (_, cache) = kinds::cache(&BuildOptions::default())?;
        let program = self.entry.info.program;
        let bytes = match cache.bytes(&program) {
            Ok(bytes) => bytes,
            Err(_) => self.program_of_the_node()?.into(),
        };
        PackedProgram::pack(&bytes).context("could not compress the program")
    }

    /// From the node that has the process.
    fn program_of_the_node(&self) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        loop {
            let request = HostingRequest::ProgramOf {
                process: self.entry.process,
                offset: whole.len() as u64,
            };
            let Some(HostingReply::Program { total, bytes }) = self.which.hosting(request)? else {
                return Err(node::unexpected());
            };
            ensure!(
                total <= PROGRAM_BYTES_MAX && (whole.len() as u64 == total || !bytes.is_empty()),
                "the node does not give the whole program: freeze it --thin"
            );
            whole.extend(bytes);
            if whole.len() as u64 >= total {
                break;
            }
        }
        ensure!(
            ProgramId::of(&whole) == self.entry.info.program,
            "the node gave another program than the process's: freeze it --thin"
        );
        Ok(whole)
    }

    fn write(
        &self,
        key: &sterna_process::ImageKey,
        program: Option<&PackedProgram>,
        reading: Guarded<'_, io::PipeReader>,
    ) -> Result<(Image, Written)> {
        let mut copy = Copy::begin(BufReader::with_capacity(BUFFER_BYTES, reading))?;
        let mut image = copy.image().clone();
        let name = self.entry.name.clone();
        Local {
            name: name.unwrap_or_else(|| self.entry.process.short()),
            file: self.entry.info.file.clone(),
            directories: Vec::new(),
            limits: Limits::default(),
        }
        .put_into(&mut image)?;
        let mut writer = ImageWriter::new(&image, key);
        if let Some(program) = program {
            writer = writer.with_program(program);
        }
        let written = writer.write_file(self.file, &mut copy)?;
        Ok((image, written))
    }

    fn report(
        &self,
        image: &Image,
        written: &Written,
        (program, stood_us, begun): (Option<&PackedProgram>, u64, Instant),
    ) -> FreezeReport {
        let frames = &image.description;
        let us = begun.elapsed().as_micros() as u64;
        let name = self.entry.name.clone();
        FreezeReport {
            process: self.entry.process,
            name: name.unwrap_or_else(|| self.entry.process.short()),
            file: self.file.to_owned(),
            kept: self.keep,
            thin: self.thin,
            image_bytes: written.bytes,
            program_bytes: program.map_or(0, PackedProgram::bytes),
            pages_stored: written.pages_stored,
            pages_zero: written.pages_zero,
            frames: frames.frames.len() as u64 + frames.frames_omitted,
            pause_us: None,
            capture_us: None,
            copy_us: None,
            write_us: us,
            stopped_us: if self.keep { stood_us } else { us },
        }
    }
}

/// A file that is to be thawed on a node. Its program is in the cache of the asked one.
pub(crate) struct Thawing<'a> {
    pub(crate) which: &'a Which,
    pub(crate) file: &'a ImageFile,
    pub(crate) image: Image,
    pub(crate) local: &'a Local,
    pub(crate) name: Option<String>,
    pub(crate) limits: Limits,
    pub(crate) new_id: bool,
    /// Where, if not on the asked node.
    pub(crate) on: Option<NodeId>,
    /// Directories that are fixed to their node, opened again, as its record has them.
    pub(crate) opened: Vec<OwnedFd>,
}

impl Thawing<'_> {
    /// The process that it has become.
    pub(crate) fn run(self) -> Result<ProcessId> {
        let header = &self.image.header;
        let grant = (!self.new_id).then(|| Grant::of_file(self.file.root()));
        let order = ThawOrder {
            process: header.process,
            epoch: header.epoch,
            grant,
            kind: header.kind.clone(),
            program: header.program,
            file: self.local.file.clone(),
            name: self.name.clone(),
            limits: self.limits.clone(),
            // Standard streams it gets anywhere.
            is_bound: self
                .image
                .description
                .bindings
                .iter()
                .any(|binding| binding.descriptor.is_none_or(|number| number > 2)),
        };
        let image = self.image.encode().context("could not encode the image")?;
        let (reading, writing) = io::pipe().context("could not make a pipe")?;
        let answered = thread::scope(|scope| {
            let mut descriptors = vec![reading.into()];
            descriptors.extend(self.opened);
            let (which, order) = (self.which, Box::new(order));
            let request = match self.on {
                Some(on) => HostingRequest::ThawAt(order, on),
                None => HostingRequest::Thaw(order),
            };
            let asking = scope.spawn(move || which.hosting_with(request, descriptors));
            let mut writing = BufWriter::with_capacity(BUFFER_BYTES, writing);
            let written = copy::write(&mut writing, &image, &mut Pages(self.file));
            drop(writing.into_parts());
            let answered = asking.join().map_err(|_| anyhow!("a thread failed"))?;
            match written {
                // The node has read no further; its answer says why.
                Ok(()) | Err(copy::CopyError::Pipe(_)) => answered,
                Err(error) => Err(error.into()),
            }
        });
        let Some(HostingReply::Thawed {
            process, why_new, ..
        }) = answered?
        else {
            return Err(node::unexpected());
        };
        if let Some(why) = why_new {
            show::note(format_args!(
                "{why}: this is another process, {}",
                process.short()
            ));
        }
        Ok(process)
    }
}

/// The pages of a file.
struct Pages<'a>(&'a ImageFile);

impl PageProvider for Pages<'_> {
    fn runs(&self) -> PageRuns {
        self.0.page_runs()
    }

    fn read(&mut self, run: PageRun, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.0
            .read_pages(run, buffer)
            .map_err(|error| MemoryError::System {
                doing: "read the image's pages",
                source: io::Error::other(error),
            })
    }
}
