//! A server under measurement: its process, its clients, and what it takes.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files::Served;
use crate::load::{Orders, Report};
use crate::role::{LOAD, ROLE, SERVER, ServerOrders, ServerReady};

/// Why a server could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// A process could not be started or spoken with.
    #[error("could not speak with the process of role {role}: {source}")]
    Process {
        /// Which.
        role: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not say what a process takes.
    #[error("could not read what the server takes: {0}")]
    Usage(#[source] io::Error),
}

/// What a server and the processes that it has started have taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// CPU time, of the kernel for it too.
    pub cpu: Duration,
    /// Proportional set size: memory that several of them share counts once.
    pub memory_kib: u64,
}

/// A server in a process of its own. Dropped, it is killed.
#[derive(Debug)]
pub struct Subject {
    process: Process,
    ready: ServerReady,
}

impl Subject {
    /// Starts it. `program` calls [`role::run`](crate::role::run).
    ///
    /// # Errors
    /// [`SubjectError::Process`].
    pub fn start(program: &Path, orders: &ServerOrders) -> Result<Self, SubjectError> {
        let mut process = Process::start(program, SERVER)?;
        process.tell(orders)?;
        let ready = process.hear()?;
        Ok(Self { process, ready })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.ready.address
    }

    /// The process's number.
    pub fn process(&self) -> u32 {
        self.process.child.id()
    }

    /// Stops it.
    ///
    /// # Errors
    /// [`SubjectError::Process`].
    pub fn end(mut self) -> Result<Served, SubjectError> {
        drop(self.process.input.take());
        self.process.hear()
    }
}

/// Lets clients in another process measure a server of whatever kind, whose process is `server`.
///
/// # Errors
/// See [`SubjectError`].
pub fn measure(
    program: &Path,
    orders: &Orders,
    server: u32,
) -> Result<(Report, Usage), SubjectError> {
    let mut clients = Process::start(program, LOAD)?;
    let before = usage(server).map_err(SubjectError::Usage)?;
    clients.tell(orders)?;
    // Just before the end, when all is still connected.
    let sooner = Duration::from_millis(20);
    sleep((orders.warm_up + orders.duration).saturating_sub(sooner));
    let memory_kib = usage(server).map_err(SubjectError::Usage)?.memory_kib;
    let report = clients.hear()?;
    let after = usage(server).map_err(SubjectError::Usage)?;
    let cpu = after.cpu.saturating_sub(before.cpu);
    Ok((report, Usage { cpu, memory_kib }))
}

/// What a process and its children take.
///
/// # Errors
/// There is no such process.
pub fn usage(process: u32) -> io::Result<Usage> {
    let mut sum = of_one(process)?;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may end while it is looked at.
        if let Ok(stat) = Stat::of(number)
            && stat.parent == process
            && let Ok(one) = of_one(number)
        {
            sum.cpu += one.cpu;
            sum.memory_kib += one.memory_kib;
        }
    }
    Ok(sum)
}

fn of_one(process: u32) -> io::Result<Usage> {
    let stat = Stat::of(process)?;
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let memory = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let memory = memory.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok());
    Ok(Usage {
        cpu: Duration::from_secs_f64(stat.ticks as f64 / ticks_per_second),
        memory_kib: memory.unwrap_or(0),
    })
}

/// What is used of proc_pid_stat(5).
struct Stat {
    parent: u32,
    /// Of the process and its threads, in user and kernel mode.
    ticks: u64,
}

impl Stat {
    fn of(process: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name before it may have anything in it.
        let (_, fields) = text.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?;
        let field = |number: usize| {
            let field = fields.split_ascii_whitespace().nth(number - 3);
            let field = field.and_then(|field| field.parse::<u64>().ok());
            field.ok_or(io::ErrorKind::InvalidData)
        };
        Ok(Self {
            parent: field(4)? as u32,
            ticks: field(14)? + field(15)?,
        })
    }
}

/// A process with a role, spoken with in lines of JSON.
#[derive(Debug)]
struct Process {
    role: &'static str,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(program: &Path, role: &'static str) -> Result<Self, SubjectError> {
        let error = |source| SubjectError::Process { role, source };
        let mut command = Command::new(program);
        command
            .args([ROLE, role])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(error)?;
        let input = child.stdin.take();
        let output = child
            .stdout
            .take()
            .ok_or_else(|| error(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self {
            role,
            child,
            input,
            output: BufReader::new(output),
        })
    }

    fn error(&self, source: io::Error) -> SubjectError {
        SubjectError::Process {
            role: self.role,
            source,
        }
    }

    fn tell(&mut self, what: &impl Serialize) -> Result<(), SubjectError> {
        let line = serde_json::to_string(what).map_err(|error| self.error(error.into()))?;
        let told = match &mut self.input {
            Some(input) => writeln!(input, "{line}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        told.map_err(|error| self.error(error))
    }

    fn hear<T: DeserializeOwned>(&mut self) -> Result<T, SubjectError> {
        let mut line = String::new();
        let heard = self.output.read_line(&mut line);
        heard.map_err(|error| self.error(error))?;
        serde_json::from_str(&line).map_err(|error| self.error(error.into()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.input.take());
        // It may have ended; then this only collects it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
