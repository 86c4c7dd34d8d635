//! [`Channel`]: what both ends share.

use std::collections::VecDeque;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError, TrySendError};
use std::time::Instant;

use super::SendTimeoutError;
use crate::cancel;
use crate::primitives;
use crate::sync::inside;
use crate::wait::{Cancel, Line, Outcome, Ticket, Waiting};

pub(super) struct Channel<T> {
    capacity: Option<usize>,
    state: primitives::Mutex<State<T>>,
}

struct State<T> {
    items: VecDeque<Item<T>>,
    senders: usize,
    receivers: usize,
    /// Receivers that wait for a value, senders that wait for room.
    receiving: Line,
    sending: Line,
    /// Selects that wait for either. All of them are woken, since they need not take what they were woken for.
    watching_values: Line,
    watching_room: Line,
    /// The next number of a value that is handed over.
    number: u64,
}

struct Item<T> {
    value: T,
    hold: Hold,
}

/// Who has to do with a value in the queue.
enum Hold {
    /// Nobody: it is the queue's.
    None,
    /// Its sender waits until it is received. The number tells it from others.
    Sender(Ticket, u64),
    /// Its sender has given up and will take it back.
    GivenUp(u64),
}

impl<T> Channel<T> {
    pub(super) fn new(capacity: Option<usize>) -> Self {
        Self {
            capacity,
            state: primitives::Mutex::new(State {
                items: VecDeque::new(),
                senders: 1,
                receivers: 1,
                receiving: Line::new(),
                sending: Line::new(),
                watching_values: Line::new(),
                watching_room: Line::new(),
                number: 0,
            }),
        }
    }

    pub(super) fn len(&self) -> usize {
        inside(&self.state).items.len()
    }

    pub(super) fn add_sender(&self) {
        inside(&self.state).senders += 1;
    }

    pub(super) fn add_receiver(&self) {
        inside(&self.state).receivers += 1;
    }

    pub(super) fn remove_sender(&self) {
        let mut state = inside(&self.state);
        state.senders -= 1;
        if state.senders == 0 {
            state.receiving.grant_all();
            state.watching_values.grant_all();
        }
    }

    pub(super) fn remove_receiver(&self) {
        let mut state = inside(&self.state);
        state.receivers -= 1;
        if state.receivers > 0 {
            return;
        }
        state.sending.grant_all();
        state.watching_room.grant_all();
        // Who waits for its value to be received takes it back.
        let mut dropped = Vec::new();
        for item in std::mem::take(&mut state.items) {
            match item.hold {
                Hold::None => dropped.push(item.value),
                Hold::GivenUp(number) | Hold::Sender(_, number) => {
                    if let Hold::Sender(ticket, _) = item.hold {
                        ticket.grant();
                    }
                    state.items.push_back(Item {
                        value: item.value,
                        hold: Hold::GivenUp(number),
                    });
                }
            }
        }
        drop(state);
        drop(dropped);
    }

    fn is_full(&self, state: &State<T>) -> bool {
        self.capacity
            .is_some_and(|capacity| state.items.len() >= capacity)
    }

