//! The part of processes in experiments: the command starts itself with [`ROLE`], what to do as arguments, and
//! descriptors by name. A role ends when the experiment closes its end, and is killed with the thread that started it.
//!
//! | arguments | what it does |
//! |---|---|
//! | `end` | ends |
//! | `wait` | says that it is there, and waits for its input to be closed |
//! | `echo MEANS BYTES PROCESSOR` | sends messages back |
//! | `yield PROCESSOR` | gives way until it is told to end, and counts |
//! | `block CARRIER COUNT` | makes threads that wait, for their memory to be measured |
//! | `read BYTES PROCESSOR` | reads as many lines of its memory as it is told, by turns |
//! | `tick LINES MICROSECONDS PROCESSOR` | reads its memory every so often |

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sterna_sys::exchange::SharedWords;
use sterna_sys::spawn::{Child, Spawn, inherited};

use crate::bench;
use crate::cache;
use crate::link::{Memory, Queues, Streams, echo};
use crate::place::pin;

/// The first argument of a process that plays a part.
pub const ROLE: &str = "__laboratory";

/// Descriptors by name.
pub(crate) const FROM: &str = "FROM";
pub(crate) const TO: &str = "TO";
pub(crate) const WORDS: &str = "WORDS";

/// Words of a role that counts.
pub(crate) const STOP: usize = 0;
pub(crate) const COUNT: usize = 1;
pub(crate) const COUNTING_WORDS: usize = 2;

/// The program that plays the parts of processes: one whose `main` calls [`run`] if its first argument is [`ROLE`].
#[derive(Debug, Clone)]
pub struct Player {
    program: PathBuf,
}

impl Player {
    /// That program.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// A process with a part, not yet started.
    pub(crate) fn part(&self, arguments: &[&str]) -> Spawn {
        let mut spawn = Spawn::new(&self.program).arg(ROLE).die_with_this_thread();
        for argument in arguments {
            spawn = spawn.arg(argument);
        }
        spawn
    }
}

/// Starts it.
pub(crate) fn started(spawn: Spawn) -> io::Result<Child> {
    spawn.start().map_err(|error| {
        let text = format!("{error}: {}", error.source);
        io::Error::new(error.source.kind(), text)
    })
}

/// Plays the part that the arguments of this process name.
pub fn run() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match play(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // The experiment reads it there, or sees that this end is closed.
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn play(arguments: &[&str]) -> io::Result<()> {
    match *arguments {
        ["end"] => Ok(()),
        ["wait"] => wait(),
        ["echo", means, bytes, processor] => {
            pin(number(processor)?)?;
            echo_by(means, number(bytes)?)
        }
        ["yield", processor] => {
            pin(number(processor)?)?;
            give_way(&words()?);
            Ok(())
        }
        ["block", carrier, count] => bench::block(carrier, number(count)?),
        ["read", bytes, processor] => {
            pin(number(processor)?)?;
            cache::read(number(bytes)?, words()?)
        }
        ["tick", lines, period_us, processor] => {
            pin(number(processor)?)?;
            let period = Duration::from_micros(number(period_us)? as u64);
            cache::ticking(number(lines)?, period, &words()?);
            Ok(())
        }
        _ => Err(io::Error::other("there is no such part")),
    }
}

pub(crate) fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(io::Error::other)
}

fn descriptor(name: &str) -> io::Result<std::os::fd::OwnedFd> {
    inherited(name).map_err(io::Error::other)
}

pub(crate) fn words() -> io::Result<SharedWords> {
    SharedWords::open(descriptor(WORDS)?).map_err(io::Error::other)
}

fn wait() -> io::Result<()> {
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn echo_by(means: &str, bytes: usize) -> io::Result<()> {
    match means {
        "pipe" => {
            let mut pipes = Streams {
                from: io::PipeReader::from(descriptor(FROM)?),
                to: io::PipeWriter::from(descriptor(TO)?),
            };
            echo(&mut pipes, bytes)
        }
        "queue" => echo(&mut Queues::of(descriptor(FROM)?, descriptor(TO)?), bytes),
        "memory" => echo(&mut Memory::of(Arc::new(words()?), 1), bytes),
        _ => Err(io::Error::other("there is no such means")),
    }
}

/// Gives way again and again, until the first word says stop.
pub(crate) fn give_way(words: &SharedWords) {
    while words[STOP].load(Ordering::Relaxed) == 0 {
        words[COUNT].fetch_add(1, Ordering::Relaxed);
        sterna_threads::yield_now();
    }
}
