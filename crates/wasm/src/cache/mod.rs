//! The program cache: modules, and what builders made of them, by the hash of the module; compiled once and loaded by
//! `mmap`.
//!
//! ```text
//! CACHE/VERSION             the layout's version: a newer one is refused
//!       index/              which file of the user's is which program, see `index`
//!       programs/HASH/      one folder a program, see `shelf`
//! ```
//!
//! - [`ProgramCache`] finds, adds, lists and removes programs; `listing` is the part for people
//! - `elsewhere` for processes that only read a cache, and those who write it for them
//! - `folder` one program's folder and its locks; `shelf` its files for one engine; `index` names files without
//!   reading them
//! - `files` private files, written whole or not at all; `verified` checksums compared once a boot; `native` the only
//!   unsafe step, loading what a builder made
//! - `compatibility` which artifacts are of use to this program
//!
//! **Several processes** share a cache. Who writes into a program's folder for an engine holds the lock for that, so nothing
//! is built twice, and what is built for one engine holds up nobody who uses another. Readers take none: every file is
//! whole, `main.meta` has the checksums of the others, and a file once opened stays whatever happens to its name.
//! **Trust:** artifacts are native code. They are used only if they belong to this user, nobody else may write them and their
//! hash is right; else they are made again. **Failure** to write never keeps a program from running:
//! [`AddError::NotKept`] carries it.

mod compatibility;
mod elsewhere;
mod error;
mod files;
mod folder;
mod index;
mod listing;
mod native;
mod shelf;
mod verified;

pub(crate) use compatibility::Compatibility;
pub use elsewhere::{Elsewhere, ElsewhereError};
pub use error::{
    AddError, AddForError, FindError, KeepError, OpenCacheError, ReadModuleError, RemoveError,
};
pub use listing::{Entry, Prune, Pruned};
pub(crate) use native::take as take_artifact;
pub(crate) use shelf::{CONTINUATION_BYTES_MAX, Continuation, KeptMarks, Shelf};

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use sterna_process::ProgramId;

use crate::builder::{BuildError, BuildLimits, Builder, Launch, MadeProgram, OnProgress, Progress};
use crate::engine::{Engine, EngineOptions, Processor, Target};
use crate::installed::{InstallError, Installed};
use folder::{About, Folder, Lock};
use shelf::OnShelf;

/// Version of the cache's layout.
const LAYOUT_VERSION: u32 = 1;
const VERSION: &str = "VERSION";
/// Before the number in the file `VERSION`.
const VERSION_PREFIX: &str = "sterna program cache ";
const PROGRAMS: &str = "programs";
const INDEX: &str = "index";

/// The programs of one user on one machine, for one engine. Cheap to clone.
///
/// ```no_run
/// use std::ops::ControlFlow::Continue;
/// use sterna_wasm::builder::{BuildLimits, Launch};
/// use sterna_wasm::{Engine, EngineOptions, cache::ProgramCache};
/// let engine = Engine::new(EngineOptions::default())?;
/// let cache = ProgramCache::open("cache".as_ref(), engine, BuildLimits::default())?
///     .launch(Launch::this_program("builder"));
/// let file = std::fs::File::open("lua.wasm")?;
/// let program = cache.install(&file, Some("lua.wasm"), &mut |_progress| Continue(()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ProgramCache {
    directory: PathBuf,
    builder: Builder,
    /// What was made for every machine with this processor: found when it is first asked for.
    portable: Arc<OnceLock<Option<Compatibility>>>,
    /// Programs in use in this process.
    loaded: Arc<Mutex<HashMap<ProgramId, Weak<Installed>>>>,
    /// Those that something was prepared for last.
    prepared: Arc<Mutex<VecDeque<Arc<Installed>>>>,
    /// Who writes it, if this process does not.
    elsewhere: Option<Arc<dyn Elsewhere>>,
}

