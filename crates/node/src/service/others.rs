//! Whether the other nodes answer: asked from time to time, and when somebody wants to know. One that has been silent for
//! long is hardly waited for then; that it is back is seen when it connects, or the next time that it is asked by itself.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use super::Service;
use crate::door::Authority;
use crate::identity::NodeId;
use crate::limits::{PROBE_SILENT_WITHIN, PROBE_WITHIN, SILENT_AFTER_PROBES};
use crate::message::{Confinement, Failure, Member, Nodes, Reachability, Reply, Request, Seen};
use crate::wire::now_ms;

/// Nodes that are asked at once whether they are there.
const PROBES_AT_ONCE: usize = 64;

/// How the others answered.
#[derive(Debug, Default)]
pub(super) struct Others(Mutex<HashMap<NodeId, Other>>);

#[derive(Debug, Default)]
struct Other {
    /// When it answered last, in milliseconds since 1970.
    answered_ms: Option<u64>,
    /// Questions since then.
    missed: u32,
}

impl Others {
    fn answered(&self, node: NodeId) {
        let answered = Other {
            answered_ms: Some(now_ms()),
            missed: 0,
        };
        self.lock().insert(node, answered);
    }

    /// When it answered last.
    fn missed(&self, node: NodeId) -> Option<u64> {
        let mut others = self.lock();
        let other = others.entry(node).or_default();
        other.missed = other.missed.saturating_add(1);
        other.answered_ms
    }

    /// That it has connected: it may answer, too.
    pub(super) fn appeared(&self, node: NodeId) {
        if let Some(other) = self.lock().get_mut(&node) {
            other.missed = 0;
        }
    }

    fn patience(&self, node: NodeId) -> Duration {
        let others = self.lock();
        let missed = others.get(&node).map_or(0, |other| other.missed);
        match missed >= SILENT_AFTER_PROBES {
            true => PROBE_SILENT_WITHIN,
            false => PROBE_WITHIN,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Other>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// A node has not answered in the time that it had.
    pub(crate) fn note_missed(&self, node: NodeId) {
        self.others.missed(node);
    }

    /// How long a node is waited for by somebody who wants to know of all.
    pub(crate) fn patience(&self, node: NodeId) -> Duration {
        match self.transport.has_stopped(node) {
            true => PROBE_SILENT_WITHIN,
            false => self.others.patience(node),
        }
    }

    /// All nodes, and whether they answer.
    pub(super) async fn nodes(&self) -> Nodes {
        let this = self.status();
        let mut nodes = self.probe_all(|node| self.patience(node)).await;
        self.note_drained(&mut nodes).await;
        nodes.sort_by(|one, other| {
            let key = |seen: &Seen| (seen.member.about.name.clone(), seen.member.id);
            key(one).cmp(&key(other))
        });
        Nodes { this, nodes }
    }

    /// By what memory moves at a node.
    pub(super) async fn paging(
        &self,
        authority: Authority,
        node: NodeId,
    ) -> Result<Reply, Failure> {
        if node == self.id {
            return Ok(Reply::Paging(self.runner().map(|runner| runner.paging)));
        }
        if !matches!(authority, Authority::Local { .. }) {
            return Err(Failure::refused("that is to be asked of the node itself"));
        }
        if self.is_older(node).await? {
            return Ok(Reply::Paging(None));
        }
        let request = Request::Paging { node };
        match self.transport.ask(node, &request, PROBE_WITHIN).await {
            Ok((Reply::Failed(failure), _)) => Err(failure),
            Ok((reply, _)) => Ok(reply),
            Err(error) => Err(self.silent(node, error)),
        }
    }

    /// Asks all others whether they are there, some at a time.
    pub(super) async fn probe_all(&self, within: impl Fn(NodeId) -> Duration) -> Vec<Seen> {
        let roster = self.roster();
        let mut waiting: VecDeque<Member> = roster.members.iter().cloned().collect();
        let mut seen = Vec::new();
        while !waiting.is_empty() {
            let some = waiting.drain(..waiting.len().min(PROBES_AT_ONCE));
            // Each is polled in turn on this task: the work is waiting.
            let probe = |member: Member| {
                let within = within(member.id);
                Box::pin(self.probe(member, within))
            };
            let mut probes: Vec<_> = some.map(probe).collect();
            let found = poll_fn(|context| {
                probes.retain_mut(|probe| match probe.as_mut().poll(context) {
                    Poll::Ready(found) => {
                        seen.push(found);
                        false
                    }
                    Poll::Pending => true,
                });
                match probes.is_empty() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            });
            found.await;
        }
        seen
    }

    async fn probe(&self, member: Member, within: Duration) -> Seen {
        let id = member.id;
        if id == self.id {
            return Seen {
                member,
                state: Reachability::This,
                clock_ahead_ms: Some(0),
                confinement: self.confinement(),
            };
        }
        let asked = self.transport.ask(id, &Request::Status, within);
        let asked = timeout(within, asked).await;
        if let Ok(Ok((Reply::Status(status), _))) = &asked {
            self.correct(id, status.home).await;
        }
        let (state, clock_ahead_ms, confinement) = match asked {
            Ok(Ok((reply, connected))) => {
                self.others.answered(id);
                let confinement = match reply {
                    Reply::Status(status) => status.confinement,
                    _ => Confinement::default(),
                };
                let ahead_ms = connected.clock_ahead_ms();
                (Reachability::Reachable, Some(ahead_ms), confinement)
            }
            _ => {
                let since_ms = self.others.missed(id);
                (
                    Reachability::Unknown { since_ms },
                    None,
                    Confinement::default(),
                )
            }
        };
        Seen {
            member,
            state,
            clock_ahead_ms,
            confinement,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_for_long_is_hardly_waited_for_until_it_is_back() {
        let (others, node) = (Others::default(), NodeId::from_bytes([1; 32]));
        for _ in 0..SILENT_AFTER_PROBES {
            assert_eq!(others.patience(node), PROBE_WITHIN);
            assert_eq!(others.missed(node), None);
        }
        assert_eq!(others.patience(node), PROBE_SILENT_WITHIN);
        others.appeared(node);
        assert_eq!(others.patience(node), PROBE_WITHIN);
        others.answered(node);
        for _ in 0..SILENT_AFTER_PROBES {
            assert!(others.missed(node).is_some());
        }
        assert_eq!(others.patience(node), PROBE_SILENT_WITHIN);
        others.answered(node);
        assert_eq!(others.patience(node), PROBE_WITHIN);
    }
}
