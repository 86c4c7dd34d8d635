//! Stores: places outside of the cluster in which snapshots are kept, each under the name that its nodes have for it.
//!
//! ```text
//! node start --store backup=file:///mnt/backup        on each node that is to use it
//! /mnt/backup/PROCESS/…                               as `sterna-snapshot` says
//! node start --store backup=s3://BUCKET/PREFIX        the same in a bucket; also az://…, gs://…
//! ```
//!
//! A schedule goes with a process from node to node, and says a name, never a place: a node opens what its own operator
//! named when it was started, and nothing because somebody on the network says so. Whoever can write there can make
//! snapshots disappear, but none that is taken for one: each has its owner's mark.
//!
//! - `bucket`: folders in a bucket; `provider`: who has it
//! - `http`: how that is asked

mod bucket;
mod http;
mod provider;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::{env, fmt, fs, io};

use sterna_process::ProcessId;
use sterna_snapshot::{Folder, Shelf, ShelfError, is_name};

use crate::message::Failure;
use bucket::{Bucket, BucketAt};
use provider::Variables;

const FILE: &str = "file://";

/// A store, as an operator names it: `NAME=URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreAt {
    name: String,
    at: At,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Directory(PathBuf),
    Bucket(BucketAt),
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
    #[error(
        "{url:?} cannot be a store: write file:///DIRECTORY or s3://BUCKET/PREFIX, with az:// for Azure, gs:// for Google"
    )]
    Url {
        /// The URL.
        url: String,
    },
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStoreError {
    /// The directory is not there, or not for this user.
    #[error("could not read the directory")]
    Directory(#[from] io::Error),
    /// A bucket needs to know something that the environment does not say.
    #[error("{variable} is not set: a node takes it from the environment in which it is started")]
    Unset {
        /// What is missing.
        variable: &'static str,
    },
    /// What is kept would be open to all on the way.
    #[error(
        "{variable} is without TLS: set {permission}=true if nobody else can listen on the way"
    )]
    Plain {
        /// What names the server.
        variable: &'static str,
        /// What would allow it.
        permission: &'static str,
    },
    /// It is not known where a bucket is.
    #[error("{variable} is not of the form https://HOST[:PORT]")]
    Endpoint {
        /// What is to name the server.
        variable: &'static str,
    },
    /// Nobody could be trusted.
    #[error(
        "found no CA certificates: install ca-certificates, or name a file with some in SSL_CERT_FILE"
    )]
    Certificates(#[source] io::Error),
    /// What the environment says cannot be used.
    #[error("a variable {variables} in the node's environment has a value that cannot be used")]
    Environment {
        /// How their names begin.
        variables: &'static str,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreAt {
    /// How processes call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is, if that is on this machine.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match &self.at {
            At::Directory(path) => Some(path),
            At::Bucket(_) => None,
        }
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
        let plain = !url.contains(['%', '?', '#']);
        let directory = url.strip_prefix(FILE).filter(|path| path.starts_with('/'));
        let at = match directory {
            Some(path) => Some(At::Directory(path.into())),
            None => BucketAt::parse(url).map(At::Bucket),
        };
        match at.filter(|_| plain) {
            Some(at) => Ok(Self {
                name: name.to_owned(),
                at,
            }),
            None => Err(ParseStoreError::Url {
                url: url.to_owned(),
            }),
        }
    }
}

impl fmt::Display for StoreAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.name)?;
        match &self.at {
            At::Directory(path) => write!(f, "{FILE}{}", path.display()),
            At::Bucket(bucket) => write!(f, "{bucket}"),
        }
    }
}

/// Where the folders of processes are.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Directory(PathBuf),
    Bucket(Arc<Bucket>),
}

/// What is asked of a place waits for it: to be used where blocking does no harm.
impl Place {
    pub(super) fn folder(&self, process: ProcessId) -> Box<dyn Shelf + Send> {
        match self {
            Self::Directory(path) => Box::new(Folder::at(path.join(process.to_string()))),
            Self::Bucket(bucket) => Box::new(bucket.folder(process)),
        }
    }

    /// Whose folders there are.
    pub(super) fn processes(&self) -> Result<Vec<ProcessId>, ShelfError> {
        let names = match self {
            Self::Directory(path) => directories(path)?,
            Self::Bucket(bucket) => bucket.folders()?,
        };
        let ids = names.iter().filter_map(|name| name.parse().ok());
        Ok(ids.collect())
    }

    /// Removes a folder with all that is in it, if it is there.
    pub(super) fn clear(&self, process: ProcessId) -> Result<(), ShelfError> {
        let path = match self {
            Self::Directory(path) => path.join(process.to_string()),
            Self::Bucket(bucket) => return bucket.folder(process).clear(),
        };
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("could not remove", &path, error))
            }
            _ => Ok(()),
        }
    }
}

fn directories(path: &Path) -> Result<Vec<String>, ShelfError> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed("could not list", path, error))?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.collect())
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> ShelfError {
    ShelfError::File {
        doing,
        name: path.display().to_string(),
        source,
    }
}

/// Those of a node, by name.
#[derive(Debug, Default)]
pub(crate) struct Stores(BTreeMap<String, Place>);

impl Stores {
    /// Looks whether directories are there, and makes ready what is needed to reach buckets. To be called before the node
    /// gives up the machine's files.
    pub(crate) fn open(stores: &[StoreAt]) -> Result<Self, (StoreAt, OpenStoreError)> {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let variables: Variables = env::vars_os().filter_map(text).collect();
        let open = |store: &StoreAt| {
            let place = match &store.at {
                At::Directory(path) => fs::read_dir(path)
                    .map(|_| Place::Directory(path.clone()))
                    .map_err(OpenStoreError::Directory),
                At::Bucket(at) => {
                    Bucket::open(at, &variables).map(|bucket| Place::Bucket(bucket.into()))
                }
            };
            match place {
                Ok(place) => Ok((store.name.clone(), place)),
                Err(error) => Err((store.clone(), error)),
            }
        };
        stores.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// The store of this name.
    pub(super) fn named(&self, store: &str) -> Result<&Place, Failure> {
        self.0.get(store).ok_or_else(|| {
            Failure::refused(format!(
                "this node has no store {store:?}: start it with `--store {store}=URL`, the URL that the other nodes \
                 have for it"
            ))
        })
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Place> {
        self.0.values()
    }
}
