//! The target's side of a memory that follows its process: [`Rest`], which puts what comes into its place.
//!
//! ```text
//!  source ══ main connection: what was asked for ══► its thread ── put ──► kind
//!         ══ lanes: all others ════════════════════► theirs ────── put ──► kind
//!         ◄═ Want ══════════════════════════════════════════════ request ─ kind
//! ```
//!
//! It ends once: all has come and is in its place ([`RunnerEvent::Followed`]); or a connection broke, or nothing came for too long,
//! while something was missing: then the process is let go of ([`RunnerEvent::Unfollowed`]); or nobody needs it any more.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use sterna_migration::{Attempt, NodeId, RunnerEvent};
use sterna_process::{PageRun, PageRuns, PageSink, PageSource, PageSourceError};

use crate::channel::{Breaker, Receiver, Sender};
use crate::fault::{self, Midway};
use crate::hosted::{Hosted, Stage};
use crate::leaving::chain;
use crate::left::Left;
use crate::limits::{FOLLOWED_LOOK_EVERY, FOLLOWED_WITHIN, KILL_WITHIN, SETTLE_WITHIN};
use crate::pump::{self, PumpError, RECORD_PAGES, Record};
use crate::role::Role;

/// What is missing of a process's memory.
pub(crate) struct Rest {
    pub(crate) attempt: Attempt,
    pub(crate) source: NodeId,
    role: Weak<Role>,
    hosted: Weak<Hosted>,
    missing: PageRuns,
    state: Mutex<State>,
    changed: Condvar,
    asking: Arc<Mutex<Sender>>,
}

struct State {
    left: Left,
    /// Threads that are putting pages into their place.
    putting: usize,
    /// Whose place: until it is known, nothing is taken.
    sink: Option<Weak<dyn PageSink>>,
    /// For how long nothing has come.
    quiet: Duration,
    end: Option<End>,
    breakers: Vec<Breaker>,
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// All is in its place.
    Whole,
    /// It broke off.
    Broken,
    /// Nobody needs it.
    Closed,
}

