//! [`Places`]: room for connections that several processes share. It is counted by the kernel, in descriptors that a
//! process is given (`EFD_SEMAPHORE`, eventfd(2)): one counts the places that are free, and one for each process those
//! that it holds, so that a process that dies leaves none taken.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};

/// A process's share in the places of all.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) free: OwnedFd,
    /// How many this process holds.
    pub(crate) held: OwnedFd,
}

/// A count of places, all of them free.
pub(crate) fn free(count: usize) -> io::Result<OwnedFd> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
    Ok(eventfd(count, flags)?)
}

impl Places {
    /// The share of a process that holds none so far.
    pub(crate) fn of_one(free_ones: &OwnedFd) -> io::Result<Self> {
        Ok(Self {
            free: free_ones.try_clone()?,
            held: free(0)?,
        })
    }

    /// Takes a place. False if none is free.
    pub(crate) fn take(&self) -> bool {
        let is_taken = remove(&self.free);
        if is_taken {
            add(&self.held);
        }
        is_taken
    }

    /// Gives one back. False if none is held.
    pub(crate) fn give_back(&self) -> bool {
        let is_held = remove(&self.held);
        if is_held {
            add(&self.free);
        }
        is_held
    }

    /// After the process has died: all that it held is free again.
    pub(crate) fn give_all_back(&self) {
        while self.give_back() {}
    }
}

/// Takes one from a count. False if it is nothing.
fn remove(count: &OwnedFd) -> bool {
    loop {
        match rustix::io::read(count, &mut [0_u8; 8]) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.is_ok(),
        }
    }
}

fn add(count: &OwnedFd) {
    // It fails only if there are 2^64.
    let _ = rustix::io::write(count, &1_u64.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_a_process_that_died_are_free() {
        let all = free(3).unwrap();
        let (dead, other) = (Places::of_one(&all).unwrap(), Places::of_one(&all).unwrap());
        assert!(dead.take() && dead.take() && other.take());
        assert!(!dead.take() && !other.take(), "all are taken");
        dead.give_all_back();
        assert!(!dead.give_back());
        assert!(other.take() && other.take() && !other.take());
    }
}
