//! A registry in a file of its own: [`Backup`].
//!
//! ```text
//! │ "STREGBAK" │ version u32 │ BLAKE3 of the body, 32 bytes │ body: Backup, in postcard │
//! ```
//!
//! It has members, processes and names. Tickets are left out: one that was used after the backup would be good
//! again.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sterna_migration::{Life, NodeId};

use super::moving::HANDOVERS;
use super::nodes::{NODES, NodeRecord, node_key};
use super::processes::{RECORDS, Stored};
use super::recovery::{RECOVERY, Recovery};
use super::tickets::TICKETS;
use super::{Registry, read, write};
use crate::message::Failure;
use crate::store::{Dump, Embedded, Store, StoreError};

const MAGIC: &[u8; 8] = b"STREGBAK";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 8 + 4 + 32;
/// Longest backup that is read, in bytes.
pub const BACKUP_BYTES_MAX: u64 = 1 << 30;

/// Why a backup was not made, or cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The system refused.
    #[error("could not {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is not a backup of a registry", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It is of another version.
    #[error("the backup {} is of version {found}, this program reads version {VERSION}: use the newer sterna that made it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It was cut or changed.
    #[error("the backup {} is damaged, and nothing was changed: take another one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It is of a cluster to which this node does not belong.
    #[error("the backup is of a cluster to which node {} does not belong", crate::identity::text(*node))]
    OtherCluster {
        /// The node that serves the registry.
        node: NodeId,
    },
    /// The registry failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in the registry, or in the backup, is not understood.
    #[error(transparent)]
    Records(#[from] Failure),
}

/// All that is put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// When it was made, in milliseconds since 1970.
    pub made_ms: u64,
    /// The registry's revision then.
    pub revision: u64,
    /// Keys and values, in the order of keys.
    entries: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Backup {
    /// Writes it into a file that is empty, and onto the disk. `path`: what the file is called.
    ///
    /// # Errors
    /// The system refused.
    pub fn write(&self, path: &Path, mut file: &File) -> Result<(), BackupError> {
        let body = postcard::to_stdvec(self).expect("a backup can be written");
        [
            &MAGIC[..],
            &VERSION.to_le_bytes(),
            blake3::hash(&body).as_bytes(),
            &body,
        ]
        .into_iter()
        .try_for_each(|part| file.write_all(part))
        .and_then(|()| file.sync_all())
        .map_err(failed("write", path))
    }

    /// Reads one, and looks at all of it.
    ///
    /// # Errors
    /// It cannot be read, is damaged, newer, or something else.
    pub fn load(path: &Path) -> Result<Self, BackupError> {
        let file = File::open(path).map_err(failed("read", path))?;
        Self::read(path, &file)
    }

    /// The same from an open file. `path`: what the file is called.
    ///
    /// # Errors
    /// As [`Backup::load`].
    pub fn read(path: &Path, file: &File) -> Result<Self, BackupError> {
        let failed = failed("read", path);
        let mut bytes = Vec::new();
        file.take(BACKUP_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let path = path.to_owned();
        let Some((head, body)) = bytes.split_at_checked(HEAD_BYTES) else {
            return Err(match bytes.starts_with(MAGIC) {
                true => BackupError::Damaged { path },
                false => BackupError::Foreign { path },
            });
        };
        if !head.starts_with(MAGIC) {
            return Err(BackupError::Foreign { path });
        }
        let found = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
        if found != VERSION {
            return Err(BackupError::Newer { path, found });
        }
        let whole = blake3::hash(body).as_bytes() == &head[12..];
        let backup = whole.then(|| postcard::from_bytes(body).ok()).flatten();
        backup.ok_or(BackupError::Damaged { path })
    }

    /// The processes and nodes in it: how many entries begin so.
    fn starts(&self, prefix: &[u8]) -> impl Iterator<Item = &(Vec<u8>, Vec<u8>)> {
        let all = self.entries.iter();
        let prefix = prefix.to_vec();
        all.filter(move |(key, _)| key.starts_with(&prefix))
    }

    /// How many processes it knows.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.starts(RECORDS).count()
    }
}

/// Has a new file written that only its owner can read, which gets its name when it is whole. The file is opened here, by
/// whose it is to be, and `write` hands it to the node.
///
/// # Errors
/// The system refused, or `write` failed.
pub fn new_file<E: From<BackupError>>(
    path: &Path,
    write: impl FnOnce(&File) -> Result<(), E>,
) -> Result<(), E> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed("make", &temporary))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let written = write(&file).and_then(|()| {
        let named = std::fs::rename(&temporary, path)
            .and_then(|()| File::open(parent)?.sync_all())
            .map_err(failed("write", path));
        Ok(named?)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::Io {
        what,
        path: path.clone(),
        source,
    }
}

impl<S: Store> Registry<S> {
    /// A consistent copy.
    ///
    /// # Errors
    /// The store failed.
    pub async fn backup(&self) -> Result<Backup, StoreError> {
        let all = self.store.list(b"").await?;
        let kept = all.entries.into_iter();
        let kept = kept.filter(|(key, _)| !key.starts_with(TICKETS) && key != RECOVERY);
        Ok(Backup {
            made_ms: self.store.now_ms(),
            revision: all.revision,
            entries: kept.map(|(key, entry)| (key, entry.value)).collect(),
        })
    }

    /// Puts a backup in the place of what is here, and opens a recovery. Who was removed or admitted since the
    /// backup stays so.
    ///
    /// # Errors
    /// It is of another cluster, or the store failed. Nothing was changed then.
    pub async fn restore(&self, embedded: &Embedded, backup: Backup) -> Result<(), BackupError> {
        let own = backup.starts(&node_key(self.home)).next();
        let member = match own {
            Some((_, value)) => matches!(read(value)?, NodeRecord::Member(_)),
            None => false,
        };
        if !member {
            return Err(BackupError::OtherCluster { node: self.home });
        }
        // Who belongs to the cluster, and how the registry came here, is known better now.
        let mut nodes = self.store.list(NODES).await?;
        let route = self.store.list(HANDOVERS).await?;
        nodes.entries.extend(route.entries);
        let number = self.store.now_ms().max(1);
        let mut entries: std::collections::BTreeMap<_, _> = backup.entries.into_iter().collect();
        for (key, entry) in nodes.entries {
            entries.insert(key, entry.value);
        }
        for (key, value) in &mut entries {
            if key.starts_with(RECORDS) {
                let mut stored = Stored::read(value)?;
                // What has ended stays so: no epoch follows.
                stored.restored = stored.decoded()?.life != Life::Ended;
                *value = stored.write();
            }
        }
        let recovery = Recovery {
            number,
            heard: Vec::new(),
        };
        entries.insert(RECOVERY.to_vec(), write(&recovery));
        let entries = entries.into_iter().map(|(key, value)| (key, value, None));
        let dump = Dump {
            revision: backup.revision,
            entries: entries.collect(),
        };
        embedded.replace(dump).await?;
        self.forget_chores();
        Ok(())
    }
}
