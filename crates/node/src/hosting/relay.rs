//! A process of one node is frozen into a file of another node's machine, or thawed out of one.
//!
//! ```text
//!  command           its service                       service that has the process         runner
//!    │ pipe, socket ─────►│ Freeze ─────── a QUIC stream ──────►│ own pipe, own socket ───────►│
//!    │◄═════ copy ════════│◄═══════════ pieces ═════════════════│◄═════════ copy ══════════════│
//!    │                    │◄═══════════ empty piece ════════════│ it is over, whole or not
//!    │ seal ─────────────►│ seal ──────────────────────────────►│ swap: frozen in that file
//!    │◄─────────────── done│◄────────────────────────────── reply│
//! ```
//!
//! A thaw is the other way about: `ThawAt`, the pieces, and the reply, with nothing to seal.
//!
//! A piece is its length, as `u32` in little-endian, and its bytes. Whether the copy is whole, it says itself. Each side
//! lets go of its own pipe or socket when the stream breaks, and by that the rest is as on one machine: no seal, no file.
//! Only who has sent the seal and gets no answer does not know what became of it. It looks into the registry.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;

use quinn::{RecvStream, SendStream};
use sterna_migration::{GrantSeal, Life, NodeId, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep, timeout};

use super::files::SEAL_BYTES;
use crate::door::{self, Authority};
use crate::limits::{
    ANSWER_WITHIN, FREEZE_PIECE_BYTES, FREEZE_WITHIN, REPLY_BYTES_MAX, RETRY_FIRST, START_WITHIN,
};
use crate::message::{
    Failure, FailureKind, HostingReply, HostingRequest, Reply, Request, ThawOrder,
};
use crate::service::Service;
use crate::transport::CLOSE_REFUSED;
use crate::wire;

impl Service {
    /// Has a process frozen by the node that has it, into the file of a user of this machine.
    pub(super) async fn freeze_at(
        &self,
        record: Record,
        request: HostingRequest,
        pipe: OwnedFd,
        socket: OwnedFd,
    ) -> Result<HostingReply, Failure> {
        let HostingRequest::Freeze { process, keep, .. } = request else {
            return Err(Failure::refused("not a request of this sort"));
        };
        let pipe = pipe::Sender::from_owned_fd(pipe).map_err(Failure::refused)?;
        let socket = as_tokio(socket.into()).map_err(Failure::refused)?;
        let request = Request::Hosting(request);
        let begun = self.transport.begin(record.owner, &request).await;
        let (mut to, mut from) = begun.map_err(|error| unreachable(error, "runs on there"))?;
        let failed = |error: io::Error, to: &mut SendStream| {
            let _ = to.reset(CLOSE_REFUSED.into());
            unreachable(error, "runs on there, as soon as that is noticed")
        };
        if let Err(error) = within(take_copy(&mut from, pipe)).await {
            return Err(failed(error, &mut to));
        }
        let mut reply = pin!(wire::receive(&mut from, REPLY_BYTES_MAX, FREEZE_WITHIN));
        let sealed = async {
            match keep {
                true => Ok(None),
                false => pass_seal(socket, &mut to).await,
            }
        };
        let (reply, seal) = tokio::select! {
            biased;
            sealed = within(sealed) => match sealed {
                Ok(seal) => {
                    let _ = to.finish();
                    (reply.await, seal)
                }
                Err(error) => return Err(failed(error, &mut to)),
            },
            // It has failed there, and who writes the file waits for that to be said.
            early = &mut reply => (early, None),
        };
        match (reply, seal) {
            (Ok(Reply::Hosting(reply @ HostingReply::Frozen { .. })), _) => Ok(reply),
            (Ok(Reply::Failed(failure)), _) => Err(failure),
            (Ok(_), _) => Err(Failure::refused("the other node answers another question")),
            (Err(error), Some(seal)) if self.comes_to_be_frozen(process, seal).await => {
                tracing::debug!("no answer, but the registry has it: {error}");
                Ok(HostingReply::Frozen { stood_us: 0 })
            }
            (Err(error), _) => Err(unreachable(error, "has not been frozen as far as is known")),
        }
    }

