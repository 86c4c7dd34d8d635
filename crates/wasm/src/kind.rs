//! The wasm kind behind the traits of [`sterna_process`].

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use sterna_process::image::{Image, ImageHeader};
use sterna_process::{
    Environment, Identity, Incoming, Kind, Limits, Memory, MemoryLayout, PAGE_SIZE, PageSource,
    Paused, PrepareError, Program, ProgramId, Resources, RestoreError, Running, SpawnError, Tag,
    WAYPOINTS_MAX, Waypoint,
};
use sterna_wasi::{Wasi, WasiState};
use wasmtime::Linker;

use crate::builder::BuildError;
use crate::cache::{AddError, ProgramCache};
use crate::cpu::{self, CpuMeter};
use crate::describe;
use crate::engine::{Engine, EngineOptions};
use crate::entry;
use crate::environment::{config, rebind};
use crate::frames::{Frame, Value};
use crate::guest::{Guest, GuestError};
use crate::host::{self, Host};
use crate::installed::{AnticipateError, InstallError, Installed};
use crate::machine::MachineError;
use crate::owned::{Held, Standing, running};
use crate::pass::InstrumentError;
use crate::portable::{FRAMES, STATE, State, VERSION, WASI};
use crate::seat::Seat;
use crate::{later, pages, wait};

/// Name of the kind.
pub const KIND: Tag = Tag::new("wasm");
/// Name of the kind with [`EngineOptions::canonicalize_nans`]: a process that began with one NaN has one wherever it goes on.
pub const CANONICAL_NANS: Tag = Tag::new("wasm-canonical-nans");

/// Bytes in a page of WebAssembly's own.
const WASM_PAGE: u64 = 1 << 16;
/// What a program's first stop will need is read after it has run for so long.
const WARM_AFTER: Duration = Duration::from_millis(30);

/// Where programs come from.
pub trait Programs: Send + Sync {
    /// The program, ready to run: from a cache, or made ready now.
    ///
    /// # Errors
    /// [`ProgramError`].
    fn get(&self, program: &Program) -> Result<Arc<Installed>, ProgramError>;
}

/// Why a program is not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// Only its name was given, and it is not there.
    #[error("program {} is not here", .0.short())]
    Unknown(ProgramId),
    /// It could not be made ready.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The cache does not have it and could not make it.
    #[error(transparent)]
    Add(#[from] AddError),
}

/// Makes every program ready in this process and keeps none.
#[derive(Debug)]
pub struct Uncached(pub Engine);

impl Programs for Uncached {
    fn get(&self, program: &Program) -> Result<Arc<Installed>, ProgramError> {
        let bytes = program.bytes().ok_or(ProgramError::Unknown(program.id()))?;
        let options = crate::pass::Options::default();
        Ok(Arc::new(Installed::build(
            &self.0,
            Arc::from(bytes),
            options,
        )?))
    }
}

/// Runs and moves WebAssembly programs.
pub struct WasmKind {
    engine: Engine,
    linker: Linker<Host>,
    programs: Arc<dyn Programs>,
}

impl Programs for ProgramCache {
    fn get(&self, program: &Program) -> Result<Arc<Installed>, ProgramError> {
        if let Some(installed) = self.ready(&program.id()) {
            return Ok(installed);
        }
        let silent = &mut |_: crate::builder::Progress| ControlFlow::Continue(());
        let added = match program.bytes() {
            Some(bytes) => self.add(&bytes.into(), None, silent).map(Some),
            None => self.get(&program.id(), silent),
        };
        match added {
            Ok(Some(installed)) => Ok(installed),
            Ok(None) => Err(ProgramError::Unknown(program.id())),
            // It runs all the same.
            Err(AddError::NotKept { program, source }) => {
                tracing::warn!(
                    error = describe::chain(&source),
                    "the compiled program is not kept"
                );
                Ok(program)
            }
            Err(error) => Err(ProgramError::Add(error)),
        }
    }
}

impl EngineOptions {
    /// The kind of the processes of an engine with these.
    #[must_use]
    pub fn kind(&self) -> Tag {
        match self.canonicalize_nans {
            false => KIND,
            true => CANONICAL_NANS,
        }
    }

    /// Those of the engines of this machine, one for each kind.
    #[must_use]
    pub fn of_kinds() -> [Self; 2] {
        [false, true].map(|canonicalize_nans| Self {
            canonicalize_nans,
            ..Self::default()
        })
    }
}

impl WasmKind {
    /// The kind on `engine`, with programs from `programs`.
    ///
    /// # Errors
    /// If the engine refuses WASI's functions.
    pub fn new(engine: Engine, programs: Arc<dyn Programs>) -> Result<WasmKind, wasmtime::Error> {
        let linker = host::linker(engine.wasmtime())?;
        pages::scanner();
        Ok(WasmKind {
            engine,
            linker,
            programs,
        })
    }

    fn guest(&self, installed: &Arc<Installed>, limits: &Limits) -> Result<Guest, GuestError> {
        now(Guest::instantiate(
            &self.engine,
            &self.linker,
            installed,
            limits,
        ))
    }

