//! The smallest complete kind of process, as an example for the others and for tests of what moves them.
//!
//! A toy is a machine of eight registers whose instructions and data are in its memory and which runs on a
//! thread. It can be paused between any two instructions, and while it waits; it has two memory regions, one of
//! which grows; it notes its dirty pages; and it can arrive before its pages do. Other kinds do the same with an
//! engine, an address space or a virtual CPU in place of the machine.
//!
//! - [`program`](ToyProgram): what its programs are
//! - `memory`: pages, dirty and missing ones
//! - `machine`: one instruction
//! - `seat`: where owner, watchers and thread meet
//!
//! ```
//! use std::time::Duration;
//! use sterna_process::toy::{Toy, ToyProgram};
//! use sterna_process::*;
//!
//! let program = Program::from_bytes(ToyProgram::sums(100).encode());
//! let toy = Toy::waiting_after(200); // so that the example catches it half-way
//! let running = toy.spawn(Identity::new(), &program, Environment::default())?;
//!
//! // At the source: it stands still, and becomes bytes.
//! let Pausing::Paused(mut paused) = running.process.pause(Duration::from_secs(10)) else {
//!     panic!("it waits to be paused");
//! };
//! let image = paused.capture()?;
//! let memory = paused.memory();
//! let pages = PageSet::read_from(&*memory, &memory.changed()?)?;
//!
//! // At the target: room, then pages, then the rest; then one of the two is let go.
//! let incoming = Toy::new().prepare(&program, &image.header.layout)?;
//! pages.install_into(&*incoming.memory())?;
//! let arrived = incoming.finish(image, Resources::default(), None)?;
//! paused.discard();
//! let exit = arrived.resume().control.wait(Duration::from_secs(10));
//! assert_eq!(exit, Some(Exit::Code(0)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod machine;
mod memory;
mod program;
mod seat;

pub use program::{CODE, DATA, Instruction, ToyProgram};

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::control::{Control, Controls, Exit, State, Stats};
use crate::description::FrameKind;
use crate::environment::{Environment, Resources};
use crate::error::{CaptureError, PauseRefused, PrepareError, RestoreError, SpawnError};
use crate::id::{ProgramId, Tag};
use crate::image::{Image, ImageHeader, Section, Sections};
use crate::memory::{Memory, MemoryLayout, PageSource};
use crate::process::{Identity, Incoming, Kind, Paused, Pausing, Process, Program, Running};
use crate::waypoint::{WAYPOINTS_MAX, Waypoint};
use machine::{Machine, Registers};
use memory::ToyMemory;
use seat::{Asked, Seat};

const KIND: Tag = Tag::new("toy");
const REGISTERS: Tag = Tag::new("toy.registers");
const CLOCKS: Tag = Tag::new("toy.clocks");
const VERSION: u16 = 1;

/// The toy kind. See the [module](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct Toy {
    waits_after: Option<u64>,
}

impl Toy {
    /// Toys that run freely.
    #[must_use]
    pub const fn new() -> Self {
        Self { waits_after: None }
    }

    /// Toys that wait after so many instructions until somebody pauses or kills them, and cannot be paused
    /// before, so that a test can catch them at any point it chooses.
    #[must_use]
    pub const fn waiting_after(instructions: u64) -> Self {
        Self {
            waits_after: Some(instructions),
        }
    }
}

/// The times in an image.
#[derive(Serialize, Deserialize)]
struct Clocks {
    started: SystemTime,
    cpu_time: Duration,
}

impl Kind for Toy {
    fn name(&self) -> Tag {
        KIND
    }

