//! Wasm programs that cannot be moved, or need not be: [`ImmobileWasm`].
//!
//! They run on an engine of their own that checks an epoch at loops and calls. It advances only when
//! something is to be ended; then every guest of this engine looks whether it is meant, and goes on if not.
//! What the engine cannot interrupt by itself, the [lesser pass](crate::pass::killable) replaces.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use sterna_process::{
    Control, Controls, DescribeError, Description, Environment, Exit, Identity, Incoming, Kind,
    Memory, MemoryError, MemoryLayout, PageRun, PageRuns, PauseRefused, Pausing, PrepareError,
    Process, Program, Running, SpawnError, State, Stats, Tag, Waypoint,
};
use sterna_wasi::Wasi;
use wasmtime::{
    AsContextMut, Caller, Extern, Instance, Linker, Module, Store, UpdateDeadline, Val,
};

use crate::cpu::{self, CpuMeter, Limited};
use crate::engine::{self, EngineError, EngineOptions};
use crate::exit::{exit_for, exit_of_panic};
use crate::host::{self, Host, ImportError, KilledInCall};
use crate::kind::KIND;
use crate::pass::InstrumentError;
use crate::pass::killable::{SLEEP, killable};
use crate::pass::names;
use crate::pool::{Pool, Shift};
use crate::portable::Stage;
use crate::stop::Signals;
use crate::{describe, entry, environment, wait};

/// What an immobile process answers to whoever wants to move it.
const REMEDY: &str = "it was started as immobile: start it without that, if its program allows";
/// How often a guest that is to end is reminded of it, in the rare case that it overheard it.
const REMINDER: Duration = Duration::from_millis(5);

/// Runs WebAssembly programs that stay where they are.
///
/// Beyond what [`WasmKind`](crate::WasmKind) runs, they may use garbage-collected types, typed function
/// references, exceptions, and atomics on shared memories, as long as they start no second thread.
pub struct ImmobileWasm {
    engine: wasmtime::Engine,
    linker: Linker<Host>,
}

impl std::fmt::Debug for ImmobileWasm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImmobileWasm").finish_non_exhaustive()
    }
}

impl ImmobileWasm {
    /// The kind, with an engine of its own.
    ///
    /// # Errors
    /// The engine cannot run on this machine.
    pub fn new(options: EngineOptions) -> Result<ImmobileWasm, EngineError> {
        let engine = engine::immobile(options)?;
        let linker = linker(&engine).map_err(EngineError)?;
        Ok(ImmobileWasm { engine, linker })
    }
}

fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Host>> {
    let mut linker = host::linker(engine)?;
    linker.func_wrap_async(
        SLEEP.0,
        SLEEP.1,
        |mut caller: Caller<'_, Host>, (nanoseconds,): (i64,)| {
            Box::new(async move {
                let signals = caller.data().signals.clone();
                let now = |caller: &Caller<'_, Host>| {
                    let wasi = caller.data().wasi.as_ref();
                    wasi.map_or_else(Default::default, Wasi::now)
                };
                let length = u64::try_from(nanoseconds).ok().map(Duration::from_nanos);
                let deadline = length.map(|length| now(&caller).saturating_add(length));
                while deadline.is_none_or(|at| now(&caller) < at) {
                    let waited = sterna_wasi::Wait {
                        descriptors: Vec::new(),
                        deadline,
                    };
                    signals.waiting.store(true, Ordering::Relaxed);
                    wait::wait(&waited, now(&caller), &signals.interrupt).await;
                    signals.waiting.store(false, Ordering::Relaxed);
                    if caller.data_mut().signals.killed.load(Ordering::Acquire) {
                        return Err(KilledInCall.into());
                    }
                }
                Ok(2_i32)
            })
        },
    )?;
    Ok(linker)
}

impl Kind for ImmobileWasm {
    fn name(&self) -> Tag {
        KIND
    }

