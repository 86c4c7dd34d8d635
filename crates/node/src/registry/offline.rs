//! Puts a backup back into the directory of a node that does not run.

use std::fs;
use std::path::Path;

use super::{Backup, BackupError, Registry};
use crate::data::{DataDirectory, DataError};
use crate::identity::{self, KeyError, NodeKey};
use crate::store::{AnyStore, Embedded, StoreError};
use crate::wire::now_ms;

/// Why a backup was not put back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The directory cannot be used, e.g. because its node runs: that one can be asked to do it.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The node has no key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The registry is elsewhere.
    #[error("this node does not serve the registry; it is {place}")]
    Elsewhere {
        /// Where.
        place: String,
    },
    /// There are no threads.
    #[error("could not start threads")]
    Threads(#[source] std::io::Error),
}

/// Puts a backup in the place of the registry in a node's data directory. If the registry that is there is damaged, it
/// is kept beside it as `registry.damaged`; then nodes that were removed since the backup are members again, and those
/// that have joined since are not: they have to join with new data directories.
///
/// # Errors
/// The directory or the backup cannot be used. Nothing was changed then.
pub fn restore(data: &Path, file: &Path) -> Result<(), RestoreError> {
    let backup = Backup::load(file)?;
    let data = DataDirectory::open(data)?;
    data.check_key()?;
    let id = NodeKey::load_or_make(&data.key())?.id();
    if let Some(roster) = data.cluster()? {
        let home = roster.home.filter(|home| *home != id);
        let home = home.map(|home| format!("at node {}", identity::text(home)));
        if let Some(place) = roster.registry.or(home) {
            return Err(RestoreError::Elsewhere { place });
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(RestoreError::Threads)?;
    let store = match Embedded::open(&data.registry(), now_ms) {
        Err(StoreError::Damaged { .. }) => {
            let aside = data.registry().with_extension("damaged");
            fs::rename(data.registry(), &aside).map_err(|source| BackupError::Io {
                what: "put aside",
                path: data.registry(),
                source,
            })?;
            Embedded::open(&data.registry(), now_ms)
        }
        opened => opened,
    };
    let store = store.map_err(BackupError::Store)?;
    let registry = Registry::new(AnyStore::Embedded(store.clone()), id);
    runtime.block_on(registry.restore(&store, backup))?;
    Ok(())
}
