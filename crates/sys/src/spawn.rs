//! [`Spawn`]: starts a program that gets the descriptors named for it and no others; [`Child`]: waits for it with a
//! limit of time, learns what it used, and never leaves it behind, running or as a zombie.
//!
//! Descriptors keep their numbers. The child is told them by name in its environment and takes them with
//! [`inherited`]; so no number has to be free in the child (the standard library's own descriptors are among them).
#![allow(
    unsafe_code,
    reason = "what happens between fork and exec, taking an inherited descriptor by number, wait4"
)]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use thiserror::Error;

#[cfg(test)]
mod tests;

/// Prefix of the environment variables that tell a child its descriptors.
const VARIABLE_PREFIX: &str = "STERNA_FD_";

/// Why a program could not be started.
#[derive(Debug, Error)]
#[error("starting {program:?} failed ({step})")]
pub struct SpawnError {
    /// The program.
    pub program: OsString,
    /// What was done.
    pub step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// Why a child could not be waited for.
#[derive(Debug, Error)]
#[error("waiting for a child failed ({step})")]
pub struct WaitError {
    /// The system call.
    pub step: &'static str,
    /// What the kernel said. "No child" if someone else in this process reaped it or ignores `SIGCHLD`.
    pub source: io::Error,
}

/// Why an inherited descriptor could not be taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InheritedError {
    /// The environment does not speak of it.
    #[error("no descriptor named {0:?} was inherited")]
    Missing(String),
    /// The number is not that of an open descriptor that came with the program, or it was taken already.
    #[error("descriptor {number:?}, inherited as {name:?}, is not open or was taken already")]
    Invalid {
        /// Its name.
        name: String,
        /// What the environment says.
        number: String,
    },
}

/// A program to be started, with an empty environment and standard streams on `/dev/null` unless they are given.
///
/// ```
/// use std::time::Duration;
/// use sterna_sys::spawn::Spawn;
/// let child = Spawn::new("/bin/sh").arg("-c").arg("exit 7").start()?;
/// let finished = child.finish(Duration::from_secs(20))?;
/// assert_eq!(finished.exit.status.code(), Some(7));
/// assert!(!finished.timed_out);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Spawn {
    command: Command,
    descriptors: Vec<OwnedFd>,
    die_with_thread: bool,
    without_terminal: bool,
}

