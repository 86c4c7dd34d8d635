//! One process of a runner: [`Hosted`].
//!
//! ```text
//!  Spawn ─► Running ◄──► Standing          because its user says so
//!             │  ▲           │
//!       Pause │  │ Resume    │ Pause
//!             ▼  │           ▼
//!            Frozen ── Discard ─► gone
//!
//!  Prepare ─► Arriving ── all came, Restore ─► Ready ── Resume ─► Running, Standing
//!  Make ─► Made ── Resume ─► Running, Standing
//! ```
//!
//! Whoever does something with it [takes](Hosted::take) the stage, and puts the next one in its place; meanwhile others
//! are told what is being done, and the process counts as what it was.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sterna_migration::{Attempt, Grant, Holding, MoveId, NodeId};
use sterna_process::{
    Control, Epoch, Exit, Kind, MemoryLayout, Paused, Process, ProcessId, Program, State, Stats,
};

use crate::arriving::Arrival;
use crate::clients::Port;
use crate::files::Files;
use crate::input::Input;
use crate::leaving::{Captured, Outgoing};
use crate::message::{Ended, Seen};
use crate::rest::Rest;
use crate::streams::Output;

/// A process, and whoever works on it.
pub(crate) struct Hosted {
    pub(crate) id: ProcessId,
    pub(crate) kind: Arc<dyn Kind>,
    pub(crate) program: Program,
    pub(crate) output: Arc<Output>,
    /// For its users; the process has its own.
    pub(crate) files: Files,
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// What the lock protects.
pub(crate) struct Inner {
    pub(crate) epoch: Epoch,
    pub(crate) stage: Stage,
    /// Absent until it has run here.
    pub(crate) control: Option<Control>,
    /// Whether its user wants it to stand still, also after a move.
    pub(crate) stands: bool,
    /// What is missing of its memory, which is at the source of a move.
    pub(crate) rest: Option<Arc<Rest>>,
    /// The connection to the target of a move.
    pub(crate) outgoing: Option<(Attempt, Arc<Outgoing>)>,
    pub(crate) input: Option<Arc<Input>>,
    /// Where connections of its clients come in.
    pub(crate) ports: Vec<Arc<Port>>,
}

/// Where it is in its life here.
pub(crate) enum Stage {
    Running(Box<dyn Process>),
    Standing(Box<dyn Paused>),
    Frozen {
        move_id: MoveId,
        paused: Box<dyn Paused>,
        captured: Option<Arc<Captured>>,
    },
    Arriving(Box<Arrival>),
    Ready {
        move_id: MoveId,
        source: NodeId,
        grant: Grant,
        paused: Box<dyn Paused>,
    },
    /// Made of a copy; it has not run here.
    Made {
        move_id: MoveId,
        paused: Box<dyn Paused>,
        /// Nobody else has ever had it.
        is_new: bool,
    },
    Exited(Ended),
    /// Somebody works on it; it counts as what it was.
    Taken {
        was: Holding,
        doing: &'static str,
    },
}

impl Hosted {
    pub(crate) fn new(
        id: ProcessId,
        (kind, program): (Arc<dyn Kind>, Program),
        (output, files): (Arc<Output>, Files),
        inner: Inner,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            kind,
            program,
            output,
            files,
            inner: Mutex::new(inner),
            changed: Condvar::new(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the stage, to put another one in its place. `which` says whether it is one that can be worked on so.
    pub(crate) fn take(
        &self,
        doing: &'static str,
        which: impl FnOnce(&Inner) -> bool,
    ) -> Result<Stage, String> {
        let mut inner = self.lock();
        match &inner.stage {
            Stage::Taken { doing, .. } => return Err(format!("it is {doing}: try again")),
            _ if which(&inner) => {}
            Stage::Exited(_) => return Err("it has just ended".into()),
            _ => return Err("it is being moved: try again".into()),
        }
        let was = inner.holding();
        Ok(std::mem::replace(
            &mut inner.stage,
            Stage::Taken { was, doing },
        ))
    }

    /// Puts the next stage in place of one that was taken.
    pub(crate) fn put(&self, change: impl FnOnce(&mut Inner) -> Stage) {
        let mut inner = self.lock();
        let next = change(&mut inner);
        inner.stage = next;
        drop(inner);
        self.changed.notify_all();
    }

    /// Whether some of its memory comes from there, by this move.
    pub(crate) fn follows(&self, attempt: Attempt, source: NodeId) -> bool {
        let inner = self.lock();
        let rest = inner.rest.as_ref();
        rest.is_some_and(|rest| rest.attempt == attempt && rest.source == source)
    }

    /// Whether somebody works on it.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self.lock().stage, Stage::Taken { .. })
    }

    /// Waits until nobody works on it.
    pub(crate) fn settle(&self, within: Duration) {
        let taken = |inner: &mut Inner| matches!(inner.stage, Stage::Taken { .. });
        let inner = self.lock();
        let _ = self.changed.wait_timeout_while(inner, within, taken);
    }

    /// If it has ended without this being noted yet, notes it and says how.
    pub(crate) fn note_end(&self) -> Option<Ended> {
        let mut inner = self.lock();
        let here = matches!(
            inner.stage,
            Stage::Running(_) | Stage::Standing(_) | Stage::Frozen { .. }
        );
        let control = inner.control.clone().filter(|_| here)?;
        let exit = control.wait(Duration::ZERO)?;
        (exit != Exit::Departed).then(|| self.end(&mut inner, exit, control.stats()))
    }

    /// The same for who has taken it, and knows.
    pub(crate) fn put_end(&self, exit: Exit) -> Ended {
        let mut inner = self.lock();
        let stats = inner.control.as_ref().map(|control| control.stats());
        let ended = self.end(&mut inner, exit, stats.unwrap_or_else(no_stats));
        drop(inner);
        self.changed.notify_all();
        ended
    }

    /// All that it has written is in its log before anybody hears that it has ended.
    fn end(&self, inner: &mut Inner, exit: Exit, stats: Stats) -> Ended {
        self.output.drain();
        let ended = Ended {
            process: self.id,
            epoch: inner.epoch,
            exit: exit.bounded(),
            stats,
            at: SystemTime::now(),
        };
        inner.stage = Stage::Exited(ended.clone());
        inner.input = None;
        inner.close_rest();
        if let Some((_, outgoing)) = inner.outgoing.take() {
            outgoing.hang_up();
        }
        ended
    }

    pub(crate) fn seen(&self) -> Seen {
        let inner = self.lock();
        let (doing, layout) = match &inner.stage {
            Stage::Running(process) => (None, process.memory().layout()),
            Stage::Standing(paused)
            | Stage::Frozen { paused, .. }
            | Stage::Made { paused, .. }
            | Stage::Ready { paused, .. } => (None, paused.memory().layout()),
            Stage::Arriving(_) | Stage::Exited(_) => (None, MemoryLayout::default()),
            Stage::Taken { doing, .. } => (Some((*doing).to_owned()), MemoryLayout::default()),
        };
        let stats = match (&inner.stage, &inner.control) {
            (Stage::Exited(ended), _) => ended.stats.clone(),
            (_, Some(control)) => control.stats(),
            (
                Stage::Standing(paused)
                | Stage::Frozen { paused, .. }
                | Stage::Made { paused, .. }
                | Stage::Ready { paused, .. },
                None,
            ) => paused.stats(),
            (_, None) => no_stats(),
        };
        Seen {
            process: self.id,
            holding: inner.holding(),
            program: self.program.id(),
            kind: self.kind.name(),
            stats,
            layout,
            doing,
            output_bytes: self.output.bytes(),
            has_input: inner.input.is_some(),
            terminal: inner.input.as_ref().and_then(|input| input.size()),
        }
    }
}

impl Inner {
    /// Nobody needs the rest of its memory any more.
    pub(crate) fn close_rest(&mut self) {
        if let Some(rest) = self.rest.take() {
            rest.close();
        }
    }

