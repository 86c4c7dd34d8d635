//! A program made ready to run: its compiled module, the table of its points, the initial images of its
//! memories, and the continuations compiled so far. Shared by all its processes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use sterna_sys::memory::InitialImage;
use wasmtime::Module;

use crate::engine::Engine;
use crate::frames::Frame;
use crate::memory::Initial;
use crate::pass::{self, ContinuationBuilder, Entry, Param, PointTable};

/// Why a program could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The pass refused it.
    #[error(transparent)]
    Instrument(#[from] pass::InstrumentError),
    /// The compiler refused it.
    #[error("compiling the program failed")]
    Compile(#[source] wasmtime::Error),
    /// Its initial memory could not be set up.
    #[error("setting up the program's initial memory failed")]
    Image(#[from] sterna_sys::memory::BuildImageError),
}

/// What is known of a program besides its code; kept beside the compiled artifact.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) points: PointTable,
    /// Memory, place in it, and range in the module's bytes, of what it starts with.
    pub(crate) pieces: Vec<(u32, u64, u64, u64)>,
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
    pub(crate) data_segments: u32,
    pub(crate) element_segments: u32,
    /// Memories that the module itself makes, in order.
    pub(crate) imported_memories: u32,
    pub(crate) has_start: bool,
}

/// Key of a continuation.
pub(crate) type Key = (u32, Entry);

/// A compiled module of continuations.
pub(crate) struct CompiledContinuations {
    pub(crate) module: Module,
    /// By which names of the main instance its imports are filled, in order.
    pub(crate) imports: Vec<String>,
}

/// Where a continuation is.
#[derive(Clone)]
pub(crate) enum Place {
    /// Exported by the main module: an outlined loop.
    Main(String, Arc<[Param]>),
    /// Exported by a module of continuations.
    Module(Arc<CompiledContinuations>, String, Arc<[Param]>),
}

/// A program ready to run.
pub struct Installed {
    pub(crate) engine: Engine,
    pub(crate) module: Module,
    pub(crate) metadata: Metadata,
    pub(crate) images: Vec<Initial>,
    bytes: Arc<[u8]>,
    options: pass::Options,
    builder: OnceLock<Result<ContinuationBuilder, String>>,
    continuations: RwLock<HashMap<Key, Place>>,
    /// One compilation at a time, so that nothing is compiled twice.
    compiling: Mutex<()>,
}

impl std::fmt::Debug for Installed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Installed")
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
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
        let metadata = Metadata::of(&program, instrumented);
        Installed::assemble(engine, bytes, options, module, metadata)
    }

    pub(crate) fn assemble(
        engine: &Engine,
        bytes: Arc<[u8]>,
        options: pass::Options,
        module: Module,
        metadata: Metadata,
    ) -> Result<Installed, InstallError> {
        let mut images = Vec::new();
        for memory in 0..metadata.memories {
            let pieces: Vec<(u64, &[u8])> = metadata
                .pieces
                .iter()
                .filter(|piece| piece.0 == memory)
                .filter_map(|&(_, at, start, end)| {
                    Some((at, bytes.get(start as usize..end as usize)?))
                })
                .collect();
            if !pieces.is_empty() {
                let size = metadata.memory_bytes[memory as usize] as usize;
                images.push(Initial {
                    image: Arc::new(InitialImage::build(pieces)?),
                    size,
                });
            }
        }
        Ok(Installed {
            engine: engine.clone(),
            module,
            metadata,
            images,
            bytes,
            options,
            builder: OnceLock::new(),
            continuations: RwLock::default(),
            compiling: Mutex::new(()),
        })
    }

    /// The original module.
    #[must_use]
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// The entry at which `frame` goes on.
    pub(crate) fn entry<V>(&self, frame: &Frame<V>) -> Result<Key, pass::InstrumentError> {
        let point = self.metadata.points.at_offset(frame.function, frame.offset);
        match point {
            Some(point) if frame.after => Ok((frame.function, Entry::After(point.op as usize))),
            Some(point) => Ok((frame.function, Entry::At(point.op as usize))),
            None => self
                .builder()?
                .entry_at(frame.function, frame.offset, frame.after)
                .map(|e| (frame.function, e)),
        }
    }

    /// Whether all continuations of `keys` are ready.
    pub(crate) fn ready(&self, keys: &[Key]) -> bool {
        let known = self
            .continuations
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        keys.iter().all(|key| known.contains_key(key))
    }

    /// Compiles the continuations of `keys` that are not there yet, all in one module.
    pub(crate) fn prepare(&self, keys: &[Key]) -> Result<(), InstallError> {
        if self.ready(keys) {
            return Ok(());
        }
        let _one = self
            .compiling
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut missing: Vec<Key> = {
            let known = self
                .continuations
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            keys.iter()
                .copied()
                .filter(|key| !known.contains_key(key))
                .collect()
        };
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let built = self.builder()?.build(&missing)?;
        let module =
            Module::new(self.engine.wasmtime(), &built.wasm).map_err(InstallError::Compile)?;
        let compiled = Arc::new(CompiledContinuations {
            module,
            imports: built.imports,
        });
        let mut known = self
            .continuations
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for (function, entry, name, params) in built.entries {
            let place = if self.module.get_export_index(&name).is_some() {
                Place::Main(name, params.into())
            } else {
                Place::Module(compiled.clone(), name, params.into())
            };
            known.insert((function, entry), place);
        }
        Ok(())
    }

    /// Where the continuation of `key` is, if it is ready.
    pub(crate) fn place(&self, key: Key) -> Option<Place> {
        self.continuations
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned()
    }

    fn builder(&self) -> Result<&ContinuationBuilder, pass::InstrumentError> {
        let build = || {
            let program = pass::Program::parse(self.bytes.clone(), self.options.clone());
            program
                .and_then(|program| program.continuations())
                .map_err(|error| error.to_string())
        };
        self.builder
            .get_or_init(build)
            .as_ref()
            .map_err(|error| pass::InstrumentError::Rewrite(error.clone()))
    }
}

impl Metadata {
    pub(crate) fn of(program: &pass::Program, instrumented: pass::Instrumented) -> Metadata {
        let module = program.module();
        let piece = |p: &pass::Piece| (p.memory, p.at, p.bytes.start as u64, p.bytes.end as u64);
        Metadata {
            pieces: instrumented.segments.iter().map(piece).collect(),
            points: instrumented.points,
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
            data_segments: module.passive_data.len() as u32,
            element_segments: module.passive_elements.len() as u32,
            imported_memories: module.imported_memories,
            has_start: module.start.is_some(),
        }
    }
}

fn memory_bytes_max(ty: &wasmparser::MemoryType) -> u64 {
    let all = if ty.memory64 { u64::MAX } else { 1 << 32 };
    let page = ty.page_size_log2.unwrap_or(16);
    ty.maximum.map_or(all, |pages| pages.checked_shl(page).unwrap_or(all)).min(all)
}
