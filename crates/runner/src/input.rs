//! What users type, on its way to a process: [`Input`], a pipe or a terminal of which the process has the other end.
//!
//! The runner's end never blocks: who gives more than fits is told how much was taken, and gives the rest again. So what a
//! process has not read is little, and it travels with the process: it is taken out here, and given again at the target,
//! or here if the process stays. A terminal shows what is typed, so it shows that part a second time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{ioctl_fionread, retry_on_intr};
use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, tee,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{QueueSelector, Winsize, tcflush, tcgetwinsize, tcsetwinsize};
use serde::{Deserialize, Serialize};
use sterna_process::{Section, SectionError, Sections, Tag};

use crate::limits::{LINE_BYTES_MAX, UNREAD_BYTES_MAX};
use crate::message::WindowSize;

#[cfg(test)]
mod tests;

/// What a terminal takes for the end of its input: `VEOF` of termios(3), as a new terminal has it.
const END_OF_INPUT: u8 = 4;
/// Ends of a line that is being typed: CR, LF, `VEOF`, and what throws it away: `VINTR`, `VQUIT`, `VKILL`.
const ENDS_OF_LINES: &[u8] = &[b'\r', b'\n', END_OF_INPUT, 3, 28, 21];

/// How often somebody who waits for room looks whether there is still a process.
const CATCH_UP_WITHIN: Duration = Duration::from_millis(200);

/// Name of the section that has [`Carried`].
const INPUT: Tag = Tag::new("sterna.input");
const INPUT_VERSION: u16 = 1;

/// One process's standard input, from outside.
pub(crate) struct Input {
    inner: Mutex<Inner>,
}

struct Inner {
    writer: Writer,
    /// The process is leaving: nothing more is taken.
    leaves: bool,
    /// Taken out, to be given again.
    carried: Carried,
    /// There is a thread that does so.
    is_catching_up: bool,
}

enum Writer {
    Pipe {
        /// Gone once the input has ended.
        write: Option<File>,
        /// The process's end once more, to take out what it has not read.
        read: File,
    },
    Terminal {
        master: File,
        /// What was typed since the last end of a line: the system gives out whole lines only.
        line: Vec<u8>,
    },
}

/// What travels with a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Carried {
    unread: Vec<u8>,
    has_ended: bool,
    size: Option<WindowSize>,
}

