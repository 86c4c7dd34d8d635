//! What nodes agree on, as records in a [`Store`]: members, tickets, and who owns a process.
//!
//! Each request comes with the node that makes it, and a record is changed only by whom it belongs to: a node's
//! own entry by that node, a process's record by the rules of [`Swap::judge`](sterna_migration::Swap::judge).
//! Inviting and removing nodes, and forgetting processes that run nowhere, is open to every member.
//!
//! - `nodes`, `tickets`: who belongs to the cluster, and how one gets in
//! - `processes`: records, how processes began and ended, names
//! - `backup`, `recovery`: a registry in a file, and what happens when it is put back
//! - `moving`: the registry on its way to another node
//! - `keepings`: how snapshots are kept
//! - `offline`: the same for a node that does not run
//! - `status`: how the registry is
//! - `listing`: lists of processes; how long those that have ended are remembered

mod backup;
mod keepings;
mod listing;
mod moving;
mod nodes;
mod offline;
mod processes;
mod recovery;
mod status;
mod tickets;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sterna_migration::NodeId;
use tokio::sync::RwLock;

use crate::message::{Candidate, Failure, FailureKind, RegistryRequest, Reply};
use crate::store::{EtcdError, Store, StoreError};
pub use backup::{BACKUP_BYTES_MAX, Backup, BackupError, new_file};
use listing::Chores;
pub use offline::{RestoreError, restore};
pub(crate) use processes::Deed;
pub(crate) use recovery::unsettled;

/// Version of what is stored, its first byte. Processes' records have their own.
const VERSION: u8 = 1;
/// How often a change is tried that others come before with.
const TRIES_MAX: usize = 64;

/// The registry of a cluster, where it is served.
pub struct Registry<S> {
    store: S,
    home: NodeId,
    chores: Mutex<Chores>,
    /// Held by those who change something; all of it, by who makes an end of that.
    changing: RwLock<()>,
    frozen: AtomicBool,
    /// Who has asked for the list of nodes, and when.
    followers: Mutex<BTreeMap<NodeId, u64>>,
}

impl<S: Store> Registry<S> {
    /// The registry that `home` serves out of a store.
    pub fn new(store: S, home: NodeId) -> Self {
        Self {
            store,
            home,
            chores: Mutex::default(),
            changing: RwLock::default(),
            frozen: AtomicBool::new(false),
            followers: Mutex::default(),
        }
    }

    /// What it is kept in.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// Makes sure that the home itself is a member, as it is now.
    ///
    /// # Errors
    /// The store failed.
    pub async fn found(&self, about: Candidate) -> Result<(), Failure> {
        self.enter(self.home, about).await
    }

    /// Answers a member.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn answer(&self, by: NodeId, request: RegistryRequest) -> Result<Reply, Failure> {
        let changing = match Self::changes_something(&request) {
            true => Some(self.changing.read().await),
            false => None,
        };
        if changing.is_some() && self.is_frozen() {
            return Err(Self::moving());
        }
        match request {
            RegistryRequest::Status => {
                let status = self.status().await?;
                Ok(Reply::RegistryStatus(Box::new(status)))
            }
            RegistryRequest::Roster { after } => {
                self.is_followed(by);
                self.roster(after).await.map(Reply::Roster)
            }
            RegistryRequest::AddTicket { seal, valid_ms } => self.add_ticket(seal, valid_ms).await,
            RegistryRequest::Admit {
                seal,
                node,
                candidate,
            } => self.admit(seal, node, candidate).await,
            RegistryRequest::Announce(about) => {
                nodes::check(&about)?;
                self.enter(by, about).await.map(|()| Reply::Done)
            }
            RegistryRequest::Remove { node } => self.remove(node).await,
            RegistryRequest::Record { process } => self.record(process).await,
            RegistryRequest::CreateRecord { process, info } => {
                self.create_record(by, process, *info).await
            }
            RegistryRequest::SwapRecord(swap) => self.swap_record(by, *swap).await,
            RegistryRequest::Forget { process } => self.forget(process).await,
            RegistryRequest::Process { process } => self.process(process).await,
            RegistryRequest::Named { name } => self.named(&name).await,
            RegistryRequest::Processes { ended, after } => {
                self.processes(ended, after).await.map(Reply::Processes)
            }
            RegistryRequest::ProcessesOf { node, after } => {
                self.processes_of(node, after).await.map(Reply::Records)
            }
            RegistryRequest::AnnounceProcesses {
                number,
                processes,
                last,
            } => self.announce_processes(by, number, processes, last).await,
            RegistryRequest::SetKeeping { process, bytes } => {
                self.set_keeping(by, process, bytes).await
            }
            RegistryRequest::SetExtra {
                process,
                before,
                extra,
            } => self.set_extra(by, process, (before, extra)).await,
            RegistryRequest::Keepings(of) => self.keepings(of).await,
            RegistryRequest::ProcessesChanged { after } => self.processes_changed(after).await,
        }
    }
}

fn write(record: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(postcard::to_stdvec(record).expect("records can be written"));
    bytes
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    match bytes.split_first() {
        Some((&VERSION, body)) => postcard::from_bytes(body).map_err(|_| damaged()),
        Some((version, _)) if *version > VERSION => Err(Failure::new(
            FailureKind::Internal,
            format!(
                "the registry has records of version {version}: use the newer sterna that wrote them"
            ),
        )),
        _ => Err(damaged()),
    }
}

fn contended() -> Failure {
    Failure::new(
        FailureKind::Busy,
        "too many nodes change this at once: try again",
    )
}

fn damaged() -> Failure {
    Failure::new(
        FailureKind::Internal,
        "the registry has a record that is damaged",
    )
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            message = format!("{message}: {inner}");
            source = inner.source();
        }
        let kind = match error {
            StoreError::Etcd(EtcdError::Unreachable { .. }) => FailureKind::Unreachable,
            _ => FailureKind::Internal,
        };
        Self::new(kind, message)
    }
}
