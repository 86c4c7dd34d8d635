//! [`AnyStore`]: whichever store a cluster has chosen.

use std::time::Duration;

use crate::message::StoreStatus;

use super::{Change, Embedded, Entry, Etcd, LeaseId, Listing, Store, StoreError, Swapped};

/// One of the stores.
#[derive(Clone)]
pub enum AnyStore {
    /// A file of this node.
    Embedded(Embedded),
    /// An etcd.
    Etcd(Etcd),
}

macro_rules! either {
    ($store:expr, $of:ident => $do:expr) => {
        match $store {
            AnyStore::Embedded($of) => $do,
            AnyStore::Etcd($of) => $do,
        }
    };
}

impl Store for AnyStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        either!(self, store => store.get(key).await)
    }

    async fn list(&self, prefix: &[u8]) -> Result<Listing, StoreError> {
        either!(self, store => store.list(prefix).await)
    }

    async fn page(
        &self,
        prefix: &[u8],
        after: &[u8],
        entries_max: usize,
    ) -> Result<Listing, StoreError> {
        either!(self, store => store.page(prefix, after, entries_max).await)
    }

    async fn swap(&self, change: Change) -> Result<Swapped, StoreError> {
        either!(self, store => store.swap(change).await)
    }

    async fn swap_all(&self, changes: Vec<Change>) -> Result<Option<u64>, StoreError> {
        either!(self, store => store.swap_all(changes).await)
    }

    async fn lease(&self, valid: Duration) -> Result<LeaseId, StoreError> {
        either!(self, store => store.lease(valid).await)
    }

    async fn renew(&self, lease: LeaseId) -> Result<bool, StoreError> {
        either!(self, store => store.renew(lease).await)
    }

    async fn changed(&self, prefix: &[u8], after: u64) -> Result<(), StoreError> {
        either!(self, store => store.changed(prefix, after).await)
    }

    fn status(&self) -> StoreStatus {
        either!(self, store => store.status())
    }

    fn address(&self) -> Option<String> {
        either!(self, store => store.address())
    }

    fn now_ms(&self) -> u64 {
        either!(self, store => store.now_ms())
    }
}
