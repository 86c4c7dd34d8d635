//! Programs of processes that run on other nodes, made ready before any of these comes here: what a node that is emptied in a
//! hurry would wait for is done then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sterna_migration::{Life, NodeId};
use sterna_process::{ProgramId, Tag};
use tokio::time::sleep;

use super::{Hosting, blocking};
use crate::limits::{PREPARE_EVERY, PREPARED_MAX};
use crate::message::{Failure, FailureKind, RegistryRequest, Reply};
use crate::service::Service;

/// Programs for processes of a kind, and a node that has each.
type Programs = HashMap<(Tag, ProgramId), NodeId>;

impl Service {
    /// Gets programs and makes them ready, one after the other, for as long as the node runs. One that cannot be made ready is not
    /// tried again while processes of it run; one whose node does not answer is.
    pub(crate) async fn prepare_ahead(self: Arc<Self>, hosting: Arc<Hosting>) {
        let mut tried = HashSet::new();
        let mut after = 0;
        loop {
            match self.programs_elsewhere(&hosting).await {
                Ok((programs, revision)) => {
                    after = revision.max(1);
                    tried.retain(|wanted| programs.contains_key(wanted));
                    for (wanted, owner) in programs {
                        if tried.contains(&wanted) {
                            continue;
                        }
                        let ready = self.make_ready(&hosting, &wanted, owner).await;
                        if let Err(failure) = &ready {
                            tracing::debug!("{} is not made ready: {failure}", wanted.1.short());
                        }
                        let again = |failure: &Failure| {
                            matches!(failure.kind, FailureKind::Unreachable | FailureKind::Busy)
                        };
                        if !ready.is_err_and(|failure| again(&failure)) {
                            tried.insert(wanted);
                        }
                    }
                }
                Err(failure) => tracing::debug!("programs of other nodes: {failure}"),
            }
            // Processes come and go by the hundred; then once is enough.
            sleep(PREPARE_EVERY).await;
            let changed = RegistryRequest::ProcessesChanged { after };
            if let Err(failure) = self.ask_registry(changed).await {
                tracing::debug!("no word of other processes: {failure}");
            }
        }
    }

    /// Those of which processes run on other nodes, and since when that may be otherwise.
    async fn programs_elsewhere(&self, hosting: &Hosting) -> Result<(Programs, u64), Failure> {
        let kinds = hosting.workshop.kinds();
        let (mut programs, mut revision, mut after) = (Programs::new(), None, None);
        loop {
            let ended = false;
            let asked = self.ask_registry(RegistryRequest::Processes { ended, after });
            let Reply::Processes(page) = asked.await? else {
                return Err(Failure::refused("the registry answers another question"));
            };
            for entry in page.entries {
                if let Ok(record) = entry.record()
                    && record.life == Life::Alive
                    && record.owner != self.id
                    && kinds.contains(&entry.info.kind)
                    && programs.len() < PREPARED_MAX
                {
                    programs.insert((entry.info.kind, entry.info.program), record.owner);
                }
            }
            let revision = *revision.get_or_insert(page.revision);
            after = page.next;
            if after.is_none() {
                return Ok((programs, revision));
            }
        }
    }

    async fn make_ready(
        &self,
        hosting: &Hosting,
        (kind, program): &(Tag, ProgramId),
        owner: NodeId,
    ) -> Result<(), Failure> {
        if !hosting.has(kind, *program).await {
            self.fetch_program(hosting, owner, (kind, *program)).await?;
        }
        let (workshop, kind, program) = (Arc::clone(&hosting.workshop), kind.clone(), *program);
        blocking(move || workshop.expect_moves(&kind, &program)).await
    }
}
