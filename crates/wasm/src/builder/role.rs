//! The confined process.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use sterna_sys::confine::{Confinement, Limits};
use sterna_sys::spawn::{InheritedError, inherited};

use super::job::{Failure, Job, Message, TEXT_BYTES_MAX, Task, descriptor};
use super::task;
use crate::cache::Compatibility;
use crate::engine::Engine;

/// Descriptors that a builder may have open: its own few and those of the standard streams.
const DESCRIPTORS: u64 = 16;
/// How much a builder in the background steps back, see nice(2).
const BACKGROUND_NICE: i32 = 15;
/// Stack of the thread that does the work, in bytes: less than any other thread that runs the pass has, so that what
/// the pass takes here it takes there.
const STACK_BYTES: usize = 1 << 20;

/// The whole life of a builder process: what the hidden subcommand of the binary and test programs call from `main`,
/// first of all, while the process has one thread.
///
/// Everything is passed in descriptors by the process that started it; called by a person, it only says so.
pub fn run() -> ExitCode {
    let channels = match Channels::inherited() {
        Ok(channels) => channels,
        Err(error) => {
            eprintln!("The builder is started by Sterna itself when a program is added ({error}).");
            return ExitCode::from(2);
        }
    };
    match work(channels) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

struct Channels {
    job: File,
    input: File,
    report: Report,
    output: File,
}

struct Report(File);

impl Channels {
    fn inherited() -> Result<Channels, InheritedError> {
        let file = |name| inherited(name).map(|fd: OwnedFd| File::from(fd));
        Ok(Channels {
            job: file(descriptor::JOB)?,
            input: file(descriptor::INPUT)?,
            report: Report(file(descriptor::REPORT)?),
            output: file(descriptor::OUTPUT)?,
        })
    }
}

impl Report {
    fn say(&mut self, message: &Message) -> std::io::Result<()> {
        let bytes = postcard::to_stdvec(message).map_err(std::io::Error::other)?;
        let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
        framed.extend(bytes);
        self.0.write_all(&framed)
    }
}

fn work(mut channels: Channels) -> std::io::Result<()> {
    let mut job = Vec::new();
    channels.job.read_to_end(&mut job)?;
    let job: Job = postcard::from_bytes(&job).map_err(std::io::Error::other)?;
    if job.in_background {
        // Refused only to who already steps back further.
        let _ = rustix::process::nice(BACKGROUND_NICE);
    }
    let memory = rustix::process::Rlimit {
        current: Some(job.memory_bytes),
        maximum: Some(job.memory_bytes),
    };
    // The address space is limited too, but that counts what is only reserved and must leave room for it.
    let memory = rustix::process::setrlimit(rustix::process::Resource::Data, memory);
    let confined = Confinement::new()
        .limits(Limits {
            address_space_bytes: Some(job.address_space_bytes),
            cpu_seconds: Some(job.cpu_seconds),
            descriptors: Some(DESCRIPTORS),
            file_bytes: Some(job.output_bytes),
        })
        .apply();
    let mut confined = confined.to_string();
    if let Err(error) = memory {
        confined = format!("{confined}; no limit of memory: {error}");
    }
    channels.report.say(&Message::Confined(confined))?;
    let mut bytes = Vec::new();
    let length = channels.input.seek(std::io::SeekFrom::End(0))?;
    channels.input.rewind()?;
    bytes.reserve_exact(length as usize);
    channels.input.read_to_end(&mut bytes)?;
    let worker = std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let made = make(&job, bytes, &mut channels.report);
            finish(made, &mut channels)
        })?;
    worker
        .join()
        .unwrap_or_else(|_| Err(std::io::Error::other("the builder panicked")))
}

/// The parts of what `job` asks for.
fn make(job: &Job, bytes: Vec<u8>, report: &mut Report) -> Result<Vec<Vec<u8>>, Failure> {
    let engine = Engine::new(job.engine).map_err(|_| Failure::OtherEngine)?;
    let options = match &job.task {
        Task::Program(options) => options.clone(),
        Task::Module => crate::pass::Options::default(),
    };
    if Compatibility::of(&engine, &options).id != job.compatibility {
        return Err(Failure::OtherEngine);
    }
    match &job.task {
        Task::Program(options) => {
            let made = task::program(&engine, Arc::from(bytes), options.clone(), &mut |stage| {
                // Who does not listen any more has ended, and so will this process.
                let _ = report.say(&Message::Stage(stage));
            })?;
            Ok(vec![
                made.artifact.into_bytes(),
                made.metadata,
                made.points,
                made.marks,
                made.data,
            ])
        }
        Task::Module => Ok(vec![task::module(&engine, &bytes)?.into_bytes()]),
    }
}

fn finish(made: Result<Vec<Vec<u8>>, Failure>, channels: &mut Channels) -> std::io::Result<()> {
    let message = match made {
        Ok(parts) => {
            for part in &parts {
                channels.output.write_all(part)?;
            }
            Message::Done(parts.iter().map(|part| part.len() as u64).collect())
        }
        Err(mut failure) => {
            shorten(&mut failure);
            Message::Failed(failure)
        }
    };
    channels.report.say(&message)
}

/// A module can make texts of any length appear in an error.
fn shorten(failure: &mut Failure) {
    let (Failure::Invalid { reason: text, .. }
    | Failure::Refused { feature: text, .. }
    | Failure::TooLarge { what: text, .. }
    | Failure::Rewrite(text)
    | Failure::Compile(text)
    | Failure::Output(text)) = failure
    else {
        return;
    };
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    text.truncate(end);
}
