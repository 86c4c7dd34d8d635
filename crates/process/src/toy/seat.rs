//! Where a toy process sits: the one place in which its owner, its watchers and its thread meet.
//!
//! The thread owns the machine while it runs. It gives it back through [`Standing::parked`] when it is asked to
//! pause, so whoever holds a machine knows that nobody runs it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

use super::machine::{Machine, Step, Wait, is_ready};
use super::memory::ToyMemory;
use crate::binding::{Attachment, Binding, By};
use crate::control::{Controls, Exit, State, Stats};
use crate::description::{Description, FrameDescription, FrameKind};
use crate::error::DescribeError;
use crate::memory::Memory;
use crate::process::Identity;
use crate::waypoint::Waypoint;

/// How long the thread waits for output or pages before it looks again whether it is asked to stop.
const WAIT_MS: u32 = 5;
/// After so many instructions, the CPU time is noted and pages that were pushed unasked are taken in.
const ACCOUNT_EVERY: u64 = 1024;
const PAGES_LOST: &str = "pages of memory were lost with the machine that held them";

pub(super) struct Seat {
    pub(super) identity: Identity,
    pub(super) started: SystemTime,
    pub(super) memory: Arc<ToyMemory>,
    /// After so many instructions the thread waits until it is asked to pause; it does not pause earlier.
    pub(super) waits_after: Option<u64>,
    cpu_ns: AtomicU64,
    /// The next instruction, for those who look.
    position: AtomicU64,
    /// Set with a wish other than [`Wish::Run`], so that the thread need not lock to see that there is none.
    attention: AtomicBool,
    standing: Mutex<Standing>,
    /// Notified after each change of `standing`.
    changed: Condvar,
}

pub(super) struct Standing {
    wish: Wish,
    state: State,
    exit: Option<Exit>,
    parked: Option<Machine>,
}

#[derive(PartialEq, Eq)]
enum Wish {
    Run,
    /// At one of these instructions, or at any.
    Pause(Option<BTreeSet<Waypoint>>),
    Kill,
}

impl Wish {
    /// Whether a pause was wished for, but not at this instruction.
    fn pauses_elsewhere(&self, next: u64) -> bool {
        matches!(self, Wish::Pause(Some(ready)) if !ready.contains(&Waypoint(next)))
    }
}

/// What came of asking for a pause.
pub(super) enum Asked {
    Parked(Machine),
    Exited(Exit),
    TimedOut,
}

