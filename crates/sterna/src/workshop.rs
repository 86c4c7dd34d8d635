//! What a manager does for a node that hosts processes: makes programs ready, starts runners, detaches directories, makes
//! terminals.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sterna_node::Workshop as NodeWorkshop;
use sterna_process::{ProgramId, Tag, Waypoint};
use sterna_runner::message::WindowSize;
use sterna_sys::spawn::Spawn;
use sterna_sys::trees::{self, Access, DetachError};
use sterna_wasm::Installed;
use sterna_wasm::cache::{AddError, ProgramCache};

use crate::kinds::{self, BuildOptions};
use crate::runner;

/// The hidden subcommand that makes this program a helper that detaches a directory.
pub(crate) const TREE: &str = "__tree";

/// Programs that stay open, since processes of them are started one after the other: to open one takes longer than to
/// start a process.
const OPEN_MAX: usize = 16;

/// Programs from the user's cache, builders and runners of this very program.
#[derive(Debug)]
pub(crate) struct Workshop {
    cache: ProgramCache,
    /// Programs whose moves are being prepared, or have been.
    expected: Mutex<HashSet<ProgramId>>,
    /// Those that were asked for last, the last one first.
    open: Mutex<VecDeque<Arc<Installed>>>,
    /// The runner that was started last.
    runner: Mutex<Option<OwnedFd>>,
}

impl Workshop {
    pub(crate) fn new() -> Result<Self> {
        let (_, cache) = kinds::cache(&BuildOptions::default())?;
        Ok(Self {
            cache,
            expected: Mutex::default(),
            open: Mutex::default(),
            runner: Mutex::default(),
        })
    }
}

impl NodeWorkshop for Workshop {
    fn kinds(&self) -> Vec<Tag> {
        vec![sterna_wasm::KIND]
    }

    fn start_runner(&self, bound: OwnedFd, errors: File) -> io::Result<()> {
        let mut runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = &*runner
            && !has_ended(process)?
        {
            return Err(io::Error::other("the node's runner lives"));
        }
        let programs = File::open(self.cache.directory())?;
        *runner = Some(runner::start(bound, programs, errors)?);
        Ok(())
    }

    fn has(&self, program: &ProgramId) -> bool {
        let Some(installed) = self.cache.ready(program) else {
            return false;
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| !Arc::ptr_eq(other, &installed));
        open.truncate(OPEN_MAX - 1);
        open.push_front(installed);
        true
    }

    fn module(&self, program: &ProgramId) -> Result<File, String> {
        self.cache.module(program).map_err(|error| text(&error))
    }

    fn add(&self, bytes: Arc<[u8]>) -> Result<(), String> {
        match self
            .cache
            .add(&bytes, None, &mut |_| ControlFlow::Continue(()))
        {
            Ok(_) => Ok(()),
            Err(AddError::NotKept { source, .. }) => Err(text(&source)),
            Err(error) => Err(text(&error)),
        }
    }

    fn prepare(&self, program: &ProgramId, waypoints: &[Waypoint]) -> Result<(), String> {
        self.cache
            .prepare(program, waypoints)
            .map_err(|error| text(&error))
    }

    fn expect_moves(&self, program: &ProgramId) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        if expected.insert(*program)
            && let Some(installed) = self.cache.ready(program)
        {
            kinds::prepare_moves(installed);
        }
    }

    fn detach(&self, directory: OwnedFd, read_only: bool) -> io::Result<OwnedFd> {
        let access = match read_only {
            true => Access::Read,
            false => Access::Change,
        };
        let detached = match trees::detach(directory.as_fd(), access) {
            Err(DetachError::Privilege(_)) => {
                let helper = Spawn::new("/proc/self/exe").arg(TREE);
                trees::detach_with_helper(helper, directory.as_fd(), access)
            }
            detached => detached,
        };
        detached.map_err(|error| io::Error::other(text(&error)))
    }

    fn terminal(&self, size: WindowSize) -> io::Result<[OwnedFd; 2]> {
        sterna_node::workshop::terminal(size)
    }
}

/// Whether the process of this descriptor has ended.
fn has_ended(process: &OwnedFd) -> io::Result<bool> {
    let now = Timespec::default();
    let ready = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now))?;
    Ok(ready > 0)
}

/// An error with its causes.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
