//! Rolling snapshots: made by the owner of a process, kept by another node, gone on from when the process is
//! [lost](super::recovery).
//!
//! The schedule is in the registry, so whoever owns the process next, after a move or a restart, goes on with it. A
//! snapshot that cannot be kept is written down there as well: nobody believes to have one that is not.

mod turns;

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use sterna_migration::Life;
use sterna_process::{ProcessId, ProgramId};
use sterna_runner::copy::{self, Copy};
use sterna_runner::message::{Answer, Order};
use sterna_runner::{BESIDE, BESIDE_VERSION, Beside, fault};
use sterna_snapshot::{Details, Found, Key, PROGRAM, Saved, Shelf, Stored, prune, save};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use self::turns::Turn;
pub(super) use self::turns::Turns;
use super::making::As;
use super::stores::Place;
use super::{Hosting, blocking};
use crate::identity::random;
use crate::limits::{
    SNAPSHOT_EVERY_MIN, SNAPSHOTS_AT_ONCE, SNAPSHOTS_LOOK_EVERY, SNAPSHOTS_MAX,
    SNAPSHOTS_SWEEP_EVERY, TROUBLE_BYTES_MAX,
};
use crate::message::{
    Belongings, EventSort, Failure, FailureKind, Keeper, Keeping, KeepingsOf, LastSnapshot,
    ProcessInfo, RegistryRequest, Reply,
};
use crate::service::Service;
use crate::wire::now_ms;

/// How many are kept if nothing else is said.
const KEEP: u32 = 3;

/// What is written with a copy, and for how long the process stood still.
pub(super) struct Kept {
    pub(super) saved: Saved,
    pub(super) stood_us: u64,
}

/// Why one snapshot cannot be gone on from, and whether an older one may.
pub(super) enum Stopped {
    Here(Failure),
    Damaged(String),
}

impl Service {
    /// All that is kept, by process.
    pub(super) async fn keepings(
        &self,
        of: KeepingsOf,
    ) -> Result<HashMap<ProcessId, Keeping>, Failure> {
        match self.ask_registry(RegistryRequest::Keepings(of)).await? {
            Reply::Keepings(all) => {
                let all = all.into_iter();
                let known =
                    |(process, bytes): (_, Vec<u8>)| Some((process, Keeping::decode(&bytes)?));
                Ok(all.filter_map(known).collect())
            }
            _ => Err(Failure::refused("the registry answers another question")),
        }
    }

    pub(super) async fn keeping(&self, process: ProcessId) -> Result<Option<Keeping>, Failure> {
        let mut all = self.keepings(KeepingsOf::Process(process)).await?;
        Ok(all.remove(&process))
    }

    async fn set_keeping(&self, process: ProcessId, keeping: &Keeping) -> Result<(), Failure> {
        let bytes = keeping.encode();
        let request = RegistryRequest::SetKeeping { process, bytes };
        self.ask_registry(request).await.map(drop)
    }

    /// Makes snapshots as they become due, until the node stops.
    pub(crate) async fn keep_snapshots(self: Arc<Self>, hosting: Arc<Hosting>) {
        let room = Arc::new(Semaphore::new(SNAPSHOTS_AT_ONCE));
        let mut tried: HashMap<ProcessId, (Instant, JoinHandle<()>)> = HashMap::new();
        loop {
            sleep(SNAPSHOTS_LOOK_EVERY).await;
            let Ok(all) = self.keepings(KeepingsOf::Node(self.id)).await else {
                continue;
            };
            tried.retain(|process, _| all.contains_key(process));
            for (process, keeping) in all {
                let Some(every) = keeping.every_ms.map(Duration::from_millis) else {
                    continue;
                };
                // None waits for its turn behind another one of the schedule.
                let due = match tried.get(&process) {
                    Some((at, making)) => at.elapsed() >= every && making.is_finished(),
                    None => is_due(&keeping, every),
                };
                let Some(room) = due
                    .then(|| Arc::clone(&room).try_acquire_owned().ok())
                    .flatten()
                else {
                    continue;
                };
                let (service, hosting) = (Arc::clone(&self), Arc::clone(&hosting));
                let making = tokio::spawn(async move {
                    let made = service.snapshot_on_schedule(&hosting, process).await;
                    if let Err(failure) = made {
                        tracing::debug!("no snapshot of {}: {failure}", process.short());
                    }
                    drop(room);
                });
                tried.insert(process, (Instant::now(), making));
            }
        }
    }

