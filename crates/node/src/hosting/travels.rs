//! Copies of directories on a move: the target gets them from the source, before the process stands still and then again
//! what has changed.
//!
//! ```text
//! source: service                                  target: service
//!   │ Offer ────────────────────────────────────────►│ admits: is there room?
//!   │◄── Tree{running}: list, hashes ────────────────│
//!   │◄── TreePieces: contents it does not have ──────│    the process runs
//!   │◄── Accept ─────────────────────────────────────│
//!   │ pause, capture                                 │
//!   │ lists again; TreesStill ──────────────────────►│
//!   │◄── Tree{still}, TreePieces: what differs ──────│    it stands still
//!   │◄── done ───────────────────────────────────────│
//!   │ image and pages go from runner to runner; the process is made in its directories
//! ```
//!
//! All goes over the connection of the two nodes, whose keys are proved. A target takes paths, sizes and contents from
//! nobody: it resolves them beneath its own folder, keeps room for what was listed, and takes no byte more. What the node
//! at which the process began still has in the directory that was copied is not sent to it.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sterna_migration::{Attempt, NodeId, Refusal};
use sterna_process::ProcessId;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::copies::{Copies, copied};
use super::input::Input;
use super::{Hosting, blocking};
use crate::limits::{
    ANSWER_WITHIN, PAGE_BYTES_MAX, TREE_ASKED_AT_ONCE, TREE_ENTRIES_MAX, TREE_LIST_WITHIN,
    TREE_PIECE_BYTES, TREE_STILL_WITHIN, TREE_WISHES_MAX,
};
use crate::message::{
    Binding, Failure, FailureKind, HostingReply, HostingRequest, Reply, Request, TreeEntry,
    TreePage, TreeRound, TreeWish, TreesSent,
};
use crate::service::Service;
use crate::trees::{self, Making, Scan, Size, Tree, Writer, piece_bytes};

/// Copies that go away with their process.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// As they are listed for the target.
    listed: Mutex<Listed>,
    /// One list is made at a time.
    listing: tokio::sync::Mutex<()>,
    sent: Mutex<TreesSent>,
}

#[derive(Debug, Default)]
struct Listed {
    running: Option<Arc<Scan>>,
    still: Option<Arc<Scan>>,
}

/// Copies of a process that comes.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) attempt: Attempt,
    /// What is here of them for sure.
    pub(super) have: Tree,
}

