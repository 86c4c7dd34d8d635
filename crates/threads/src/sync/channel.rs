//! Channels: [`bounded`], [`unbounded`], and waiting for several at once with [`Select`].
//!
//! Any number of threads may send and receive. Values arrive in the order in which they were sent. A thread that waits
//! for one is switched to directly when the sender stops. A channel bounded to 0 hands each value over: `send` returns
//! when it was received.

mod select;
mod state;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};

pub use select::Select;
use state::Channel;

/// A channel that holds at most `capacity` values; a sender waits for room.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    make(Some(capacity))
}

/// A channel that holds what memory holds. For senders that must not wait and are known to be slower.
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    make(None)
}

fn make<T>(capacity: Option<usize>) -> (Sender<T>, Receiver<T>) {
    let channel = Arc::new(Channel::new(capacity));
    let sender = Sender {
        channel: Arc::clone(&channel),
    };
    (sender, Receiver { channel })
}

/// The end that sends. Clones send into the same channel.
pub struct Sender<T> {
    channel: Arc<Channel<T>>,
}

/// The end that receives. Clones share the values.
pub struct Receiver<T> {
    channel: Arc<Channel<T>>,
}

/// Why a value was not sent in time. It comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendTimeoutError<T> {
    /// There was no room.
    Timeout(T),
    /// No receiver is left.
    Disconnected(T),
}

impl<T> Sender<T> {
    /// Sends, waiting for room.
    ///
    /// # Errors
    /// No receiver is left; the value comes back.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.channel.send(value, None).map_err(|error| match error {
            SendTimeoutError::Timeout(value) | SendTimeoutError::Disconnected(value) => {
                SendError(value)
            }
        })
    }

    /// The same for at most `timeout`.
    ///
    /// # Errors
    /// There was no room, or no receiver is left; the value comes back.
    pub fn send_timeout(&self, value: T, timeout: Duration) -> Result<(), SendTimeoutError<T>> {
        self.channel
            .send(value, Instant::now().checked_add(timeout))
    }

    /// Sends if there is room.
    ///
    /// # Errors
    /// There was none, or no receiver is left; the value comes back.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        self.channel.try_send(value)
    }
}

impl<T> Receiver<T> {
    /// Waits for a value.
    ///
    /// # Errors
    /// None is left, nor any sender.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.channel.recv(None).map_err(|_| RecvError)
    }

    /// The same for at most `timeout`.
    ///
    /// # Errors
    /// None came, or none can come any more.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        self.channel.recv(Instant::now().checked_add(timeout))
    }

    /// A value if there is one.
    ///
    /// # Errors
    /// There is none, or none can come any more.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.channel.try_recv()
    }

    /// Values until no sender is left.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.recv().ok())
    }

    /// Values that wait in the channel.
    pub fn len(&self) -> usize {
        self.channel.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.channel.add_sender();
        Self {
            channel: Arc::clone(&self.channel),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.channel.remove_sender();
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.channel.add_receiver();
        Self {
            channel: Arc::clone(&self.channel),
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.channel.remove_receiver();
    }
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Sender")
    }
}

impl<T> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Receiver")
    }
}