    /// Removes the snapshots of processes that nobody can go on with any more, again and again. That a store does not answer
    /// shows here, too, also before anything is kept in it.
    pub(crate) async fn sweep_snapshots(self: Arc<Self>, hosting: Arc<Hosting>) {
        let own = Place::Directory(self.snapshots());
        loop {
            let stores = hosting.stores.all().map(|store| (store, false));
            for (place, is_own) in stores.chain([(&own, true)]) {
                if let Err(failure) = self.sweep(place, is_own).await {
                    tracing::warn!("{failure}");
                }
            }
            sleep(SNAPSHOTS_SWEEP_EVERY).await;
        }
    }

    /// A store may have snapshots of processes of other clusters: what is not known stays there.
    async fn sweep(&self, place: &Place, is_own: bool) -> Result<(), Failure> {
        let listed = place.clone();
        let processes = blocking(move || listed.processes()).await?;
        for process in processes.map_err(|error| Failure::refused(chain(&error)))? {
            let request = RegistryRequest::Process { process };
            let over = match self.ask_registry(request).await {
                Ok(Reply::Process(None)) => is_own,
                Ok(Reply::Process(Some(entry))) => entry
                    .record()
                    .is_ok_and(|record| record.life == Life::Ended),
                _ => false,
            };
            if over {
                let cleared = place.clone();
                let done = blocking(move || cleared.clear(process)).await?;
                done.map_err(|error| Failure::refused(chain(&error)))?;
            }
        }
        Ok(())
    }

    /// What is to be written down when a user's snapshot is there: a schedule without any would be believed.
    async fn wanted(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        to: Option<Keeper>,
        schedule: Option<(u64, u32)>,
    ) -> Result<Keeping, Failure> {
        let known = self.keeping(process).await?;
        let known = known.as_ref();
        let (every_ms, keep) = match (schedule, known) {
            (Some((every_ms, keep)), _) => (Some(every_ms), keep),
            (None, Some(known)) => (known.every_ms, known.keep),
            (None, None) => (None, KEEP),
        };
        let entry = self.entry(process).await?;
        let belongings = Belongings::decode(&entry.info.extra).unwrap_or_default();
        belongings.none_is_copied("a snapshot")?;
        let to = to.or_else(|| known.map(|known| known.to.clone()));
        let to = to.ok_or_else(|| {
            Failure::refused(
                "say where the snapshots are to be kept: --to NODE, or --to store:NAME",
            )
        })?;
        self.check(hosting, &to, (every_ms, keep))?;
        let last = known.filter(|known| known.to == to);
        Ok(Keeping {
            key: known.map_or_else(new_key, |known| known.key),
            last: last.and_then(|known| known.last),
            to,
            every_ms,
            keep,
            trouble: None,
        })
    }

    fn check(
        &self,
        hosting: &Hosting,
        to: &Keeper,
        (every_ms, keep): (Option<u64>, u32),
    ) -> Result<(), Failure> {
        let min = SNAPSHOT_EVERY_MIN.as_millis() as u64;
        if every_ms.is_some_and(|every| every < min) {
            return Err(Failure::refused(format!(
                "a snapshot at most every {SNAPSHOT_EVERY_MIN:?}"
            )));
        }
        if !(1..=SNAPSHOTS_MAX).contains(&keep) {
            return Err(Failure::refused(format!(
                "from 1 to {SNAPSHOTS_MAX} snapshots are kept"
            )));
        }
        match to {
            Keeper::Store(store) => hosting.stores.named(store).map(drop),
            Keeper::Node(node) if self.roster().member(*node).is_some() => Ok(()),
            Keeper::Node(_) => Err(Failure::refused(
                "the cluster has no such node: see `sterna nodes`",
            )),
        }
    }

