//! A guest that cannot go on, since what it needs for that could not be made: on a full disk, say. It is held as it was
//! stopped, and tries again. Until then it can be looked at, paused, moved and killed like one that waits in a host call.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sterna_process::Identity;
use sterna_sys::gate::Verdict;
use sterna_wasi::Wait;

use super::Seat;
use crate::describe;
use crate::installed::InstallError;
use crate::wait::wait;

/// How long it is held after the first attempt. Each further attempt may cost what compiling a program does.
const PAUSE: Duration = Duration::from_millis(500);
/// How long it is held at most.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// How often a guest has been held since it ran last.
#[derive(Default)]
pub(super) struct Holds(u32);

/// Why a guest is not held any longer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Let {
    TryAgain,
    /// Somebody has stopped it where it is.
    Stop,
}

impl Holds {
    /// How long it is to be held, because of `why`.
    pub(super) fn next(&mut self, who: &Identity, why: &InstallError) -> Duration {
        if self.0 == 0 {
            tracing::warn!(
                process = %who.process,
                "it is held until what it needs to go on can be made: {}",
                describe::chain(why)
            );
        }
        let pause = PAUSE.saturating_mul(1 << self.0.min(10)).min(PAUSE_MAX);
        self.0 += 1;
        pause
    }
}

impl Seat {
    /// Holds a guest, none of whose frames are on a stack, for `pause` or until it is stopped.
    pub(super) async fn held(&self, pause: Duration) -> Let {
        let signals = &*self.signals;
        let until = Instant::now() + pause;
        loop {
            let killed = signals.killed.load(Ordering::Acquire);
            if killed || signals.unwinding.load(Ordering::Acquire) {
                return Let::Stop;
            }
            if signals.gate.is_requested() {
                // All its frames are among the outer ones.
                let mut calls = signals.calls.lock().unwrap_or_else(PoisonError::into_inner);
                *calls = Some(Vec::new());
                drop(calls);
                if signals.gate.arrive(None) == Verdict::Unwind {
                    return Let::Stop;
                }
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Let::TryAgain;
            }
            let moment = Wait {
                descriptors: Vec::new(),
                deadline: Some(left),
            };
            signals.waiting.store(true, Ordering::Relaxed);
            wait(&moment, Duration::ZERO, &signals.interrupt).await;
            signals.waiting.store(false, Ordering::Relaxed);
        }
    }
}