impl Leaving {
    fn scan(&self, round: TreeRound) -> Option<Arc<Scan>> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        match round {
            TreeRound::Running => listed.running.clone(),
            TreeRound::Still => listed.still.clone(),
        }
    }

    fn sent(&self, change: impl FnOnce(&mut TreesSent)) {
        change(&mut self.sent.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What has gone of them, for the report.
    pub(super) fn told(&self) -> TreesSent {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a list.
    async fn list(
        &self,
        copies: &Arc<Copies>,
        process: ProcessId,
        round: TreeRound,
    ) -> Result<Arc<Scan>, Failure> {
        let before = self.scan(TreeRound::Running);
        let copies = Arc::clone(copies);
        let scanned = blocking(move || {
            let place = copies.place(process).map_err(|error| error.to_string())?;
            let before = before.unwrap_or_default();
            trees::scan(place.as_fd(), &before).map_err(|error| error.to_string())
        });
        let scan = Arc::new(scanned.await?.map_err(Failure::refused)?);
        let size = scan.tree.size();
        self.sent(|sent| (sent.bytes, sent.entries) = (size.bytes, size.entries as u64));
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        match round {
            TreeRound::Running => listed.running = Some(Arc::clone(&scan)),
            TreeRound::Still => listed.still = Some(Arc::clone(&scan)),
        }
        Ok(scan)
    }
}

/// At the source.
impl Hosting {
    /// A part of the list of what goes along, for the target of a move.
    pub(super) async fn tree_page(
        &self,
        attempt: Attempt,
        to: NodeId,
        round: TreeRound,
        after: u32,
    ) -> Result<HostingReply, Failure> {
        self.goes_to(attempt, to).await?;
        let leaving = self.copies.leave(attempt);
        let scan = match round {
            TreeRound::Running => {
                let one_at_a_time = leaving.listing.lock().await;
                let scan = match leaving.scan(round) {
                    Some(scan) => scan,
                    None => leaving.list(&self.copies, attempt.process, round).await?,
                };
                drop(one_at_a_time);
                Some(scan)
            }
            TreeRound::Still => leaving.scan(round),
        };
        let scan = scan.ok_or_else(|| Failure::refused("the process does not stand still yet"))?;
        let entries = scan.tree.entries().iter().skip(after as usize);
        let mut bytes = 0;
        let page = entries.take_while(|entry| {
            let has_room = bytes < PAGE_BYTES_MAX;
            bytes += entry.path.len() + std::mem::size_of::<TreeEntry>();
            has_room
        });
        let entries: Vec<TreeEntry> = page.cloned().collect();
        let next = after + entries.len() as u32;
        Ok(HostingReply::Tree(TreePage {
            next: ((next as usize) < scan.tree.entries().len()).then_some(next),
            entries,
        }))
    }

    /// Contents of files that were listed, each piece as long as [`piece_bytes`] says, or shorter.
    pub(super) async fn tree_pieces(
        &self,
        attempt: Attempt,
        to: NodeId,
        round: TreeRound,
        wishes: Vec<TreeWish>,
    ) -> Result<HostingReply, Failure> {
        self.goes_to(attempt, to).await?;
        let leaving = self.copies.leaving(attempt);
        let scan = leaving.as_ref().and_then(|leaving| leaving.scan(round));
        let (Some(leaving), Some(scan)) = (leaving, scan) else {
            return Err(Failure::refused("nothing was listed of that move"));
        };
        let place = self.copies.place(attempt.process);
        let place = place.map_err(Failure::refused)?;
        let pieces = blocking(move || {
            let mut pieces = Vec::new();
            let mut left = 2 * TREE_PIECE_BYTES;
            for wish in wishes.iter().take(TREE_WISHES_MAX) {
                let entry = scan.tree.entries().get(wish.entry as usize);
                let entry = entry.ok_or("no file has that number")?;
                let bytes = piece_bytes(entry.bytes(), wish.offset);
                left = left
                    .checked_sub(bytes)
                    .ok_or("too much is asked for at once")?;
                let piece = trees::read_piece(place.as_fd(), &entry.path, wish.offset, bytes);
                let mut piece = piece.map_err(|error| error.to_string())?;
                let end = piece.iter().rposition(|&byte| byte != 0);
                piece.truncate(end.map_or(0, |end| end + 1));
                pieces.push(piece);
            }
            Ok::<_, String>(pieces)
        });
        let pieces = pieces.await?.map_err(Failure::refused)?;
        let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        leaving.sent(|sent| match round {
            TreeRound::Running => sent.running_bytes += bytes,
            TreeRound::Still => sent.still_bytes += bytes,
        });
        let pieces = pieces.into_iter().map(Into::into).collect();
        Ok(HostingReply::TreePieces(pieces))
    }

    /// Fails unless a process is leaving for that node by this very attempt.
    async fn goes_to(&self, attempt: Attempt, to: NodeId) -> Result<(), Failure> {
        let (target, answered) = oneshot::channel();
        self.tell(Input::TargetOf { attempt, target }).await;
        match answered.await.ok().flatten() {
            Some(target) if target == to => Ok(()),
            _ => {
                let message = "no process goes to you by that move";
                Err(Failure::new(FailureKind::Forbidden, message))
            }
        }
    }
}

impl Service {
    /// The process stands still: the target gets what has changed. Whatever goes wrong, it is told in a sentence.
    pub(super) async fn send_trees(
        &self,
        hosting: &Hosting,
        attempt: Attempt,
        target: NodeId,
    ) -> Result<(), String> {
        let Some(leaving) = hosting.copies.leaving(attempt) else {
            return Ok(());
        };
        let begun = Instant::now();
        let listed = leaving.list(&hosting.copies, attempt.process, TreeRound::Still);
        listed.await.map_err(|failure| failure.message)?;
        let request = Request::Hosting(HostingRequest::TreesStill { attempt });
        let asked = self
            .transport
            .ask(target, &request, TREE_STILL_WITHIN)
            .await;
        let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        leaving.sent(|sent| sent.still_us += us);
        match asked {
            Ok((Reply::Done, _)) => Ok(()),
            Ok((Reply::Failed(failure), _)) => Err(failure.message),
            Ok(_) => Err("the target answers another question".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Whether the target of a move has room for the copies of a process.
    pub(super) async fn have_room(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        target: NodeId,
    ) -> Result<(), Failure> {
        let place = hosting.copies.place(process).map_err(Failure::refused)?;
        let size = blocking(move || trees::measure(place.as_fd())).await?;
        let size = size.map_err(Failure::refused)?;
        let request = HostingRequest::TreesMayCome {
            process,
            bytes: size.bytes,
            entries: size.entries as u64,
        };
        let asked = self.may_be_asked(target, request).await;
        asked.map_err(|failure| Failure {
            message: format!("the target has no room: {}", failure.message),
            ..failure
        })
    }
}

/// At the target.
impl Service {
    /// Gets the copies of a process that was offered, while it runs.
    pub(super) async fn admit_trees(
        self: &Arc<Self>,
        hosting: &Hosting,
        attempt: Attempt,
        source: NodeId,
        bindings: &[Binding],
    ) -> Result<(), Refusal> {
        if copied(bindings).next().is_none() {
            return Ok(());
        }
        hosting.copies.arrive(attempt, Tree::default());
        let copies = Arc::clone(&hosting.copies);
        let process = attempt.process;
        let room = |reason: String| Refusal::Room { reason };
        let made = blocking(move || copies.make_place(process)).await;
        let made = made.map_err(|failure| room(failure.message))?;
        made.map_err(|error| room(format!("no place for a copy of a directory: {error}")))?;
        let came = self
            .bring_trees(hosting, attempt, source, TreeRound::Running, bindings)
            .await;
        came.map_err(room)
    }

    /// Gets what differs between the source's list of a round and what is here.
    pub(super) async fn bring_trees(
        self: &Arc<Self>,
        hosting: &Hosting,
        attempt: Attempt,
        source: NodeId,
        round: TreeRound,
        bindings: &[Binding],
    ) -> Result<(), String> {
        let given_up = || "the move was given up".to_owned();
        let process = attempt.process;
        let have = hosting.copies.arrived(attempt).ok_or_else(given_up)?;
        let entries = self.tree_of(attempt, source, round).await?;
        let names: Vec<String> = copied(bindings)
            .map(|(number, _)| number.to_string())
            .collect();
        let tree = Tree::of_another(entries, &names).map_err(|error| error.to_string())?;
        hosting.copies.reserve(process, tree.size())?;
        let copies = Arc::clone(&hosting.copies);
        let begun = blocking(move || {
            let place = copies.place(process).map_err(|error| error.to_string())?;
            let making = Making::begin(Writer::new(place), &have, Arc::new(tree));
            let mut making = making.map_err(|error| error.to_string())?;
            copies.reuse(process, &mut making)?;
            Ok::<_, String>(making)
        });
        let mut making = text(begun.await)?;
        let mut wishes = making.wishes().into_iter();
        let mut asked: VecDeque<Asked> = VecDeque::new();
        loop {
            while asked.len() < TREE_ASKED_AT_ONCE
                && let Some(wishes) = wishes.next()
            {
                asked.push_back(self.ask_for(attempt, source, round, wishes));
            }
            let Some(Asked { wishes, pieces }) = asked.pop_front() else {
                break;
            };
            let pieces = pieces.await.map_err(|_| given_up())??;
            if !hosting.copies.is_arriving(attempt) {
                return Err(given_up());
            }
            let written = blocking(move || {
                for (wish, piece) in wishes.into_iter().zip(pieces) {
                    making
                        .take(wish, piece)
                        .map_err(|error| error.to_string())?;
                }
                Ok::<_, String>(making)
            });
            making = text(written.await)?;
        }
        let ended = blocking(move || making.end().map_err(|error| error.to_string()));
        let (have, other) = text(ended.await)?;
        if !hosting.copies.is_arriving(attempt) {
            return Err(given_up());
        }
        hosting.copies.arrive(attempt, have);
        match other {
            // What changes while the process runs is sent again.
            Some(error) if round == TreeRound::Still => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    /// All of a list.
    async fn tree_of(
        &self,
        attempt: Attempt,
        source: NodeId,
        round: TreeRound,
    ) -> Result<Vec<TreeEntry>, String> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let request = HostingRequest::Tree {
                attempt,
                round,
                after,
            };
            let reply = self.ask_source(source, request, TREE_LIST_WITHIN).await?;
            let HostingReply::Tree(page) = reply else {
                return Err("the source answers another question".into());
            };
            all.extend(page.entries);
            let goes_on = |next: &u32| *next as usize == all.len() && *next > after;
            match page.next {
                None => return Ok(all),
                Some(next) if goes_on(&next) && all.len() <= TREE_ENTRIES_MAX => after = next,
                Some(_) => return Err("the source lists files in a way that no node does".into()),
            }
        }
    }

    fn ask_for(
        self: &Arc<Self>,
        attempt: Attempt,
        source: NodeId,
        round: TreeRound,
        wishes: Vec<TreeWish>,
    ) -> Asked {
        let service = Arc::clone(self);
        let request = HostingRequest::TreePieces {
            attempt,
            round,
            wishes: wishes.clone(),
        };
        let wanted = wishes.len();
        let pieces = tokio::spawn(async move {
            match service.ask_source(source, request, ANSWER_WITHIN).await? {
                HostingReply::TreePieces(pieces) if pieces.len() == wanted => {
                    Ok(pieces.into_iter().map(Into::into).collect())
                }
                _ => Err("the source answers another question".to_owned()),
            }
        });
        Asked { wishes, pieces }
    }

    async fn ask_source(
        &self,
        source: NodeId,
        request: HostingRequest,
        within: std::time::Duration,
    ) -> Result<HostingReply, String> {
        let request = Request::Hosting(request);
        match self.transport.ask(source, &request, within).await {
            Ok((Reply::Hosting(reply), _)) => Ok(reply),
            Ok((Reply::Failed(failure), _)) => Err(failure.message),
            Ok(_) => Err("the source answers another question".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What has changed while the process ran: its source says that it stands still now.
    pub(super) async fn trees_stand_still(
        self: &Arc<Self>,
        hosting: &Hosting,
        attempt: Attempt,
        source: NodeId,
    ) -> Result<(), Failure> {
        if hosting.source_of(attempt).await != Some(source) {
            let message = "no process is coming from you by that move";
            return Err(Failure::new(FailureKind::Forbidden, message));
        }
        let bindings = hosting.bindings_of(attempt.process);
        let came = self
            .bring_trees(hosting, attempt, source, TreeRound::Still, &bindings)
            .await;
        came.map_err(Failure::refused)
    }
}

/// Contents that were asked for.
struct Asked {
    wishes: Vec<TreeWish>,
    pieces: JoinHandle<Result<Vec<Vec<u8>>, String>>,
}

fn text<T>(done: Result<Result<T, String>, Failure>) -> Result<T, String> {
    done.map_err(|failure| failure.message)?
}

impl Copies {
    /// The same as [`Copies::room_for`], of what another node says.
    pub(super) fn may_come(
        &self,
        process: ProcessId,
        bytes: u64,
        entries: u64,
    ) -> Result<(), Failure> {
        let entries = usize::try_from(entries).unwrap_or(usize::MAX);
        let room = self.room_for(process, Size { bytes, entries });
        room.map_err(Failure::refused)
    }
}
