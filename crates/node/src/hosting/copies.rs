//! Copies of directories that go along with their processes (`:copy`): what is on this node's disk, how much room there is,
//! and where changes go back to.
//!
//! ```text
//! DATA/hosting/copies/PROCESS/N/…     the directory of its binding N
//! DATA/hosting/copies/gone/…          on its way to be removed
//!
//!  start ─► copied from the user's directory, which stays open ─► the process works in the copy ─► it ends: given back
//!                                                                   │ move: see `travels`
//!                                                                   └► other node: the copy here is removed
//! ```
//!
//! A copy is here while the registry says that its process is this node's, whether it runs or not; so one whose changes
//! could not be given back stays until the process is forgotten.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sterna_migration::{Attempt, Life};
use sterna_process::{Directory, ProcessId};
use sterna_runner::files::Files;
use sterna_runner::message::FileDeed;

use super::input::Input;
use super::runner::make_folder;
use super::travels::{Arriving, Leaving};
use super::{Hosting, blocking};
use crate::limits::{COPIES_SPARE_BYTES, ORIGINS_MAX, REPORTS_MAX};
use crate::message::{
    Belongings, Binding, BindingSort, EventSort, Failure, FailureKind, HostingReply,
    RegistryRequest, Reply, TreesSent,
};
use crate::service::Service;
use crate::trees::{self, Making, Size, Tree, TreeDeed, TreeDone};
use crate::workshop::Workshop;

const GONE: &str = "gone";

/// Copies on this node.
#[derive(Debug)]
pub(crate) struct Copies {
    folder: PathBuf,
    bytes_max: u64,
    /// Who reaches the directories of users.
    workshop: Arc<dyn Workshop>,
    state: Mutex<State>,
    /// Numbers what is on its way to be removed.
    gone: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// What the copies of each process had when they were made or came, in bytes.
    here: HashMap<ProcessId, u64>,
    origins: HashMap<ProcessId, Vec<Origin>>,
    leaving: HashMap<Attempt, Arc<Leaving>>,
    arriving: HashMap<ProcessId, Arriving>,
    /// What went on the last moves away from here.
    sent: VecDeque<(Attempt, TreesSent)>,
    /// Processes of which the registry does not know yet.
    starting: HashSet<ProcessId>,
}

/// A directory that was copied here at a start.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// The number of the binding.
    pub(super) number: usize,
    pub(super) directory: Arc<OwnedFd>,
    /// What was copied.
    pub(super) base: Arc<Tree>,
    /// Whether changes are to go back.
    returns: bool,
}

