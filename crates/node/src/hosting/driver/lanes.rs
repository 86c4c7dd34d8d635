//! Connections between the runners of a move, on their way to the one here.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use sterna_migration::{Attempt, Command, NodeId};
use sterna_runner::message::{Order, Secret, Side};

use super::{Driver, Input};
use crate::limits::THERE_WITHIN;
use crate::message::Request;

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

    /// Gives a command when there is a connection to the target's runner, or none can be had.
    pub(super) fn connect_first(&self, target: NodeId, attempt: Attempt, command: Command) {
        let (service, hosting) = (Arc::clone(&self.service), Arc::clone(&self.hosting));
        tokio::spawn(async move {
            let opened = service.open_channel(target, attempt).await;
            if let Err(failure) = &opened {
                tracing::debug!("{attempt}: {failure}");
            }
            let connected = Input::Connected(attempt, opened.ok(), command);
            hosting.tell(connected).await;
        });
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

    /// Gives a command if the target's service is there: its runner takes pages without it, but whoever would have a process stopped
    /// for a target that is gone would wait for its commit in vain, for as long as it may take.
    pub(super) fn make_sure_of(&self, target: NodeId, attempt: Attempt, command: Command) {
        let (service, hosting) = (Arc::clone(&self.service), Arc::clone(&self.hosting));
        tokio::spawn(async move {
            let asked = service
                .transport
                .ask(target, &Request::Status, THERE_WITHIN);
            let there = asked.await.map(drop);
            if let Err(failure) = &there {
                tracing::debug!("{attempt}: {failure}");
            }
            let there = there.is_ok();
            hosting.tell(Input::IsThere(attempt, there, command)).await;
        });
    }
}
