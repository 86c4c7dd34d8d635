//! Programs: what this node has of them, and modules, never native code, that come from another. Each is checked by its name.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sterna_migration::NodeId;
use sterna_process::{ProgramId, Tag};

use tokio::time::Instant;

use super::{Hosting, blocking};
use crate::limits::{ANSWER_WITHIN, PROGRAM_BYTES_MAX, PROGRAM_PIECE_BYTES, PROGRAM_SEEN_FOR};
use crate::message::{Failure, FailureKind, HostingReply, HostingRequest, Reply, Request};
use crate::service::Service;
use crate::workshop::Workshop;

/// What the workshop has said of programs: it is in another process, and need not be asked at each start.
#[derive(Default)]
pub(super) struct Programs {
    /// When they were there, for processes of a kind.
    seen: Mutex<HashMap<(Tag, ProgramId), Instant>>,
    /// When it was told that processes of them may be moved.
    expected: Mutex<HashMap<(Tag, ProgramId), Instant>>,
}

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

    /// Whether the program of a process that is to be started is here, or was a moment ago: if it was removed since, the
    /// runner says so.
    pub(super) async fn has_for_start(&self, kind: &Tag, program: ProgramId) -> bool {
        let now = Instant::now();
        let is_fresh = |at: &Instant| now.duration_since(*at) < PROGRAM_SEEN_FOR;
        let key = (kind.clone(), program);
        if locked(&self.programs.seen).get(&key).is_some_and(is_fresh) {
            return true;
        }
        let has = self.has(kind, program).await;
        let mut seen = locked(&self.programs.seen);
        seen.retain(|_, at| is_fresh(at));
        if has {
            seen.insert(key, now);
        }
        has
    }

    /// Processes of a program may be moved: what that takes is made ready meanwhile, which the workshop does once.
    pub(super) fn expect_moves(&self, kind: Tag, program: ProgramId) {
        let mut expected = locked(&self.programs.expected);
        expected.retain(|_, told| told.elapsed() < PROGRAM_SEEN_FOR);
        let key = (kind.clone(), program);
        let is_new = expected.insert(key, Instant::now()).is_none();
        drop(expected);
        if is_new {
            let workshop = Arc::clone(&self.workshop);
            tokio::task::spawn_blocking(move || workshop.expect_moves(&kind, &program));
        }
    }

    pub(super) async fn has(&self, kind: &Tag, program: ProgramId) -> bool {
        let (workshop, kind) = (Arc::clone(&self.workshop), kind.clone());
        blocking(move || workshop.has(&kind, &program))
            .await
            .unwrap_or(false)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Gets a program from another node and makes it ready for processes of a kind.
    pub(super) async fn fetch_program(
        &self,
        hosting: &Hosting,
        from: NodeId,
        (kind, program): (&Tag, ProgramId),
    ) -> Result<(), Failure> {
        let mut whole = Vec::new();
        loop {
            let offset = whole.len() as u64;
            let request = Request::Hosting(HostingRequest::Program { program, offset });
            let asked = self.transport.ask(from, &request, ANSWER_WITHIN).await;
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
        let (workshop, kind) = (Arc::clone(&hosting.workshop), kind.clone());
        let added = blocking(move || workshop.add(&kind, whole.into())).await?;
        added.map_err(Failure::refused)
    }
}
