//! Ways for two parties to exchange messages, each as an [`End`]: pipes, message queues and shared memory, between
//! processes or threads; pipes of the thread package, which stop only a user thread.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::thread::futex;
use sterna_sys::exchange::{MessageQueue, SharedWords};

/// An experiment in which the other side is silent for so long has failed.
const PATIENCE: Duration = Duration::from_secs(600);
/// Messages in a queue: one is under way at a time.
const QUEUED: usize = 2;

/// One side of an exchange.
pub(crate) trait End {
    /// Sends a message; all have the same length.
    fn send(&mut self, message: &[u8]) -> io::Result<()>;

    /// Receives one; false if the other side has closed.
    fn receive(&mut self, message: &mut [u8]) -> io::Result<bool>;
}

/// Sends each message back until the other side closes.
pub(crate) fn echo(end: &mut impl End, bytes: usize) -> io::Result<()> {
    let mut message = vec![0; bytes];
    while end.receive(&mut message)? {
        end.send(&message)?;
    }
    Ok(())
}

/// Does `count` hand-overs, to and fro.
pub(crate) fn exchange(end: &mut impl End, bytes: usize, count: usize) -> io::Result<usize> {
    let mut message = vec![7; bytes];
    let trips = count.div_ceil(2);
    for _ in 0..trips {
        end.send(&message)?;
        if !end.receive(&mut message)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(2 * trips)
}

/// Two streams of bytes.
pub(crate) struct Streams<R, W> {
    pub(crate) from: R,
    pub(crate) to: W,
}

impl<R: Read, W: Write> End for Streams<R, W> {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.to.write_all(message)
    }

    fn receive(&mut self, message: &mut [u8]) -> io::Result<bool> {
        match self.from.read_exact(message) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Both ends of a pair of pipes.
pub(crate) type Pipes = Streams<io::PipeReader, io::PipeWriter>;

pub(crate) fn pipes() -> io::Result<(Pipes, Pipes)> {
    let (from_one, to_two) = io::pipe()?;
    let (from_two, to_one) = io::pipe()?;
    let one = Streams {
        from: from_two,
        to: to_two,
    };
    let two = Streams {
        from: from_one,
        to: to_one,
    };
    Ok((one, two))
}

type UserPipes = Streams<sterna_threads::io::PipeReader, sterna_threads::io::PipeWriter>;

/// The same with pipes of the thread package.
pub(crate) fn user_pipes() -> io::Result<(UserPipes, UserPipes)> {
    let (from_one, to_two) = sterna_threads::io::pipe()?;
    let (from_two, to_one) = sterna_threads::io::pipe()?;
    let one = Streams {
        from: from_two,
        to: to_two,
    };
    let two = Streams {
        from: from_one,
        to: to_one,
    };
    Ok((one, two))
}

/// Two message queues. An empty message closes.
pub(crate) struct Queues {
    from: MessageQueue,
    to: MessageQueue,
    deadline: SystemTime,
}

impl Queues {
    pub(crate) fn of(from: OwnedFd, to: OwnedFd) -> Self {
        Self {
            from: from.into(),
            to: to.into(),
            deadline: SystemTime::now() + PATIENCE,
        }
    }

    /// Both ends.
    pub(crate) fn pair(bytes: usize) -> io::Result<(Self, Self)> {
        let one = MessageQueue::new(QUEUED, bytes)?;
        let two = MessageQueue::new(QUEUED, bytes)?;
        let ends = Self::of(one.descriptor()?, two.descriptor()?);
        let other = Self::of(two.descriptor()?, one.descriptor()?);
        Ok((ends, other))
    }

    /// Descriptors to receive from and to send to, to pass on.
    pub(crate) fn descriptors(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        Ok((self.from.descriptor()?, self.to.descriptor()?))
    }

    /// Lets the other side end.
    pub(crate) fn close(&self) -> io::Result<()> {
        self.to.send(&[], self.deadline)
    }
}

impl End for Queues {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.to.send(message, self.deadline)
    }

    fn receive(&mut self, message: &mut [u8]) -> io::Result<bool> {
        let length = self.from.receive(message, self.deadline)?;
        Ok(length > 0)
    }
}

/// Which words of shared memory are what. Messages follow, one for each direction.
const COUNTS: usize = 2;
const CLOSED: usize = 2;
/// So that nothing else is on the lines of a message.
const HEAD_WORDS: usize = 32;
const WORD: usize = size_of::<u32>();

/// Shared memory: a message is written into it, then a count goes up, for which the other side waits (futex(2)).
pub(crate) struct Memory {
    words: Arc<SharedWords>,
    side: usize,
    received: u32,
    message_words: usize,
}

impl Memory {
    /// `side` is 0 or 1.
    pub(crate) fn of(words: Arc<SharedWords>, side: usize) -> Self {
        Self {
            side,
            received: 0,
            message_words: (words.len() - HEAD_WORDS) / COUNTS,
            words,
        }
    }

    /// Both ends.
    pub(crate) fn pair(bytes: usize) -> io::Result<(Self, Self)> {
        let words = HEAD_WORDS + COUNTS * bytes.div_ceil(WORD);
        let words = Arc::new(SharedWords::new(words).map_err(io::Error::other)?);
        Ok((Self::of(Arc::clone(&words), 0), Self::of(words, 1)))
    }

    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.words.descriptor()
    }

    /// Lets the other side end.
    pub(crate) fn close(&self) -> io::Result<()> {
        self.words[CLOSED].store(1, Ordering::Release);
        self.tell()
    }

    fn tell(&self) -> io::Result<()> {
        let count = &self.words[self.side];
        count.fetch_add(1, Ordering::Release);
        futex::wake(count, futex::Flags::empty(), 1)?;
        Ok(())
    }

    fn body(&self, side: usize) -> &[AtomicU32] {
        &self.words[HEAD_WORDS + side * self.message_words..][..self.message_words]
    }
}