impl Seat {
    pub(super) fn new(
        identity: Identity,
        memory: Arc<ToyMemory>,
        waits_after: Option<u64>,
        clocks: (SystemTime, Duration),
    ) -> Self {
        Self {
            identity,
            started: clocks.0,
            memory,
            waits_after,
            cpu_ns: AtomicU64::new(clocks.1.as_nanos().try_into().unwrap_or(u64::MAX)),
            position: AtomicU64::new(0),
            attention: AtomicBool::new(false),
            standing: Mutex::new(Standing {
                wish: Wish::Run,
                state: State::Paused,
                exit: None,
                parked: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Runs the machine on a thread of its own, unless the process has been killed.
    pub(super) fn start(self: &Arc<Self>, machine: Machine) -> std::io::Result<()> {
        self.position
            .store(machine.registers.next, Ordering::Relaxed);
        let mut standing = self.standing();
        if standing.exit.is_none() {
            standing.state = State::Running;
            let seat = Arc::clone(self);
            thread::Builder::new()
                .name("toy".into())
                .spawn(move || seat.run(machine))?;
        }
        Ok(())
    }

    /// Waits until it stands still: at one of these instructions, or at any.
    pub(super) fn pause(&self, ready: Option<BTreeSet<Waypoint>>, within: Duration) -> Asked {
        let mut standing = self.standing();
        if standing.wish == Wish::Run {
            self.wish(&mut standing, Wish::Pause(ready));
        }
        let waiting =
            |standing: &mut Standing| standing.exit.is_none() && standing.parked.is_none();
        let waited = self.changed.wait_timeout_while(standing, within, waiting);
        let (mut standing, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(machine) = standing.parked.take() {
            return Asked::Parked(machine);
        }
        if let Some(exit) = standing.exit.clone() {
            return Asked::Exited(exit);
        }
        if let Wish::Pause(_) = standing.wish {
            self.wish(&mut standing, Wish::Run);
        }
        Asked::TimedOut
    }

    /// Ends the process, if it has not ended before.
    pub(super) fn end(&self, exit: Exit) {
        let mut standing = self.standing();
        standing.state = State::Ended;
        standing.exit.get_or_insert(exit);
        self.changed.notify_all();
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        self.standing().exit.clone()
    }

    /// The next instruction; `None` if there is none any more.
    pub(super) fn position(&self) -> Option<u64> {
        let ended = self.standing().state == State::Ended;
        (!ended).then(|| self.position.load(Ordering::Relaxed))
    }

    pub(super) fn cpu_time(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns.load(Ordering::Relaxed))
    }

    pub(super) fn description(&self, kind: FrameKind) -> Description {
        let frame = FrameDescription {
            function: 0,
            name: Some("main".into()),
            offset: self.position.load(Ordering::Relaxed),
            at: kind,
        };
        let output = Binding::new(Some(1), "standard output", By::Type, Attachment::Fixed);
        Description {
            frames: vec![frame],
            bindings: vec![output],
            ..Description::default()
        }
    }

    /// The thread.
    fn run(&self, mut machine: Machine) {
        let clock = || {
            let now = clock_gettime(ClockId::ThreadCPUTime);
            Duration::new(
                now.tv_sec.try_into().unwrap_or(0),
                now.tv_nsec.try_into().unwrap_or(0),
            )
        };
        let before = self.cpu_time();
        loop {
            let registers = &machine.registers;
            self.position.store(registers.next, Ordering::Relaxed);
            let waits_here = self.waits_after == Some(registers.executed);
            let stops = waits_here || self.attention.load(Ordering::Acquire);
            let accounts = registers.executed.is_multiple_of(ACCOUNT_EVERY);
            if stops || accounts {
                let total = (before + clock()).as_nanos().try_into().unwrap_or(u64::MAX);
                self.cpu_ns.store(total, Ordering::Relaxed);
                if accounts && self.memory.is_lost() {
                    return self.end(self.trap(PAGES_LOST));
                }
            }
            if stops {
                machine = match self.obey(machine, waits_here) {
                    Some(machine) => machine,
                    None => return,
                };
            }
            match machine.step() {
                Step::Done => {}
                Step::Wait(wait) => {
                    if let Err(trap) = self.wait_for(&machine, &wait) {
                        return self.end(trap);
                    }
                }
                Step::Halt(code) => return self.end(Exit::Code(code)),
                Step::Trap(what) => return self.end(self.trap(what)),
            }
        }
    }

    /// Does what is wished for: gives the machine back if it is to run on.
    fn obey(&self, machine: Machine, waits_here: bool) -> Option<Machine> {
        let mut standing = self.standing();
        let next = machine.registers.next;
        if waits_here {
            let idle = |standing: &mut Standing| {
                standing.wish == Wish::Run || standing.wish.pauses_elsewhere(next)
            };
            standing = self
                .changed
                .wait_while(standing, idle)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let early = self
            .waits_after
            .is_some_and(|after| machine.registers.executed < after);
        match standing.wish {
            Wish::Run => return Some(machine),
            Wish::Pause(_) if early || standing.wish.pauses_elsewhere(next) => {
                return Some(machine);
            }
            Wish::Pause(_) => {
                standing.state = State::Paused;
                standing.parked = Some(machine);
                self.wish(&mut standing, Wish::Run);
            }
            Wish::Kill => {
                drop(standing);
                self.end(Exit::Killed);
            }
        }
        None
    }

    fn wait_for(&self, machine: &Machine, wait: &Wait) -> Result<(), Exit> {
        self.standing().state = State::Waiting;
        match wait {
            Wait::Output => {
                if let Some(output) = &machine.output {
                    is_ready(output, WAIT_MS);
                }
            }
            Wait::Page(page) => {
                let within = Duration::from_millis(WAIT_MS.into());
                if self.memory.fetch(*page, within).is_err() {
                    return Err(self.trap(PAGES_LOST));
                }
            }
        }
        self.standing().state = State::Running;
        Ok(())
    }

    fn trap(&self, what: &str) -> Exit {
        let back_trace = self
            .description(FrameKind::Stopped)
            .back_trace()
            .to_string();
        Exit::Trapped {
            what: what.into(),
            back_trace,
        }
    }

    fn wish(&self, standing: &mut Standing, wish: Wish) {
        self.attention.store(wish != Wish::Run, Ordering::Release);
        standing.wish = wish;
        self.changed.notify_all();
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Controls for Seat {
    fn kill(&self) {
        let mut standing = self.standing();
        if standing.state == State::Paused {
            drop(standing);
            self.end(Exit::Killed);
        } else if standing.exit.is_none() {
            self.wish(&mut standing, Wish::Kill);
        }
    }

    fn stats(&self) -> Stats {
        let memory_bytes = self.memory.layout().bytes();
        Stats {
            state: self.standing().state,
            started: self.started,
            cpu_time: self.cpu_time(),
            memory_bytes,
            memory_bytes_peak: memory_bytes, // it never shrinks
        }
    }

    fn wait(&self, within: Duration) -> Option<Exit> {
        let lives = |standing: &mut Standing| standing.exit.is_none();
        let waited = self
            .changed
            .wait_timeout_while(self.standing(), within, lives);
        waited
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .exit
            .clone()
    }

    fn describe(&self, _within: Duration) -> Result<Description, DescribeError> {
        match self.standing().state {
            State::Ended => Err(DescribeError::Ended),
            State::Waiting => Ok(self.description(FrameKind::HostCall)),
            State::Running | State::Paused => Ok(self.description(FrameKind::Stopped)),
        }
    }
}