    fn spawn(
        &self,
        _: Identity,
        program: &Program,
        environment: Environment,
    ) -> Result<Running, SpawnError> {
        let bytes = program.bytes().ok_or(SpawnError::UnknownProgram {
            program: program.id(),
        })?;
        let limits = environment.resources.limits.clone();
        let killable = killable(bytes).map_err(refused)?;
        if killable.memory_bytes > limits.memory_bytes_max {
            return Err(SpawnError::OverLimit {
                what: "bytes of memory",
                needed: killable.memory_bytes,
                limit: limits.memory_bytes_max,
            });
        }
        let failed = |doing| {
            move |source: wasmtime::Error| SpawnError::Failed {
                doing,
                source: source.into(),
            }
        };
        let module = Module::from_binary(&self.engine, &killable.wasm)
            .map_err(failed("compile the program"))?;
        let stages = entry::stages(&module, killable.has_start, &environment)?;
        let mut store = Store::new(&self.engine, Host::new(&limits));
        store.limiter(|host| &mut host.limits);
        let give_way = at_each_epoch(&mut store);
        let imports = self.imports(&mut store, &module)?;
        let made = Instance::new_async(&mut store, &module, &imports);
        let instance = crate::kind::now(made).map_err(failed("make an instance of the program"))?;
        let cpu = Arc::new(CpuMeter::default());
        let wasi = Wasi::new(environment::config(environment, &cpu));
        let wasi = wasi.map_err(|error| SpawnError::Environment {
            reason: describe::chain(&error),
        })?;
        let host = store.data_mut();
        host.wasi = Some(wasi);
        let seat = Arc::new_cyclic(|own| Seat {
            own: own.clone(),
            started: SystemTime::now(),
            engine: self.engine.clone(),
            signals: host.signals.clone(),
            memory_bytes: host.limits.memory_bytes.clone(),
            memory_peak: AtomicU64::new(0),
            cpu: cpu.clone(),
            give_way,
            end: Mutex::default(),
            ended: Condvar::new(),
        });
        let memory = instance.get_memory(&mut store, "memory");
        store.data_mut().memory = memory;
        cpu::limit(&seat, &cpu, &limits);
        let work = seat.clone().work(store, instance, stages.into());
        Pool::global().start(seat.clone(), work);
        Ok(Running {
            control: Control::new(seat.clone()),
            process: Box::new(Sitting { seat }),
        })
    }

    fn prepare(&self, _: &Program, _: &MemoryLayout) -> Result<Box<dyn Incoming>, PrepareError> {
        Err(PrepareError::Failed {
            doing: "take a process in",
            source: "this runs processes as immobile: none can arrive here; thaw it as movable"
                .into(),
        })
    }

    fn anticipate(&self, _: &Program, _: &[Waypoint]) -> Result<(), PrepareError> {
        Err(PrepareError::Failed {
            doing: "make ready what a process needs to go on",
            source: "this runs processes as immobile: none can arrive here".into(),
        })
    }
}

impl ImmobileWasm {
    fn imports(&self, store: &mut Store<Host>, module: &Module) -> Result<Vec<Extern>, SpawnError> {
        let fill = |import: wasmtime::ImportType<'_>| {
            if (import.module(), import.name()) == SLEEP
                && let Some(sleep) = self.linker.get(&mut *store, SLEEP.0, SLEEP.1).ok()
            {
                return Ok(sleep);
            }
            // A program made for threads imports its memory, so that all of them have the same.
            if let wasmtime::ExternType::Memory(ty) = import.ty() {
                let memory = crate::kind::now(wasmtime::Memory::new_async(&mut *store, ty));
                return memory
                    .map(Extern::Memory)
                    .map_err(|source| SpawnError::Failed {
                        doing: "make the memory that the program imports",
                        source: source.into(),
                    });
            }
            let found = host::find(store, &self.linker, &import);
            found
                .map(Extern::Func)
                .map_err(|error: ImportError| SpawnError::Environment {
                    reason: error.to_string(),
                })
        };
        module.imports().map(fill).collect()
    }
}

