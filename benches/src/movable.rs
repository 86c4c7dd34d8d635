//! Programs under Sterna, as its own tool runs them: the kind, with programs made ready beforehand.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sterna_process::{
    ChangedPages, Directory, Environment, Exit, Identity, Image, ImageFile, ImageKey, ImageWriter,
    Incoming, Kind, PageSet, Paused, Pausing, Process, Program, ProgramId, ReadLimits, Resources,
    Running, Stdio, Waypoint,
};
use sterna_wasm::builder::BuildLimits;
use sterna_wasm::cache::ProgramCache;
use sterna_wasm::{Engine, EngineOptions, Installed, ProgramError, Programs, WasmKind, pass};

use crate::programs::Job;

/// Where compiled programs are kept, in the workspace.
pub(crate) const CACHE: &str = "target/bench/cache";
/// Longer than any program here runs.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// What came of running a program.
pub(crate) struct Ran {
    pub(crate) cpu: Duration,
    pub(crate) output: Vec<u8>,
}

/// What a program wrote.
pub(crate) fn output_of(mut file: File) -> Result<Vec<u8>> {
    let mut output = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut output)?;
    Ok(output)
}

/// The wasm kind with the programs made ready so far.
pub(crate) struct Movable {
    engine: Engine,
    options: pass::Options,
    kind: WasmKind,
    ready: Arc<Ready>,
    cache: Option<ProgramCache>,
}

#[derive(Default)]
struct Ready(Mutex<HashMap<ProgramId, Arc<Installed>>>);

impl Programs for Ready {
    fn get(&self, program: &Program) -> Result<Arc<Installed>, ProgramError> {
        let ready = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ready
            .get(&program.id())
            .cloned()
            .ok_or(ProgramError::Unknown(program.id()))
    }
}

/// A process that stands still, as what travels.
pub(crate) struct Frozen {
    pub(crate) image: Vec<u8>,
    pub(crate) pages: PageSet,
}

impl Movable {
    pub(crate) fn new(engine: EngineOptions, options: pass::Options) -> Result<Movable> {
        let engine = Engine::new(engine)?;
        let ready = Arc::new(Ready::default());
        let kind = WasmKind::new(engine.clone(), ready.clone()).map_err(crate::stock::ours)?;
        Ok(Movable {
            engine,
            options,
            kind,
            ready,
            cache: None,
        })
    }

    /// As its tool runs programs: out of a cache, here the one in `target/bench`.
    pub(crate) fn cached(root: &Path) -> Result<Movable> {
        let mut movable = Movable::new(EngineOptions::default(), pass::Options::default())?;
        let folder = root.join(CACHE);
        movable.cache = Some(ProgramCache::open(
            &folder,
            movable.engine.clone(),
            BuildLimits::default(),
        )?);
        Ok(movable)
    }

    /// Makes a program ready in this process.
    pub(crate) fn install(&self, bytes: &Arc<[u8]>) -> Result<Arc<Installed>> {
        let installed = match &self.cache {
            None => Arc::new(Installed::build(
                &self.engine,
                bytes.clone(),
                self.options.clone(),
            )?),
            Some(cache) => cache.add(bytes, None, &mut |_| ControlFlow::Continue(()))?,
        };
        self.keep(ProgramId::of(bytes), &installed);
        Ok(installed)
    }

    /// Takes the program in `file` out of the cache, where it must be.
    pub(crate) fn install_file(&self, file: &File) -> Result<ProgramId> {
        let cache = self.cache.as_ref().context("there is no cache")?;
        let id = cache.identify(file)?;
        self.keep(
            id,
            &cache
                .ready(&id)
                .context("the program is not in the cache")?,
        );
        Ok(id)
    }

    fn keep(&self, id: ProgramId, installed: &Arc<Installed>) {
        let mut ready = self.ready.0.lock().unwrap_or_else(PoisonError::into_inner);
        ready.insert(id, installed.clone());
    }

    /// Starts a program that has been made ready.
    pub(crate) fn start(&self, job: &Job, output: Option<&File>) -> Result<Running> {
        let environment = Environment {
            arguments: job.arguments.clone(),
            variables: job.variables.clone(),
            resources: resources(job, output)?,
            ..Environment::default()
        };
        self.spawn(job.id, environment)
    }