    /// What is held of it, as the protocol of moves has it.
    pub(crate) fn holding(&self) -> Holding {
        let epoch = self.epoch;
        match &self.stage {
            Stage::Running(_) | Stage::Standing(_) => match &self.rest {
                Some(rest) => Holding::Incomplete {
                    epoch,
                    source: rest.source,
                    attempt: rest.attempt,
                },
                None => Holding::Running { epoch },
            },
            Stage::Frozen { move_id, .. } => Holding::Frozen {
                epoch,
                move_id: *move_id,
            },
            Stage::Made { move_id, .. } => Holding::Made {
                epoch,
                move_id: *move_id,
            },
            Stage::Arriving(arrival) => Holding::Arriving {
                epoch,
                move_id: arrival.attempt.move_id,
            },
            Stage::Ready {
                move_id,
                source,
                grant,
                ..
            } => Holding::Ready {
                epoch,
                move_id: *move_id,
                source: *source,
                grant: *grant,
            },
            Stage::Exited(_) => Holding::Exited { epoch },
            Stage::Taken { was, .. } => *was,
        }
    }
}

/// Of a process that is not here yet, or in somebody's hands and has not run here.
fn no_stats() -> Stats {
    Stats {
        state: State::Paused,
        started: SystemTime::UNIX_EPOCH,
        cpu_time: Duration::ZERO,
        memory_bytes: 0,
        memory_bytes_peak: 0,
    }
}
