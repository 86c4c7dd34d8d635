//! Time as the machines know it: [`Time`] comes in with every event, and `Repeat` says when to try again.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use crate::limits::Limits;

/// A moment on the clock of whoever drives the machines, in microseconds since a beginning of its choice. It
/// must not go backwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The beginning.
    pub const ZERO: Self = Self(0);

    /// So many microseconds after the beginning.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The time that has passed since `earlier`; none if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06} s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// When to say something again, with pauses that double up to [`Limits::repeat_max`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repeat {
    at: Time,
    pause: Duration,
}

impl Repeat {
    /// It was said now for the first time.
    pub(crate) fn after(now: Time, limits: &Limits) -> Self {
        let pause = limits.repeat_first;
        Self {
            at: now + pause,
            pause,
        }
    }

    /// When it is due.
    pub(crate) const fn at(&self) -> Time {
        self.at
    }

    /// Whether it is due now; then the next pause begins.
    pub(crate) fn is_due(&mut self, now: Time, limits: &Limits) -> bool {
        let due = now >= self.at;
        if due {
            self.pause = (self.pause * 2).min(limits.repeat_max);
            self.at = now + self.pause;
        }
        due
    }
}
