//! [`Select`]: waiting for several channels at once.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::state::Channel;
use super::{Receiver, Sender};
use crate::cancel;
use crate::wait::{Cancel, Outcome, Waiting};

/// Waits until one of several operations would not wait. Then try it: another thread may have been faster, and the
/// select begins again.
///
/// ```
/// use sterna_threads::sync::channel::{Select, unbounded};
/// let (sender, numbers) = unbounded::<u32>();
/// let (_words_sender, words) = unbounded::<String>();
/// sender.send(7)?;
/// let mut select = Select::new();
/// let from_numbers = select.recv(&numbers);
/// let _from_words = select.recv(&words);
/// if select.ready() == from_numbers {
///     assert_eq!(numbers.try_recv(), Ok(7));
/// }
/// # Ok::<(), std::sync::mpsc::SendError<u32>>(())
/// ```
///
/// A channel bounded to 0 is ready for sending only while a receiver waits in `recv`, not in another select.
pub struct Select<'a> {
    operations: Vec<Box<dyn Operation + 'a>>,
    /// Where the next look begins, so that no channel starves another.
    start: usize,
}

crate::thread_local! {
    /// Drawn last by this thread (xorshift64). Of its own, so that what is drawn does not depend on other threads.
    static DRAWN: Cell<u64> = Cell::new(0x9e37_79b9_7f4a_7c15);
}

fn draw() -> usize {
    DRAWN.with(|drawn| {
        let mut number = drawn.get();
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        drawn.set(number);
        number as usize
    })
}

trait Operation {
    fn ready(&self, watch: Option<Waiting>) -> bool;
    fn unwatch(&self, waiting: Waiting);
}

struct Receive<'a, T>(&'a Channel<T>);

impl<T> Operation for Receive<'_, T> {
    fn ready(&self, watch: Option<Waiting>) -> bool {
        self.0.watch_values(watch)
    }

    fn unwatch(&self, waiting: Waiting) {
        self.0.unwatch(waiting);
    }
}

struct Send<'a, T>(&'a Channel<T>);

impl<T> Operation for Send<'_, T> {
    fn ready(&self, watch: Option<Waiting>) -> bool {
        self.0.watch_room(watch)
    }

    fn unwatch(&self, waiting: Waiting) {
        self.0.unwatch(waiting);
    }
}

impl Default for Select<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Select<'a> {
    /// Without operations, which is never ready. Of several that are, one is chosen by lot, and then the others in turn: so all of
    /// them have theirs, also if a select is made anew for each wait.
    pub fn new() -> Self {
        Self {
            operations: Vec::new(),
            start: draw(),
        }
    }

    /// Adds a receive; its number.
    pub fn recv<T>(&mut self, receiver: &'a Receiver<T>) -> usize {
        self.operations.push(Box::new(Receive(&receiver.channel)));
        self.operations.len() - 1
    }

    /// Adds a send; its number.
    pub fn send<T>(&mut self, sender: &'a Sender<T>) -> usize {
        self.operations.push(Box::new(Send(&sender.channel)));
        self.operations.len() - 1
    }

    /// Waits; the number of an operation that would not wait.
    pub fn ready(&mut self) -> usize {
        match self.ready_until(None) {
            Some(number) => number,
            None => unreachable!("there is no deadline"),
        }
    }

    /// The same for at most `timeout`.
    pub fn ready_timeout(&mut self, timeout: Duration) -> Option<usize> {
        self.ready_until(Instant::now().checked_add(timeout))
    }

    /// The same without waiting.
    pub fn try_ready(&mut self) -> Option<usize> {
        self.look(None)
    }

    fn look(&mut self, watch: Option<Waiting>) -> Option<usize> {
        let count = self.operations.len();
        self.start = self.start.wrapping_add(1);
        (0..count)
            .map(|offset| (self.start.wrapping_add(offset)) % count)
            .find(|&at| self.operations[at].ready(watch))
    }

    fn ready_until(&mut self, deadline: Option<Instant>) -> Option<usize> {
        loop {
            let waiting = Waiting::begin();
            let found = self.look(Some(waiting));
            let outcome = match found {
                Some(_) => {
                    waiting.give_up();
                    Outcome::Granted
                }
                None => waiting.wait(deadline, Cancel::May),
            };
            for operation in &self.operations {
                operation.unwatch(waiting);
            }
            match outcome {
                Outcome::Granted if found.is_some() => return found,
                Outcome::Granted => {}
                Outcome::TimedOut => return None,
                Outcome::Cancelled => cancel::raise(),
            }
        }
    }
}

impl std::fmt::Debug for Select<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Select")
            .field("operations", &self.operations.len())
            .finish_non_exhaustive()
    }
}
