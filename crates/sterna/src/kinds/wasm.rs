//! The wasm kind, with programs from the cache.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use sterna_process::{Plain, Program, ProgramId, Tag};
use sterna_wasm::builder::{BuildLimits, Launch, OnProgress, Progress};
use sterna_wasm::cache::{AddError, ProgramCache};
use sterna_wasm::{
    Engine, EngineOptions, ImmobileWasm, Installed, Processor, ProgramError, Programs, Target,
    WasmKind,
};

use super::{ProgramBytes, Ready, not_here, source};
use crate::private;
use crate::show::{self, Building};

/// The hidden subcommand that makes this program a builder.
pub(crate) const BUILDER: &str = "__builder";

/// A program that ends sooner is not worth preparing for moves.
const PREPARE_AFTER: Duration = Duration::from_secs(1);
/// How much the preparation leaves to others.
const PREPARE_NICE: i32 = 15;

/// How programs are compiled.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct BuildOptions {
    /// Give NaNs (what 0/0 is) the same bits on every processor, so that a moved program computes exactly what one that
    /// stayed does. Makes some float code slower. A process that was started so goes on so wherever it is.
    #[arg(long)]
    pub(crate) canonical_nans: bool,
    /// Largest module, e.g. 512M.
    #[arg(long, value_name = "SIZE", value_parser = show::parse_bytes, hide_short_help = true)]
    build_size: Option<u64>,
    /// Most memory the compiler may use, e.g. 8G.
    #[arg(long, value_name = "SIZE", value_parser = show::parse_bytes, hide_short_help = true)]
    build_memory: Option<u64>,
    /// Most CPU time the compiler may use, e.g. 30m.
    #[arg(long, value_name = "TIME", value_parser = show::parse_duration, hide_short_help = true)]
    build_time: Option<Duration>,
}

impl BuildOptions {
    /// The kind of the processes of programs that are compiled so.
    pub(crate) fn kind(&self) -> Tag {
        self.engine().kind()
    }

    /// One for each kind.
    pub(crate) fn of_kinds() -> [Self; 2] {
        EngineOptions::of_kinds().map(|options| Self {
            canonical_nans: options.canonicalize_nans,
            ..Self::default()
        })
    }

    /// The same limits, for processes of a kind; `None` if that is not one of WebAssembly.
    pub(super) fn of_kind(&self, kind: &Tag) -> Option<Self> {
        let all = EngineOptions::of_kinds();
        let options = all.iter().find(|options| options.kind() == *kind)?;
        Some(Self {
            canonical_nans: options.canonicalize_nans,
            ..self.clone()
        })
    }

    fn engine(&self) -> EngineOptions {
        EngineOptions {
            canonicalize_nans: self.canonical_nans,
            ..EngineOptions::default()
        }
    }

    fn limits(&self) -> BuildLimits {
        let default = BuildLimits::default();
        let ratio = default.artifact_bytes / default.module_bytes;
        let module_bytes = self.build_size.unwrap_or(default.module_bytes);
        let cpu_time = self.build_time.unwrap_or(default.cpu_time);
        BuildLimits {
            module_bytes,
            artifact_bytes: module_bytes
                .saturating_mul(ratio)
                .max(default.artifact_bytes),
            memory_bytes: self.build_memory.unwrap_or(default.memory_bytes),
            cpu_time,
            time: default.time.max(cpu_time.saturating_mul(2)),
        }
    }
}

/// The program cache of the user, and its engine.
pub(crate) fn cache(options: &BuildOptions) -> Result<(Engine, ProgramCache)> {
    let engine = Engine::new(options.engine())?;
    let directory = private::cache_directory()?;
    let cache = ProgramCache::open(&directory, engine.clone(), options.limits())
        .context("could not use the program cache (name another one with STERNA_CACHE_DIR)")?;
    Ok((engine, cache.launch(Launch::this_program(BUILDER))))
}

pub(super) fn from_file(path: &Path, options: &BuildOptions) -> Result<Ready> {
    let (engine, cache) = cache(options)?;
    let (id, installed) = install(&cache, path)?;
    ready(engine, id, installed, source::name(path))
}

/// A program that is run where it is, as it is.
pub(super) fn immobile(path: &Path, options: &BuildOptions) -> Result<Ready> {
    let bytes: Arc<[u8]> = source::read_wasm(path)?.into();
    Ok(Ready {
        kind: Box::new(ImmobileWasm::new(options.engine())?),
        program: Program::from_bytes(Arc::clone(&bytes)),
        name: source::name(path),
        bytes: ProgramBytes::Held(bytes),
    })
}

