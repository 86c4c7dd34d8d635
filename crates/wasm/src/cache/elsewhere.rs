//! Making ready on behalf of others: a confined process that only reads the cache ([`ProgramCache::open_read_only`])
//! asks somebody who may write it ([`Elsewhere`]), who puts what it asks for on the shelf ([`ProgramCache::prepare`]).

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use sterna_process::{ProgramId, WAYPOINTS_MAX, Waypoint};

use super::{OpenCacheError, ProgramCache, VERSION, check_version, files};
use crate::builder::{BuildLimits, Builder, Launch};
use crate::engine::Engine;
use crate::installed::{AnticipateError, Installed};

/// Programs whose parsed modules are kept from one [`ProgramCache::prepare`] to the next: to parse a large one takes
/// longer than to compile for it.
const PREPARED_MAX: usize = 4;

/// Somebody who may write the cache that this process only reads.
pub trait Elsewhere: Send + Sync {
    /// Has what goes on from `waypoints` put on the program's shelf, and waits for that: what
    /// [`ProgramCache::prepare`] does there.
    ///
    /// # Errors
    /// It is not there then.
    fn prepare(&self, program: ProgramId, waypoints: &[Waypoint]) -> Result<(), ElsewhereError>;
}

/// Why somebody else did not make something ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "who writes the program cache did not make ready what the process needs to go on: {reason}"
)]
pub struct ElsewhereError {
    /// What they say.
    pub reason: String,
}

impl ProgramCache {
    /// Opens a cache that others write. This process only reads it: it builds nothing, starts no builder, takes no lock,
    /// notes no use and needs no path outside `directory`. What is missing to go on with a process is asked for
    /// `elsewhere`; a program that is not there is unknown.
    ///
    /// # Errors
    /// [`OpenCacheError`]: there is no cache of a version that is known, or others could write it.
    pub fn open_read_only(
        directory: &Path,
        engine: Engine,
        elsewhere: Arc<dyn Elsewhere>,
    ) -> Result<ProgramCache, OpenCacheError> {
        let failed = |step| {
            move |source| OpenCacheError::Io {
                path: directory.to_owned(),
                step,
                source,
            }
        };
        let opened = std::fs::File::open(directory).map_err(failed("open"))?;
        let metadata = opened.metadata().map_err(failed("stat"))?;
        files::trust(&metadata).map_err(|error| OpenCacheError::NotPrivate {
            path: directory.to_owned(),
            why: error.to_string(),
        })?;
        let text = std::fs::read(directory.join(VERSION)).map_err(failed("read"))?;
        check_version(directory, &text)?;
        Ok(ProgramCache {
            directory: directory.to_owned(),
            builder: Builder::new(engine, BuildLimits::default(), Launch::Here),
            portable: Arc::default(),
            loaded: Arc::default(),
            prepared: Arc::default(),
            elsewhere: Some(elsewhere),
        })
    }

    /// Puts what goes on from `waypoints` on the program's shelf, for whoever shares the cache: the continuations of
    /// these places with all that they go on to. Returns when all of it is there. Blocks while a builder compiles.
    ///
    /// Whoever asks need not be trusted: `waypoints` may be anything, and no more is kept of a program than the cache
    /// allows each.
    ///
    /// # Errors
    /// [`AnticipateError`].
    pub fn prepare(
        &self,
        program: &ProgramId,
        waypoints: &[Waypoint],
    ) -> Result<(), AnticipateError> {
        if waypoints.len() > WAYPOINTS_MAX {
            return Err(AnticipateError::TooMany {
                given: waypoints.len(),
                limit: WAYPOINTS_MAX,
            });
        }
        let silent = &mut |_| ControlFlow::Continue(());
        let installed = self.get(program, silent).map_err(Box::new)?;
        let installed = installed.ok_or(AnticipateError::UnknownProgram { program: *program })?;
        self.keep_prepared(&installed);
        installed.put_on_shelf(waypoints)
    }

    fn keep_prepared(&self, installed: &Arc<Installed>) {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.retain(|other| !Arc::ptr_eq(other, installed));
        if prepared.len() >= PREPARED_MAX {
            prepared.pop_front();
        }
        prepared.push_back(installed.clone());
    }

    /// Whether this process may not write the cache.
    pub(super) fn check_writable(&self) -> io::Result<()> {
        match self.elsewhere {
            None => Ok(()),
            Some(_) => Err(io::Error::new(
                io::ErrorKind::ReadOnlyFilesystem,
                "this process only reads the program cache: add the program from outside",
            )),
        }
    }
}
