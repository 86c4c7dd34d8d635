//! The continuations of an installed program: known in this process, on the shelf, or still to be compiled.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use wasmtime::Module;

use super::{InstallError, Installed, MarksAt, Origin};
use crate::builder::{Artifact, BuildError, OnProgress, Progress};
use crate::cache::{CONTINUATION_BYTES_MAX, Continuation, ReadModuleError, take_artifact};
use crate::code::CodeMap;
use crate::frames::Frame;
use crate::pass::{
    self, ContinuationBuilder, Continuations, Entry, Import, Param, Spot, Stop, names,
};

/// Loop headers that are put into one module when they are compiled in advance. Fewer: more files to map when a program
/// goes on; more: more imports to look up for each.
const HEADERS_PER_MODULE: usize = 64;

/// How long to wait for others who write on the shelf: each does so for a moment, but for one who builds the whole
/// program again.
pub(super) const KEEP_WAIT: Duration = Duration::from_secs(5);

/// Key of a continuation.
pub(crate) type Key = (u32, Entry);

/// A compiled module of continuations.
pub(crate) struct CompiledContinuations {
    pub(crate) module: Module,
    /// What its imports are, in order.
    pub(crate) imports: Vec<Import>,
    pub(crate) marks: MarksAt,
    /// Made when somebody looks.
    pub(crate) code: OnceLock<Option<CodeMap>>,
}

impl CompiledContinuations {
    /// The continuations of other modules that it goes on to.
    fn needed(&self) -> Vec<Key> {
        needed(&self.imports)
    }
}

fn needed(imports: &[Import]) -> Vec<Key> {
    let keys = imports.iter().filter_map(|import| match import {
        Import::Continuation(function, entry) => Some((*function, *entry)),
        Import::Main(_) => None,
    });
    keys.collect()
}

/// Where a continuation is.
#[derive(Clone)]
pub(crate) enum Place {
    /// Exported by the main module: an outlined loop.
    Main(String, Arc<[Param]>),
    /// Exported by a module of continuations.
    Module(Arc<CompiledContinuations>, String, Arc<[Param]>),
}

/// What [`Installed::compile_loop_headers`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoopHeaders {
    /// Headers compiled now.
    pub compiled: usize,
    /// Their native code, in bytes.
    pub bytes: u64,
    /// Headers that were left out, since the program's continuations would take too much room.
    pub left_out: usize,
}

impl Installed {
    /// The entry at which `frame` goes on.
    pub(crate) fn entry<V>(&self, frame: &Frame<V>) -> Result<Key, InstallError> {
        self.entry_at(frame.spot())
    }

    /// The entry at which a frame that stands there goes on.
    pub(crate) fn entry_at(&self, spot: Spot) -> Result<Key, InstallError> {
        let Spot {
            function,
            offset,
            after,
        } = spot;
        let Some(point) = self.points()?.at_offset(function, offset) else {
            // Another version of the pass may know it.
            let entry = self
                .continuation_builder()?
                .entry_at(function, offset, after)?;
            return Ok((function, entry));
        };
        let op = point.op as usize;
        match (point.stop, after) {
            (Stop::After | Stop::Import, true) => Ok((function, Entry::After(op))),
            (Stop::Before | Stop::Import, false) => Ok((function, Entry::At(op))),
            _ => Err(pass::InstrumentError::NoPoint { function, offset }.into()),
        }
    }

    /// Whether all continuations of `keys` are ready.
    pub(crate) fn ready(&self, keys: &[Key]) -> bool {
        self.missing(keys).is_empty()
    }

    /// Makes the continuations of `keys` ready: loads those that were compiled before, by whichever process, and
    /// compiles the others, all in one module.
    pub(crate) fn prepare(&self, keys: &[Key]) -> Result<(), InstallError> {
        if self.ready(keys) {
            return Ok(());
        }
        let _one = self
            .compiling
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.adopt_from_shelf(&self.missing(keys));
        let missing = self.missing(keys);
        if missing.is_empty() {
            return Ok(());
        }
        if self.is_read_only() {
            self.ask_elsewhere(&missing)?;
            self.adopt_from_shelf(&missing);
            let there = self.ready(&missing);
            return there.then_some(()).ok_or(InstallError::NotThere);
        }
        let built = self.build_continuations(&missing)?;
        let entries = continuations_of(&built);
        let (module, artifact) = match &self.compiler {
            None => (Module::new(self.engine.wasmtime(), &built.wasm), None),
            Some(builder) => {
                let artifact =
                    builder.module(&built.wasm, false, &mut |_| ControlFlow::Continue(()))?;
                (take_artifact(&self.engine, &artifact), Some(artifact))
            }
        };
        let compiled = CompiledContinuations {
            module: module.map_err(InstallError::Compile)?,
            imports: built.imports.clone(),
            marks: MarksAt::Memory(built.marks.clone()),
            code: OnceLock::new(),
        };
        self.adopt(compiled, &entries);
        if let Some(artifact) = artifact {
            self.keep(artifact, built, entries);
        }
        Ok(())
    }

