//! What a node does by itself: follows the list of nodes, and asks the others whether they are there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::sleep;

use super::Service;
use crate::limits::{PROBE_EVERY, RETRY_FIRST, RETRY_MAX};
use crate::message::{Failure, FailureKind, RegistryRequest, Reply};

impl Service {
    /// Says how this node is now, then takes over every newer list of nodes, wherever the registry is.
    pub(super) async fn follow_roster(self: Arc<Self>) {
        let mut seat = self.seat.subscribe();
        let mut pause = RETRY_FIRST;
        let mut announced = false;
        loop {
            seat.borrow_and_update();
            let step = async {
                if !announced {
                    let about = RegistryRequest::Announce(self.about.clone());
                    self.ask_registry(about).await?;
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

    /// So that it is known since when a node does not answer.
    pub(super) async fn keep_probing(self: Arc<Self>) {
        loop {
            sleep(PROBE_EVERY).await;
            self.probe_all().await;
        }
    }
}
