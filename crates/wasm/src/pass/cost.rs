//! Call depth, counted the same on every machine.
//!
//! Every function that can call itself, directly or not, takes its *charge* off a budget when it is
//! entered and gives it back when it is left; at zero the program traps as if its stack had
//! overflowed. The charge is a bound on the function's record, in bytes, so the budget bounds the
//! records of a whole stack too, and the native stack is chosen with room to spare: what a program
//! may do depends neither on the machine nor on how often it was moved.

use wasmparser::ValType;

use super::InstrumentError;
use super::calls::CallGraph;
use super::module::Module;
use super::record;

/// What a stack of calls may take in all, in bytes of records.
pub(crate) const BUDGET: i32 = 4 << 20;
/// What a chain of functions that are not charged may take in addition.
const CHAIN_MAX: u64 = 1 << 20;
/// What a frame costs besides its values.
const FRAME: u64 = 64;
/// One function's values, at the most.
const RECORD_MAX: u64 = 1 << 20;

/// What entering each function takes off the budget.
#[derive(Debug)]
pub(crate) struct Charges {
    of: Vec<Option<u32>>,
    chain: u64,
}

impl Charges {
    /// With `count` false nothing is charged, for measuring what that costs.
    pub(crate) fn of(
        module: &Module,
        calls: &CallGraph,
        count: bool,
    ) -> Result<Charges, InstrumentError> {
        let weights = (0..module.function_count())
            .map(|function| weight(module, function))
            .collect::<Result<Vec<_>, _>>()?;
        let chain =
            calls.heaviest_chain(module.function_count(), |f| u64::from(weights[f as usize]));
        let all = chain > CHAIN_MAX;
        let charge = |(function, &weight): (u32, &u32)| {
            (count && (all || calls.cyclic(function))).then_some(weight)
        };
        Ok(Charges {
            of: (0u32..).zip(&weights).map(charge).collect(),
            chain: if all { 0 } else { chain },
        })
    }

    pub(crate) fn of_function(&self, function: u32) -> Option<u32> {
        self.of[function as usize]
    }

    /// WebAssembly pages of a control memory that holds the records of the deepest possible stack.
    pub(crate) fn control_pages(&self) -> u32 {
        // One function more than the budget allows may have been entered.
        let bytes = u64::from(record::RECORDS) + BUDGET as u64 + self.chain + RECORD_MAX;
        bytes.div_ceil(65_536) as u32
    }
}

/// A bound on the bytes of any record of `function`.
fn weight(module: &Module, function: u32) -> Result<u32, InstrumentError> {
    let ty = module.function_type(function);
    let widths = |types: &[ValType]| {
        types
            .iter()
            .map(|&ty| u64::from(record::width(ty)))
            .sum::<u64>()
    };
    let mut bytes = FRAME + widths(ty.params());
    if let Some(body) = module.body(function) {
        for group in body.get_locals_reader()? {
            let (count, ty) = group?;
            bytes += u64::from(count) * u64::from(record::width(ty));
        }
        let defined = (function - module.imported_functions) as usize;
        bytes += u64::from(module.operands_max[defined]) * 16;
    }
    match u32::try_from(bytes) {
        Ok(weight) if bytes <= RECORD_MAX => Ok(weight),
        _ => Err(InstrumentError::TooLarge {
            what: "function's locals and operands, in bytes",
            limit: RECORD_MAX,
        }),
    }
}