impl Rest {
    pub(crate) fn new(
        role: &Arc<Role>,
        hosted: &Arc<Hosted>,
        (attempt, source): (Attempt, NodeId),
        missing: PageRuns,
        asking: Arc<Mutex<Sender>>,
    ) -> Arc<Self> {
        let state = State {
            left: Left::new(&missing),
            putting: 0,
            sink: None,
            quiet: Duration::ZERO,
            end: None,
            breakers: Vec::new(),
        };
        Arc::new(Self {
            attempt,
            source,
            role: Arc::downgrade(role),
            hosted: Arc::downgrade(hosted),
            missing,
            state: Mutex::new(state),
            changed: Condvar::new(),
            asking,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a connection on which pages come.
    pub(crate) fn has(&self, breaker: Breaker) {
        let mut state = self.state();
        match state.end {
            None => state.breakers.push(breaker),
            Some(_) => breaker.hang_up(),
        }
    }

    /// Puts pages that have come into their place. Others than are missing are not taken.
    fn came(self: &Arc<Self>, run: PageRun, contents: Option<&[u8]>) -> Result<(), PumpError> {
        let early = |state: &mut State| state.end.is_none() && state.sink.is_none();
        let waited = self.changed.wait_while(self.state(), early);
        let sink = {
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            if state.end.is_some() {
                return Ok(());
            }
            if state.left.take(run) != [run] {
                drop(state);
                // What was missing of it has been taken, and nobody sends it again.
                self.fail(PumpError::Malformed.to_string());
                return Err(PumpError::Malformed);
            }
            state.quiet = Duration::ZERO;
            state.putting += 1;
            state.sink.as_ref().and_then(Weak::upgrade)
        };
        // A process that has ended has no memory any more.
        let Some(sink) = sink else {
            self.close();
            return Ok(());
        };
        let putting = Putting(self);
        let put = sink.put(run, contents).map_err(|error| chain(&error));
        std::mem::forget(putting);
        self.has_put(put);
        Ok(())
    }

    /// Pages are in their place, or will never be. Decided in one step with whether they were the last: nothing that failed
    /// is taken for whole.
    fn has_put(self: &Arc<Self>, put: Result<(), String>) {
        let is_whole = {
            let mut state = self.state();
            state.putting -= 1;
            if let Err(reason) = put {
                return self.end_broken(state, reason);
            }
            let is_whole = state.end.is_none() && state.putting == 0 && state.left.count() == 0;
            if is_whole {
                state.end = Some(End::Whole);
            }
            is_whole
        };
        if is_whole {
            self.tell_whole();
        }
    }

    /// A connection is gone. If something is missing, it will not come.
    pub(crate) fn broke(self: &Arc<Self>, reason: String) {
        let state = self.state();
        if state.left.count() > 0 {
            self.end_broken(state, reason);
        }
    }

    /// Something will not be in its place.
    fn fail(self: &Arc<Self>, reason: String) {
        self.end_broken(self.state(), reason);
    }

    fn end_broken(self: &Arc<Self>, mut state: MutexGuard<'_, State>, reason: String) {
        if state.end.is_some() {
            return;
        }
        state.end = Some(End::Broken);
        state.hang_up();
        drop(state);
        self.changed.notify_all();
        let rest = Arc::clone(self);
        let started = thread::Builder::new()
            .name("unfollowed".into())
            .spawn(move || rest.let_go(reason));
        if let Err(error) = started {
            tracing::warn!("a process without its memory stands still: {error}");
        }
    }

    /// Nobody needs it any more.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.end.get_or_insert(End::Closed);
        state.hang_up();
        drop(state);
        self.changed.notify_all();
    }

    /// Lets go of the process. Nobody hears that it ended by itself: it did not.
    fn let_go(&self, reason: String) {
        let (Some(role), Some(hosted)) = (self.role.upgrade(), self.hosted.upgrade()) else {
            return;
        };
        hosted.settle(SETTLE_WITHIN);
        let stage = {
            let mut inner = hosted.lock();
            let own = |rest: &mut Arc<Rest>| std::ptr::eq(&**rest, self);
            if inner.rest.take_if(own).is_none() {
                return;
            }
            let was = inner.holding();
            let doing = "being let go";
            std::mem::replace(&mut inner.stage, Stage::Taken { was, doing })
        };
        let ports = hosted.lock().ports.clone();
        ports.iter().for_each(|port| port.cut_off());
        // Only now, when nobody else has the process: it does not hear of its end by itself.
        let reason_told = reason.clone();
        self.tell(Err(PageSourceError::Gone {
            reason: reason_told,
        }));
        match stage {
            Stage::Running(_) => {
                let control = hosted.lock().control.clone();
                let ended = control.map(|control| {
                    control.kill();
                    control.wait(KILL_WITHIN)
                });
                if let Some(None) = ended {
                    tracing::warn!("a process without its memory does not end");
                }
            }
            Stage::Standing(paused) | Stage::Ready { paused, .. } => paused.discard(),
            _ => {}
        }
        role.remove(hosted.id);
        let attempt = self.attempt;
        role.tell(RunnerEvent::Unfollowed { attempt, reason });
    }

    /// All is in its place.
    fn tell_whole(&self) {
        self.changed.notify_all();
        self.tell(Ok(()));
        if let (Some(role), Some(hosted)) = (self.role.upgrade(), self.hosted.upgrade()) {
            hosted
                .lock()
                .rest
                .take_if(|rest| std::ptr::eq(&**rest, self));
            let attempt = self.attempt;
            role.tell(RunnerEvent::Followed { attempt });
        }
    }

    /// Tells whoever waits for pages how it ended.
    fn tell(&self, end: Result<(), PageSourceError>) {
        let sink = self.state().sink.as_ref().and_then(Weak::upgrade);
        if let Some(sink) = sink {
            sink.end(end);
        }
    }

    /// Ends it if nothing comes for too long. Time in which this machine itself stood still does not count.
    fn watch(self: &Arc<Self>) {
        let goes_on = |state: &mut State| state.end.is_none();
        loop {
            let waited =
                self.changed
                    .wait_timeout_while(self.state(), FOLLOWED_LOOK_EVERY, goes_on);
            let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.end.is_some() {
                return;
            }
            // What is here and not yet in its place is not the source's affair.
            if state.putting == 0 {
                state.quiet += FOLLOWED_LOOK_EVERY;
            }
            if state.quiet >= FOLLOWED_WITHIN {
                let reason = format!("the source has sent nothing for {FOLLOWED_WITHIN:?}");
                return self.end_broken(state, reason);
            }
        }
    }
}

/// A thread that puts pages into their place. Should that panic, they are not.
struct Putting<'a>(&'a Arc<Rest>);

impl Drop for Putting<'_> {
    fn drop(&mut self) {
        self.0
            .has_put(Err("a page could not be put into its place".into()));
    }
}

