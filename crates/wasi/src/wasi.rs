//! One process's world, and the way from a call's raw arguments to the code that does it.

use crate::abi::{Errno, Version};
use crate::clocks::ProcessClocks;
use crate::config::{Config, ConfigError, Limits, Stdio};
use crate::function::Function;
use crate::memory::Memory;
use crate::poll::PendingPoll;
use crate::step::{Halt, Outcome, Step, Wait};
use crate::streams::{HostFile, Stream};
use crate::table::{Entry, Resource, Root, Table};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// One process's WASI world: descriptors, clocks, arguments, environment.
pub struct Wasi {
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) environment: Vec<Vec<u8>>,
    pub(crate) table: Table,
    pub(crate) clocks: ProcessClocks,
    pub(crate) output: Output,
    pub(crate) pending: Option<Pending>,
}

/// What is remembered of a call that waits. Gone when it completes, or another call is issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Pending {
    Poll(PendingPoll),
    /// How much of a large `random_get` has been filled.
    Random {
        at: u32,
        len: u32,
        done: u32,
    },
}

/// Bytes written, and how many may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) used: u64,
    pub(crate) limit: Option<u64>,
}

impl Output {
    /// How many of `wanted` bytes may be written; `EDQUOT` if none.
    pub(crate) fn allowance(&self, wanted: usize) -> Result<usize, Errno> {
        let left = self
            .limit
            .map_or(u64::MAX, |limit| limit.saturating_sub(self.used));
        match usize::try_from(left).unwrap_or(usize::MAX) {
            0 => Err(Errno::DQUOT),
            left => Ok(wanted.min(left)),
        }
    }

    pub(crate) fn charge(&mut self, bytes: u64) {
        self.used = self.used.saturating_add(bytes);
    }
}

impl Wasi {
    /// The world of a new process.
    ///
    /// # Errors
    /// Anything in `config` that the ABI or its own limits do not allow.
    pub fn new(config: Config) -> Result<Wasi, ConfigError> {
        check_strings("argument", "arguments", &config.arguments)?;
        check_strings(
            "environment variable",
            "environment variables",
            &config.environment,
        )?;
        check_limits(&config.limits)?;
        for (index, directory) in config.directories.iter().enumerate() {
            if config.directories[..index]
                .iter()
                .any(|other| other.guest == directory.guest)
            {
                return Err(ConfigError::SameName(directory.guest.clone()));
            }
        }
        let wanted = 3 + config.listeners.len() + config.sockets.len() + config.directories.len();
        if wanted > config.limits.descriptors as usize {
            return Err(ConfigError::TooMany {
                wanted,
                limit: config.limits.descriptors,
            });
        }
        let mut table = Table::new(config.limits.descriptors);
        let unusable = |name: String| move |source| ConfigError::Unusable { name, source };
        for (slot, stdio) in (0u8..).zip(config.stdio) {
            if let Some(stream) =
                stream(stdio).map_err(unusable(format!("standard stream {slot}")))?
            {
                let _ = table.put(slot.into(), Entry::stdio(slot, stream));
            }
        }
        let mut number = 3;
        for (index, listener) in (0..).zip(config.listeners) {
            let name = format!("listener {:?}", listener.name);
            let entry = Entry::listener(index, listener).map_err(unusable(name))?;
            let _ = table.put(number, entry);
            number += 1;
        }
        for socket in config.sockets {
            let name = format!("socket {:?}", socket.name);
            let host = HostFile::inherit(socket.fd).and_then(HostFile::into_socket);
            let host = host.map_err(unusable(name))?;
            let _ = table.put(number, Entry::socket(host, socket.name));
            number += 1;
        }
        for directory in config.directories {
            let name = format!("directory {}", directory.host.display());
            let entry =
                Entry::preopened(Arc::new(Root::from(directory))).map_err(unusable(name))?;
            let _ = table.put(number, entry);
            number += 1;
        }
        Ok(Wasi {
            arguments: config.arguments,
            environment: config.environment,
            table,
            clocks: ProcessClocks::start(config.clocks, Duration::ZERO, Duration::ZERO),
            output: Output {
                used: 0,
                limit: config.limits.output_bytes,
            },
            pending: None,
        })
    }

    /// Issues a call. `arguments` are the raw WebAssembly arguments, 32-bit ones in the low half of
    /// each slot; `memory` is the guest's whole linear memory (empty if it exports none).
    ///
    /// Nothing a guest passes makes this panic. Pointers outside the memory give `EFAULT`, before
    /// the call has had any effect.
    pub fn call(&mut self, function: Function, arguments: &[u64], memory: &mut [u8]) -> Step {
        self.call_in(function, arguments, Memory::new(memory, None))
    }

