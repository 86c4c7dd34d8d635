//! The toy programs that the trial runner has installed.

use sterna_process::toy::{Instruction, ToyProgram};
use sterna_process::{Program, Tag};

/// The kind of toys that run freely.
pub(crate) const FREE: Tag = Tag::new("toy");
/// The kind of toys that wait after some instructions until they are paused or killed.
pub(crate) const WAITING: Tag = Tag::new("waiting");
/// The kind of toys that cannot be paused, for as long as anybody has patience.
pub(crate) const STUBBORN: Tag = Tag::new("stubborn");

/// The kind of toys for which something has to be made ready elsewhere before they begin.
pub(crate) const ASKING: Tag = Tag::new("asking");

/// Prints 1, 2, 3, … up to `count`, each after some work, and ends.
pub(crate) fn counting(count: u32) -> Program {
    use Instruction::{Add, Halt, JumpIfLess, Print, Set};
    let (i, limit, one, work, done) = (0, 1, 2, 3, 4);
    program(vec![
        Set(limit, count),
        Set(one, 1),
        Set(work, 2000),
        Add(i, one), // 3: the loop
        Set(done, 0),
        Add(done, one), // 5: the work
        JumpIfLess(done, work, 5),
        Print(i),
        JumpIfLess(i, limit, 3),
        Halt(0),
    ])
}

/// Works and says nothing.
pub(crate) fn silent() -> Program {
    use Instruction::{JumpIfLess, Set};
    program(vec![Set(0, 1), JumpIfLess(1, 0, 1)])
}

/// Ends at once, with a code.
pub(crate) fn ending() -> Program {
    program(vec![Instruction::Halt(7)])
}

fn program(code: Vec<Instruction>) -> Program {
    let toy = ToyProgram {
        code,
        data: vec![7; 600],
        data_pages: 3,
        data_pages_max: 3,
    };
    Program::from_bytes(toy.encode())
}

/// Lines of the shorter one that counts: it takes longer than a test until it is stopped.
pub(crate) const COUNTED: u32 = 4000;

/// One with many pages, that it changes.
pub(crate) fn large() -> Program {
    Program::from_bytes(ToyProgram::sums(u32::MAX).encode())
}
