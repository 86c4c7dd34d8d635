//! `sterna run --on` and `--detach`: a process on a node of the cluster.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use sterna_node::message::{Belongings, Deed, HostingReply, HostingRequest, StartOrder, Where};
use sterna_process::{Environment, ProcessId};

use super::attach::{Keys, Session};
use super::given::BoundDirectory;
use crate::host::Signals;
use crate::kinds::{self, BuildOptions};
use crate::node::{self, Which};
use crate::{show, terminal};

/// A process that is to be placed.
pub(crate) struct Placed<'a> {
    pub(crate) which: &'a Which,
    /// A node's name, or `auto`; the asked node if nothing is said.
    pub(crate) on: Option<&'a str>,
    /// Whether the command ends when the process runs.
    pub(crate) detach: bool,
    /// Whether it gets this command's standard input.
    pub(crate) interactive: bool,
    /// Whether its standard streams are a terminal.
    pub(crate) terminal: bool,
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
        // At a terminal of its own, keys are no signals.
        let keys_only = self.terminal && terminal::is_used();
        let signals = match keys_only {
            true => None,
            false => Some(Signals::catch()?),
        };
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
                input: self.interactive || self.terminal,
                terminal: self.terminal.then(terminal::size),
            },
        }
    }

    /// In the foreground: shows its output, gives it input and signals, and ends as it does.
    fn attend(&self, process: ProcessId, signals: Option<Signals>) -> Result<u8> {
        if let Some(signals) = signals {
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
        }
        let session = Session {
            which: self.which,
            process,
            input: self.interactive || self.terminal,
            terminal: self.terminal,
            end_input: true,
            keys: Keys::default(),
            interrupt_kills: true,
        };
        session.run(0)
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
