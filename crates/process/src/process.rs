//! The traits of a process: what a *kind* implements so that everything else can move its processes.
//!
//! ```text
//!            Kind::spawn                                  Kind::prepare            (before any image exists)
//!                │                                             │
//!                ▼                                             ▼
//!        Running{Process, Control}                         Incoming ◄── pages, while the original runs
//!                │ ▲                                           │
//!   Process::pause │ Paused::resume                            │ Incoming::finish(image, …)
//!                ▼ │                                           ▼
//!              Paused ── capture ──► Image ── · · · ──►      Paused ── resume ──► Running
//!                │
//!                └─ discard: it lives on elsewhere
//! ```
//!
//! **Moving is ownership.** Each step consumes what it starts from, so a process that was captured cannot also
//! run on: a [`Paused`] is either resumed or discarded. Between machines, [`Epoch`] does the same.
//!
//! **Blocking, with bounds.** The methods block, and those that wait take the longest time they may. Asynchronous
//! callers run them on threads of their own; that keeps async runtimes out of the kinds, whose work
//! (unwinding stacks, copying memory) is not I/O.
//!
//! **No default bodies.** A kind that forgets a part does not compile, rather than lose state in silence.
//!
//! The smallest complete kind is [`toy`](crate::toy).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::control::{Control, Exit, Stats};
use crate::environment::{Environment, Resources};
use crate::error::{CaptureError, PauseRefused, PrepareError, RestoreError, SpawnError};
use crate::id::{Epoch, ProcessId, ProgramId, Tag};
use crate::image::Image;
use crate::memory::{Memory, MemoryLayout, PageSource};
use crate::waypoint::Waypoint;

/// What a process is started from.
#[derive(Debug, Clone)]
pub struct Program {
    id: ProgramId,
    bytes: Option<Arc<[u8]>>,
}

impl Program {
    /// The program with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self {
            id: ProgramId::of(&bytes),
            bytes: Some(bytes),
        }
    }

    /// A program that its kind already has, by its name: nothing needs to be read or hashed.
    #[must_use]
    pub const fn installed(id: ProgramId) -> Self {
        Self { id, bytes: None }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> ProgramId {
        self.id
    }

    /// Its bytes, unless it is only named.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        self.bytes.as_deref()
    }
}

/// Which process a new one is, and in which epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub process: ProcessId,
    /// How often it has changed its owner.
    pub epoch: Epoch,
}

impl Identity {
    /// A process that did not exist before.
    #[must_use]
    pub fn new() -> Self {
        Self {
            process: ProcessId::random(),
            epoch: Epoch::FIRST,
        }
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self::new()
    }
}

/// A sort of process that can be run and moved: wasm programs, containers, virtual machines.
///
/// A kind knows no node, no network and no strategy of moving, and no other kind.
pub trait Kind: Send + Sync {
    /// Its name, which images carry.
    fn name(&self) -> Tag;

    /// Starts a program. It runs when this returns.
    ///
    /// # Errors
    /// If the program is not one of this kind, cannot be moved (where that was asked for), goes beyond a
    /// limit, or lacks something in its environment.
    fn spawn(
        &self,
        identity: Identity,
        program: &Program,
        environment: Environment,
    ) -> Result<Running, SpawnError>;

    /// Makes room for a process that is to arrive, before there is any image of it: its memory begins as the
    /// program alone gives it, so that only other pages need be installed.
    ///
    /// # Errors
    /// If the program is not known or the layout does not fit it or the target's limits.
    fn prepare(
        &self,
        program: &Program,
        layout: &MemoryLayout,
    ) -> Result<Box<dyn Incoming>, PrepareError>;