    /// Starts a program that has been made ready.
    pub(crate) fn spawn(&self, program: ProgramId, environment: Environment) -> Result<Running> {
        Ok(self
            .kind
            .spawn(Identity::new(), &Program::installed(program), environment)?)
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, job: &Job) -> Result<Ran> {
        let output = tempfile::tempfile()?;
        let running = self.start(job, Some(&output))?;
        let cpu = finish(&running)?;
        Ok(Ran {
            cpu,
            output: output_of(output)?,
        })
    }

    /// Makes a process of an image, ready to go on.
    pub(crate) fn thaw(&self, job: &Job, frozen: &Frozen) -> Result<Box<dyn Paused>> {
        let image = Image::decode(&frozen.image, &ReadLimits::default())?;
        let program = Program::installed(image.header.program);
        let arriving = self.kind.prepare(&program, &image.header.layout)?;
        frozen.pages.install_into(&*arriving.memory())?;
        Ok(arriving.finish(image, resources(job, None)?, None)?)
    }

    /// Makes ready what a process needs to go on from these places.
    pub(crate) fn anticipate(&self, job: &Job, waypoints: &[Waypoint]) -> Result<()> {
        let program = Program::installed(job.id);
        Ok(self.kind.anticipate(&program, waypoints)?)
    }

    /// Room for a process, with its pages in place.
    pub(crate) fn room(
        &self,
        job: &Job,
        image: &Image,
        frozen: &Frozen,
    ) -> Result<Box<dyn Incoming>> {
        let program = Program::installed(job.id);
        let arriving = self.kind.prepare(&program, &image.header.layout)?;
        frozen.pages.install_into(&*arriving.memory())?;
        Ok(arriving)
    }

    /// What a program is given, without output.
    pub(crate) fn resources(&self, job: &Job) -> Result<Resources> {
        resources(job, None)
    }

    /// As [`Movable::thaw`], from a file.
    pub(crate) fn thaw_file(
        &self,
        job: &Job,
        path: &Path,
        key: &ImageKey,
    ) -> Result<Box<dyn Paused>> {
        let file = ImageFile::open(path, &ReadLimits::default(), key)?;
        let image = file.image();
        let program = Program::installed(image.header.program);
        let arriving = self.kind.prepare(&program, &image.header.layout)?;
        file.install_into(&*arriving.memory())?;
        Ok(arriving.finish(image.clone(), resources(job, None)?, None)?)
    }
}

/// Makes a process stand still.
pub(crate) fn pause(process: Box<dyn Process>) -> Result<Box<dyn Paused>> {
    match process.pause(LONG) {
        Pausing::Paused(paused) => Ok(paused),
        Pausing::Exited(exit) => bail!("the program ended too early: {exit:?}"),
        Pausing::Refused(_, why) => bail!("the program does not stop: {why}"),
    }
}

/// Writes `paused`, without its program, to a new file. Not synced to disk.
pub(crate) fn freeze_to(paused: &mut dyn Paused, path: &Path, key: &ImageKey) -> Result<u64> {
    let image = paused.capture()?;
    let memory = paused.memory();
    let mut pages = ChangedPages::of(&*memory)?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let written = ImageWriter::new(&image, key).write_to(&mut file, &mut pages)?;
    file.flush()?;
    Ok(written.bytes)
}

/// Waits for the end; the CPU time used.
pub(crate) fn finish(running: &Running) -> Result<Duration> {
    match running
        .control
        .wait(LONG)
        .context("the program does not end")?
    {
        Exit::Code(0) => Ok(running.control.stats().cpu_time),
        exit => bail!("the program failed under Sterna: {exit:?}"),
    }
}

/// What `paused` is, without its program.
pub(crate) fn freeze(paused: &mut dyn Paused) -> Result<Frozen> {
    let image = paused.capture()?.encode()?;
    let memory = paused.memory();
    let pages = PageSet::read_from(&*memory, &memory.changed()?)?;
    Ok(Frozen { image, pages })
}

fn resources(job: &Job, output: Option<&File>) -> Result<Resources> {
    let output = output.map(File::try_clone).transpose()?.map(Into::into);
    Ok(Resources {
        stdio: Stdio {
            output,
            ..Stdio::default()
        },
        directories: vec![Directory::open(&job.directory.0, job.directory.1)?],
        ..Resources::default()
    })
}
