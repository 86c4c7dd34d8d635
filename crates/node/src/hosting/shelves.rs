//! Where snapshots are kept: folders of this node, those of others, and those in [stores](super::stores).
//!
//! ```text
//! DATA/snapshots/PROCESS/…      as `sterna-snapshot` says
//! ```
//!
//! Only the owner of a process uses its folder. When it is lost every node may read it, as every node may go on with it. A
//! folder of no process is of a clone that is just being made: who makes it alone knows its name.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use sterna_migration::{Life, NodeId};
use sterna_process::ProcessId;
use sterna_snapshot::{Folder, Shelf, ShelfError, is_name};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};

use super::{Hosting, blocking};
use crate::limits::{
    ANSWER_WITHIN, OBJECT_BYTES_MAX, OBJECT_PIECE_BYTES, OBJECT_PIECES_AT_ONCE, OBJECT_REPLY_BYTES,
};
use crate::message::{
    Failure, FailureKind, HostingReply, HostingRequest, Keeper, RegistryRequest, Reply, Request,
    ShelfReply, ShelfRequest,
};
use crate::service::Service;

/// A folder that another node keeps. To be used where blocking does no harm.
pub(super) struct Elsewhere {
    service: Arc<Service>,
    node: NodeId,
    folder: ProcessId,
    runtime: Handle,
}

impl Elsewhere {
    fn ask(&self, request: ShelfRequest) -> Result<Option<ShelfReply>, ShelfError> {
        self.runtime.block_on(self.asking(request))
    }

    fn asking(
        &self,
        request: ShelfRequest,
    ) -> impl Future<Output = Result<Option<ShelfReply>, ShelfError>> + Send + use<> {
        let (service, node) = (Arc::clone(&self.service), self.node);
        let folder = self.folder;
        let request = Request::Hosting(HostingRequest::Shelf { folder, request });
        async move {
            let asked = service.transport.ask(node, &request, ANSWER_WITHIN);
            match asked.await {
                Ok((Reply::Hosting(HostingReply::Shelf(reply)), _)) => Ok(Some(reply)),
                Ok((Reply::Done, _)) => Ok(None),
                Ok((Reply::Failed(failure), _)) => Err(ShelfError::Elsewhere(failure.message)),
                Ok(_) => Err(ShelfError::Elsewhere(
                    "the node that keeps the snapshots answers another question".into(),
                )),
                Err(error) => Err(ShelfError::Elsewhere(format!(
                    "the node that keeps the snapshots does not answer: {}",
                    service.silent(node, error).message
                ))),
            }
        }
    }

    /// Puts pieces, several at once, and waits for all.
    async fn put_all(&self, pieces: impl Iterator<Item = ShelfRequest>) -> Result<(), ShelfError> {
        let done = |joined: Result<Result<_, ShelfError>, JoinError>| match joined {
            Ok(put) => put.map(drop),
            Err(error) => Err(ShelfError::Elsewhere(error.to_string())),
        };
        let mut under_way = JoinSet::new();
        for piece in pieces {
            if under_way.len() >= OBJECT_PIECES_AT_ONCE
                && let Some(joined) = under_way.join_next().await
            {
                done(joined)?;
            }
            under_way.spawn(self.asking(piece));
        }
        while let Some(joined) = under_way.join_next().await {
            done(joined)?;
        }
        Ok(())
    }
}

impl Shelf for Elsewhere {
    /// The first piece begins an object and the last one ends it; those between them may come in any order.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ShelfError> {
        let piece = |offset: usize, bytes: &[u8], end| ShelfRequest::Put {
            name: name.to_owned(),
            offset: offset as u64,
            bytes: bytes.to_vec(),
            end,
        };
        let last_at = bytes.len().saturating_sub(1) / OBJECT_PIECE_BYTES * OBJECT_PIECE_BYTES;
        let (before, last) = bytes.split_at(last_at);
        let pieces = before.chunks(OBJECT_PIECE_BYTES).enumerate();
        let mut pieces =
            pieces.map(|(number, bytes)| piece(number * OBJECT_PIECE_BYTES, bytes, false));
        if let Some(first) = pieces.next() {
            self.ask(first)?;
        }
        self.runtime.block_on(self.put_all(pieces))?;
        self.ask(piece(last_at, last, true)).map(drop)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, ShelfError> {
        let mut whole = Vec::new();
        loop {
            let request = ShelfRequest::Get {
                name: name.to_owned(),
                offset: whole.len() as u64,
            };
            let (total, bytes) = match self.ask(request)? {
                Some(ShelfReply::Piece { total, bytes }) if total <= OBJECT_BYTES_MAX => {
                    (total, bytes)
                }
                Some(ShelfReply::Absent) => return Ok(None),
                _ => return Err(ShelfError::Elsewhere(format!("{name} does not come"))),
            };
            let is_empty = bytes.is_empty();
            whole.extend(bytes);
            match (whole.len() as u64).cmp(&total) {
                std::cmp::Ordering::Equal => return Ok(Some(whole)),
                std::cmp::Ordering::Less if !is_empty => {}
                _ => return Err(ShelfError::Elsewhere(format!("{name} changed meanwhile"))),
            }
        }
    }

    fn list(&self) -> Result<Vec<String>, ShelfError> {
        match self.ask(ShelfRequest::List)? {
            Some(ShelfReply::Names(names)) => Ok(names),
            _ => Err(ShelfError::Elsewhere("no list of objects comes".into())),
        }
    }