/// Waits until a word that processes share is no longer what it was.
pub(crate) fn wait_while(word: &AtomicU32, value: u32) -> io::Result<()> {
    let patience = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    while word.load(Ordering::Acquire) == value {
        match futex::wait(word, futex::Flags::empty(), value, Some(&patience)) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl End for Memory {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        for (word, bytes) in self.body(self.side).iter().zip(message.chunks(WORD)) {
            let mut value = [0; WORD];
            value[..bytes.len()].copy_from_slice(bytes);
            word.store(u32::from_ne_bytes(value), Ordering::Relaxed);
        }
        self.tell()
    }

    fn receive(&mut self, message: &mut [u8]) -> io::Result<bool> {
        let other = 1 - self.side;
        wait_while(&self.words[other], self.received)?;
        self.received = self.received.wrapping_add(1);
        if self.words[CLOSED].load(Ordering::Acquire) != 0 {
            return Ok(false);
        }
        for (word, bytes) in self.body(other).iter().zip(message.chunks_mut(WORD)) {
            let value = word.load(Ordering::Relaxed).to_ne_bytes();
            bytes.copy_from_slice(&value[..bytes.len()]);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes_to_and_fro(mut one: impl End + Send, mut two: impl End, close: impl FnOnce() + Send) {
        std::thread::scope(|threads| {
            threads.spawn(move || {
                for number in 0..100 {
                    let mut message = [number; 13];
                    one.send(&message).unwrap();
                    message.fill(0);
                    assert!(one.receive(&mut message).unwrap());
                    assert_eq!(message, [number; 13]);
                }
                assert_eq!(exchange(&mut one, 13, 5).unwrap(), 6);
                close();
                drop(one);
            });
            echo(&mut two, 13).unwrap();
        });
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let (one, two) = pipes().unwrap();
        goes_to_and_fro(one, two, || ());
        let (one, two) = user_pipes().unwrap();
        goes_to_and_fro(one, two, || ());
        let (one, two) = Memory::pair(13).unwrap();
        let closer = Memory::of(Arc::clone(&one.words), 0);
        goes_to_and_fro(one, two, move || closer.close().unwrap());
        match Queues::pair(13) {
            Ok((one, two)) => {
                let (from, to) = one.descriptors().unwrap();
                let closer = Queues::of(from, to);
                goes_to_and_fro(one, two, move || closer.close().unwrap());
            }
            Err(error) => println!("SKIPPED: no message queues: {error}"),
        }
    }
}
