//! What processes write, on its way into their logs: [`Streams`], one thread for all processes, and [`Output`], one
//! process's.
//!
//! Each process writes into two pipes, or a terminal. Their other ends are read here as soon as there is something, so that the log
//! goes on whether a service is there or not. A process that ends closes them: that is how its end is noticed.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::event::epoll::EventFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use sterna_process::Epoch;

use crate::beside::{self, Rewind};
use crate::log::{LogHeader, LogWriter, Stream};
use crate::watch::{Token, Watch};

const BUFFER_BYTES: usize = 64 << 10;

/// Reads all pipes.
pub(crate) struct Streams(Watch<Arc<Tap>>);

/// One pipe, or terminal.
struct Tap {
    pipe: Mutex<File>,
    stream: Stream,
    output: Arc<Output>,
}

/// The output of one process.
pub(crate) struct Output {
    log: Mutex<Log>,
    rewinds: Mutex<Vec<Rewind>>,
    taps: Mutex<Vec<Arc<Tap>>>,
    open: AtomicU8,
    has_complained: AtomicBool,
    on_closed: Box<dyn Fn() + Send + Sync>,
}

enum Log {
    /// It has not begun: the process is still to arrive.
    Waiting(File),
    Begun(LogWriter),
    Broken,
}

impl Streams {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let streams = Arc::new(Self(Watch::new()?));
        let reading = Arc::clone(&streams);
        thread::Builder::new()
            .name("streams".into())
            .spawn(move || {
                let mut buffer = vec![0; BUFFER_BYTES];
                reading.0.serve(|token, tap| {
                    if tap.read(&mut buffer, false) {
                        reading.close(token, &tap);
                    }
                })
            })?;
        Ok(streams)
    }

    /// The ends of two pipes for a process to write to: standard output and error.
    pub(crate) fn attach(self: &Arc<Self>, output: &Arc<Output>) -> io::Result<(OwnedFd, OwnedFd)> {
        let ours = self.tap(output, Stream::Output)?;
        let error = self.tap(output, Stream::Error)?;
        Ok((ours, error))
    }

    /// Reads what a process writes to a terminal, at its master, which must not block. When the process has closed its end,
    /// reading fails with `EIO`: pty(7).
    pub(crate) fn attach_terminal(&self, output: &Arc<Output>, master: File) -> io::Result<()> {
        self.read_from(output, Stream::Output, master)
    }

    fn tap(&self, output: &Arc<Output>, stream: Stream) -> io::Result<OwnedFd> {
        // Neither end ever waits: a process waits as its kind does that.
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        self.read_from(output, stream, read.into())?;
        Ok(write)
    }

    fn read_from(&self, output: &Arc<Output>, stream: Stream, end: File) -> io::Result<()> {
        let tap = Arc::new(Tap {
            pipe: Mutex::new(end),
            stream,
            output: Arc::clone(output),
        });
        output.open.fetch_add(1, Ordering::SeqCst);
        locked(&output.taps).push(Arc::clone(&tap));
        let watched = Arc::clone(&tap);
        self.0.add(&*locked(&tap.pipe), EventFlags::IN, watched)?;
        Ok(())
    }

    fn close(&self, token: Token, tap: &Arc<Tap>) {
        if self.0.remove(token, &*locked(&tap.pipe)).is_none() {
            return;
        }
        let output = Arc::clone(&tap.output);
        locked(&output.taps).retain(|other| !Arc::ptr_eq(other, tap));
        if output.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            (output.on_closed)();
        }
    }
}

impl Tap {
    /// Takes what is there; `all`: until there is nothing. Whether this was the end.
    fn read(&self, buffer: &mut [u8], all: bool) -> bool {
        let mut pipe = locked(&self.pipe);
        loop {
            match pipe.read(buffer) {
                Ok(0) => return true,
                Ok(got) => self.output.write(self.stream, &buffer[..got]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
            if !all {
                return false;
            }
        }
    }
}

impl Output {
    /// Of a process whose log has not begun. `on_closed` is called when it has closed both streams.
    pub(crate) fn new(log: File, on_closed: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            log: Mutex::new(Log::Waiting(log)),
            rewinds: Mutex::default(),
            taps: Mutex::default(),
            open: AtomicU8::new(0),
            has_complained: AtomicBool::new(false),
            on_closed: Box::new(on_closed),
        })
    }

    /// Begins the log.
    pub(crate) fn begin(&self, header: &LogHeader) -> io::Result<()> {
        let mut log = locked(&self.log);
        match std::mem::replace(&mut *log, Log::Broken) {
            Log::Waiting(file) => {
                *log = Log::Begun(LogWriter::begin(file, header)?);
                locked(&self.rewinds).clone_from(&header.rewinds);
            }
            begun => *log = begun,
        }
        Ok(())
    }

    /// Where the process has gone on from copies.
    pub(crate) fn rewinds(&self) -> Vec<Rewind> {
        locked(&self.rewinds).clone()
    }

    /// It goes on from what was kept of it here: what was written elsewhere in these epochs is void.
    pub(crate) fn rewind(&self, since: Epoch, until: Epoch) {
        let start = self.bytes();
        let rewind = Rewind {
            since,
            until,
            start,
        };
        beside::add(&mut locked(&self.rewinds), rewind);
    }

    /// Whether the process has closed both streams.
    pub(crate) fn is_closed(&self) -> bool {
        self.open.load(Ordering::SeqCst) == 0
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        if let Log::Begun(writer) = &mut *locked(&self.log)
            && let Err(error) = writer.write(stream, bytes)
            && !self.has_complained.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("output of a process is lost, since its log cannot be written: {error}");
        }
    }

    /// Takes what a process that stands still has written before. Says how much output there was in all.
    pub(crate) fn drain(&self) -> u64 {
        let taps = locked(&self.taps).clone();
        let mut buffer = vec![0; BUFFER_BYTES];
        for tap in taps {
            tap.read(&mut buffer, true);
        }
        self.bytes()
    }

    /// Bytes of output until now, since the process was first started.
    pub(crate) fn bytes(&self) -> u64 {
        match &*locked(&self.log) {
            Log::Begun(writer) => writer.end(),
            Log::Waiting(_) | Log::Broken => 0,
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
