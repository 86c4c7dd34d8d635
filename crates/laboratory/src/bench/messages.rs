//! What a message costs from one party to the other: between processes, and between threads by the same means and by
//! the memory that they share anyway.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde::Serialize;
use sterna_threads::sync::channel::bounded;

use crate::carrier::{Carrier, Cost, Effort, Figure, Placement};
use crate::link::{End, Memory, Pipes, Queues, echo, exchange, pipes, user_pipes};
use crate::place::{apart, pair, pin, processors_of};
use crate::role::{FROM, Player, TO, WORDS, started};

/// A process that does not end within this after its end was closed has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// By what messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// A pipe in each direction: copied into the kernel and out of it.
    Pipe,
    /// A POSIX message queue in each direction: the same, in messages.
    MessageQueue,
    /// Copied into shared memory and out of it; a futex tells.
    SharedMemory,
    /// A channel: only the message's address goes over.
    Channel,
}

impl Means {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Pipe,
        Self::MessageQueue,
        Self::SharedMemory,
        Self::Channel,
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pipe => "pipe",
            Self::MessageQueue => "message queue",
            Self::SharedMemory => "shared memory, futex",
            Self::Channel => "channel",
        }
    }
}

/// What a message costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MessageRow {
    /// By what it goes.
    pub means: Means,
    /// Its size in bytes.
    pub bytes: usize,
    /// Where the two parties run.
    pub placement: Placement,
    /// What they are.
    pub carrier: Carrier,
    /// What one message in one direction costs.
    pub cost: Figure<Cost>,
}

pub(super) struct Case {
    pub(super) means: Means,
    bytes: usize,
    placement: Placement,
    pub(super) carrier: Carrier,
}

pub(super) fn cases(sizes: &[usize]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &bytes in sizes {
        for placement in Placement::ALL {
            for means in Means::ALL {
                cases.extend(Carrier::ALL.map(|carrier| Case {
                    means,
                    bytes,
                    placement,
                    carrier,
                }));
            }
        }
    }
    cases
}

impl Case {
    pub(super) fn measured(self, effort: Effort, player: &Player) -> MessageRow {
        let Self {
            means,
            bytes,
            placement,
            carrier,
        } = self;
        let cost = apart(|| match carrier {
            Carrier::Process => by_process(means, bytes, placement, effort, player),
            _ => by_threads(means, bytes, (carrier, placement), effort),
        });
        MessageRow {
            means,
            bytes,
            placement,
            carrier,
            cost: Figure::of(cost),
        }
    }
}

/// Between this process and one that sends back. Shared memory without bytes is a turn that goes to and fro.
pub(super) fn by_process(
    means: Means,
    bytes: usize,
    placement: Placement,
    effort: Effort,
    player: &Player,
) -> io::Result<Cost> {
    let (here, there) = processors_of(placement)?;
    pin(here)?;
    let arguments = |means| {
        [
            "echo".to_owned(),
            means,
            bytes.to_string(),
            there.to_string(),
        ]
    };
    let part = |means: &str| {
        let arguments = arguments(means.to_owned());
        player.part(&arguments.each_ref().map(String::as_str))
    };
    let (cost, child) = match means {
        Means::Pipe => {
            let (mut ours, Pipes { from, to }) = pipes()?;
            let part = part("pipe").descriptor(FROM, from.into());
            let child = started(part.descriptor(TO, to.into()))?;
            (costs(&mut ours, bytes, effort), child)
        }
        Means::MessageQueue => {
            let (mut ours, theirs) = Queues::pair(bytes)?;
            let (from, to) = theirs.descriptors()?;
            let part = part("queue").descriptor(FROM, from);
            let child = started(part.descriptor(TO, to))?;
            let cost = costs(&mut ours, bytes, effort);
            ours.close()?;
            (cost, child)
        }
        Means::SharedMemory => {
            let (mut ours, theirs) = Memory::pair(bytes)?;
            let child = started(part("memory").descriptor(WORDS, theirs.descriptor()?))?;
            let cost = costs(&mut ours, bytes, effort);
            ours.close()?;
            (cost, child)
        }
        Means::Channel => return Err(io::Error::other("processes share no memory by default")),
    };
    child.finish(PATIENCE).map_err(io::Error::other)?;
    cost
}

fn costs(end: &mut impl End, bytes: usize, effort: Effort) -> io::Result<Cost> {
    effort.cost(|count| exchange(end, bytes, count))
}

fn by_threads(
    means: Means,
    bytes: usize,
    (carrier, placement): (Carrier, Placement),
    effort: Effort,
) -> io::Result<Cost> {
    let kernel = carrier == Carrier::Kernel;
    match means {
        Means::Channel => by_channel(bytes, carrier, placement, effort),
        Means::Pipe if kernel => ends(pipes()?, bytes, (carrier, placement), effort, |_| Ok(())),
        Means::Pipe => ends(user_pipes()?, bytes, (carrier, placement), effort, |_| {
            Ok(())
        }),
        Means::MessageQueue if kernel => {
            let pair = Queues::pair(bytes)?;
            ends(pair, bytes, (carrier, placement), effort, Queues::close)
        }
        Means::SharedMemory if kernel => {
            let pair = Memory::pair(bytes)?;
            ends(pair, bytes, (carrier, placement), effort, Memory::close)
        }
        Means::MessageQueue | Means::SharedMemory => Err(io::Error::other(
            "waiting for it would stop the whole kernel thread",
        )),
    }
}

fn ends<E: End + Send>(
    (mut ours, mut theirs): (E, E),
    bytes: usize,
    (carrier, placement): (Carrier, Placement),
    effort: Effort,
    close: impl FnOnce(&E) -> io::Result<()> + Send,
) -> io::Result<Cost> {
    let server = move || echo(&mut theirs, bytes);
    pair(carrier, placement, server, move || {
        let cost = costs(&mut ours, bytes, effort);
        close(&ours)?;
        cost
    })
}

/// The message itself stays where it is; both sides look at it.
fn by_channel(
    bytes: usize,
    carrier: Carrier,
    placement: Placement,
    effort: Effort,
) -> io::Result<Cost> {
    type Message = Box<[AtomicU8]>;
    let (there, inbox) = bounded::<Message>(1);
    let (back, answers) = bounded::<Message>(1);
    let server = move || {
        for message in inbox.iter() {
            touch(&message);
            back.send(message).map_err(|_| io::Error::other("closed"))?;
        }
        Ok(())
    };
    pair(carrier, placement, server, move || {
        effort.cost(|count| {
            let mut message: Message = (0..bytes).map(|_| AtomicU8::new(7)).collect();
            let trips = count.div_ceil(2);
            for _ in 0..trips {
                there
                    .send(message)
                    .map_err(|_| io::Error::other("closed"))?;
                message = answers.recv().map_err(io::Error::other)?;
                touch(&message);
            }
            Ok(2 * trips)
        })
    })
}

/// Writes the first byte, so that the receiver really gets the line.
fn touch(message: &[AtomicU8]) {
    if let Some(byte) = message.first() {
        byte.fetch_add(1, Ordering::Relaxed);
    }
}
