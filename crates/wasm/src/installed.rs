//! A program made ready to run: its compiled module, the table of its points, the initial images of its
//! memories, and the continuations compiled so far. Shared by all its processes.
//!
//! It comes out of the [cache](crate::cache) (its [`Shelf`] then has what is needed rarely: the original module, the
//! points, continuations compiled earlier), or is built on the spot and has everything in memory.
//! `continuations` finds, loads and compiles these, `anticipated` before they are needed;
//! `addresses` tells what native code stands for; `images` makes what its memories start from.

mod addresses;
mod anticipated;
mod continuations;
pub(crate) mod images;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};
use wasmtime::Module;

use crate::builder::{BuildError, Builder, MadeProgram};
use crate::cache::{ElsewhereError, ReadModuleError, Shelf, take_artifact};
use crate::describe;
use crate::engine::Engine;
use crate::memory::Initial;
use crate::pass::{self, ContinuationBuilder, PointTable};

use addresses::Addresses;
pub(crate) use addresses::MarksAt;
pub use anticipated::AnticipateError;
pub use continuations::LoopHeaders;
pub(crate) use continuations::{CompiledContinuations, Key, Place};

/// Why a program could not be made ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The pass refused it.
    #[error(transparent)]
    Instrument(#[from] pass::InstrumentError),
    /// The compiler refused it.
    #[error("compiling the program failed")]
    Compile(#[source] wasmtime::Error),
    /// The builder did not build it.
    #[error(transparent)]
    Build(BuildError),
    /// Its initial memory could not be set up.
    #[error("setting up the program's initial memory failed")]
    Image(#[from] sterna_sys::memory::BuildImageError),
    /// The original module could not be read.
    #[error(transparent)]
    Module(#[from] ReadModuleError),
    /// Who writes the program cache did not do it.
    #[error(transparent)]
    Elsewhere(#[from] ElsewhereError),
    /// Who writes the program cache said that it was done, but it is not there.
    #[error("what the process needs to go on is not in the program cache, though it was put there")]
    NotThere,
    /// What is known of the program makes no sense.
    #[error("what the builder says of the program makes no sense")]
    Metadata,
}

impl InstallError {
    /// Whether the same may be made ready another time: what it lacked was room, time or somebody who answers.
    pub(crate) fn may_pass(&self) -> bool {
        use InstallError as Why;
        match self {
            // Who writes the cache says why in words only. A module that is gone or damaged can be added again.
            Why::Elsewhere(_) | Why::NotThere | Why::Module(_) => true,
            Why::Build(error) => matches!(
                error,
                BuildError::Memory { .. }
                    | BuildError::Time { .. }
                    | BuildError::Crashed { .. }
                    | BuildError::OtherEngine
                    | BuildError::Start(_)
                    | BuildError::Pass { .. }
            ),
            Why::Instrument(_) | Why::Compile(_) | Why::Image(_) | Why::Metadata => false,
        }
    }
}

impl From<BuildError> for InstallError {
    fn from(error: BuildError) -> InstallError {
        match error {
            BuildError::Instrument(error) => InstallError::Instrument(error),
            error => InstallError::Build(error),
        }
    }
}

/// What is known of a program besides its code; kept beside the compiled artifact.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Metadata {
    /// What the memories start from.
    pub(crate) images: Vec<images::Layout>,
    pub(crate) memories: u32,
    /// Initial size of each memory, in bytes.
    pub(crate) memory_bytes: Vec<u64>,
    pub(crate) depth: i32,
    /// WebAssembly pages of the control memory.
    pub(crate) control_pages: u32,
    pub(crate) tables: u32,
    pub(crate) globals: u32,
    /// Whether each is mutable.
    pub(crate) mutable_globals: Vec<bool>,
    /// Tables that the program can change.
    pub(crate) mutable_tables: Vec<u32>,
    /// Most bytes that each memory can have by its type.
    pub(crate) memory_bytes_max: Vec<u64>,
    pub(crate) functions: u32,
    /// Data segments that the program drops.
    pub(crate) dropped_data: Vec<u32>,
    /// Element segments that it drops.
    pub(crate) dropped_elements: Vec<u32>,
    /// Memories that the module itself makes, in order.
    pub(crate) imported_memories: u32,
    pub(crate) has_start: bool,
    /// Where in the module's bytes the contents of its section of names lie.
    pub(crate) names: Option<(u64, u64)>,
}

/// A program ready to run.
pub struct Installed {
    pub(crate) engine: Engine,
    pub(crate) module: Module,
    pub(crate) metadata: Metadata,
    pub(crate) images: Vec<Initial>,
    origin: Origin,
    options: pass::Options,
    /// Compiles what is needed later; without one, that is done in this process.
    compiler: Option<Builder>,
    /// Whether somebody sees to [`Installed::warm`].
    pub(crate) warming: AtomicBool,
    points: OnceLock<PointTable>,
    /// If they are not on the shelf.
    marks: OnceLock<pass::Marks>,
    addresses: Addresses,
    names: OnceLock<HashMap<u32, String>>,
    continuation_builder: OnceLock<Result<ContinuationBuilder, String>>,
    continuations: RwLock<HashMap<Key, Place>>,
    /// One compilation at a time, so that nothing is compiled twice.
    compiling: Mutex<()>,
    /// What is being written to the shelf. Waited for in the end.
    keepers: Mutex<Vec<JoinHandle<()>>>,
}

/// Where the original module is.
enum Origin {
    Memory(Arc<[u8]>),
    Shelf(Arc<Shelf>),
}

impl std::fmt::Debug for Installed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Installed")
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let keepers = self
            .keepers
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for keeper in keepers.drain(..) {
            // It has said why if it failed.
            let _ = keeper.join();
        }
    }
}

impl Installed {
    /// Instruments and compiles `bytes` in this process.
    ///
    /// # Errors
    /// [`InstallError`].
    pub fn build(
        engine: &Engine,
        bytes: Arc<[u8]>,
        options: pass::Options,
    ) -> Result<Installed, InstallError> {
        let program = pass::Program::parse(bytes.clone(), options.clone())?;
        let instrumented = program.instrument()?;
        let module =
            Module::new(engine.wasmtime(), &instrumented.wasm).map_err(InstallError::Compile)?;
        let known = Known::of(&program, instrumented);
        let metadata = known.metadata;
        let images = images::build(&metadata, &known.data)?;
        let origin = Origin::Memory(bytes);
        let installed = Installed::new(engine.clone(), options, module, metadata, images, origin);
        Ok(installed.with_points(known.points, known.marks))
    }

    /// What a builder has just made, in memory.
    pub(crate) fn from_made(
        builder: &Builder,
        bytes: Arc<[u8]>,
        made: &MadeProgram,
    ) -> Result<Installed, InstallError> {
        let engine = builder.engine().clone();
        let module = take_artifact(&engine, &made.artifact).map_err(InstallError::Compile)?;
        let metadata: Metadata =
            postcard::from_bytes(&made.metadata).map_err(|_| InstallError::Metadata)?;
        let points = postcard::from_bytes(&made.points).map_err(|_| InstallError::Metadata)?;
        let marks = postcard::from_bytes(&made.marks).map_err(|_| InstallError::Metadata)?;
        let images = images::build(&metadata, &made.data)?;
        let (options, origin) = (builder.options().clone(), Origin::Memory(bytes));
        let mut installed = Installed::new(engine, options, module, metadata, images, origin);
        installed.compiler = Some(builder.clone());
        Ok(installed.with_points(points, marks))
    }

    /// What lies in the cache.
    pub(crate) fn from_shelf(
        shelf: Shelf,
        module: Module,
        metadata: Metadata,
        images: Vec<Initial>,
    ) -> Installed {
        let builder = shelf.builder().clone();
        let (engine, options) = (builder.engine().clone(), builder.options().clone());
        let origin = Origin::Shelf(Arc::new(shelf));
        let mut installed = Installed::new(engine, options, module, metadata, images, origin);
        installed.compiler = Some(builder);
        installed
    }

    fn new(
        engine: Engine,
        options: pass::Options,
        module: Module,
        metadata: Metadata,
        images: Vec<Initial>,
        origin: Origin,
    ) -> Installed {
        Installed {
            engine,
            module,
            metadata,
            images,
            origin,
            options,
            compiler: None,
            warming: AtomicBool::new(false),
            points: OnceLock::new(),
            marks: OnceLock::new(),
            addresses: Addresses::default(),
            names: OnceLock::new(),
            continuation_builder: OnceLock::new(),
            continuations: RwLock::default(),
            compiling: Mutex::default(),
            keepers: Mutex::default(),
        }
    }

    fn with_points(self, points: PointTable, marks: pass::Marks) -> Installed {
        // It is new: it has none.
        let _ = self.points.set(points);
        let _ = self.marks.set(marks);
        self
    }

    /// Length of its native code, in bytes.
    #[must_use]
    pub fn code_bytes(&self) -> usize {
        self.module.text().len()
    }

    /// The original module. From the cache, it is read and compared with its hash each time.
    ///
    /// # Errors
    /// The file in the cache is damaged or cannot be read.
    pub fn bytes(&self) -> Result<Arc<[u8]>, ReadModuleError> {
        match &self.origin {
            Origin::Memory(bytes) => Ok(bytes.clone()),
            Origin::Shelf(shelf) => shelf.module(),
        }
    }

    /// Names of its functions, as far as the module has them.
    pub(crate) fn names(&self) -> &HashMap<u32, String> {
        self.names.get_or_init(|| {
            let Some((start, end)) = self.metadata.names else {
                return HashMap::new();
            };
            match &self.origin {
                Origin::Memory(bytes) => {
                    let section = bytes.get(start as usize..end as usize);
                    describe::function_names(section.unwrap_or_default())
                }
                Origin::Shelf(shelf) => match shelf.module_part(start, end) {
                    Ok(section) => describe::function_names(&section),
                    Err(error) => {
                        tracing::warn!(%error, "back-traces have no function names");
                        HashMap::new()
                    }
                },
            }
        })
    }

    /// Reads what a stop will need, so that the first is as quick as others.
    pub(crate) fn warm(&self) {
        if let Err(error) = self.ready_to_look() {
            tracing::warn!(%error, "the program cannot be stopped");
        }
        self.names();
    }

    /// The points at which it can be stopped. From the cache, they are read when they are first asked for.
    ///
    /// # Errors
    /// They can neither be read nor made again.
    pub(crate) fn points(&self) -> Result<&PointTable, InstallError> {
        if let Some(points) = self.points.get() {
            return Ok(points);
        }
        let read = match &self.origin {
            Origin::Shelf(shelf) => shelf.points(),
            Origin::Memory(_) => Err(std::io::ErrorKind::NotFound.into()),
        };
        let points = match read {
            Ok(points) => points,
            Err(error) => {
                tracing::warn!(%error, "the table of points cannot be used and is made again");
                let program = pass::Program::parse(self.bytes()?, self.options.clone())?;
                program.instrument()?.points
            }
        };
        Ok(self.points.get_or_init(|| points))
    }
}

/// Where the contents of the section of names lie.
fn name_section(module: &[u8]) -> Option<(u64, u64)> {
    Parser::new(0)
        .parse_all(module)
        .find_map(|payload| match payload {
            Ok(Payload::CustomSection(section)) if section.name() == "name" => {
                let start = section.data_offset() as u64;
                Some((start, start + section.data().len() as u64))
            }
            _ => None,
        })
}

/// What is known of a program when it has been instrumented.
pub(crate) struct Known {
    pub(crate) metadata: Metadata,
    pub(crate) points: PointTable,
    pub(crate) marks: pass::Marks,
    /// The bytes of the initial images, see [`images::Layout`].
    pub(crate) data: Vec<u8>,
}

impl Known {
    pub(crate) fn of(program: &pass::Program, instrumented: pass::Instrumented) -> Known {
        let module = program.module();
        let (images, data) = images::lay_out(&module.bytes, &instrumented.segments);
        let metadata = Metadata {
            images,
            memories: module.memories.len() as u32,
            memory_bytes: module
                .memories
                .iter()
                .map(|ty| ty.initial << ty.page_size_log2.unwrap_or(16))
                .collect(),
            depth: instrumented.depth,
            control_pages: instrumented.control_pages,
            tables: module.tables.len() as u32,
            globals: module.globals.len() as u32,
            mutable_globals: module.globals.iter().map(|global| global.mutable).collect(),
            mutable_tables: module.mutable_tables.iter().copied().collect(),
            memory_bytes_max: module.memories.iter().map(memory_bytes_max).collect(),
            functions: module.function_count(),
            dropped_data: module.dropped_data.iter().copied().collect(),
            dropped_elements: module.dropped_elements.iter().copied().collect(),
            imported_memories: module.imported_memories,
            has_start: module.start.is_some(),
            names: name_section(&module.bytes),
        };
        Known {
            metadata,
            points: instrumented.points,
            marks: instrumented.marks,
            data,
        }
    }
}

fn memory_bytes_max(ty: &wasmparser::MemoryType) -> u64 {
    let all = if ty.memory64 { u64::MAX } else { 1 << 32 };
    let page = ty.page_size_log2.unwrap_or(16);
    ty.maximum
        .map_or(all, |pages| pages.checked_shl(page).unwrap_or(all))
        .min(all)
}
