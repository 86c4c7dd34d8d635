//! How a stopped guest's frames lie in its control memory.
//!
//! ```text
//! 0        the word: 0 = run, else unwind            a page of its own, so that it can be protected,
//!                                                    and full of copies of the word
//! 4096     end of the last record, an offset         written by the unwinding code
//! 4160     records, innermost frame first:
//!            u32  operator index, u32  function
//!            locals, operand stack, call results     each as wide as its type, little endian; the
//!                                                    locals that many points save come first
//! ```
//!
//! References cannot be stored in a memory: a record holds their index in a table of kept
//! references.

use wasmparser::ValType;

use super::plan::Point;

/// Where the word lies, in bytes.
pub(crate) const WORD: u64 = 0;
/// How many copies of it there are, itself included.
pub(crate) const COPIES: u64 = END / 4;
/// Where the offset of the end of the last record lies.
pub(crate) const END: u64 = 4096;
/// Where the first record begins.
pub(crate) const RECORDS: u32 = 4160;
/// Where the parts of a record's head lie in it.
pub(crate) const OPERATOR: u64 = 0;
pub(crate) const FUNCTION: u64 = 4;
/// Bytes of a record's head.
pub(crate) const HEAD: u32 = 8;

/// Bytes that a value takes in a record.
pub(crate) fn width(ty: ValType) -> u32 {
    match ty {
        ValType::I32 | ValType::F32 | ValType::Ref(_) => 4,
        ValType::I64 | ValType::F64 => 8,
        ValType::V128 => 16,
    }
}

/// The values that a record at `point` holds, in order; `locals` are the function's local types.
pub(crate) fn fields<'p>(
    point: &'p Point,
    locals: &'p [ValType],
) -> impl Iterator<Item = (Field, ValType)> + 'p {
    let local = |&index: &u32| (Field::Local(index), locals[index as usize]);
    let stack = |(height, &ty): (usize, &ValType)| (Field::Stack(height as u32), ty);
    let result = |(index, &ty): (usize, &ValType)| (Field::Result(index as u32), ty);
    let stacked = point.stack.iter().enumerate().map(stack);
    let results = point.results.iter().enumerate().map(result);
    point.locals.iter().map(local).chain(stacked).chain(results)
}

/// What a value of a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Field {
    /// A local, by original index.
    Local(u32),
    /// An operand, by the number of operands below it.
    Stack(u32),
    /// A result of the call, by position.
    Result(u32),
}