impl State {
    fn hang_up(&mut self) {
        self.breakers
            .drain(..)
            .for_each(|breaker| breaker.hang_up());
    }
}

/// Takes pages of a memory that follows its process, until the connection ends.
pub(crate) fn follow(receiver: &mut Receiver, rest: &Arc<Rest>) {
    let why = loop {
        let taken = match receiver.receive().map_err(PumpError::from) {
            Ok(record) => match Record::read(record) {
                Ok(Record::Pages(run, bytes)) => rest.came(run, Some(bytes)),
                Ok(Record::Zeros(runs)) => {
                    let mut pieces = runs.iter().flat_map(|run| run.pieces(RECORD_PAGES));
                    pieces.try_for_each(|run| rest.came(run, None))
                }
                Ok(_) => Err(PumpError::Malformed),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            break chain(&error);
        }
        fault::point("runner", &Midway::SomeCame);
    };
    rest.broke(why);
}

/// Takes what comes over one more connection of a move, on a thread of its own.
pub(crate) fn receive_lane(
    hosted: &Arc<Hosted>,
    attempt: Attempt,
    mut receiver: Receiver,
) -> Result<(), PumpError> {
    let hosted = Arc::clone(hosted);
    let breaker = receiver.breaker()?;
    // Nothing comes on it before the image has, which takes its time; if that never comes, the arrival ends this.
    receiver.set_patience(None)?;
    if let Stage::Arriving(arrival) = &mut hosted.lock().stage {
        arrival.breakers.push(receiver.breaker()?);
    }
    let taking = move || {
        let arrives = receiver.wait().is_ok();
        let rest = hosted
            .lock()
            .rest
            .clone()
            .filter(|rest| arrives && rest.attempt == attempt);
        drop(hosted);
        match rest {
            Some(rest) => {
                rest.has(breaker);
                follow(&mut receiver, &rest);
            }
            None => breaker.hang_up(),
        }
    };
    thread::Builder::new().name("lane".into()).spawn(taking)?;
    Ok(())
}

/// What a kind is given.
pub(crate) struct Following(pub(crate) Arc<Rest>);

impl PageSource for Following {
    fn missing(&self) -> &PageRuns {
        &self.0.missing
    }

    fn request(&self, runs: &[PageRun]) -> Result<(), PageSourceError> {
        let asked = {
            let mut asking = self.0.asking.lock().unwrap_or_else(PoisonError::into_inner);
            pump::want(&mut asking, runs)
        };
        asked.map_err(|error| {
            let reason = error.to_string();
            self.0.broke(reason.clone());
            PageSourceError::Gone { reason }
        })
    }

    fn connect(&self, sink: Weak<dyn PageSink>) -> Result<(), PageSourceError> {
        let rest = &self.0;
        let watched = Arc::clone(rest);
        let gone = |reason: String| PageSourceError::Gone { reason };
        thread::Builder::new()
            .name("followed".into())
            .spawn(move || watched.watch())
            .map_err(|error| gone(format!("no thread could be started: {error}")))?;
        let is_whole = {
            let mut state = rest.state();
            if state.end.is_some() {
                return Err(gone("the connection to it broke".into()));
            }
            state.sink = Some(sink);
            let is_whole = state.left.count() == 0;
            if is_whole {
                state.end = Some(End::Whole);
            }
            is_whole
        };
        rest.changed.notify_all();
        if is_whole {
            rest.tell_whole();
        }
        Ok(())
    }
}
