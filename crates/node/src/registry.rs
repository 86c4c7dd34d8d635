//! What nodes agree on, as records in a [`Store`]: members, tickets, and who owns a process.
//!
//! Each request comes with the node that makes it, and a record is changed only by whom it belongs to: a node's
//! own entry by that node, a process's record by the rules of [`Swap::judge`]. Inviting and removing nodes is
//! open to every member.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sterna_migration::{NodeId, Record, Swap, Verdict};
use sterna_process::ProcessId;
use tokio::time::timeout;

use crate::identity;
use crate::limits::{MEMBERS_MAX, NAME_BYTES_MAX, TICKET_VALID_MAX, TICKETS_MAX, WATCH_WITHIN};
use crate::message::{
    Candidate, Failure, FailureKind, Member, RegistryRequest, Reply, Roster, SwapBytes,
};
use crate::store::{Change, Store, StoreError, Swapped};
use crate::ticket::Seal;

const NODES: &[u8] = b"node/";
const TICKETS: &[u8] = b"ticket/";
const PROCESSES: &[u8] = b"process/";
/// Version of what is stored of nodes and tickets, its first byte. Processes' records have their own.
const VERSION: u8 = 1;
/// For how long a ticket that is used or expired is remembered, so that whoever shows it hears what it is.
const TICKET_REMEMBERED: Duration = Duration::from_secs(86_400);
/// How often a change is tried that others come before with.
const TRIES_MAX: usize = 64;

#[derive(Debug, Serialize, Deserialize)]
enum NodeRecord {
    Member(Member),
    Removed,
}

#[derive(Debug, Serialize, Deserialize)]
struct TicketRecord {
    expires_ms: u64,
    used_by: Option<NodeId>,
}

/// The registry of a cluster, where it is served.
pub struct Registry<S> {
    store: S,
    home: NodeId,
}

impl<S: Store> Registry<S> {
    /// The registry that `home` serves out of a store.
    pub const fn new(store: S, home: NodeId) -> Self {
        Self { store, home }
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
        match request {
            RegistryRequest::Roster { after } => self.roster(after).await.map(Reply::Roster),
            RegistryRequest::AddTicket { seal, valid_ms } => self.add_ticket(seal, valid_ms).await,
            RegistryRequest::Admit {
                seal,
                node,
                candidate,
            } => self.admit(seal, node, candidate).await,
            RegistryRequest::Announce(about) => {
                check(&about)?;
                self.enter(by, about).await.map(|()| Reply::Done)
            }
            RegistryRequest::Remove { node } => self.remove(node).await,
            RegistryRequest::Record { process } => {
                let found = self.store.get(&process_key(process)).await?;
                Ok(Reply::Record(found.map(|entry| entry.value)))
            }
            RegistryRequest::CreateRecord { process } => self.create_record(by, process).await,
            RegistryRequest::SwapRecord(swap) => self.swap_record(by, &swap).await,
        }
    }

