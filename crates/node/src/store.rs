//! What a registry must be able to do: [`Store`], keys and values with compare-and-swap, leases and watches.
//!
//! Whatever changes, changes by [`Store::swap`] or [`Store::swap_all`], in one step, and gets a revision that is greater than all before.
//! [`Embedded`] is one file on one node; [`Etcd`] is an etcd that all nodes ask; [`AnyStore`] is either.

mod any;
mod embedded;
mod etcd;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::message::StoreStatus;
use serde::{Deserialize, Serialize};

pub use any::AnyStore;
pub use embedded::{Embedded, Figures};
pub use etcd::{Etcd, EtcdAddress, EtcdError, Login, ParseAddressError};

/// Entries that can be changed in one step.
pub const CHANGES_MAX: usize = 16;

/// Why a store did not answer, or could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Its file cannot be used.
    #[error("could not use the registry {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// Its file is something else, or was damaged.
    #[error("the registry {} is damaged: put a backup in its place (`sterna registry restore`); without one, remove it, and let \
             the other nodes join again with new data directories", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        source: Option<Box<redb::Error>>,
    },
    /// Its file is of another version.
    #[error("the registry {} is of format {found}, this is a program for format {}: \
             use the version of sterna that made it", path.display(), embedded::FORMAT)]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// A read or write failed.
    #[error(
        "the registry could not be read or written; where its disk is full, free some room, and it goes on"
    )]
    Failed(#[source] Arc<redb::Error>),
    /// The library that reads the file gave up.
    #[error(
        "the registry could not be read or written, and may be damaged: start the node again, then it is checked"
    )]
    Broken,
    /// It is in an etcd, which did not do it.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The program is ending.
    #[error("the registry is closed")]
    Closed,
}

/// A value, and the revision at which it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub revision: u64,
    /// What.
    pub value: Vec<u8>,
}

/// All entries below a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The newest revision of the whole store.
    pub revision: u64,
    /// Keys with their entries, in the order of keys.
    pub entries: Vec<(Vec<u8>, Entry)>,
}

/// A compare-and-swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which entry.
    pub key: Vec<u8>,
    /// The revision that it must have; `None` if there must be none.
    pub expected: Option<u64>,
    /// What it becomes; `None` removes it.
    pub value: Option<Vec<u8>>,
    /// With whose end it vanishes.
    pub lease: Option<LeaseId>,
}

/// What came of a [`Change`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swapped {
    /// It was made, at this revision.
    Done(u64),
    /// The entry is something else: this.
    Other(Option<Entry>),
}

/// Everything that a store has, to be put into another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// The store's revision. What it is put into goes on after the greater of the two.
    pub revision: u64,
    /// Keys and values, and in how many milliseconds those vanish that are leased.
    pub entries: Vec<(Vec<u8>, Vec<u8>, Option<u64>)>,
}

/// A lease. What is written under it vanishes when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseId(u64);

/// Keys and values that several nodes agree on.
pub trait Store: Send + Sync + 'static {
    /// The entry of a key.
    fn get(&self, key: &[u8]) -> impl Future<Output = Result<Option<Entry>, StoreError>> + Send;

    /// All entries whose keys begin so.
    fn list(&self, prefix: &[u8]) -> impl Future<Output = Result<Listing, StoreError>> + Send;

    /// The same in pieces: at most so many entries, whose keys begin with `prefix` and come after `after`, in the
    /// order of keys.
    fn page(
        &self,
        prefix: &[u8],
        after: &[u8],
        entries_max: usize,
    ) -> impl Future<Output = Result<Listing, StoreError>> + Send;

    /// Changes an entry if it is as expected, and is safe on disk when it answers.
    fn swap(&self, change: Change) -> impl Future<Output = Result<Swapped, StoreError>> + Send;

    /// A lease that ends after so long, unless it is renewed.
    fn lease(&self, valid: Duration) -> impl Future<Output = Result<LeaseId, StoreError>> + Send;

    /// Lets a lease begin again. False if it has ended.
    fn renew(&self, lease: LeaseId) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Makes all changes, of different entries, if all entries are as expected; else none. Gives the revision of
    /// all of them, `None` if nothing was changed. At most [`CHANGES_MAX`] at once.
    fn swap_all(
        &self,
        changes: Vec<Change>,
    ) -> impl Future<Output = Result<Option<u64>, StoreError>> + Send;

    /// Returns when something below a prefix may have changed since a revision. The end of a lease is not told.
    fn changed(
        &self,
        prefix: &[u8],
        after: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// How it is.
    fn status(&self) -> StoreStatus;

    /// Where nodes can ask it themselves, if they can.
    fn address(&self) -> Option<String>;

    /// The clock by which leases end, in milliseconds since 1970.
    fn now_ms(&self) -> u64;
}