    /// Makes a snapshot, whose turn it must be, and writes down how that went. Of what was said meanwhile nothing is undone.
    /// `wanted`: how often it had been said to make no more, when a user wanted this one.
    async fn snapshot(
        self: &Arc<Self>,
        hosting: &Hosting,
        process: ProcessId,
        turn: &Turn,
        keeping: Keeping,
        wanted: Option<u64>,
    ) -> Result<Keeping, Failure> {
        let at_ms = now_ms();
        let to = (&keeping.to, process);
        let copied = self.copy_to(hosting, process, to, (keeping.key, keeping.keep));
        let copied = match copied.await {
            Err(failure) if failure.kind == FailureKind::NotHere => return Err(failure),
            copied => copied,
        };
        let stops = turn.stops.lock().await;
        let mut now = match (&copied, wanted) {
            (Ok(_), Some(stops_then)) => Keeping {
                every_ms: keeping.every_ms.filter(|_| stops_then == *stops),
                ..keeping
            },
            // Of one that was never kept, or elsewhere, nothing is written down.
            _ => match self.keeping(process).await? {
                Some(known) if known.to == keeping.to => known,
                _ => return copied.and_then(|_| Err(none_of(process))),
            },
        };
        let failed = match copied {
            Ok(Kept { saved, stood_us }) => {
                now.trouble = None;
                now.last = Some(LastSnapshot {
                    number: saved.manifest.number,
                    at_ms,
                    output_bytes: saved.manifest.output_bytes,
                    pages: saved.manifest.places.len() as u64,
                    pages_new: saved.pages_new,
                    bytes_new: saved.bytes_new,
                    stood_us,
                });
                None
            }
            Err(failure) => {
                let mut trouble = failure.message.clone();
                trouble.truncate(trouble.floor_char_boundary(TROUBLE_BYTES_MAX));
                if now.trouble.as_ref() != Some(&trouble) {
                    hosting.news.event(
                        process,
                        EventSort::Other,
                        format!("has no new snapshot: {trouble}"),
                    );
                }
                now.trouble = Some(trouble);
                Some(failure)
            }
        };
        self.set_keeping(process, &now).await?;
        failed.map_or(Ok(now), Err)
    }

    /// Keeps a copy of a process of this node in a folder.
    pub(super) async fn copy_to(
        self: &Arc<Self>,
        hosting: &Hosting,
        process: ProcessId,
        (to, folder): (&Keeper, ProcessId),
        (key, keep): (Key, u32),
    ) -> Result<Kept, Failure> {
        let (reading, writing) = UnixStream::pair().map_err(Failure::refused)?;
        let over = reading.try_clone().map_err(Failure::refused)?;
        let shelf = self.shelf(hosting, to, folder)?;
        let workshop = Arc::clone(&hosting.workshop);
        let at_ms = now_ms();
        let saving = blocking(move || {
            let saved = keep_copy(&*shelf, &key, (process, at_ms), reading)?;
            let program = saved.manifest_program()?;
            if !shelf
                .list()
                .map_err(text)?
                .iter()
                .any(|name| name == PROGRAM)
            {
                let bytes = super::programs::whole(&*workshop, &program)?;
                shelf.put(PROGRAM, &bytes).map_err(text)?;
            }
            if let Err(error) = prune(&*shelf, &key, keep as usize) {
                tracing::warn!("old snapshots are not removed: {}", chain(&error));
            }
            Ok::<Saved, String>(saved.0)
        });
        let order = Order::Copy {
            process,
            hold: None,
        };
        let copying = async {
            let copied = hosting.ask(order, vec![writing.into()]).await;
            if copied.is_err() {
                // A runner that hangs has the other end, and does not close it.
                let _ = over.shutdown(Shutdown::Both);
            }
            copied
        };
        let (copied, saved) = tokio::join!(copying, saving);
        let saved = saved?;
        match (copied, saved) {
            (Ok(Answer::Copied(stood_us)), Ok(saved)) => Ok(Kept { saved, stood_us }),
            // That the pipe broke says less than why nobody reads it.
            (_, Err(why)) if !why.contains("is not whole") => Err(Failure::refused(why)),
            (Err(failure), _) => Err(failure),
            (_, Err(why)) => Err(Failure::refused(why)),
            (Ok(_), Ok(_)) => Err(Failure::refused("the runner answers another question")),
        }
    }

    /// Makes a process of what a folder has.
    pub(super) async fn make_from(
        self: &Arc<Self>,
        hosting: &Hosting,
        folder: (&Keeper, ProcessId),
        process: ProcessId,
        found: Found,
        what: As,
    ) -> Result<(), Failure> {
        match self
            .go_on_from(hosting, folder, process, found, (what, Vec::new()))
            .await
        {
            Ok(()) => Ok(()),
            Err(Stopped::Here(failure)) => Err(failure),
            Err(Stopped::Damaged(why)) => Err(Failure::refused(why)),
        }
    }

