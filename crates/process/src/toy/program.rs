//! Programs of the toy kind: [`ToyProgram`], made of [`Instruction`]s.

use serde::{Deserialize, Serialize};

use crate::memory::{LayoutError, MemoryLayout, PAGE_SIZE, Region, RegionId};

/// The region that holds the instructions.
pub const CODE: RegionId = RegionId(0);
/// The region that the program reads and writes.
pub const DATA: RegionId = RegionId(1);
/// 64-bit words in a page.
pub(super) const PAGE_WORDS: usize = PAGE_SIZE / 8;
/// Largest region, in pages: room is made for it at once.
const REGION_PAGES_MAX: u64 = 1024;
const MAGIC: &[u8] = b"TOY1";
const REGISTERS: u8 = 8;

/// One instruction. Registers are numbered 0 to 7; data is addressed in words of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instruction {
    /// `register ← value`
    Set(u8, u32),
    /// `register ← register + register`, wrapping
    Add(u8, u8),
    /// `register ← data[register]`
    Load(u8, u8),
    /// `data[register] ← register`
    Store(u8, u8),
    /// Goes on at the instruction of this number if the first register is less than the second.
    JumpIfLess(u8, u8, u32),
    /// Writes the register as a decimal line to standard output.
    Print(u8),
    /// Makes the data region longer by so many pages; `register ←` its length before, in pages, or
    /// `u64::MAX` if it cannot be so long.
    Grow(u8, u32),
    /// Ends with this code.
    Halt(u32),
}

impl Instruction {
    /// The word that stands for it in memory: operation, two registers, and a number in the upper half.
    pub(super) fn encode(self) -> u64 {
        let (operation, a, b, number) = match self {
            Self::Set(to, value) => (1, to, 0, value),
            Self::Add(to, from) => (2, to, from, 0),
            Self::Load(to, at) => (3, to, at, 0),
            Self::Store(at, from) => (4, at, from, 0),
            Self::JumpIfLess(less, than, target) => (5, less, than, target),
            Self::Print(from) => (6, from, 0, 0),
            Self::Grow(to, pages) => (7, to, 0, pages),
            Self::Halt(code) => (8, 0, 0, code),
        };
        u64::from(number) << 32 | u64::from(b) << 16 | u64::from(a) << 8 | operation
    }

    /// The instruction for which a word stands, if any.
    pub(super) fn decode(word: u64) -> Option<Self> {
        let [operation, a, b, _, number @ ..] = word.to_le_bytes();
        let number = u32::from_le_bytes(number);
        if a >= REGISTERS || b >= REGISTERS {
            return None;
        }
        Some(match operation {
            1 => Self::Set(a, number),
            2 => Self::Add(a, b),
            3 => Self::Load(a, b),
            4 => Self::Store(a, b),
            5 => Self::JumpIfLess(a, b, number),
            6 => Self::Print(a),
            7 => Self::Grow(a, number),
            8 => Self::Halt(number),
            _ => return None,
        })
    }
}

/// A program: instructions, the data it starts with, and how long its data may become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToyProgram {
    /// Executed from the first on.
    pub code: Vec<Instruction>,
    /// The first words of the data region; the others are 0.
    pub data: Vec<u64>,
    /// The data region's first length, in pages.
    pub data_pages: u64,
    /// The data region's greatest length, in pages.
    pub data_pages_max: u64,
}

impl ToyProgram {
    /// A program that prints the sums 1, 1+2, 1+2+3, … up to `count` summands, keeps them all over its data,
    /// lets that grow now and then, and ends with code 0.
    #[must_use]
    pub fn sums(count: u32) -> Self {
        use Instruction::{Add, Grow, Halt, JumpIfLess, Load, Print, Set, Store};
        let (i, limit, one, sum, at, stride, words, old) = (0, 1, 2, 3, 4, 5, 6, 7);
        let code = vec![
            Set(limit, count),
            Set(one, 1),
            Set(stride, 700),
            Set(words, 3 * PAGE_WORDS as u32),
            Add(i, one), // 4: the loop
            Load(old, at),
            Add(sum, i),
            Store(at, sum),
            Print(sum),
            Add(at, stride),
            JumpIfLess(at, words, 14),
            Set(at, 7),
            Grow(old, 1),
            JumpIfLess(old, words, 16), // it did grow
            JumpIfLess(i, limit, 4),    // 14
            Halt(0),
            Set(old, PAGE_WORDS as u32), // 16
            Add(words, old),
            JumpIfLess(i, limit, 4),
            Halt(0),
        ];
        Self {
            code,
            data: vec![u64::MAX; PAGE_WORDS + 1],
            data_pages: 3,
            data_pages_max: 40,
        }
    }

    /// The program's bytes, by whose hash it is named.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        // Encoding numbers and lists into memory cannot fail.
        bytes.extend(postcard::to_stdvec(self).unwrap_or_default());
        bytes
    }

    /// The program with these bytes, if they are one.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes
            .strip_prefix(MAGIC)
            .ok_or("it does not begin with \"TOY1\"")?;
        let program: Self = match postcard::take_from_bytes(bytes) {
            Ok((program, [])) => program,
            Ok(_) => return Err("it has bytes left over".into()),
            Err(error) => return Err(error.to_string()),
        };
        let code_pages = program.code.len().div_ceil(PAGE_WORDS) as u64;
        if code_pages.max(program.data_pages_max) > REGION_PAGES_MAX {
            return Err(format!(
                "it has more than {REGION_PAGES_MAX} pages of code or data"
            ));
        }
        if program.data.len() as u64 > program.data_pages.saturating_mul(PAGE_WORDS as u64) {
            return Err("it has more data than its data region holds".into());
        }
        program.layout().map_err(|error| error.to_string())?;
        Ok(program)
    }

    /// The regions at the start.
    pub(super) fn layout(&self) -> Result<MemoryLayout, LayoutError> {
        let region = |id, name: &str, pages, pages_max| Region {
            id,
            name: name.into(),
            pages,
            pages_max,
        };
        let code_pages = self.code.len().div_ceil(PAGE_WORDS) as u64;
        MemoryLayout::new(vec![
            region(CODE, "code", code_pages, code_pages),
            region(DATA, "data", self.data_pages, self.data_pages_max),
        ])
    }
}