/// Lets the store's guest be killed, or made to queue behind others by setting what is returned, whenever the
/// engine's epoch grows.
fn at_each_epoch(store: &mut Store<Host>) -> Arc<AtomicBool> {
    let give_way = Arc::new(AtomicBool::new(false));
    let asked = give_way.clone();
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |context| {
        if context.data().signals.killed.load(Ordering::Acquire) {
            return Err(KilledInCall.into());
        }
        Ok(match asked.swap(false, Ordering::Relaxed) {
            true => UpdateDeadline::Yield(1),
            false => UpdateDeadline::Continue(1),
        })
    });
    give_way
}

/// Why a program is not run.
fn refused(error: InstrumentError) -> SpawnError {
    match error {
        InstrumentError::Invalid { offset, reason } => SpawnError::NotAProgram {
            kind: KIND,
            reason: format!("{reason} (at byte {offset})"),
        },
        error => SpawnError::Failed {
            doing: "make the program killable",
            source: error.into(),
        },
    }
}

/// What the process's task and those who watch it share.
struct Seat {
    /// Itself, for who reminds it.
    own: Weak<Seat>,
    started: SystemTime,
    engine: wasmtime::Engine,
    signals: Arc<Signals>,
    memory_bytes: Arc<AtomicU64>,
    memory_peak: AtomicU64,
    cpu: Arc<CpuMeter>,
    /// Whether it is to queue behind others.
    give_way: Arc<AtomicBool>,
    end: Mutex<End>,
    ended: Condvar,
}

#[derive(Default)]
struct End {
    /// The limit that it broke, if it is killed for that.
    broke: Option<String>,
    exit: Option<Exit>,
}

impl Seat {
    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(
        self: Arc<Self>,
        mut store: Store<Host>,
        instance: Instance,
        stages: VecDeque<Stage>,
    ) {
        let _contained = Contained(&self);
        let ran = if self.signals.killed.load(Ordering::Acquire) {
            Err(KilledInCall.into())
        } else {
            run(&mut store, instance, stages).await
        };
        let killed = self.signals.killed.load(Ordering::Acquire);
        let exit = match ran {
            Ok(()) => Exit::Code(0),
            Err(error) => {
                let back_trace = || describe::engine_back_trace(&error);
                exit_for(&error, None, killed, back_trace)
            }
        };
        // The last descriptors are closed before anybody hears of the end.
        drop(store);
        self.finish(exit);
    }

    fn finish(&self, exit: Exit) {
        let mut end = self.end();
        let exit = match end.broke.take() {
            Some(what) if exit == Exit::Killed => Exit::Trapped {
                what,
                back_trace: String::new(),
            },
            _ => exit,
        };
        end.exit.get_or_insert(exit);
        self.ended.notify_all();
    }
}

/// Ends the process if its task panics.
struct Contained<'s>(&'s Seat);

impl Drop for Contained<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.finish(exit_of_panic());
        }
    }
}

async fn run(
    store: &mut Store<Host>,
    instance: Instance,
    stages: VecDeque<Stage>,
) -> wasmtime::Result<()> {
    for stage in stages {
        let (name, args, print) = match stage {
            Stage::Start => (names::START.to_owned(), Vec::new(), false),
            Stage::Call {
                export,
                args,
                print,
            } => (export, args, print),
        };
        let function = instance.get_func(store.as_context_mut(), &name);
        let function =
            function.ok_or_else(|| wasmtime::format_err!("there is no function `{name}`"))?;
        let args: Vec<Val> = args.iter().filter_map(entry::plain).collect();
        let mut results = vec![Val::I32(0); function.ty(&mut *store).results().len()];
        function
            .call_async(&mut *store, &args, &mut results)
            .await?;
        if print {
            host::print(store, &entry::lines(&results)).await?;
        }
    }
    Ok(())
}

impl Shift for Seat {
    fn begin(&self) {
        self.cpu.begin();
    }

    fn end(&self) {
        self.cpu.end();
    }

    fn give_way(&self) {
        self.give_way.store(true, Ordering::Relaxed);
        self.engine.increment_epoch();
    }
}

impl Limited for Seat {
    fn has_ended(&self) -> bool {
        self.end().exit.is_some()
    }

    fn end_for(&self, what: String) {
        self.end().broke = Some(what);
        self.kill();
    }
}

