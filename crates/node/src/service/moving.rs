//! The registry leaves for another node: [`Service::move_registry`].
//!
//! ```text
//! home H                                   target N                              others
//!  │ no more changes                         │
//!  │ all of it, in pieces ──────────────────►│ registry.incoming, on disk
//!  │◄──────────────────────────────── I have it
//!  │ writes: my registry is at N   ◄─ here the home changes
//!  │ handover, signed ──────────────────────►│ registry.redb; writes: the registry is here
//!  │ who still asks hears where it is        │ tells all others ─────────────────────────► they follow
//! ```
//!
//! H alone decides, by one write. Until then N has bytes that nobody relies on, and H goes on if anything fails. From
//! then on H never serves again, and N begins as soon as it hears of it, from H, whenever both are up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use super::{Seat, Service};
use crate::handover::{Handover, route};
use crate::identity::{self, NodeId};
use crate::limits::{ANSWER_WITHIN, PIECE_BYTES_MAX, REGISTRY_BYTES_MAX};
use crate::message::{Failure, FailureKind, Piece, Reply, Request};
use crate::registry::Registry;
use crate::store::{AnyStore, Dump, Embedded};
use crate::wire::now_ms;

/// How often the target is told that it is the home. It asks by itself, too.
const TELL_MAX: usize = 3;

impl Service {
    /// Whether the cluster's registry is a file of this node.
    pub(crate) fn serves_embedded_registry(&self) -> bool {
        matches!(self.seat(), Seat::Here(_)) && self.roster().registry.is_none()
    }

    /// Gives the registry of this node to another member.
    pub(crate) async fn move_registry(&self, to: NodeId) -> Result<Reply, Failure> {
        let _alone = self.joining.lock().await;
        let (registry, embedded) = self.own_registry("it can be moved only")?;
        let roster = self.roster();
        if to == self.id {
            return Err(Failure::refused("the registry is on this node already"));
        }
        if roster.member(to).is_none() {
            let message = format!("no node {} in this cluster", identity::text(to));
            return Err(Failure::refused(message));
        }
        registry.freeze().await;
        let moved = self.hand_over(&registry, &embedded, to).await;
        match moved {
            Ok(handover) => {
                self.tell_new_home(&handover).await;
                Ok(Reply::Done)
            }
            Err(failure) => {
                registry.thaw();
                Err(failure)
            }
        }
    }

    async fn hand_over(
        &self,
        registry: &Registry<AnyStore>,
        embedded: &Embedded,
        to: NodeId,
    ) -> Result<Handover, Failure> {
        fault::point("frozen").await;
        let mut roster = registry.roster_now().await?;
        // The time, so that it grows even if a registry was lost, and with it which ones there were.
        let last = roster.handovers.last().map_or(0, |last| last.number);
        let number = now_ms().max(last + 1);
        let dump = embedded.dump().await?;
        let body = postcard::to_stdvec(&dump).map_err(internal)?;
        let hash = *blake3::hash(&body).as_bytes();
        let total = body.len() as u64;
        let mut offset = 0;
        for bytes in body.chunks(PIECE_BYTES_MAX) {
            let piece = Piece {
                number,
                total,
                offset,
                hash,
                bytes: bytes.to_vec(),
            };
            self.ask_node(to, Request::RegistryTake(piece)).await?;
            offset += bytes.len() as u64;
            fault::point("sending").await;
        }
        fault::point("sent").await;
        let handover = Handover::sign(self.transport.key(), to, number);
        roster.home = Some(to);
        roster.handovers.push(handover.clone());
        self.data.set_cluster(&roster).map_err(internal)?;
        fault::point("decided").await;
        self.set_roster(roster);
        self.seat.send_replace(Seat::At(to));
        Ok(handover)
    }

    async fn tell_new_home(&self, handover: &Handover) {
        let told = Request::RegistryMoved(self.roster().handovers.clone());
        for _ in 0..TELL_MAX {
            match self.ask_node(handover.to, told.clone()).await {
                Ok(_) => {
                    // It has all of it, and serves it.
                    let _ = fs::remove_file(self.data.registry());
                    return;
                }
                Err(failure) => tracing::warn!("the new home of the registry: {failure}"),
            }
        }
    }

    async fn ask_node(&self, node: NodeId, request: Request) -> Result<Reply, Failure> {
        let asked = self.transport.ask(node, &request, ANSWER_WITHIN).await;
        match asked {
            Ok((Reply::Failed(failure), _)) => Err(failure),
            Ok((reply, _)) => Ok(reply),
            Err(error) => Err(Failure::new(FailureKind::Unreachable, error)),
        }
    }

