//! A guest's calls: begins them, and after a stop goes on with them frame by frame.
//!
//! Going on builds no stack. The innermost frame's continuation is called by the host; what it returns
//! are the results that the next frame out waits for. If it is stopped meanwhile, its new frames take
//! its place. Wherever the guest stands, its whole stack is therefore: what the engine holds now, then
//! `frames`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use wasmtime::{AsContextMut, Extern, Func, Instance, Store, Val, ValType};

use crate::control::Control;
use crate::frames::{self, Frame, KeptReferences, ReadFramesError};
use crate::installed::{CompiledContinuations, InstallError, Installed, Key, Place};
use crate::outer::Outer;
use crate::pass::{Import, Param, ValueType, names, routines::Kept};

/// How a call, or a piece of it, ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The outermost function returned.
    Returned(Vec<Val>),
    /// The guest was stopped: [`Machine::frames`] says where.
    Stopped,
}

/// Why a guest could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// A trap, or an error of a host call.
    #[error(transparent)]
    Guest(wasmtime::Error),
    #[error(transparent)]
    Frames(#[from] ReadFramesError),
    #[error("preparing the guest to go on failed")]
    Prepare(#[from] InstallError),
    /// Its frames are as they were: it can be tried again when these are ready.
    #[error("preparing the guest to go on failed")]
    NotReady {
        keys: Vec<Key>,
        source: InstallError,
    },
    #[error("the frame of function {function} does not fit its program: {reason}")]
    Misfit { function: u32, reason: &'static str },
}

/// The calls of one guest in one store.
pub(crate) struct Machine {
    pub(crate) installed: Arc<Installed>,
    pub(crate) instance: Instance,
    pub(crate) control: Arc<Control>,
    /// Innermost first.
    pub(crate) frames: VecDeque<Frame<Val>>,
    /// The same while it runs, for others.
    pub(crate) outer: Arc<Outer>,
    instances: HashMap<usize, Instance>,
}

impl Machine {
    pub(crate) fn new(
        installed: Arc<Installed>,
        instance: Instance,
        control: Arc<Control>,
    ) -> Machine {
        Machine {
            installed,
            instance,
            control,
            frames: VecDeque::new(),
            outer: Arc::default(),
            instances: HashMap::new(),
        }
    }

    /// Calls `function` from the beginning. `cancelled` says of a host call that ended in a stop
    /// whether it has had no effect.
    pub(crate) async fn call<T: Send + 'static>(
        &mut self,
        store: &mut Store<T>,
        function: Func,
        args: &[Val],
        cancelled: impl Fn(&mut T) -> bool,
    ) -> Result<Ended, MachineError> {
        self.outer.set(std::iter::empty());
        let results = self.run(store, function, args).await?;
        match self.after_call(store, results, &cancelled)? {
            None => Ok(Ended::Stopped),
            Some(results) => Ok(Ended::Returned(results)),
        }
    }

    /// Goes on with the frames.
    pub(crate) async fn go_on<T: Send + 'static>(
        &mut self,
        store: &mut Store<T>,
        cancelled: impl Fn(&mut T) -> bool,
    ) -> Result<Ended, MachineError> {
        let keys = self
            .frames
            .iter()
            .map(|frame| self.installed.entry(frame))
            .collect::<Result<Vec<_>, _>>()?;
        self.outer.set(self.frames.iter().map(Frame::spot));
        if let Err(source) = self.installed.prepare(&keys) {
            return Err(MachineError::NotReady { keys, source });
        }
        let mut results: Option<Vec<Val>> = None;
        while let Some(mut frame) = self.frames.pop_front() {
            if let Some(results) = results.take() {
                frame.results = Some(results);
            }
            let (function, args) = self.continuation(store, &frame).await?;
            self.outer.pop();
            let returned = self.run(store, function, &args).await?;
            match self.after_call(store, returned, &cancelled)? {
                None => return Ok(Ended::Stopped),
                Some(returned) => results = Some(returned),
            }
        }
        Ok(Ended::Returned(results.unwrap_or_default()))
    }

    async fn run<T: Send + 'static>(
        &self,
        store: &mut Store<T>,
        function: Func,
        args: &[Val],
    ) -> Result<Vec<Val>, MachineError> {
        let mut results = vec![Val::I32(0); function.ty(&*store).results().len()];
        function
            .call_async(&mut *store, args, &mut results)
            .await
            .map_err(MachineError::Guest)?;
        Ok(results)
    }

    /// What a call that ended returned, or `None` if it was unwound: then its frames are put before
    /// the others.
    fn after_call<T: 'static>(
        &mut self,
        store: &mut Store<T>,
        results: Vec<Val>,
        cancelled: &impl Fn(&mut T) -> bool,
    ) -> Result<Option<Vec<Val>>, MachineError> {
        if !self.control.has_records() {
            return Ok(Some(results));
        }
        let points = self.installed.points()?;
        let cancelled = cancelled(store.data_mut());
        let records = self.control.take_records();
        let mut kept = KeptTables {
            store: &mut *store,
            instance: self.instance,
        };
        let frames = frames::read(&records, points, cancelled, &mut kept)?;
        if let Some(count) = self.instance.get_global(&mut *store, names::KEPT_COUNT) {
            count
                .set(&mut *store, Val::I32(0))
                .map_err(MachineError::Guest)?;
        }
        for frame in frames.into_iter().rev() {
            self.frames.push_front(frame);
        }
        Ok(None)
    }

    /// Checks that the frames, which came from elsewhere, can go on one after the other and end in the results of
    /// `callee`. Their continuations are ready.
    pub(crate) async fn check<T: Send + 'static>(
        &mut self,
        store: &mut Store<T>,
        callee: &Func,
    ) -> Result<(), MachineError> {
        let mut inner: Option<Vec<ValType>> = None;
        for at in 0..self.frames.len() {
            let frame = self.frames[at].clone();
            let misfit = |reason| MachineError::Misfit {
                function: frame.function,
                reason,
            };
            let innermost = inner.is_none();
            if !innermost && !frame.after {
                return Err(misfit("it does not wait for the frame before it"));
            }
            let (function, params) = self.continuation_of(store, &frame).await?;
            let ty = function.ty(&*store);
            for (param, wanted) in params.iter().zip(ty.params()) {
                match (param, &inner) {
                    (Param::Result(index), Some(results)) => {
                        let result = results.get(*index as usize);
                        if !result.is_some_and(|result| result.matches(&wanted)) {
                            return Err(misfit("it waits for other results"));
                        }
                    }
                    _ => drop(argument(store, &frame, *param, &wanted)?),
                }
            }
            inner = Some(ty.results().collect());
        }
        let wanted: Vec<ValType> = callee.ty(&*store).results().collect();
        let given = inner.unwrap_or_default();
        let fits = given.len() == wanted.len()
            && given
                .iter()
                .zip(&wanted)
                .all(|(given, wanted)| given.matches(wanted));
        let function = self.frames.back().map_or(0, |frame| frame.function);
        let reason = "it does not return what was called for";
        fits.then_some(())
            .ok_or(MachineError::Misfit { function, reason })
    }

    /// The function that continues `frame`, and its arguments.
    async fn continuation<T: Send + 'static>(
        &mut self,
        store: &mut Store<T>,
        frame: &Frame<Val>,
    ) -> Result<(Func, Vec<Val>), MachineError> {
        let (function, params) = self.continuation_of(store, frame).await?;
        let ty = function.ty(&*store);
        let args = params.iter().zip(ty.params());
        let args = args.map(|(param, ty)| argument(store, frame, *param, &ty));
        let args = args.collect::<Result<_, _>>()?;
        Ok((function, args))
    }

    /// The function that continues `frame`, and what it takes.
    async fn continuation_of<T: Send + 'static>(
        &mut self,
        store: &mut Store<T>,
        frame: &Frame<Val>,
    ) -> Result<(Func, Arc<[Param]>), MachineError> {
        let misfit = |reason| MachineError::Misfit {
            function: frame.function,
            reason,
        };
        let key = self.installed.entry(frame)?;
        let place = self
            .installed
            .place(key)
            .ok_or(misfit("its continuation was not prepared"))?;
        let (instance, name, params) = match place {
            Place::Main(name, params) => (self.instance, name, params),
            Place::Module(compiled, name, params) => (
                self.continuation_instance(store, &compiled).await?,
                name,
                params,
            ),
        };
        let function = instance
            .get_func(&mut *store, &name)
            .ok_or(misfit("its continuation is missing"))?;
        Ok((function, params))
    }

    async fn continuation_instance<T: Send + 'static>(
        &mut self,
        store: &mut Store<T>,
        compiled: &Arc<CompiledContinuations>,
    ) -> Result<Instance, MachineError> {
        let key = Arc::as_ptr(compiled) as usize;
        if let Some(instance) = self.instances.get(&key) {
            return Ok(*instance);
        }
        let mut imports = Vec::with_capacity(compiled.imports.len());
        for import in &compiled.imports {
            imports.push(self.import(store, import).await?);
        }
        let instance = Instance::new_async(&mut *store, &compiled.module, &imports).await;
        let instance = instance.map_err(MachineError::Guest)?;
        self.instances.insert(key, instance);
        Ok(instance)
    }

    async fn import<T: Send + 'static>(
        &mut self,
        store: &mut Store<T>,
        import: &Import,
    ) -> Result<Extern, MachineError> {
        let (instance, name) = match import {
            Import::Main(name) if name == names::CONTROL => {
                return Ok(Extern::SharedMemory(self.control.memory().clone()));
            }
            Import::Main(name) => (self.instance, name.clone()),
            Import::Continuation(function, entry) => {
                match self.installed.place((*function, *entry)) {
                    Some(Place::Module(compiled, name, _)) => {
                        // A module goes on only to such as were there before it: this ends.
                        let instance = Box::pin(self.continuation_instance(store, &compiled));
                        (instance.await?, name)
                    }
                    _ => (self.instance, names::continuation(*function, *entry)),
                }
            }
        };
        let found = instance.get_export(&mut *store, &name);
        found.ok_or(MachineError::Misfit {
            function: 0,
            reason: "what a continuation needs is missing",
        })
    }
}

