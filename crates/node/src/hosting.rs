//! The processes of a node: [`Hosting`].
//!
//! ```text
//!  requests ──► answers ──► start, logs, listing ──┐
//!                  │                               ├──► runner (Handle)
//!                  └──► driver: Moves ─────────────┘        │ what it says
//!                         ▲  │                              │
//!                         └──┼──────────────────────────────┘
//!                            └──► messages, swaps, channels to other nodes
//! ```
//!
//! - `answers`: what is asked, here or of the node that has the process
//! - `start`: from an order to a process
//! - `driver`: the one task that holds the machines of moves and carries out what they want; `input`: what it hears of;
//!   `admission`: who may come
//! - `runner`: starting a runner, finding one that outlived the last service, noticing its death
//! - `channels`: connections for image and pages; `programs`: modules that other nodes have; `ahead`: made ready before they are
//!   needed
//! - `forgetting`: what is removed when a process that has ended is forgotten
//! - `bindings`: what an arriving process may be bound to; `copies`: directories that go along, `travels`: how
//! - `draining`: the node is emptied before its machine goes
//! - `attaching`: clients of processes, by way of their ingresses; `ports`: these move to other nodes
//! - `known`: what the node remembers of its processes, should the registry forget
//! - `logs`: output, wherever it was written; `listing`: all processes, as they are
//! - `making`: a process of a copy, under its own name or a new one; `files`: freeze and thaw; `clones`
//! - `relay`: a process is frozen into a file of another node's machine
//! - `snapshots`: when they are made; `shelves`: where they are kept; `stores`: outside of the cluster; `recovery`: what a
//!   lost process is gone on from
//! - `report`: what became of a move, for people; `news`: reports and events for who asks later;
//!   `chronicle`: events on disk; `journal`: files to which records are added

mod admission;
mod ahead;
mod answers;
mod attaching;
mod begin;
mod bindings;
mod channels;
mod chronicle;
mod clones;
mod copies;
mod draining;
mod driver;
mod files;
mod forgetting;
mod input;
mod journal;
mod known;
mod listing;
mod logs;
mod making;
mod news;
mod ports;
mod programs;
mod recovery;
mod relay;
mod report;
mod runner;
mod shelves;
mod snapshots;
mod start;
mod stores;
mod travels;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sterna_migration::{Event, Message, NodeId};
use sterna_process::ProcessId;
use sterna_runner::Handle;
use sterna_runner::limits::PROCESSES_MAX;
use sterna_runner::message::{Answer, Ended, Order, Paging};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::ingress::Ingress;
use crate::limits::{
    INPUTS_WAITING_MAX, KILLED_WITHIN, LOG_LOOK_EVERY, NEEDING_MAX, PREPARING_MAX, RUNNER_WITHIN,
};
use crate::message::{Failure, FailureKind, Remains};
use crate::workshop::Workshop;
use attaching::Attaching;
pub(crate) use attaching::serve_clients;
pub(crate) use bindings::Exports;
pub(crate) use channels::Channels;
use copies::Copies;
use draining::Draining;
use input::Input;
use known::Known;
use logs::LogFiles;
use news::News;
use programs::Programs;
pub(crate) use runner::{runner_errors, runner_socket};
use snapshots::Turns;
pub(crate) use stores::Stores;
pub use stores::{OpenStoreError, ParseStoreError, StoreAt};

/// What a node has for hosting processes.
pub(crate) struct Hosting {
    pub(crate) workshop: Arc<dyn Workshop>,
    exports: Exports,
    copies: Arc<Copies>,
    stores: Stores,
    /// Whether programs of other nodes' processes are made ready before any of these comes.
    pub(crate) prepares: bool,
    /// The node's.
    name: String,
    folder: PathBuf,
    inputs: mpsc::Sender<Input>,
    /// Taken by the driver.
    from_all: Mutex<Option<mpsc::Receiver<Input>>>,
    runner: watch::Sender<Option<Runner>>,
    /// Held while one is being started or found, so that it is not left alone by a node that stops meanwhile.
    starting: tokio::sync::Mutex<()>,
    /// The node stops, and has told its runner to end: no other one is started.
    is_over: AtomicBool,
    pub(crate) channels: Channels,
    /// Ports of this node, for processes of any.
    pub(crate) ingress: Ingress,
    attaching: Attaching,
    news: News,
    known: Known,
    logs: Arc<LogFiles>,
    log_marks: Arc<logs::Marks>,
    draining: Draining,
    programs: Programs,
    turns: Turns,
    /// For what a runner needs made ready.
    preparing: Arc<Semaphore>,
    /// The same with those that wait for their turn.
    needing: Arc<Semaphore>,
    /// How processes ended, until it is written down.
    ended: Mutex<HashMap<ProcessId, Ended>>,
}

/// The runner that serves now.
#[derive(Clone)]
pub(crate) struct Runner {
    pub(crate) handle: Handle,
    pub(crate) confinement: String,
    pub(crate) paging: Paging,
    pub(crate) takes_directories: bool,
}