    /// Where the continuation of `key` is, if it is ready.
    pub(crate) fn place(&self, key: Key) -> Option<Place> {
        let known = self
            .continuations
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        known.get(&key).cloned()
    }

    /// Compiles the continuations of all loop headers that are not on the shelf yet, in builders that let others go
    /// first, and puts them there: a program that is stopped in a loop is then continued without compiling anything. Does
    /// nothing for a program that is not in the cache. Blocks until all is done; to be called on a thread of its own.
    ///
    /// # Errors
    /// [`InstallError`]; [`BuildError::Cancelled`] in it if `on_progress` broke off. What was done until then is kept.
    pub fn compile_loop_headers(
        &self,
        on_progress: OnProgress<'_>,
    ) -> Result<LoopHeaders, InstallError> {
        let mut summary = LoopHeaders::default();
        let (Origin::Shelf(shelf), Some(builder)) = (&self.origin, &self.compiler) else {
            return Ok(summary);
        };
        if self.is_read_only() {
            return Ok(summary);
        }
        let continuations = self.continuation_builder()?;
        let (there, mut bytes) = shelf.continuations();
        let there: HashSet<Key> = there.into_iter().collect();
        let functions = continuations.function_count();
        let mut headers: Vec<Key> = Vec::new();
        for function in 0..functions {
            let entries = continuations.loop_headers(function)?;
            let keys = entries.into_iter().map(|entry| (function, entry));
            headers.extend(keys.filter(|key| !there.contains(key)));
            let last = function + 1 == functions;
            if headers.is_empty() || (headers.len() < HEADERS_PER_MODULE && !last) {
                continue;
            }
            let keys = std::mem::take(&mut headers);
            if bytes >= CONTINUATION_BYTES_MAX {
                summary.left_out += keys.len();
                continue;
            }
            let built = continuations.build(&keys, &|_| false)?;
            let done = function as f32 / functions as f32;
            let mut tell = |progress| match progress {
                Progress::Compiling { .. } => on_progress(Progress::Compiling { done }),
                _ => ControlFlow::Continue(()),
            };
            let artifact = builder.module(&built.wasm, true, &mut tell)?;
            if tell(Progress::Compiling { done }).is_break() {
                return Err(BuildError::Cancelled.into());
            }
            bytes += artifact.bytes().len() as u64;
            summary.bytes += artifact.bytes().len() as u64;
            summary.compiled += keys.len();
            let entries = continuations_of(&built);
            let put = shelf.put(&artifact, &built, &entries, false, KEEP_WAIT);
            put.map_err(|error| InstallError::Module(ReadModuleError::Io(error.source)))?;
        }
        Ok(summary)
    }

    /// Whether what is missing has to be made elsewhere.
    fn is_read_only(&self) -> bool {
        matches!(&self.origin, Origin::Shelf(shelf) if shelf.elsewhere().is_some())
    }