impl Input {
    /// A pipe, and the end for the process.
    pub(crate) fn pipe() -> io::Result<(Self, OwnedFd)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let writer = Writer::Pipe {
            write: Some(write.into()),
            read: read.try_clone()?.into(),
        };
        Ok((Self::new(writer), read))
    }

    /// The terminal whose master this is.
    pub(crate) fn terminal(master: File) -> io::Result<Self> {
        never_block(&master)?;
        let line = Vec::new();
        Ok(Self::new(Writer::Terminal { master, line }))
    }

    fn new(writer: Writer) -> Self {
        Self {
            inner: Mutex::new(Inner {
                writer,
                leaves: false,
                carried: Carried::default(),
                is_catching_up: false,
            }),
        }
    }

    /// Gives what the process takes within a time, and then perhaps the end. Says how many bytes were taken: all, or fewer
    /// if it does not read, or leaves meanwhile.
    pub(crate) fn give(&self, bytes: &[u8], end: bool, within: Duration) -> io::Result<usize> {
        let until = Instant::now() + within;
        let mut taken = 0;
        loop {
            let full = {
                let mut inner = self.lock();
                if inner.leaves {
                    break;
                }
                if inner.catch_up()? {
                    taken += inner.writer.write_some(&bytes[taken..])?;
                    if taken == bytes.len() {
                        if end {
                            inner.end()?;
                        }
                        return Ok(taken);
                    }
                }
                inner.writer.again()?
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            wait_for_room(&full, left)?;
        }
        if end && taken == bytes.len() {
            let mut inner = self.lock();
            if inner.leaves {
                // Whoever gives sees by the number that bytes are left; that the end is, only so.
                return Err(io::Error::other("it is being moved: try again"));
            }
            inner.end_after_all();
        }
        Ok(taken)
    }

    /// Makes the terminal so large; whether there is one.
    pub(crate) fn resize(&self, size: WindowSize) -> io::Result<bool> {
        match &self.lock().writer {
            Writer::Terminal { master, .. } => {
                tcsetwinsize(master, size.to_system())?;
                Ok(true)
            }
            Writer::Pipe { .. } => Ok(false),
        }
    }

    /// The size of the terminal, if there is one.
    pub(crate) fn size(&self) -> Option<WindowSize> {
        self.lock().size()
    }

    /// Takes out what the process has not read, since it leaves. From now on nothing more is taken.
    pub(crate) fn take_out(&self) -> io::Result<Section> {
        let mut inner = self.lock();
        inner.leaves = true;
        if let Writer::Pipe { write: None, read } = &inner.writer {
            // Nothing could be put back.
            let carried = Carried {
                unread: looked_at(read)?,
                ..inner.carried.clone()
            };
            return Section::encode(INPUT, INPUT_VERSION, &carried).map_err(io::Error::other);
        }
        let mut unread = inner.writer.unread()?;
        let size = inner.size();
        let carried = &mut inner.carried;
        // What has not been given again yet comes after it.
        unread.append(&mut carried.unread);
        carried.unread = unread;
        carried.size = size;
        Section::encode(INPUT, INPUT_VERSION, carried).map_err(io::Error::other)
    }

    /// The process stays after all, or has come: what was taken out is given again.
    pub(crate) fn give_again(self: &Arc<Self>) {
        let mut inner = self.lock();
        inner.leaves = false;
        if let (Writer::Terminal { master, .. }, Some(size)) = (&inner.writer, inner.carried.size) {
            let _ = tcsetwinsize(master, size.to_system());
        }
        let caught_up = inner.catch_up();
        // It fitted before; but who has many pipes gets small ones (pipe(7)).
        let starts = matches!(caught_up, Ok(false)) && !inner.is_catching_up;
        inner.is_catching_up |= starts;
        drop(inner);
        if let Err(error) = caught_up {
            tracing::warn!("input that a process had not read is lost: {error}");
        }
        if starts {
            let this = Arc::downgrade(self);
            let catching_up =
                move || while let Some(true) = this.upgrade().map(|it| it.catch_up()) {};
            let started = thread::Builder::new()
                .name("input".into())
                .spawn(catching_up);
            if let Err(error) = started {
                tracing::warn!(
                    "a process gets the rest of its input when it is given more: {error}"
                );
            }
        }
    }

    /// Gives of what was carried what there is room for, which is waited for a little. Whether there is more.
    fn catch_up(&self) -> bool {
        let mut inner = self.lock();
        let full = match inner.leaves {
            true => None,
            false => match inner.catch_up() {
                Ok(false) => inner.writer.again().ok(),
                Ok(true) | Err(_) => None,
            },
        };
        inner.is_catching_up = full.is_some();
        drop(inner);
        full.is_some_and(|full| {
            let _ = wait_for_room(&full, CATCH_UP_WITHIN);
            true
        })
    }

    /// Takes over what came with the process, to [give it again](Self::give_again) when it runs.
    pub(crate) fn carry(&self, carried: Carried) {
        self.lock().carried = carried;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carried {
    /// What came with a process, if it has an input.
    pub(crate) fn take_from(sections: &mut Sections) -> Result<Option<Self>, SectionError> {
        let section = sections.take(&INPUT, INPUT_VERSION..=INPUT_VERSION)?;
        let carried: Option<Self> = section.map(|section| section.decode()).transpose()?;
        Ok(carried.map(|mut carried| {
            carried.unread.truncate(UNREAD_BYTES_MAX);
            carried
        }))
    }
}

impl Inner {
    /// Gives of what was carried as much as there is room for. Whether that was all.
    fn catch_up(&mut self) -> io::Result<bool> {
        let given = self.writer.write_some(&self.carried.unread)?;
        self.carried.unread.drain(..given);
        let is_all = self.carried.unread.is_empty();
        if is_all && self.carried.has_ended {
            self.end()?;
        }
        Ok(is_all)
    }

    /// Ends the input when all that was carried has been given.
    fn end_after_all(&mut self) {
        match &self.writer {
            Writer::Pipe { .. } => self.carried.has_ended = true,
            Writer::Terminal { .. } => self.carried.unread.push(END_OF_INPUT),
        }
    }

    /// Ends the input: for good on a pipe, once on a terminal.
    fn end(&mut self) -> io::Result<()> {
        match &mut self.writer {
            Writer::Pipe { write, .. } => {
                *write = None;
                self.carried.has_ended = true;
                Ok(())
            }
            terminal @ Writer::Terminal { .. } => terminal.write_some(&[END_OF_INPUT]).map(drop),
        }
    }

    fn size(&self) -> Option<WindowSize> {
        match &self.writer {
            Writer::Terminal { master, .. } => {
                tcgetwinsize(master).ok().map(WindowSize::from_system)
            }
            Writer::Pipe { .. } => None,
        }
    }
}

impl Writer {
    /// Another descriptor of it, to wait on without holding it.
    fn again(&self) -> io::Result<File> {
        match self {
            Self::Pipe {
                write: Some(end), ..
            }
            | Self::Terminal { master: end, .. } => end.try_clone(),
            Self::Pipe { write: None, .. } => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Writes what there is room for.
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match self.write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Pipe { write, .. } => match write {
                Some(write) => write.write(bytes),
                None => Err(io::ErrorKind::BrokenPipe.into()),
            },
            Self::Terminal { master, line } => {
                let count = master.write(bytes)?;
                let typed = &bytes[..count];
                let end = typed.iter().rposition(|byte| ENDS_OF_LINES.contains(byte));
                if let Some(end) = end {
                    line.clear();
                    line.extend_from_slice(&typed[end + 1..]);
                } else {
                    line.extend_from_slice(typed);
                }
                line.truncate(LINE_BYTES_MAX);
                Ok(count)
            }
        }
    }

    /// Takes out what the process, which stands still, has not read.
    fn unread(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Pipe { read, .. } => read_out(read, false),
            Self::Terminal { master, line } => {
                let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
                let slave = File::from(ioctl_tiocgptpeer(&*master, flags)?);
                never_block(&slave)?;
                let mut unread = read_out(&slave, true)?;
                // The line that is being typed is still in it.
                tcflush(&slave, QueueSelector::IFlush)?;
                unread.append(line);
                Ok(unread)
            }
        }
    }
}

/// What is in a pipe, which stays there (tee(2)).
fn looked_at(pipe: &File) -> io::Result<Vec<u8>> {
    let held = ioctl_fionread(pipe)? as usize;
    if held == 0 {
        return Ok(Vec::new());
    }
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    fcntl_setpipe_size(&write, fcntl_getpipe_size(pipe)?)?;
    match tee(pipe, &write, held, SpliceFlags::NONBLOCK)? == held {
        true => read_out(&read.into(), false),
        false => Err(io::Error::other(
            "its input cannot be looked at: there are too many pipes (pipe-user-pages-soft)",
        )),
    }
}

/// Reads until there is nothing. A line of a terminal that does not end as lines do was ended by [`END_OF_INPUT`].
fn read_out(mut from: &File, is_terminal: bool) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = [0; LINE_BYTES_MAX];
    while all.len() < UNREAD_BYTES_MAX {
        match from.read(&mut buffer) {
            Ok(0) if !is_terminal => break,
            Ok(got) => {
                all.extend_from_slice(&buffer[..got]);
                if is_terminal && got < buffer.len() && buffer[..got].last() != Some(&b'\n') {
                    all.push(END_OF_INPUT);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn never_block(file: &File) -> io::Result<()> {
    let flags = fcntl_getfl(file)?;
    Ok(fcntl_setfl(file, flags | OFlags::NONBLOCK)?)
}

fn wait_for_room(file: &File, within: Duration) -> io::Result<()> {
    let within = Timespec {
        tv_sec: within.as_secs() as i64,
        tv_nsec: i64::from(within.subsec_nanos()),
    };
    let mut polled = [PollFd::new(file, PollFlags::OUT)];
    retry_on_intr(|| poll(&mut polled, Some(&within)))?;
    Ok(())
}

impl WindowSize {
    fn to_system(self) -> Winsize {
        Winsize {
            ws_row: self.rows,
            ws_col: self.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        }
    }

    fn from_system(size: Winsize) -> Self {
        Self {
            columns: size.ws_col,
            rows: size.ws_row,
        }
    }
}
