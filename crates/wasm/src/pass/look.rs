//! How a guest learns from the word that it is to stop.

use wasm_encoder::{Encode, Instruction};

use super::encoding::at;
use super::record;

/// How a guest learns from the word that it is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// The word is not zero.
    Flag,
    /// The word, counted down by this look unless it was zero before, is zero.
    Countdown,
}

impl Look {
    pub(crate) fn of(options: &super::Options) -> Look {
        if options.countdown {
            Look::Countdown
        } else {
            Look::Flag
        }
    }

    /// Bytes that a bulk operation may touch between two looks: about a millisecond.
    pub(crate) fn portion(self) -> u32 {
        match self {
            Look::Flag => 4 << 20,
            Look::Countdown => 5,
        }
    }

    /// Puts on the stack whether to stop: not zero if so. `control` is the memory with the word.
    pub(crate) fn encode(self, control: u32, out: &mut Vec<u8>) {
        let word = at(record::WORD, control);
        let load = [Instruction::I32Const(0), Instruction::I32Load(word)];
        let put = |code: &[Instruction<'_>], out: &mut Vec<u8>| {
            code.iter().for_each(|instruction| instruction.encode(out));
        };
        if self == Look::Countdown {
            put(&[Instruction::I32Const(0)], out);
            put(&load, out);
            put(&load, out);
            let counted = [
                Instruction::I32Const(0),
                Instruction::I32Ne,
                Instruction::I32Sub,
                Instruction::I32Store(word),
            ];
            put(&counted, out);
        }
        put(&load, out);
        if self == Look::Countdown {
            put(&[Instruction::I32Eqz], out);
        }
    }
}