    fn spawn(
        &self,
        identity: Identity,
        program: &Program,
        environment: Environment,
    ) -> Result<Running, SpawnError> {
        let bytes = program.bytes().ok_or(SpawnError::UnknownProgram {
            program: program.id(),
        })?;
        let wrong = |reason| SpawnError::NotAProgram { kind: KIND, reason };
        let memory = ToyProgram::decode(bytes)
            .and_then(|program| ToyMemory::of(&program))
            .map_err(wrong)?;
        let (needed, limit) = (
            memory.layout().bytes(),
            environment.resources.limits.memory_bytes_max,
        );
        if needed > limit {
            return Err(SpawnError::OverLimit {
                what: "bytes of memory",
                needed,
                limit,
            });
        }
        let memory = Arc::new(memory);
        let output = environment.resources.stdio.output.map(File::from);
        let machine = Machine {
            registers: Registers::default(),
            memory: Arc::clone(&memory),
            output,
        };
        let clocks = (SystemTime::now(), Duration::ZERO);
        let seat = Arc::new(Seat::new(identity, memory, self.waits_after, clocks));
        let failed = |source: std::io::Error| SpawnError::Failed {
            doing: "start a thread",
            source: source.into(),
        };
        seat.start(machine).map_err(failed)?;
        Ok(ToyProcess {
            program: program.id(),
            seat,
        }
        .running())
    }

    fn prepare(
        &self,
        program: &Program,
        layout: &MemoryLayout,
    ) -> Result<Box<dyn Incoming>, PrepareError> {
        let bytes = program.bytes().ok_or(PrepareError::UnknownProgram {
            program: program.id(),
        })?;
        let wrong = |reason| PrepareError::Layout { reason };
        let memory = ToyProgram::decode(bytes)
            .and_then(|program| ToyMemory::of(&program))
            .map_err(wrong)?;
        memory.resize(layout).map_err(wrong)?;
        let memory = Arc::new(memory);
        Ok(Box::new(ToyIncoming {
            program: program.id(),
            memory,
            waits_after: self.waits_after,
        }))
    }

    /// A toy goes on from anywhere: there is nothing to make, only to check.
    fn anticipate(&self, program: &Program, waypoints: &[Waypoint]) -> Result<(), PrepareError> {
        let bytes = program.bytes().ok_or(PrepareError::UnknownProgram {
            program: program.id(),
        })?;
        let (needed, limit) = (waypoints.len() as u64, WAYPOINTS_MAX as u64);
        if needed > limit {
            return Err(PrepareError::OverLimit {
                what: "waypoints",
                needed,
                limit,
            });
        }
        let program = ToyProgram::decode(bytes).map_err(|reason| PrepareError::Failed {
            doing: "read the program",
            source: reason.into(),
        })?;
        let instructions = program.code.len() as u64;
        match waypoints.iter().find(|place| place.0 >= instructions) {
            Some(&waypoint) => Err(PrepareError::Waypoint { waypoint }),
            None => Ok(()),
        }
    }
}

struct ToyIncoming {
    program: ProgramId,
    memory: Arc<ToyMemory>,
    waits_after: Option<u64>,
}

impl Incoming for ToyIncoming {
    fn memory(&self) -> Arc<dyn Memory> {
        Arc::clone(&self.memory) as _
    }

    fn can_follow(&self) -> bool {
        true
    }

    fn finish(
        self: Box<Self>,
        image: Image,
        resources: Resources,
        rest: Option<Box<dyn PageSource>>,
    ) -> Result<Box<dyn Paused>, RestoreError> {
        let Self {
            program,
            memory,
            waits_after,
        } = *self;
        let Image {
            header,
            mut sections,
            ..
        } = image;
        if header.kind != KIND {
            return Err(RestoreError::WrongKind {
                found: header.kind,
                expected: KIND,
            });
        }
        if header.program != program {
            return Err(RestoreError::WrongProgram {
                found: header.program,
                expected: program,
            });
        }
        let registers: Registers = sections.require(&REGISTERS, VERSION..=VERSION)?.decode()?;
        let clocks: Clocks = sections.require(&CLOCKS, VERSION..=VERSION)?.decode()?;
        sections.finish()?;
        let (used, limit) = (header.layout.bytes(), resources.limits.memory_bytes_max);
        if used > limit {
            return Err(RestoreError::OverLimit {
                what: "bytes of memory",
                used,
                limit,
            });
        }
        memory
            .resize(&header.layout)
            .map_err(|reason| RestoreError::Inconsistent { reason })?;
        if let Some(rest) = rest {
            memory.attach(rest)?;
        }
        let identity = Identity {
            process: header.process,
            epoch: header.epoch,
        };
        let output = resources.stdio.output.map(File::from);
        let clocks = (clocks.started, clocks.cpu_time);
        let seat = Arc::new(Seat::new(
            identity,
            Arc::clone(&memory),
            waits_after,
            clocks,
        ));
        let machine = Machine {
            registers,
            memory,
            output,
        };
        Ok(Box::new(ToyPaused {
            program,
            seat,
            machine: Some(machine),
        }))
    }
}

