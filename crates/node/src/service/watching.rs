//! What a node does by itself: follows the list of nodes, and asks the others whether they are there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::sleep;

use super::Service;
use crate::identity::NodeId;
use crate::limits::{PROBE_EVERY, PROBE_WITHIN, REQUEST_BYTES_MAX, RETRY_FIRST, RETRY_MAX};
use crate::message::{Announced, Failure, FailureKind, Reachability, RegistryRequest, Reply, Seen};

impl Service {
    /// Says how this node is now, then takes over every newer list of nodes, wherever the registry is.
    pub(super) async fn follow_roster(self: Arc<Self>) {
        let mut seat = self.seat.subscribe();
        let mut pause = RETRY_FIRST;
        let mut announced = false;
        let mut recovered = None;
        loop {
            seat.borrow_and_update();
            let step = async {
                if !announced {
                    let about = RegistryRequest::Announce(self.about.clone());
                    self.ask_registry(about).await?;
                }
                if let Some(number) = self.roster().recovery.filter(|_| announced)
                    && recovered != Some(number)
                {
                    self.announce_processes(number).await?;
                    recovered = Some(number);
                }
                let after = if announced { self.roster().revision } else { 0 };
                self.ask_registry(RegistryRequest::Roster { after }).await
            };
            let done = tokio::select! {
                done = step => done,
                // It has moved: what was asked of the old one is of no interest.
                _ = seat.changed() => continue,
            };
            match done {
                Ok(Reply::Roster(roster)) => {
                    announced = true;
                    pause = RETRY_FIRST;
                    self.adopt(roster);
                }
                Err(Failure {
                    kind: FailureKind::Removed,
                    message,
                }) => {
                    self.removed.store(true, Ordering::Relaxed);
                    tracing::warn!("{message}");
                    return;
                }
                other => {
                    tracing::debug!("no list of nodes: {other:?}");
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Says what this node has to a registry that was restored.
    async fn announce_processes(&self, number: u64) -> Result<(), Failure> {
        let processes = match self.announcer.get() {
            Some(announcer) => announcer().await,
            None => Vec::new(),
        };
        for request in announcements(number, processes) {
            match self.ask_registry(request).await {
                Ok(_) => {}
                // It was said before this node was started again, or all have spoken by now.
                Err(failure)
                    if matches!(failure.kind, FailureKind::Forbidden | FailureKind::Refused) =>
                {
                    tracing::info!("{failure}");
                    return Ok(());
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// So that it is known since when a node does not answer.
    pub(super) async fn keep_probing(self: Arc<Self>) {
        loop {
            sleep(PROBE_EVERY).await;
            self.probe_all(|_| PROBE_WITHIN).await;
        }
    }

    /// Says of nodes that answer whether they take processes.
    pub(super) async fn note_drained(&self, seen: &mut [Seen]) {
        let Some(hosting) = &self.hosting else {
            return;
        };
        let answer = seen
            .iter()
            .filter(|seen| !matches!(seen.state, Reachability::Unknown { .. }));
        let nodes: Vec<NodeId> = answer.map(|seen| seen.member.id).collect();
        let rooms = self.rooms(hosting, nodes).await;
        let drained = rooms.iter().filter(|room| room.capacity.is_none());
        let drained: Vec<NodeId> = drained.map(|room| room.node).collect();
        for seen in seen {
            if drained.contains(&seen.member.id) {
                seen.state = Reachability::Draining;
            }
        }
    }
}

/// What a node has, in requests that are short enough; the last one says that it is.
fn announcements(number: u64, processes: Vec<Announced>) -> Vec<RegistryRequest> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for announced in processes {
        let more = postcard::experimental::serialized_size(&announced).unwrap_or(REQUEST_BYTES_MAX);
        if bytes + more > REQUEST_BYTES_MAX / 2 {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        parts.last_mut().expect("there is one").push(announced);
    }
    let count = parts.len();
    let request = |(at, processes)| RegistryRequest::AnnounceProcesses {
        number,
        processes,
        last: at + 1 == count,
    };
    parts.into_iter().enumerate().map(request).collect()
}