    /// A piece of the registry comes from its home.
    pub(super) async fn take_registry(&self, by: NodeId, piece: Piece) -> Result<Reply, Failure> {
        let _alone = self.joining.lock().await;
        if !matches!(self.seat(), Seat::At(home) if home == by) {
            return Err(Failure::new(
                FailureKind::Forbidden,
                "only the node that serves the registry can give it away",
            ));
        }
        let last = piece.offset + piece.bytes.len() as u64 == piece.total;
        let (part, incoming) = (self.data.incoming_part(), self.data.incoming());
        let (number, hash) = (piece.number, piece.hash);
        let kept = tokio::task::spawn_blocking(move || {
            keep(&part, &incoming, &piece)?;
            match last {
                true => fs::read(&part).map(Some),
                false => Ok(None),
            }
        });
        let body = kept.await.map_err(internal)?.map_err(internal)?;
        fault::point("taking").await;
        if let Some(body) = body {
            if *blake3::hash(&body).as_bytes() != hash {
                return Err(Failure::refused("the registry came damaged: try again"));
            }
            let dump: Dump = postcard::from_bytes(&body).map_err(internal)?;
            self.keep_incoming(dump, number).await?;
            let _ = fs::remove_file(self.data.incoming_part());
            fault::point("taken").await;
        }
        Ok(Reply::Done)
    }

    /// Makes a registry of what came, which is not this cluster's before the home says so.
    async fn keep_incoming(&self, dump: Dump, number: u64) -> Result<(), Failure> {
        let path = self.data.incoming();
        let store = Embedded::open(&path, now_ms)?;
        store.replace(dump).await?;
        let registry = Registry::new(AnyStore::Embedded(store), self.id);
        registry.await_handover(number).await
    }

    /// Goes to where handovers lead. Whether that is another place than before.
    pub(super) async fn follow(&self, handovers: &[Handover]) -> Result<bool, Failure> {
        let _alone = self.joining.lock().await;
        let Seat::At(home) = self.seat() else {
            return Ok(false);
        };
        let mut roster = (*self.roster()).clone();
        let number = roster.handovers.last().map_or(0, |last| last.number);
        let route = route(home, number, handovers);
        let Some(home) = route.last().map(|last| last.to) else {
            return Ok(false);
        };
        roster.handovers.extend(route);
        roster.home = Some(home);
        if home == self.id {
            let registry = self.take_up(&roster.handovers).await?;
            fault::point("renamed").await;
            self.data.set_cluster(&roster).map_err(internal)?;
            fault::point("home").await;
            self.set_roster(roster);
            self.seat.send_replace(Seat::Here(registry));
            return Ok(true);
        }
        if roster.member(home).is_none() {
            return Err(Failure::refused(
                "the registry has moved to a node that this one does not know",
            ));
        }
        self.data.set_cluster(&roster).map_err(internal)?;
        self.set_roster(roster);
        self.seat.send_replace(Seat::At(home));
        Ok(true)
    }

    /// Opens the registry that came, or that was taken up before this node was started again.
    async fn take_up(&self, handovers: &[Handover]) -> Result<Arc<Registry<AnyStore>>, Failure> {
        let (incoming, path) = (self.data.incoming(), self.data.registry());
        if incoming.exists() {
            fs::rename(&incoming, &path).map_err(internal)?;
            self.data.sync().map_err(internal)?;
        }
        let store = Embedded::open(&path, now_ms)?;
        let registry = Registry::new(AnyStore::Embedded(store), self.id);
        registry.accept_handovers(handovers).await?;
        registry.found(self.about.clone()).await?;
        Ok(Arc::new(registry))
    }

    /// Tells a member that believes the registry elsewhere.
    pub(super) async fn correct(&self, member: NodeId, believes: NodeId) {
        let roster = self.roster();
        if self.serves_embedded_registry() && believes != self.id && !roster.handovers.is_empty() {
            let told = Request::RegistryMoved(roster.handovers.clone());
            if let Err(failure) = self.ask_node(member, told).await {
                tracing::debug!("told where the registry is: {failure}");
            }
        }
    }
}

/// Adds a piece to those that came before it.
fn keep(part: &std::path::Path, incoming: &std::path::Path, piece: &Piece) -> io::Result<()> {
    let other = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    if piece.total > REGISTRY_BYTES_MAX || piece.bytes.len() > PIECE_BYTES_MAX {
        return other("the registry is too large");
    }
    if piece.offset == 0 {
        let _ = fs::remove_file(incoming);
        let _ = fs::remove_file(part);
    }
    let mut file: File = OpenOptions::new()
        .create(piece.offset == 0)
        .append(true)
        .mode(0o600)
        .open(part)?;
    if file.metadata()?.len() != piece.offset {
        return other("a piece of the registry is missing");
    }
    file.write_all(&piece.bytes)
}

fn internal(error: impl ToString) -> Failure {
    Failure::new(FailureKind::Internal, error)
}

/// Where tests stop a node in order to kill it.
mod fault {
    /// Does nothing, but in a test that has chosen this point.
    #[cfg_attr(not(test), expect(clippy::unused_async, reason = "tests wait here"))]
    pub(super) async fn point(name: &str) {
        #[cfg(test)]
        crate::tests::stop_at(name).await;
        #[cfg(not(test))]
        let _ = name;
    }
}
