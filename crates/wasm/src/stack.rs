//! Where the frames of a guest stand that has been brought to a stop with its stack intact.
//!
//! A guest that stopped at a poll is in code of the engine, which keeps frame pointers: the addresses on its stack are
//! looked up among those of the points ([`crate::code`]). One that waits in a host call says itself what the engine
//! knows of its stack, before it parks. Either way its frames are, innermost first, those on the stack and then those
//! that it has not gone on with since it was stopped last ([`Outer`](crate::outer::Outer)).

use std::ops::ControlFlow;

use sterna_sys::gate::Registers;
use wasmtime::{AsContext, WasmBacktrace};

use crate::code::Code;
use crate::installed::Installed;
use crate::pass::Spot;

/// Most frames of the engine that a guest in a host call tells of.
pub(crate) const CALLS_MAX: usize = 4096;

/// What a guest in a host call tells of its stack: for each frame the address of its module's code, and the byte of the
/// module that was compiled; innermost first. `None`: it is deeper than that.
pub(crate) type Calls = Option<Vec<(usize, u32)>>;

/// A frame stands where none can, or the stack is too deep to be told of: its guest goes on only from wherever it is
/// stopped in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unknown;

/// Looks at the stack of the guest that is in a host call of `store`.
pub(crate) fn calls(store: impl AsContext) -> Calls {
    let trace = WasmBacktrace::force_capture(store);
    if trace.frames().len() >= CALLS_MAX {
        return None;
    }
    let frames = trace.frames().iter().map(|frame| {
        let text = frame.module().text().as_ptr() as usize;
        Some((text, u32::try_from(frame.module_offset()?).ok()?))
    });
    frames.collect()
}

/// Where the frames are of a guest in a host call.
pub(crate) fn walk_calls(
    installed: &Installed,
    calls: &Calls,
    see: &mut dyn FnMut(Spot) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Unknown> {
    for &(text, offset) in calls.as_ref().ok_or(Unknown)? {
        match installed.code_from(text, offset) {
            Code::At(spot) => {
                if see(spot).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Code::Helper => {}
            Code::Nowhere | Code::Outside => return Err(Unknown),
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Where the frames are of a guest that was interrupted with these registers, whose return addresses are `callers`.
pub(crate) fn walk(
    installed: &Installed,
    registers: Registers,
    callers: impl Iterator<Item = usize>,
    see: &mut dyn FnMut(Spot) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Unknown> {
    // A call may be the last instruction of a function: what comes after it is another one's.
    let addresses = callers.map(|return_address| return_address.wrapping_sub(1));
    // Recursion comes from the same place again and again.
    let mut last = (0, Code::Outside);
    for address in std::iter::once(registers.pc).chain(addresses) {
        if address != last.0 {
            last = (address, installed.code_at(address));
        }
        match last.1 {
            Code::At(spot) => {
                if see(spot).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Code::Helper => {}
            Code::Nowhere => return Err(Unknown),
            Code::Outside => return Ok(ControlFlow::Continue(())),
        }
    }
    Err(Unknown)
}
