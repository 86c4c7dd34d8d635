//! [`Follower`]: the kernel's records of switches (perf_event_open(2): `context_switch`, `task`, `comm`, `inherit`).
//!
//! A counter that counts nothing is opened for the program on each processor, and writes a record into a ring when one
//! of the program's threads gets or loses that processor, is made, named or ends. Rings are emptied often; what they
//! held is put in the order of time, and what may still be followed by something earlier waits for the next time.
//! Every user may follow programs of her own if `kernel.perf_event_paranoid` is at most 2, the default.

use std::fs;
use std::io;

use perf_event::events::Software;
use perf_event::{Builder, Clock, SampleFlag};
use rustix::time::ClockId;

use super::processors;
use super::sample::{self, Task};
use super::tally::{Event, Sums, Tally, What};

/// Pages of a ring, for 40 bytes at each switch: what every user may have (`kernel.perf_event_mlock_kb`).
const RING_PAGES: usize = 128;
/// The same where each thread has rings of its own.
const RING_PAGES_EACH: usize = 8;
/// Threads that are followed from the middle of a process's life; more have no place in descriptors.
const THREADS_MAX: usize = 1000;
/// A record appears in its ring at most so long after its time.
const LATE_NS: u64 = 5_000_000;

// Types of records and what they have in `misc` (linux/perf_event.h).
const LOST: u32 = 2;
const COMM: u32 = 3;
const EXIT: u32 = 4;
const FORK: u32 = 7;
const SWITCH: u32 = 14;
const MISC_COMM_EXEC: u16 = 1 << 13;
const MISC_SWITCH_OUT: u16 = 1 << 13;
const MISC_SWITCH_PREEMPTED: u16 = 1 << 14;
/// What ends each record, as we ask for it: process, thread, time, processor.
const TRAILER_BYTES: usize = 24;

/// Follows a program.
pub(super) struct Follower {
    rings: Vec<perf_event::Sampler>,
    tally: Tally,
    /// Taken from rings, not yet counted.
    waiting: Vec<Event>,
    lost: u64,
}

impl Follower {
    /// Follows all processes that the calling thread makes from now on, from the moment in which they execute a program.
    pub(super) fn of_what_this_thread_starts() -> io::Result<Self> {
        let mut follower = Self::new();
        follower.open(0, RING_PAGES, true)?;
        Ok(follower)
    }

    /// Follows a running process.
    pub(super) fn of_process(pid: u32) -> io::Result<Self> {
        let mut follower = Self::new();
        let mut known = Vec::new();
        // Threads made meanwhile by one that is followed are followed; others are found by looking again.
        loop {
            let tasks: Vec<Task> = sample::tasks(pid);
            if tasks.len() > THREADS_MAX {
                let text = format!("it has more than {THREADS_MAX} threads");
                return Err(io::Error::other(text));
            }
            let fresh: Vec<&Task> = tasks
                .iter()
                .filter(|task| !known.contains(&task.thread))
                .collect();
            if fresh.is_empty() {
                break;
            }
            for task in fresh {
                known.push(task.thread);
                match follower.open(task.thread, RING_PAGES_EACH, false) {
                    Err(error)
                        if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                    }
                    other => other?,
                }
            }
        }
        // The states are looked at now, when every change of them is in the rings.
        follower.tally = Tally::new(now_ns());
        for task in sample::tasks(pid) {
            follower
                .tally
                .was_there(task.thread, &task.name, task.ready);
        }
        Ok(follower)
    }

    fn new() -> Self {
        Self {
            rings: Vec::new(),
            tally: Tally::new(now_ns()),
            waiting: Vec::new(),
            lost: 0,
        }
    }

    fn open(&mut self, thread: i32, pages: usize, on_exec: bool) -> io::Result<()> {
        for processor in processors() {
            let counter = Builder::new(Software::DUMMY)
                .observe_pid(thread)
                .one_cpu(processor)
                .inherit(true)
                .context_switch(true)
                .task(true)
                .comm(true)
                .comm_exec(true)
                .exclude_kernel(true)
                .exclude_hv(true)
                .sample_id_all(true)
                .sample(SampleFlag::TID | SampleFlag::TIME | SampleFlag::CPU)
                .clockid(Clock::MONOTONIC)
                .enabled(!on_exec)
                .enable_on_exec(on_exec)
                .build()
                .map_err(explained)?;
            let bytes = pages * rustix::param::page_size();
            self.rings.push(counter.sampled(bytes)?);
        }
        Ok(())
    }

    /// Empties the rings and counts what is old enough.
    pub(super) fn take(&mut self) {
        let settled_ns = now_ns().saturating_sub(LATE_NS);
        for ring in &mut self.rings {
            while let Some(record) = ring.next_record() {
                let bytes = record.to_contiguous();
                match parse(record.ty(), record.misc(), &bytes) {
                    Some(Parsed::Event(event)) => self.waiting.push(event),
                    Some(Parsed::Lost(count)) => self.lost += count,
                    None => {}
                }
            }
        }
        self.waiting.sort_by_key(|event| event.time_ns); // stable: records of one processor stay in their order
        let settled = self
            .waiting
            .partition_point(|event| event.time_ns <= settled_ns);
        for event in self.waiting.drain(..settled) {
            self.tally.event(event);
        }
    }

    /// The sums, and how many records were lost.
    pub(super) fn finish(mut self) -> (Sums, u64) {
        let end_ns = now_ns();
        self.take();
        let last_ns = self.waiting.last().map_or(0, |event| event.time_ns);
        for event in std::mem::take(&mut self.waiting) {
            self.tally.event(event);
        }
        (self.tally.finish(end_ns.max(last_ns)), self.lost)
    }
}