    /// Makes ready what a process of this program needs to go on from these places, so that
    /// [`Incoming::finish`] need not: by compiling, if it must, so that this may take seconds. A process that stands
    /// elsewhere goes on all the same, later.
    ///
    /// The waypoints come from another machine and may be anything.
    ///
    /// # Errors
    /// If the program is not known, a waypoint is none of its, or there are more than
    /// [`WAYPOINTS_MAX`](crate::WAYPOINTS_MAX). What was made ready until then stays.
    fn anticipate(&self, program: &Program, waypoints: &[Waypoint]) -> Result<(), PrepareError>;
}

/// A process that is about to arrive. Dropping it gives the attempt up.
pub trait Incoming: Send {
    /// Where its pages go while the original still runs elsewhere.
    fn memory(&self) -> Arc<dyn Memory>;

    /// Whether it can run before all of its pages have come: [`finish`](Incoming::finish) takes a `rest`.
    fn can_follow(&self) -> bool;

    /// Makes the process from all but its pages. They are installed already, or `rest` brings those that are
    /// still missing (post-copy). Regions get the lengths in the image's layout.
    ///
    /// The process is tied to `resources` and to nothing else; the image's bindings only say which of them it
    /// looks for. It becomes the process that `image.header` names: who makes a clone gives it a new name
    /// before.
    ///
    /// # Errors
    /// If the image is of another kind or program, has sections that are unknown, of an unknown version or
    /// left over, or the resources lack what it needs. Nothing has run then.
    fn finish(
        self: Box<Self>,
        image: Image,
        resources: Resources,
        rest: Option<Box<dyn PageSource>>,
    ) -> Result<Box<dyn Paused>, RestoreError>;
}

/// A process that runs, and the handle for those who do not own it.
pub struct Running {
    /// The process: whoever has it may move it.
    pub process: Box<dyn Process>,
    /// The handle. It stays valid when the process is paused and resumed here.
    pub control: Control,
}

/// A running process. Dropping it lets the process run on without an owner: it cannot be moved any more, only
/// watched and killed through its [`Control`].
pub trait Process: Send {
    /// Its memory, which can be read while it runs.
    fn memory(&self) -> Arc<dyn Memory>;

    /// Where it stands right now: the places of its frames, innermost first, each named once. It is held up
    /// for microseconds and runs on; nothing is made to go on from there.
    ///
    /// # Errors
    /// [`PauseRefused`], if it cannot be looked at, has ended, or came to no point at which it can be within the
    /// given time.
    fn waypoints(&self, within: Duration) -> Result<Vec<Waypoint>, PauseRefused>;

    /// Makes it stand still, within the given time.
    fn pause(self: Box<Self>, within: Duration) -> Pausing;

    /// Makes it stand still at a moment at which all its frames are at places in `ready`. If there is none within the
    /// given time, it is refused with [`PauseRefused::TimedOut`] and runs on.
    fn pause_among(self: Box<Self>, ready: &BTreeSet<Waypoint>, within: Duration) -> Pausing;
}

/// What came of [`Process::pause`] or [`Process::pause_among`].
pub enum Pausing {
    /// It stands still.
    Paused(Box<dyn Paused>),
    /// It had ended before.
    Exited(Exit),
    /// It runs on, and why.
    Refused(Box<dyn Process>, PauseRefused),
}

/// A process that stands still between two instructions: only now can it be captured. Dropping it ends it as
/// [`Paused::discard`] does; better say so.
pub trait Paused: Send {
    /// Its memory. The pages that an image needs beside [`Paused::capture`] are [`Memory::changed`].
    fn memory(&self) -> Arc<dyn Memory>;

    /// What it has used, here and wherever it was before.
    fn stats(&self) -> Stats;

    /// Everything but the pages. May be called again, with the same result.
    ///
    /// # Errors
    /// If something in the process cannot be moved, or it was killed; it can still be resumed.
    fn capture(&mut self) -> Result<Image, CaptureError>;

    /// Lets it run on here: the move failed, or the capture was for a clone or a snapshot.
    fn resume(self: Box<Self>) -> Running;

    /// Ends it here, since it lives on elsewhere. Who waits for it gets [`Exit::Departed`].
    fn discard(self: Box<Self>);
}