    /// Whether it is in the file with this seal, as far as the registry knows or soon learns.
    async fn comes_to_be_frozen(
        &self,
        process: sterna_process::ProcessId,
        seal: GrantSeal,
    ) -> bool {
        let until = Instant::now() + ANSWER_WITHIN;
        loop {
            let record = self.entry(process).await.map(|entry| entry.record());
            match record {
                Ok(Ok(record)) if record.life == Life::Frozen(seal) => return true,
                Ok(Ok(record)) if record.life != Life::Alive => return false,
                _ if Instant::now() >= until => return false,
                _ => sleep(RETRY_FIRST).await,
            }
        }
    }

    /// Freezes a process of this node for another one, which writes the file.
    pub(crate) async fn freeze_for(
        self: &Arc<Self>,
        authority: Authority,
        request: HostingRequest,
        to: &mut SendStream,
        from: &mut RecvStream,
    ) -> Reply {
        let whole = Request::Hosting(request.clone());
        let hosting = match (door::permit(authority, &whole), &self.hosting) {
            (Ok(()), Some(hosting)) => Arc::clone(hosting),
            (Ok(()), None) => {
                return Reply::Failed(Failure::refused("this node hosts no processes"));
            }
            (Err(failure), _) => return Reply::Failed(failure),
        };
        let ends = || -> io::Result<_> {
            let (reading, writing) = io::pipe()?;
            let reading = pipe::Receiver::from_owned_fd(reading.into())?;
            let (ours, theirs) = UnixStream::pair()?;
            Ok(((reading, as_tokio(ours)?), (writing.into(), theirs.into())))
        };
        let ((reading, socket), (writing, theirs)) = match ends() {
            Ok(ends) => ends,
            Err(error) => return Reply::Failed(Failure::new(FailureKind::Internal, error)),
        };
        let freezing = self.freeze_here(&hosting, request, writing, theirs);
        let relaying = timeout(FREEZE_WITHIN, async {
            // Whatever fails here shows in the reply, or nobody is left to hear of it: `socket` ends without a seal.
            send_copy(reading, to).await?;
            hear_seal(from, socket).await
        });
        let (frozen, relayed) = tokio::join!(freezing, relaying);
        if let Ok(Err(error)) = relayed {
            tracing::debug!("a freeze was not relayed to its end: {error}");
        }
        match frozen {
            Ok(reply) => Reply::Hosting(reply),
            Err(failure) => Reply::Failed(failure),
        }
    }

