//! The service that a runner obeys: [`Service`].

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::fault;
use crate::link::{self, LinkError};
use crate::message::{Answer, Said};

/// A connection to a service, and whether it is still obeyed.
#[derive(Clone)]
pub(crate) struct Service {
    stream: Arc<Mutex<UnixStream>>,
    life: Arc<AtomicU64>,
    lives: Arc<AtomicU64>,
}

impl Service {
    /// One that has not begun yet, of a runner that has had so many.
    pub(crate) fn new(stream: UnixStream, lives: &Arc<AtomicU64>) -> Self {
        Self {
            stream: Arc::new(Mutex::new(stream)),
            life: Arc::new(AtomicU64::new(u64::MAX)),
            lives: Arc::clone(lives),
        }
    }

    /// It is obeyed from now on.
    pub(crate) fn begin(&self, life: u64) {
        self.life.store(life, Ordering::SeqCst);
    }

    /// Tells it something. If it is gone, the next one will ask.
    pub(crate) fn say(&self, said: &Said) {
        if let Said::Event(event) = said {
            fault::point("runner tell", event);
        }
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match (link::send(&stream, said, &[]), said) {
            // The next service would ask for the same.
            (Err(error @ LinkError::TooLong { .. }), Said::Answer { number, .. }) => {
                let refused = Said::Answer {
                    number: *number,
                    answer: Err(format!("the answer does not fit into a message: {error}")),
                };
                link::send(&stream, &refused, &[])
            }
            (result, _) => result,
        };
        if let Err(error) = result {
            tracing::debug!("not heard: {error}");
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Answers an order.
    pub(crate) fn answer(&self, number: u64, answer: Result<Answer, String>) {
        self.say(&Said::Answer { number, answer });
    }

    /// Whether another service has come since.
    pub(crate) fn is_void(&self) -> bool {
        self.life.load(Ordering::SeqCst) != self.lives.load(Ordering::SeqCst)
    }
}
