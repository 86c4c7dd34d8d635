//! Stores: places outside of the cluster in which snapshots are kept, each under the name that its nodes have for it.
//!
//! ```text
//! node start --store backup=file:///mnt/backup        on each node that is to use it
//! /mnt/backup/PROCESS/…                               as `sterna-snapshot` says
//! ```
//!
//! A schedule goes with a process from node to node, and says a name, never a place: a node opens what its own operator
//! named when it was started, and nothing because somebody on the network says so. Whoever can write there can make
//! snapshots disappear, but none that is taken for one: each has its owner's mark.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sterna_process::ProcessId;
use sterna_snapshot::{Folder, is_name};

use crate::message::Failure;

const FILE: &str = "file://";

/// A store, as an operator names it: `NAME=URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreAt {
    name: String,
    directory: PathBuf,
}

/// Why a text names no store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseStoreError {
    /// It has no name, or none that a store may have.
    #[error(
        "write NAME=URL, NAME of lower-case letters, digits and -, for example backup=file:///mnt/backup"
    )]
    Name,
    /// Its URL is none that can be used.
    #[error("{url:?}: only file:///DIRECTORY can be a store so far; mount what is elsewhere")]
    Url {
        /// The URL.
        url: String,
    },
}

impl StoreAt {
    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl FromStr for StoreAt {
    type Err = ParseStoreError;

    fn from_str(text: &str) -> Result<Self, ParseStoreError> {
        let (name, url) = text.split_once('=').ok_or(ParseStoreError::Name)?;
        if !is_name(name) {
            return Err(ParseStoreError::Name);
        }
        // Percent-encoded bytes would be taken for themselves, so none may be there.
        let directory = url
            .strip_prefix(FILE)
            .filter(|path| path.starts_with('/') && !path.contains(['%', '?', '#']));
        match directory {
            Some(path) => Ok(Self {
                name: name.to_owned(),
                directory: path.into(),
            }),
            None => Err(ParseStoreError::Url {
                url: url.to_owned(),
            }),
        }
    }
}

impl std::fmt::Display for StoreAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={FILE}{}", self.name, self.directory.display())
    }
}

/// Those of a node, by name.
#[derive(Debug, Default)]
pub(crate) struct Stores(BTreeMap<String, PathBuf>);

impl Stores {
    /// Looks whether they are there.
    pub(crate) fn open(stores: &[StoreAt]) -> Result<Self, (PathBuf, io::Error)> {
        let open = |store: &StoreAt| match std::fs::read_dir(&store.directory) {
            Ok(_) => Ok((store.name.clone(), store.directory.clone())),
            Err(error) => Err((store.directory.clone(), error)),
        };
        stores.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// The folder of a process in the store of this name.
    pub(super) fn folder(&self, store: &str, process: ProcessId) -> Result<Folder, Failure> {
        match self.0.get(store) {
            Some(directory) => Ok(Folder::at(directory.join(process.to_string()))),
            None => Err(Failure::refused(format!(
                "this node has no store {store:?}: start it with `--store {store}=URL`, the URL that the other nodes \
                 have for it"
            ))),
        }
    }

    /// Where all of them are.
    pub(super) fn directories(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_a_name_and_an_absolute_place() {
        for good in ["b=file:///mnt/b", "b-2=file:///"] {
            assert_eq!(good.parse::<StoreAt>().unwrap().to_string(), good);
        }
        for bad in [
            "file:///mnt/b",
            "=file:///b",
            "B=file:///b",
            "../b=file:///b",
            "b=/mnt/b",
            "b=file://host/b",
            "b=file:///a%20b",
            "b=s3://bucket/b",
        ] {
            assert!(bad.parse::<StoreAt>().is_err(), "{bad}");
        }
    }
}