    /// Starts a program.
    pub(crate) fn start(
        &self,
        identity: Identity,
        program: &Program,
        environment: Environment,
    ) -> Result<Arc<Seat>, SpawnError> {
        let installed = self
            .programs
            .get(program)
            .map_err(|error| spawn_error(program.id(), error))?;
        let limits = environment.resources.limits.clone();
        check_memory(&installed, &limits)?;
        let mut guest = self.guest(&installed, &limits).map_err(guest_spawn_error)?;
        guest.stages = entry::stages(
            &installed.module,
            installed.metadata.has_start,
            &environment,
        )?
        .into();
        let cpu = Arc::new(CpuMeter::default());
        let wasi =
            Wasi::new(config(environment, &cpu)).map_err(|error| SpawnError::Environment {
                reason: describe::chain(&error),
            })?;
        guest.store.data_mut().wasi = Some(wasi);
        let seat = Seat::new(identity, program.id(), SystemTime::now(), cpu, &guest);
        cpu::limit(&seat, &seat.cpu, &limits);
        warm_soon(installed);
        seat.start(guest);
        Ok(seat)
    }
}

impl std::fmt::Debug for WasmKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmKind")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl Kind for WasmKind {
    fn name(&self) -> Tag {
        self.engine.options().kind()
    }

    fn spawn(
        &self,
        identity: Identity,
        program: &Program,
        environment: Environment,
    ) -> Result<Running, SpawnError> {
        self.start(identity, program, environment).map(running)
    }

    fn prepare(
        &self,
        program: &Program,
        layout: &MemoryLayout,
    ) -> Result<Box<dyn Incoming>, PrepareError> {
        let installed = self.programs.get(program).map_err(prepare_error)?;
        let unlimited = Limits {
            memory_bytes_max: u64::MAX,
            table_elements_max: u64::MAX,
            ..Limits::default()
        };
        let failed = |error: GuestError| PrepareError::Failed {
            doing: "make an instance of the program",
            source: error.into(),
        };
        let guest = self.guest(&installed, &unlimited).map_err(failed)?;
        let own = guest.pages.layout();
        let fits = own.regions().len() == layout.regions().len()
            && own
                .regions()
                .iter()
                .zip(layout.regions())
                .all(|(own, wanted)| {
                    own.id == wanted.id
                        && own.pages <= wanted.pages
                        && wanted.pages <= own.pages_max
                });
        if !fits {
            let reason = "it has other memories, or memories of impossible lengths".into();
            return Err(PrepareError::Layout { reason });
        }
        // What comes is made into a process while nobody executes it: nothing is read then that can be read now.
        installed.warm();
        Ok(Box::new(Arriving {
            guest,
            program: program.id(),
        }))
    }

    fn anticipate(&self, program: &Program, waypoints: &[Waypoint]) -> Result<(), PrepareError> {
        let (needed, limit) = (waypoints.len() as u64, WAYPOINTS_MAX as u64);
        if needed > limit {
            return Err(PrepareError::OverLimit {
                what: "waypoints",
                needed,
                limit,
            });
        }
        let installed = self.programs.get(program).map_err(prepare_error)?;
        installed
            .anticipate(waypoints)
            .map_err(|error| match error {
                AnticipateError::Unknown(waypoint) => PrepareError::Waypoint { waypoint },
                error => PrepareError::Failed {
                    doing: "make ready what the process needs to go on",
                    source: error.into(),
                },
            })
    }
}

fn prepare_error(error: ProgramError) -> PrepareError {
    match error {
        ProgramError::Unknown(program) => PrepareError::UnknownProgram { program },
        error => PrepareError::Failed {
            doing: "make the program ready",
            source: error.into(),
        },
    }
}

/// A process that is about to arrive.
struct Arriving {
    guest: Guest,
    program: ProgramId,
}

impl Incoming for Arriving {
    fn memory(&self) -> Arc<dyn Memory> {
        self.guest.pages.clone()
    }

    fn can_follow(&self) -> bool {
        later::is_possible()
    }