impl Copies {
    /// Those in a folder.
    pub(super) fn new(folder: PathBuf, bytes_max: u64, workshop: Arc<dyn Workshop>) -> Self {
        if let Err(error) = trees::remove(&folder.join(GONE)) {
            tracing::warn!("old copies are not removed: {error}");
        }
        let here = fs::read_dir(&folder).into_iter().flatten().flatten();
        let here = here.filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let size = File::open(entry.path()).ok();
            let size = size.and_then(|folder| trees::measure(folder.as_fd()).ok());
            Some((process, size.unwrap_or_default().bytes))
        });
        let state = State {
            here: here.collect(),
            ..State::default()
        };
        Self {
            folder,
            bytes_max,
            workshop,
            state: Mutex::new(state),
            gone: AtomicU64::new(0),
        }
    }

    /// Something with directories of users.
    fn tree(&self, deed: TreeDeed, directories: &[BorrowedFd<'_>]) -> Result<TreeDone, String> {
        self.workshop.tree(deed, directories)
    }

    /// Takes contents from where copies of a process were made from, where they are what is wanted still.
    pub(super) fn reuse(&self, process: ProcessId, making: &mut Making) -> Result<(), String> {
        for origin in self.origins(process) {
            let beneath = origin.number.to_string().into_bytes();
            let wanted = making.reusable(&origin.base, &beneath);
            if wanted.is_empty() {
                continue;
            }
            let place = self.place(process).map_err(|error| error.to_string())?;
            let deed = TreeDeed::Reuse {
                wanted: wanted.clone(),
                beneath,
            };
            let both = [origin.directory.as_fd(), place.as_fd()];
            making.reused(&wanted, &self.tree(deed, &both)?.reused()?);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, process: ProcessId) -> PathBuf {
        self.folder.join(process.to_string())
    }

    pub(super) fn has(&self, process: ProcessId) -> bool {
        self.state().here.contains_key(&process)
    }

    /// Whoever has copies here, or a directory to which changes may go back.
    fn known(&self) -> Vec<ProcessId> {
        let state = self.state();
        let all = state.here.keys().chain(state.origins.keys());
        let known = all.filter(|process| !state.starting.contains(process));
        known.copied().collect()
    }

    /// Whether there is room for copies of a process, all in all so many bytes.
    pub(super) fn room_for(&self, process: ProcessId, size: Size) -> Result<(), String> {
        let state = self.state();
        let others = state.here.iter().filter(|(other, _)| **other != process);
        let taken: u64 = others.map(|(_, bytes)| bytes).sum();
        let had = state.here.get(&process).copied().unwrap_or(0);
        let Size { bytes, entries } = size;
        let needs = format!(
            "the directories that are copied along with the process have {bytes} bytes in {entries} files and directories"
        );
        let allowed = self.bytes_max.saturating_sub(taken);
        if bytes > allowed {
            return Err(format!(
                "{needs}, and this node takes {allowed} bytes more of such copies: start it with a larger `--copies`"
            ));
        }
        // Of what it had, all may be there already.
        let more = bytes.saturating_sub(had);
        let free = free_bytes(&self.folder).map_err(|error| {
            format!(
                "it cannot be told how much room {} has: {error}",
                self.folder.display()
            )
        })?;
        let free = free.saturating_sub(COPIES_SPARE_BYTES);
        match more <= free {
            true => Ok(()),
            false => Err(format!(
                "{needs}, and the disk of this node has {free} bytes free for them: make room there"
            )),
        }
    }

    /// Keeps room for copies of a process.
    pub(super) fn reserve(&self, process: ProcessId, size: Size) -> Result<(), String> {
        make_folder(&self.folder).map_err(|error| error.to_string())?;
        self.room_for(process, size)?;
        self.state().here.insert(process, size.bytes);
        Ok(())
    }

    /// An empty folder for copies of a process that comes.
    pub(super) fn make_place(&self, process: ProcessId) -> io::Result<OwnedFd> {
        self.remove_files(process);
        make_folder(&self.of(process))?;
        self.place(process)
    }

    /// The folder with the copies of a process.
    pub(super) fn place(&self, process: ProcessId) -> io::Result<OwnedFd> {
        File::open(self.of(process)).map(OwnedFd::from)
    }

    /// One of them.
    pub(super) fn open(&self, process: ProcessId, number: usize) -> io::Result<OwnedFd> {
        File::open(self.of(process).join(number.to_string())).map(OwnedFd::from)
    }

    /// Copies a directory for a process that is about to start, and keeps it open.
    pub(super) fn take(
        &self,
        process: ProcessId,
        number: usize,
        directory: OwnedFd,
        returns: bool,
    ) -> Result<OwnedFd, String> {
        let held: usize = self.state().origins.values().map(Vec::len).sum();
        if held >= ORIGINS_MAX {
            return Err(format!(
                "{ORIGINS_MAX} directories are copied along with processes of this node, its limit"
            ));
        }
        self.state().starting.insert(process);
        let size = self
            .tree(TreeDeed::Measure, &[directory.as_fd()])?
            .measured()?;
        let before = self.state().here.get(&process).copied().unwrap_or(0);
        let all = Size {
            bytes: before + size.bytes,
            ..size
        };
        self.reserve(process, all)?;
        let folder = self.of(process).join(number.to_string());
        let copied = make_folder(&folder)
            .and_then(|()| self.open(process, number))
            .map_err(|error| format!("no place for the copy: {error}"))?;
        let both = [directory.as_fd(), copied.as_fd()];
        let base = self.tree(TreeDeed::Copy, &both)?.copied()?;
        let origin = Origin {
            number,
            directory: Arc::new(directory),
            base: Arc::new(base),
            returns,
        };
        self.state()
            .origins
            .entry(process)
            .or_default()
            .push(origin);
        self.open(process, number)
            .map_err(|error| error.to_string())
    }

    /// The registry knows of it, or it was not started.
    pub(super) fn has_started(&self, process: ProcessId) {
        self.state().starting.remove(&process);
    }

    pub(super) fn origins(&self, process: ProcessId) -> Vec<Origin> {
        self.state()
            .origins
            .get(&process)
            .cloned()
            .unwrap_or_default()
    }

    /// Lets go of the directories that a process was started with.
    fn forget_origins(&self, process: ProcessId) -> Vec<Origin> {
        self.state().origins.remove(&process).unwrap_or_default()
    }

    /// Removes all that is here for a process.
    pub(super) fn remove(&self, process: ProcessId) {
        self.state().here.remove(&process);
        self.remove_files(process);
    }

    /// From its place at once, whoever still uses it; then from the disk.
    fn remove_files(&self, process: ProcessId) {
        let gone = self.folder.join(GONE);
        let number = self.gone.fetch_add(1, Ordering::Relaxed);
        let away = gone.join(format!("{process}-{number}"));
        let moved = make_folder(&gone).and_then(|()| fs::rename(self.of(process), &away));
        match moved {
            Ok(()) => {
                if let Err(error) = trees::remove(&away) {
                    tracing::warn!("a copy is removed at the next start of the node: {error}");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("a copy is not removed: {error}"),
        }
    }

    /// Removes one copy of several; all that is here for the process with the last.
    fn remove_one(&self, process: ProcessId, number: usize) {
        let folder = self.of(process);
        if let Err(error) = trees::remove(&folder.join(number.to_string())) {
            tracing::warn!("a copy is removed with its process: {error}");
        }
        if fs::remove_dir(&folder).is_ok() {
            self.state().here.remove(&process);
        }
    }
}

/// What moves need.
impl Copies {
    pub(super) fn leaving(&self, attempt: Attempt) -> Option<Arc<Leaving>> {
        self.state().leaving.get(&attempt).cloned()
    }

    pub(super) fn leave(&self, attempt: Attempt) -> Arc<Leaving> {
        Arc::clone(self.state().leaving.entry(attempt).or_default())
    }

    /// A move away from here has ended.
    pub(super) fn left(&self, attempt: Attempt) {
        let mut state = self.state();
        if let Some(leaving) = state.leaving.remove(&attempt) {
            if state.sent.len() >= REPORTS_MAX {
                state.sent.pop_front();
            }
            state.sent.push_back((attempt, leaving.told()));
        }
    }

    /// What went on a move that has ended.
    pub(super) fn sent(&self, attempt: Attempt) -> Option<TreesSent> {
        let state = self.state();
        let mut sent = state.sent.iter();
        sent.find(|(of, _)| *of == attempt).map(|(_, sent)| *sent)
    }

    pub(super) fn arrive(&self, attempt: Attempt, have: Tree) {
        let arriving = Arriving { attempt, have };
        self.state().arriving.insert(attempt.process, arriving);
    }

    /// What is here of a process that is just coming by this attempt.
    pub(super) fn arrived(&self, attempt: Attempt) -> Option<Tree> {
        let state = self.state();
        let arriving = state.arriving.get(&attempt.process);
        let arriving = arriving.filter(|arriving| arriving.attempt == attempt);
        arriving.map(|arriving| arriving.have.clone())
    }

    pub(super) fn is_arriving(&self, attempt: Attempt) -> bool {
        let state = self.state();
        let arriving = state.arriving.get(&attempt.process);
        arriving.is_some_and(|arriving| arriving.attempt == attempt)
    }

    pub(super) fn all_arriving(&self) -> Vec<Attempt> {
        let state = self.state();
        state.arriving.values().map(|one| one.attempt).collect()
    }

    /// It is not coming any more: it is here, or will never be.
    pub(super) fn has_arrived(&self, attempt: Attempt) {
        let mut state = self.state();
        if let Some(one) = state.arriving.get(&attempt.process)
            && one.attempt == attempt
        {
            state.arriving.remove(&attempt.process);
        }
    }
}

fn free_bytes(folder: &Path) -> io::Result<u64> {
    let mut folder = folder;
    while !folder.exists() {
        folder = folder.parent().ok_or(io::ErrorKind::NotFound)?;
    }
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

impl Belongings {
    /// Fails if there is a directory that goes along on a move: it is nowhere else.
    pub(super) fn none_is_copied(&self, deed: &str) -> Result<(), Failure> {
        let mut bindings = self.bindings.iter();
        match bindings.find(|binding| binding.sort == BindingSort::Copy) {
            None => Ok(()),
            Some(binding) => Err(Failure::refused(format!(
                "the directory {} is copied along when the process moves, and {deed} has no files: start the process with \
                 a directory that every node exports (`:shared`)",
                binding.guest_path
            ))),
        }
    }
}

/// Bindings that are copied along, with their numbers.
pub(super) fn copied(bindings: &[Binding]) -> impl Iterator<Item = (usize, &Binding)> {
    let all = bindings.iter().enumerate();
    all.filter(|(_, binding)| binding.sort == BindingSort::Copy)
}

impl Hosting {
    /// A process has ended here: its changes go to where its directories came from, if that was here, too.
    pub(super) async fn give_back(&self, process: ProcessId) {
        let bindings = self.bindings_of(process);
        for origin in self.copies.forget_origins(process) {
            let number = origin.number;
            let path = bindings
                .get(number)
                .map_or("its directory", |one| &one.guest_path);
            let Ok(copy) = self.copies.open(process, number) else {
                continue;
            };
            let copies = Arc::clone(&self.copies);
            let returned = blocking(move || {
                if !origin.returns {
                    return Ok(trees::Returned::default());
                }
                let base = origin.base.entries().to_vec();
                let both = [copy.as_fd(), origin.directory.as_fd()];
                copies.tree(TreeDeed::GiveBack { base }, &both)?.returned()
            });
            let fetch = format!(
                "get them with `sterna cp -r {}:{path} DIR`, before `sterna rm`",
                process.short()
            );
            let said = match returned.await {
                Ok(Ok(returned)) if returned.conflicts.is_empty() => {
                    let copies = Arc::clone(&self.copies);
                    let _ = blocking(move || copies.remove_one(process, number)).await;
                    format!("{} of {path} went back", changes(returned.changes))
                }
                Ok(Ok(returned)) => format!(
                    "{} of {path} went back; {} did not, since others changed it there, or they cannot be made \
                     there: {fetch}",
                    changes(returned.changes),
                    returned.conflicts.len()
                ),
                Ok(Err(why)) => format!("its changes of {path} did not go back: {why}: {fetch}"),
                Err(failure) => {
                    format!("its changes of {path} did not go back: {failure}: {fetch}")
                }
            };
            self.news.event(process, EventSort::Other, said);
        }
    }

    /// Removes all copies of a process that is not here, and lets go of where they came from.
    pub(super) async fn uncopy(&self, process: ProcessId) {
        let copies = Arc::clone(&self.copies);
        let removed = blocking(move || {
            copies.has_started(process);
            copies.forget_origins(process);
            copies.remove(process);
        });
        let _ = removed.await;
    }

    pub(super) fn bindings_of(&self, process: ProcessId) -> Vec<Binding> {
        let info = self.remembered(process);
        let belongings = info.and_then(|info| Belongings::decode(&info.extra));
        belongings.unwrap_or_default().bindings
    }
}

impl Service {
    /// Has what is left of copies looked at: whether their processes are this node's still.
    pub(super) async fn sweep_copies(&self, hosting: &Hosting) {
        for process in hosting.copies.known() {
            self.settle_copies(hosting, process).await;
        }
    }

    /// Removes copies of a process that is not this node's any more, or that nobody knows.
    pub(super) async fn settle_copies(&self, hosting: &Hosting, process: ProcessId) {
        let request = RegistryRequest::Process { process };
        let entry = match self.ask_registry(request).await {
            Ok(Reply::Process(entry)) => entry,
            // It is looked at again from time to time.
            _ => return,
        };
        let record = entry.as_deref().map(|entry| entry.record());
        let Ok(record) = record.transpose() else {
            return;
        };
        if record.is_none_or(|record| record.life != Life::Alive) {
            hosting.copies.forget_origins(process);
        }
        if record.is_none_or(|record| record.owner != self.id) {
            hosting.tell(Input::Uncopied { process }).await;
        }
    }

    /// Something with a file of a process that runs nowhere any more, and was here last.
    pub(super) async fn file_of_ended(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        deed: FileDeed,
    ) -> Result<HostingReply, Failure> {
        let entry = self.entry(process).await?;
        let record = entry.record().map_err(Failure::refused)?;
        if record.owner != self.id || record.life == Life::Alive {
            let message = format!("process {} has left this node", process.short());
            return Err(Failure::new(FailureKind::NotHere, message));
        }
        if let FileDeed::Write { .. } | FileDeed::MakeDirectory { .. } | FileDeed::Put { .. } = deed
        {
            return Err(super::answers::gone(process, record.life));
        }
        let belongings = Belongings::decode(&entry.info.extra).unwrap_or_default();
        let copies = Arc::clone(&hosting.copies);
        let answered = blocking(move || {
            let kept = copied(&belongings.bindings).filter_map(|(number, binding)| {
                let handle = copies.open(process, number).ok()?;
                Some(Directory {
                    guest_path: binding.guest_path.clone(),
                    handle,
                    read_only: true,
                })
            });
            let kept: Vec<Directory> = kept.collect();
            if kept.is_empty() {
                return Err(
                    "it runs nowhere any more, and no copy of a directory is left of it: changes went back to the \
                     directory that it was started with, or it was started without `:copy`"
                        .to_owned(),
                );
            }
            let files = Files::of(&kept).map_err(|error| error.to_string())?;
            files.answer(&deed)
        });
        let answered = answered.await?.map_err(Failure::refused)?;
        Ok(HostingReply::File(answered))
    }
}

/// So many, in words.
fn changes(count: usize) -> String {
    match count {
        1 => "1 change".to_owned(),
        count => format!("{count} changes"),
    }
}
