//! Where a process sits: what its owner, its watchers and the thread that runs it share.
//!
//! While the guest runs, the task has it. To be captured it is stopped ([`crate::stop`]), unwinds, and is
//! left here; from then on whoever takes it has it.

mod held;
mod look;

pub(crate) use look::Unseen;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use sterna_process::{
    Controls, DescribeError, Description, Exit, Identity, MemoryError, MemoryLayout, PageSource,
    ProgramId, State, Stats,
};
use sterna_sys::gate::Verdict;

use crate::cpu::{CpuMeter, Limited};
use crate::describe;
use crate::exit::{exit_of, exit_of_panic};
use crate::guest::{Guest, Stretch};
use crate::installed::Installed;
use crate::outer::Outer;
use crate::pages::GuestPages;
use crate::pool::{Pool, Shift, queue_again};
use crate::stop::{Signals, Stopper, Stopping};

pub(crate) struct Seat {
    pub(crate) identity: Identity,
    pub(crate) program: ProgramId,
    pub(crate) started: SystemTime,
    pub(crate) pages: Arc<GuestPages>,
    pub(crate) stopper: Arc<Stopper>,
    pub(crate) cpu: Arc<CpuMeter>,
    signals: Arc<Signals>,
    /// Its guest has it while it lives.
    installed: Weak<Installed>,
    outer: Arc<Outer>,
    memory_peak: AtomicU64,
    standing: Mutex<Standing>,
    changed: Condvar,
    /// Held by whoever stops the guest, so that one at a time does.
    stopping: Mutex<()>,
}

#[derive(Default)]
struct Standing {
    paused: bool,
    /// What the task is to do with a guest that has been stopped.
    wanted: Option<Wanted>,
    /// Whether it has been told to unwind and queue, and has not done so yet. Nobody may stop it meanwhile: it could
    /// stand still with half of its frames saved.
    gives_way: bool,
    described: Option<Description>,
    left: Option<Guest>,
    /// Whether its owner has the guest: no thread does.
    taken: bool,
    departed: bool,
    /// The limit that it broke, if it is killed for that.
    broke: Option<String>,
    exit: Option<Exit>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Leave,
    Describe,
}

/// What came of asking for a pause.
pub(crate) enum Asked {
    Parked,
    Exited(Exit),
    TimedOut,
    Busy,
}

impl Seat {
    pub(crate) fn new(
        identity: Identity,
        program: ProgramId,
        started: SystemTime,
        cpu: Arc<CpuMeter>,
        guest: &Guest,
    ) -> Arc<Seat> {
        let host = guest.store.data();
        Arc::new(Seat {
            identity,
            program,
            started,
            pages: guest.pages.clone(),
            stopper: guest.stopper.clone(),
            cpu,
            signals: host.signals.clone(),
            installed: Arc::downgrade(&guest.machine.installed),
            outer: guest.machine.outer.clone(),
            memory_peak: AtomicU64::new(0),
            standing: Mutex::default(),
            changed: Condvar::new(),
            stopping: Mutex::new(()),
        })
    }

