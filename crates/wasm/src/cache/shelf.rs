//! [`Shelf`]: what the cache holds of one program for one engine, as the program itself sees it.
//!
//! ```text
//! programs/HASH/module.wasm          the original
//!               about, used, lock    its name; when it was used last; taken while something is written
//!               COMPATIBILITY/       one folder for each engine, target and version:
//!                 main.meta          Main: checksums, Metadata
//!                 main.cwasm         native code
//!                 points             PointTable
//!                 marks              pass::Marks
//!                 images             pages with data of the initial memories
//!                 continuations      Vec<Kept>: the modules of continuations and what is in each
//!                 cont-HASH.cwasm    native code
//!                 cont-HASH.marks    pass::Marks
//!                 verified           see `verified`
//! ```
//!
//! A shelf holds the files open that its program may need later, so the program runs on if it is removed from the
//! cache meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sterna_process::ProgramId;
use wasmtime::Module;

use super::Compatibility;
use super::elsewhere::Elsewhere;
use super::error::{KeepError, ReadModuleError};
use super::files::{self, Stamp, Sum};
use super::folder::{Folder, Lock, Writes};
use super::native;
use super::verified::Verified;
use crate::builder::{Artifact, Builder, MadeProgram};
use crate::installed::{CompiledContinuations, Key, MarksAt, Metadata, images};
use crate::memory::Initial;
use crate::pass::{Continuations, Import, Marks, Param, PointTable};

pub(super) const META: &str = "main.meta";
const ARTIFACT: &str = "main.cwasm";
const POINTS: &str = "points";
const MARKS: &str = "marks";
const IMAGES: &str = "images";
const CONTINUATIONS: &str = "continuations";
pub(super) const CONTINUATION_PREFIX: &str = "cont-";
/// How the names of files with native code end.
pub(super) const CODE_SUFFIX: &str = ".cwasm";
/// Native code of continuations that is kept of one program, in bytes.
pub(crate) const CONTINUATION_BYTES_MAX: u64 = 512 << 20;
/// Modules of continuations that are kept of one program.
const CONTINUATION_MODULES_MAX: usize = 2048;

/// Initial data from which on it is put in place while the native code is loaded, in bytes: then a thread is worth it.
const PARALLEL_BYTES_MIN: u64 = 1 << 20;

/// Contents of `main.meta`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Main {
    pub(super) made_by: Compatibility,
    module: Sum,
    artifact: Sum,
    points: Sum,
    marks: Sum,
    images: Sum,
    metadata: Metadata,
}

/// A module of continuations on the shelf.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    file: String,
    sum: Sum,
    imports: Vec<Import>,
    entries: Vec<Continuation>,
}

/// A continuation: its key and parameters. Its name follows from the key.
pub(crate) type Continuation = (Key, Vec<Param>);

pub(crate) struct Shelf {
    folder: Folder,
    /// The folder of this engine's files.
    made: PathBuf,
    id: ProgramId,
    module: File,
    module_bytes: u64,
    points: File,
    points_sum: Sum,
    marks: File,
    marks_sum: Sum,
    builder: Builder,
    /// Who writes it, if this process does not.
    elsewhere: Option<Arc<dyn Elsewhere>>,
    listing: Mutex<Listing>,
}

/// The modules of continuations, as they were when the list was last read.
#[derive(Debug, Default)]
struct Listing {
    stamp: Option<Stamp>,
    kept: Vec<Kept>,
    /// By file name: those that this process has, or cannot use.
    taken: std::collections::HashSet<String>,
}

/// A program as it lies on its shelf.
pub(super) struct OnShelf {
    pub(super) shelf: Shelf,
    pub(super) module: Module,
    pub(super) metadata: Metadata,
    pub(super) images: Vec<Initial>,
}

