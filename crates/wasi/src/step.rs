//! What a call comes to: done, the end of the process, or what it waits for.

use crate::abi::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The outcome of issuing a call once.
#[derive(Debug)]
pub enum Step {
    /// The call returned this result.
    Done(Errno),
    /// The process ends with this code (`proc_exit`).
    Exit(u32),
    /// Nothing has happened yet. Issue the call again, with the same arguments, when one of the
    /// conditions holds; issuing it earlier, or on another host after a move, is harmless.
    Wait(Wait),
}

/// What a call waits for: whichever comes first. If it is nothing at all, the guest waits until it
/// is ended.
#[derive(Clone, Debug, Default)]
pub struct Wait {
    /// Host descriptors, each once. All of them can be watched by `poll` and `epoll`.
    pub descriptors: Vec<(Arc<OwnedFd>, Interest)>,
    /// A point on the process's own clock ([`Wasi::now`](crate::Wasi::now)). A deadline in the past
    /// asks to be issued again at once, after others had a turn.
    pub deadline: Option<Duration>,
}

/// What of a descriptor is waited for. Errors and hang-ups count as both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// That a read would not block.
    pub read: bool,
    /// That a write would not block.
    pub write: bool,
}

impl Interest {
    /// Reading only.
    pub const READ: Interest = Interest {
        read: true,
        write: false,
    };
    /// Writing only.
    pub const WRITE: Interest = Interest {
        read: false,
        write: true,
    };
}

impl Wait {
    pub(crate) fn on(descriptor: &Arc<OwnedFd>, interest: Interest) -> Wait {
        Wait {
            descriptors: vec![(Arc::clone(descriptor), interest)],
            deadline: None,
        }
    }

    /// Adds a descriptor, or an interest to one already there.
    pub(crate) fn add(&mut self, descriptor: &Arc<OwnedFd>, interest: Interest) {
        match self
            .descriptors
            .iter_mut()
            .find(|(known, _)| Arc::ptr_eq(known, descriptor))
        {
            Some((_, known)) => {
                known.read |= interest.read;
                known.write |= interest.write;
            }
            None => self.descriptors.push((Arc::clone(descriptor), interest)),
        }
    }
}

/// Why a call did not succeed at once.
pub(crate) enum Halt {
    Errno(Errno),
    Wait(Wait),
}

/// Of a call in the making.
pub(crate) type Outcome<T = ()> = Result<T, Halt>;

impl<E: Into<Errno>> From<E> for Halt {
    fn from(error: E) -> Halt {
        Halt::Errno(error.into())
    }
}
