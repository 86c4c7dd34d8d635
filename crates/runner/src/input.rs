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
use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{QueueSelector, Winsize, tcflush, tcgetwinsize, tcsetwinsize};
use serde::{Deserialize, Serialize};
use sterna_process::{Section, SectionError, Sections, Tag};

use crate::limits::{LINE_BYTES_MAX, UNREAD_BYTES_MAX};
use crate::message::WindowSize;

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
        match end && taken == bytes.len() {
            // Whoever gives sees by the number that bytes are left; that the end is, only so.
            true => Err(io::Error::other("it is being moved: try again")),
            false => Ok(taken),
        }
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
        drop(inner);
        // It fitted before; but who has many pipes gets small ones (pipe(7)).
        if matches!(caught_up, Ok(false)) {
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
        let full = {
            let mut inner = self.lock();
            match inner.leaves {
                true => return false,
                false => match inner.catch_up() {
                    Ok(false) => inner.writer.again(),
                    Ok(true) | Err(_) => return false,
                },
            }
        };
        full.is_ok_and(|full| wait_for_room(&full, CATCH_UP_WITHIN).is_ok())
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

#[cfg(test)]
mod tests {
    use rustix::pty::{grantpt, openpt, unlockpt};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn terminal() -> (Arc<Input>, File) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = File::from(ioctl_tiocgptpeer(&master, flags).unwrap());
        never_block(&slave).unwrap();
        (Input::terminal(master.into()).unwrap().into(), slave)
    }

    fn pipe() -> (Arc<Input>, OwnedFd) {
        let (input, end) = Input::pipe().unwrap();
        (input.into(), end)
    }

    /// Lines that the process reads, so many.
    fn read_lines(slave: &mut File, count: usize) -> String {
        let (mut all, mut line) = (Vec::new(), [0; 100]);
        while all.iter().filter(|&&byte| byte == b'\n').count() < count {
            let got = slave.read(&mut line).unwrap();
            all.extend_from_slice(&line[..got]);
        }
        String::from_utf8(all).unwrap()
    }

    fn carried(input: &Input) -> Carried {
        input.take_out().unwrap().decode().unwrap()
    }

    #[test]
    fn a_full_pipe_takes_a_part_and_the_rest_travels() {
        let (input, end) = pipe();
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
        let (input, end) = pipe();
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
        let (input, _end) = pipe();
        input.give(b"the last", true, SOON).unwrap();
        let carried = carried(&input);
        assert!(carried.has_ended && carried.unread == b"the last");
        let (there, end) = pipe();
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
        assert_eq!(read_lines(&mut slave, 2), "not read\nhalf a line\n");
    }

    #[test]
    fn a_line_that_is_being_typed_to_one_that_stays_is_there_once() {
        let (input, mut slave) = terminal();
        input.give(b"not read\nhalf a", false, SOON).unwrap();
        for _ in 0..3 {
            assert_eq!(carried(&input).unread, b"not read\nhalf a");
            input.give_again();
        }
        input.give(b" line\n", false, SOON).unwrap();
        assert_eq!(read_lines(&mut slave, 2), "not read\nhalf a line\n");
    }

    #[test]
    fn ends_of_input_at_a_terminal_travel_in_their_places() {
        let (input, _slave) = terminal();
        input.give(b"a line\n", true, SOON).unwrap();
        input.give(b"no line", true, SOON).unwrap();
        input.give(b"the next\n", false, SOON).unwrap();
        let carried = carried(&input);
        assert_eq!(carried.unread, b"a line\n\x04no line\x04the next\n");
        let (there, mut slave) = terminal();
        there.carry(carried);
        there.give_again();
        let mut line = [0; 100];
        let reads: Vec<usize> = (0..4).map(|_| slave.read(&mut line).unwrap()).collect();
        assert_eq!(reads, [7, 0, 7, 9]);
    }

    #[test]
    fn what_does_not_fit_into_a_smaller_pipe_follows_before_what_comes_later() {
        let (input, end) = pipe();
        let mut much: Vec<u8> = (0..60_000_u32).map(|at| (at % 251) as u8).collect();
        assert_eq!(input.give(&much, false, SOON).unwrap(), much.len());
        let carried = carried(&input);
        drop((input, end));
        let (there, end) = pipe();
        rustix::pipe::fcntl_setpipe_size(&end, 4096).unwrap();
        there.carry(carried);
        there.give_again();
        let more = Arc::clone(&there);
        let giving = thread::spawn(move || more.give(b"and more", true, SOON).unwrap());
        let flags = fcntl_getfl(&end).unwrap();
        fcntl_setfl(&end, flags - OFlags::NONBLOCK).unwrap();
        let mut all = Vec::new();
        File::from(end).read_to_end(&mut all).unwrap();
        assert_eq!(giving.join().unwrap(), 8);
        much.extend(b"and more");
        assert!(all == much, "{} bytes of {}", all.len(), much.len());
    }

    #[test]
    fn an_end_that_comes_too_late_is_said_not_to_be_taken() {
        let (input, _end) = pipe();
        drop(carried(&input));
        assert!(input.give(b"", true, Duration::ZERO).is_err());
        assert_eq!(input.give(b"x", true, Duration::ZERO).unwrap(), 0);
    }

    #[test]
    fn a_pipe_has_no_size() {
        let (input, _end) = pipe();
        let size = WindowSize {
            columns: 1,
            rows: 1,
        };
        assert!(!input.resize(size).unwrap() && input.size().is_none());
    }
}
