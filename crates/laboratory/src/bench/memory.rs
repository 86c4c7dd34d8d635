//! Bytes of threads and processes that wait. Each number is measured in a fresh process, so that nothing is left of
//! another one.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use sterna_sys::spawn::Child;
use sterna_threads::{Builder, JoinHandle, Runtime, park, yield_now};

use crate::carrier::{Carrier, Figure};
use crate::place::apart;
use crate::role::{Player, started};

/// Processes beyond are no longer made: each costs what the first ones do, and making them takes minutes.
const PROCESSES_MAX: u64 = 1000;
/// Processes whose memory is looked at; the others are like them.
const PROCESSES_LOOKED_AT: usize = 16;
/// What a thread takes at least, to see beforehand whether there is memory for all.
const USER_BYTES_MIN: u64 = 4 << 10;
const KERNEL_BYTES_MIN: u64 = 24 << 10;
/// Share of the free memory that is used.
const FREE_SHARE: f64 = 0.7;

/// Bytes of one that waits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Held {
    /// Of its process's memory, with page tables; of processes, what they share with nobody.
    pub resident_bytes: f64,
    /// Of its stack in the kernel. Other records of the kernel, such as `task_struct`, are not counted.
    pub kernel_stack_bytes: f64,
}

impl Held {
    /// Together.
    pub fn total(self) -> f64 {
        self.resident_bytes + self.kernel_stack_bytes
    }
}

/// Memory of so many that wait.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryRow {
    /// How many.
    pub count: u64,
    /// What they are.
    pub carrier: Carrier,
    /// What one of them holds.
    pub held: Figure<Held>,
}

pub(super) struct Case {
    pub(super) count: u64,
    pub(super) carrier: Carrier,
}

pub(super) fn cases(counts: &[u64]) -> Vec<Case> {
    let of = |&count| Carrier::ALL.map(|carrier| Case { count, carrier });
    counts.iter().flat_map(of).collect()
}

impl Case {
    pub(super) fn measured(self, player: &Player) -> MemoryRow {
        let Self { count, carrier } = self;
        let held = apart(|| {
            room_for(carrier, count)?;
            match carrier {
                Carrier::Process => processes(count, player),
                _ => threads(carrier, count, player),
            }
        });
        MemoryRow {
            count,
            carrier,
            held: Figure::of(held),
        }
    }
}

/// Whether the machine can hold so many.
fn room_for(carrier: Carrier, count: u64) -> io::Result<()> {
    let each = match carrier {
        Carrier::User | Carrier::Hybrid => USER_BYTES_MIN,
        Carrier::Kernel | Carrier::Process => KERNEL_BYTES_MIN,
    };
    let free = field("/proc/meminfo", "MemAvailable:")?;
    if (count * each) as f64 > free as f64 * FREE_SHARE {
        let text = format!("there is not enough memory for {count}");
        return Err(io::Error::other(text));
    }
    if carrier == Carrier::Process && count > PROCESSES_MAX {
        let text = format!("no more than {PROCESSES_MAX} are tried: all are alike");
        return Err(io::Error::other(text));
    }
    if carrier == Carrier::Kernel {
        for limit in ["threads-max", "pid_max"] {
            let text = fs::read_to_string(format!("/proc/sys/kernel/{limit}"))?;
            let most: u64 = text.trim().parse().map_err(io::Error::other)?;
            if count >= most {
                let text = format!("{count} are too many: kernel.{limit} is {most}");
                return Err(io::Error::other(text));
            }
        }
    }
    Ok(())
}

/// A number of kilobytes from a file of `/proc`, in bytes.
fn field(path: &str, name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let sum: u64 = text
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    Ok(sum * 1024)
}

fn kernel_stacks() -> io::Result<u64> {
    field("/proc/meminfo", "KernelStack:")
}

fn resident(pid: u32) -> io::Result<u64> {
    let status = format!("/proc/{pid}/status");
    Ok(field(&status, "VmRSS:")? + field(&status, "VmPTE:")?)
}

