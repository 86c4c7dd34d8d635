//! How the registry is: [`RegistryStatus`].

use std::sync::PoisonError;
use std::time::Duration;

use sterna_migration::{Life, NodeId};

use super::Registry;
use super::processes::{NAMES, RECORDS, Stored};
use super::tickets::TICKETS;
use crate::limits::WATCH_WITHIN;
use crate::message::{Failure, RegistryStatus};
use crate::store::Store;

/// Whoever has not asked for so long follows no more. It is longer than a question for changes stays open.
const FOLLOWED_WITHIN: Duration = WATCH_WITHIN.saturating_mul(2);

impl<S: Store> Registry<S> {
    /// Remembers that a node has asked for the list of nodes.
    pub(super) fn is_followed(&self, by: NodeId) {
        let mut followers = self
            .followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        followers.insert(by, self.store.now_ms());
    }

    fn followers(&self) -> Vec<NodeId> {
        let now_ms = self.store.now_ms();
        let mut followers = self
            .followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let within =
            |at_ms: &u64| u128::from(now_ms.saturating_sub(*at_ms)) < FOLLOWED_WITHIN.as_millis();
        followers.retain(|node, at_ms| *node != self.home && within(at_ms));
        followers.keys().copied().collect()
    }

    /// How it is.
    pub(super) async fn status(&self) -> Result<RegistryStatus, Failure> {
        let roster = self.roster(0).await?;
        let recovery = self.recovery().await?;
        let awaited = roster.members.iter().map(|member| member.id);
        let awaited = awaited.filter(|member| match &recovery {
            Some((_, recovery)) => !recovery.heard.contains(member),
            None => false,
        });
        let mut status = RegistryStatus {
            home: self.home,
            store: self.store.status(),
            revision: 0,
            members: roster.members.len() as u64,
            removed: roster.removed.len() as u64,
            tickets: self.store.list(TICKETS).await?.entries.len() as u64,
            alive: 0,
            ended: 0,
            lost: 0,
            frozen: 0,
            names: self.store.list(NAMES).await?.entries.len() as u64,
            followers: self.followers(),
            awaited: awaited.collect(),
        };
        let records = self.store.list(RECORDS).await?;
        status.revision = records.revision;
        for (_, entry) in records.entries {
            *match Stored::read(&entry.value)?.decoded()?.life {
                Life::Alive => &mut status.alive,
                Life::Ended => &mut status.ended,
                Life::Lost => &mut status.lost,
                Life::Frozen(_) => &mut status.frozen,
            } += 1;
        }
        Ok(status)
    }
}