    pub(super) async fn go_on_from(
        self: &Arc<Self>,
        hosting: &Hosting,
        (keeper, folder): (&Keeper, ProcessId),
        process: ProcessId,
        found: Found,
        (what, opened): (As, Vec<OwnedFd>),
    ) -> Result<(), Stopped> {
        let failed = |error: io::Error| Stopped::Here(Failure::refused(error));
        let (reading, mut writing) = io::pipe().map_err(failed)?;
        let shelf = self.shelf(hosting, keeper, folder);
        let shelf = shelf.map_err(Stopped::Here)?;
        let sending = blocking(move || {
            let mut pages = Stored::of(&found.manifest, &*shelf);
            copy::write(&mut writing, &found.manifest.image, &mut pages)
        });
        let making = self.make_here(hosting, process, what, reading.into(), opened);
        let (sent, made) = tokio::join!(sending, making);
        match (sent.map_err(Stopped::Here)?, made) {
            (_, Ok(())) => Ok(()),
            // It was read no further because something else is wrong.
            (Ok(()) | Err(copy::CopyError::Pipe(_)), Err(failure)) => Err(Stopped::Here(failure)),
            (Err(error), Err(_)) => Err(Stopped::Damaged(chain(&error))),
        }
    }

    /// Sees to it that a process's program is ready here; a folder has it, too.
    pub(super) async fn has_program(
        self: &Arc<Self>,
        hosting: &Hosting,
        (keeper, folder): (&Keeper, ProcessId),
        info: &ProcessInfo,
    ) -> Result<(), Failure> {
        let (kind, program) = (info.kind.clone(), info.program);
        if hosting.has(&kind, program).await {
            return Ok(());
        }
        let shelf = self.shelf(hosting, keeper, folder)?;
        let workshop = Arc::clone(&hosting.workshop);
        let added = blocking(move || {
            let bytes = shelf.get(PROGRAM).map_err(text)?;
            let bytes = bytes.ok_or("the program is not with the snapshots")?;
            match ProgramId::of(&bytes) == program {
                true => workshop.add(&kind, bytes.into()),
                false => Err("the program that is with the snapshots is damaged".into()),
            }
        });
        added.await?.map_err(Failure::refused)
    }
}

/// What was kept, and of which program.
struct KeptCopy(Saved, ProgramId);

impl KeptCopy {
    fn manifest_program(&self) -> Result<ProgramId, String> {
        Ok(self.1)
    }
}

fn keep_copy(
    shelf: &dyn Shelf,
    key: &Key,
    (process, at_ms): (ProcessId, u64),
    reading: UnixStream,
) -> Result<KeptCopy, String> {
    let mut copy = Copy::begin(reading).map_err(text)?;
    let image = copy.image().clone();
    let versions = BESIDE_VERSION..=BESIDE_VERSION;
    let mut sections = image.sections.clone();
    let beside: Option<Beside> = match sections.take(&BESIDE, versions).map_err(text)? {
        Some(section) => Some(section.decode().map_err(text)?),
        None => None,
    };
    let details = Details {
        process,
        epoch: image.header.epoch,
        at_ms,
        output_bytes: beside.map_or(0, |beside| beside.output_bytes),
        first_pack: u32::from_le_bytes(random()),
    };
    let saved = save(shelf, key, &details, &image, &mut copy).map_err(text)?;
    fault::point("service kept", &saved.manifest);
    Ok(KeptCopy(saved, image.header.program))
}

/// Whether a schedule that was found is due: it may have been another node's until now.
fn is_due(keeping: &Keeping, every: Duration) -> bool {
    keeping.last.is_none_or(|last| {
        let since = now_ms().saturating_sub(last.at_ms);
        Duration::from_millis(since) >= every
    })
}

pub(super) fn new_key() -> Key {
    Key::from_bytes(random())
}

fn none_of(process: ProcessId) -> Failure {
    Failure::refused(format!(
        "there are no snapshots of process {}: they are made after `sterna snapshot`",
        process.short()
    ))
}

fn text(error: impl std::error::Error) -> String {
    chain(&error)
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
