//! Waiting for one grant: what every primitive of this package that blocks is built on.
//!
//! A thread begins a [`Waiting`], puts its [`Ticket`] into one or more queues, and waits. Who has what it waits for
//! grants the ticket. The thread's own word decides between a grant and giving up, so exactly one of them happens:
//!
//! ```text
//!  number of the wait, shifted by two │ 0 waiting, 1 granted, 2 abandoned
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::cancel::Ending;
use crate::here;
use crate::primitives::atomic::Ordering;
use crate::record::Record;

const GRANTED: u64 = 1;
const ABANDONED: u64 = 2;

/// A thread's place in a queue.
pub(crate) struct Ticket {
    record: Arc<Record>,
    word: u64,
}

/// The same, in the hands of the thread that waits.
#[derive(Clone, Copy)]
pub(crate) struct Waiting {
    word: u64,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Granted,
    TimedOut,
    /// Clean up, then call [`crate::cancel::raise`].
    Cancelled,
}

/// Whether cancellation may end a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancel {
    May,
    /// Others rely on its end.
    MayNot,
}

impl Ticket {
    /// Lets the thread go on. False if it has given up or was granted something else.
    pub(crate) fn grant(self) -> bool {
        let granted = self.record.wait.compare_exchange(
            self.word,
            self.word | GRANTED,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if granted.is_ok() {
            self.record.wake_owned();
        }
        granted.is_ok()
    }

    /// Whether this is the ticket of `waiting`, which must be the running thread's.
    pub(crate) fn is_of(&self, waiting: Waiting) -> bool {
        self.word == waiting.word
            && here::with_record(|record| std::ptr::eq(record, Arc::as_ptr(&self.record)))
    }
}

impl Waiting {
    /// The running thread's next wait.
    #[inline]
    pub(crate) fn begin() -> Self {
        here::with_record(|record| {
            let word = ((record.wait.load(Ordering::Relaxed) >> 2) + 1) << 2;
            record.wait.store(word, Ordering::Release);
            Self { word }
        })
    }

    /// To be put into a queue.
    #[inline]
    pub(crate) fn ticket(self) -> Ticket {
        Ticket {
            record: here::record_to_queue(),
            word: self.word,
        }
    }

    /// Waits for the grant.
    pub(crate) fn wait(self, deadline: Option<Instant>, cancel: Cancel) -> Outcome {
        let mut ending = Ending::default();
        loop {
            let end = here::with_record(|record| {
                if record.wait.load(Ordering::Acquire) != self.word {
                    return Some(Outcome::Granted);
                }
                if cancel == Cancel::May && ending.is_due(record) {
                    return Some(self.abandon(record, Outcome::Cancelled));
                }
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    return Some(self.abandon(record, Outcome::TimedOut));
                }
                None
            });
            match end {
                Some(outcome) => return outcome,
                None => here::block(deadline),
            }
        }
    }

    fn abandon(self, record: &Record, why: Outcome) -> Outcome {
        let abandoned = record.wait.compare_exchange(
            self.word,
            self.word | ABANDONED,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if abandoned.is_ok() {
            why
        } else {
            Outcome::Granted
        }
    }

    /// Ends the wait from the thread's own side, without having blocked.
    pub(crate) fn give_up(self) {
        here::with_record(|record| self.abandon(record, Outcome::TimedOut));
    }
}

/// Threads that wait, in the order of their coming, each with what it waits for.
pub(crate) struct Line<W = ()>(VecDeque<(Ticket, W)>);

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Line<W> {
    pub(crate) const fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(crate) fn push(&mut self, ticket: Ticket, what: W) {
        self.0.push_back((ticket, what));
    }

    pub(crate) fn push_front(&mut self, ticket: Ticket, what: W) {
        self.0.push_front((ticket, what));
    }

    /// What the first waits for, who may have given up.
    pub(crate) fn first(&self) -> Option<&W> {
        self.0.front().map(|(_, what)| what)
    }

    /// Takes the first out and grants it. False if it has given up, or there is none.
    pub(crate) fn grant_first(&mut self) -> bool {
        self.0.pop_front().is_some_and(|(ticket, _)| ticket.grant())
    }

    /// Grants the first that still waits. False if there is none.
    pub(crate) fn grant_one(&mut self) -> bool {
        while !self.0.is_empty() {
            if self.grant_first() {
                return true;
            }
        }
        false
    }

    /// Grants all that still wait. False if there are none.
    pub(crate) fn grant_all(&mut self) -> bool {
        let any = self.grant_one();
        while self.grant_one() {}
        any
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes out who gave up.
    pub(crate) fn remove(&mut self, waiting: Waiting) {
        self.0.retain(|(ticket, _)| !ticket.is_of(waiting));
    }
}
