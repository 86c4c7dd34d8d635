//! Who wants a snapshot made, and when it is his turn: two of one process at once would each remove what the other builds
//! upon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sterna_process::ProcessId;

use super::none_of;
use crate::hosting::Hosting;
use crate::message::{Failure, FailureKind, HostingReply, Keeper, Keeping, SnapshotOrder};
use crate::service::Service;

/// Of processes of which somebody makes a snapshot, or waits for that.
#[derive(Debug, Default)]
pub(in crate::hosting) struct Turns(Mutex<HashMap<ProcessId, Arc<Turn>>>);

#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Held while one is made.
    pub(super) making: tokio::sync::Mutex<()>,
    /// Held while it is changed what is written down; taken after `making`. How often it was said: no more.
    pub(super) stops: tokio::sync::Mutex<u64>,
}

impl Turns {
    pub(super) fn of(&self, process: ProcessId) -> Arc<Turn> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(process).or_default())
    }
}

impl Service {
    /// What a user wants of a process of this node. It is brought to an end also if the user does not wait for it: nobody
    /// else writes meanwhile.
    pub(in crate::hosting) async fn see_to_snapshots(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        process: ProcessId,
        order: SnapshotOrder,
    ) -> Result<HostingReply, Failure> {
        hosting.seen(process).await?;
        let (service, hosting) = (Arc::clone(self), Arc::clone(hosting));
        let done = tokio::spawn(async move {
            match order {
                SnapshotOrder::Stop => service.stop_snapshots(&hosting, process).await,
                SnapshotOrder::Once { to } => {
                    service.snapshot_now(&hosting, process, to, None).await
                }
                SnapshotOrder::Every { every_ms, to, keep } => {
                    let schedule = Some((every_ms, keep));
                    service.snapshot_now(&hosting, process, to, schedule).await
                }
            }
        });
        match done.await {
            Ok(keeping) => Ok(HostingReply::Keeping(Box::new(keeping?))),
            Err(_) => Err(Failure::new(
                FailureKind::Internal,
                "the node failed, or stops: see its log",
            )),
        }
    }

    /// Does not wait for one that is just being made, which may take long.
    async fn stop_snapshots(
        &self,
        hosting: &Hosting,
        process: ProcessId,
    ) -> Result<Keeping, Failure> {
        let turn = hosting.turns.of(process);
        let mut stops = turn.stops.lock().await;
        let keeping = self.keeping(process).await?;
        let mut keeping = keeping.ok_or_else(|| none_of(process))?;
        keeping.every_ms = None;
        self.set_keeping(process, &keeping).await?;
        *stops += 1;
        Ok(keeping)
    }

    async fn snapshot_now(
        self: &Arc<Self>,
        hosting: &Hosting,
        process: ProcessId,
        to: Option<Keeper>,
        schedule: Option<(u64, u32)>,
    ) -> Result<Keeping, Failure> {
        let turn = hosting.turns.of(process);
        let stops = *turn.stops.lock().await;
        let _making = turn.making.lock().await;
        let keeping = self.wanted(hosting, process, to, schedule).await?;
        self.snapshot(hosting, process, &turn, keeping, Some(stops))
            .await
    }

    pub(super) async fn snapshot_on_schedule(
        self: &Arc<Self>,
        hosting: &Hosting,
        process: ProcessId,
    ) -> Result<(), Failure> {
        let turn = hosting.turns.of(process);
        let _making = turn.making.lock().await;
        match self.keeping(process).await? {
            Some(keeping) if keeping.every_ms.is_some() => {
                let made = self.snapshot(hosting, process, &turn, keeping, None);
                made.await.map(drop)
            }
            _ => Ok(()),
        }
    }
}