    pub(super) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let mut state = inside(&self.state);
        if state.receivers == 0 {
            return Err(TrySendError::Disconnected(value));
        }
        if self.capacity == Some(0) {
            // Only to a receiver that waits. If another comes first, that one waits on.
            if !state.receiving.grant_one() {
                return Err(TrySendError::Full(value));
            }
        } else if self.is_full(&state) {
            return Err(TrySendError::Full(value));
        }
        state.push(value, Hold::None);
        Ok(())
    }

    pub(super) fn send(
        &self,
        value: T,
        deadline: Option<Instant>,
    ) -> Result<(), SendTimeoutError<T>> {
        if self.capacity == Some(0) {
            return self.hand_over(value, deadline);
        }
        let mut first_try = true;
        loop {
            let waiting = {
                let mut state = inside(&self.state);
                if state.receivers == 0 {
                    return Err(SendTimeoutError::Disconnected(value));
                }
                if !self.is_full(&state) && (!first_try || state.sending.is_empty()) {
                    state.push(value, Hold::None);
                    return Ok(());
                }
                let waiting = Waiting::begin();
                if first_try {
                    state.sending.push(waiting.ticket(), ());
                } else {
                    state.sending.push_front(waiting.ticket(), ());
                }
                waiting
            };
            first_try = false;
            let outcome = waiting.wait(deadline, Cancel::May);
            if outcome != Outcome::Granted {
                let mut state = inside(&self.state);
                state.sending.remove(waiting);
                // The room that this one did not take is the next one's.
                if !self.is_full(&state) {
                    state.sending.grant_one();
                }
                drop(state);
                if outcome == Outcome::Cancelled {
                    cancel::raise();
                }
                return Err(SendTimeoutError::Timeout(value));
            }
        }
    }

    /// Sends and waits until it is received.
    fn hand_over(&self, value: T, deadline: Option<Instant>) -> Result<(), SendTimeoutError<T>> {
        let (waiting, number) = {
            let mut state = inside(&self.state);
            if state.receivers == 0 {
                return Err(SendTimeoutError::Disconnected(value));
            }
            let waiting = Waiting::begin();
            state.number += 1;
            let number = state.number;
            state.push(value, Hold::Sender(waiting.ticket(), number));
            (waiting, number)
        };
        let outcome = waiting.wait(deadline, Cancel::May);
        let mut state = inside(&self.state);
        if outcome == Outcome::Granted && state.receivers > 0 {
            return Ok(());
        }
        let at = state.items.iter().position(|item| match item.hold {
            Hold::Sender(_, other) | Hold::GivenUp(other) => other == number,
            Hold::None => false,
        });
        let back = at.and_then(|at| state.items.remove(at));
        drop(state);
        if outcome == Outcome::Cancelled {
            drop(back);
            cancel::raise();
        }
        match back {
            None => Ok(()),
            Some(item) if outcome == Outcome::TimedOut => {
                Err(SendTimeoutError::Timeout(item.value))
            }
            Some(item) => Err(SendTimeoutError::Disconnected(item.value)),
        }
    }

    pub(super) fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut state = inside(&self.state);
        match state.take() {
            Some(value) => Ok(value),
            None if state.senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    pub(super) fn recv(&self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
        let mut first_try = true;
        loop {
            let waiting = {
                let mut state = inside(&self.state);
                if let Some(value) = state.take() {
                    return Ok(value);
                }
                if state.senders == 0 {
                    return Err(RecvTimeoutError::Disconnected);
                }
                let waiting = Waiting::begin();
                if first_try {
                    state.receiving.push(waiting.ticket(), ());
                } else {
                    state.receiving.push_front(waiting.ticket(), ());
                }
                waiting
            };
            first_try = false;
            match waiting.wait(deadline, Cancel::May) {
                Outcome::Granted => {}
                Outcome::TimedOut => {
                    inside(&self.state).receiving.remove(waiting);
                    return Err(RecvTimeoutError::Timeout);
                }
                Outcome::Cancelled => {
                    inside(&self.state).receiving.remove(waiting);
                    cancel::raise();
                }
            }
        }
    }

    /// Whether a receive would return at once; if not, it joins the watchers.
    pub(super) fn watch_values(&self, watch: Option<Waiting>) -> bool {
        let mut state = inside(&self.state);
        let ready = state.senders == 0
            || state
                .items
                .iter()
                .any(|item| !matches!(item.hold, Hold::GivenUp(_)));
        if let Some(waiting) = watch.filter(|_| !ready) {
            state.watching_values.push(waiting.ticket(), ());
        }
        ready
    }

    /// Whether a send would return at once; if not, it joins the watchers.
    pub(super) fn watch_room(&self, watch: Option<Waiting>) -> bool {
        let mut state = inside(&self.state);
        let room = match self.capacity {
            Some(0) => !state.receiving.is_empty(),
            _ => !self.is_full(&state),
        };
        let ready = state.receivers == 0 || room;
        if let Some(waiting) = watch.filter(|_| !ready) {
            state.watching_room.push(waiting.ticket(), ());
        }
        ready
    }

    pub(super) fn unwatch(&self, waiting: Waiting) {
        let mut state = inside(&self.state);
        state.watching_values.remove(waiting);
        state.watching_room.remove(waiting);
    }
}

impl<T> State<T> {
    fn push(&mut self, value: T, hold: Hold) {
        self.items.push_back(Item { value, hold });
        self.receiving.grant_one();
        self.watching_values.grant_all();
    }

    /// The first value that nobody has taken back.
    fn take(&mut self) -> Option<T> {
        let mut at = 0;
        while let Some(item) = self.items.get_mut(at) {
            let free = match std::mem::replace(&mut item.hold, Hold::None) {
                Hold::None => true,
                Hold::Sender(ticket, number) => {
                    let waits = ticket.grant();
                    if !waits {
                        item.hold = Hold::GivenUp(number);
                    }
                    waits
                }
                Hold::GivenUp(number) => {
                    item.hold = Hold::GivenUp(number);
                    false
                }
            };
            if free {
                let item = self.items.remove(at)?;
                self.sending.grant_one();
                self.watching_room.grant_all();
                return Some(item.value);
            }
            at += 1;
        }
        // Somebody waits here now: room for a channel without any.
        self.watching_room.grant_all();
        None
    }
}