    fn remove(&self, name: &str) -> Result<(), ShelfError> {
        let name = name.to_owned();
        self.ask(ShelfRequest::Remove { name }).map(drop)
    }
}

impl Service {
    /// Where this node keeps snapshots.
    pub(super) fn snapshots(&self) -> PathBuf {
        self.data.path().join("snapshots")
    }

    fn folder(&self, process: ProcessId) -> Folder {
        Folder::at(self.snapshots().join(process.to_string()))
    }

    /// The folder of a process, wherever it is kept.
    pub(super) fn shelf(
        self: &Arc<Self>,
        hosting: &Hosting,
        keeper: &Keeper,
        folder: ProcessId,
    ) -> Result<Box<dyn Shelf + Send>, Failure> {
        Ok(match keeper {
            Keeper::Store(store) => hosting.stores.named(store)?.folder(folder),
            Keeper::Node(node) if *node == self.id => Box::new(self.folder(folder)),
            Keeper::Node(node) => Box::new(Elsewhere {
                service: Arc::clone(self),
                node: *node,
                folder,
                runtime: Handle::current(),
            }),
        })
    }

    /// Removes a folder of this node.
    pub(super) async fn clear(&self, folder: ProcessId) {
        let path = self.snapshots().join(folder.to_string());
        let _ = blocking(move || fs::remove_dir_all(path)).await;
    }

    /// Answers another node about a folder that is kept here.
    pub(super) async fn shelve(
        self: &Arc<Self>,
        node: NodeId,
        folder: ProcessId,
        request: ShelfRequest,
    ) -> Result<Option<HostingReply>, Failure> {
        // What was begun rightly is brought to an end.
        if !matches!(request, ShelfRequest::Put { offset: 1.., .. }) {
            self.may_use(node, folder, &request).await?;
        }
        let shelf = self.folder(folder);
        let done = blocking(move || match request {
            ShelfRequest::Put {
                name,
                offset,
                bytes,
                end,
            } => put_piece(&shelf, (&name, node), offset, &bytes, end).map(|()| None),
            ShelfRequest::Get { name, offset } => get_piece(&shelf, &name, offset).map(Some),
            ShelfRequest::List => shelf.list().map(|names| Some(ShelfReply::Names(names))),
            ShelfRequest::Remove { name } => shelf.remove(&name).map(|()| None),
        });
        match done.await? {
            Ok(reply) => Ok(reply.map(HostingReply::Shelf)),
            Err(error) => Err(Failure::refused(super::snapshots::chain(&error))),
        }
    }

    async fn may_use(
        &self,
        node: NodeId,
        process: ProcessId,
        request: &ShelfRequest,
    ) -> Result<(), Failure> {
        let asked = self
            .ask_registry(RegistryRequest::Process { process })
            .await?;
        let Reply::Process(entry) = asked else {
            return Err(Failure::refused("the registry answers another question"));
        };
        let Some(entry) = entry else {
            return Ok(());
        };
        let record = entry.record().map_err(Failure::refused)?;
        let reads = matches!(request, ShelfRequest::Get { .. } | ShelfRequest::List);
        match record.life {
            Life::Alive if record.owner == node => Ok(()),
            Life::Lost if reads => Ok(()),
            _ => Err(Failure::new(
                FailureKind::Forbidden,
                "only the owner of a process uses its snapshots, and who goes on with it when it is lost",
            )),
        }
    }
}

/// Takes a piece of an object: its first one begins it, and it appears with its last one. Those between come in any order,
/// but none far ahead of the others. Two nodes do not write into one object.
fn put_piece(
    folder: &Folder,
    (name, node): (&str, NodeId),
    offset: u64,
    bytes: &[u8],
    end: bool,
) -> Result<(), ShelfError> {
    if !is_name(name) {
        return Err(ShelfError::Name(name.to_owned()));
    }
    let path = folder.path();
    let partial = path.join(format!("{name}.{node}.partial"));
    let written = || -> io::Result<()> {
        DirBuilder::new().mode(0o700).recursive(true).create(path)?;
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600);
        let file = match offset {
            0 => options.create(true).truncate(true).open(&partial)?,
            _ => options.open(&partial)?,
        };
        let here = file.metadata()?.len();
        let length = offset.saturating_add(bytes.len() as u64);
        let ahead = match end {
            true => 0,
            false => (OBJECT_PIECES_AT_ONCE * OBJECT_PIECE_BYTES) as u64,
        };
        if offset > here.saturating_add(ahead) || length > OBJECT_BYTES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        file.write_all_at(bytes, offset)?;
        if end {
            file.set_len(length)?;
            file.sync_all()?;
            fs::rename(&partial, path.join(name))?;
            File::open(path)?.sync_all()?;
        }
        Ok(())
    };
    written().map_err(|source| {
        let _ = fs::remove_file(&partial);
        ShelfError::File {
            doing: "could not write",
            name: name.to_owned(),
            source,
        }
    })
}

fn get_piece(folder: &Folder, name: &str, offset: u64) -> Result<ShelfReply, ShelfError> {
    if !is_name(name) {
        return Err(ShelfError::Name(name.to_owned()));
    }
    let read = || -> io::Result<ShelfReply> {
        let file = match File::open(folder.path().join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ShelfReply::Absent),
            file => file?,
        };
        let total = file.metadata()?.len();
        let length = total.saturating_sub(offset).min(OBJECT_REPLY_BYTES as u64);
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(ShelfReply::Piece { total, bytes })
    };
    read().map_err(|source| ShelfError::File {
        doing: "could not read",
        name: name.to_owned(),
        source,
    })
}