    /// The same for a memory of which parts may not be there yet, so that who touches them waits, and the kernel, which does
    /// not wait, refuses them. `touch` is given each area before the kernel is. It says whether all of it is there; if not,
    /// the call fails with `EFAULT`.
    pub fn call_touching(
        &mut self,
        function: Function,
        arguments: &[u64],
        memory: &mut [u8],
        touch: &dyn Fn(&[u8]) -> bool,
    ) -> Step {
        self.call_in(function, arguments, Memory::new(memory, Some(touch)))
    }

    fn call_in(&mut self, function: Function, arguments: &[u64], mut memory: Memory<'_>) -> Step {
        if function == Function::ProcExit {
            return Step::Exit(Arguments(arguments).u32(0));
        }
        if self.pending.is_some() && !self.continues(function, arguments) {
            self.pending = None;
        }
        match self.dispatch(function, Arguments(arguments), &mut memory) {
            Ok(()) => Step::Done(Errno::SUCCESS),
            Err(Halt::Errno(errno)) => Step::Done(errno),
            Err(Halt::Wait(wait)) => Step::Wait(wait),
        }
    }

    /// Writes to the process's standard output, as the process would. What its limit does not allow, or
    /// nobody takes, is lost.
    ///
    /// # Errors
    /// There is no room: how many bytes have been written, and what to wait for before the others.
    pub fn print(&mut self, text: &[u8]) -> Result<(), (usize, Wait)> {
        let mut rest = text;
        while !rest.is_empty() {
            let Ok(entry) = self.table.get_mut(1) else {
                return Ok(());
            };
            let Resource::Stdio { stream, .. } = &mut entry.resource else {
                return Ok(());
            };
            let piece = &rest[..rest.len().min(stream.write_max())];
            match stream.write(&[io::IoSlice::new(piece)]) {
                Ok(written) => {
                    self.output.charge(written as u64);
                    rest = &rest[written..];
                }
                Err(Halt::Errno(_)) => return Ok(()),
                Err(Halt::Wait(wait)) => return Err((text.len() - rest.len(), wait)),
            }
        }
        Ok(())
    }

    /// The process's own clock: what deadlines of [`Wait`](crate::Wait) are on.
    pub fn now(&self) -> Duration {
        self.clocks.now()
    }

    /// Stops the process's clock, when it is frozen.
    pub fn stop_clock(&mut self) {
        self.clocks.stop();
    }

    /// Lets the process's clock go on, if it was stopped.
    pub fn start_clock(&mut self) {
        self.clocks.go_on();
    }

    /// Bytes written so far, as [`Limits::output_bytes`] counts them.
    pub fn output_bytes(&self) -> u64 {
        self.output.used
    }

    fn continues(&self, function: Function, arguments: &[u64]) -> bool {
        let arguments = Arguments(arguments);
        match (&self.pending, function) {
            (Some(Pending::Poll(poll)), Function::PollOneoff) => {
                poll.is_of(Version::Snapshot1, arguments)
            }
            (Some(Pending::Poll(poll)), Function::PollOneoffUnstable) => {
                poll.is_of(Version::Unstable, arguments)
            }
            (Some(Pending::Random { at, len, .. }), Function::RandomGet) => {
                (*at, *len) == (arguments.u32(0), arguments.u32(1))
            }
            _ => false,
        }
    }

