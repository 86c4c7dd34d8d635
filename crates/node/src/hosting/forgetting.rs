//! A process that has ended is forgotten, and what is left of it on nodes is removed: copies of its directories, its output.

use std::sync::Arc;

use sterna_migration::NodeId;
use sterna_process::ProcessId;

use super::copies::copied;
use super::{Hosting, blocking};
use crate::message::{Belongings, Failure, HostingRequest, RegistryRequest, Reply};
use crate::service::Service;

impl Service {
    /// Forgets a process that runs nowhere, and has what is left of it removed: copies of directories now, output soon.
    pub(super) async fn forget_ended(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        process: ProcessId,
    ) -> Result<(), Failure> {
        let entry = self.entry(process).await.ok();
        self.ask_registry(RegistryRequest::Forget { process })
            .await?;
        let with_copies = entry.and_then(|entry| {
            let belongings = Belongings::decode(&entry.info.extra)?;
            copied(&belongings.bindings).next()?;
            Some(entry.record().ok()?.owner)
        });
        let removed = match with_copies {
            Some(node) => self.have_forgotten(hosting, node, process).await,
            None => Ok(()),
        };
        let (service, hosting) = (Arc::clone(self), Arc::clone(hosting));
        tokio::spawn(async move {
            let others = service.members().into_iter();
            for node in others.filter(|node| Some(*node) != with_copies) {
                let _ = service.have_forgotten(&hosting, node, process).await;
            }
        });
        removed
    }

    /// Another node that does not answer looks itself from time to time.
    async fn have_forgotten(
        &self,
        hosting: &Hosting,
        node: NodeId,
        process: ProcessId,
    ) -> Result<(), Failure> {
        if node == self.id {
            return self.remove_forgotten(hosting, process).await;
        }
        let request = HostingRequest::Forgotten { process };
        let _ = self.pass_on_any(node, request).await;
        Ok(())
    }

    /// Removes copies and output of a process that the registry does not know any more.
    pub(super) async fn remove_forgotten(
        &self,
        hosting: &Hosting,
        process: ProcessId,
    ) -> Result<(), Failure> {
        match self
            .ask_registry(RegistryRequest::Process { process })
            .await?
        {
            Reply::Process(None) if hosting.has_not(process).await => {
                hosting.uncopy(process).await;
                let logs = Arc::clone(&hosting.logs);
                blocking(move || logs.forget(process)).await
            }
            _ => Err(Failure::refused("the process is not forgotten")),
        }
    }
}
