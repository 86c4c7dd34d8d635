//! The table of all points of a program: what the record of each holds, so that captured frames are
//! read without planning a function again.

use serde::{Deserialize, Serialize};
use wasmparser::ValType;

use super::plan::{Plan, Point, PointKind};
use super::record::{self, Field};

/// What a stopped frame says about where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// Before its operator, which is done (again) when it goes on.
    Before,
    /// After its call, whose results it waits for or has got.
    After,
    /// Before its call of an import if that was cancelled, else after it.
    Import,
}

/// Type of a value in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "WebAssembly's own names")]
pub enum ValueType {
    I32,
    I64,
    F32,
    F64,
    V128,
    Function,
    External,
}

impl ValueType {
    pub(crate) fn of(ty: ValType) -> ValueType {
        match ty {
            ValType::I32 => ValueType::I32,
            ValType::I64 => ValueType::I64,
            ValType::F32 => ValueType::F32,
            ValType::F64 => ValueType::F64,
            ValType::V128 => ValueType::V128,
            ValType::Ref(ty) if ty.is_func_ref() => ValueType::Function,
            ValType::Ref(_) => ValueType::External,
        }
    }

    /// Bytes in a record.
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            ValueType::I64 | ValueType::F64 => 8,
            ValueType::V128 => 16,
            _ => 4,
        }
    }
}

/// One point: where it is and what its record holds, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointEntry {
    /// Index of the operator in its function.
    pub op: u32,
    /// Byte offset of the operator in the original module.
    pub offset: u32,
    /// What stopping here means.
    pub stop: Stop,
    /// Original indices and types of the live locals.
    pub locals: Vec<(u32, ValueType)>,
    /// The operand stack, bottom first, arguments of the operator included.
    pub stack: Vec<ValueType>,
    /// How many of these are arguments of the operator.
    pub arguments: u32,
    /// Results of the call.
    pub results: Vec<ValueType>,
}

impl PointEntry {
    /// Bytes of a record here.
    #[must_use]
    pub fn record_size(&self) -> usize {
        let types = self
            .locals
            .iter()
            .map(|(_, ty)| ty)
            .chain(&self.stack)
            .chain(&self.results);
        record::HEAD as usize + types.map(|ty| ty.width()).sum::<usize>()
    }
}

/// All points at which a program can be stopped, by function.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PointTable {
    /// Where each function's points begin in `places`, and the end.
    starts: Vec<u32>,
    /// Operator of each point, and where its entry begins in `entries`.
    places: Vec<(u32, u32)>,
    /// Encoded [`PointEntry`]s.
    #[serde(with = "serde_bytes_vec")]
    entries: Vec<u8>,
}

/// Bytes as one run rather than number by number.
mod serde_bytes_vec {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let bytes: &[u8] = Deserialize::deserialize(deserializer)?;
        Ok(bytes.to_vec())
    }
}

impl PointTable {
    fn places_of(&self, function: u32) -> &[(u32, u32)] {
        let bound = |at: usize| self.starts.get(at).map(|&start| start as usize);
        let range = bound(function as usize).zip(bound(function as usize + 1));
        range
            .and_then(|(start, end)| self.places.get(start..end))
            .unwrap_or_default()
    }

    fn entry(&self, place: (u32, u32)) -> Option<PointEntry> {
        postcard::take_from_bytes(self.entries.get(place.1 as usize..)?)
            .ok()
            .map(|(entry, _)| entry)
    }

    /// The points of `function`, in order; none for a function that cannot stop.
    pub fn of_function(&self, function: u32) -> impl Iterator<Item = PointEntry> + '_ {
        self.places_of(function)
            .iter()
            .filter_map(|&place| self.entry(place))
    }

    /// The point at operator `op` of `function`.
    #[must_use]
    pub fn at(&self, function: u32, op: u32) -> Option<PointEntry> {
        let places = self.places_of(function);
        let at = places.binary_search_by_key(&op, |place| place.0).ok()?;
        self.entry(places[at])
    }

    /// The point whose operator lies at byte `offset` of the original module.
    #[must_use]
    pub fn at_offset(&self, function: u32, offset: u32) -> Option<PointEntry> {
        let places = self.places_of(function);
        let lies_before =
            |&place: &(u32, u32)| self.entry(place).is_some_and(|p| p.offset < offset);
        let at = places.partition_point(lies_before);
        self.entry(*places.get(at)?)
            .filter(|point| point.offset == offset)
    }
}

#[derive(Default)]
pub(crate) struct PointTableBuilder(PointTable);

impl PointTableBuilder {
    /// Adds a function without points.
    pub(crate) fn none(&mut self) {
        self.0.starts.push(self.0.places.len() as u32);
    }

    /// Adds the points of `plan`'s function.
    pub(crate) fn add(&mut self, plan: &Plan<'_>) {
        self.none();
        for point in plan.points.iter().filter(|p| p.stops()) {
            let entry = entry(plan, point);
            self.0.places.push((entry.op, self.0.entries.len() as u32));
            let encoded = postcard::to_allocvec(&entry).expect("plain data can be encoded");
            self.0.entries.extend_from_slice(&encoded);
        }
    }

    pub(crate) fn finish(mut self) -> PointTable {
        self.none();
        self.0
    }
}

fn entry(plan: &Plan<'_>, point: &Point) -> PointEntry {
    let mut entry = PointEntry {
        op: point.op as u32,
        offset: plan.ops[point.op].offset,
        stop: match point.kind {
            PointKind::Call => Stop::After,
            PointKind::Import => Stop::Import,
            PointKind::Loop { .. } | PointKind::TailCall | PointKind::Bulk => Stop::Before,
        },
        locals: Vec::new(),
        stack: Vec::new(),
        arguments: point.arguments as u32,
        results: Vec::new(),
    };
    for (field, ty) in record::fields(point, &plan.locals) {
        let ty = ValueType::of(ty);
        match field {
            Field::Local(index) => entry.locals.push((index, ty)),
            Field::Stack(_) => entry.stack.push(ty),
            Field::Result(_) => entry.results.push(ty),
        }
    }
    entry
}