/// What a refusal means, and what helps.
fn explained(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    let text = format!(
        "{error} (kernel.perf_event_paranoid is {}; at most 2 lets you follow your own programs)",
        level.trim()
    );
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

fn now_ns() -> u64 {
    let time = rustix::time::clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[derive(Debug, PartialEq)]
enum Parsed {
    Event(Event),
    Lost(u64),
}

/// A record without its header; `None` if it is of no interest.
fn parse(kind: u32, misc: u16, bytes: &[u8]) -> Option<Parsed> {
    let word = |at: usize| -> Option<i32> {
        let bytes = bytes.get(at..at + 4)?;
        bytes.try_into().ok().map(i32::from_ne_bytes)
    };
    let long = |at: usize| -> Option<u64> {
        let bytes = bytes.get(at..at + 8)?;
        bytes.try_into().ok().map(u64::from_ne_bytes)
    };
    let trailer = bytes.len().checked_sub(TRAILER_BYTES)?;
    let event = |thread, what| {
        let time_ns = long(trailer + 8)?;
        Some(Parsed::Event(Event {
            time_ns,
            thread,
            what,
        }))
    };
    match kind {
        LOST => long(8).map(Parsed::Lost),
        SWITCH => {
            let what = if misc & MISC_SWITCH_OUT == 0 {
                What::On {
                    processor: word(trailer + 16)?,
                }
            } else {
                What::Off {
                    ready: misc & MISC_SWITCH_PREEMPTED != 0,
                }
            };
            event(word(trailer + 4)?, what)
        }
        COMM => {
            let text = bytes.get(8..trailer)?;
            let text = text.split(|byte| *byte == 0).next()?;
            let name = String::from_utf8_lossy(text).into_owned();
            let what = if misc & MISC_COMM_EXEC == 0 {
                What::Renamed(name)
            } else {
                What::Executed(name)
            };
            event(word(4)?, what)
        }
        FORK => event(word(8)?, What::Made { by: word(12)? }),
        EXIT => event(word(8)?, What::Ended),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trailer(thread: i32, time_ns: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(1_i32.to_ne_bytes());
        bytes.extend(thread.to_ne_bytes());
        bytes.extend(time_ns.to_ne_bytes());
        bytes.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    fn expect(kind: u32, misc: u16, head: &[u8], what: What) {
        let bytes = [head, &trailer(7, 99)].concat();
        let event = Event {
            time_ns: 99,
            thread: 7,
            what,
        };
        assert_eq!(parse(kind, misc, &bytes), Some(Parsed::Event(event)));
        for cut in 0..TRAILER_BYTES {
            assert_eq!(parse(kind, misc, &bytes[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn records_of_each_kind() {
        expect(SWITCH, 0, &[], What::On { processor: 3 });
        expect(SWITCH, 1 << 13, &[], What::Off { ready: false });
        expect(SWITCH, 3 << 13, &[], What::Off { ready: true });
        let ids: Vec<u8> = [1_i32, 7].into_iter().flat_map(i32::to_ne_bytes).collect();
        let named = [&ids[..], b"worker\0\0"].concat();
        expect(COMM, 0, &named, What::Renamed("worker".to_owned()));
        expect(COMM, 1 << 13, &named, What::Executed("worker".to_owned()));
        let made: Vec<u8> = [1_i32, 1, 7, 5, 0, 0]
            .into_iter()
            .flat_map(i32::to_ne_bytes)
            .collect();
        expect(FORK, 0, &made, What::Made { by: 5 });
        expect(EXIT, 0, &made, What::Ended);
        let lost = [&[0; 8][..], &3_u64.to_ne_bytes(), &trailer(7, 1)].concat();
        assert_eq!(parse(LOST, 0, &lost), Some(Parsed::Lost(3)));
        assert_eq!(parse(9, 0, &lost), None);
    }
}
