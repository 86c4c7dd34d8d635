//! How snapshots of processes are kept: `keeping/ID`, written by the owner, read by all members.
//!
//! It stays when the process is lost or frozen, for whoever goes on with it, and goes with what else is known of it.

use sterna_migration::{Life, NodeId};
use sterna_process::ProcessId;

use super::processes::{change, key, process_of};
use super::{Registry, TRIES_MAX, contended};
use crate::limits::KEEPING_BYTES_MAX;
use crate::message::{Failure, FailureKind, KeepingsOf, Reply};
use crate::store::Store;

pub(super) const KEEPINGS: &[u8] = b"keeping/";

impl<S: Store> Registry<S> {
    pub(super) async fn set_keeping(
        &self,
        by: NodeId,
        process: ProcessId,
        bytes: Vec<u8>,
    ) -> Result<Reply, Failure> {
        if bytes.len() > KEEPING_BYTES_MAX {
            return Err(Failure::refused(format!(
                "{} bytes about snapshots, {KEEPING_BYTES_MAX} are allowed",
                bytes.len()
            )));
        }
        for _ in 0..TRIES_MAX {
            let record = match self.stored(process).await? {
                Some((_, stored)) => stored.decoded()?,
                None => return Err(Failure::new(FailureKind::NotHere, "no such process")),
            };
            if record.owner != by || record.life != Life::Alive {
                return Err(Failure::new(
                    FailureKind::Forbidden,
                    "only a process's owner says how its snapshots are kept, while it lives",
                ));
            }
            let key = key(KEEPINGS, process);
            let before = self.store.get(&key).await?.map(|entry| entry.revision);
            let changes = vec![change(key, before, Some(bytes.clone()))];
            if self.store.swap_all(changes).await?.is_some() {
                return Ok(Reply::Done);
            }
        }
        Err(contended())
    }

    pub(super) async fn keepings(&self, of: KeepingsOf) -> Result<Reply, Failure> {
        if let KeepingsOf::Process(process) = of {
            let found = self.store.get(&key(KEEPINGS, process)).await?;
            let found = found.map(|entry| (process, entry.value));
            return Ok(Reply::Keepings(found.into_iter().collect()));
        }
        let mut keepings = Vec::new();
        for (key, entry) in self.store.list(KEEPINGS).await?.entries {
            let process = process_of(KEEPINGS, &key)?;
            let wanted = match of {
                KeepingsOf::Node(node) => match self.stored(process).await? {
                    Some((_, stored)) => {
                        let record = stored.decoded()?;
                        record.owner == node && record.life == Life::Alive
                    }
                    None => false,
                },
                KeepingsOf::All | KeepingsOf::Process(_) => true,
            };
            if wanted {
                keepings.push((process, entry.value));
            }
        }
        Ok(Reply::Keepings(keepings))
    }
}