/// Puts the program in a file into the cache.
pub(crate) fn install(cache: &ProgramCache, path: &Path) -> Result<(ProgramId, Arc<Installed>)> {
    let name = source::name(path);
    let (id, added) = building(&name, |progress| {
        let what = || format!("could not read {}", path.display());
        Ok(match source::binary_file(path)? {
            // A file that was seen before is not read again.
            Some(file) => {
                let id = cache.identify(&file).with_context(what)?;
                (id, cache.install(&file, Some(&name), progress))
            }
            None => {
                let bytes: Arc<[u8]> = source::read_wasm(path)?.into();
                let id = ProgramId::of(&bytes);
                (id, cache.add(&bytes, Some(&name), progress))
            }
        })
    })?;
    let what = || format!("could not make {} ready", path.display());
    Ok((id, kept(added).with_context(what)?))
}

/// Puts the program in a file into the cache, compiled for every machine with that processor.
pub(crate) fn install_for(
    cache: &ProgramCache,
    processor: Processor,
    path: &Path,
) -> Result<ProgramId> {
    let name = source::name(path);
    let shown = format!("{name}, for {}", processor.name());
    let bytes: Arc<[u8]> = source::read_wasm(path)?.into();
    let target = Target::Every(processor);
    building(&shown, |progress| {
        Ok(cache.add_for(target, &bytes, Some(&name), progress)?)
    })
    .with_context(|| format!("could not make {} ready", path.display()))?;
    Ok(ProgramId::of(&bytes))
}

pub(super) fn from_image(
    program: ProgramId,
    bytes: impl FnOnce() -> Result<Option<Vec<u8>>>,
    name: &str,
    options: &BuildOptions,
) -> Result<Ready> {
    let (engine, cache) = cache(options)?;
    if let Some(installed) = cache.ready(&program) {
        return ready(engine, program, installed, name.to_owned());
    }
    let added = match bytes()? {
        Some(bytes) => building(name, |progress| {
            Ok(cache.add(&bytes.into(), Some(name), progress).map(Some))
        }),
        None => building(name, |progress| Ok(cache.get(&program, progress))),
    };
    let Some(added) = added?.transpose() else {
        return Err(not_here(program));
    };
    let installed = kept(added).context("could not make the image's program ready")?;
    ready(engine, program, installed, name.to_owned())
}

/// A program that could not be kept runs all the same.
fn kept(added: Result<Arc<Installed>, AddError>) -> Result<Arc<Installed>> {
    match added {
        Err(AddError::NotKept { program, source }) => {
            let why = format!("{:#}", anyhow::Error::from(source));
            show::note(format_args!(
                "the compiled program is not kept for the next time: {}",
                Plain(&why)
            ));
            Ok(program)
        }
        other => Ok(other?),
    }
}

/// Does work that may build, and shows how it gets on.
pub(crate) fn building<T>(name: &str, work: impl FnOnce(OnProgress<'_>) -> Result<T>) -> Result<T> {
    let mut shown = Building::new(&Plain(name).to_string());
    work(&mut |progress| {
        match progress {
            Progress::Waiting => shown.stage("waiting for another sterna that compiles it", None),
            // Nothing is said if all is as it should be.
            Progress::Confined(how) if how != "full" => {
                show::note(format_args!("the compiler's confinement: {}", Plain(&how)));
            }
            Progress::Confined(_) => {}
            Progress::Checking => shown.stage("checking", None),
            Progress::Instrumenting => shown.stage("making it movable", None),
            Progress::Compiling { done } => shown.stage("compiling", Some(done)),
            _ => shown.stage("keeping", None),
        }
        ControlFlow::Continue(())
    })
}

fn ready(engine: Engine, id: ProgramId, installed: Arc<Installed>, name: String) -> Result<Ready> {
    let programs = Arc::new(One(id, Arc::clone(&installed)));
    let kind = WasmKind::new(engine, programs)
        .map_err(|error| anyhow!("could not set up the WebAssembly engine: {error:#}"))?;
    Ok(Ready {
        kind: Box::new(kind),
        program: Program::installed(id),
        name,
        bytes: ProgramBytes::Installed(installed),
    })
}

/// The one program that this process hosts: found already, also if it could not be kept.
struct One(ProgramId, Arc<Installed>);

impl Programs for One {
    fn get(&self, program: &Program) -> Result<Arc<Installed>, ProgramError> {
        match program.id() == self.0 {
            true => Ok(Arc::clone(&self.1)),
            false => Err(ProgramError::Unknown(program.id())),
        }
    }
}

/// Compiles in the background what the program will most likely need to go on after a move, so that the move need
/// not wait for it. It is kept in the cache.
pub(crate) fn prepare_moves(installed: Arc<Installed>) {
    let prepare = move || {
        thread::sleep(PREPARE_AFTER);
        // Of this thread only (nice(2)), and of the builders that it starts.
        let _ = rustix::process::nice(PREPARE_NICE);
        // What fails is compiled when it is needed, and fails with a message then.
        let _ = installed.compile_loop_headers(&mut |_| ControlFlow::Continue(()));
    };
    let _ = thread::Builder::new().name("prepare".into()).spawn(prepare);
}