    /// All nodes, as soon as there is a newer list than `after`, or after a while.
    async fn roster(&self, after: u64) -> Result<Roster, Failure> {
        if after > 0 {
            let changed = timeout(WATCH_WITHIN, self.store.changed(NODES, after)).await;
            changed.unwrap_or(Ok(()))?;
        }
        let listing = self.store.list(NODES).await?;
        let mut roster = Roster {
            revision: listing.revision,
            home: Some(self.home),
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

    async fn add_ticket(&self, seal: Seal, valid_ms: u64) -> Result<Reply, Failure> {
        let valid = Duration::from_millis(valid_ms);
        if valid.is_zero() || valid > TICKET_VALID_MAX {
            let days = TICKET_VALID_MAX.as_secs() / 86_400;
            return Err(Failure::refused(format!(
                "a ticket is valid for more than nothing and at most {days} days"
            )));
        }
        let expires_ms = self.store.now_ms().saturating_add(valid_ms);
        let known = self.store.list(TICKETS).await?;
        if known.entries.len() >= TICKETS_MAX {
            return Err(Failure::new(
                FailureKind::Busy,
                format!("there are {TICKETS_MAX} tickets already: wait until some are forgotten"),
            ));
        }
        let lease = self.store.lease(valid + TICKET_REMEMBERED).await?;
        let change = Change {
            key: ticket_key(seal),
            expected: None,
            value: Some(write(&TicketRecord {
                expires_ms,
                used_by: None,
            })),
            lease: Some(lease),
        };
        // One that is there already is this one, whose first answer was lost: secrets are not drawn twice.
        self.store.swap(change).await?;
        Ok(Reply::Done)
    }

    async fn admit(
        &self,
        seal: Seal,
        node: NodeId,
        candidate: Candidate,
    ) -> Result<Reply, Failure> {
        check(&candidate)?;
        if let Some(entry) = self.store.get(&node_key(node)).await?
            && let NodeRecord::Removed = read(&entry.value)?
        {
            return Err(removed(node));
        }
        self.use_ticket(seal, node).await?;
        self.enter(node, candidate).await?;
        self.roster(0).await.map(Reply::Roster)
    }

    /// Uses a ticket up. The node that has used it may do so again, in case it did not hear the answer.
    async fn use_ticket(&self, seal: Seal, node: NodeId) -> Result<(), Failure> {
        let wrong = |message: String| Failure::new(FailureKind::Ticket, message);
        for _ in 0..TRIES_MAX {
            let Some(entry) = self.store.get(&ticket_key(seal)).await? else {
                return Err(wrong(
                    "this cluster does not know the ticket: ask for a new one".into(),
                ));
            };
            let ticket: TicketRecord = read(&entry.value)?;
            match ticket.used_by {
                Some(user) if user == node => return Ok(()),
                Some(user) => {
                    return Err(wrong(format!(
                        "the ticket was used already, by node {user}: ask for a new one, and if that is no node of \
                         yours, remove it with `sterna nodes rm {user}`"
                    )));
                }
                None if ticket.expires_ms <= self.store.now_ms() => {
                    return Err(wrong("the ticket has expired: ask for a new one".into()));
                }
                None => {}
            }
            let lease = self.store.lease(TICKET_REMEMBERED).await?;
            let change = Change {
                key: ticket_key(seal),
                expected: Some(entry.revision),
                value: Some(write(&TicketRecord {
                    used_by: Some(node),
                    ..ticket
                })),
                lease: Some(lease),
            };
            if let Swapped::Done(_) = self.store.swap(change).await? {
                return Ok(());
            }
        }
        Err(contended())
    }

    /// Writes a node's entry, with a name that no other has.
    async fn enter(&self, id: NodeId, about: Candidate) -> Result<(), Failure> {
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

    async fn remove(&self, node: NodeId) -> Result<Reply, Failure> {
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
            if let NodeRecord::Removed = read(&entry.value)? {
                return Ok(Reply::Done);
            }
            let change = Change {
                key: node_key(node),
                expected: Some(entry.revision),
                value: Some(write(&NodeRecord::Removed)),
                lease: None,
            };
            if let Swapped::Done(_) = self.store.swap(change).await? {
                return Ok(Reply::Done);
            }
        }
        Err(contended())
    }

    async fn create_record(&self, by: NodeId, process: ProcessId) -> Result<Reply, Failure> {
        let first = encode_record(&Record::first(by))?;
        let change = Change {
            key: process_key(process),
            expected: None,
            value: Some(first.clone()),
            lease: None,
        };
        let now = match self.store.swap(change).await? {
            Swapped::Done(_) => Some(first),
            Swapped::Other(entry) => entry.map(|entry| entry.value),
        };
        Ok(Reply::Record(now))
    }

    /// Carries out a swap; the answer is the record as it is afterwards.
    async fn swap_record(&self, by: NodeId, bytes: &SwapBytes) -> Result<Reply, Failure> {
        let swap = Swap {
            process: bytes.process,
            expected: decode_record(&bytes.expected)?,
            new: decode_record(&bytes.new)?,
            grant: bytes.grant,
        };
        for _ in 0..TRIES_MAX {
            let key = process_key(swap.process);
            let Some(entry) = self.store.get(&key).await? else {
                return Ok(Reply::Record(None));
            };
            let current = Record::decode(&entry.value).map_err(|_| damaged())?;
            let verdict = swap
                .judge(&current, by)
                .map_err(|error| Failure::new(FailureKind::Forbidden, error))?;
            if verdict == Verdict::Keep {
                return Ok(Reply::Record(Some(entry.value)));
            }
            let new = encode_record(&swap.new)?;
            let change = Change {
                key,
                expected: Some(entry.revision),
                value: Some(new.clone()),
                lease: None,
            };
            if let Swapped::Done(_) = self.store.swap(change).await? {
                return Ok(Reply::Record(Some(new)));
            }
        }
        Err(contended())
    }
}

fn node_key(id: NodeId) -> Vec<u8> {
    [NODES, id.as_bytes()].concat()
}

fn ticket_key(Seal(seal): Seal) -> Vec<u8> {
    [TICKETS, &seal].concat()
}

fn process_key(process: ProcessId) -> Vec<u8> {
    [PROCESSES, process.as_bytes()].concat()
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

fn encode_record(record: &Record) -> Result<Vec<u8>, Failure> {
    record.encode().map_err(Failure::refused)
}

fn decode_record(bytes: &[u8]) -> Result<Record, Failure> {
    Record::decode(bytes).map_err(Failure::refused)
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

fn check(candidate: &Candidate) -> Result<(), Failure> {
    match candidate.is_plain() {
        true => Ok(()),
        false => Err(Failure::refused(
            "what the node says of itself (name, addresses, version) is too long, empty, or not plain text",
        )),
    }
}

fn removed(id: NodeId) -> Failure {
    Failure::new(
        FailureKind::Removed,
        format!(
            "node {id} was removed from this cluster; to come back it has to be a new node: \
             start it with another data directory, and join again"
        ),
    )
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
        Self::new(FailureKind::Internal, message)
    }
}