    /// How the process ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.standing().exit.clone()
    }

    /// Says that its guest has not run yet: its owner has it.
    pub(crate) fn hold(&self) {
        self.standing().taken = true;
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets pages come after the guest, which has not run yet; if they do not, it ends.
    pub(crate) fn follow(
        self: &Arc<Self>,
        layout: &MemoryLayout,
        rest: Box<dyn PageSource>,
    ) -> Result<(), MemoryError> {
        let seat = Arc::downgrade(self);
        let lost = move || seat.upgrade().into_iter().for_each(|seat| seat.kill());
        self.pages.follow(layout, rest, self.signals.clone(), lost)
    }

    /// Lets the guest run, unless the process has ended meanwhile.
    pub(crate) fn start(self: &Arc<Self>, guest: Guest) {
        self.stopper.open(0);
        let mut standing = self.standing();
        standing.paused = false;
        standing.taken = false;
        if standing.exit.is_some() {
            return;
        }
        drop(standing);
        if self.signals.killed.load(Ordering::Acquire) {
            self.end(Exit::Killed);
            return;
        }
        let seat = self.clone();
        Pool::global().start(self.clone(), async move { seat.work(guest).await });
    }

    async fn work(self: Arc<Self>, mut guest: Guest) {
        let _contained = Contained(&self);
        let mut hold = None;
        loop {
            if let Some(wasi) = &mut guest.store.data_mut().wasi {
                wasi.start_clock();
            }
            let exit = match self.run(&mut guest, &mut hold).await {
                Ok(Stretch::Finished) if guest.is_killed() => Exit::Killed,
                Ok(Stretch::Finished) => Exit::Code(0),
                Ok(Stretch::Stopped) => match self.stopped(guest) {
                    Next::Run(stopped) => {
                        guest = stopped;
                        continue;
                    }
                    Next::Queue(stopped) => {
                        guest = stopped;
                        queue_again().await;
                        continue;
                    }
                    Next::Nothing => return,
                    Next::End(exit) => {
                        self.end(exit);
                        return;
                    }
                },
                Err(error) => exit_of(&mut guest, error),
            };
            // The last descriptors are closed before anybody hears of the end.
            drop(guest);
            self.end(exit);
            return;
        }
    }

    /// What becomes of a guest that has been stopped and has unwound.
    fn stopped(&self, mut guest: Guest) -> Next {
        let mut standing = self.standing();
        if guest.is_killed() {
            return Next::End(Exit::Killed);
        }
        if standing.departed {
            return Next::End(Exit::Departed);
        }
        self.stopper.open(0);
        if std::mem::take(&mut standing.gives_way) {
            // Its clock runs on: it waits for a thread as for anything else.
            self.changed.notify_all();
            return Next::Queue(guest);
        }
        if let Some(wasi) = &mut guest.store.data_mut().wasi {
            wasi.stop_clock();
        }
        match standing.wanted.take() {
            Some(Wanted::Leave) => {
                standing.left = Some(guest);
                self.changed.notify_all();
                Next::Nothing
            }
            Some(Wanted::Describe) => {
                standing.described = Some(describe::guest(&mut guest));
                self.changed.notify_all();
                Next::Run(guest)
            }
            None => Next::Run(guest),
        }
    }

    fn end(&self, exit: Exit) {
        self.signals.gate.close();
        self.pages.give_up();
        let mut standing = self.standing();
        let exit = match standing.broke.take() {
            _ if standing.departed => Exit::Departed,
            Some(what) if exit == Exit::Killed => Exit::Trapped {
                what,
                back_trace: String::new(),
            },
            _ => exit,
        };
        standing.exit.get_or_insert(exit);
        self.changed.notify_all();
    }

    /// Makes the guest stand still, its stack intact.
    pub(crate) fn park(&self, within: Duration) -> Asked {
        let until = Instant::now() + within;
        let _one = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        let stopping = self.stop(until);
        self.asked(stopping)
    }

    /// What came of stopping the guest. The caller holds `stopping`.
    fn asked(&self, stopping: Stopping) -> Asked {
        match stopping {
            Stopping::Parked if self.signals.killed.load(Ordering::Acquire) => {
                self.stopper.release(Verdict::Unwind);
                Asked::Exited(self.wait_for_exit())
            }
            Stopping::Parked => {
                self.standing().paused = true;
                Asked::Parked
            }
            Stopping::Ended => Asked::Exited(self.wait_for_exit()),
            Stopping::TimedOut => Asked::TimedOut,
            Stopping::Busy => Asked::Busy,
        }
    }

    /// Brings the guest to a stop. The caller holds `stopping`.
    fn stop(&self, until: Instant) -> Stopping {
        let left = || until.saturating_duration_since(Instant::now());
        let gives_way = |standing: &mut Standing| standing.gives_way && standing.exit.is_none();
        let waited = self
            .changed
            .wait_timeout_while(self.standing(), left(), gives_way);
        let (standing, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(standing);
        if waited.timed_out() {
            return Stopping::TimedOut;
        }
        self.stopper.stop(left())
    }

    fn wait_for_exit(&self) -> Exit {
        let mut standing = self.standing();
        loop {
            match &standing.exit {
                Some(exit) => return exit.clone(),
                None => {
                    standing = self
                        .changed
                        .wait(standing)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }

    /// Lets a parked guest go on.
    pub(crate) fn unpark(&self) {
        // Nobody tells it to give way, or stops it, between the two: the word would be cleared after it was set.
        let _one = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        self.standing().paused = false;
        self.release();
    }

    /// Makes a parked guest unwind and takes it; `None` if it was killed.
    pub(crate) fn take(&self) -> Option<Guest> {
        self.standing().wanted = Some(Wanted::Leave);
        self.stopper.release(Verdict::Unwind);
        let mut standing = self.standing();
        loop {
            if let Some(guest) = standing.left.take() {
                standing.taken = true;
                return Some(guest);
            }
            if standing.exit.is_some() {
                return None;
            }
            standing = self
                .changed
                .wait(standing)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the process here because it lives on elsewhere. `parked`: its thread still holds it.
    pub(crate) fn depart(&self, parked: bool) {
        self.standing().departed = true;
        self.pages.give_up();
        if parked {
            self.stopper.release(Verdict::Unwind);
        } else {
            self.end(Exit::Departed);
        }
    }
}

/// What its task does next.
enum Next {
    Run(Guest),
    /// Others go first.
    Queue(Guest),
    /// Its owner has it.
    Nothing,
    End(Exit),
}

/// Ends the process if its task panics.
struct Contained<'s>(&'s Seat);

impl Drop for Contained<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(exit_of_panic());
        }
    }
}

impl Shift for Seat {
    fn begin(&self) {
        self.cpu.begin();
    }

    fn end(&self) {
        self.cpu.end();
    }

    fn give_way(&self) {
        // Whoever stops it takes it off its thread too.
        let Ok(_one) = self.stopping.try_lock() else {
            return;
        };
        let mut standing = self.standing();
        if standing.paused || standing.taken || standing.exit.is_some() {
            return;
        }
        standing.gives_way = true;
        drop(standing);
        self.stopper.hurry();
    }
}

impl Limited for Seat {
    fn has_ended(&self) -> bool {
        self.standing().exit.is_some()
    }

    fn end_for(&self, what: String) {
        self.standing().broke = Some(what);
        self.kill();
    }
}

impl Controls for Seat {
    fn kill(&self) {
        self.signals.killed.store(true, Ordering::SeqCst);
        let taken = {
            let standing = self.standing();
            standing.taken || standing.left.is_some()
        };
        if taken {
            self.end(Exit::Killed);
            return;
        }
        self.stopper.hurry();
        // If it is parked, it unwinds and sees that it was killed. If it is just about to park, whoever
        // stops it sees that.
        self.stopper.release(Verdict::Unwind);
        // It may wait for a page. What it finds instead is for nobody: it sees the word next.
        self.pages.give_up();
    }

    fn stats(&self) -> Stats {
        let standing = self.standing();
        let state = if standing.exit.is_some() {
            State::Ended
        } else if standing.paused || standing.taken {
            State::Paused
        } else if self.signals.waiting.load(Ordering::Relaxed) {
            State::Waiting
        } else {
            State::Running
        };
        drop(standing);
        let memory_bytes = self.pages.bytes();
        let memory_bytes_peak = self
            .memory_peak
            .fetch_max(memory_bytes, Ordering::Relaxed)
            .max(memory_bytes);
        Stats {
            state,
            started: self.started,
            cpu_time: self.cpu.read(),
            memory_bytes,
            memory_bytes_peak,
        }
    }

    fn wait(&self, within: Duration) -> Option<Exit> {
        let standing = self.standing();
        let running = |standing: &mut Standing| standing.exit.is_none();
        let waited = self.changed.wait_timeout_while(standing, within, running);
        waited
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .exit
            .clone()
    }

    fn describe(&self, within: Duration) -> Result<Description, DescribeError> {
        let until = Instant::now() + within;
        let _one = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut standing = self.standing();
            if standing.exit.is_some() {
                return Err(DescribeError::Ended);
            }
            if standing.paused || standing.taken {
                return Err(DescribeError::Failed {
                    doing: "look at the process",
                    source: "it is paused: whoever paused it can capture it, or let it go on"
                        .into(),
                });
            }
            // Of an earlier look that came too late.
            standing.described = None;
        }
        match self.stop(until) {
            Stopping::Parked => {}
            Stopping::Ended => return Err(DescribeError::Ended),
            Stopping::TimedOut | Stopping::Busy => return Err(DescribeError::TimedOut { within }),
        }
        self.standing().wanted = Some(Wanted::Describe);
        self.stopper.release(Verdict::Unwind);
        let standing = self.standing();
        let waiting =
            |standing: &mut Standing| standing.described.is_none() && standing.exit.is_none();
        let left = until
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(100));
        let waited = self.changed.wait_timeout_while(standing, left, waiting);
        let mut standing = waited.unwrap_or_else(PoisonError::into_inner).0;
        match standing.described.take() {
            Some(description) => Ok(description),
            None if standing.exit.is_some() => Err(DescribeError::Ended),
            None => Err(DescribeError::TimedOut { within }),
        }
    }
}
