//! `sterna attach`: what a process writes from now on, and a way to type to it; [`Session`] for whoever does that.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use anyhow::{Context, Result};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGWINCH};
use sterna_node::message::{Deed, HostingReply, HostingRequest, Looked};
use sterna_process::ProcessId;

use super::logs::Follow;
use crate::complete;
use crate::host::{EXIT_KILLED, Signals};
use crate::node::{self, Which};
use crate::show;
use crate::terminal::{self, Raw};

/// Input read at once.
const INPUT_BYTES: usize = 16 << 10;
/// Longest sequence of keys to detach.
const KEYS_MAX: usize = 16;
/// What Ctrl-C is where keys arrive as they are.
const INTERRUPT: u8 = 3;

/// Shows what a process on a node writes from now on, and gives it what is typed here, wherever it is moved.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Attach {
    /// The process: its name, or the beginning of its id.
    #[arg(value_name = "P", add = complete::processes())]
    process: String,
    /// Keys that end this command and leave the process alone; of a process with a terminal.
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = Keys::parse)]
    detach_keys: Keys,
    /// Only show what it writes.
    #[arg(long)]
    no_input: bool,
    /// When the input of this command ends, so does that of the process.
    #[arg(long, conflicts_with = "no_input")]
    end_input: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna run --detach -t --name prompt python.wasm -i
  sterna attach prompt                      Ctrl-P Ctrl-Q: back to the shell; it runs on
  sterna attach --detach-keys ctrl-x prompt
  echo 'print(1)' | sterna attach job       of a process that was started with `run --detach -i`

With a terminal all keys go to the process's terminal, which takes the size of this one. Several may be \
attached to one process. It ends with the process, with its code. What it wrote before is in `sterna logs \
P`.";

impl Attach {
    pub(crate) fn run(self) -> Result<u8> {
        let process = self.which.find_living(&self.process)?.process;
        let looked = look(&self.which, process)?;
        let from = looked.brief.output_bytes;
        if !looked.has_input && !self.no_input {
            show::note("it has no standard input: this shows what it writes");
        }
        let session = Session {
            which: &self.which,
            process,
            input: looked.has_input && !self.no_input,
            terminal: looked.terminal.is_some(),
            end_input: self.end_input,
            keys: self.detach_keys,
            interrupt_kills: false,
            killed_by: Arc::default(),
        };
        session.run(from)
    }
}

/// How a process is, where it is now.
pub(crate) fn look(which: &Which, process: ProcessId) -> Result<Looked> {
    match which.hosting(HostingRequest::Look { process })? {
        Some(HostingReply::Looked(looked)) => Ok(*looked),
        _ => Err(node::unexpected()),
    }
}

/// Somebody at a process.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) which: &'a Which,
    pub(crate) process: ProcessId,
    /// Whether it is given what this command reads.
    pub(crate) input: bool,
    /// Whether it has a terminal.
    pub(crate) terminal: bool,
    /// Whether its input ends with this command's.
    pub(crate) end_input: bool,
    pub(crate) keys: Keys,
    /// Whether Ctrl-C ends the process, as of one in the foreground.
    pub(crate) interrupt_kills: bool,
    /// The signal for which this command has ended the process; 0 if it has not.
    pub(crate) killed_by: Arc<AtomicI32>,
}

impl Session<'_> {
    /// Shows its output from an offset on, until it ends; the code is its own.
    pub(crate) fn run(self, from: u64) -> Result<u8> {
        let raw = match self.input && self.terminal && terminal::is_used() {
            true => Some(self.at_terminal()?),
            false => None,
        };
        if self.input {
            let typing = Typing {
                which: self.which.clone(),
                process: self.process,
                keys: raw.as_ref().map(|_| Detector::new(self.keys.clone())),
                end_input: self.end_input,
                interrupt_kills: raw.is_some() && self.interrupt_kills,
                killed_by: Arc::clone(&self.killed_by),
            };
            thread::Builder::new()
                .name("input".into())
                .spawn(move || drop(typing.pass_on())) // it fails when the process has ended
                .context("could not start the thread that reads standard input")?;
        }
        let mut follow = Follow::from(self.which, self.process, from);
        follow.until_the_end()?;
        drop(raw);
        let signal = self.killed_by.load(Ordering::Relaxed);
        let tell = self.interrupt_kills && signal == 0;
        Ok(
            match super::wait::outcome(self.which, self.process, tell)? {
                EXIT_KILLED if signal != 0 => 128 + signal as u8,
                code => code,
            },
        )
    }

    /// Keys go to the process as they are, its terminal is as large as this one, and this one is restored if a signal ends
    /// the command.
    fn at_terminal(&self) -> Result<Raw> {
        Signals::catch()?.each(|signal| {
            terminal::restore();
            std::process::exit(128 + signal);
        })?;
        let mut resized = signal_hook::iterator::Signals::new([SIGWINCH])
            .context("could not watch the size of the terminal")?;
        let (which, process) = (self.which.clone(), self.process);
        thread::Builder::new()
            .name("size".into())
            .spawn(move || {
                resize(&which, process);
                resized.forever().for_each(|_| resize(&which, process));
            })
            .context("could not start the thread that watches the terminal's size")?;
        Raw::all_keys().context("could not set up the terminal")
    }
}

