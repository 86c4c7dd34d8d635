//! Create and join, yield, and hand-overs of a value and of a lock.

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use sterna_sys::exchange::SharedWords;
use sterna_threads::sync::Mutex;
use sterna_threads::sync::channel::bounded;
use sterna_threads::{Runtime, spawn, yield_now};

use super::Means;
use super::messages::by_process;
use crate::carrier::{Carrier, Cost, Effort, Figure, Placement};
use crate::place::{apart, pair, pin, processors_of};
use crate::role::{COUNT, COUNTING_WORDS, Player, STOP, WORDS, give_way, started};

/// A process that does not end within this has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a value that is handed over.
const VALUE_BYTES: usize = size_of::<u64>();

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// One is made, does nothing, and is waited for. For processes: fork, exec of this program, exit, wait.
    CreateJoin,
    /// One of two gives way to the other.
    Yield,
    /// A value goes from one to the other, which waits for it. Between processes, through a pipe.
    ValueHandOver,
    /// A lock goes from one to the other, which waits for it. Between processes, a turn in shared memory.
    LockHandOver,
}

impl Operation {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateJoin => "create and join",
            Self::Yield => "yield",
            Self::ValueHandOver => "hand over a value",
            Self::LockHandOver => "hand over a lock",
        }
    }
}

/// What an operation costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperationRow {
    /// The operation.
    pub operation: Operation,
    /// Where the two parties run.
    pub placement: Placement,
    /// What they are.
    pub carrier: Carrier,
    /// What one operation costs.
    pub cost: Figure<Cost>,
}

pub(super) struct Case {
    pub(super) operation: Operation,
    placement: Placement,
    pub(super) carrier: Carrier,
}

pub(super) fn cases() -> Vec<Case> {
    use Operation::{CreateJoin, LockHandOver, ValueHandOver, Yield};
    use Placement::{OneProcessor, TwoProcessors};
    let operations = [
        (CreateJoin, OneProcessor),
        (Yield, OneProcessor),
        (ValueHandOver, OneProcessor),
        (LockHandOver, OneProcessor),
        (ValueHandOver, TwoProcessors),
        (LockHandOver, TwoProcessors),
    ];
    let of = |(operation, placement)| {
        Carrier::ALL.map(|carrier| Case {
            operation,
            placement,
            carrier,
        })
    };
    operations.into_iter().flat_map(of).collect()
}

impl Case {
    pub(super) fn measured(self, effort: Effort, player: &Player) -> OperationRow {
        let Self {
            operation,
            placement,
            carrier,
        } = self;
        let cost = apart(|| match (operation, carrier) {
            (Operation::CreateJoin, Carrier::Process) => create_processes(effort, player),
            (Operation::CreateJoin, _) => create_threads(carrier, effort),
            (Operation::Yield, Carrier::Process) => yield_processes(effort, player),
            (Operation::Yield, _) => yield_threads(carrier, effort),
            (Operation::ValueHandOver, Carrier::Process) => {
                by_process(Means::Pipe, VALUE_BYTES, placement, effort, player)
            }
            (Operation::ValueHandOver, _) => values(carrier, placement, effort),
            (Operation::LockHandOver, Carrier::Process) => {
                by_process(Means::SharedMemory, 0, placement, effort, player)
            }
            (Operation::LockHandOver, _) => locks(carrier, placement, effort),
        });
        OperationRow {
            operation,
            placement,
            carrier,
            cost: Figure::of(cost),
        }
    }
}

fn create_processes(effort: Effort, player: &Player) -> io::Result<Cost> {
    pin(processors_of(Placement::OneProcessor)?.0)?;
    effort.cost(|count| {
        for _ in 0..count {
            let child = started(player.part(&["end"]))?;
            let finished = child.finish(PATIENCE).map_err(io::Error::other)?;
            if !finished.exit.status.success() {
                return Err(io::Error::other("a process failed"));
            }
        }
        Ok(count)
    })
}

fn create_threads(carrier: Carrier, effort: Effort) -> io::Result<Cost> {
    let processor = processors_of(Placement::OneProcessor)?.0;
    let implementation = carrier
        .implementation()
        .ok_or_else(|| io::Error::other("processes are no threads"))?;
    let runtime = Runtime::builder(implementation).workers(1).build()?;
    runtime.run(|| {
        pin(processor)?;
        effort.cost(|count| {
            for number in 0..count {
                let joined = spawn(move || black_box(number)).join();
                joined.map_err(|_| io::Error::other("a thread failed"))?;
            }
            Ok(count)
        })
    })
}

fn counting_words() -> io::Result<SharedWords> {
    SharedWords::new(COUNTING_WORDS).map_err(io::Error::other)
}

/// Yields here and there.
fn yields(words: &SharedWords, effort: Effort) -> io::Result<Cost> {
    let cost = effort.cost(|count| {
        let before = words[COUNT].load(Ordering::Relaxed);
        (0..count).for_each(|_| yield_now());
        let theirs = words[COUNT].load(Ordering::Relaxed).wrapping_sub(before);
        Ok(count + theirs as usize)
    });
    words[STOP].store(1, Ordering::Relaxed);
    cost
}

fn yield_processes(effort: Effort, player: &Player) -> io::Result<Cost> {
    let processor = processors_of(Placement::OneProcessor)?.0;
    pin(processor)?;
    let words = counting_words()?;
    let part = player.part(&["yield", &processor.to_string()]);
    let child = started(part.descriptor(WORDS, words.descriptor()?))?;
    while words[COUNT].load(Ordering::Relaxed) == 0 {
        yield_now();
    }
    let cost = yields(&words, effort);
    child.finish(PATIENCE).map_err(io::Error::other)?;
    cost
}

fn yield_threads(carrier: Carrier, effort: Effort) -> io::Result<Cost> {
    let words = Arc::new(counting_words()?);
    let theirs = Arc::clone(&words);
    let server = move || {
        give_way(&theirs);
        Ok(())
    };
    pair(carrier, Placement::OneProcessor, server, move || {
        yields(&words, effort)
    })
}

fn values(carrier: Carrier, placement: Placement, effort: Effort) -> io::Result<Cost> {
    let (there, inbox) = bounded::<u64>(1);
    let (back, answers) = bounded::<u64>(1);
    let server = move || {
        for value in inbox.iter() {
            back.send(value).map_err(io::Error::other)?;
        }
        Ok(())
    };
    pair(carrier, placement, server, move || {
        effort.cost(|count| {
            let trips = count.div_ceil(2);
            for value in 0..trips as u64 {
                there.send(value).map_err(io::Error::other)?;
                answers.recv().map_err(io::Error::other)?;
            }
            Ok(2 * trips)
        })
    })
}

/// Each holds the lock while it gives way, so that the other always waits for it.
fn locks(carrier: Carrier, placement: Placement, effort: Effort) -> io::Result<Cost> {
    struct Guarded {
        over: bool,
        count: usize,
    }
    let lock = Arc::new(Mutex::new(Guarded {
        over: false,
        count: 0,
    }));
    let theirs = Arc::clone(&lock);
    let server = move || loop {
        let mut guarded = theirs.lock();
        yield_now();
        guarded.count += 1;
        if guarded.over {
            return Ok(());
        }
    };
    pair(carrier, placement, server, move || {
        let cost = effort.cost(|count| {
            let before = lock.lock().count;
            for _ in 0..count {
                let mut guarded = lock.lock();
                yield_now();
                guarded.count += 1;
            }
            Ok(lock.lock().count - before)
        });
        lock.lock().over = true;
        cost
    })
}
