//! The other party on the same processor: takes its turn, reads as many lines of its own as it is told, and hands back.

use std::io;
use std::sync::Arc;

use sterna_sys::exchange::SharedWords;
use sterna_threads::sync::channel::bounded;

use super::walk::Filler;
use crate::carrier::{Carrier, Placement};
use crate::link::{End, Memory};
use crate::place::{pair, pin, processors_of};
use crate::role::{Player, WORDS, started};

/// A message is a number of lines.
const NUMBER: usize = size_of::<u32>();

/// Hands over, and returns when the other has read so many lines and handed back.
pub(super) type Turn<'a> = &'a mut dyn FnMut(usize) -> io::Result<()>;

/// Runs `f` beside a partner with so much memory.
pub(super) fn beside<T: Send>(
    carrier: Carrier,
    bytes: usize,
    player: &Player,
    f: impl FnOnce(Turn<'_>) -> io::Result<T> + Send,
) -> io::Result<T> {
    match carrier {
        Carrier::Process => beside_process(bytes, player, f),
        Carrier::Kernel => {
            let (mut ours, mut theirs) = Memory::pair(NUMBER)?;
            let server = move || read_when_told(&mut theirs, bytes);
            pair(carrier, Placement::OneProcessor, server, move || {
                let result = f(&mut |lines| told(&mut ours, lines));
                ours.close()?;
                result
            })
        }
        Carrier::User | Carrier::Hybrid => {
            let (there, turns) = bounded::<usize>(1);
            let (back, returns) = bounded::<()>(1);
            let server = move || {
                let filler = Filler::new(bytes);
                for lines in turns.iter() {
                    filler.read(lines);
                    back.send(()).map_err(io::Error::other)?;
                }
                Ok(())
            };
            pair(carrier, Placement::OneProcessor, server, move || {
                f(&mut |lines| {
                    there.send(lines).map_err(io::Error::other)?;
                    returns.recv().map_err(io::Error::other)
                })
            })
        }
    }
}

fn beside_process<T>(
    bytes: usize,
    player: &Player,
    f: impl FnOnce(Turn<'_>) -> io::Result<T>,
) -> io::Result<T> {
    let processor = processors_of(Placement::OneProcessor)?.0;
    pin(processor)?;
    let (mut ours, theirs) = Memory::pair(NUMBER)?;
    let part = player.part(&["read", &bytes.to_string(), &processor.to_string()]);
    let child = started(part.descriptor(WORDS, theirs.descriptor()?))?;
    let result = f(&mut |lines| told(&mut ours, lines));
    ours.close()?;
    drop(child);
    result
}

fn told(end: &mut Memory, lines: usize) -> io::Result<()> {
    let lines = u32::try_from(lines).map_err(io::Error::other)?;
    end.send(&lines.to_ne_bytes())?;
    match end.receive(&mut [0; NUMBER])? {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn read_when_told(end: &mut Memory, bytes: usize) -> io::Result<()> {
    let filler = Filler::new(bytes);
    let mut message = [0; NUMBER];
    while end.receive(&mut message)? {
        filler.read(u32::from_ne_bytes(message) as usize);
        end.send(&message)?;
    }
    Ok(())
}

/// The part of a process that is the partner.
pub(crate) fn read(bytes: usize, words: SharedWords) -> io::Result<()> {
    read_when_told(&mut Memory::of(Arc::new(words), 1), bytes)
}
