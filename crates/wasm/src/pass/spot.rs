//! A place in a program, in terms of its original module: [`Spot`].

use serde::{Deserialize, Serialize};
use sterna_process::Waypoint;

const AFTER_BITS: u32 = 1;
const OFFSET_BITS: u32 = u32::BITS;

/// Where a frame of a program can stand. The same for every version of the pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Spot {
    /// Original function index.
    pub(crate) function: u32,
    /// Byte offset of the operator in the original module.
    pub(crate) offset: u32,
    /// Whether the operator, a call, has been done or is under way.
    pub(crate) after: bool,
}

impl Spot {
    /// As a number: `function << 33 | offset << 1 | after`. The function is there because those that stand for imported
    /// ones have no bytes of their own.
    pub(crate) fn waypoint(self) -> Waypoint {
        let place = u64::from(self.function) << OFFSET_BITS | u64::from(self.offset);
        Waypoint(place << AFTER_BITS | u64::from(self.after))
    }

    /// What [`Spot::waypoint`] gave; `None` for a number that it never gives.
    pub(crate) fn of(waypoint: Waypoint) -> Option<Spot> {
        let place = waypoint.0 >> AFTER_BITS;
        let spot = Spot {
            function: (place >> OFFSET_BITS) as u32,
            offset: place as u32,
            after: waypoint.0 & 1 != 0,
        };
        (spot.waypoint() == waypoint).then_some(spot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_a_number_of_its_own() {
        for function in [0, 1, 999_999, (1 << 31) - 1] {
            for offset in [0, 1, u32::MAX] {
                for after in [false, true] {
                    let spot = Spot {
                        function,
                        offset,
                        after,
                    };
                    assert_eq!(Spot::of(spot.waypoint()), Some(spot));
                }
            }
        }
    }
}