    /// Has a process thawed by another node, out of the file of a user of this machine.
    pub(super) async fn thaw_at(
        &self,
        on: NodeId,
        request: HostingRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<HostingReply, Failure> {
        let [copy] = <[OwnedFd; 1]>::try_from(descriptors).map_err(|_| {
            Failure::refused(
                "a copy belongs to this request, and no directory goes to another node",
            )
        })?;
        let copy = pipe::Receiver::from_owned_fd(copy).map_err(Failure::refused)?;
        if self.is_older(on).await? {
            return Err(Failure::refused(
                "that node is older and thaws only files of its own machine: upgrade it, or thaw it here and move it",
            ));
        }
        let request = Request::Hosting(request);
        let begun = self.transport.begin(on, &request).await;
        let (mut to, mut from) = begun.map_err(|error| self.silent(on, error))?;
        let relayed = async {
            // A node that refuses it reads no further; its reply says why.
            let _ = send_copy(copy, &mut to).await;
            let _ = to.finish();
            wire::receive(&mut from, REPLY_BYTES_MAX, START_WITHIN).await
        };
        match timeout(START_WITHIN, relayed).await {
            Ok(Ok(Reply::Hosting(reply))) => Ok(reply),
            Ok(Ok(Reply::Failed(failure))) => Err(failure),
            Ok(Ok(_)) => Err(Failure::refused("the other node answers another question")),
            Ok(Err(_)) | Err(_) => Err(Failure::new(
                FailureKind::Unreachable,
                "no answer from that node: `sterna ps -a` shows whether the process was thawed there",
            )),
        }
    }

    /// Thaws a process here that comes out of a file on another node's machine.
    pub(crate) async fn thaw_for(
        self: &Arc<Self>,
        authority: Authority,
        request: HostingRequest,
        from: &mut RecvStream,
    ) -> Reply {
        let whole = Request::Hosting(request.clone());
        let thawed = match (door::permit(authority, &whole), request, authority) {
            (Ok(()), HostingRequest::ThawAt(order, on), Authority::Member(node))
                if on == self.id =>
            {
                self.thaw_from(*order, node, from).await
            }
            (Err(failure), ..) => Err(failure),
            _ => Err(Failure::refused("that is asked of another node")),
        };
        let _ = from.stop(CLOSE_REFUSED.into());
        match thawed {
            Ok(reply) => Reply::Hosting(reply),
            Err(failure) => Reply::Failed(failure),
        }
    }

    async fn thaw_from(
        &self,
        order: ThawOrder,
        node: NodeId,
        from: &mut RecvStream,
    ) -> Result<HostingReply, Failure> {
        let hosting = self.hosting.as_ref();
        let hosting = hosting.ok_or_else(|| Failure::refused("this node hosts no processes"))?;
        let (reading, writing) = io::pipe().map_err(Failure::refused)?;
        let writing = pipe::Sender::from_owned_fd(writing.into()).map_err(Failure::refused)?;
        let thawing = self.thaw_here(hosting, order, vec![reading.into()], Some(node));
        let mut thawing = pin!(thawing);
        tokio::select! {
            thawed = &mut thawing => return thawed,
            taken = take_copy(from, writing) => {
                if let Err(error) = taken {
                    tracing::debug!("a copy did not come to its end: {error}");
                }
            }
        }
        // Whether it was whole, the copy says itself.
        thawing.await
    }
}

/// All that comes out of a pipe, and that this is all.
async fn send_copy(mut reading: pipe::Receiver, to: &mut SendStream) -> io::Result<()> {
    let mut piece = vec![0; FREEZE_PIECE_BYTES];
    loop {
        let got = reading.read(&mut piece).await?;
        to.write_u32_le(got as u32).await?;
        to.write_all(&piece[..got]).await?;
        if got == 0 {
            return Ok(());
        }
    }
}

/// The other side of [`send_copy`].
async fn take_copy(from: &mut RecvStream, mut writing: pipe::Sender) -> io::Result<()> {
    let mut piece = vec![0; FREEZE_PIECE_BYTES];
    loop {
        let length = from.read_u32_le().await? as usize;
        if length == 0 {
            return Ok(());
        }
        let Some(piece) = piece.get_mut(..length) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        from.read_exact(piece).await.map_err(io::Error::other)?;
        writing.write_all(piece).await?;
    }
}

/// Passes on what the writer of the file says of it: its seal, or nothing if there is no file.
async fn pass_seal(
    mut socket: tokio::net::UnixStream,
    to: &mut SendStream,
) -> io::Result<Option<GrantSeal>> {
    let mut seal = [0; SEAL_BYTES];
    match socket.read_exact(&mut seal).await {
        Ok(_) => {
            to.write_all(&seal).await?;
            Ok(Some(GrantSeal::from_bytes(seal)))
        }
        Err(_) => Ok(None),
    }
}

/// The other side of [`pass_seal`]; not if nobody waits for a seal any more.
async fn hear_seal(from: &mut RecvStream, mut socket: tokio::net::UnixStream) -> io::Result<()> {
    let mut seal = [0; SEAL_BYTES];
    let (mut waits, mut to) = socket.split();
    tokio::select! {
        read = from.read_exact(&mut seal) => read.map_err(io::Error::other)?,
        _ = waits.read_u8() => return Ok(()),
    }
    to.write_all(&seal).await
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let done = timeout(FREEZE_WITHIN, work).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn as_tokio(socket: UnixStream) -> io::Result<tokio::net::UnixStream> {
    socket.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(socket)
}

fn unreachable(why: impl std::fmt::Display, state: &str) -> Failure {
    let message = format!("the node that has the process: {why}; the process {state}");
    Failure::new(FailureKind::Unreachable, message)
}