/// What `frame` has for a parameter of its continuation.
fn argument<T: 'static>(
    store: &Store<T>,
    frame: &Frame<Val>,
    param: Param,
    ty: &ValType,
) -> Result<Val, MachineError> {
    let misfit = |reason| MachineError::Misfit {
        function: frame.function,
        reason,
    };
    let results = || frame.results.as_ref();
    let value = match param {
        Param::Local(local) => {
            let mut locals = frame.locals.iter();
            let found = locals.find(|(at, _)| *at == local).map(|(_, value)| *value);
            // A local that another version of the pass found dead is dead.
            found.or_else(|| Val::default_for_ty(ty))
        }
        Param::Stack(height) => frame.stack.get(height as usize).copied(),
        Param::Result(index) => results().and_then(|r| r.get(index as usize)).copied(),
    };
    let value = value.ok_or(misfit("a value is missing"))?;
    match value.matches_ty(store, ty) {
        Ok(true) => Ok(value),
        Ok(false) => Err(misfit("a value has another type")),
        Err(error) => Err(MachineError::Guest(error)),
    }
}

struct KeptTables<'s, T: 'static> {
    store: &'s mut Store<T>,
    instance: Instance,
}

impl<T: 'static> KeptReferences for KeptTables<'_, T> {
    fn kept(&mut self, ty: ValueType, index: u32) -> Option<Val> {
        let name = names::kept(if ty == ValueType::Function {
            Kept::Functions
        } else {
            Kept::Externals
        });
        let table = self.instance.get_table(self.store.as_context_mut(), name)?;
        Some(
            table
                .get(self.store.as_context_mut(), u64::from(index))?
                .into(),
        )
    }
}
