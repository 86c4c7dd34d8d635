//! What a guest's store holds beside the engine's own: its WASI world and its limits, and how its host
//! calls are answered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use sterna_process::Plain;
use sterna_sys::gate::Verdict;
use sterna_wasi::{Function, Step, ValType, Wasi};
use wasmtime::{
    Caller, Engine, Extern, ExternType, Func, FuncType, ImportType, Linker, Memory,
    ResourceLimiter, Store, Val,
};

use crate::later;
use crate::pass::routines::KEPT_PORTION;
use crate::stack;
use crate::stop::Signals;
use crate::wait::wait;

/// Most arguments of any WASI function.
const ARGUMENTS_MAX: usize = 9;

/// Data of a guest's store.
pub(crate) struct Host {
    /// `None` until the guest has been given its resources.
    pub(crate) wasi: Option<Wasi>,
    /// The memory that WASI's pointers point into.
    pub(crate) memory: Option<Memory>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) limits: Growth,
    /// Whether the host call that ended last was cancelled, without effect.
    pub(crate) cancelled: bool,
}

impl Host {
    /// Of a guest that has been given nothing yet.
    pub(crate) fn new(limits: &sterna_process::Limits) -> Host {
        let signals = Arc::<Signals>::default();
        Host {
            wasi: None,
            memory: None,
            limits: Growth::new(limits, signals.clone()),
            signals,
            cancelled: false,
        }
    }
}

/// The guest called `proc_exit`.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the program ended with code {0}")]
pub(crate) struct ProcessExit(pub(crate) u32);

/// The guest was killed in a host call.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the program was killed")]
pub(crate) struct KilledInCall;

/// How far memories and tables may grow.
#[derive(Debug)]
pub(crate) struct Growth {
    pub(crate) memory_bytes_max: u64,
    pub(crate) table_elements_max: u64,
    /// Bytes of all memories, for whoever watches.
    pub(crate) memory_bytes: Arc<AtomicU64>,
    table_elements: u64,
    signals: Arc<Signals>,
}

impl Growth {
    pub(crate) fn new(limits: &sterna_process::Limits, signals: Arc<Signals>) -> Growth {
        Growth {
            signals,
            memory_bytes_max: limits.memory_bytes_max,
            table_elements_max: limits.table_elements_max,
            memory_bytes: Arc::default(),
            table_elements: 0,
        }
    }

    /// Sets other limits; what is used stays counted.
    pub(crate) fn tighten(&mut self, limits: &sterna_process::Limits) {
        *self = Growth {
            memory_bytes: self.memory_bytes.clone(),
            table_elements: self.table_elements,
            ..Growth::new(limits, self.signals.clone())
        };
    }
}

/// Grants `desired` instead of `current` if the sum stays within `max`.
fn grant(sum: &mut u64, current: usize, desired: usize, max: u64) -> bool {
    let grown = sum
        .saturating_sub(current as u64)
        .saturating_add(desired as u64);
    let granted = grown <= max;
    if granted {
        *sum = grown;
    }
    granted
}

impl ResourceLimiter for Growth {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let possible = maximum.is_none_or(|maximum| desired <= maximum);
        let mut sum = self.memory_bytes.load(Ordering::Relaxed);
        let granted = possible && grant(&mut sum, current, desired, self.memory_bytes_max);
        self.memory_bytes.store(sum, Ordering::Relaxed);
        Ok(granted)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        if more <= KEPT_PORTION as usize && self.signals.unwinding.load(Ordering::Acquire) {
            // Not the program grows it, but what keeps its references while it is stopped.
            return Ok(true);
        }
        let possible = maximum.is_none_or(|maximum| desired <= maximum);
        Ok(possible
            && grant(
                &mut self.table_elements,
                current,
                desired,
                self.table_elements_max,
            ))
    }

    fn instances(&self) -> usize {
        // Its own is the only one it can have. Those that it goes on with are ours.
        usize::MAX
    }

    fn memories(&self) -> usize {
        usize::MAX
    }

    fn tables(&self) -> usize {
        usize::MAX
    }
}

/// Why an import cannot be filled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error(
        "the program imports {}.{}, which is not part of WASI preview 1",
        Plain(module),
        Plain(name)
    )]
    Unknown { module: String, name: String },
    #[error("the program imports {module}.{name} as {found}; WASI has it as {expected}")]
    Type {
        module: String,
        name: String,
        found: String,
        expected: String,
    },
    #[error(
        "the program starts threads (it imports wasi.thread-spawn), which is not supported: build it \
         for one thread, for example for wasm32-wasip1"
    )]
    Threads,
}

/// What fills `import`, which is of WASI.
pub(crate) fn find(
    store: &mut Store<Host>,
    linker: &Linker<Host>,
    import: &ImportType<'_>,
) -> Result<Func, ImportError> {
    let (module, name) = (import.module(), import.name());
    if (module, name) == ("wasi", "thread-spawn") {
        return Err(ImportError::Threads);
    }
    let found = linker.get(&mut *store, module, name).ok();
    let Some(function) = found.and_then(Extern::into_func) else {
        return Err(ImportError::Unknown {
            module: module.to_owned(),
            name: name.to_owned(),
        });
    };
    let expected = function.ty(&*store);
    match import.ty() {
        ExternType::Func(ty) if ty.matches(&expected) => Ok(function),
        other => Err(ImportError::Type {
            module: module.to_owned(),
            name: name.to_owned(),
            found: match other {
                ExternType::Func(ty) => ty.to_string(),
                ExternType::Memory(_) => "a memory".into(),
                ExternType::Table(_) => "a table".into(),
                ExternType::Global(_) => "a global".into(),
                ExternType::Tag(_) => "a tag".into(),
            },
            expected: expected.to_string(),
        }),
    }
}