fn resize(which: &Which, process: ProcessId) {
    let size = terminal::size();
    // A process that has just ended needs no size.
    let _ = which.hosting(HostingRequest::Resize { process, size });
}

/// Gives bytes to a process, and perhaps the end, however long it does not read, and wherever it goes meanwhile.
pub(crate) fn give(which: &Which, process: ProcessId, mut bytes: &[u8], end: bool) -> Result<()> {
    loop {
        let request = HostingRequest::Input {
            process,
            bytes: bytes.to_vec(),
            end,
        };
        let Some(HostingReply::Took(taken)) = which.hosting(request)? else {
            return Err(node::unexpected());
        };
        bytes = bytes.get(taken as usize..).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
    }
}

/// This command's input on its way to a process.
struct Typing {
    which: Which,
    process: ProcessId,
    /// At a terminal.
    keys: Option<Detector>,
    end_input: bool,
    interrupt_kills: bool,
    killed_by: Arc<AtomicI32>,
}

impl Typing {
    /// Until either ends.
    fn pass_on(mut self) -> Result<()> {
        let (which, process) = (&self.which, self.process);
        let mut buffer = vec![0; INPUT_BYTES];
        loop {
            let got = match io::stdin().lock().read(&mut buffer) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            let read = &buffer[..got];
            if got == 0 {
                return match self.end_input {
                    true => give(which, process, &[], true),
                    false => Ok(()),
                };
            }
            let Some(keys) = &mut self.keys else {
                give(which, process, read, false)?;
                continue;
            };
            let (typed, detaches) = keys.take(read);
            if self.interrupt_kills && typed.contains(&INTERRUPT) {
                let deed = Deed::Kill;
                self.killed_by.store(SIGINT, Ordering::Relaxed);
                which.hosting(HostingRequest::Steer { process, deed })?;
            }
            if !typed.is_empty() {
                give(which, process, &typed, false)?;
            }
            if detaches {
                terminal::restore();
                show::note(format_args!(
                    "detached from {}, which runs on",
                    process.short()
                ));
                std::process::exit(0);
            }
        }
    }
}

/// Keys to detach, as the bytes that a terminal sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys(Vec<u8>);

impl Default for Keys {
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl Keys {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} are no keys: write ctrl-p,ctrl-q, or ctrl-], or a,b");
        let key = |name: &str| {
            let control = name.strip_prefix("ctrl-");
            match (control.unwrap_or(name).as_bytes(), control) {
                // The control characters of ASCII, columns 4 and 5.
                ([key @ (b'@'..=b'_' | b'a'..=b'z')], Some(_)) => Ok(key & 0x1f),
                ([key @ b'!'..=b'~'], None) => Ok(*key),
                _ => Err(wrong()),
            }
        };
        let keys = text.split(',').map(key).collect::<Result<Vec<u8>, _>>()?;
        match keys.len() <= KEYS_MAX {
            true => Ok(Self(keys)),
            false => Err(format!("{KEYS_MAX} keys at most")),
        }
    }
}

/// Finds the keys in what is typed. What could be their beginning is held back until it is known not to be.
struct Detector {
    keys: Keys,
    seen: usize,
}

impl Detector {
    fn new(keys: Keys) -> Self {
        Self { keys, seen: 0 }
    }

    /// What is to be passed on, and whether the keys were typed.
    fn take(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let keys = &self.keys.0;
        let mut passed = Vec::with_capacity(typed.len());
        for &byte in typed {
            // All that was held back, and this key: how much of its end is a beginning of the keys?
            let held = [&keys[..self.seen], &[byte]].concat();
            let begins = (0..=held.len()).find(|from| keys.starts_with(&held[*from..]));
            let from = begins.unwrap_or(held.len());
            passed.extend_from_slice(&held[..from]);
            self.seen = held.len() - from;
            if self.seen == keys.len() {
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read() {
        assert_eq!(Keys::parse("ctrl-p,ctrl-q"), Ok(Keys::default()));
        assert_eq!(Keys::parse("ctrl-],a"), Ok(Keys(vec![0x1d, b'a'])));
        for text in ["", "ctrl-", "ctrl-é", "p,", "alt-x", "ctrl-pq"] {
            assert!(Keys::parse(text).is_err(), "{text}");
        }
    }

    #[track_caller]
    fn check(keys: &str, pieces: &[&str], passed: &str, detaches: bool) {
        let mut detector = Detector::new(Keys::parse(keys).unwrap());
        let mut all = Vec::new();
        let mut found = false;
        for piece in pieces {
            let (some, detached) = detector.take(piece.as_bytes());
            all.extend(some);
            found = detached;
        }
        assert_eq!((&*all, found), (passed.as_bytes(), detaches), "{pieces:?}");
    }

    #[test]
    fn keys_are_found_and_others_passed_on() {
        check("x,y", &["abc"], "abc", false);
        check("x,y", &["axy"], "a", true);
        check("x,y", &["ax", "y"], "a", true);
        check("x,y", &["ax"], "a", false);
        check("x,y", &["xz"], "xz", false);
        check("x,y", &["xx", "y"], "x", true);
        check("x,x,y", &["xxxy"], "x", true);
        check("q", &["q"], "", true);
    }
}
