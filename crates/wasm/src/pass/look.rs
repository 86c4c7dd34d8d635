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

    /// Puts on the stack whether to stop, for the loop header that is the function's `ordinal`th to be
    /// polled: not zero if so.
    ///
    /// An engine may take a second load of an address for the first one's value if nothing is stored or
    /// called in between (wasmtime does). Round a loop without stores, that value would never change and
    /// the loop never stop, so that each header looks at a copy of the word of its own.
    pub(crate) fn encode_at_header(self, control: u32, ordinal: u32, out: &mut Vec<u8>) {
        if self == Look::Countdown {
            return self.encode(control, out);
        }
        Instruction::I32Const(0).encode(out);
        match u64::from(ordinal) {
            // No engine keeps the value of an atomic load.
            copy if copy >= record::COPIES => Instruction::I32AtomicLoad(wasm_encoder::MemArg {
                align: 2,
                ..at(record::WORD, control)
            }),
            copy => Instruction::I32Load(at(record::WORD + 4 * copy, control)),
        }
        .encode(out);
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