    #[rustfmt::skip] // one line a function
    fn dispatch(&mut self, function: Function, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        use Function::*;
        match function {
            ArgsGet => crate::process::strings_get(&self.arguments, a, m),
            ArgsSizesGet => crate::process::strings_sizes(&self.arguments, a, m),
            EnvironGet => crate::process::strings_get(&self.environment, a, m),
            EnvironSizesGet => crate::process::strings_sizes(&self.environment, a, m),
            ClockResGet => Ok(m.put_u64(a.u32(1), self.clocks.resolution(a.u32(0))?)?),
            ClockTimeGet => Ok(m.put_u64(a.u32(2), self.clocks.read(a.u32(0))?)?),
            FdAdvise => self.fd_advise(a),
            FdAllocate => self.fd_allocate(a),
            FdClose => Ok(self.table.remove(a.u32(0)).map(drop)?),
            FdDatasync => self.fd_sync(a, true),
            FdFdstatGet => self.fd_fdstat_get(a, m),
            FdFdstatSetFlags => self.fd_fdstat_set_flags(a),
            FdFdstatSetRights => self.fd_fdstat_set_rights(a),
            FdFilestatGet => self.fd_filestat_get(a, m, Version::Snapshot1),
            FdFilestatGetUnstable => self.fd_filestat_get(a, m, Version::Unstable),
            FdFilestatSetSize => self.fd_filestat_set_size(a),
            FdFilestatSetTimes => self.fd_filestat_set_times(a),
            FdPread => self.fd_pread(a, m),
            FdPrestatGet => self.fd_prestat_get(a, m),
            FdPrestatDirName => self.fd_prestat_dir_name(a, m),
            FdPwrite => self.fd_pwrite(a, m),
            FdRead => self.fd_read(a, m),
            FdReaddir => self.fd_readdir(a, m),
            FdRenumber => Ok(self.table.renumber(a.u32(0), a.u32(1))?),
            FdSeek => self.fd_seek(a, m, Version::Snapshot1),
            FdSeekUnstable => self.fd_seek(a, m, Version::Unstable),
            FdSync => self.fd_sync(a, false),
            FdTell => self.fd_tell(a, m),
            FdWrite => self.fd_write(a, m),
            PathCreateDirectory => self.path_create_directory(a, m),
            PathFilestatGet => self.path_filestat_get(a, m, Version::Snapshot1),
            PathFilestatGetUnstable => self.path_filestat_get(a, m, Version::Unstable),
            PathFilestatSetTimes => self.path_filestat_set_times(a, m),
            PathLink => self.path_link(a, m),
            PathOpen => self.path_open(a, m),
            PathReadlink => self.path_readlink(a, m),
            PathRemoveDirectory => self.path_remove_directory(a, m),
            PathRename => self.path_rename(a, m),
            PathSymlink => self.path_symlink(a, m),
            PathUnlinkFile => self.path_unlink_file(a, m),
            PollOneoff => self.poll_oneoff(a, m, Version::Snapshot1),
            PollOneoffUnstable => self.poll_oneoff(a, m, Version::Unstable),
            ProcRaise => Err(Errno::NOTSUP.into()),
            RandomGet => self.random_get(a, m),
            SchedYield | ProcExit => Ok(()),
            SockAccept => self.sock_accept(a, m),
            SockRecv => self.sock_recv(a, m),
            SockSend => self.sock_send(a, m),
            SockShutdown => self.sock_shutdown(a),
        }
    }
}

impl std::fmt::Debug for Wasi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wasi")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

/// Raw arguments; missing ones read as zero.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a>(&'a [u64]);

impl Arguments<'_> {
    pub(crate) fn u64(self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or(0)
    }

    pub(crate) fn u32(self, index: usize) -> u32 {
        self.u64(index) as u32
    }

    /// A 16-bit set of flags; `EINVAL` for bits that are not in `all`.
    pub(crate) fn flags(self, index: usize, all: u16) -> Result<u16, Errno> {
        match u16::try_from(self.u32(index)) {
            Ok(flags) if flags & !all == 0 => Ok(flags),
            _ => Err(Errno::INVAL),
        }
    }
}

/// The stream behind a configured one; none if it is closed.
pub(crate) fn stream(stdio: Stdio) -> io::Result<Option<Stream>> {
    Ok(match stdio {
        Stdio::Inherit(fd) => Some(Stream::Host(HostFile::inherit(fd)?)),
        Stdio::Null => Some(Stream::Null),
        Stdio::Closed => None,
        Stdio::Input(bytes) => Some(Stream::Input { bytes, position: 0 }),
        Stdio::Output(output) => Some(Stream::Output(output)),
    })
}

pub(crate) fn check_limits(limits: &Limits) -> Result<(), ConfigError> {
    match limits.descriptors {
        high if high > Limits::DESCRIPTORS_MAX => Err(ConfigError::LimitTooHigh(high)),
        _ => Ok(()),
    }
}

fn check_strings(
    what: &'static str,
    plural: &'static str,
    strings: &[Vec<u8>],
) -> Result<(), ConfigError> {
    const TOTAL_MAX: usize = 1 << 30;
    if let Some(index) = strings.iter().position(|string| string.contains(&0)) {
        return Err(ConfigError::Nul { what, index });
    }
    let total = strings
        .iter()
        .fold(0usize, |sum, string| sum.saturating_add(string.len() + 1));
    if total.max(strings.len() * 4) > TOTAL_MAX {
        Err(ConfigError::TooLarge(plural))
    } else {
        Ok(())
    }
}
