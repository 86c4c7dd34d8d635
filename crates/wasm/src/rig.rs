//! Two ways to run the same module, side by side: plainly, and instrumented with a stop at points that
//! a seed chooses, each resumed at once. Whatever can be seen of one must be seen of the other.

pub(crate) mod differential;

use std::collections::HashMap;
use std::sync::Arc;

use wasmtime::{Extern, ExternRef, Func, Instance, Store, Trap, Val};

use crate::control::Control;
use crate::machine::{Ended, Machine, MachineError};
use crate::memory::with_images;
use crate::pass::{InstrumentError, Options, names};
use crate::{Engine, EngineOptions, Installed};

/// Runs a future that never waits.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

/// A word so large that no test counts it down.
const NEVER: u32 = u32::MAX;

/// Of how many stops each call is made at the most, before it is left to run.
const STOPS_PER_CALL_MAX: u64 = 400;

/// The same numbers for the same seed (xorshift64*, Vigna, 2016).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }
}

/// What host functions share with the test.
pub(crate) struct Shared {
    /// Calls of the host so far, from which it makes up its results.
    pub(crate) host_calls: u64,
    /// What the host was called with, in a line each.
    pub(crate) log: String,
    /// Whether the host call at hand was cancelled, and so is to be issued again.
    pub(crate) cancelled: bool,
    /// In a stoppable guest: its word, and what decides whether to cancel a call.
    pub(crate) canceller: Option<(Arc<Control>, Random)>,
}

impl Shared {
    pub(crate) fn new() -> Shared {
        Shared {
            host_calls: 0,
            log: String::new(),
            cancelled: false,
            canceller: None,
        }
    }

    /// Whether the host call at hand is cancelled: then the guest is stopped right after it.
    pub(crate) fn cancels(&mut self) -> bool {
        let Some((control, random)) = &mut self.canceller else {
            return false;
        };
        if control.page().load() == NEVER || random.below(4) != 0 {
            return false;
        }
        control.page().store(1);
        self.cancelled = true;
        true
    }
}

