//! The engine without Sterna: as it comes, or with its own ways of interrupting a program. WASI is the same as
//! Sterna's, so that only what is under test differs.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use sterna_sys::clock::thread_cpu_time;
use sterna_wasi::{Config, Directory, Function, HostClocks, Stdio, Step, Wasi};
use wasmtime::{Caller, Engine, FuncType, Linker, Memory, Module, Store, Val, ValType};

use crate::movable::{Ran, output_of};
use crate::programs::Job;

/// Native stack of the thread that runs a program, in bytes.
const STACK: usize = 16 << 20;

/// What the engine is asked to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// Nothing: a program cannot be interrupted.
    None,
    Epochs,
    Fuel,
}

/// The engine, set up.
pub(crate) struct Stock {
    engine: Engine,
    linker: Linker<World>,
    interruption: Interruption,
}

struct World {
    wasi: Wasi,
    memory: Option<Memory>,
}

/// The program called `proc_exit`.
#[derive(Debug)]
struct Exited(u32);

impl std::fmt::Display for Exited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the program ended with code {}", self.0)
    }
}

impl std::error::Error for Exited {}

impl Stock {
    pub(crate) fn new(interruption: Interruption) -> Result<Stock> {
        let mut config = wasmtime::Config::new();
        config
            .epoch_interruption(interruption == Interruption::Epochs)
            .consume_fuel(interruption == Interruption::Fuel);
        let engine = Engine::new(&config).map_err(ours)?;
        let mut linker = Linker::new(&engine);
        for &function in Function::ALL {
            let module = sterna_wasi::MODULE;
            if Function::by_name(module, function.name()) != Some(function) {
                continue;
            }
            let (params, results) = function.signature();
            let ty = FuncType::new(
                &engine,
                params.iter().map(value_type),
                results.iter().map(value_type),
            );
            let call = move |caller: Caller<'_, World>, params: &[Val], results: &mut [Val]| {
                answer(caller, function, params, results)
            };
            linker
                .func_new(module, function.name(), ty, call)
                .map_err(ours)?;
        }
        Ok(Stock {
            engine,
            linker,
            interruption,
        })
    }

    pub(crate) fn compile(&self, bytes: &[u8]) -> Result<Module> {
        Module::new(&self.engine, bytes).map_err(ours)
    }

    /// Runs a program to its end, on a thread of its own.
    pub(crate) fn run(&self, module: &Module, job: &Job) -> Result<Ran> {
        let run = || self.run_here(module, job);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, run)?;
            thread.join().map_err(|_| anyhow!("the engine panicked"))?
        })
    }

    fn run_here(&self, module: &Module, job: &Job) -> Result<Ran> {
        let output = tempfile::tempfile()?;
        let mut store = Store::new(
            &self.engine,
            World {
                wasi: wasi(job, &output)?,
                memory: None,
            },
        );
        match self.interruption {
            Interruption::None => {}
            Interruption::Epochs => store.set_epoch_deadline(u64::MAX / 2),
            Interruption::Fuel => store.set_fuel(u64::MAX).map_err(ours)?,
        }
        let instance = self.linker.instantiate(&mut store, module).map_err(ours)?;
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        let start = instance
            .get_typed_func::<(), ()>(&mut store, "_start")
            .map_err(ours)?;
        let begin = thread_cpu_time();
        let result = start.call(&mut store, ());
        drop(store);
        let cpu = thread_cpu_time() - begin;
        match result {
            Ok(()) => {}
            Err(error)
                if error
                    .downcast_ref::<Exited>()
                    .is_some_and(|exit| exit.0 == 0) => {}
            Err(error) => {
                return Err(ours(error)).context("the program failed on the plain engine");
            }
        }
        Ok(Ran {
            cpu,
            output: output_of(output)?,
        })
    }
}

fn wasi(job: &Job, output: &File) -> Result<Wasi> {
    let mut config = Config::new(Box::new(HostClocks::new(|| Duration::ZERO)));
    config.arguments = job
        .arguments
        .iter()
        .cloned()
        .map(OsStringExt::into_vec)
        .collect();
    let variable =
        |(name, value): (OsString, OsString)| [name.into_vec(), value.into_vec()].join(&b'=');
    config.environment = job.variables.iter().cloned().map(variable).collect();
    let handle = File::open(&job.directory.0)?.into();
    let directory = Directory::from_fd(
        handle,
        job.directory.0.clone(),
        job.directory.1.to_owned(),
        false,
    );
    config.directories = vec![directory];
    config.stdio = [
        Stdio::Null,
        Stdio::Inherit(output.try_clone()?.into()),
        Stdio::Null,
    ];
    Ok(Wasi::new(config)?)
}

fn value_type(ty: &sterna_wasi::ValType) -> ValType {
    match ty {
        sterna_wasi::ValType::I32 => ValType::I32,
        sterna_wasi::ValType::I64 => ValType::I64,
    }
}

fn answer(
    mut caller: Caller<'_, World>,
    function: Function,
    params: &[Val],
    results: &mut [Val],
) -> wasmtime::Result<()> {
    let raw = |param: &Val| match *param {
        Val::I32(value) => u64::from(value as u32),
        Val::I64(value) => value as u64,
        _ => 0,
    };
    let mut arguments = [0; 9];
    for (argument, param) in arguments.iter_mut().zip(params) {
        *argument = raw(param);
    }
    let memory = caller
        .data()
        .memory
        .ok_or_else(|| wasmtime::format_err!("no memory"))?;
    let (bytes, world) = memory.data_and_store_mut(&mut caller);
    match world.wasi.call(function, &arguments[..params.len()], bytes) {
        Step::Done(errno) => {
            if let Some(result) = results.first_mut() {
                *result = Val::I32(i32::from(errno.raw()));
            }
            Ok(())
        }
        Step::Exit(code) => Err(wasmtime::Error::new(Exited(code))),
        Step::Wait(_) => wasmtime::bail!("the program waits, and here nobody would wake it"),
    }
}

/// The engine's errors are of its own type.
pub(crate) fn ours(error: wasmtime::Error) -> anyhow::Error {
    anyhow!("{error:?}")
}

/// An instrumented module must still have all that the original has.
pub(crate) fn compile_asyncified(stock: &Stock, bytes: &Arc<[u8]>) -> Result<Module> {
    let module = stock.compile(bytes)?;
    if module.get_export("asyncify_start_unwind").is_none() {
        bail!("the module was not instrumented");
    }
    Ok(module)
}