impl Spawn {
    /// The program at a path.
    pub fn new(program: impl AsRef<OsStr>) -> Spawn {
        let mut command = Command::new(program);
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Spawn {
            command,
            descriptors: Vec::new(),
            die_with_thread: false,
            without_terminal: false,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Spawn {
        self.command.arg(argument);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Spawn {
        self.command.env(name, value);
        self
    }

    /// Standard input.
    pub fn stdin(mut self, stream: impl Into<OwnedFd>) -> Spawn {
        self.command.stdin(stream.into());
        self
    }

    /// Standard output.
    pub fn stdout(mut self, stream: impl Into<OwnedFd>) -> Spawn {
        self.command.stdout(stream.into());
        self
    }

    /// Standard error.
    pub fn stderr(mut self, stream: impl Into<OwnedFd>) -> Spawn {
        self.command.stderr(stream.into());
        self
    }

    /// Gives a descriptor to the child, which takes it with [`inherited`]. `name`: capital letters, digits and `_`.
    ///
    /// # Panics
    /// `name` has other characters, or `descriptor` is one of the standard streams.
    pub fn descriptor(mut self, name: &str, descriptor: OwnedFd) -> Spawn {
        let valid = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        assert!(
            !name.is_empty() && name.bytes().all(valid),
            "{name:?} is no name for a descriptor"
        );
        assert!(
            descriptor.as_raw_fd() > 2,
            "standard streams have methods of their own"
        );
        self.command.env(
            format!("{VARIABLE_PREFIX}{name}"),
            descriptor.as_raw_fd().to_string(),
        );
        self.descriptors.push(descriptor);
        self
    }

    /// The child is killed when **the calling thread** ends (prctl(2), `PR_SET_PDEATHSIG`), not only with the process: for a
    /// thread that starts the child and waits for it, not for one that may go before.
    pub fn die_with_this_thread(mut self) -> Spawn {
        self.die_with_thread = true;
        self
    }

    /// The child has no terminal, and signals from this process's terminal do not reach it. It stays in the session: with one of
    /// its own it would be scheduled apart (sched(7), autogroups), and wait longer for this process than both must.
    pub fn without_terminal(mut self) -> Spawn {
        self.without_terminal = true;
        self
    }

    /// Starts it. Of this process's descriptors the child has its standard streams and the named ones, whatever flags others have.
    ///
    /// # Errors
    /// No such program, not executable, out of processes or descriptors.
    pub fn start(mut self) -> Result<Child, SpawnError> {
        let inherit: Vec<RawFd> = self.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .current
            .unwrap_or(1 << 20);
        let without_terminal = self.without_terminal;
        let parent = self.die_with_thread.then(rustix::process::getpid);
        let program = self.command.get_program().to_owned();
        let failed = |step, source: io::Error| SpawnError {
            program: program.clone(),
            step,
            source,
        };
        let exec = Exec::of(&self.command).map_err(|error| failed("exec", error))?;
        let between = move || {
            if let Some(parent) = parent {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                if rustix::process::getppid() != Some(parent) {
                    return Err(Errno::SRCH.into()); // it died before the signal was set up
                }
            }
            if without_terminal {
                leave_terminal()?;
            }
            keep_only(&inherit, limit)?;
            Err(exec.replace_this_process())
        };
        // SAFETY: 1. Between fork and exec the closure makes system calls only: it neither allocates, frees nor locks
        // (an `Errno` becomes an `io::Error` without allocation).
        unsafe { self.command.pre_exec(between) };
        let started = self
            .command
            .spawn()
            .map_err(|error| failed("exec", error))?;
        let pid = i32::try_from(started.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("the kernel's process ids are positive");
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Child {
                pid,
                pidfd,
                exit: None,
            }),
            Err(error) => {
                // Not reaped yet, so the id is still that of our child.
                let mut started = started;
                let _ = started.kill();
                let _ = started.wait();
                Err(failed("pidfd_open", error.into()))
            }
        }
    }
}

/// What execve(2) takes, made before the fork. The standard library's own way, `execvp`, gives a file that the kernel
/// cannot run, such as a program for another processor, to a shell.
struct Exec {
    program: CString,
    /// Pointed to by the arrays.
    _texts: Vec<CString>,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
}

// SAFETY: 1. The pointers are to texts that belong to the same value and are never changed.
unsafe impl Send for Exec {}
// SAFETY: 1. As above: it is only read.
unsafe impl Sync for Exec {}

impl Exec {
    /// Of a command whose environment is its own.
    fn of(command: &Command) -> io::Result<Exec> {
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
        let program = text(command.get_program())?;
        let arguments = [command.get_program()]
            .into_iter()
            .chain(command.get_args());
        let arguments = arguments.map(text).collect::<io::Result<Vec<_>>>()?;
        let variables = command.get_envs().filter_map(|(name, value)| {
            let variable = [name.as_bytes(), value?.as_bytes()].join(&b'=');
            Some(text(OsStr::from_bytes(&variable)))
        });
        let variables = variables.collect::<io::Result<Vec<_>>>()?;
        let array = |texts: &[CString]| {
            let pointers = texts.iter().map(|text| text.as_ptr());
            pointers.chain([std::ptr::null()]).collect()
        };
        Ok(Exec {
            program,
            arguments: array(&arguments),
            environment: array(&variables),
            _texts: arguments.into_iter().chain(variables).collect(),
        })
    }

    /// Returns only if that fails. Async-signal-safe.
    fn replace_this_process(&self) -> io::Error {
        // SAFETY: 1. All pointers are to texts that end in 0 and live in `self`, and the arrays end in a null pointer.
        unsafe {
            libc::execve(
                self.program.as_ptr(),
                self.arguments.as_ptr(),
                self.environment.as_ptr(),
            )
        };
        io::Error::last_os_error()
    }
}

/// Gives up the terminal of this process's session, if it has one (tty_ioctl(4)), and leaves its process group.
/// Async-signal-safe.
fn leave_terminal() -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::open(c"/dev/tty", flags, Mode::empty()) {
        Ok(terminal) => {
            // SAFETY: 1. It has no argument.
            if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Err(Errno::NXIO) => {}
        Err(_) => {
            rustix::process::setsid()?;
            return Ok(());
        }
    }
    Ok(rustix::process::setpgid(None, None)?)
}

/// Marks all descriptors but the standard streams to be closed by exec, then unmarks `inherit`. Async-signal-safe.
fn keep_only(inherit: &[RawFd], limit: u64) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: 1. close_range(2) with this flag closes nothing yet, it only marks.
    let marked =
        unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    if marked != 0 {
        // Before Linux 5.11: one by one.
        for number in 3..limit.min(i32::MAX as u64) as RawFd {
            set_close_on_exec(number, true).or_else(|error| {
                if error == Errno::BADF {
                    Ok(())
                } else {
                    Err(error)
                }
            })?;
        }
    }
    for number in inherit {
        set_close_on_exec(*number, false)?;
    }
    Ok(())
}

fn set_close_on_exec(number: RawFd, on: bool) -> rustix::io::Result<()> {
    let flags = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: 1. Only a flag of a number changes; a number that is not open is answered with EBADF.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, flags) };
    if result < 0 {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(())
    }
}

