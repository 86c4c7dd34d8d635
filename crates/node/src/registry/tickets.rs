//! Tickets: what is kept of their secrets, and who has used them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sterna_migration::NodeId;

use super::nodes::{NodeRecord, check, node_key, removed};
use super::{Registry, TRIES_MAX, contended, read, write};
use crate::limits::{TICKET_VALID_MAX, TICKETS_MAX};
use crate::message::{Candidate, Failure, FailureKind, Reply};
use crate::store::{Change, Store, Swapped};
use crate::ticket::Seal;

pub(super) const TICKETS: &[u8] = b"ticket/";
/// For how long a ticket that is used or expired is remembered, so that whoever shows it hears what it is.
const TICKET_REMEMBERED: Duration = Duration::from_secs(86_400);

#[derive(Debug, Serialize, Deserialize)]
struct TicketRecord {
    expires_ms: u64,
    used_by: Option<NodeId>,
}

impl<S: Store> Registry<S> {
    pub(super) async fn add_ticket(&self, seal: Seal, valid_ms: u64) -> Result<Reply, Failure> {
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

    pub(super) async fn admit(
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
}

fn ticket_key(Seal(seal): Seal) -> Vec<u8> {
    [TICKETS, &seal].concat()
}
