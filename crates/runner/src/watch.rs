//! Many descriptors, for which one thread waits: [`Watch`].

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::epoll::{self, EventFlags};

const EVENTS_AT_ONCE: usize = 256;

/// Descriptors, and what each of them is for.
pub(crate) struct Watch<T> {
    epoll: OwnedFd,
    watched: Mutex<HashMap<u64, T>>,
    next: AtomicU64,
}

/// A descriptor is watched as long as it has this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(u64);

impl<T: Clone> Watch<T> {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            watched: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// Watches a descriptor from now on.
    pub(crate) fn add(&self, handle: impl AsFd, flags: EventFlags, what: T) -> io::Result<Token> {
        let token = Token(self.next.fetch_add(1, Ordering::Relaxed));
        self.watched().insert(token.0, what);
        let data = epoll::EventData::new_u64(token.0);
        if let Err(error) = epoll::add(&self.epoll, handle, data, flags) {
            self.watched().remove(&token.0);
            return Err(error.into());
        }
        Ok(token)
    }

    /// The same no longer; what it was for, if it was still watched. To be called before the descriptor is closed: others
    /// may have it open.
    pub(crate) fn remove(&self, token: Token, handle: impl AsFd) -> Option<T> {
        let removed = self.watched().remove(&token.0)?;
        let _ = epoll::delete(&self.epoll, handle);
        Some(removed)
    }

    /// Says of each descriptor when something happens to it, for ever.
    pub(crate) fn serve(&self, mut happened: impl FnMut(Token, T)) -> ! {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            if epoll::wait(&self.epoll, spare, None).is_err() {
                continue; // interrupted
            }
            for event in &events {
                let event: &epoll::Event = event;
                let token = Token(event.data.u64());
                let known = self.watched().get(&token.0).cloned();
                if let Some(what) = known {
                    happened(token, what);
                }
            }
        }
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<u64, T>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
