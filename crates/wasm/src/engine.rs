//! The engine: stock wasmtime, set up so that a guest can be stopped, captured and carried to another
//! machine.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmtime::{Config, Inlining, OptLevel};

use crate::memory::GuestMemoryCreator;
use crate::stack::CALLS_MAX;

/// Address space reserved for one 32-bit memory, in bytes: with the guard after it, no access needs
/// a bounds check.
pub(crate) const MEMORY_RESERVATION: u64 = 4 << 30;
/// Inaccessible bytes after it.
const MEMORY_GUARD: u64 = 32 << 20;
/// Native stack of a guest: more than twice what the counted call depth can take, see `pass::cost`.
const STACK: usize = 12 << 20;
/// Of which wasm may use so much; the rest is for host calls.
const WASM_STACK: usize = STACK - (1 << 20);

/// How guests are compiled and run. Part of the name of every compiled artifact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EngineOptions {
    /// Give every NaN the same bits, so that a float computation is the same bit by bit on every
    /// architecture. Costs up to a tenth in float code.
    pub canonicalize_nans: bool,
    /// Which machines the code is for.
    pub target: Target,
}

/// Machines for which code is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// This one, with all that its processor can do.
    #[default]
    Here,
    /// Every machine with such a processor and Linux. If this machine is not one, code can be made but not run.
    Every(Processor),
}

/// Architectures of processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Processor {
    /// 64-bit Arm.
    Aarch64,
    /// 64-bit x86.
    X86_64,
}

impl Processor {
    /// All of them.
    pub const ALL: [Processor; 2] = [Processor::Aarch64, Processor::X86_64];

    /// This machine's, if it is one of them.
    #[must_use]
    pub fn here() -> Option<Processor> {
        let here = |processor: &Processor| processor.name() == std::env::consts::ARCH;
        Processor::ALL.into_iter().find(here)
    }

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Processor::Aarch64 => "aarch64",
            Processor::X86_64 => "x86_64",
        }
    }
}

impl Target {
    /// Name of its processor's architecture.
    #[must_use]
    pub fn processor_name(self) -> &'static str {
        match self {
            Target::Here => std::env::consts::ARCH,
            Target::Every(processor) => processor.name(),
        }
    }
}

/// Why the engine could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine cannot be set up on this machine, or for that target")]
pub struct EngineError(#[source] pub(crate) wasmtime::Error);

/// The engine for guests that can be moved. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    engine: wasmtime::Engine,
    options: EngineOptions,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Sets up the engine.
    ///
    /// # Errors
    /// The processor lacks what the compiler needs, or this program has no compiler for the target (feature `cross`).
    pub fn new(options: EngineOptions) -> Result<Engine, EngineError> {
        Engine::with(options, |_| {})
    }

    /// Sets up the engine with one more word on its configuration, such as another target to compile
    /// for.
    ///
    /// # Errors
    /// As [`Engine::new`], or what `adjust` asked for cannot be had.
    pub fn with(
        options: EngineOptions,
        adjust: impl FnOnce(&mut Config),
    ) -> Result<Engine, EngineError> {
        let mut config = common(options);
        config
            .shared_memory(true)
            // A safepoint is found by the address of its code: a function has one piece of it.
            .compiler_inlining(Inlining::No)
            .memory_reservation(MEMORY_RESERVATION)
            .memory_guard_size(MEMORY_GUARD)
            .memory_may_move(false)
            // What a guest in a host call can tell of its stack.
            .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(CALLS_MAX))
            .with_host_memory(Arc::new(GuestMemoryCreator));
        if let Target::Every(processor) = options.target {
            let triple = format!("{}-unknown-linux-gnu", processor.name());
            config.target(&triple).map_err(EngineError)?;
        }
        adjust(&mut config);
        let engine = wasmtime::Engine::new(&config).map_err(EngineError)?;
        Ok(Engine { engine, options })
    }

    /// The engine itself.
    #[must_use]
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.engine
    }

    /// What it was set up with.
    #[must_use]
    pub fn options(&self) -> EngineOptions {
        self.options
    }
}

/// The engine for guests that stay: it stops them at epochs.
pub(crate) fn immobile(options: EngineOptions) -> Result<wasmtime::Engine, EngineError> {
    let mut config = common(options);
    config
        .epoch_interruption(true)
        .wasm_function_references(true)
        .wasm_gc(true)
        .wasm_exceptions(true)
        .wasm_wide_arithmetic(true);
    wasmtime::Engine::new(&config).map_err(EngineError)
}

/// What guests are the same in, whether they can move or not.
fn common(options: EngineOptions) -> Config {
    let mut config = Config::new();
    config
        .wasm_threads(true)
        .wasm_multi_memory(true)
        .wasm_memory64(true)
        .wasm_tail_call(true)
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
        .wasm_branch_hinting(true)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(options.canonicalize_nans)
        .async_stack_size(STACK)
        .max_wasm_stack(WASM_STACK);
    config
}
