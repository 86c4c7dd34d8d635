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
    /// One for each kind of process, all in one directory.
    caches: Vec<(Tag, ProgramCache)>,
    /// Programs whose moves are being prepared, or have been.
    expected: Mutex<HashSet<(Tag, ProgramId)>>,
    /// Those that were asked for last, the last one first.
    open: Mutex<VecDeque<Arc<Installed>>>,
    /// The runner that was started last.
    runner: Mutex<Option<OwnedFd>>,
}

impl Workshop {
    pub(crate) fn new() -> Result<Self> {
        let cache = |options: BuildOptions| {
            let (_, cache) = kinds::cache(&options)?;
            Ok((options.kind(), cache))
        };
        let caches = BuildOptions::of_kinds().map(cache);
        Ok(Self {
            caches: caches.into_iter().collect::<Result<_>>()?,
            expected: Mutex::default(),
            open: Mutex::default(),
            runner: Mutex::default(),
        })
    }

    fn cache(&self, kind: &Tag) -> Result<&ProgramCache, String> {
        let cache = self.caches.iter().find(|(of, _)| of == kind);
        let cache = cache.map(|(_, cache)| cache);
        cache.ok_or_else(|| format!("this node has no processes of kind {kind}"))
    }

    /// The one for what is the same for all kinds.
    fn any_cache(&self) -> &ProgramCache {
        &self.caches[0].1
    }
}

impl NodeWorkshop for Workshop {
    fn kinds(&self) -> Vec<Tag> {
        self.caches.iter().map(|(kind, _)| kind.clone()).collect()
    }

    fn start_runner(&self, bound: OwnedFd, errors: File) -> io::Result<()> {
        let mut runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = &*runner
            && !has_ended(process)?
        {
            return Err(io::Error::other("the node's runner lives"));
        }
        let programs = File::open(self.any_cache().directory())?;
        *runner = Some(runner::start(bound, programs, errors)?);
        Ok(())
    }

    fn has(&self, kind: &Tag, program: &ProgramId) -> bool {
        let cache = self.cache(kind).ok();
        let Some(installed) = cache.and_then(|cache| cache.ready(program)) else {
            return false;
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| !Arc::ptr_eq(other, &installed));
        open.truncate(OPEN_MAX - 1);
        open.push_front(installed);
        true
    }

    fn module(&self, program: &ProgramId) -> Result<File, String> {
        let module = self.any_cache().module(program);
        module.map_err(|error| text(&error))
    }

    fn add(&self, kind: &Tag, bytes: Arc<[u8]>) -> Result<(), String> {
        let silent = &mut |_| ControlFlow::Continue(());
        match self.cache(kind)?.add(&bytes, None, silent) {
            Ok(_) => Ok(()),
            Err(AddError::NotKept { source, .. }) => Err(text(&source)),
            Err(error) => Err(text(&error)),
        }
    }

    fn prepare(
        &self,
        kind: &Tag,
        program: &ProgramId,
        waypoints: &[Waypoint],
    ) -> Result<(), String> {
        let prepared = self.cache(kind)?.prepare(program, waypoints);
        prepared.map_err(|error| text(&error))
    }

    fn expect_moves(&self, kind: &Tag, program: &ProgramId) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        if expected.insert((kind.clone(), *program))
            && let Ok(cache) = self.cache(kind)
            && let Some(installed) = cache.ready(program)
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