impl std::fmt::Debug for ProgramCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProgramCache")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl ProgramCache {
    /// Opens the cache in `directory`, which is made if it does not exist. Builds are done in this process until
    /// [`ProgramCache::launch`] says otherwise.
    ///
    /// # Errors
    /// [`OpenCacheError`]: of a newer version, something else, or open to other users.
    pub fn open(
        directory: &Path,
        engine: Engine,
        limits: BuildLimits,
    ) -> Result<ProgramCache, OpenCacheError> {
        let failed = |step| {
            move |source| OpenCacheError::Io {
                path: directory.to_owned(),
                step,
                source,
            }
        };
        std::fs::create_dir_all(directory.parent().unwrap_or(directory))
            .map_err(failed("mkdir"))?;
        files::make_folder(directory).map_err(failed("mkdir"))?;
        let metadata = std::fs::metadata(directory).map_err(failed("stat"))?;
        files::trust(&metadata).map_err(|error| OpenCacheError::NotPrivate {
            path: directory.to_owned(),
            why: error.to_string(),
        })?;
        check_or_write_version(directory)?;
        for name in [PROGRAMS, INDEX] {
            files::make_folder(&directory.join(name)).map_err(failed("mkdir"))?;
        }
        Ok(ProgramCache {
            directory: directory.to_owned(),
            builder: Builder::new(engine, limits, Launch::Here),
            portable: Arc::default(),
            loaded: Arc::default(),
            prepared: Arc::default(),
            elsewhere: None,
        })
    }

    /// Sets where builds are done.
    #[must_use]
    pub fn launch(mut self, launch: Launch) -> ProgramCache {
        self.builder.set_launch(launch);
        self
    }

    /// The folder.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The program in `file`: as [`ProgramCache::add`], but a file that was seen before and has not changed since is
    /// not read. `name` is what people call it.
    ///
    /// # Errors
    /// As [`ProgramCache::add`].
    pub fn install(
        &self,
        file: &File,
        name: Option<&str>,
        on_progress: OnProgress<'_>,
    ) -> Result<Arc<Installed>, AddError> {
        let id = self.identify(file).map_err(AddError::Read)?;
        if let Some(program) = self.ready(&id) {
            return Ok(program);
        }
        let limit = self.builder.limits().module_bytes;
        let bytes = index::contents(file, limit).map_err(AddError::Read)?;
        self.add(&bytes.into(), name, on_progress)
    }

    /// Which program `file` holds. One that was seen before and has not changed since is not read.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn identify(&self, file: &File) -> io::Result<ProgramId> {
        index::identify(&self.directory.join(INDEX), file)
    }

    /// The program with these bytes, the binary format: from the cache, or else built and kept there.
    ///
    /// # Errors
    /// [`AddError`]. After [`AddError::NotKept`] the program can run all the same.
    pub fn add(
        &self,
        bytes: &Arc<[u8]>,
        name: Option<&str>,
        on_progress: OnProgress<'_>,
    ) -> Result<Arc<Installed>, AddError> {
        let id = ProgramId::of(bytes);
        if let Some(program) = self.ready(&id) {
            return Ok(program);
        }
        self.check_writable().map_err(AddError::Read)?;
        let folder = self.folder(&id);
        let lock = match Lock::take(
            &folder,
            &folder.made(self.builder.compatibility()),
            on_progress,
        ) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => return Err(BuildError::Cancelled.into()),
            Err(source) => Err(KeepError {
                path: folder.path().to_owned(),
                source,
            }),
        };
        // Perhaps whom we waited for has built it.
        if let Some(program) = self.ready(&id) {
            return Ok(program);
        }
        let made = match self.builder.program(bytes, on_progress) {
            Ok(made) => made,
            Err(error) => {
                if let Ok(lock) = lock {
                    lock.remove_if_empty();
                }
                return Err(error.into());
            }
        };
        let kept = lock.and_then(|lock| {
            let _ = on_progress(Progress::Keeping);
            Shelf::keep(&folder, &self.builder, bytes, &made)?;
            let name = name.map(ToOwned::to_owned);
            if let Err(error) = folder.set_about(&About { name }) {
                tracing::debug!(%error, "the program's name is not kept");
            }
            drop(lock);
            self.load(&id).map_err(|source| KeepError {
                path: folder.path().to_owned(),
                source,
            })
        });
        match kept {
            Ok(program) => Ok(program),
            Err(source) => Err(AddError::NotKept {
                program: self.in_memory(bytes, &made).map_err(AddError::Load)?,
                source,
            }),
        }
    }

    /// Compiles a program for machines of another kind that use the same cache, or a copy of it: there it is then found
    /// like one that was compiled there. The answer: whether it was compiled now, or had been before.
    ///
    /// # Errors
    /// [`AddForError`].
    pub fn add_for(
        &self,
        target: Target,
        bytes: &Arc<[u8]>,
        name: Option<&str>,
        on_progress: OnProgress<'_>,
    ) -> Result<bool, AddForError> {
        let options = EngineOptions {
            target,
            ..self.builder.engine().options()
        };
        let engine = Engine::new(options).map_err(|source| AddForError::Target {
            target: target.processor_name(),
            source,
        })?;
        let builder = self.builder.for_engine(engine);
        let folder = self.folder(&ProgramId::of(bytes));
        let failed = |source| KeepError {
            path: folder.path().to_owned(),
            source,
        };
        let lock = Lock::take(&folder, &folder.made(builder.compatibility()), on_progress)
            .map_err(failed)?;
        let _lock = lock.ok_or(BuildError::Cancelled)?;
        if Shelf::exists(&folder, &builder) {
            return Ok(false);
        }
        let made = builder.program(bytes, on_progress)?;
        let _ = on_progress(Progress::Keeping);
        Shelf::keep(&folder, &builder, bytes, &made)?;
        let name = name.map(ToOwned::to_owned);
        if let Err(error) = folder.set_about(&About { name }) {
            tracing::debug!(%error, "the program's name is not kept");
        }
        Ok(true)
    }

    /// The program called `id`, if its module is in the cache; built again if what was made of it is missing, damaged or
    /// of another version.
    ///
    /// # Errors
    /// As [`ProgramCache::add`].
    pub fn get(
        &self,
        id: &ProgramId,
        on_progress: OnProgress<'_>,
    ) -> Result<Option<Arc<Installed>>, AddError> {
        if let Some(program) = self.ready(id) {
            return Ok(Some(program));
        }
        if self.elsewhere.is_some() {
            return Ok(None);
        }
        match self.bytes(id) {
            Ok(bytes) => self.add(&bytes, None, on_progress).map(Some),
            Err(ReadModuleError::Io(error)) => Err(AddError::Read(error)),
            Err(ReadModuleError::Missing | ReadModuleError::Damaged) => Ok(None),
        }
    }

    /// The program called `id`, if it is here and nothing has to be built.
    #[must_use]
    pub fn ready(&self, id: &ProgramId) -> Option<Arc<Installed>> {
        let folder = self.folder(id);
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let program = loaded.get(id).and_then(Weak::upgrade);
        drop(loaded);
        // What was removed is not there any more, whoever still has it open.
        if program.is_some() && folder.path().exists() {
            self.touch(&folder);
            return program;
        }
        match self.load(id) {
            Ok(program) => Some(program),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(program = %id.short(), %error, "what is in the cache cannot be used and is made again");
                }
                None
            }
        }
    }

    /// The bytes of a program's module.
    ///
    /// # Errors
    /// The cache does not hold it, or the file is damaged.
    pub fn bytes(&self, id: &ProgramId) -> Result<Arc<[u8]>, ReadModuleError> {
        let file = self.module(id)?;
        let limit = self.builder.limits().module_bytes;
        let bytes = index::contents(&file, limit).map_err(ReadModuleError::Io)?;
        if ProgramId::of(&bytes) == *id {
            Ok(bytes.into())
        } else {
            Err(ReadModuleError::Damaged)
        }
    }

    /// The file of a program's module, from its beginning. What it holds was not looked at.
    ///
    /// # Errors
    /// The cache does not hold it.
    pub fn module(&self, id: &ProgramId) -> Result<File, ReadModuleError> {
        let file = files::open_trusted(&self.folder(id).path().join(folder::MODULE));
        file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ReadModuleError::Missing,
            _ => ReadModuleError::Io(error),
        })
    }

    fn touch(&self, folder: &Folder) {
        if self.elsewhere.is_none() {
            folder.touch();
        }
    }

    fn folder(&self, id: &ProgramId) -> Folder {
        Folder::of(&self.directory.join(PROGRAMS), id)
    }

    /// Loads what is in the cache, and shares it with others in this process who load it at the same time.
    fn load(&self, id: &ProgramId) -> io::Result<Arc<Installed>> {
        let folder = self.folder(id);
        let open = |made_by| {
            let elsewhere = self.elsewhere.clone();
            Shelf::open(folder.clone(), *id, made_by, &self.builder, elsewhere)
        };
        let mut on_shelf = open(self.builder.compatibility());
        if let Err(error) = &on_shelf
            && error.kind() == io::ErrorKind::NotFound
            && folder.path().exists()
            && let Some(portable) = self.portable()
        {
            on_shelf = open(portable);
        }
        let OnShelf {
            shelf,
            module,
            metadata,
            images,
        } = on_shelf?;
        let program = Arc::new(Installed::from_shelf(shelf, module, metadata, images));
        self.touch(&folder);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = loaded.get(id).and_then(Weak::upgrade) {
            return Ok(other);
        }
        loaded.retain(|_, program| program.strong_count() > 0);
        loaded.insert(*id, Arc::downgrade(&program));
        Ok(program)
    }

    /// What [`ProgramCache::add_for`] makes on any machine for machines like this one. Second choice: it uses nothing
    /// that only some of these processors can do.
    fn portable(&self) -> Option<&Compatibility> {
        let find = || {
            let options = EngineOptions {
                target: Target::Every(Processor::here()?),
                ..self.builder.engine().options()
            };
            let engine = Engine::new(options).ok()?;
            Some(Compatibility::of(&engine, self.builder.options()))
        };
        self.portable.get_or_init(find).as_ref()
    }

    fn in_memory(
        &self,
        bytes: &Arc<[u8]>,
        made: &MadeProgram,
    ) -> Result<Arc<Installed>, InstallError> {
        Installed::from_made(&self.builder, bytes.clone(), made).map(Arc::new)
    }
}

