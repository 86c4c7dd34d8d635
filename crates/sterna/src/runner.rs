//! This program as a runner: a confined process that hosts the processes of a node. See [`run`].
//!
//! It is started by the node's manager, takes what it needs as descriptors, confines itself, and then serves: see
//! `sterna-runner`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sterna_process::toy::Toy;
use sterna_process::{Kind, ProgramId, Tag, Waypoint};
use sterna_runner::message::Paging;
use sterna_runner::{Elsewhere, Given, Kinds, fault};
use sterna_sys::confine::{self, Confinement};
use sterna_sys::enclosure::{self, Enclosed, Enclosure};
use sterna_sys::memory::keep_pagemap;
use sterna_sys::spawn::{Spawn, inherited};
use sterna_sys::{missing, tracking};
use sterna_wasm::cache::{self, ProgramCache};
use sterna_wasm::{Engine, EngineOptions, WasmKind};

/// The hidden subcommand that makes this program a runner.
pub(crate) const RUNNER: &str = "__runner";

const LISTENER: &str = "RUNNER_LISTENER";
const PROGRAMS: &str = "RUNNER_PROGRAMS";
/// Name of the directory of programs, inside.
const BOUND: &str = "programs";
/// Services that wait to be heard.
const BACKLOG: i32 = 16;

/// Starts a runner that listens on a bound socket and finds programs in a cache. The answer becomes readable when it ends
/// (pidfd_open(2)).
pub(crate) fn start(bound: OwnedFd, cache: File, errors: File) -> io::Result<OwnedFd> {
    let mut runner = Spawn::new("/proc/self/exe")
        .arg(RUNNER)
        .descriptor(LISTENER, bound)
        .descriptor(PROGRAMS, cache.into())
        .stderr(errors)
        .without_terminal();
    if let Some(faults) = fault::handed_on() {
        runner = runner.descriptor(fault::DESCRIPTOR, faults);
    }
    let child = runner.start().map_err(|error| error.source)?;
    let process = child.as_fd().try_clone_to_owned()?;
    // It is waited for, so that it leaves no zombie; it outlives this process all the same.
    thread::Builder::new()
        .name("runner's end".into())
        .spawn(move || {
            let mut child = child;
            let _ = child.wait(None);
        })?;
    Ok(process)
}

/// Is a runner, until its service says that this is the end.
pub(crate) fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("runner: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<()> {
    let bound = inherited(LISTENER)?;
    // By this the kernel knows whose process is at the other end of whoever connects.
    rustix::net::listen(&bound, BACKLOG).context("could not listen")?;
    let listener = UnixListener::from(bound);
    let cache = inherited(PROGRAMS)?;
    if let Ok(faults) = inherited(fault::DESCRIPTOR) {
        fault::take(faults);
    }
    allow_descriptors();
    keep_pagemap().context("the state of memory pages cannot be read")?;
    let confined = Confined::enter(cache)?;
    let given = Given {
        listener,
        confinement: confined.text,
        paging: paging(),
        takes_directories: confined.takes_directories,
    };
    sterna_runner::run(given, |elsewhere| {
        HostedKinds::new(&confined.programs, &(elsewhere as _)).map_err(io::Error::other)
    })?;
    Ok(())
}

/// As many descriptors as there may be: each process has some, and each client of one.
pub(crate) fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Fewer processes and clients, then.
    let _ = setrlimit(Resource::Nofile, most);
}

/// Where a runner is now.
struct Confined {
    /// How well it is confined: one line, that begins with `full`, `partial` or `none`.
    text: String,
    takes_directories: bool,
    /// Where its programs are.
    programs: PathBuf,
}

impl Confined {
    /// Moves into a place of its own, and gives up what it does not need. Where the machine does not allow the first,
    /// Landlock lets it read its programs and nothing else.
    fn enter(cache: OwnedFd) -> Result<Self> {
        let outside = std::fs::read_link(format!("/proc/self/fd/{}", cache.as_raw_fd()));
        let enclosed = Enclosure::new().bind(BOUND, cache).enter();
        let confinement = Confinement::for_runner();
        if enclosed.files.holds() {
            ensure!(
                enclosed.descriptors.holds(),
                "the runner would begin with a way out of its place: {enclosed}"
            );
            let applied = confinement.files_by_mounts().apply();
            return Ok(Self {
                text: together(&enclosed, &applied),
                takes_directories: true,
                programs: Path::new("/").join(BOUND),
            });
        }
        let programs = enclosed
            .directory(BOUND)
            .context("its programs are missing")?;
        let programs = programs.try_clone_to_owned()?;
        let applied = confinement.readable_beneath(programs).apply();
        Ok(Self {
            text: together(&enclosed, &applied),
            takes_directories: false,
            programs: outside.context("its programs cannot be found")?,
        })
    }
}

/// What holds of both, in one line.
fn together(enclosed: &Enclosed, applied: &confine::Applied) -> String {
    use enclosure::Extent;
    let full = enclosed.extent() == Extent::Full && applied.extent() == confine::Extent::Full;
    match full {
        true => "full".to_owned(),
        false => format!("partial: place {enclosed}; rights {applied}"),
    }
}

/// By what memory moves here, in the runner's confinement.
fn paging() -> Paging {
    let by = |tried: Result<()>| match tried {
        Ok(()) => "userfaultfd".to_owned(),
        Err(why) => format!("none: {why:#}"),
    };
    Paging {
        dirty_pages: by(tracking::available().map_err(Into::into)),
        post_copy: by(missing::available().map_err(Into::into)),
    }
}

/// The kinds that a runner hosts.
struct HostedKinds(Vec<Arc<dyn Kind>>);

impl HostedKinds {
    fn new(programs: &Path, elsewhere: &Arc<dyn Elsewhere>) -> Result<Self> {
        let mut kinds: Vec<Arc<dyn Kind>> = vec![Arc::new(Toy::new())];
        for options in EngineOptions::of_kinds() {
            let engine = Engine::new(options)?;
            let service = InService {
                kind: options.kind(),
                service: Arc::clone(elsewhere),
            };
            let cache = ProgramCache::open_read_only(programs, engine.clone(), Arc::new(service))
                .context("the program cache cannot be used")?;
            let kind = WasmKind::new(engine, Arc::new(cache)).map_err(|error| {
                anyhow::anyhow!("could not set up the WebAssembly engine: {error:#}")
            })?;
            kinds.push(Arc::new(kind));
        }
        Ok(Self(kinds))
    }
}

/// What only writers of the cache may do is asked for of the node's service.
struct InService {
    /// For processes of this kind.
    kind: Tag,
    service: Arc<dyn Elsewhere>,
}

impl cache::Elsewhere for InService {
    fn prepare(
        &self,
        program: ProgramId,
        waypoints: &[Waypoint],
    ) -> Result<(), cache::ElsewhereError> {
        let prepared = self.service.prepare(&self.kind, program, waypoints);
        prepared.map_err(|reason| cache::ElsewhereError { reason })
    }
}

impl Kinds for HostedKinds {
    fn kind(&self, name: &Tag) -> Option<Arc<dyn Kind>> {
        self.0.iter().find(|kind| kind.name() == *name).cloned()
    }
}
