//! Programs that come from the node that has them: modules, never native code. Each is checked by its name.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sterna_migration::NodeId;
use sterna_process::ProgramId;

use super::{Hosting, blocking};
use crate::limits::{ANSWER_WITHIN, PROGRAM_BYTES_MAX, PROGRAM_PIECE_BYTES};
use crate::message::{Failure, FailureKind, HostingReply, HostingRequest, Reply, Request};
use crate::service::Service;
use crate::workshop::Workshop;

impl Hosting {
    /// A piece of a program that is here. Whoever puts it together compares it with its name.
    pub(super) async fn program_piece(
        &self,
        program: ProgramId,
        offset: u64,
    ) -> Result<HostingReply, Failure> {
        let workshop = Arc::clone(&self.workshop);
        let read = move || {
            let file = workshop.module(&program)?;
            let text = |error: std::io::Error| error.to_string();
            let total = file.metadata().map_err(text)?.len();
            let left = usize::try_from(total.saturating_sub(offset)).unwrap_or(usize::MAX);
            let mut bytes = vec![0; left.min(PROGRAM_PIECE_BYTES)];
            file.read_exact_at(&mut bytes, offset).map_err(text)?;
            Ok((total, bytes))
        };
        let piece = blocking(read).await?;
        let (total, bytes) =
            piece.map_err(|message: String| Failure::new(FailureKind::NotHere, message))?;
        Ok(HostingReply::Program { total, bytes })
    }

    pub(super) async fn has(&self, program: ProgramId) -> bool {
        let workshop = Arc::clone(&self.workshop);
        blocking(move || workshop.has(&program))
            .await
            .unwrap_or(false)
    }
}

/// All of a program that is here.
pub(super) fn whole(workshop: &dyn Workshop, program: &ProgramId) -> Result<Vec<u8>, String> {
    let file = workshop.module(program)?;
    let mut bytes = Vec::new();
    file.take(PROGRAM_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    match ProgramId::of(&bytes) == *program {
        true => Ok(bytes),
        false => Err("the program in the cache is damaged: add it again".into()),
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