    fn missing(&self, keys: &[Key]) -> Vec<Key> {
        let known = self
            .continuations
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let missing = keys.iter().copied().filter(|key| !known.contains_key(key));
        let mut missing: Vec<Key> = missing.collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// Builds a module with the continuations of `keys`, which goes on to loop headers that are ready or on the shelf.
    fn build_continuations(&self, keys: &[Key]) -> Result<Continuations, InstallError> {
        let builder = self.continuation_builder()?;
        let on_shelf: HashSet<Key> = match &self.origin {
            Origin::Shelf(shelf) => shelf.continuations().0.into_iter().collect(),
            Origin::Memory(_) => HashSet::new(),
        };
        let built = builder.build(keys, &|key| on_shelf.contains(&key) || self.ready(&[key]))?;
        let needed = needed(&built.imports);
        self.adopt_from_shelf(&self.missing(&needed));
        if self.ready(&needed) {
            return Ok(built);
        }
        // Something on the shelf cannot be used.
        Ok(builder.build(keys, &|key| self.ready(&[key]))?)
    }

    /// Loads from the shelf the modules that hold any of `missing`, if all that they go on to is there too.
    fn adopt_from_shelf(&self, missing: &[Key]) {
        let Origin::Shelf(shelf) = &self.origin else {
            return;
        };
        let mut found = Vec::new();
        let mut wanted = missing.to_vec();
        while !wanted.is_empty() {
            // Each is given once, so this ends.
            let taken = shelf.take(&wanted);
            let needed: Vec<Key> = taken
                .iter()
                .flat_map(|(module, _)| module.needed())
                .collect();
            wanted = self.missing(&needed);
            found.extend(taken);
        }
        let complete = |(module, _): &(CompiledContinuations, _)| self.ready(&module.needed());
        while let Some(at) = found.iter().position(complete) {
            let (compiled, entries) = found.swap_remove(at);
            self.adopt(compiled, &entries);
        }
    }

    /// Makes the continuations of a module known.
    fn adopt(&self, compiled: CompiledContinuations, entries: &[Continuation]) {
        let compiled = Arc::new(compiled);
        self.add_code(&compiled);
        let mut known = self
            .continuations
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for (key, params) in entries {
            let name = names::continuation(key.0, key.1);
            let params = params.as_slice().into();
            let place = if self.module.get_export_index(&name).is_some() {
                Place::Main(name, params)
            } else {
                Place::Module(compiled.clone(), name, params)
            };
            known.entry(*key).or_insert(place);
        }
    }

    /// Puts a module on the shelf, on a thread of its own: the caller may be in the middle of a move.
    fn keep(&self, artifact: Artifact, built: Continuations, entries: Vec<Continuation>) {
        let Origin::Shelf(shelf) = &self.origin else {
            return;
        };
        let shelf = shelf.clone();
        let keeper = std::thread::Builder::new().name("keep".into()).spawn(move || {
            if let Err(error) = shelf.put(&artifact, &built, &entries, true, KEEP_WAIT) {
                tracing::warn!(%error, reason = %error.source, "a compiled continuation is not kept");
            }
        });
        match keeper {
            Ok(keeper) => {
                let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
                keepers.retain(|keeper| !keeper.is_finished());
                keepers.push(keeper);
            }
            Err(error) => tracing::warn!(%error, "a compiled continuation is not kept"),
        }
    }

    pub(super) fn continuation_builder(&self) -> Result<&ContinuationBuilder, InstallError> {
        if self.continuation_builder.get().is_none() {
            let bytes = self.bytes()?;
            self.continuation_builder.get_or_init(|| {
                let program = pass::Program::parse(bytes, self.options.clone());
                program
                    .and_then(|program| program.continuations())
                    .map_err(|error| error.to_string())
            });
        }
        let builder = self.continuation_builder.get().expect("it was just made");
        let failed = |error: &String| pass::InstrumentError::Rewrite(error.clone());
        Ok(builder.as_ref().map_err(failed)?)
    }
}

pub(super) fn continuations_of(built: &Continuations) -> Vec<Continuation> {
    let entries = built.entries.iter();
    entries
        .map(|(function, entry, _, params)| ((*function, *entry), params.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, SeekFrom, Write};
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::builder::BuildLimits;
    use crate::cache::ProgramCache;
    use crate::{Engine, EngineOptions};

    const LOOP: &str = "(module (func (export \"f\") (param i32)
        (loop $l (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))";

    fn program(folder: &Path) -> Arc<Installed> {
        let engine = Engine::new(EngineOptions::default()).unwrap();
        let cache = ProgramCache::open(folder, engine, BuildLimits::default()).unwrap();
        let bytes = wat::parse_str(LOOP).unwrap().into();
        cache
            .add(&bytes, None, &mut |_| ControlFlow::Continue(()))
            .unwrap()
    }

    fn kept(folder: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                files.extend(kept(&entry.path()));
            } else if entry.path().extension().is_some_and(|it| it == "cwasm")
                && entry.file_name().to_string_lossy().starts_with("cont-")
            {
                files.push(entry.path());
            }
        }
        files
    }

    #[test]
    fn compiled_once_then_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let key = (0, Entry::At(0));
        let first = program(folder.path());
        assert!(!first.ready(&[key]) && first.place(key).is_none());
        first.prepare(&[key]).unwrap();
        assert!(first.ready(&[key]));
        drop(first);
        assert_eq!(kept(folder.path()).len(), 1);
        // Nothing is compiled, so nothing that compiles is made.
        let second = program(folder.path());
        second.prepare(&[key]).unwrap();
        assert!(
            matches!(second.place(key), Some(Place::Module(_, name, params))
            if name == names::continuation(0, key.1) && *params == [Param::Local(0)])
        );
        assert!(second.continuation_builder.get().is_none());
        drop(second);
        // Damaged, it is compiled again and replaced.
        let mut file = File::options()
            .write(true)
            .open(&kept(folder.path())[0])
            .unwrap();
        file.seek(SeekFrom::Start(500)).unwrap();
        file.write_all(b"damage").unwrap();
        for compiles in [true, false] {
            let program = program(folder.path());
            program.prepare(&[key]).unwrap();
            assert!(program.ready(&[key]));
            assert_eq!(program.continuation_builder.get().is_some(), compiles);
        }
        assert_eq!(kept(folder.path()).len(), 1);
    }

    #[test]
    fn what_another_process_compiled_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let key = (0, Entry::At(0));
        let (one, other) = (program(folder.path()), program(folder.path()));
        assert!(!Arc::ptr_eq(&one, &other));
        let headers = one
            .compile_loop_headers(&mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(headers.compiled, 1);
        assert!(!one.ready(&[key]), "it is on the shelf only");
        other.prepare(&[key]).unwrap();
        assert!(other.continuation_builder.get().is_none());
    }
}