/// Finds what an import is to be, by its place among the imports and its name and type.
pub(crate) type Find<'f> =
    dyn FnMut(&mut Store<Shared>, usize, &wasmtime::ImportType<'_>) -> Option<Extern> + 'f;

/// Engines set up alike for both ways. Compiles fast rather than well.
pub(crate) fn engine() -> Engine {
    Engine::with(EngineOptions::default(), |config| {
        config
            .cranelift_opt_level(wasmtime::OptLevel::None)
            // Segments are not always stripped here, and go into memories of our own.
            .memory_init_cow(false);
    })
    .expect("an engine for tests")
}

/// An instance of either way.
pub(crate) enum Guest {
    Plain(Instance),
    Stoppable(Box<Machine>),
}

/// Why there is no guest.
pub(crate) enum NoGuest {
    /// The pass does not take it.
    Instrument(InstrumentError),
    /// Instantiating it failed.
    Start(wasmtime::Error),
}

impl Guest {
    pub(crate) fn plain(
        store: &mut Store<Shared>,
        bytes: &[u8],
        find: &mut Find<'_>,
    ) -> Result<Guest, NoGuest> {
        let module = wasmtime::Module::new(store.engine(), bytes).map_err(NoGuest::Start)?;
        let imports = imports(store, &module, None, find).map_err(NoGuest::Start)?;
        let instance = now(Instance::new_async(store, &module, &imports));
        instance.map(Guest::Plain).map_err(NoGuest::Start)
    }

    pub(crate) fn stoppable(
        engine: &Engine,
        store: &mut Store<Shared>,
        bytes: &[u8],
        find: &mut Find<'_>,
    ) -> Result<Guest, NoGuest> {
        let options = |strip_data| Options {
            strip_data,
            countdown: true,
            ..Options::default()
        };
        let build = |strip_data| Installed::build(engine, bytes.into(), options(strip_data));
        // A segment that does not fit is an error of the pass if it is taken out, else a trap.
        let built = match build(true) {
            Err(crate::installed::InstallError::Instrument(InstrumentError::Invalid {
                ..
            })) => build(false),
            other => other,
        };
        let installed = match built {
            Ok(installed) => Arc::new(installed),
            Err(crate::installed::InstallError::Instrument(error)) => {
                return Err(NoGuest::Instrument(error));
            }
            Err(error) => panic!("{error:?}: {}", print_instrumented(bytes)),
        };
        let control = Control::new(engine.wasmtime(), installed.metadata.control_pages);
        let control = Arc::new(control.expect("a control memory"));
        control.page().store(NEVER);
        let imports = imports(store, &installed.module, Some(&control), find);
        let imports = imports.map_err(NoGuest::Start)?;
        let (instance, _) = with_images(installed.images.clone(), || {
            now(Instance::new_async(
                &mut *store,
                &installed.module,
                &imports,
            ))
        });
        let machine = Machine::new(installed, instance.map_err(NoGuest::Start)?, control);
        Ok(Guest::Stoppable(Box::new(machine)))
    }

    pub(crate) fn instance(&self) -> Instance {
        match self {
            Guest::Plain(instance) => *instance,
            Guest::Stoppable(machine) => machine.instance,
        }
    }

    /// Its start function, if it is not run by instantiating it.
    pub(crate) fn start(&self, store: &mut Store<Shared>) -> Option<Func> {
        match self {
            Guest::Plain(_) => None,
            Guest::Stoppable(machine) => machine.instance.get_func(store, names::START),
        }
    }

    /// Gives the whole call depth back: the standard lets an instance be called after a trap.
    pub(crate) fn reset_depth(&self, store: &mut Store<Shared>) {
        let Guest::Stoppable(machine) = self else {
            return;
        };
        let depth = machine.instance.get_global(&mut *store, names::DEPTH);
        let full = Val::I32(machine.installed.metadata.depth);
        depth
            .expect("the pass exports it")
            .set(store, full)
            .expect("a mutable i32");
    }

    /// Calls `function`; `stops` is where to stop, and counts.
    pub(crate) fn call(
        &mut self,
        store: &mut Store<Shared>,
        function: Func,
        args: &[Val],
        stops: Option<(&mut Random, &mut u64)>,
    ) -> Result<Vec<Val>, wasmtime::Error> {
        match self {
            Guest::Plain(_) => {
                let mut results = vec![Val::I32(0); function.ty(&*store).results().len()];
                now(function.call_async(store, args, &mut results))?;
                Ok(results)
            }
            Guest::Stoppable(machine) => call_stopping(machine, store, function, args, stops),
        }
    }

    /// What kind of trap an error is; running out of counted depth is running out of stack.
    pub(crate) fn trap(&self, store: &mut Store<Shared>, error: &wasmtime::Error) -> String {
        let Some(&trap) = error.downcast_ref::<Trap>() else {
            return format!("{error:?}");
        };
        if let (Guest::Stoppable(machine), Trap::UnreachableCodeReached) = (self, trap) {
            let depth = machine.instance.get_global(&mut *store, names::DEPTH);
            let left = depth.expect("the pass exports it").get(store).i32();
            if left.is_some_and(|left| left < 0) {
                return Trap::StackOverflow.to_string();
            }
        }
        trap.to_string()
    }
}

fn call_stopping(
    machine: &mut Machine,
    store: &mut Store<Shared>,
    function: Func,
    args: &[Val],
    mut stops: Option<(&mut Random, &mut u64)>,
) -> Result<Vec<Val>, wasmtime::Error> {
    let cancelled = |shared: &mut Shared| std::mem::take(&mut shared.cancelled);
    let mut stopped = 0;
    let arm = |machine: &Machine, stopped, stops: &mut Option<(&mut Random, &mut u64)>| {
        let word = match stops {
            Some((random, _)) if stopped < STOPS_PER_CALL_MAX => seed(random, machine, stopped),
            _ => NEVER,
        };
        machine.control.page().store(word);
    };
    arm(machine, stopped, &mut stops);
    let mut ended = now(machine.call(store, function, args, cancelled));
    let result = loop {
        match ended {
            Ok(Ended::Returned(results)) => break Ok(results),
            Ok(Ended::Stopped) => {
                stopped += 1;
                if std::env::var_os("STERNA_TRACE").is_some() {
                    eprintln!("stop {stopped}: {:?}", machine.frames);
                }
                arm(machine, stopped, &mut stops);
                ended = now(machine.go_on(store, cancelled));
            }
            Err(MachineError::Guest(error)) => break Err(error),
            Err(error) => panic!(
                "it cannot go on: {error:?}\n{}",
                print_instrumented(&machine.installed.bytes().unwrap())
            ),
        }
    };
    machine.control.page().store(NEVER);
    // After a trap outer frames may be left.
    machine.frames.clear();
    if let Some((_, count)) = stops {
        *count += stopped;
    }
    result
}

/// After how many looks at the word to stop: often at once, less often the longer this has gone on.
fn seed(random: &mut Random, machine: &Machine, stopped: u64) -> u32 {
    let limit = match random.below(4) {
        0 => 1,
        1 | 2 => 6,
        _ => 40 + stopped * stopped,
    };
    let deep = machine.frames.len() as u64;
    (1 + random.below(limit) + deep * deep / 64).min(u64::from(NEVER - 1)) as u32
}

fn imports(
    store: &mut Store<Shared>,
    module: &wasmtime::Module,
    control: Option<&Arc<Control>>,
    find: &mut Find<'_>,
) -> Result<Vec<Extern>, wasmtime::Error> {
    let last = module.imports().len().wrapping_sub(1);
    let mut found = Vec::with_capacity(module.imports().len());
    for (at, import) in module.imports().enumerate() {
        let one = match control {
            Some(control) if at == last => Some(Extern::SharedMemory(control.memory().clone())),
            _ => find(store, at, &import),
        };
        found.push(one.ok_or_else(|| {
            wasmtime::format_err!("unknown import {} {}", import.module(), import.name())
        })?);
    }
    Ok(found)
}

/// The instrumented module as text, for messages.
fn print_instrumented(bytes: &[u8]) -> String {
    if std::env::var_os("STERNA_PRINT").is_none() {
        return "(set STERNA_PRINT to see the instrumented module)".into();
    }
    let options = Options {
        countdown: true,
        ..Options::default()
    };
    let program = crate::pass::Program::parse(bytes.into(), options);
    match program.and_then(|program| program.instrument()) {
        #[cfg(test)]
        Ok(done) => wasmprinter::print_bytes(done.wasm).unwrap_or_else(|error| error.to_string()),
        #[cfg(not(test))]
        Ok(done) => format!("{:02x?}", done.wasm),
        Err(error) => error.to_string(),
    }
}

/// Values as text, bit for bit. References to functions are told apart from null only.
pub(crate) fn show(store: &impl wasmtime::AsContext, values: &[Val]) -> Vec<String> {
    values.iter().map(|value| show_one(store, value)).collect()
}

fn show_one(store: &impl wasmtime::AsContext, value: &Val) -> String {
    match value {
        Val::I32(value) => format!("i32 {value:#x}"),
        Val::I64(value) => format!("i64 {value:#x}"),
        Val::F32(bits) => format!("f32 {bits:#x}"),
        Val::F64(bits) => format!("f64 {bits:#x}"),
        Val::V128(bits) => format!("v128 {:#x}", bits.as_u128()),
        Val::FuncRef(function) => format!("function {}", function.is_some()),
        Val::ExternRef(None) => "extern null".into(),
        Val::ExternRef(Some(external)) => match external_number(store, external) {
            Some(number) => format!("extern {number}"),
            None => "extern".into(),
        },
        other => format!("{other:?}"),
    }
}

pub(crate) fn external_number(
    store: &impl wasmtime::AsContext,
    external: &wasmtime::Rooted<ExternRef>,
) -> Option<u32> {
    external
        .data(store.as_context())
        .ok()
        .flatten()?
        .downcast_ref::<u32>()
        .copied()
}

/// What can be seen of an instance from outside, by name: memories by hash, globals, table contents.
pub(crate) fn outside(
    store: &mut Store<Shared>,
    instance: Instance,
    exports: &[String],
) -> HashMap<String, String> {
    let mut seen = HashMap::new();
    for name in exports {
        let text = match instance.get_export(&mut *store, name) {
            Some(Extern::Memory(memory)) => {
                let data = memory.data(&*store);
                format!("memory of {}: {}", data.len(), blake3::hash(data))
            }
            Some(Extern::Global(global)) => {
                let value = global.get(&mut *store);
                show_one(&*store, &value)
            }
            Some(Extern::Table(table)) => {
                let mut text = String::new();
                for at in 0..table.size(&*store) {
                    let value = table.get(&mut *store, at).expect("inside").into();
                    text += &show_one(&*store, &value);
                    text += ", ";
                }
                text
            }
            _ => continue,
        };
        seen.insert(name.clone(), text);
    }
    seen
}
