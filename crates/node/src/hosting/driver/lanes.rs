//! Connections between the runners of a move, on their way to the one here.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use sterna_migration::{Attempt, NodeId};
use sterna_runner::message::{Order, Secret, Side};

use super::{Driver, Input};

impl Driver {
    /// A connection to the target's runner.
    pub(super) fn hand_over(
        &self,
        attempt: Attempt,
        (connection, secret): (OwnedFd, Secret),
        lane: bool,
    ) {
        let order = Order::Channel {
            attempt,
            secret,
            side: Side::Source { lane },
        };
        self.runner.handle.order(order, vec![connection]);
    }

    /// Connects for memory that is to follow its process, while this is brought to a stand.
    pub(super) fn open_lanes(&self, target: NodeId, attempt: Attempt) {
        let (service, hosting) = (Arc::clone(&self.service), Arc::clone(&self.hosting));
        tokio::spawn(async move {
            match service.open_lanes(target, attempt).await {
                Ok(lanes) => {
                    for lane in lanes {
                        hosting.tell(Input::Lane(attempt, lane)).await;
                    }
                }
                // It follows on the one that is there.
                Err(failure) => tracing::debug!("{attempt}: {failure}"),
            }
        });
    }
}
