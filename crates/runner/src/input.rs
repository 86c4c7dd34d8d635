//! What users type, on its way to a process: [`Input`], a pipe or a terminal of which the process has the other end.
//!
//! The runner's end never blocks: who gives more than fits is told how much was taken, and gives the rest again. So what a
//! process has not read is little, and it travels with the process: it is taken out here, and given again at the target,
//! or here if the process stays. A terminal shows what is typed, so it shows that part a second time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};
use serde::{Deserialize, Serialize};
use sterna_process::{Section, SectionError, Sections, Tag};

use crate::limits::{LINE_BYTES_MAX, UNREAD_BYTES_MAX};
use crate::message::WindowSize;

/// What a terminal takes for the end of its input: `VEOF` of termios(3), as a new terminal has it.
const END_OF_INPUT: u8 = 4;
/// Ends of a line that is being typed: CR, LF, `VEOF`, and what throws it away: `VINTR`, `VQUIT`, `VKILL`.
const ENDS_OF_LINES: &[u8] = &[b'\r', b'\n', END_OF_INPUT, 3, 28, 21];

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
            }),
        }
    }

    /// Gives what the process takes within a time, and then perhaps the end. Says how many bytes were taken: all, or fewer
    /// if it does not read, or leaves meanwhile.
    pub(crate) fn give(&self, bytes: &[u8], end: bool, within: Duration) -> io::Result<usize> {
        let until = Instant::now() + within;
        let mut taken = 0;
        while taken < bytes.len() {
            let full = {
                let mut inner = self.lock();
                if inner.leaves {
                    return Ok(taken);
                }
                match inner.writer.write(&bytes[taken..]) {
                    Ok(count) => {
                        taken += count;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        inner.writer.again()?
                    }
                    Err(error) => return Err(error),
                }
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(taken);
            }
            wait_for_room(&full, left)?;
        }
        if end {
            self.lock().end()?;
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
        let unread = inner.writer.unread()?;
        let size = inner.size();
        let carried = &mut inner.carried;
        carried.unread.extend(unread);
        carried.size = size;
        Section::encode(INPUT, INPUT_VERSION, carried).map_err(io::Error::other)
    }

    /// The process stays after all, or has come: what was taken out is given again.
    pub(crate) fn give_again(&self) {
        let (carried, size) = {
            let mut inner = self.lock();
            inner.leaves = false;
            let carried = std::mem::take(&mut inner.carried);
            inner.carried.has_ended = carried.has_ended;
            (carried.unread, carried.size)
        };
        if let Some(size) = size {
            let _ = self.resize(size);
        }
        // It fitted before, and the other end is open.
        let given = self.give(&carried, false, Duration::ZERO);
        if given.as_ref().is_ok_and(|count| *count < carried.len()) {
            tracing::warn!("input that a process had not read is lost: there is no room for it");
        }
        let mut inner = self.lock();
        if inner.carried.has_ended {
            let _ = inner.end();
        }
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
    /// Ends the input: for good on a pipe, once on a terminal.
    fn end(&mut self) -> io::Result<()> {
        match &mut self.writer {
            Writer::Pipe { write, .. } => {
                *write = None;
                self.carried.has_ended = true;
                Ok(())
            }
            terminal @ Writer::Terminal { .. } => terminal.write(&[END_OF_INPUT]).map(drop),
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
            Self::Pipe { read, .. } => read_out(read),
            Self::Terminal { master, line } => {
                let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
                let slave = File::from(ioctl_tiocgptpeer(&*master, flags)?);
                never_block(&slave)?;
                let mut unread = read_out(&slave)?;
                unread.append(line);
                Ok(unread)
            }
        }
    }
}

/// Reads until there is nothing.
fn read_out(mut from: &File) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while all.len() < UNREAD_BYTES_MAX {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => all.extend_from_slice(&buffer[..got]),
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

#[cfg(test)]
mod tests {
    use rustix::pty::{grantpt, openpt, unlockpt};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn terminal() -> (Input, File) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = File::from(ioctl_tiocgptpeer(&master, flags).unwrap());
        never_block(&slave).unwrap();
        (Input::terminal(master.into()).unwrap(), slave)
    }

    fn carried(input: &Input) -> Carried {
        input.take_out().unwrap().decode().unwrap()
    }

    #[test]
    fn a_full_pipe_takes_a_part_and_the_rest_travels() {
        let (input, end) = Input::pipe().unwrap();
        let much = vec![b'x'; 1 << 20];
        let taken = input.give(&much, false, Duration::ZERO).unwrap();
        assert!(0 < taken && taken < much.len(), "{taken}");
        let mut first = [0; 10];
        File::from(end).read_exact(&mut first).unwrap();
        assert_eq!(carried(&input).unread.len(), taken - 10);
        assert_eq!(input.give(b"more", false, SOON).unwrap(), 0, "it leaves");
    }

    #[test]
    fn input_of_one_that_stays_is_there_again() {
        let (input, end) = Input::pipe().unwrap();
        input.give(b"not read", false, SOON).unwrap();
        assert_eq!(carried(&input).unread, b"not read");
        input.give_again();
        input.give(b", and more", true, SOON).unwrap();
        let mut all = String::new();
        File::from(end).read_to_string(&mut all).unwrap();
        assert_eq!(all, "not read, and more");
    }

    #[test]
    fn an_end_travels() {
        let (input, _end) = Input::pipe().unwrap();
        input.give(b"the last", true, SOON).unwrap();
        let carried = carried(&input);
        assert!(carried.has_ended && carried.unread == b"the last");
        let (there, end) = Input::pipe().unwrap();
        there.carry(carried);
        there.give_again();
        let mut all = String::new();
        File::from(end).read_to_string(&mut all).unwrap();
        assert_eq!(all, "the last");
    }

    #[test]
    fn lines_that_nobody_has_read_and_one_that_is_being_typed_travel() {
        let (input, mut slave) = terminal();
        let size = WindowSize {
            columns: 91,
            rows: 23,
        };
        assert!(input.resize(size).unwrap());
        input.give(b"read\nnot read\nhalf a", false, SOON).unwrap();
        let mut line = [0; 100];
        let got = slave.read(&mut line).unwrap();
        assert_eq!(&line[..got], b"read\n");
        let carried = carried(&input);
        assert_eq!(carried.unread, b"not read\nhalf a");
        let (there, mut slave) = terminal();
        there.carry(carried);
        there.give_again();
        assert_eq!(there.size(), Some(size));
        there.give(b" line\n", false, SOON).unwrap();
        let mut all = Vec::new();
        while all.iter().filter(|&&byte| byte == b'\n').count() < 2 {
            let got = slave.read(&mut line).unwrap();
            all.extend_from_slice(&line[..got]);
        }
        assert_eq!(all, b"not read\nhalf a line\n");
    }

    #[test]
    fn a_pipe_has_no_size() {
        let (input, _end) = Input::pipe().unwrap();
        let size = WindowSize {
            columns: 1,
            rows: 1,
        };
        assert!(!input.resize(size).unwrap() && input.size().is_none());
    }
}
