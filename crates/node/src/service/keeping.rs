//! What users of a node's machine do with the registry: look at it, back it up, put a backup back.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Seat, Service};
use crate::message::{Failure, FailureKind, RegistryRequest, Reply};
use crate::registry::{Backup, BackupError, Registry};
use crate::store::{AnyStore, Embedded, Etcd, EtcdAddress};

impl Service {
    pub(super) async fn registry_status(&self) -> Result<Reply, Failure> {
        self.ask_registry(RegistryRequest::Status).await
    }

    /// Writes a backup into a file that the user who asks has opened.
    pub(super) async fn back_up(&self, path: PathBuf, file: File) -> Result<Reply, Failure> {
        let (registry, _) = self.own_registry("its backups are made")?;
        let backup = registry.backup().await?;
        let saved = tokio::task::spawn_blocking(move || backup.write(&path, &file)).await;
        saved.map_err(internal)??;
        Ok(Reply::Done)
    }

    pub(super) async fn restore(&self, path: PathBuf, file: File) -> Result<Reply, Failure> {
        let (registry, embedded) = self.own_registry("its backups are put back")?;
        let loaded = tokio::task::spawn_blocking(move || Backup::read(&path, &file)).await;
        let backup = loaded.map_err(internal)??;
        registry.restore(&embedded, backup).await?;
        Ok(Reply::Done)
    }

    /// The registry, if it is a file of this node.
    pub(super) fn own_registry(
        &self,
        done: &str,
    ) -> Result<(Arc<Registry<AnyStore>>, Embedded), Failure> {
        match self.seat() {
            Seat::Here(registry) => match registry.store() {
                AnyStore::Embedded(embedded) => Ok((Arc::clone(&registry), embedded.clone())),
                AnyStore::Etcd(etcd) => Err(Failure::refused(format!(
                    "the registry is in an etcd ({}): {done} with etcd's own means (`etcdctl snapshot`)",
                    etcd.place()
                ))),
            },
            Seat::At(home) => {
                let roster = self.roster();
                let name = roster.member(home).map_or("?", |member| &member.about.name);
                Err(Failure::refused(format!(
                    "the registry is served by node {name} ({home}): {done} there"
                )))
            }
        }
    }

    /// The registry in the etcd of the cluster that this node has joined.
    pub(super) fn etcd(&self, address: &str) -> Result<Arc<Registry<AnyStore>>, Failure> {
        let address: EtcdAddress = address.parse().map_err(Failure::refused)?;
        let etcd = Etcd::new(address, self.login.clone());
        Ok(Arc::new(Registry::new(AnyStore::Etcd(etcd), self.id)))
    }
}

fn internal(error: impl ToString) -> Failure {
    Failure::new(FailureKind::Internal, error)
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Records(failure) => failure,
            BackupError::Store(error) => error.into(),
            error => Self::refused(error),
        }
    }
}