impl Hosting {
    /// In a folder of the node's data directory. `copies_bytes_max`: how much may be copied along with processes.
    pub(crate) fn new(
        workshop: Arc<dyn Workshop>,
        (exports, stores): (Exports, Stores),
        copies_bytes_max: u64,
        ingress: Ingress,
        (name, folder): (String, PathBuf),
    ) -> Self {
        let (inputs, from_all) = mpsc::channel(INPUTS_WAITING_MAX);
        let (news, known) = (News::in_folder(&folder), Known::in_folder(&folder));
        let logs = folder.join("logs");
        Self {
            workshop: Arc::clone(&workshop),
            exports,
            copies: Arc::new(Copies::new(
                folder.join("copies"),
                copies_bytes_max,
                workshop,
            )),
            stores,
            prepares: false,
            name,
            folder,
            inputs,
            from_all: Mutex::new(Some(from_all)),
            runner: watch::Sender::new(None),
            starting: tokio::sync::Mutex::default(),
            is_over: AtomicBool::new(false),
            channels: Channels::default(),
            ingress,
            attaching: Attaching::default(),
            news,
            known,
            logs: Arc::new(LogFiles::in_folder(logs)),
            log_marks: Arc::default(),
            draining: Draining::default(),
            programs: Programs::default(),
            turns: Turns::default(),
            preparing: Arc::new(Semaphore::new(PREPARING_MAX)),
            needing: Arc::new(Semaphore::new(NEEDING_MAX)),
            ended: Mutex::default(),
        }
    }

    /// Makes programs of other nodes' processes ready before any of these comes.
    pub(crate) fn preparing_ahead(self, prepares: bool) -> Self {
        Self { prepares, ..self }
    }

    /// The runner, if there is one now.
    pub(crate) fn runner(&self) -> Result<Runner, Failure> {
        self.runner.borrow().clone().ok_or_else(|| {
            Failure::new(
                FailureKind::Busy,
                "the node's runner is being started: try again",
            )
        })
    }

    /// The same, after waiting for one that is being started.
    pub(crate) async fn runner_soon(&self) -> Result<Runner, Failure> {
        let mut runner = self.runner.subscribe();
        let _ = timeout(RUNNER_WITHIN, runner.wait_for(Option::is_some)).await;
        self.runner()
    }

    /// Whether the last runner has been told to end.
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Asks the runner. One that answers nothing at all is not waited for.
    async fn ask(&self, order: Order, descriptors: Vec<OwnedFd>) -> Result<Answer, Failure> {
        let runner = self.runner()?;
        // Of what is done later, when nobody waits for it any more, something would be left.
        let (has_to_be_there, is_waited_for) = match order {
            Order::Copy { hold: None, .. } => (true, false),
            Order::Spawn(_) | Order::Make(_) | Order::Copy { .. } => (true, true),
            _ => (false, false),
        };
        if has_to_be_there && !runner.is_there().await {
            return Err(runner.hangs(&self.name));
        }
        let answer = runner.answer(order, descriptors);
        if is_waited_for {
            return answer.await;
        }
        tokio::select! {
            answer = answer => answer,
            () = runner.until_silent() => Err(runner.hangs(&self.name)),
        }
    }

    /// That the runner is not seen to hang.
    pub(crate) async fn responds(&self) -> Result<(), Failure> {
        match self.runner() {
            Ok(runner) if !runner.is_there().await => Err(runner.hangs(&self.name)),
            _ => Ok(()),
        }
    }

    /// Sees to the processes before the node stops. A runner without any ends with it.
    pub(crate) async fn stop(&self, remains: Remains) -> Result<(), Failure> {
        let _starting = self.starting.lock().await;
        let Ok(runner) = self.runner() else {
            // Nor will there be one.
            self.is_over.store(true, Ordering::SeqCst);
            return Ok(());
        };
        let count = self.held().await?.len();
        match remains {
            Remains::None if count == 1 => Err(Failure::refused(
                "1 process runs here: move it (`sterna move P NODE`), end it (`--kill`), or let it run on for the next start of \
                 the node (`--leave`)",
            )),
            Remains::None if count > 0 => Err(Failure::refused(format!(
                "{count} processes run here: move them (`sterna move P NODE`), end them (`--kill`), or let them run on \
                 for the next start of the node (`--leave`)"
            ))),
            Remains::Left if count > 0 => Ok(()),
            _ => {
                self.kill_all().await;
                self.is_over.store(true, Ordering::SeqCst);
                runner.handle.order(Order::End, Vec::new());
                let process = runner.handle.process();
                let ended = blocking(move || process.wait(Some(RUNNER_WITHIN))).await?;
                if let Ok(true) = ended {
                    runner::remove_socket(&self.folder);
                }
                Ok(())
            }
        }
    }

    /// Ends all processes, and waits a little until that is written down.
    async fn kill_all(&self) {
        let until = Instant::now() + KILLED_WITHIN;
        for brief in self.held().await.unwrap_or_default() {
            let _ = self.ask(Order::Kill(brief.process), Vec::new()).await;
        }
        let mut remaining = self.ended().len();
        while remaining > 0 && Instant::now() < until {
            sleep(LOG_LOOK_EVERY).await;
            remaining = self.ended().len();
        }
    }

    /// Tells the driver something. It lives as long as the node.
    async fn tell(&self, input: Input) {
        let _ = self.inputs.send(input).await;
    }

    /// Tells the driver what another node says. If that is too much, it is not heard, and will be said again.
    fn tell_heard(&self, from: NodeId, message: Message) {
        let attempt = message.attempt;
        let heard = Input::Event(Event::Message { from, message });
        if self.inputs.try_send(heard).is_err() {
            tracing::debug!("a message of {attempt} is not heard: too much is said at once");
        }
    }

    /// Notes how a process ended, by the word of a runner: with no longer texts, and no more ends, than it can have.
    fn note_end(&self, mut ended: Ended) {
        ended.exit = ended.exit.bounded();
        let mut known = self.ended();
        if known.len() < PROCESSES_MAX || known.contains_key(&ended.process) {
            known.insert(ended.process, ended);
        }
    }

    fn ended(&self) -> MutexGuard<'_, HashMap<ProcessId, Ended>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what may block where that does no harm.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Failure::new(FailureKind::Internal, "the node failed: see its log"))
}