/// A process with a part that says when it is ready, and goes on when its input is closed or gets a byte.
struct Waiting {
    child: Child,
    to: io::PipeWriter,
    from: BufReader<io::PipeReader>,
}

impl Waiting {
    fn start(player: &Player, arguments: &[&str]) -> io::Result<Self> {
        let (input, to) = io::pipe()?;
        let (from, output) = io::pipe()?;
        let part = player.part(arguments).stdin(OwnedFd::from(input));
        Ok(Self {
            child: started(part.stdout(OwnedFd::from(output)))?,
            to,
            from: BufReader::new(from),
        })
    }

    fn ready(&mut self) -> io::Result<()> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        match line.trim() {
            "ready" => Ok(()),
            "" => Err(io::Error::other("it ended without a word")),
            other => Err(io::Error::other(other.to_owned())),
        }
    }
}

fn processes(count: u64, player: &Player) -> io::Result<Held> {
    let stacks = kernel_stacks()?;
    let mut all = Vec::new();
    for _ in 0..count {
        let mut waiting = Waiting::start(player, &["wait"])?;
        waiting.ready()?;
        all.push(waiting);
    }
    let stacks = kernel_stacks()?.saturating_sub(stacks);
    let mut bytes = 0;
    let looked_at = all.len().min(PROCESSES_LOOKED_AT);
    for waiting in &all[..looked_at] {
        let pid = waiting.child.id();
        let rollup = format!("/proc/{pid}/smaps_rollup");
        bytes += field(&rollup, "Private_Clean:")? + field(&rollup, "Private_Dirty:")?;
        bytes += field(&format!("/proc/{pid}/status"), "VmPTE:")?;
    }
    Ok(Held {
        resident_bytes: bytes as f64 / looked_at.max(1) as f64,
        kernel_stack_bytes: stacks as f64 / count.max(1) as f64,
    })
}

fn threads(carrier: Carrier, count: u64, player: &Player) -> io::Result<Held> {
    let arguments = ["block", carrier.word(), &count.to_string()];
    let mut waiting = Waiting::start(player, &arguments)?;
    waiting.ready()?;
    let pid = waiting.child.id();
    let before = (resident(pid)?, kernel_stacks()?);
    waiting.to.write_all(b"\n")?;
    waiting.ready()?;
    let after = (resident(pid)?, kernel_stacks()?);
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / count.max(1) as f64;
    // User threads have no stacks in the kernel; what others on this machine do is not theirs.
    let stacks = match carrier {
        Carrier::Kernel => each(after.1, before.1),
        _ => 0.0,
    };
    Ok(Held {
        resident_bytes: each(after.0, before.0),
        kernel_stack_bytes: stacks,
    })
}

/// The part of the process that is measured: it says when its runtime is there, waits for a byte, makes the threads,
/// says when all wait, and ends with its input.
pub(crate) fn block(carrier: &str, count: usize) -> io::Result<()> {
    let implementation = Carrier::of_word(carrier)
        .and_then(Carrier::implementation)
        .ok_or_else(|| io::Error::other("there are no such threads"))?;
    let runtime = Runtime::builder(implementation).build()?;
    let ready = || {
        println!("ready");
        io::stdout().flush()
    };
    ready()?;
    io::stdin().read_exact(&mut [0])?;
    runtime.run(|| {
        let waiting = Arc::new(AtomicUsize::new(0));
        // Not in a growing vector: its copies would count.
        let mut handles: Vec<JoinHandle<()>> = Vec::with_capacity(count);
        for _ in 0..count {
            let waiting = Arc::clone(&waiting);
            let wait = move || {
                waiting.fetch_add(1, Ordering::Relaxed);
                park();
            };
            let runtime = Builder::new().spawn(wait);
            handles.push(runtime?);
        }
        while waiting.load(Ordering::Relaxed) < count {
            yield_now();
        }
        ready()?;
        io::stdin().read_to_end(&mut Vec::new())?;
        // Ending by itself would take as long again.
        std::process::exit(0)
    })
}
