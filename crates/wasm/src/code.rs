//! What native code stands for: [`CodeMap`] tells of an address in a compiled module at which point the frame stands that
//! runs there.
//!
//! The pass says where in the module that it wrote the code of each point lies ([`Marks`]), the engine which of its bytes
//! each native instruction comes from. Between the two the addresses of points are found once; a look is then a
//! search in a table.

use std::ops::Range;

use wasmtime::Module;

use crate::pass::{Marks, Spot};

/// What an address stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// A frame at a point.
    At(Spot),
    /// A helper, which has no frame of its own.
    Helper,
    /// Code of a function that is at no point: nobody can stand there.
    Nowhere,
    /// No function: what the engine puts around calls.
    Outside,
}

/// A run of native instructions that come from one mark.
#[derive(Debug)]
struct Span {
    start: u32,
    end: u32,
    spot: Option<Spot>,
}

/// The points of one compiled module, by the addresses of their code.
#[derive(Debug)]
pub(crate) struct CodeMap {
    /// Offset of each function in the code, ascending.
    functions: Vec<Range<u32>>,
    /// Ascending.
    spans: Vec<Span>,
    marks: Marks,
}

impl CodeMap {
    pub(crate) fn of(module: &Module, marks: Marks) -> CodeMap {
        let functions = module.functions();
        let ranges = functions.map(|function| {
            let start = function.offset as u32;
            start..start + function.len as u32
        });
        let mut functions: Vec<Range<u32>> = ranges.collect();
        functions.sort_unstable_by_key(|range| range.start);
        let mut spans: Vec<Span> = Vec::new();
        let mut open = false;
        for (native, offset) in module.address_map().into_iter().flatten() {
            let native = native as u32;
            if open && let Some(last) = spans.last_mut() {
                last.end = native;
            }
            let mark = offset.and_then(|offset| marks.find(offset));
            let mark = mark.and_then(|number| marks.get(number));
            open = mark.is_some();
            if let Some(mark) = mark {
                spans.push(Span {
                    start: native,
                    end: u32::MAX,
                    spot: mark.spot,
                });
            }
        }
        CodeMap {
            functions,
            spans,
            marks,
        }
    }

    /// What the instruction at `native` of the code stands for.
    pub(crate) fn at(&self, native: usize) -> Code {
        let Ok(native) = u32::try_from(native) else {
            return Code::Outside;
        };
        let at = self
            .functions
            .partition_point(|range| range.start <= native);
        let inside = at.checked_sub(1).map(|at| &self.functions[at]);
        if !inside.is_some_and(|range| range.contains(&native)) {
            return Code::Outside;
        }
        let at = self.spans.partition_point(|span| span.start <= native);
        match at.checked_sub(1).map(|at| &self.spans[at]) {
            Some(span) if native < span.end => span.spot.map_or(Code::Helper, Code::At),
            _ => Code::Nowhere,
        }
    }

    /// What byte `offset` of the module that was compiled stands for.
    pub(crate) fn from(&self, offset: u32) -> Code {
        let mark = self.marks.find(offset).and_then(|at| self.marks.get(at));
        match mark {
            Some(mark) => mark.spot.map_or(Code::Helper, Code::At),
            None => Code::Nowhere,
        }
    }
}
