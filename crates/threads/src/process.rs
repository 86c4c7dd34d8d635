//! Child processes: [`Child`], [`output`] and [`status`], that stop only the thread that waits for them.
//!
//! A process is described by `Command` of the standard library. Its end is waited for through a descriptor of the
//! process (`pidfd_open`, Linux 5.3), with time-outs and cancellation like any other; no signal is used.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::io::{Direction, PipeReader, PipeWriter, Source};
use crate::runtime::Home;
use crate::{Thread, blocking, scope};

/// A process that this one has started.
///
/// Dropped, it goes on by itself; then its end takes an entry in the kernel's table until this process ends, too.
#[derive(Debug)]
pub struct Child {
    inner: std::process::Child,
    end: Source<OwnedFd>,
    /// Its standard input, if the command says `Stdio::piped()`.
    pub stdin: Option<PipeWriter>,
    /// Its standard output, likewise.
    pub stdout: Option<PipeReader>,
    /// Its standard error, likewise.
    pub stderr: Option<PipeReader>,
}

impl Child {
    /// Starts a process.
    ///
    /// # Errors
    /// As the kernel says, for example that there is no such program. If the process was started and cannot be watched,
    /// it is killed.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut inner = blocking(|| command.spawn())?;
        match Self::watched(&mut inner) {
            Ok((end, (stdin, stdout, stderr))) => Ok(Self {
                inner,
                end,
                stdin,
                stdout,
                stderr,
            }),
            Err(error) => {
                // It fails if the process has ended already.
                let _ = inner.kill();
                blocking(|| inner.wait())?;
                Err(error)
            }
        }
    }

    fn watched(inner: &mut std::process::Child) -> io::Result<(Source<OwnedFd>, Pipes)> {
        let id = i32::try_from(inner.id()).ok().and_then(Pid::from_raw);
        // Nobody else waits for it, so the number is its own.
        let end = pidfd_open(id.ok_or(io::ErrorKind::InvalidData)?, PidfdFlags::NONBLOCK)?;
        let stdin = inner.stdin.take().map(OwnedFd::from);
        let stdout = inner.stdout.take().map(OwnedFd::from);
        let stderr = inner.stderr.take().map(OwnedFd::from);
        let pipes = (
            stdin.map(PipeWriter::from_std).transpose()?,
            stdout.map(PipeReader::from_std).transpose()?,
            stderr.map(PipeReader::from_std).transpose()?,
        );
        Ok((Source::new(end)?, pipes))
    }

    /// The kernel's number of it.
    pub fn id(&self) -> u32 {
        self.inner.id()
    }

    /// Ends it by `SIGKILL`. It is still to be waited for.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn kill(&mut self) -> io::Result<()> {
        self.inner.kill()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.inner.try_wait()
    }

    /// Closes its standard input, if that was not taken out of [`stdin`](Self::stdin), and waits until it ends.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.wait_until(None)
    }

    /// The same for at most `timeout`; `None` if it has not ended by then. The standard input is closed at once, whatever
    /// the time-out: to look again and again while input is still to come, call [`try_wait`](Self::try_wait), or take
    /// `stdin` out before.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        match self.wait_until(Instant::now().checked_add(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
            result => result.map(Some),
        }
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> io::Result<ExitStatus> {
        self.stdin = None;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            self.end.wait(Direction::Read, deadline)?;
        }
    }

    /// Reads all that it writes, waits until it ends.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn wait_with_output(mut self) -> io::Result<Output> {
        self.finish()
    }

    fn finish(&mut self) -> io::Result<Output> {
        self.stdin = None;
        let (stdout, stderr) = read_both(self.stdout.take(), self.stderr.take());
        Ok(Output {
            status: self.wait()?,
            stdout: stdout?,
            stderr: stderr?,
        })
    }
}

type Pipes = (Option<PipeWriter>, Option<PipeReader>, Option<PipeReader>);

/// Both at the same time: a process may fill either while nobody reads it.
fn read_both(
    one: Option<PipeReader>,
    two: Option<PipeReader>,
) -> (io::Result<Vec<u8>>, io::Result<Vec<u8>>) {
    let gone = |_| Err(io::Error::other("the thread that read a pipe has panicked"));
    match (one, two) {
        (Some(one), Some(two)) if Home::of_this_thread().is_ok() => scope(|scope| {
            let other = scope.spawn(|| read_all(Some(two)));
            // The scope waits for it, also if this thread is cancelled.
            let _end = EndOf(other.thread().clone());
            (read_all(Some(one)), other.join().unwrap_or_else(gone))
        }),
        // No thread of this package: the standard library's then.
        (Some(one), Some(two)) => std::thread::scope(|scope| {
            let other = scope.spawn(|| read_all(Some(two)));
            (read_all(Some(one)), other.join().unwrap_or_else(gone))
        }),
        (one, two) => (read_all(one), read_all(two)),
    }
}

/// A thread that ends with who waits for it.
struct EndOf(Thread);

impl Drop for EndOf {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn read_all(pipe: Option<PipeReader>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Starts a process and waits until it ends. If the thread is cancelled meanwhile, the process is killed.
///
/// # Errors
/// As the kernel says.
pub fn status(command: &mut Command) -> io::Result<ExitStatus> {
    Own(Child::spawn(command)?).0.wait()
}

/// A process that only who waits for it knows of. If that one is cancelled, it is ended, and leaves no zombie.
struct Own(Child);

impl Drop for Own {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            // It has just ended, or does now.
            let _ = self.0.kill();
            let _ = self.0.inner.wait();
        }
    }
}

/// Starts a process without input, reads all that it writes, and waits until it ends. If the thread is cancelled meanwhile, the
/// process is killed.
///
/// # Errors
/// As the kernel says.
pub fn output(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Own(Child::spawn(command)?).0.finish()
}
