//! Getting a runner: one that outlived the last service, or a new one. And whether it hangs.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use sterna_process::ProcessId;
use sterna_runner::message::{Answer, Holdings, Order, Said};
use sterna_runner::{Handle, HandleError};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::input::Input;
use super::{Hosting, Runner, blocking};
use crate::limits::{RUNNER_LOOK_EVERY, RUNNER_SILENT_MAX, RUNNER_WITHIN};
use crate::message::{Failure, FailureKind};
use crate::workshop::Workshop;

const SOCKET: &str = "runner.sock";
const ERRORS: &str = "runner.log";
/// Between two tries to reach a runner that was just started.
const TRY_EVERY: Duration = Duration::from_millis(2);

/// Why there is no runner.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunnerError {
    #[error("could not start a runner")]
    Start(#[source] io::Error),
    #[error(transparent)]
    Handle(#[from] HandleError),
    #[error("the runner says: {0}")]
    Said(String),
    #[error("the node failed")]
    Failed,
}

impl Hosting {
    /// A runner, and what it holds. What it says comes to the driver, marked with `life`.
    pub(super) async fn get_runner(&self, life: u64) -> Result<(Runner, Holdings), RunnerError> {
        let folder = self.folder.clone();
        let workshop = Arc::clone(&self.workshop);
        let inputs = self.inputs.clone();
        let handle = blocking(move || {
            let on_said = move |said: Option<Said>| {
                let _ = inputs.blocking_send(Input::Said(life, said));
            };
            connect_or_start(&folder, &*workshop, on_said)
        });
        let handle = handle.await.map_err(|_| RunnerError::Failed)??;
        let (answer, answered) = oneshot::channel();
        handle.ask(Order::Holdings, Vec::new(), move |result| {
            let _ = answer.send(result);
        });
        match answered.await {
            Ok(Ok(Answer::Holdings(holdings))) => {
                let runner = Runner {
                    handle,
                    confinement: holdings.confinement.clone(),
                    paging: holdings.paging.clone(),
                    takes_directories: holdings.takes_directories,
                };
                Ok((runner, holdings))
            }
            Ok(Ok(_)) | Err(_) => Err(RunnerError::Failed),
            Ok(Err(message)) => Err(RunnerError::Said(message)),
        }
    }
}

impl Runner {
    /// Asks it, and waits for as long as it takes.
    pub(super) async fn answer(
        &self,
        order: Order,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Answer, Failure> {
        let (answer, answered) = oneshot::channel();
        self.handle.ask(order, descriptors, move |result| {
            let _ = answer.send(result);
        });
        match answered.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(message)) => Err(Failure::refused(message)),
            Err(_) => Err(Failure::new(FailureKind::Busy, "the runner is gone")),
        }
    }

    /// Whether it answers what it needs nothing for: how a process is that nobody has.
    pub(super) async fn is_there(&self) -> bool {
        let anything = Order::Look(ProcessId::from_bytes([0; 16]));
        let asked = timeout(RUNNER_SILENT_MAX, self.answer(anything, Vec::new()));
        asked.await.is_ok()
    }

    /// Comes to an end when it answers nothing any more.
    pub(super) async fn until_silent(&self) {
        loop {
            sleep(RUNNER_LOOK_EVERY).await;
            if !self.is_there().await {
                return;
            }
        }
    }

    /// That it does not answer, and what to do.
    pub(super) fn hangs(&self, node: &str) -> Failure {
        let pid = self.handle.pid();
        let message = format!(
            "the runner of node {node} does not answer: is it stopped (`kill -CONT {pid}` on that machine), or is there no \
             memory? If it never does, `kill -KILL {pid}` there ends it, and its processes are lost: those of which there \
             are snapshots can be gone on with (`sterna recover`)"
        );
        Failure::new(FailureKind::Unreachable, message)
    }
}

/// Where a runner listens, in a node's folder for it.
pub(crate) fn runner_socket(folder: &Path) -> PathBuf {
    folder.join(SOCKET)
}

/// What it has to say of itself.
pub(crate) fn runner_errors(folder: &Path) -> PathBuf {
    folder.join(ERRORS)
}

fn connect_or_start(
    folder: &Path,
    workshop: &dyn Workshop,
    on_said: impl FnMut(Option<Said>) + Send + Clone + 'static,
) -> Result<Handle, RunnerError> {
    make_folder(folder).map_err(RunnerError::Start)?;
    let socket = runner_socket(folder);
    match Handle::connect(&socket, on_said.clone()) {
        Err(HandleError::NotThere(_)) => {}
        found => return Ok(found?),
    }
    start(folder, &socket, workshop).map_err(RunnerError::Start)?;
    let until = Instant::now() + RUNNER_WITHIN;
    loop {
        match Handle::connect(&socket, on_said.clone()) {
            Err(HandleError::NotThere(_)) if Instant::now() < until => {
                std::thread::sleep(TRY_EVERY);
            }
            found => return Ok(found?),
        }
    }
}

fn start(folder: &Path, socket: &Path, workshop: &dyn Workshop) -> io::Result<()> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let bound = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    bind(&bound, &SocketAddrUnix::new(socket)?)?;
    let errors = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(runner_errors(folder))?;
    let started = workshop.start_runner(bound, errors);
    if started.is_err() {
        let _ = fs::remove_file(socket);
    }
    started
}

/// Where a runner listened that has ended.
pub(super) fn remove_socket(folder: &Path) {
    // The next one that is started does without it, too.
    let _ = fs::remove_file(folder.join(SOCKET));
}

/// A folder that is this user's alone.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).recursive(true).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
