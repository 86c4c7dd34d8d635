//! Data segments that a module copies into its memories when it starts become part of the memories'
//! initial image instead, which every instance maps copy-on-write.

use std::ops::Range;

use wasmparser::{DataKind, Operator, Parser, Payload};

use super::InstrumentError;
use super::module::Module;

/// A piece of a memory's initial contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Original index of the memory.
    pub memory: u32,
    /// Where in the memory, in bytes.
    pub at: u64,
    /// Where in the original module its bytes lie.
    pub bytes: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strip {
    Stripped,
    Left,
}

pub(crate) struct Segments {
    pieces: Vec<Piece>,
    strip: Vec<Strip>,
}

impl Segments {
    /// Takes out the active segments, unless `strip` is false or their place is only known when the
    /// module is instantiated.
    pub(crate) fn of(module: &Module, strip: bool) -> Result<Segments, InstrumentError> {
        let mut segments = Segments {
            pieces: Vec::new(),
            strip: Vec::new(),
        };
        for payload in Parser::new(0).parse_all(&module.bytes) {
            let Payload::DataSection(section) = payload? else {
                continue;
            };
            for (index, data) in section.into_iter().enumerate() {
                let data = data?;
                let DataKind::Active {
                    memory_index,
                    offset_expr,
                } = data.kind
                else {
                    segments.strip.push(Strip::Left);
                    continue;
                };
                let at = constant_offset(&offset_expr)?
                    .filter(|_| strip && memory_index >= module.imported_memories);
                let Some(at) = at else {
                    segments.strip.push(Strip::Left);
                    continue;
                };
                let ty = &module.memories[memory_index as usize];
                let page = 1u64 << ty.page_size_log2.unwrap_or(16);
                let size = ty.initial.saturating_mul(page);
                let end = at
                    .checked_add(data.data.len() as u64)
                    .filter(|&end| end <= size);
                if end.is_none() {
                    return Err(InstrumentError::Invalid {
                        offset: data.range.start as u64,
                        reason: format!(
                            "data segment {index} does not fit into memory {memory_index}"
                        ),
                    });
                }
                let start = data.range.end - data.data.len();
                segments.strip.push(Strip::Stripped);
                segments.pieces.push(Piece {
                    memory: memory_index,
                    at,
                    bytes: start..data.range.end,
                });
            }
        }
        Ok(segments)
    }

    /// Whether no segment is left.
    pub(crate) fn all_stripped(&self) -> bool {
        self.strip.iter().all(|strip| *strip == Strip::Stripped)
    }

    pub(crate) fn strip(&self, index: usize) -> Strip {
        self.strip[index]
    }

    pub(crate) fn into_pieces(self) -> Vec<Piece> {
        self.pieces
    }
}

/// The value of an offset expression without globals.
fn constant_offset(expression: &wasmparser::ConstExpr<'_>) -> Result<Option<u64>, InstrumentError> {
    let mut stack: Vec<u64> = Vec::new();
    let mut wide = false;
    let mut operators = expression.get_operators_reader();
    while !operators.eof() {
        match operators.read()? {
            Operator::I32Const { value } => stack.push(u64::from(value as u32)),
            Operator::I64Const { value } => {
                wide = true;
                stack.push(value as u64);
            }
            operator @ (Operator::I32Add
            | Operator::I64Add
            | Operator::I32Sub
            | Operator::I64Sub
            | Operator::I32Mul
            | Operator::I64Mul) => {
                let (Some(b), Some(a)) = (stack.pop(), stack.pop()) else {
                    return Ok(None);
                };
                stack.push(match operator {
                    Operator::I32Add | Operator::I64Add => a.wrapping_add(b),
                    Operator::I32Sub | Operator::I64Sub => a.wrapping_sub(b),
                    _ => a.wrapping_mul(b),
                });
            }
            Operator::End => {}
            _ => return Ok(None),
        }
    }
    Ok(stack.pop().map(|value| {
        if wide {
            value
        } else {
            value & u64::from(u32::MAX)
        }
    }))
}
