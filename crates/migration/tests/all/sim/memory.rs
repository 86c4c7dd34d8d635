//! The memory of a simulated process. Each instruction writes its own number into one page, so what is in them follows from
//! how many have been executed.

use std::ops::BitOr;

/// Pages of a process.
pub(super) const PAGES: usize = 8;
/// Those that are written most of the time.
const HOT: u64 = 2;
/// What may be read of a page that is just being written.
const TORN: u64 = u64::MAX;

/// Some of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set(u8);

/// What is in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory([u64; PAGES]);

/// The page that an instruction writes.
const fn page(instruction: u64) -> usize {
    let drawn = instruction.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let of = if drawn.is_multiple_of(16) {
        PAGES as u64
    } else {
        HOT
    };
    ((drawn / 16) % of) as usize
}

impl Set {
    pub(super) const ALL: Self = Self(u8::MAX);
    pub(super) const NONE: Self = Self(0);

    /// What is written by instructions after the first so many, up to so many.
    pub(super) fn written(after: u64, until: u64) -> Self {
        let written = (after + 1..=until).map(|instruction| Self(1 << page(instruction)));
        written.fold(Self::NONE, Self::bitor)
    }

    pub(super) const fn count(self) -> u64 {
        self.0.count_ones() as u64
    }

    /// Some of them, and the others.
    pub(super) fn split(self, some: Self) -> (Self, Self) {
        (Self(self.0 & some.0), Self(self.0 & !some.0))
    }

    pub(super) const fn of_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Whether the instruction after so many writes one of them.
    pub(super) const fn is_next(self, executed: u64) -> bool {
        self.has(page(executed + 1))
    }

    const fn has(self, page: usize) -> bool {
        self.0 & 1 << page != 0
    }
}

impl BitOr for Set {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Memory {
    /// What the program alone gives.
    pub(super) const FIRST: Self = Self([0; PAGES]);

    /// After so many instructions.
    pub(super) fn after(instructions: u64) -> Self {
        let last = |of| (1..=instructions).rev().find(|one| page(*one) == of);
        Self(std::array::from_fn(|of| last(of).unwrap_or(0)))
    }

    /// Puts some pages of another one in their place.
    pub(super) fn install(&mut self, set: Set, other: &Self) {
        for page in (0..PAGES).filter(|page| set.has(*page)) {
            self.0[page] = other.0[page];
        }
    }

    /// They were read while they were being written.
    pub(super) fn tear(&mut self, set: Set) {
        self.install(set, &Self([TORN; PAGES]));
    }
}
