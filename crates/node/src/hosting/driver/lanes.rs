//! Connections between the runners of a move, on their way to the one here; and whether all are there that its commit needs.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use sterna_migration::{Attempt, Command, NodeId};
use sterna_runner::message::{Order, Secret, Side};
use tokio::time::timeout;

use super::{Driver, Input};
use crate::limits::THERE_WITHIN;
use crate::message::{RegistryRequest, Request};

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

    /// Gives a command if the target's service and the registry are there: the runner takes pages without them, but whoever would
    /// have a process stopped while one is gone would wait for the commit in vain, for as long as it may take.
    pub(super) fn make_sure_of(&self, target: NodeId, attempt: Attempt, command: Command) {
        let (service, hosting) = (Arc::clone(&self.service), Arc::clone(&self.hosting));
        tokio::spawn(async move {
            let asked = service
                .transport
                .ask(target, &Request::Status, THERE_WITHIN);
            let process = attempt.process;
            let read = service.ask_registry(RegistryRequest::Record { process });
            let (target, registry) = tokio::join!(asked, timeout(THERE_WITHIN, read));
            let missing = match (target, registry) {
                (Ok(_), Ok(Ok(_))) => None,
                (Err(failure), _) => {
                    tracing::debug!("{attempt}: {failure}");
                    Some("the target does not answer any more")
                }
                (Ok(_), _) => Some("the registry does not answer any more"),
            };
            let missing = missing.map(str::to_owned);
            hosting.tell(Input::Asked(attempt, missing, command)).await;
        });
    }
}
