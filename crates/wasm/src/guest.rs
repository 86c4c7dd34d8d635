//! One guest: an instance in a store of its own, the calls that make up its run, and its state in
//! portable terms. It knows no threads; whoever has it may run it, or carry it away.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sterna_process::{PAGE_SIZE, Tag};
use wasmtime::{Extern, Func, Linker, Store, Val};

use crate::control::Control;
use crate::engine::Engine;
use crate::entry;
use crate::frames::{Frame, Value};
use crate::host::{self, Host, ImportError};
use crate::installed::Installed;
use crate::machine::{Ended, Machine, MachineError};
use crate::memory::with_images;
use crate::pages::{GuestPages, GuestRegion};
use crate::pass::names;
use crate::portable::{PortableError, References, Stage, State};
use crate::stop::Stopper;

/// Why a guest could not be made or restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("the program has no function `{name}` to call")]
    NoFunction { name: String },
    #[error("the engine could not make an instance of the program")]
    Instantiate(#[source] wasmtime::Error),
    #[error(transparent)]
    Portable(#[from] PortableError),
    #[error("its {what} are not those of the program")]
    Incomplete { what: &'static str },
    #[error("memory {index} cannot have {pages} pages")]
    Memory { index: u32, pages: u64 },
}

/// A guest that does not run at the moment.
pub(crate) struct Guest {
    pub(crate) store: Store<Host>,
    pub(crate) machine: Machine,
    pub(crate) pages: Arc<GuestPages>,
    pub(crate) stopper: Arc<Stopper>,
    pub(crate) stages: VecDeque<Stage>,
    begun: bool,
}

/// How a stretch of a guest's run ended.
#[derive(Debug)]
pub(crate) enum Stretch {
    /// It has been stopped.
    Stopped,
    /// All its calls have returned.
    Finished,
}

impl Guest {
    /// Of which kind its process is.
    pub(crate) fn kind(&self) -> Tag {
        self.machine.installed.engine.options().kind()
    }

    /// Makes an instance that has run nothing yet. `linker` has WASI.
    pub(crate) async fn instantiate(
        engine: &Engine,
        linker: &Linker<Host>,
        installed: &Arc<Installed>,
        limits: &sterna_process::Limits,
    ) -> Result<Guest, GuestError> {
        let pages = installed.metadata.control_pages;
        let control =
            Arc::new(Control::new(engine.wasmtime(), pages).map_err(GuestError::Instantiate)?);
        let host = Host::new(limits);
        let stopper = Stopper::new(control.clone(), host.signals.clone());
        let mut store = Store::new(engine.wasmtime(), host);
        store.limiter(|host| &mut host.limits);
        stopper.watch(&mut store);
        let imports = imports(&mut store, linker, installed, &control)?;
        // Instances are made on one thread without a pause: host memories do not wait.
        let (instance, made) = with_images(installed.images.iter().cloned(), || {
            wasmtime::Instance::new(&mut store, &installed.module, &imports)
        });
        let instance = instance.map_err(GuestError::Instantiate)?;
        let mut regions = Vec::new();
        for (index, &bytes_max) in (0u32..).zip(&installed.metadata.memory_bytes_max) {
            let memory = instance.get_memory(&mut store, &names::memory(index));
            let at = memory.map(|memory| memory.data_ptr(&store));
            let lies = made.iter().find(|made| Some(made.as_ptr()) == at);
            let memory = lies.ok_or(GuestError::Memory { index, pages: 0 })?.clone();
            let pages_max = bytes_max.min(memory.capacity() as u64) / PAGE_SIZE as u64;
            regions.push(GuestRegion { memory, pages_max });
        }
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        let machine = Machine::new(installed.clone(), instance, control);
        let pages = GuestPages::new(regions);
        Ok(Guest {
            store,
            machine,
            pages,
            stopper,
            stages: VecDeque::new(),
            begun: false,
        })
    }

    /// Runs until all calls have returned or the guest is stopped.
    pub(crate) async fn run(&mut self) -> Result<Stretch, MachineError> {
        let cancelled = |host: &mut Host| std::mem::take(&mut host.cancelled);
        while let Some(stage) = self.stages.front() {
            let ended = if self.begun {
                self.machine.go_on(&mut self.store, cancelled).await?
            } else {
                let (function, args) = self.callee(stage.clone())?;
                self.begun = true;
                self.machine
                    .call(&mut self.store, function, &args, cancelled)
                    .await?
            };
            let results = match ended {
                Ended::Stopped => return Ok(Stretch::Stopped),
                Ended::Returned(results) => results,
            };
            self.begun = false;
            if let Some(Stage::Call { print: true, .. }) = self.stages.pop_front() {
                let printed = host::print(&mut self.store, &entry::lines(&results)).await;
                printed.map_err(|killed| MachineError::Guest(killed.into()))?;
            }
        }
        Ok(Stretch::Finished)
    }

    fn callee(&mut self, stage: Stage) -> Result<(Func, Vec<Val>), MachineError> {
        let misfit = |reason| MachineError::Misfit {
            function: 0,
            reason,
        };
        let (name, args) = match stage {
            Stage::Start => (names::START.to_owned(), Vec::new()),
            Stage::Call { export, .. } if export.starts_with(names::EXPORT_PREFIX) => {
                return Err(misfit("the function to call is not the program's"));
            }
            Stage::Call { export, args, .. } => (export, args),
        };
        let function = self.machine.instance.get_func(&mut self.store, &name);
        let function = function.ok_or(misfit("the function to call is missing"))?;
        let references = References::of(self.machine.instance);
        let local = |value: &Value| references.local(&mut self.store, value);
        let args = args.iter().map(local).collect::<Result<Vec<_>, _>>();
        let args = args.map_err(|_| misfit("an argument cannot be given"))?;
        let ty = function.ty(&self.store);
        let matches = |(arg, ty): (&Val, _)| arg.matches_ty(&self.store, &ty).unwrap_or(false);
        if ty.params().len() != args.len() || !args.iter().zip(ty.params()).all(matches) {
            return Err(misfit("the function to call takes other arguments"));
        }
        Ok((function, args))
    }

    /// Makes ready what it needs to go on, and checks that it can: its state came from elsewhere.
    pub(crate) async fn check(&mut self) -> Result<(), MachineError> {
        let misfit = |reason| MachineError::Misfit {
            function: 0,
            reason,
        };
        if self.begun == self.machine.frames.is_empty() {
            return Err(misfit(
                "whether a call has begun and what is left of it do not agree",
            ));
        }
        let stages: Vec<_> = self.stages.iter().cloned().collect();
        let callees = stages.into_iter().map(|stage| self.callee(stage));
        let callees = callees.collect::<Result<Vec<_>, _>>()?;
        if !self.begun {
            return Ok(());
        }
        let (callee, _) = callees.first().ok_or(misfit("nothing has been called"))?;
        let frames = self.machine.frames.iter();
        let keys = frames.map(|frame| self.machine.installed.entry(frame));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        self.machine.installed.prepare(&keys)?;
        self.machine.check(&mut self.store, callee).await
    }

    /// Its frames, innermost first, in portable terms.
    pub(crate) fn frames(&mut self) -> Result<Vec<Frame<Value>>, PortableError> {
        let installed = self.machine.installed.clone();
        let mut references = References::of(self.machine.instance);
        let frames = self.machine.frames.iter();
        frames
            .map(|frame| references.portable_frame(&mut self.store, &installed.metadata, frame))
            .collect()
    }

    /// All else of it that is not in its pages or WASI.
    pub(crate) fn state(&mut self, started_ns: u64, cpu_ns: u64) -> Result<State, PortableError> {
        let installed = self.machine.installed.clone();
        let metadata = &installed.metadata;
        let instance = self.machine.instance;
        let mut references = References::of(instance);
        let dropped = |store: &mut Store<Host>, segments: &[u32], name: fn(u32) -> String| {
            let is_dropped = |index: &u32| {
                let global = instance.get_global(&mut *store, &name(*index));
                global.is_some_and(|global| global.get(&mut *store).i32() == Some(1))
            };
            segments.iter().copied().filter(is_dropped).collect()
        };
        let depth = instance.get_global(&mut self.store, names::DEPTH);
        let depth = depth
            .and_then(|depth| depth.get(&mut self.store).i32())
            .unwrap_or(metadata.depth);
        let memories = (0..metadata.memories)
            .map(|index| {
                let memory = instance.get_memory(&mut self.store, &names::memory(index));
                memory.map_or(0, |memory| memory.size(&self.store))
            })
            .collect();
        Ok(State {
            stages: self.stages.iter().cloned().collect(),
            begun: self.begun,
            depth,
            globals: references.globals(&mut self.store, metadata)?,
            tables: references.tables(&mut self.store, metadata)?,
            dropped_data: dropped(&mut self.store, &metadata.dropped_data, names::data_dropped),
            dropped_elements: dropped(
                &mut self.store,
                &metadata.dropped_elements,
                names::element_dropped,
            ),
            memories,
            started_ns,
            cpu_ns,
        })
    }

    /// Takes over the state and frames of another guest of the same program. Its pages are in place.
    pub(crate) async fn restore(
        &mut self,
        state: &State,
        frames: &[Frame<Value>],
    ) -> Result<(), GuestError> {
        self.check_complete(state)?;
        let instance = self.machine.instance;
        for (index, &pages) in (0u32..).zip(&state.memories) {
            let wrong = || GuestError::Memory { index, pages };
            let memory = instance
                .get_memory(&mut self.store, &names::memory(index))
                .ok_or_else(wrong)?;
            let more = pages
                .checked_sub(memory.size(&self.store))
                .ok_or_else(wrong)?;
            if more > 0 {
                memory.grow(&mut self.store, more).map_err(|_| wrong())?;
            }
        }
        let references = References::of(instance);
        references.set_globals(&mut self.store, &state.globals)?;
        references.set_tables(&mut self.store, &state.tables)?;
        let depth = instance.get_global(&mut self.store, names::DEPTH);
        if let Some(depth) = depth {
            depth
                .set(&mut self.store, Val::I32(state.depth))
                .map_err(GuestError::Instantiate)?;
        }
        let drops = (state
            .dropped_data
            .iter()
            .map(|&data| names::helper_data_drop(data)))
        .chain(
            state
                .dropped_elements
                .iter()
                .map(|&element| names::helper_element_drop(element)),
        );
        for name in drops {
            let helper = instance.get_func(&mut self.store, &name);
            let helper = helper.ok_or(GuestError::NoFunction { name })?;
            helper
                .call_async(&mut self.store, &[], &mut [])
                .await
                .map_err(GuestError::Instantiate)?;
        }
        let local = |frame: &Frame<Value>| references.local_frame(&mut self.store, frame);
        self.machine.frames = frames.iter().map(local).collect::<Result<_, _>>()?;
        self.stages = state.stages.iter().cloned().collect();
        self.begun = state.begun;
        Ok(())
    }

    /// All that a program of this shape has must be in its state, and nothing else.
    fn check_complete(&self, state: &State) -> Result<(), GuestError> {
        let metadata = &self.machine.installed.metadata;
        let mutable = (0u32..).zip(&metadata.mutable_globals);
        let mutable = mutable
            .filter(|(_, mutable)| **mutable)
            .map(|(index, _)| index);
        let whole = [
            (
                "memories",
                state.memories.len() == metadata.memories as usize,
            ),
            (
                "globals",
                state.globals.iter().map(|global| global.0).eq(mutable),
            ),
            ("tables", {
                let tables = state.tables.iter().map(|table| &table.0);
                tables.eq(&metadata.mutable_tables)
            }),
            ("call depth", (0..=metadata.depth).contains(&state.depth)),
        ];
        match whole.into_iter().find(|(_, whole)| !whole) {
            Some((what, _)) => Err(GuestError::Incomplete { what }),
            None => Ok(()),
        }
    }

    /// Whether the guest ran out of call depth, if it trapped.
    pub(crate) fn is_out_of_depth(&mut self) -> bool {
        let depth = self
            .machine
            .instance
            .get_global(&mut self.store, names::DEPTH);
        depth.is_some_and(|depth| {
            depth
                .get(&mut self.store)
                .i32()
                .is_some_and(|left| left < 0)
        })
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.store.data().signals.killed.load(Ordering::Acquire)
    }
}

/// What the main module imports, in order.
fn imports(
    store: &mut Store<Host>,
    linker: &Linker<Host>,
    installed: &Installed,
    control: &Control,
) -> Result<Vec<Extern>, GuestError> {
    let mut imports = Vec::new();
    for import in installed.module.imports() {
        let (module, name) = (import.module(), import.name());
        if (module, name) == (names::IMPORT_MODULE, names::CONTROL) {
            imports.push(Extern::SharedMemory(control.memory().clone()));
            continue;
        }
        let function = host::find(store, linker, &import)?;
        imports.push(Extern::Func(function));
    }
    Ok(imports)
}
