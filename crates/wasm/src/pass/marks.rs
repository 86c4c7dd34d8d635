//! Where the code of points lies in a module that the pass wrote: [`Marks`]. With the engine's table of addresses, this
//! tells of a native stack at which points its frames stand.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

use super::Spot;

/// A run of bytes of a module that the pass wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Byte offsets: within the function until they are placed, then within the module.
    start: u32,
    end: u32,
    /// At which point a frame stands whose code is here; `None` for a helper, which leaves no frame behind.
    pub(crate) spot: Option<Spot>,
}

impl Mark {
    pub(crate) fn of(bytes: Range<usize>, spot: Option<Spot>) -> Mark {
        Mark {
            start: bytes.start as u32,
            end: bytes.end as u32,
            spot,
        }
    }

    pub(super) fn moved(self, by: usize) -> Mark {
        Mark {
            start: self.start + by as u32,
            end: self.end + by as u32,
            spot: self.spot,
        }
    }
}

/// The code of all points of a module that the pass wrote, by where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks(Vec<Mark>);

impl Marks {
    /// Those of the functions of `wasm`, which are given in order.
    pub(super) fn place<'m>(wasm: &[u8], functions: impl Iterator<Item = &'m [Mark]>) -> Marks {
        let entries = Parser::new(0).parse_all(wasm);
        let starts = entries.filter_map(|payload| match payload {
            Ok(Payload::CodeSectionEntry(body)) => Some(body.range().start),
            _ => None,
        });
        let placed = starts.zip(functions);
        let placed = placed.flat_map(|(at, marks)| marks.iter().map(move |mark| mark.moved(at)));
        Marks(placed.collect())
    }

    /// The number of the mark that byte `offset` of the module lies in.
    pub(crate) fn find(&self, offset: u32) -> Option<usize> {
        let at = self.0.partition_point(|mark| mark.start <= offset);
        let at = at.checked_sub(1)?;
        (offset < self.0[at].end).then_some(at)
    }

    pub(crate) fn get(&self, number: usize) -> Option<&Mark> {
        self.0.get(number)
    }
}
