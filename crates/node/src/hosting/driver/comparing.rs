//! What the registry has of processes here, looked at from time to time: what got lost is found so.

use std::sync::Arc;

use sterna_migration::{Event, Record};

use super::{Driver, Input};
use crate::message::{RegistryRequest, Reply};

impl Driver {
    /// Has the records of all that is held, and of all that the registry thinks is here, compared.
    pub(super) fn compare(&mut self) {
        // To one that was removed nobody lists what it had: it asks for each.
        if self.service.is_removed() {
            return self.moves.held().for_each(|process| self.read(process));
        }
        self.moves.kept().for_each(|process| self.read(process));
        let (service, inputs) = (Arc::clone(&self.service), self.hosting.inputs.clone());
        tokio::spawn(async move {
            let mut after = None;
            loop {
                let node = service.id;
                let request = RegistryRequest::ProcessesOf { node, after };
                let Ok(Reply::Records(page)) = service.ask_registry(request).await else {
                    return;
                };
                for (process, bytes) in page.records {
                    if let record @ Some(_) = Record::decode(&bytes).ok() {
                        let _ = inputs
                            .send(Input::Event(Event::Record { process, record }))
                            .await;
                    }
                }
                after = page.next;
                if after.is_none() {
                    return;
                }
            }
        });
    }
}