impl Shelf {
    /// Loads what is there and was made by and for `compatibility`, with `builder`'s engine.
    pub(super) fn open(
        folder: Folder,
        id: ProgramId,
        compatibility: &Compatibility,
        builder: &Builder,
        elsewhere: Option<Arc<dyn Elsewhere>>,
    ) -> io::Result<OnShelf> {
        let made = folder.made(compatibility);
        let about = |name: &str| {
            let name = name.to_owned();
            move |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"))
        };
        let main: Main = files::read_record(&made.join(META)).map_err(about(META))?;
        let mut verified = Verified::read(&made, elsewhere.is_none());
        let mut open = |path: &Path, name: &str, sum: &Sum| {
            let file = files::open_trusted(&path.join(name));
            file.and_then(|file| verified.check(file, sum))
                .map_err(about(name))
        };
        let artifact = open(&made, ARTIFACT, &main.artifact)?;
        let points = open(&made, POINTS, &main.points)?.0;
        let marks = open(&made, MARKS, &main.marks)?.0;
        let module = open(folder.path(), super::folder::MODULE, &main.module)?.0;
        let data = open(&made, IMAGES, &main.images)?;
        verified.remember(&made);
        let mapped = native::map(&data).map_err(about(IMAGES))?;
        let (metadata, data) = (&main.metadata, mapped.bytes());
        let images = || images::build(metadata, data);
        let load = || native::load(builder.engine(), artifact);
        let (images, compiled) = if main.images.bytes < PARALLEL_BYTES_MIN {
            (images(), load())
        } else {
            std::thread::scope(|scope| {
                let images = scope.spawn(images);
                let compiled = load();
                let panicked = |panic| std::panic::resume_unwind(panic);
                (images.join().unwrap_or_else(panicked), compiled)
            })
        };
        let images = images.map_err(io::Error::other)?;
        let compiled = compiled
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{error:#}")))?;
        let shelf = Shelf {
            made,
            folder,
            id,
            module,
            module_bytes: main.module.bytes,
            points,
            points_sum: main.points,
            marks,
            marks_sum: main.marks,
            builder: builder.clone(),
            elsewhere,
            listing: Mutex::default(),
        };
        Ok(OnShelf {
            shelf,
            module: compiled,
            metadata: main.metadata,
            images,
        })
    }

    /// Whether there is something for `builder`'s engine, which need not be one for this machine.
    pub(super) fn exists(folder: &Folder, builder: &Builder) -> bool {
        let made = folder.made(builder.compatibility());
        files::read_record::<Main>(&made.join(META)).is_ok()
    }

    /// Writes a program that was just built. The caller holds the folder's lock.
    pub(super) fn keep(
        folder: &Folder,
        builder: &Builder,
        module: &[u8],
        made: &MadeProgram,
    ) -> Result<(), KeepError> {
        let shelf = folder.made(builder.compatibility());
        let write = |path: &Path, name: &str, bytes: &[u8]| {
            files::write(path, name, bytes).map_err(|source| KeepError {
                path: path.join(name),
                source,
            })
        };
        files::make_folder(&shelf).map_err(|source| KeepError {
            path: shelf.clone(),
            source,
        })?;
        // The continuations that lie there may be of another build of the same module.
        folder.clear(&shelf);
        write(folder.path(), super::folder::MODULE, module)?;
        write(&shelf, ARTIFACT, made.artifact.bytes())?;
        write(&shelf, POINTS, &made.points)?;
        write(&shelf, MARKS, &made.marks)?;
        write(&shelf, IMAGES, &made.data)?;
        let invalid = |source: io::Error| KeepError {
            path: shelf.join(META),
            source,
        };
        let metadata = postcard::from_bytes(&made.metadata).map_err(io::Error::other);
        let main = Main {
            made_by: builder.compatibility().clone(),
            module: Sum::of(module),
            artifact: Sum::of(made.artifact.bytes()),
            points: Sum::of(&made.points),
            marks: Sum::of(&made.marks),
            images: Sum::of(&made.data),
            metadata: metadata.map_err(invalid)?,
        };
        // Last: it makes the others valid.
        write(&shelf, META, &files::encode(&main).map_err(invalid)?)
    }

    pub(crate) fn builder(&self) -> &Builder {
        &self.builder
    }

    /// Who writes it, if this process does not.
    pub(crate) fn elsewhere(&self) -> Option<&Arc<dyn Elsewhere>> {
        self.elsewhere.as_ref()
    }

    /// The program.
    pub(crate) fn id(&self) -> ProgramId {
        self.id
    }

    /// The bytes of the original module.
    pub(crate) fn module(&self) -> Result<Arc<[u8]>, ReadModuleError> {
        let bytes = read_all(&self.module, self.module_bytes).map_err(ReadModuleError::Io)?;
        if ProgramId::of(&bytes) != self.id {
            return Err(ReadModuleError::Damaged);
        }
        Ok(bytes)
    }

    /// A part of the original module.
    pub(crate) fn module_part(&self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        if start > end || end > self.module_bytes {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut part = vec![0; (end - start) as usize];
        self.module.read_exact_at(&mut part, start)?;
        Ok(part)
    }

    pub(crate) fn points(&self) -> io::Result<PointTable> {
        let bytes = read_all(&self.points, self.points_sum.bytes)?;
        postcard::from_bytes(&bytes).map_err(io::Error::other)
    }

    pub(crate) fn marks(&self) -> io::Result<Marks> {
        let bytes = read_all(&self.marks, self.marks_sum.bytes)?;
        postcard::from_bytes(&bytes).map_err(io::Error::other)
    }

    /// Those modules of continuations that hold any of `keys` and that this process has not yet taken.
    pub(crate) fn take(&self, keys: &[Key]) -> Vec<(CompiledContinuations, Vec<Continuation>)> {
        let mut listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        listing.refresh(&self.made);
        let wanted: Vec<Kept> = listing
            .kept
            .iter()
            .filter(|kept| !listing.taken.contains(&kept.file))
            .filter(|kept| kept.entries.iter().any(|(key, _)| keys.contains(key)))
            .cloned()
            .collect();
        if wanted.is_empty() {
            return Vec::new();
        }
        let mut verified = Verified::read(&self.made, self.elsewhere.is_none());
        let mut taken = Vec::new();
        for kept in wanted {
            match self.load(&kept, &mut verified) {
                Ok(module) => taken.push((
                    CompiledContinuations {
                        module,
                        imports: kept.imports,
                        marks: MarksAt::Shelf(KeptMarks(self.made.join(marks_file(&kept.file)))),
                        code: OnceLock::new(),
                    },
                    kept.entries,
                )),
                Err(error) => {
                    tracing::warn!(folder = %self.made.display(), file = kept.file, %error, "a compiled continuation cannot be used and is made again");
                }
            }
            listing.taken.insert(kept.file);
        }
        verified.remember(&self.made);
        taken
    }

    fn load(&self, kept: &Kept, verified: &mut Verified) -> io::Result<Module> {
        let file = files::open_trusted(&self.made.join(&kept.file))?;
        let file = verified.check(file, &kept.sum)?;
        native::load(self.builder.engine(), file).map_err(|e| io::Error::other(format!("{e:#}")))
    }

    /// The keys of all continuations on the shelf, and the size of their native code in bytes.
    pub(crate) fn continuations(&self) -> (Vec<Key>, u64) {
        let mut listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        listing.refresh(&self.made);
        let keys = listing.kept.iter().flat_map(|kept| &kept.entries);
        let bytes = listing.kept.iter().map(|kept| kept.sum.bytes).sum();
        (keys.map(|(key, _)| *key).collect(), bytes)
    }

    /// Puts a module of continuations on the shelf for the next time. `mine`: this process has it already.
    /// `wait`: how long to wait for others who write there.
    pub(crate) fn put(
        &self,
        artifact: &Artifact,
        built: &Continuations,
        entries: &[Continuation],
        mine: bool,
        wait: Duration,
    ) -> Result<(), KeepError> {
        let sum = Sum::of(artifact.bytes());
        let digits = blake3::Hash::from_bytes(sum.hash).to_hex();
        let file = format!("{CONTINUATION_PREFIX}{}{CODE_SUFFIX}", &digits[..16]);
        let failed = |source| KeepError {
            path: self.made.join(&file),
            source,
        };
        let lock = Lock::existing(&self.folder, Writes::Made(&self.made), wait).map_err(failed)?;
        let _lock = lock.ok_or_else(|| failed(io::ErrorKind::ResourceBusy.into()))?;
        let mut listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        listing.refresh(&self.made);
        let bytes: u64 = listing.kept.iter().map(|kept| kept.sum.bytes).sum();
        if bytes + sum.bytes > CONTINUATION_BYTES_MAX
            || listing.kept.len() >= CONTINUATION_MODULES_MAX
        {
            return Err(failed(io::ErrorKind::QuotaExceeded.into()));
        }
        let marks = files::encode(&built.marks).map_err(failed)?;
        files::write(&self.made, &marks_file(&file), &marks).map_err(failed)?;
        files::write(&self.made, &file, artifact.bytes()).map_err(failed)?;
        if mine {
            listing.taken.insert(file.clone());
        }
        // One that could not be used is replaced by this one.
        listing.kept.retain(|kept| kept.file != file);
        listing.kept.push(Kept {
            file: file.clone(),
            sum,
            imports: built.imports.clone(),
            entries: entries.to_vec(),
        });
        let record = files::encode(&listing.kept).map_err(failed)?;
        files::write(&self.made, CONTINUATIONS, &record).map_err(failed)
    }
}

/// Where the marks of a module of continuations are kept: read if anybody looks at a guest that runs it.
#[derive(Debug)]
pub(crate) struct KeptMarks(PathBuf);

impl KeptMarks {
    pub(crate) fn read(&self) -> io::Result<Marks> {
        files::read_record(&self.0)
    }
}

/// Name of the file with the marks of a module of continuations.
fn marks_file(artifact: &str) -> String {
    format!("{}.marks", artifact.trim_end_matches(CODE_SUFFIX))
}

impl Listing {
    /// Reads the list again if it has changed.
    fn refresh(&mut self, made: &Path) {
        let path = made.join(CONTINUATIONS);
        let stamp = files::open_trusted(&path).and_then(|file| Stamp::of(&file));
        let Ok(stamp) = stamp else {
            return;
        };
        if self.stamp == Some(stamp) {
            return;
        }
        match files::read_record(&path) {
            Ok(kept) => {
                self.kept = kept;
                self.kept.retain(|kept| is_plain_name(&kept.file));
                self.stamp = Some(stamp);
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "the list of compiled continuations cannot be used and is made again");
                self.kept.clear();
            }
        }
    }
}

/// Whether a name from the list can be that of a file in the folder.
fn is_plain_name(name: &str) -> bool {
    name.starts_with(CONTINUATION_PREFIX) && !name.contains('/')
}

/// All of a file of `bytes` bytes.
fn read_all(file: &File, bytes: u64) -> io::Result<Arc<[u8]>> {
    let mut all: Arc<[u8]> = std::iter::repeat_n(0, bytes as usize).collect();
    let buffer = Arc::get_mut(&mut all).expect("nobody else has it yet");
    file.read_exact_at(buffer, 0)?;
    Ok(all)
}
