//! The registry on its way to another node: no changes meanwhile, and how it came to where it is.

use std::sync::atomic::Ordering;

use super::processes::change;
use super::{Registry, damaged, read, write};
use crate::handover::Handover;
use crate::limits::HANDOVERS_MAX;
use crate::message::{Failure, FailureKind, RegistryRequest, Roster};
use crate::store::Store;

pub(super) const HANDOVERS: &[u8] = b"handover/";
/// Which handover this copy of a registry is for.
const AWAITED: &[u8] = b"awaited";

impl<S: Store> Registry<S> {
    /// Lets no more changes begin, and waits for those that have.
    pub(crate) async fn freeze(&self) {
        let _all = self.changing.write().await;
        self.frozen.store(true, Ordering::Release);
    }

    /// Lets changes happen again.
    pub(crate) fn thaw(&self) {
        self.frozen.store(false, Ordering::Release);
    }

    /// Whether a request may change something, and so has to wait until the registry has moved.
    pub(super) const fn changes_something(request: &RegistryRequest) -> bool {
        match request {
            RegistryRequest::AddTicket { .. }
            | RegistryRequest::Admit { .. }
            | RegistryRequest::Announce(_)
            | RegistryRequest::Remove { .. }
            | RegistryRequest::CreateRecord { .. }
            | RegistryRequest::SwapRecord(_)
            | RegistryRequest::Forget { .. }
            | RegistryRequest::SetKeeping { .. }
            | RegistryRequest::SetExtra { .. }
            | RegistryRequest::AnnounceProcesses { .. } => true,
            RegistryRequest::Status
            | RegistryRequest::Roster { .. }
            | RegistryRequest::Record { .. }
            | RegistryRequest::Process { .. }
            | RegistryRequest::Named { .. }
            | RegistryRequest::Processes { .. }
            | RegistryRequest::ProcessesOf { .. }
            | RegistryRequest::Keepings(_)
            | RegistryRequest::ProcessesChanged { .. } => false,
        }
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    pub(super) fn moving() -> Failure {
        let message = "the registry is moving to another node: try again in a moment";
        Failure::new(FailureKind::Busy, message)
    }

    /// The list of nodes as it is.
    pub(crate) async fn roster_now(&self) -> Result<Roster, Failure> {
        self.roster(0).await
    }

    /// How it came here, the last times.
    pub(super) async fn handovers(&self) -> Result<Vec<Handover>, Failure> {
        let listed = self.store.list(HANDOVERS).await?.entries.into_iter();
        listed.map(|(_, entry)| read(&entry.value)).collect()
    }

    /// Notes which handover makes this copy the registry.
    pub(crate) async fn await_handover(&self, number: u64) -> Result<(), Failure> {
        let found = self.store.get(AWAITED).await?;
        let revision = found.map(|entry| entry.revision);
        let note = change(AWAITED.to_vec(), revision, Some(write(&number)));
        self.store.swap_all(vec![note]).await?;
        Ok(())
    }

    /// Takes note of handovers of which the last one is to this node and for this copy.
    pub(crate) async fn accept_handovers(&self, handovers: &[Handover]) -> Result<(), Failure> {
        let awaited = self.store.get(AWAITED).await?;
        let awaited: Option<u64> = awaited.map(|entry| read(&entry.value)).transpose()?;
        let last = handovers.last().ok_or_else(damaged)?;
        if last.to != self.home || awaited != Some(last.number) {
            return Err(Failure::new(
                FailureKind::Internal,
                "this node was given the registry, but has no copy of it, or of another time: put a backup back with \
                 `sterna registry restore`",
            ));
        }
        for handover in handovers {
            let key = [HANDOVERS, &handover.number.to_be_bytes()[..]].concat();
            let note = change(key, None, Some(write(handover)));
            self.store.swap_all(vec![note]).await?;
        }
        let listed = self.store.list(HANDOVERS).await?.entries;
        let excess = listed.len().saturating_sub(HANDOVERS_MAX);
        for (key, entry) in listed.into_iter().take(excess) {
            let gone = change(key, Some(entry.revision), None);
            self.store.swap_all(vec![gone]).await?;
        }
        Ok(())
    }
}
