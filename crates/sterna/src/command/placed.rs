//! `sterna run --on` and `--detach`: a process on a node of the cluster.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::Result;
use sterna_node::message::{
    Belongings, Deed, HostingReply, HostingRequest, ListenOrder, StartOrder, Where,
};
use sterna_process::{Environment, ProcessId};

use super::attach::{Keys, Session};
use super::given::BoundDirectory;
use crate::host::Signals;
use crate::kinds::{self, BuildOptions};
use crate::node::{self, Which};
use crate::{show, terminal};

/// A port that a process is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListenAt {
    /// What the process knows it by.
    name: String,
    /// Whose port, if not that of the node on which it is started.
    node: Option<String>,
    port: u16,
}

impl FromStr for ListenAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write [NAME=][NODE:]PORT, for example 8080 or http=lab-1:8080".to_owned();
        let (name, at) = match text.split_once('=') {
            Some((name, at)) => (Some(name), at),
            None => (None, text),
        };
        let (node, port) = match at.rsplit_once(':') {
            Some((node, port)) => (Some(node), port),
            None => (None, at),
        };
        let port: u16 = port.parse().map_err(|_| wrong())?;
        if name.is_some_and(str::is_empty) || node.is_some_and(str::is_empty) {
            return Err(wrong());
        }
        Ok(Self {
            name: name.map_or_else(|| port.to_string(), str::to_owned),
            node: node.map(str::to_owned),
            port,
        })
    }
}

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
    pub(crate) listens: &'a [ListenAt],
    pub(crate) environment: Environment,
    pub(crate) json: bool,
}

impl Placed<'_> {
    pub(crate) fn run(self) -> Result<u8> {
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
        let order = Box::new(order);
        let request = match self.listens {
            [] => HostingRequest::Start(order),
            _ => HostingRequest::StartListening {
                order,
                listens: self.listens()?,
            },
        };
        let Some(HostingReply::Started { process, node }) =
            self.which.hosting_with(request, descriptors)?
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

    fn listens(&self) -> Result<Vec<ListenOrder>> {
        let nodes = match self.listens.iter().any(|listen| listen.node.is_some()) {
            true => Some(self.which.nodes()?),
            false => None,
        };
        let order = |listen: &ListenAt| {
            let ingress = match (&listen.node, &nodes) {
                (Some(name), Some(nodes)) => Some(node::member(nodes, name)?),
                _ => None,
            };
            Ok(ListenOrder {
                name: listen.name.clone(),
                ingress,
                port: listen.port,
            })
        };
        self.listens.iter().map(order).collect()
    }

    fn order(&self, place: Where, program: sterna_process::ProgramId) -> StartOrder {
        let bytes = |text: &OsString| text.as_bytes().to_vec();
        let environment = &self.environment;
        let variables = environment.variables.iter();
        StartOrder {
            place,
            name: self.name.clone(),
            program,
            kind: self.build.kind(),
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
                listens: Vec::new(),
            },
        }
    }

    /// In the foreground: shows its output, gives it input and signals, and ends as it does.
    fn attend(&self, process: ProcessId, signals: Option<Signals>) -> Result<u8> {
        let killed_by = Arc::new(AtomicI32::new(0));
        if let Some(signals) = signals {
            let which = self.which.clone();
            let seen = Arc::clone(&killed_by);
            signals.each(move |signal| {
                if seen.swap(signal, Ordering::Relaxed) != 0 {
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
            killed_by,
        };
        session.run(0)
    }
}

/// Tells of a process that runs on its own now.
pub(super) fn started(process: ProcessId, node: &str, json: bool) -> Result<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_have_a_name_and_a_node() {
        let read = |text: &str| {
            let at: ListenAt = text.parse().ok()?;
            Some((at.name, at.node, at.port))
        };
        let at = |name: &str, node: Option<&str>, port| {
            Some((name.to_owned(), node.map(str::to_owned), port))
        };
        assert_eq!(read("8080"), at("8080", None, 8080));
        assert_eq!(read("lab-1:0"), at("0", Some("lab-1"), 0));
        assert_eq!(read("http=80"), at("http", None, 80));
        assert_eq!(read("http=lab:80"), at("http", Some("lab"), 80));
        for wrong in ["", "x", "65536", "-1", ":80", "=80", "a=:80", "80:"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
