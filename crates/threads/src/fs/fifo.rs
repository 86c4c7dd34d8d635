//! FIFOs: opening one waits until it has another end, and can be cancelled meanwhile.
//!
//! The kernel's own wait could not be, so an end is opened without waiting (`O_NONBLOCK`, fifo(7)), and the other one is
//! looked for again and again: the kernel tells nobody when it comes.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fcntl_setfl, fstat, open as open_now};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, tee};

use super::File;
use crate::park::sleep;

/// From one look to the next: at first, and when the wait has become long.
const LOOKS_MIN: Duration = Duration::from_millis(1);
const LOOKS_MAX: Duration = Duration::from_millis(16);
const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Opens a FIFO and waits for its other end.
pub(super) fn open(name: &CStr, flags: OFlags, mode: Mode) -> io::Result<File> {
    let opened = wait(|| {
        match open_now(name, flags | OFlags::NONBLOCK, mode) {
            // Nobody reads it.
            Err(Errno::NXIO) => Ok(None),
            opened => Ok(Some(opened?)),
        }
    })?;
    if flags & OFlags::RWMODE == OFlags::RDONLY && is_one(&opened)? {
        wait_for_writer(&opened)?;
    }
    fcntl_setfl(&opened, flags)?;
    Ok(File::from_std(opened.into()))
}

pub(super) fn is_one(file: impl AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode) == FileType::Fifo)
}

/// Waits until somebody has opened a FIFO to write, of which this is the end that is read. It stays open meanwhile:
/// closed, it would be an end that has come and gone.
pub(super) fn wait_for_writer(reader: &OwnedFd) -> io::Result<()> {
    let (_kept, scratch) = std::io::pipe()?;
    wait(|| {
        let mut polled = [PollFd::new(reader, PollFlags::IN)];
        // There is something to read, or there was somebody who has gone again.
        let has_come = poll(&mut polled, Some(&NOW))? > 0;
        // A copy of nothing: an end if nobody writes, a wait if somebody does.
        let is_there = || match tee(reader, &scratch, 1, SpliceFlags::NONBLOCK) {
            Ok(count) => Ok(count > 0),
            Err(Errno::AGAIN) => Ok(true),
            Err(errno) => Err(errno),
        };
        Ok((has_come || is_there()?).then_some(()))
    })
}

/// Looks until there is something.
fn wait<T>(mut look: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let mut pause = LOOKS_MIN;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        sleep(pause);
        pause = (pause * 2).min(LOOKS_MAX);
    }
}