/// Takes the descriptor that [`Spawn::descriptor`] gave under `name`, once. It will not be inherited further.
///
/// # Errors
/// There is none, or it was taken already.
pub fn inherited(name: &str) -> Result<OwnedFd, InheritedError> {
    static TAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _taking = TAKING
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let number = std::env::var(format!("{VARIABLE_PREFIX}{name}"))
        .map_err(|_| InheritedError::Missing(name.to_owned()))?;
    let invalid = || InheritedError::Invalid {
        name: name.to_owned(),
        number: number.clone(),
    };
    let raw: RawFd = number
        .parse()
        .ok()
        .filter(|raw| *raw > 2)
        .ok_or_else(invalid)?;
    // SAFETY: 1. Only asks for a flag; a number that is not open is answered with an error.
    let flags = unsafe { libc::fcntl(raw, libc::F_GETFD) };
    // What this program opened itself is marked to be closed on exec; what came with it is not, until it is taken.
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return Err(invalid());
    }
    set_close_on_exec(raw, true).map_err(|_| invalid())?;
    // SAFETY: 1. Open, and inherited: nothing in this program opened it, so nothing owns it. 2. The mark just set makes this
    // the only time it is taken.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// How a child ended and what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code or the signal that ended it.
    pub status: ExitStatus,
    /// CPU time in user mode, with its own reaped children.
    pub cpu_user: Duration,
    /// CPU time in the kernel.
    pub cpu_system: Duration,
    /// Largest resident memory in bytes; the kernel counts what this process held when it forked.
    pub max_rss_bytes: u64,
}

/// A child that was waited for to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub exit: Exit,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
}

/// A started program. Dropped before its end, it is killed and reaped.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    exit: Option<Exit>,
}

impl Child {
    /// Its process id, valid until it is reaped.
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// Sends `SIGKILL`. Nothing happens if it has ended.
    pub fn kill(&self) {
        // By descriptor, hence never another process of the same id. The only error is that it has ended.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits for its end, at most for `within` (`None`: without limit). `None`: it still runs.
    ///
    /// # Errors
    /// It was reaped by someone else, or the kernel is out of memory.
    pub fn wait(&mut self, within: Option<Duration>) -> Result<Option<Exit>, WaitError> {
        if let Some(exit) = self.exit {
            return Ok(Some(exit));
        }
        let deadline = within.and_then(|within| Instant::now().checked_add(within));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| left.try_into().ok());
            match rustix::event::poll(
                &mut [PollFd::new(&self.pidfd, PollFlags::IN)],
                left.as_ref(),
            ) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(WaitError {
                        step: "poll",
                        source: error.into(),
                    });
                }
            }
        }
        let exit = reap(self.pid).map_err(|source| WaitError {
            step: "wait4",
            source,
        })?;
        self.exit = Some(exit);
        Ok(Some(exit))
    }

    /// Waits for its end and kills it if that takes longer than `within`.
    ///
    /// # Errors
    /// It was reaped by someone else, or the kernel is out of memory.
    pub fn finish(mut self, within: Duration) -> Result<Finished, WaitError> {
        if let Some(exit) = self.wait(Some(within))? {
            return Ok(Finished {
                exit,
                timed_out: false,
            });
        }
        self.kill();
        let exit = self.wait(None)?.expect("waited without limit");
        // It may have ended by itself just before.
        Ok(Finished {
            exit,
            timed_out: exit.status.signal() == Some(libc::SIGKILL),
        })
    }
}

/// The descriptor becomes readable when the child ends (pidfd_open(2)).
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.kill();
            let _ = reap(self.pid);
        }
    }
}

/// Waits for an unreaped child and takes its status and usage.
fn reap(pid: Pid) -> io::Result<Exit> {
    let mut status = 0;
    // SAFETY: 1. All zeros is a valid rusage: numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: 1. Both pointers are to live variables of the types the call writes.
        let result = unsafe {
            libc::wait4(
                pid.as_raw_nonzero().get(),
                &raw mut status,
                0,
                &raw mut usage,
            )
        };
        if result > 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let duration =
        |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    Ok(Exit {
        status: ExitStatus::from_raw(status),
        cpu_user: duration(usage.ru_utime),
        cpu_system: duration(usage.ru_stime),
        max_rss_bytes: usage.ru_maxrss as u64 * 1024, // getrusage(2): kilobytes
    })
}
