//! A guest that cannot go on, since what it needs for that could not be made: on a full disk, say. It is held as it was
//! stopped, and that is tried again, on a thread of its own. Meanwhile it can be looked at, paused, moved and killed like one
//! that waits in a host call.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sterna_process::Identity;
use sterna_sys::gate::Verdict;
use sterna_wasi::Wait;

use super::Seat;
use crate::describe;
use crate::guest::{Guest, Stretch};
use crate::installed::{InstallError, Key};
use crate::machine::MachineError;
use crate::wait::wait;

/// How long it is held before it is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// The same at most: each attempt may cost what compiling a program does.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// How long it sleeps while an attempt is made, which wakes it.
const ATTEMPT_LOOK: Duration = Duration::from_secs(60);

/// What a guest is held for.
pub(super) struct Hold {
    keys: Vec<Key>,
    /// Attempts that have failed.
    failed: u32,
    next: Next,
}

/// What it waits for.
enum Next {
    At(Instant),
    Attempt(Receiver<Result<(), InstallError>>),
}

/// Why a guest is not held for the moment.
#[derive(PartialEq, Eq)]
enum Let {
    /// All that it needs is there; or it is not going to be, as it will say.
    GoOn,
    /// Somebody has stopped it where it is.
    Stop,
}

impl Hold {
    /// After a first attempt.
    fn new(who: &Identity, keys: Vec<Key>, why: &InstallError) -> Self {
        tracing::warn!(
            process = %who.process,
            "it is held until what it needs to go on can be made: {}",
            describe::chain(why)
        );
        Self {
            keys,
            failed: 1,
            next: Next::At(Instant::now() + PAUSE),
        }
    }

    fn has_failed(&mut self) {
        let pause = PAUSE.saturating_mul(1 << self.failed.min(10));
        self.next = Next::At(Instant::now() + pause.min(PAUSE_MAX));
        self.failed = self.failed.saturating_add(1);
    }
}

impl Seat {
    /// Runs a guest until it is stopped or ends. As long as what it needs to go on cannot be made it is held.
    pub(super) async fn run(
        &self,
        guest: &mut Guest,
        hold: &mut Option<Hold>,
    ) -> Result<Stretch, MachineError> {
        loop {
            if let Some(held) = hold {
                if self.held(held).await == Let::Stop {
                    return Ok(Stretch::Stopped);
                }
                *hold = None;
            }
            match guest.run().await {
                Err(MachineError::NotReady { keys, source }) if source.may_pass() => {
                    *hold = Some(Hold::new(&self.identity, keys, &source));
                }
                ran => return ran,
            }
        }
    }

    /// Holds a guest, none of whose frames are on a stack.
    async fn held(&self, hold: &mut Hold) -> Let {
        let signals = &*self.signals;
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
            let sleep = match &hold.next {
                Next::At(at) => at.saturating_duration_since(Instant::now()),
                Next::Attempt(made) => match made.try_recv() {
                    Err(TryRecvError::Empty) => ATTEMPT_LOOK,
                    Ok(Err(why)) if why.may_pass() => {
                        hold.has_failed();
                        continue;
                    }
                    _ => return Let::GoOn,
                },
            };
            if sleep.is_zero() {
                self.attempt(hold);
                continue;
            }
            let moment = Wait {
                descriptors: Vec::new(),
                deadline: Some(sleep),
            };
            signals.waiting.store(true, Ordering::Relaxed);
            wait(&moment, Duration::ZERO, &signals.interrupt).await;
            signals.waiting.store(false, Ordering::Relaxed);
        }
    }

    fn attempt(&self, hold: &mut Hold) {
        let (made, attempt) = sync_channel(1);
        let (keys, signals) = (hold.keys.clone(), Arc::clone(&self.signals));
        let installed = self.installed.clone();
        let work = move || {
            if let Some(installed) = installed.upgrade() {
                let _ = made.send(installed.prepare(&keys));
            }
            signals.interrupt.notify_one();
        };
        match thread::Builder::new().name("prepare".into()).spawn(work) {
            Ok(_) => hold.next = Next::Attempt(attempt),
            Err(_) => hold.has_failed(),
        }
    }
}
