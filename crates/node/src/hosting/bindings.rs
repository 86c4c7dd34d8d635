//! What processes of this node may be bound to: what its operator exports, and, for those that are started here and stay,
//! what their user has opened.
//!
//! A binding in an arriving process is a request. Nothing is opened because it says so: it is looked up among the exports,
//! which were opened when the node was started.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use sterna_migration::Refusal;
use sterna_process::{ProcessId, Tag};
use sterna_runner::message::PlacedDirectory;

use super::{Hosting, blocking};
use crate::message::{Binding, BindingSort, Failure};

/// Directories that a node's operator exports, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exports(BTreeMap<String, Arc<File>>);

impl Exports {
    /// Opens them, with the operator's rights.
    pub(crate) fn open(exports: &[(String, PathBuf)]) -> Result<Self, (PathBuf, io::Error)> {
        let open = |(name, path): &(String, PathBuf)| {
            let opened = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
                true => Ok(Arc::new(file)),
                false => Err(io::ErrorKind::NotADirectory.into()),
            });
            match opened {
                Ok(file) => Ok((name.clone(), file)),
                Err(error) => Err((path.clone(), error)),
            }
        };
        exports.iter().map(open).collect::<Result<_, _>>().map(Self)
    }
}

impl Hosting {
    /// Whether there are processes of a kind here.
    pub(super) fn knows(&self, kind: &Tag) -> bool {
        self.workshop.kinds().contains(kind)
    }

    /// Why a process that is bound so cannot come; nothing if it can. `are_opened`: its user has opened here what is fixed.
    pub(super) fn objection(
        &self,
        kind: &Tag,
        bindings: &[Binding],
        are_opened: bool,
    ) -> Option<Refusal> {
        if let Some(reason) = self.closed() {
            let reason = reason.to_owned();
            return Some(Refusal::NotAdmitted { reason });
        }
        if !self.knows(kind) {
            let what = format!("processes of kind {kind}");
            return Some(Refusal::Unsupported { what });
        }
        // Without a runner this is not known, and nothing comes of it anyway.
        let cannot_confine = self.runner().is_ok_and(|runner| !runner.takes_directories);
        if !bindings.is_empty() && cannot_confine {
            let reason = "the machine cannot confine a process to its directories: see `sterna doctor` there";
            return Some(Refusal::NotAdmitted {
                reason: reason.into(),
            });
        }
        bindings.iter().find_map(|binding| match &binding.sort {
            BindingSort::Fixed if !are_opened => Some(Refusal::Unsupported {
                what: format!(
                    "directory {}, which is fixed to its node: start the process with `:copy`, or with `:shared` for what \
                     every node exports",
                    binding.guest_path
                ),
            }),
            BindingSort::Shared { export } if !self.exports.0.contains_key(export) => {
                Some(Refusal::NotAdmitted {
                    reason: format!(
                        "it exports no directory {export:?}: start that node with `--export {export}=DIR`"
                    ),
                })
            }
            BindingSort::Fixed | BindingSort::Shared { .. } | BindingSort::Copy => None,
        })
    }

    /// The directories of a process, detached, in the order of its bindings. `opened`: those that its user has opened; of
    /// one that comes, copies are here already.
    pub(super) async fn directories(
        &self,
        process: ProcessId,
        bindings: &[Binding],
        opened: Vec<OwnedFd>,
    ) -> Result<Vec<OwnedFd>, Failure> {
        let mut opened = opened.into_iter();
        let mut detached = Vec::new();
        for (number, binding) in bindings.iter().enumerate() {
            let directory = match &binding.sort {
                BindingSort::Fixed => opened
                    .next()
                    .ok_or_else(|| Failure::refused("a directory did not come with the order"))?,
                BindingSort::Shared { export } => self.exported(export)?,
                BindingSort::Copy => {
                    let (copies, origin) = (Arc::clone(&self.copies), opened.next());
                    let returns = !binding.read_only;
                    let copied = blocking(move || match origin {
                        Some(origin) => copies.take(process, number, origin, returns),
                        None => copies
                            .open(process, number)
                            .map_err(|_| "it is not here".into()),
                    });
                    copied.await?.map_err(|why| {
                        let path = &binding.guest_path;
                        Failure::refused(format!(
                            "the directory for {path} cannot be copied: {why}"
                        ))
                    })?
                }
            };
            let (workshop, read_only) = (Arc::clone(&self.workshop), binding.read_only);
            let result = blocking(move || workshop.detach(directory, read_only)).await?;
            let path = &binding.guest_path;
            detached.push(result.map_err(|error| {
                Failure::refused(format!("the directory {path} cannot be given: {error}"))
            })?);
        }
        match opened.next() {
            None => Ok(detached),
            Some(_) => Err(Failure::refused("too many directories came with the order")),
        }
    }

    fn exported(&self, export: &str) -> Result<OwnedFd, Failure> {
        let file = self.exports.0.get(export).ok_or_else(|| {
            Failure::refused(format!(
                "node {} exports no directory {export:?}: start it with `--export {export}=DIR`",
                self.name
            ))
        })?;
        let cloned = file.as_fd().try_clone_to_owned();
        cloned.map_err(|error| Failure::refused(format!("the export {export:?}: {error}")))
    }
}

/// Directories as a runner is told of them.
pub(super) fn placed(bindings: &[Binding]) -> Vec<PlacedDirectory> {
    let placed = bindings.iter().map(|binding| PlacedDirectory {
        guest_path: binding.guest_path.clone(),
        read_only: binding.read_only,
    });
    placed.collect()
}