/// Checks the layout's version, or writes it into an empty folder.
fn check_or_write_version(directory: &Path) -> Result<(), OpenCacheError> {
    let failed = |step| {
        move |source| OpenCacheError::Io {
            path: directory.to_owned(),
            step,
            source,
        }
    };
    let text = match std::fs::read(directory.join(VERSION)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut entries = std::fs::read_dir(directory).map_err(failed("readdir"))?;
            // Someone else may just be making it.
            let foreign = entries.any(|entry| {
                entry.is_ok_and(|entry| {
                    let name = entry.file_name();
                    let name = name.to_string_lossy();
                    !name.starts_with(files::TEMPORARY)
                        && ![VERSION, PROGRAMS, INDEX].contains(&&*name)
                })
            });
            if foreign {
                let path = directory.to_owned();
                return Err(OpenCacheError::Foreign { path });
            }
            let text = format!("{VERSION_PREFIX}{LAYOUT_VERSION}\n");
            return files::write(directory, VERSION, text.as_bytes()).map_err(failed("write"));
        }
        Err(error) => return Err(failed("read")(error)),
    };
    check_version(directory, &text)
}

/// Checks the layout's version, as its file has it.
fn check_version(directory: &Path, text: &[u8]) -> Result<(), OpenCacheError> {
    let path = || directory.to_owned();
    let text = String::from_utf8_lossy(text);
    let version = text.trim_end().strip_prefix(VERSION_PREFIX);
    match version.and_then(|version| version.parse::<u32>().ok()) {
        Some(LAYOUT_VERSION) => Ok(()),
        Some(version) if version > LAYOUT_VERSION => Err(OpenCacheError::Newer {
            path: path(),
            version,
            known: LAYOUT_VERSION,
        }),
        _ => Err(OpenCacheError::Foreign { path: path() }),
    }
}
