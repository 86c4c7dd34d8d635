//! The toy's machine: registers and the execution of one instruction.
//!
//! An instruction either happens wholly or not at all. One that must wait (for room in a pipe, for a page that
//! is still at the source of a move) has not happened, so the machine can be captured while it waits and
//! issues the instruction again wherever it is resumed.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::memory::{Fault, ToyMemory};
use super::program::{CODE, DATA, Instruction};
use crate::run::PageRun;

/// What an image keeps of a machine beside its pages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registers {
    pub(super) values: [u64; 8],
    /// Number of the next instruction.
    pub(super) next: u64,
    /// Instructions executed in the process's whole life.
    pub(super) executed: u64,
}

pub(super) struct Machine {
    pub(super) registers: Registers,
    pub(super) memory: Arc<ToyMemory>,
    pub(super) output: Option<File>,
}

/// What came of an instruction.
pub(super) enum Step {
    Done,
    /// It has not happened yet.
    Wait(Wait),
    Halt(u32),
    /// The program did something that it must not.
    Trap(&'static str),
}

pub(super) enum Wait {
    Output,
    Page(PageRun),
}

impl Machine {
    pub(super) fn step(&mut self) -> Step {
        match self.execute() {
            Ok(Step::Done) => {
                self.registers.executed += 1;
                Step::Done
            }
            Ok(other) => other,
            Err(Fault::Missing(page)) => Step::Wait(Wait::Page(page)),
            Err(Fault::OutOfBounds) => Step::Trap("data access out of bounds"),
        }
    }

    fn execute(&mut self) -> Result<Step, Fault> {
        let Registers { values, next, .. } = &mut self.registers;
        let word = match self.memory.load(CODE, *next) {
            Err(Fault::OutOfBounds) => return Ok(Step::Trap("the program ran past its end")),
            word => word?,
        };
        let Some(instruction) = Instruction::decode(word) else {
            return Ok(Step::Trap("not an instruction"));
        };
        let mut after = *next + 1;
        match instruction {
            Instruction::Set(to, value) => values[usize::from(to)] = value.into(),
            Instruction::Add(to, from) => {
                values[usize::from(to)] =
                    values[usize::from(to)].wrapping_add(values[usize::from(from)]);
            }
            Instruction::Load(to, at) => {
                values[usize::from(to)] = self.memory.load(DATA, values[usize::from(at)])?;
            }
            Instruction::Store(at, from) => {
                self.memory
                    .store(DATA, values[usize::from(at)], values[usize::from(from)])?;
            }
            Instruction::JumpIfLess(less, than, target) => {
                if values[usize::from(less)] < values[usize::from(than)] {
                    after = target.into();
                }
            }
            Instruction::Print(from) => {
                match print(self.output.as_mut(), values[usize::from(from)]) {
                    Step::Done => {}
                    other => return Ok(other),
                }
            }
            Instruction::Grow(to, pages) => {
                values[usize::from(to)] = self.memory.grow(pages.into()).unwrap_or(u64::MAX);
            }
            Instruction::Halt(code) => return Ok(Step::Halt(code)),
        }
        *next = after;
        Ok(Step::Done)
    }
}

/// Writes a line if there is room for it. A pipe that is ready takes 4096 bytes at once (pipe(7)), so a line is
/// written wholly or not at all.
fn print(output: Option<&mut File>, value: u64) -> Step {
    let Some(output) = output else {
        return Step::Done;
    };
    if !is_ready(output, 0) {
        return Step::Wait(Wait::Output);
    }
    match output.write_all(format!("{value}\n").as_bytes()) {
        Ok(()) => Step::Done,
        Err(_) => Step::Trap("standard output cannot be written"),
    }
}

/// Whether the output takes bytes, or will within so many milliseconds.
pub(super) fn is_ready(output: &File, within_ms: u32) -> bool {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(within_ms) * 1_000_000,
    };
    let mut waiting = [PollFd::new(output, PollFlags::OUT)];
    // An interrupted or failed poll is asked again by the caller, or shown by the write.
    poll(&mut waiting, Some(&timeout)).is_ok_and(|ready| ready > 0)
}
