//! Looking where a running guest stands, and stopping it at a moment at which it stands well: see [`crate::stack`].
//!
//! The guest is stopped with its stack intact and goes on afterwards as if nothing had been: nothing is unwound, so nothing
//! is needed to go on.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use sterna_process::{WAYPOINTS_MAX, Waypoint};
use sterna_sys::gate::Verdict;

use super::{Asked, Seat};
use crate::installed::Installed;
use crate::pass::Spot;
use crate::stack::Unknown;
use crate::stop::Stopping;

/// How long a guest runs between two looks while it is to be stopped at a good moment.
const CHECK_EVERY: Duration = Duration::from_micros(100);
/// The same for one that waits in a host call and is found where it was: it may do so for hours.
const CHECK_EVERY_MAX: Duration = Duration::from_millis(5);

/// Why it is not known where a guest stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unseen {
    Ended,
    TimedOut,
    Busy,
    Unknown,
}

impl Seat {
    /// Where the guest stands right now, innermost frame first, each place once.
    pub(crate) fn look(&self, within: Duration) -> Result<Vec<Waypoint>, Unseen> {
        let mut seen = BTreeSet::new();
        let mut waypoints = Vec::new();
        self.look_at(within, &mut |spot| {
            if seen.insert(spot) {
                waypoints.push(spot.waypoint());
            }
            if seen.len() > WAYPOINTS_MAX {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if waypoints.len() > WAYPOINTS_MAX {
            return Err(Unseen::Unknown);
        }
        Ok(waypoints)
    }

    fn look_at(
        &self,
        within: Duration,
        see: &mut dyn FnMut(Spot) -> ControlFlow<()>,
    ) -> Result<(), Unseen> {
        let until = Instant::now() + within;
        let installed = self.installed_to_look()?;
        let _one = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        self.signals.looked_at.store(true, Ordering::Release);
        let stopping = self.stop(until);
        self.signals.looked_at.store(false, Ordering::Release);
        match stopping {
            Stopping::Parked => {}
            Stopping::Ended => return Err(Unseen::Ended),
            Stopping::TimedOut => return Err(Unseen::TimedOut),
            Stopping::Busy => return Err(Unseen::Busy),
        }
        let seen = self.walk(&installed, see);
        self.release();
        seen.map(drop).map_err(
            |Unknown| match self.signals.killed.load(Ordering::Acquire) {
                // It was stopped on its way to its end.
                true => Unseen::Ended,
                false => Unseen::Unknown,
            },
        )
    }

    /// Makes the guest stand still, its stack intact, at a moment at which all its frames are at places in `ready`.
    pub(crate) fn park_among(&self, ready: &BTreeSet<Waypoint>, within: Duration) -> Asked {
        let until = Instant::now() + within;
        let mut pause = CHECK_EVERY;
        let Ok(installed) = self.installed_to_look() else {
            return self.park(within);
        };
        loop {
            let one = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
            self.signals.looked_at.store(true, Ordering::Release);
            let stopping = self.stop(until);
            self.signals.looked_at.store(false, Ordering::Release);
            if stopping != Stopping::Parked {
                return self.asked(stopping);
            }
            let mut is_ready = |spot: Spot| match ready.contains(&spot.waypoint()) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            };
            if let Ok(ControlFlow::Continue(())) = self.walk(&installed, &mut is_ready) {
                return self.asked(Stopping::Parked);
            }
            let waits = self.stopper.waits();
            self.release();
            drop(one);
            if Instant::now() >= until {
                return Asked::TimedOut;
            }
            std::thread::sleep(pause);
            pause = if waits {
                (pause * 2).min(CHECK_EVERY_MAX)
            } else {
                CHECK_EVERY
            };
        }
    }

    /// As [`Seat::park`]; then [`Seat::walk`] shows where the guest stands.
    #[cfg(test)]
    pub(crate) fn park_to_look(&self, within: Duration) -> Asked {
        let _one = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        self.signals.looked_at.store(true, Ordering::Release);
        let stopping = self.stop(Instant::now() + within);
        self.signals.looked_at.store(false, Ordering::Release);
        self.asked(stopping)
    }

    /// The program, while the process lives.
    #[cfg(test)]
    pub(crate) fn installed(&self) -> Option<Arc<Installed>> {
        self.installed.upgrade()
    }

    /// Has what a stop will need read before it.
    pub(crate) fn warm(&self) {
        if let Some(installed) = self.installed.upgrade() {
            installed.warm();
        }
    }

    /// The program, with all that a look needs: nobody stands still while it is made.
    fn installed_to_look(&self) -> Result<Arc<Installed>, Unseen> {
        let installed = self.installed.upgrade().ok_or(Unseen::Ended)?;
        match installed.ready_to_look() {
            Ok(()) => Ok(installed),
            Err(error) => {
                tracing::warn!(%error, "it cannot be seen where a process stands");
                Err(Unseen::Unknown)
            }
        }
    }

    /// Shows `see` where the frames of the parked guest stand, innermost first, until it breaks off.
    pub(crate) fn walk(
        &self,
        installed: &Installed,
        see: &mut dyn FnMut(Spot) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Unknown> {
        if self.stopper.walk(installed, see)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        Ok(self.outer.spots().into_iter().try_for_each(see))
    }

    /// Lets the parked guest go on, or end if it was killed.
    pub(super) fn release(&self) {
        let killed = self.signals.killed.load(Ordering::Acquire);
        self.stopper.release(if killed {
            Verdict::Unwind
        } else {
            Verdict::Continue
        });
    }
}
