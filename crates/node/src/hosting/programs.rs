//! Programs that come from the node that has them: modules, never native code. Each is checked by its name.

use std::sync::Arc;

use sterna_migration::NodeId;
use sterna_process::ProgramId;

use super::{Hosting, blocking};
use crate::limits::{ANSWER_WITHIN, PROGRAM_BYTES_MAX, PROGRAM_PIECE_BYTES};
use crate::message::{Failure, FailureKind, HostingReply, HostingRequest, Reply, Request};
use crate::service::Service;

impl Hosting {
    /// A piece of a program that is here.
    pub(super) async fn program_piece(
        &self,
        program: ProgramId,
        offset: u64,
    ) -> Result<HostingReply, Failure> {
        let workshop = Arc::clone(&self.workshop);
        let bytes = blocking(move || workshop.bytes(&program)).await?;
        let bytes = bytes.map_err(|message| Failure::new(FailureKind::NotHere, message))?;
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let end = start.saturating_add(PROGRAM_PIECE_BYTES).min(bytes.len());
        Ok(HostingReply::Program {
            total: bytes.len() as u64,
            bytes: bytes[start..end].to_vec(),
        })
    }

    pub(super) async fn has(&self, program: ProgramId) -> bool {
        let workshop = Arc::clone(&self.workshop);
        blocking(move || workshop.has(&program))
            .await
            .unwrap_or(false)
    }
}

impl Service {
    /// Gets a program from another node and makes it ready.
    pub(super) async fn fetch_program(
        &self,
        hosting: &Hosting,
        from: NodeId,
        program: ProgramId,
    ) -> Result<(), Failure> {
        let mut whole = Vec::new();
        loop {
            let offset = whole.len() as u64;
            let request = Request::Hosting(HostingRequest::Program { program, offset });
            let addresses = self.addresses(from);
            let asked = self
                .transport
                .ask(from, &addresses, &request, ANSWER_WITHIN)
                .await;
            let (total, bytes) = match asked {
                Ok((Reply::Hosting(HostingReply::Program { total, bytes }), _)) => (total, bytes),
                Ok((Reply::Failed(failure), _)) => return Err(failure),
                Ok(_) => return Err(Failure::refused("the other node answers another question")),
                Err(error) => return Err(Failure::new(FailureKind::Unreachable, error)),
            };
            if total > PROGRAM_BYTES_MAX || offset + bytes.len() as u64 > total {
                return Err(Failure::refused(format!(
                    "the program has {total} bytes, {PROGRAM_BYTES_MAX} are allowed"
                )));
            }
            let is_last = offset + bytes.len() as u64 == total;
            if bytes.is_empty() && !is_last {
                return Err(Failure::refused(
                    "the other node stopped in the middle of the program",
                ));
            }
            whole.extend(bytes);
            if is_last {
                break;
            }
        }
        if ProgramId::of(&whole) != program {
            return Err(Failure::refused(
                "what the other node sent is another program",
            ));
        }
        let workshop = Arc::clone(&hosting.workshop);
        let added = blocking(move || workshop.add(whole.into())).await?;
        added.map_err(Failure::refused)
    }
}
