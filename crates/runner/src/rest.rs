//! The target's side of a memory that follows its process: [`Rest`], from which the kind takes what is missing.
//!
//! ```text
//!  source ══ main connection: what was asked for ══► first  ─┐
//!         ══ lanes: all others ════════════════════► waiting ┴─ completed ──► kind
//!         ◄═ Want ══════════════════════════════════════════════ request ──── kind
//! ```
//!
//! It ends once: all has come and is in its place ([`RunnerEvent::Followed`]); or a connection broke, or nothing came for too long,
//! while something was missing: then the process is let go of ([`RunnerEvent::Unfollowed`]); or nobody needs it any more.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use sterna_migration::{Attempt, NodeId, RunnerEvent};
use sterna_process::{Arrival, PageRun, PageRuns, PageSet, PageSource, PageSourceError};

use crate::channel::{Breaker, Receiver, Sender};
use crate::fault::{self, Midway};
use crate::hosted::{Hosted, Stage};
use crate::leaving::chain;
use crate::left::Left;
use crate::limits::{FOLLOWED_WAITING_MAX, FOLLOWED_WITHIN, KILL_WITHIN, SETTLE_WITHIN};
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
    first: VecDeque<PageSet>,
    waiting: VecDeque<PageSet>,
    /// For how long the kind has waited in vain.
    quiet: Duration,
    end: Option<End>,
    breakers: Vec<Breaker>,
}

/// How it ended.
#[derive(Clone, PartialEq, Eq)]
enum End {
    /// All is in its place.
    Whole,
    /// It broke off. The kind is told when the process was taken away from all others.
    Broken { reason: String, is_told: bool },
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
            first: VecDeque::new(),
            waiting: VecDeque::new(),
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

    /// Some pages have come: those that were asked for go `first`. Others than are missing are not taken.
    pub(crate) fn came(
        &self,
        run: PageRun,
        bytes: Option<&[u8]>,
        first: bool,
    ) -> Result<(), PumpError> {
        let full = |state: &mut State| {
            state.end.is_none() && state.queue(first).len() >= FOLLOWED_WAITING_MAX
        };
        let waited = self.changed.wait_while(self.state(), full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let taken = state.left.take(run);
        if taken != [run] {
            return Err(PumpError::Malformed);
        }
        let mut set = PageSet::new();
        let zeros;
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => {
                zeros = vec![0; run.bytes() as usize];
                &zeros
            }
        };
        set.insert(run, bytes)?;
        state.quiet = Duration::ZERO;
        state.queue(first).push_back(set);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// A connection is gone, or the other end is silent. If something is missing, it will not come.
    pub(crate) fn broke(self: &Arc<Self>, reason: String) {
        let mut state = self.state();
        if state.end.is_some() || state.left.count() == 0 {
            return;
        }
        let is_told = false;
        state.end = Some(End::Broken {
            reason: reason.clone(),
            is_told,
        });
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
        if let Some(End::Broken { is_told, .. }) = &mut self.state().end {
            *is_told = true;
        }
        self.changed.notify_all();
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
    fn is_whole(&self) {
        {
            let mut state = self.state();
            if state.end.is_some() {
                return;
            }
            state.end = Some(End::Whole);
        }
        if let (Some(role), Some(hosted)) = (self.role.upgrade(), self.hosted.upgrade()) {
            hosted
                .lock()
                .rest
                .take_if(|rest| std::ptr::eq(&**rest, self));
            let attempt = self.attempt;
            role.tell(RunnerEvent::Followed { attempt });
        }
    }
}

impl State {
    /// Pieces that came because they were asked for, or others: each of these waits to be put in its place.
    fn queue(&mut self, first: bool) -> &mut VecDeque<PageSet> {
        match first {
            true => &mut self.first,
            false => &mut self.waiting,
        }
    }

    fn hang_up(&mut self) {
        self.first.clear();
        self.waiting.clear();
        self.breakers
            .drain(..)
            .for_each(|breaker| breaker.hang_up());
    }
}

/// Takes pages of a memory that follows its process, until the connection ends; of the main one, those that were asked for.
pub(crate) fn follow(receiver: &mut Receiver, rest: &Arc<Rest>, is_main: bool) {
    let why = loop {
        let taken = match receiver.receive().map_err(PumpError::from) {
            Ok(record) => match Record::read(record) {
                Ok(Record::Pages(run, bytes)) => rest.came(run, Some(bytes), is_main),
                Ok(Record::Zeros(runs)) => {
                    let mut pieces = runs.iter().flat_map(|run| run.pieces(RECORD_PAGES));
                    pieces.try_for_each(|run| rest.came(run, None, is_main))
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
                follow(&mut receiver, &rest, false);
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

    fn completed(&self, within: Duration) -> Result<Arrival, PageSourceError> {
        let nothing = |state: &mut State| match &state.end {
            Some(End::Broken { is_told, .. }) => !is_told,
            Some(_) => false,
            None => state.first.is_empty() && state.waiting.is_empty() && state.left.count() > 0,
        };
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.0.state(), within, nothing);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        match &state.end {
            Some(End::Whole) => return Ok(Arrival::Done),
            Some(End::Broken { is_told: false, .. }) => return Ok(Arrival::Nothing),
            Some(End::Broken { reason, .. }) => {
                return Err(PageSourceError::Gone {
                    reason: reason.clone(),
                });
            }
            Some(End::Closed) => {
                return Err(PageSourceError::Gone {
                    reason: "nobody needs them".into(),
                });
            }
            None => {}
        }
        let pages = match state.first.pop_front() {
            Some(pages) => Some(pages),
            None => state.waiting.pop_front(),
        };
        if let Some(pages) = pages {
            drop(state);
            self.0.changed.notify_all();
            return Ok(Arrival::Pages(pages));
        }
        if state.left.count() == 0 {
            drop(state);
            self.0.is_whole();
            return Ok(Arrival::Done);
        }
        if waited.timed_out() {
            // Time in which this machine itself stood still does not count.
            state.quiet += within;
            if state.quiet >= FOLLOWED_WITHIN {
                drop(state);
                self.0.broke(format!(
                    "the source has sent nothing for {FOLLOWED_WITHIN:?}"
                ));
            }
        }
        Ok(Arrival::Nothing)
    }
}
