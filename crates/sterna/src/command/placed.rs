//! `sterna run --on` and `--detach`: a process on a node of the cluster.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use sterna_node::message::{Belongings, Deed, HostingReply, HostingRequest, StartOrder, Where};
use sterna_process::{Environment, ProcessId};

use super::given::BoundDirectory;
use super::logs::Follow;
use crate::host::Signals;
use crate::kinds::{self, BuildOptions};
use crate::node::{self, Which};
use crate::show;

/// Input read at once.
const INPUT_BYTES: usize = 16 << 10;

/// A process that is to be placed.
pub(crate) struct Placed<'a> {
    pub(crate) which: &'a Which,
    /// A node's name, or `auto`; the asked node if nothing is said.
    pub(crate) on: Option<&'a str>,
    /// Whether the command ends when the process runs.
    pub(crate) detach: bool,
    /// Whether it gets this command's standard input.
    pub(crate) interactive: bool,
    pub(crate) name: Option<String>,
    pub(crate) file: &'a Path,
    pub(crate) build: &'a BuildOptions,
    pub(crate) directories: Vec<BoundDirectory>,
    pub(crate) environment: Environment,
    pub(crate) json: bool,
}

impl Placed<'_> {
    pub(crate) fn run(self) -> Result<u8> {
        ensure!(
            !self.build.canonical_nans,
            "--canonical-nans is for processes without a node so far: leave it out, or run without --on and --detach"
        );
        let place = self.place()?;
        let (_, cache) = kinds::cache(self.build)?;
        let (program, _) = kinds::install(&cache, self.file)?;
        let order = self.order(place, program);
        let descriptors: Vec<BorrowedFd<'_>> = self
            .directories
            .iter()
            .filter_map(|directory| directory.handle.as_ref())
            .map(AsFd::as_fd)
            .collect();
        let signals = Signals::catch()?;
        let request = HostingRequest::Start(Box::new(order));
        let Some(HostingReply::Started { process, node }) =
            self.which.hosting_with(request, &descriptors)?
        else {
            return Err(node::unexpected());
        };
        if self.detach {
            let nodes = self.which.nodes()?;
            return started(process, &node::name_of(&nodes, node), self.json);
        }
        self.attend(process, signals)
    }

    fn place(&self) -> Result<Where> {
        Ok(match self.on {
            None => Where::Here,
            Some("auto") => Where::Anywhere,
            Some(name) => Where::At(node::member(&self.which.nodes()?, name)?),
        })
    }

    fn order(&self, place: Where, program: sterna_process::ProgramId) -> StartOrder {
        let bytes = |text: &OsString| text.as_bytes().to_vec();
        let environment = &self.environment;
        let variables = environment.variables.iter();
        StartOrder {
            place,
            name: self.name.clone(),
            program,
            kind: sterna_wasm::KIND,
            file: super::given::file_text(self.file),
            arguments: environment.arguments.iter().map(bytes).collect(),
            variables: variables
                .map(|(name, value)| (bytes(name), bytes(value)))
                .collect(),
            entry: environment.entry.clone(),
            belongings: Belongings {
                limits: environment.resources.limits.clone(),
                bindings: self
                    .directories
                    .iter()
                    .map(|directory| directory.binding.clone())
                    .collect(),
                input: self.interactive,
            },
        }
    }

    /// In the foreground: shows its output, gives it input and signals, and ends as it does.
    fn attend(&self, process: ProcessId, signals: Signals) -> Result<u8> {
        let which = self.which.clone();
        let signalled = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&signalled);
        signals.each(move |signal| {
            if seen.swap(true, Ordering::Relaxed) {
                std::process::exit(128 + signal);
            }
            let deed = Deed::Kill;
            let _ = which.hosting(HostingRequest::Steer { process, deed });
        })?;
        if self.interactive {
            let which = self.which.clone();
            thread::Builder::new()
                .name("input".into())
                .spawn(move || give_input(&which, process))
                .context("could not start the thread that reads standard input")?;
        }
        Follow::of(self.which, process).until_the_end()?;
        super::wait::outcome(self.which, process, true)
    }
}

fn started(process: ProcessId, node: &str, json: bool) -> Result<u8> {
    #[derive(serde::Serialize)]
    struct Started<'a> {
        id: ProcessId,
        node: &'a str,
    }
    match json {
        true => show::json(&Started { id: process, node })?,
        false => show::print(format_args!("{}\n", process.short())),
    }
    Ok(0)
}

/// Gives this command's standard input to a process, until either ends.
fn give_input(which: &Which, process: ProcessId) {
    let mut buffer = vec![0; INPUT_BYTES];
    loop {
        let got = match io::stdin().lock().read(&mut buffer) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        let request = HostingRequest::Input {
            process,
            bytes: buffer[..got].to_vec(),
            end: got == 0,
        };
        if which.hosting(request).is_err() || got == 0 {
            let _ = io::stdout().flush();
            return;
        }
    }
}
