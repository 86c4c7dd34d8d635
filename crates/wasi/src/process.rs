//! Arguments, environment and randomness.

use crate::abi::Errno;
use crate::memory::Memory;
use crate::step::{Halt, Outcome, Wait};
use crate::wasi::{Arguments, Pending, Wasi};
use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};

/// Random bytes made before others get a turn: about 10 ms of the kernel's generator.
const RANDOM_AT_ONCE: u32 = 4 << 20;

/// `args_get`, `environ_get`: pointers to the strings, and the strings, each ended by NUL.
pub(crate) fn strings_get(strings: &[Vec<u8>], a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
    let (mut pointer, mut at) = (a.u32(0), a.u32(1));
    let (count, total) = sizes(strings);
    m.check(pointer, count * 4)?;
    m.check(at, total)?;
    for string in strings {
        m.put_u32(pointer, at)?;
        m.put(at, string)?;
        // Both stay inside what was checked; past the last string they may be the end of memory.
        at = at.wrapping_add(string.len() as u32);
        m.put(at, &[0])?;
        at = at.wrapping_add(1);
        pointer = pointer.wrapping_add(4);
    }
    Ok(())
}

/// `args_sizes_get`, `environ_sizes_get`: how many, and how many bytes with the NULs.
pub(crate) fn strings_sizes(strings: &[Vec<u8>], a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
    let (count, total) = sizes(strings);
    m.check(a.u32(1), 4)?;
    m.put_u32(a.u32(0), count)?;
    Ok(m.put_u32(a.u32(1), total)?)
}

/// Fits 32 bits: bounded when the process was made.
fn sizes(strings: &[Vec<u8>]) -> (u32, u32) {
    (
        strings.len() as u32,
        strings.iter().map(|string| string.len() as u32 + 1).sum(),
    )
}

impl Wasi {
    /// `random_get`, in several steps if it is long.
    pub(crate) fn random_get(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let (at, len) = (a.u32(0), a.u32(1));
        let area = m.bytes_mut(at, len)?;
        let done = match self.pending.take() {
            Some(Pending::Random { done, .. }) => done.min(len),
            _ => 0,
        };
        let end = len.min(done.saturating_add(RANDOM_AT_ONCE));
        let mut rest = &mut area[done as usize..end as usize];
        while !rest.is_empty() {
            let count = retry_on_intr(|| getrandom(&mut *rest, GetRandomFlags::empty()))
                .map_err(Errno::from)?;
            rest = &mut rest[count..];
        }
        if end < len {
            self.pending = Some(Pending::Random { at, len, done: end });
            return Err(Halt::Wait(Wait {
                descriptors: Vec::new(),
                deadline: Some(self.now()),
            }));
        }
        Ok(())
    }
}
