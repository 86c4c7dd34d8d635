//! Frames of a guest that stands still, in terms of its original module.

use serde::{Deserialize, Serialize};
use wasmtime::Val;

use crate::pass::{PointEntry, PointTable, Spot, Stop, ValueType, record};

/// A frame: where a function stands, and the values that it needs to go on. `V` is a value: of one
/// store while the guest lives there ([`Val`]), or portable ([`Value`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frame<V> {
    /// Original function index.
    pub function: u32,
    /// Byte offset, in the original module, of the operator at which it stands.
    pub offset: u32,
    /// Whether that operator, a call, has been done or is under way: else it is still to be done.
    pub after: bool,
    /// Live locals by original index.
    pub locals: Vec<(u32, V)>,
    /// The operand stack, bottom first. After a call, without the call's arguments and results.
    pub stack: Vec<V>,
    /// Results of the call, if it has returned.
    pub results: Option<Vec<V>>,
}

impl<V> Frame<V> {
    /// Where it stands.
    pub(crate) fn spot(&self) -> Spot {
        Spot {
            function: self.function,
            offset: self.offset,
            after: self.after,
        }
    }

    /// The frame with every value translated.
    pub(crate) fn try_map<W, E>(
        &self,
        mut translate: impl FnMut(&V) -> Result<W, E>,
    ) -> Result<Frame<W>, E> {
        let mut locals = Vec::with_capacity(self.locals.len());
        for (index, value) in &self.locals {
            locals.push((*index, translate(value)?));
        }
        let stack = self
            .stack
            .iter()
            .map(&mut translate)
            .collect::<Result<_, E>>()?;
        let results = match &self.results {
            Some(results) => Some(
                results
                    .iter()
                    .map(&mut translate)
                    .collect::<Result<_, E>>()?,
            ),
            None => None,
        };
        Ok(Frame {
            function: self.function,
            offset: self.offset,
            after: self.after,
            locals,
            stack,
            results,
        })
    }
}

/// A value in terms of WebAssembly: no address of any machine. Floats are kept as their bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "WebAssembly's own names")]
pub enum Value {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
    V128(u128),
    /// A reference to a function by original index.
    Function(Option<u32>),
    /// The null `externref`; no other can be carried.
    NullExternal,
}

/// Why records could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the guest's saved stack is damaged at byte {at}: {reason}")]
pub struct ReadFramesError {
    at: usize,
    reason: &'static str,
}

/// Where references that a record only has an index of are kept.
pub(crate) trait KeptReferences {
    fn kept(&mut self, ty: ValueType, index: u32) -> Option<Val>;
}

/// Reads `records` as the guest left them. `cancelled`: the innermost frame's call of the host was
/// cancelled and has had no effect.
pub(crate) fn read(
    records: &[u8],
    points: &PointTable,
    cancelled: bool,
    references: &mut dyn KeptReferences,
) -> Result<Vec<Frame<Val>>, ReadFramesError> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < records.len() {
        let damaged = |reason| ReadFramesError { at, reason };
        let rest = &records[at..];
        let head = rest.first_chunk::<8>().ok_or(damaged("half a record"))?;
        let head = u64::from_le_bytes(*head);
        let (function, op) = ((head >> 32) as u32, head as u32);
        let point = points
            .at(function, op)
            .ok_or(damaged("there is no such point"))?;
        let size = point.record_size();
        let bytes = rest
            .get(record::HEAD as usize..size)
            .ok_or(damaged("half a record"))?;
        let innermost = frames.is_empty();
        let frame = read_one(bytes, function, &point, innermost, cancelled, references);
        frames.push(frame.ok_or(damaged("a reference was not kept"))?);
        at += size;
    }
    Ok(frames)
}

fn read_one(
    bytes: &[u8],
    function: u32,
    point: &PointEntry,
    innermost: bool,
    cancelled: bool,
    references: &mut dyn KeptReferences,
) -> Option<Frame<Val>> {
    let mut rest = bytes;
    let mut next = |ty: ValueType| {
        let (value, more) = rest.split_at_checked(ty.width())?;
        rest = more;
        value_of(ty, value, references)
    };
    let mut locals = Vec::with_capacity(point.locals.len());
    for &(index, ty) in &point.locals {
        locals.push((index, next(ty)?));
    }
    locals.sort_unstable_by_key(|&(index, _)| index);
    let mut stack = point
        .stack
        .iter()
        .map(|&ty| next(ty))
        .collect::<Option<Vec<Val>>>()?;
    let results = point
        .results
        .iter()
        .map(|&ty| next(ty))
        .collect::<Option<Vec<Val>>>()?;
    let after = match point.stop {
        Stop::Before => false,
        Stop::After => true,
        Stop::Import => !(innermost && cancelled),
    };
    if after {
        stack.truncate(stack.len() - point.arguments as usize);
    }
    let results = (after && innermost).then_some(results);
    Some(Frame {
        function,
        offset: point.offset,
        after,
        locals,
        stack,
        results,
    })
}

fn value_of(ty: ValueType, bytes: &[u8], references: &mut dyn KeptReferences) -> Option<Val> {
    let narrow = || bytes.try_into().ok().map(u32::from_le_bytes);
    let wide = || bytes.try_into().ok().map(u64::from_le_bytes);
    Some(match ty {
        ValueType::I32 => Val::I32(narrow()? as i32),
        ValueType::F32 => Val::F32(narrow()?),
        ValueType::I64 => Val::I64(wide()? as i64),
        ValueType::F64 => Val::F64(wide()?),
        ValueType::V128 => Val::V128(u128::from_le_bytes(bytes.try_into().ok()?).into()),
        ValueType::Function | ValueType::External => references.kept(ty, narrow()?)?,
    })
}