    fn finish(
        mut self: Box<Self>,
        mut image: Image,
        resources: Resources,
        rest: Option<Box<dyn PageSource>>,
    ) -> Result<Box<dyn Paused>, RestoreError> {
        self.check(&image.header)?;
        let sections = &mut image.sections;
        let frames: Vec<Frame<Value>> = sections.require(&FRAMES, VERSION..=VERSION)?.decode()?;
        let state: State = sections.require(&STATE, VERSION..=VERSION)?.decode()?;
        let wasi: Option<WasiState> = sections.require(&WASI, VERSION..=VERSION)?.decode()?;
        std::mem::take(sections).finish()?;
        let limits = resources.limits.clone();
        check_sizes(&image.header.layout, &state, &limits)?;
        let wasi = wasi.ok_or_else(|| RestoreError::Inconsistent {
            reason: "it has no WASI world".into(),
        })?;
        let cpu = Arc::new(CpuMeter::starting_at(Duration::from_nanos(state.cpu_ns)));
        let bound = Wasi::restore(wasi, rebind(resources, &cpu, state.cpu_ns));
        let mut wasi = bound.map_err(|error| RestoreError::Binding {
            what: "something outside of itself".into(),
            reason: describe::chain(&error),
        })?;
        wasi.stop_clock();
        self.guest.store.data_mut().wasi = Some(wasi);
        let inconsistent = |error: GuestError| RestoreError::Inconsistent {
            reason: describe::chain(&error),
        };
        now(self.guest.restore(&state, &frames)).map_err(inconsistent)?;
        self.guest.store.data_mut().limits.tighten(&limits);
        now(self.guest.check()).map_err(check_error)?;
        let identity = Identity {
            process: image.header.process,
            epoch: image.header.epoch,
        };
        let started = SystemTime::UNIX_EPOCH + Duration::from_nanos(state.started_ns);
        let seat = Seat::new(identity, self.program, started, cpu, &self.guest);
        seat.hold();
        if let Some(rest) = rest {
            seat.follow(&image.header.layout, rest)?;
        }
        cpu::limit(&seat, &seat.cpu, &limits);
        Ok(Box::new(Standing {
            seat,
            guest: Held::Here(Box::new(self.guest)),
        }))
    }
}

impl Arriving {
    /// Whether an image can become this process.
    fn check(&self, header: &ImageHeader) -> Result<(), RestoreError> {
        let (found, expected) = (header.kind.clone(), self.guest.kind());
        if found != expected {
            return Err(RestoreError::WrongKind { found, expected });
        }
        if header.program != self.program {
            let (found, expected) = (header.program, self.program);
            return Err(RestoreError::WrongProgram { found, expected });
        }
        Ok(())
    }
}

/// Fails unless the image agrees with itself on how large the process is, and it may be that large.
fn check_sizes(layout: &MemoryLayout, state: &State, limits: &Limits) -> Result<(), RestoreError> {
    let pages_each = WASM_PAGE / PAGE_SIZE as u64;
    let pages = state
        .memories
        .iter()
        .map(|pages| pages.checked_mul(pages_each));
    let agree = layout
        .regions()
        .iter()
        .map(|region| Some(region.pages))
        .eq(pages);
    if !agree {
        return Err(RestoreError::Inconsistent {
            reason: "it says two things about the length of its memories".into(),
        });
    }
    let elements = state.tables.iter().map(|(_, values)| values.len() as u64);
    for (what, used, limit) in [
        ("bytes of memory", layout.bytes(), limits.memory_bytes_max),
        (
            "elements of tables",
            elements.sum(),
            limits.table_elements_max,
        ),
    ] {
        if used > limit {
            return Err(RestoreError::OverLimit { what, used, limit });
        }
    }
    Ok(())
}

fn check_error(error: MachineError) -> RestoreError {
    match error {
        MachineError::Prepare(InstallError::Instrument(_)) | MachineError::Misfit { .. } => {
            RestoreError::Inconsistent {
                reason: describe::chain(&error),
            }
        }
        error => RestoreError::Failed {
            doing: "make ready what the process needs to go on",
            source: error.into(),
        },
    }
}

/// Runs a future that has nothing to wait for: instances are made and restored by the caller's thread.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::yield_now();
    }
}

/// A program that runs for a while will perhaps be stopped.
fn warm_soon(installed: Arc<Installed>) {
    if installed.warming.swap(true, Ordering::Relaxed) {
        return;
    }
    wait::reactor().spawn(async move {
        tokio::time::sleep(WARM_AFTER).await;
        let warm = move || installed.warm();
        // Without a thread the first stop is slower, no more.
        let _ = std::thread::Builder::new()
            .name("sterna-warm".into())
            .spawn(warm);
    });
}

fn check_memory(installed: &Installed, limits: &Limits) -> Result<(), SpawnError> {
    let needed = installed.metadata.memory_bytes.iter().sum();
    let limit = limits.memory_bytes_max;
    if needed > limit {
        return Err(SpawnError::OverLimit {
            what: "bytes of memory",
            needed,
            limit,
        });
    }
    Ok(())
}

fn spawn_error(program: ProgramId, error: ProgramError) -> SpawnError {
    let error = match error {
        ProgramError::Install(InstallError::Instrument(error))
        | ProgramError::Add(AddError::Build(BuildError::Instrument(error))) => error,
        ProgramError::Unknown(_) => return SpawnError::UnknownProgram { program },
        error => {
            return SpawnError::Failed {
                doing: "make the program ready",
                source: error.into(),
            };
        }
    };
    match error {
        InstrumentError::Refused { feature, offset } => SpawnError::Immovable { feature, offset },
        InstrumentError::Invalid { offset, reason } => SpawnError::NotAProgram {
            kind: KIND,
            reason: format!("{reason} (at byte {offset})"),
        },
        error => SpawnError::Failed {
            doing: "make the program movable",
            source: error.into(),
        },
    }
}

fn guest_spawn_error(error: GuestError) -> SpawnError {
    match error {
        GuestError::Import(_) => SpawnError::Environment {
            reason: describe::chain(&error),
        },
        error => SpawnError::Failed {
            doing: "make an instance of the program",
            source: error.into(),
        },
    }
}