impl Controls for Seat {
    fn kill(&self) {
        self.signals.killed.store(true, Ordering::Release);
        self.signals.interrupt.notify_one();
        self.engine.increment_epoch();
        let own = self.own.clone();
        // A guest that looked just before, for another's sake, sets its next look after this one.
        wait::reactor().spawn(async move {
            loop {
                tokio::time::sleep(REMINDER).await;
                match own.upgrade() {
                    Some(seat) if !seat.has_ended() => seat.engine.increment_epoch(),
                    _ => return,
                }
            }
        });
    }

    fn stats(&self) -> Stats {
        let state = if self.has_ended() {
            State::Ended
        } else if self.signals.waiting.load(Ordering::Relaxed) {
            State::Waiting
        } else {
            State::Running
        };
        let memory_bytes = self.memory_bytes.load(Ordering::Relaxed);
        let peak = self.memory_peak.fetch_max(memory_bytes, Ordering::Relaxed);
        Stats {
            state,
            started: self.started,
            cpu_time: self.cpu.read(),
            memory_bytes,
            memory_bytes_peak: peak.max(memory_bytes),
        }
    }

    fn wait(&self, within: Duration) -> Option<Exit> {
        let running = |end: &mut End| end.exit.is_none();
        let waited = self.ended.wait_timeout_while(self.end(), within, running);
        let end = waited.unwrap_or_else(PoisonError::into_inner).0;
        end.exit.clone()
    }

    fn describe(&self, _: Duration) -> Result<Description, DescribeError> {
        if self.has_ended() {
            return Err(DescribeError::Ended);
        }
        Ok(Description {
            notes: vec![(
                "immobile".into(),
                "its calls and files cannot be seen".into(),
            )],
            ..Description::default()
        })
    }
}

struct Sitting {
    seat: Arc<Seat>,
}

impl Process for Sitting {
    fn memory(&self) -> Arc<dyn Memory> {
        Arc::new(Unseen)
    }

    fn waypoints(&self, _: Duration) -> Result<Vec<Waypoint>, PauseRefused> {
        if self.seat.has_ended() {
            return Err(PauseRefused::Ended);
        }
        let reason = REMEDY.into();
        Err(PauseRefused::Immovable { reason })
    }

    fn pause_among(self: Box<Self>, _: &BTreeSet<Waypoint>, within: Duration) -> Pausing {
        self.pause(within)
    }

    fn pause(self: Box<Self>, _: Duration) -> Pausing {
        let exit = self.seat.end().exit.clone();
        match exit {
            Some(exit) => Pausing::Exited(exit),
            None => {
                let reason = REMEDY.into();
                Pausing::Refused(self, PauseRefused::Immovable { reason })
            }
        }
    }
}

/// The memory of a process that nobody carries away: no pages of it are shown.
struct Unseen;

impl Memory for Unseen {
    fn layout(&self) -> MemoryLayout {
        MemoryLayout::default()
    }

    fn read(&self, runs: &[PageRun], buffer: &mut [u8]) -> Result<(), MemoryError> {
        no_pages(runs)?;
        MemoryError::check_length(runs, buffer.len())
    }

    fn install(&self, runs: &[PageRun], bytes: &[u8]) -> Result<(), MemoryError> {
        no_pages(runs)?;
        MemoryError::check_length(runs, bytes.len())
    }

    fn changed(&self) -> Result<PageRuns, MemoryError> {
        Ok(PageRuns::new())
    }

    fn start_tracking(&self) -> Result<(), MemoryError> {
        Ok(())
    }

    fn take_dirty(&self) -> Result<PageRuns, MemoryError> {
        Ok(PageRuns::new())
    }

    fn put_back(&self, runs: &[PageRun]) -> Result<(), MemoryError> {
        no_pages(runs)
    }

    fn stop_tracking(&self) -> Result<(), MemoryError> {
        Ok(())
    }
}

fn no_pages(runs: &[PageRun]) -> Result<(), MemoryError> {
    match runs.first() {
        Some(&run) => Err(MemoryError::OutOfRange { run }),
        None => Ok(()),
    }
}
