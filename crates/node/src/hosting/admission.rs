//! Whether a process of another node may come, and where it will be.

use std::sync::Arc;

use sterna_migration::{Attempt, NodeId, Offer, Refusal};
use sterna_process::Epoch;

use super::Hosting;
use super::input::Input;
use crate::message::{RegistryRequest, Reply};
use crate::service::Service;

impl Service {
    /// Whether a process may come from another node; then the driver knows its place. The answer: whether its program
    /// is here.
    pub(super) async fn admit_process(
        self: &Arc<Self>,
        hosting: &Hosting,
        attempt: Attempt,
        source: NodeId,
        offer: &Offer,
    ) -> Result<bool, Refusal> {
        let refused = |reason: String| Refusal::NotAdmitted { reason };
        let process = attempt.process;
        let asked = self
            .ask_registry(RegistryRequest::Process { process })
            .await;
        let entry = match asked {
            Ok(Reply::Process(Some(entry))) => entry,
            Ok(_) => return Err(refused("the registry does not know the process".into())),
            Err(failure) => return Err(refused(failure.message)),
        };
        let record = entry.record().map_err(|error| refused(error.to_string()))?;
        if record.owner != source
            || record.epoch != attempt.epoch
            || entry.info.program != offer.program
            || entry.info.kind != offer.kind
        {
            return Err(refused(
                "the registry says that it is not the source's".into(),
            ));
        }
        let belongings = crate::message::Belongings::decode(&entry.info.extra);
        let belongings = belongings.ok_or_else(|| Refusal::Unsupported {
            what: "what the process has, as a newer node wrote it down".into(),
        })?;
        // A node that has just been started is about to have one.
        let _ = hosting.runner_soon().await;
        if let Some(refusal) = hosting.objection(&offer.kind, &belongings.bindings, false) {
            return Err(refusal);
        }
        self.admit_trees(hosting, attempt, source, &belongings.bindings)
            .await?;
        let next = Epoch(attempt.epoch.0 + 1);
        let placed = hosting
            .place(process, next, &belongings, Vec::new(), Some(source))
            .await
            .map_err(|failure| refused(failure.message))?;
        let (place, descriptors) = placed;
        hosting.remember(process, &entry.info);
        hosting
            .tell(Input::Place(attempt, Box::new(place), descriptors))
            .await;
        Ok(hosting.has(&offer.kind, offer.program).await)
    }
}
