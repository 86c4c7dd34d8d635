//! A process of the kind as its owner has it: running, or standing still.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sterna_process::image::{Image, ImageHeader, Section, Sections};
use sterna_process::{
    CaptureError, Control, Controls, Memory, PauseRefused, Paused, Pausing, Plain, Process,
    Running, State, Stats, Waypoint,
};
use sterna_wasi::Wasi;

use crate::describe;
use crate::guest::Guest;
use crate::portable::{FRAMES, STATE, VERSION, WASI};
use crate::seat::{Asked, Seat, Unseen};

pub(crate) fn running(seat: Arc<Seat>) -> Running {
    let control = Control::new(seat.clone());
    Running {
        process: Box::new(Sitting { seat }),
        control,
    }
}

struct Sitting {
    seat: Arc<Seat>,
}

impl Process for Sitting {
    fn memory(&self) -> Arc<dyn Memory> {
        self.seat.pages.clone()
    }

    fn waypoints(&self, within: Duration) -> Result<Vec<Waypoint>, PauseRefused> {
        // Who looks is about to stop it, and it runs meanwhile.
        self.seat.warm();
        self.seat.look(within).map_err(|unseen| match unseen {
            Unseen::Ended => PauseRefused::Ended,
            Unseen::TimedOut => PauseRefused::TimedOut { within },
            Unseen::Busy => busy(),
            Unseen::Unknown => PauseRefused::Immovable {
                reason: "it cannot be seen where it stands".into(),
            },
        })
    }

    fn pause(self: Box<Self>, within: Duration) -> Pausing {
        let asked = self.seat.park(within);
        self.paused(asked, within)
    }

    fn pause_among(self: Box<Self>, ready: &BTreeSet<Waypoint>, within: Duration) -> Pausing {
        let asked = self.seat.park_among(ready, within);
        self.paused(asked, within)
    }
}

impl Sitting {
    fn paused(self: Box<Self>, asked: Asked, within: Duration) -> Pausing {
        match asked {
            Asked::Parked => Pausing::Paused(Box::new(Standing {
                seat: self.seat,
                guest: Held::Parked,
            })),
            Asked::Exited(exit) => Pausing::Exited(exit),
            Asked::TimedOut => Pausing::Refused(self, PauseRefused::TimedOut { within }),
            Asked::Busy => Pausing::Refused(self, busy()),
        }
    }
}

fn busy() -> PauseRefused {
    PauseRefused::Immovable {
        reason: "it is being stopped by somebody else: try again".into(),
    }
}

/// A process that stands still.
pub(crate) struct Standing {
    pub(crate) seat: Arc<Seat>,
    pub(crate) guest: Held,
}

/// Who has its guest.
pub(crate) enum Held {
    /// Its thread, parked with the stack intact.
    Parked,
    /// We, unwound.
    Here(Box<Guest>),
    /// Nobody any more.
    Gone,
}

impl Standing {
    fn unwound(&mut self) -> Result<&mut Guest, CaptureError> {
        if let Held::Parked = self.guest {
            self.guest = match self.seat.take() {
                Some(guest) => Held::Here(Box::new(guest)),
                None => Held::Gone,
            };
        }
        match &mut self.guest {
            Held::Here(guest) if self.seat.exit().is_none() => Ok(guest),
            _ => Err(CaptureError::Killed),
        }
    }
}

impl Paused for Standing {
    fn memory(&self) -> Arc<dyn Memory> {
        self.seat.pages.clone()
    }

    fn stats(&self) -> Stats {
        Stats {
            state: State::Paused,
            ..self.seat.stats()
        }
    }

    fn capture(&mut self) -> Result<Image, CaptureError> {
        let seat = self.seat.clone();
        let guest = self.unwound()?;
        let failed = |error: crate::portable::PortableError| CaptureError::Uncapturable {
            what: describe::chain(&error),
            remedy: "let it run on and try again later".into(),
        };
        let wasi = guest
            .store
            .data()
            .wasi
            .as_ref()
            .map(Wasi::capture)
            .transpose();
        let wasi = wasi.map_err(|error| uncapturable(&error))?;
        let frames = guest.frames().map_err(failed)?;
        let state = guest.state(
            nanoseconds_since_epoch(seat.started),
            nanoseconds(seat.cpu.read()),
        );
        let state = state.map_err(failed)?;
        let mut sections = Sections::new();
        sections.push(Section::encode(FRAMES, VERSION, &frames)?)?;
        sections.push(Section::encode(STATE, VERSION, &state)?)?;
        sections.push(Section::encode(WASI, VERSION, &wasi)?)?;
        Ok(Image {
            header: ImageHeader {
                kind: guest.kind(),
                program: seat.program,
                process: seat.identity.process,
                epoch: seat.identity.epoch,
                layout: seat.pages.layout(),
            },
            description: describe::guest(guest),
            sections,
        })
    }

    fn resume(mut self: Box<Self>) -> Running {
        match std::mem::replace(&mut self.guest, Held::Gone) {
            Held::Parked => self.seat.unpark(),
            Held::Here(guest) => self.seat.start(*guest),
            Held::Gone => {}
        }
        running(self.seat.clone())
    }

    fn discard(self: Box<Self>) {}
}

/// What the process has open that cannot be put into an image, and why.
fn uncapturable(error: &sterna_wasi::CaptureError) -> CaptureError {
    let open =
        |one: &sterna_wasi::Unmovable| format!("descriptor {} ({})", one.number, Plain(&one.label));
    let why = error.0.first().map_or("", |first| first.why);
    CaptureError::Uncapturable {
        what: error.0.iter().map(open).collect::<Vec<_>>().join(", "),
        remedy: format!("it {why}"),
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.guest, Held::Gone) {
            Held::Parked => self.seat.depart(true),
            Held::Here(guest) => {
                drop(guest);
                self.seat.depart(false);
            }
            Held::Gone => {}
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn nanoseconds_since_epoch(time: SystemTime) -> u64 {
    nanoseconds(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}