/// A linker with all of WASI preview 1.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    for &function in Function::ALL {
        for module in [sterna_wasi::MODULE, sterna_wasi::MODULE_UNSTABLE] {
            if Function::by_name(module, function.name()) != Some(function) {
                continue;
            }
            let (params, results) = function.signature();
            let ty = FuncType::new(
                engine,
                params.iter().map(value_type),
                results.iter().map(value_type),
            );
            if function.may_wait() {
                linker.func_new_async(
                    module,
                    function.name(),
                    ty,
                    move |caller, params, results| {
                        Box::new(answer_waiting(caller, function, params, results))
                    },
                )?;
            } else {
                linker.func_new(
                    module,
                    function.name(),
                    ty,
                    move |mut caller, params, results| {
                        match issue(&mut caller, function, params)? {
                            Step::Done(errno) => give(results, errno),
                            Step::Exit(code) => return Err(ProcessExit(code).into()),
                            Step::Wait(_) => unreachable!("a function that cannot wait does not"),
                        }
                        Ok(())
                    },
                )?;
            }
        }
    }
    Ok(linker)
}

fn value_type(ty: &ValType) -> wasmtime::ValType {
    match ty {
        ValType::I32 => wasmtime::ValType::I32,
        ValType::I64 => wasmtime::ValType::I64,
    }
}

fn give(results: &mut [Val], errno: sterna_wasi::Errno) {
    if let Some(result) = results.first_mut() {
        *result = Val::I32(i32::from(errno.raw()));
    }
}

/// Issues a call once.
fn issue(
    caller: &mut Caller<'_, Host>,
    function: Function,
    params: &[Val],
) -> wasmtime::Result<Step> {
    let mut arguments = [0; ARGUMENTS_MAX];
    for (argument, param) in arguments.iter_mut().zip(params) {
        *argument = match *param {
            Val::I32(value) => u64::from(value as u32),
            Val::I64(value) => value as u64,
            _ => 0,
        };
    }
    let arguments = &arguments[..params.len().min(ARGUMENTS_MAX)];
    let lacks = caller.data().signals.lacks.load(Ordering::Acquire);
    let lacking = lacks.then(|| caller.data().signals.clone());
    let memory = caller.data().memory;
    let (bytes, host) = match memory {
        Some(memory) => memory.data_and_store_mut(&mut *caller),
        None => (&mut [][..], caller.data_mut()),
    };
    let wasi = host
        .wasi
        .as_mut()
        .ok_or_else(|| wasmtime::format_err!("the program has no WASI world"))?;
    let Some(signals) = lacking else {
        return Ok(wasi.call(function, arguments, bytes));
    };
    // What it is called with may come from pages that never came.
    if signals.killed.load(Ordering::Acquire) {
        return Err(KilledInCall.into());
    }
    let touch = |area: &[u8]| later::touch(area, &signals);
    let step = wasi.call_touching(function, arguments, bytes, &touch);
    match signals.killed.load(Ordering::Acquire) {
        true => Err(KilledInCall.into()),
        false => Ok(step),
    }
}

/// Writes `text` to the guest's standard output, and waits for room like a call of its own.
pub(crate) async fn print(store: &mut Store<Host>, text: &str) -> Result<(), KilledInCall> {
    let mut rest = text.as_bytes();
    loop {
        let host = store.data_mut();
        let Some(wasi) = &mut host.wasi else {
            return Ok(());
        };
        let Err((written, pending)) = wasi.print(rest) else {
            return Ok(());
        };
        rest = &rest[written..];
        let now = wasi.now();
        let signals = host.signals.clone();
        signals.waiting.store(true, Ordering::Relaxed);
        wait(&pending, now, &signals.interrupt).await;
        signals.waiting.store(false, Ordering::Relaxed);
        if signals.killed.load(Ordering::Acquire) {
            return Err(KilledInCall);
        }
    }
}

async fn answer_waiting(
    mut caller: Caller<'_, Host>,
    function: Function,
    params: &[Val],
    results: &mut [Val],
) -> wasmtime::Result<()> {
    loop {
        let pending = match issue(&mut caller, function, params)? {
            Step::Done(errno) => {
                give(results, errno);
                return Ok(());
            }
            Step::Exit(code) => return Err(ProcessExit(code).into()),
            Step::Wait(pending) => pending,
        };
        let host = caller.data_mut();
        let now = host.wasi.as_ref().map_or_else(Default::default, Wasi::now);
        let signals = host.signals.clone();
        if !signals.gate.is_requested() {
            signals.waiting.store(true, Ordering::Relaxed);
            wait(&pending, now, &signals.interrupt).await;
            signals.waiting.store(false, Ordering::Relaxed);
        }
        if signals.killed.load(Ordering::Acquire) {
            return Err(KilledInCall.into());
        }
        if signals.gate.is_requested() {
            if signals.looked_at.load(Ordering::Acquire) {
                let calls = stack::calls(&caller);
                *signals.calls.lock().unwrap_or_else(PoisonError::into_inner) = calls;
            }
            signals.waiting.store(true, Ordering::Relaxed);
            let verdict = signals.gate.arrive(None);
            signals.waiting.store(false, Ordering::Relaxed);
            if verdict == Verdict::Unwind {
                caller.data_mut().cancelled = true;
                give(results, sterna_wasi::Errno::SUCCESS);
                return Ok(());
            }
        }
    }
}