struct ToyProcess {
    program: ProgramId,
    seat: Arc<Seat>,
}

impl ToyProcess {
    fn running(self) -> Running {
        let control = Control::new(Arc::clone(&self.seat) as _);
        Running {
            process: Box::new(self),
            control,
        }
    }
}

impl Process for ToyProcess {
    fn memory(&self) -> Arc<dyn Memory> {
        Arc::clone(&self.seat.memory) as _
    }

    /// Its waypoints are the numbers of its instructions.
    fn waypoints(&self, _within: Duration) -> Result<Vec<Waypoint>, PauseRefused> {
        match self.seat.position() {
            Some(next) => Ok(vec![Waypoint(next)]),
            None => Err(PauseRefused::Ended),
        }
    }

    fn pause(self: Box<Self>, within: Duration) -> Pausing {
        self.pause_where(None, within)
    }

    fn pause_among(self: Box<Self>, ready: &BTreeSet<Waypoint>, within: Duration) -> Pausing {
        self.pause_where(Some(ready.clone()), within)
    }
}

impl ToyProcess {
    fn pause_where(
        self: Box<Self>,
        ready: Option<BTreeSet<Waypoint>>,
        within: Duration,
    ) -> Pausing {
        match self.seat.pause(ready, within) {
            Asked::Parked(machine) => {
                let Self { program, seat } = *self;
                Pausing::Paused(Box::new(ToyPaused {
                    program,
                    seat,
                    machine: Some(machine),
                }))
            }
            Asked::Exited(exit) => Pausing::Exited(exit),
            Asked::TimedOut => Pausing::Refused(self, PauseRefused::TimedOut { within }),
        }
    }
}

struct ToyPaused {
    program: ProgramId,
    seat: Arc<Seat>,
    /// There until it is resumed or discarded.
    machine: Option<Machine>,
}

impl Paused for ToyPaused {
    fn memory(&self) -> Arc<dyn Memory> {
        Arc::clone(&self.seat.memory) as _
    }

    fn stats(&self) -> Stats {
        Stats {
            state: State::Paused,
            ..self.seat.stats()
        }
    }

    fn capture(&mut self) -> Result<Image, CaptureError> {
        let machine = self.machine.as_ref().filter(|_| self.seat.exit().is_none());
        let registers = &machine.ok_or(CaptureError::Killed)?.registers;
        let clocks = Clocks {
            started: self.seat.started,
            cpu_time: self.seat.cpu_time(),
        };
        let mut sections = Sections::new();
        sections.push(Section::encode(REGISTERS, VERSION, registers)?)?;
        sections.push(Section::encode(CLOCKS, VERSION, &clocks)?)?;
        let header = ImageHeader {
            kind: KIND,
            program: self.program,
            process: self.seat.identity.process,
            epoch: self.seat.identity.epoch,
            layout: self.seat.memory.layout(),
        };
        Ok(Image {
            header,
            description: self.seat.description(FrameKind::Stopped),
            sections,
        })
    }

    fn resume(mut self: Box<Self>) -> Running {
        let seat = Arc::clone(&self.seat);
        if let Some(machine) = self.machine.take()
            && let Err(error) = seat.start(machine)
        {
            let what = format!("no thread to run on: {error}");
            seat.end(Exit::Trapped {
                what,
                back_trace: String::new(),
            });
        }
        ToyProcess {
            program: self.program,
            seat,
        }
        .running()
    }

    fn discard(self: Box<Self>) {} // see `drop`
}

impl Drop for ToyPaused {
    fn drop(&mut self) {
        if self.machine.is_some() {
            self.seat.end(Exit::Departed);
        }
    }
}
