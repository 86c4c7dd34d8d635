//! This program as a node's manager: see [`run`], and `sterna-node`'s `manager` for what it does.
//!
//! It is started by what becomes the node's service, before that has any network, and ends with it: by the pair of sockets
//! between the two, whichever way the service ends. Runners are its children and outlive it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::geteuid;
use sterna_node::manager::{self, Greeted, Manager};
use sterna_runner::fault;
use sterna_sys::confine::Confinement;
use sterna_sys::enclosure;
use sterna_sys::spawn::{Child, Spawn, inherited};

use crate::service::told;
use crate::workshop::Workshop;
use crate::{private, show};

/// The hidden subcommand that makes this program a manager; the node's data directory follows.
pub(crate) const MANAGER: &str = "__manager";

const SERVICE: &str = "MANAGER_SERVICE";
/// For a manager to end when it is not needed any more. It has nothing to write down.
const END_WITHIN: Duration = Duration::from_secs(10);

/// A manager that was started, and will be waited for.
pub(crate) struct Started {
    stream: UnixStream,
    child: Child,
}

/// Starts the manager of the node whose data directory this is.
pub(crate) fn start(data: &Path) -> Result<Started> {
    let failed = "could not start the node's manager";
    let (stream, there) = UnixStream::pair().context(failed)?;
    let data = std::path::absolute(data).context("could not find the data directory")?;
    let errors = io::stderr().as_fd().try_clone_to_owned().context(failed)?;
    let mut manager = Spawn::new("/proc/self/exe")
        .arg(MANAGER)
        .arg(data)
        .env("STERNA_CACHE_DIR", private::cache_directory()?)
        .descriptor(SERVICE, there.into())
        .stderr(errors)
        // Ctrl-C is for the service, which ends it.
        .without_terminal();
    // For the runners that it starts; and now, since a service opens no such file later.
    if let Some(faults) = fault::handed_on() {
        manager = manager.descriptor(fault::DESCRIPTOR, faults);
    }
    let child = manager.start().context(failed)?;
    Ok(Started { stream, child })
}

impl Started {
    /// Waits until it is ready.
    pub(crate) fn greet(&self) -> Result<Greeted> {
        let stream = self.stream.try_clone()?;
        Greeted::hear(stream).context("the node's manager did not start: what it said is above")
    }

    /// Ends it with its link, and waits for that.
    pub(crate) fn end(mut self, link: &Manager) {
        link.end();
        // By now this process may not send signals to it.
        if !matches!(self.child.wait(Some(END_WITHIN)), Ok(Some(_))) {
            show::note("the node's manager does not end");
            std::mem::forget(self);
        }
    }
}

/// Is a manager, until its service has gone.
pub(crate) fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manager: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<()> {
    let service: OwnedFd = inherited(SERVICE)?;
    if let Ok(faults) = inherited(fault::DESCRIPTOR) {
        fault::take(faults);
    }
    let data = std::env::args_os().nth(2).map(PathBuf::from);
    let data = data.context("no data directory was named")?;
    let confinement = confine();
    let workshop = Arc::new(Workshop::new()?);
    manager::serve(service.into(), &data, confinement, workshop)?;
    Ok(())
}

/// Gives up what no manager needs: the answer is how well that went.
fn confine() -> String {
    // Beside the filter of system calls, which lets nobody make a socket, with privilege or without.
    let left = enclosure::leave_network();
    let applied = Confinement::for_manager().apply();
    match left {
        Err(error) if geteuid().is_root() => {
            format!("partial: no network of its own: {error}; {applied}")
        }
        _ => told(&applied),
    }
}
