//! The nodes of a cluster: who is a member, and under which name.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sterna_migration::NodeId;
use tokio::time::timeout;

use super::{Registry, TRIES_MAX, contended, damaged, read, write};
use crate::identity;
use crate::limits::{MEMBERS_MAX, NAME_BYTES_MAX, WATCH_WITHIN};
use crate::message::{Candidate, Failure, FailureKind, Member, Reply, Roster};
use crate::store::{Change, Store, Swapped};

pub(super) const NODES: &[u8] = b"node/";

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum NodeRecord {
    Member(Member),
    Removed,
}

impl<S: Store> Registry<S> {
    /// All nodes, as soon as there is a newer list than `after`, or after a while.
    pub(super) async fn roster(&self, after: u64) -> Result<Roster, Failure> {
        if after > 0 {
            let changed = timeout(WATCH_WITHIN, self.store.changed(NODES, after)).await;
            changed.unwrap_or(Ok(()))?;
        }
        let listing = self.store.list(NODES).await?;
        let mut roster = Roster {
            revision: listing.revision,
            home: Some(self.home),
            recovery: self.recovery().await?.map(|(_, recovery)| recovery.number),
            registry: self.store.address(),
            handovers: self.handovers().await?,
            ..Roster::default()
        };
        for (key, entry) in listing.entries {
            match read(&entry.value)? {
                NodeRecord::Member(member) => roster.members.push(member),
                NodeRecord::Removed => {
                    let id = key[NODES.len()..].try_into();
                    roster
                        .removed
                        .push(NodeId::from_bytes(id.map_err(|_| damaged())?));
                }
            }
        }
        Ok(roster)
    }

    /// Writes a node's entry, with a name that no other has.
    pub(super) async fn enter(&self, id: NodeId, about: Candidate) -> Result<(), Failure> {
        for _ in 0..TRIES_MAX {
            let found = self.store.get(&node_key(id)).await?;
            let known = match &found {
                Some(entry) => match read(&entry.value)? {
                    NodeRecord::Member(member) => Some(member),
                    NodeRecord::Removed => return Err(removed(id)),
                },
                None => None,
            };
            let roster = self.roster(0).await?;
            let others = roster.members.iter().filter(|member| member.id != id);
            let taken: BTreeSet<&str> = others.map(|member| &*member.about.name).collect();
            if known.is_none() && roster.members.len() + roster.removed.len() >= MEMBERS_MAX {
                let message = format!("a cluster has at most {MEMBERS_MAX} nodes");
                return Err(Failure::refused(message));
            }
            let member = Member {
                id,
                joined_ms: known
                    .as_ref()
                    .map_or_else(|| self.store.now_ms(), |known| known.joined_ms),
                about: Candidate {
                    name: free_name(&about.name, &taken),
                    ..about.clone()
                },
            };
            if known.as_ref() == Some(&member) {
                return Ok(());
            }
            let change = Change {
                key: node_key(id),
                expected: found.map(|entry| entry.revision),
                value: Some(write(&NodeRecord::Member(member))),
                lease: None,
            };
            if let Swapped::Done(_) = self.store.swap(change).await? {
                return Ok(());
            }
        }
        Err(contended())
    }

    /// Never lets a node in again, and gives up the processes that it owns: they are lost, and others may go on with their
    /// snapshots. That node has no word in it any more; if it lives, it sees the records and lets go.
    pub(super) async fn remove(&self, node: NodeId) -> Result<Reply, Failure> {
        if node == self.home {
            return Err(Failure::refused(
                "this node serves the registry to the others and cannot be removed",
            ));
        }
        for _ in 0..TRIES_MAX {
            let Some(entry) = self.store.get(&node_key(node)).await? else {
                let message = format!("no node {} here", identity::text(node));
                return Err(Failure::refused(message));
            };
            if let NodeRecord::Member(_) = read(&entry.value)? {
                let change = Change {
                    key: node_key(node),
                    expected: Some(entry.revision),
                    value: Some(write(&NodeRecord::Removed)),
                    lease: None,
                };
                if let Swapped::Other(_) = self.store.swap(change).await? {
                    continue;
                }
            }
            // Also if it was removed before: whoever did that may have died in the middle. It need not be waited for any more.
            self.close_recovery().await?;
            self.give_up_all_of(node).await?;
            return Ok(Reply::Done);
        }
        Err(contended())
    }

    async fn give_up_all_of(&self, node: NodeId) -> Result<(), Failure> {
        let mut after = None;
        loop {
            let page = self.processes_of(node, after).await?;
            for (process, _) in page.records {
                self.give_up(process, node).await?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}

pub(super) fn node_key(id: NodeId) -> Vec<u8> {
    [NODES, id.as_bytes()].concat()
}

/// The name that was asked for, or the first free one like it.
fn free_name(wanted: &str, taken: &BTreeSet<&str>) -> String {
    let numbered = (2..).map(|number| {
        let suffix = format!("-{number}");
        let room = NAME_BYTES_MAX - suffix.len();
        let end = (0..=room.min(wanted.len()))
            .rev()
            .find(|end| wanted.is_char_boundary(*end));
        format!("{}{suffix}", &wanted[..end.unwrap_or(0)])
    });
    std::iter::once(wanted.to_owned())
        .chain(numbered)
        .find(|name| !taken.contains(name.as_str()))
        .expect("there are more numbers than nodes")
}

pub(super) fn check(candidate: &Candidate) -> Result<(), Failure> {
    match candidate.is_plain() {
        true => Ok(()),
        false => Err(Failure::refused(
            "what the node says of itself (name, addresses, version) is too long, empty, or not plain text",
        )),
    }
}

pub(super) fn removed(id: NodeId) -> Failure {
    Failure::new(
        FailureKind::Removed,
        format!(
            "node {id} was removed from this cluster; to come back it has to be a new node: \
             start it with another data directory, and join again"
        ),
    )
}
