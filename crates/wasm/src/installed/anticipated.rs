//! What a process will need to go on, made ready before it arrives: see [`sterna_process::waypoint`].

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::PoisonError;

use sterna_process::{ProgramId, Waypoint};

use super::continuations::{KEEP_WAIT, Key, continuations_of};
use super::{InstallError, Installed, Origin};
use crate::cache::{AddError, KeepError};
use crate::pass::{InstrumentError, Spot};

/// Why what a process needs to go on was not made ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnticipateError {
    /// The cache does not hold the program.
    #[error("program {} is not here", program.short())]
    UnknownProgram {
        /// Its name.
        program: ProgramId,
    },
    /// The program cannot be loaded.
    #[error(transparent)]
    Program(#[from] Box<AddError>),
    /// No process of the program can stand there.
    #[error("the program has no waypoint {0}")]
    Unknown(Waypoint),
    /// There are more waypoints than are made ready at once.
    #[error("{given} waypoints are too many: {limit} are made ready at once")]
    TooMany {
        /// How many were given.
        given: usize,
        /// How many may be.
        limit: usize,
    },
    /// It could not be made.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// It was made, but others cannot have it.
    #[error(transparent)]
    Keep(#[from] KeepError),
}

impl Installed {
    /// Makes ready what goes on from `waypoints`, which may be anything.
    pub(crate) fn anticipate(&self, waypoints: &[Waypoint]) -> Result<(), AnticipateError> {
        let keys = self.keys(waypoints)?;
        Ok(self.prepare(&keys)?)
    }

    /// Puts what goes on from `waypoints` on the shelf; this process itself need not go on with it.
    pub(crate) fn put_on_shelf(&self, waypoints: &[Waypoint]) -> Result<(), AnticipateError> {
        let mut keys = self.keys(waypoints)?;
        let (Origin::Shelf(shelf), Some(builder)) = (&self.origin, &self.compiler) else {
            return Ok(self.prepare(&keys)?);
        };
        let _one = self
            .compiling
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let there: HashSet<Key> = shelf.continuations().0.into_iter().collect();
        keys.retain(|key| !there.contains(key));
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return Ok(());
        }
        let built = self.continuation_builder()?;
        let built = built.build(&keys, &|key| there.contains(&key));
        let built = built.map_err(InstallError::from)?;
        let silent = &mut |_| ControlFlow::Continue(());
        let artifact = builder.module(&built.wasm, false, silent);
        let artifact = artifact.map_err(InstallError::from)?;
        let entries = continuations_of(&built);
        Ok(shelf.put(&artifact, &built, &entries, false, KEEP_WAIT)?)
    }

    /// The continuations for `waypoints`.
    fn keys(&self, waypoints: &[Waypoint]) -> Result<Vec<Key>, AnticipateError> {
        let key = |&waypoint: &Waypoint| {
            let unknown = AnticipateError::Unknown(waypoint);
            let Some(spot) = Spot::of(waypoint) else {
                return Err(unknown);
            };
            self.entry_at(spot).map_err(|error| match error {
                InstallError::Instrument(InstrumentError::NoPoint { .. }) => unknown,
                error => error.into(),
            })
        };
        waypoints.iter().map(key).collect()
    }

    /// Asks who writes the shelf for the continuations of `keys`.
    pub(super) fn ask_elsewhere(&self, keys: &[Key]) -> Result<(), InstallError> {
        let Origin::Shelf(shelf) = &self.origin else {
            return Ok(());
        };
        let Some(elsewhere) = shelf.elsewhere() else {
            return Ok(());
        };
        let points = self.points()?;
        let waypoints: Vec<Waypoint> = keys
            .iter()
            .filter_map(|&(function, entry)| {
                let (op, after) = entry.operator()?;
                let point = points.at(function, op)?;
                let offset = point.offset;
                let spot = Spot {
                    function,
                    offset,
                    after,
                };
                Some(spot.waypoint())
            })
            .collect();
        Ok(elsewhere.prepare(shelf.id(), &waypoints)?)
    }
}
