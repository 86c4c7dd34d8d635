//! All that was measured of moves: [`Move`], and its page of charts.

use serde::{Deserialize, Serialize};

use super::seen::{COPY, READY, STILL};
use super::{Tally, Trace, Way};
use crate::place::Condition;
use crate::plot::{Axis, Band, Bars, Chart, Group, Line, Lines, Page, Part, Scale, Stroke, Unit};

/// What moves of a server cost its clients.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Move {
    /// Where.
    pub machine: String,
    /// In what state it was before and after.
    pub conditions: (Condition, Condition),
    /// Connections.
    pub clients: usize,
    /// Writes a second that were due.
    pub rate: f64,
    /// For each size of the server's table.
    pub heaps: Vec<Heap>,
    /// Moves beyond those that were measured.
    pub checked: usize,
    /// What became of all requests.
    pub tally: Tally,
}

/// Moves of a server with a table of one size.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Heap {
    /// The size.
    pub bytes: u64,
    /// The ways in which its memory went.
    pub ways: Vec<Way>,
    /// How much it can do.
    pub capacity: Option<Capacity>,
}

/// Answers a second, if each client asks again as soon as it has its answer.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// At the node that has its port.
    pub before: f64,
    /// There, while memory goes in rounds.
    pub in_rounds: f64,
    /// At another node: on one machine, both share its processors.
    pub elsewhere: f64,
    /// Back at the node that has its port.
    pub after: f64,
}

impl Heap {
    fn name(&self) -> String {
        match self.bytes >> 20 {
            mib if mib.is_multiple_of(1024) => format!("{} GiB", mib >> 10),
            mib => format!("{mib} MiB"),
        }
    }
}

/// In microseconds; a unit for nanoseconds is there.
const NS: f64 = 1000.0;

impl Move {
    /// What was measured, as charts.
    pub fn page(&self) -> Page {
        let mut parts = vec![self.gaps()];
        for heap in &self.heaps {
            parts.extend(heap.ways.iter().map(|way| over_time(heap, way)));
        }
        Page {
            title: "What a move of a server costs its clients".to_owned(),
            about: format!(
                "A key-value server with a heap of the given size, all of which is written, moves between two nodes of one \
                 machine ({}; {} before and {} after) while {} clients write {:.0} times a second. \
                 {} requests were answered, {} failed, {} answers were wrong.",
                self.machine,
                self.conditions.0,
                self.conditions.1,
                self.clients,
                self.rate,
                self.tally.answered,
                self.tally.failed,
                self.tally.wrong
            ),
            parts,
        }
    }

    fn gaps(&self) -> Part {
        let ways = |heap: &Heap| {
            let name = heap.name();
            let group = |way: &Way| {
                let hops =
                    |of: &dyn Fn(&super::Hop) -> Option<u64>| way.middle_us(of).map(|us| us * NS);
                Group {
                    label: format!("{name}, {}", way.strategy),
                    values: vec![
                        hops(&|hop| Some(hop.gap_us)),
                        hops(&|hop| Some(hop.quiet_gap_us)),
                        hops(&|hop| hop.downtime_us),
                    ],
                }
            };
            heap.ways.iter().map(group).collect::<Vec<_>>()
        };
        let names = ["longest gap", "without a move", "nobody executed it"];
        Part {
            heading: "Longest gaps".to_owned(),
            text: "The longest time between two answers that any client saw during a move, the same in as much time without \
                   one, and for how long nobody executed the server. Medians; logarithmic scale."
                .to_owned(),
            chart: Chart::Bars(Bars {
                unit: Unit::Nanoseconds,
                scale: Scale::Logarithmic,
                series: names.map(str::to_owned).into(),
                groups: self.heaps.iter().flat_map(ways).collect(),
            }),
        }
    }
}

/// Phases look the same in all charts.
fn colour(phase: &str) -> usize {
    match phase {
        READY => 2,
        COPY => 3,
        STILL => 4,
        _ => 5,
    }
}

/// Response times around one move.
fn over_time(heap: &Heap, way: &Way) -> Part {
    let Trace { points, phases } = &way.trace;
    let first = points.first().map_or(0, |point| point.0);
    let at = |us: i64| (us - first) as f64 / 1e6;
    let line = |name: &str, colour, of: &dyn Fn(&(i64, u64, u64)) -> u64| Line {
        name: name.to_owned(),
        colour,
        stroke: Stroke::Solid,
        points: points
            .iter()
            .map(|point| (at(point.0), of(point) as f64 * NS))
            .collect(),
    };
    let hops = &way.hops;
    let above = way.above_us(0.5) / 1e3;
    let still = way.middle_us(&|hop| hop.downtime_us).unwrap_or(f64::NAN);
    Part {
        heading: format!("{}, {}", heap.name(), way.strategy),
        text: format!(
            "Response times around the one of {} moves whose gap is the median one: of the requests that were due at each \
             moment, the median and the longest. The longest gap of any client was {above:.1} ms above that without a \
             move, and nobody executed the server for {:.1} ms (medians of all moves).",
            hops.len(),
            still / 1e3
        ),
        chart: Chart::Lines(Lines {
            x: Axis {
                label: "when the request was due".to_owned(),
                unit: Unit::Seconds,
                scale: Scale::Linear,
            },
            y: Axis {
                label: "response time".to_owned(),
                unit: Unit::Nanoseconds,
                scale: Scale::Logarithmic,
            },
            series: vec![
                line("the longest", 1, &|point| point.2),
                line("the median", 0, &|point| point.1),
            ],
            marks: vec![(at(0), "the move is ordered".to_owned())],
            bands: phases
                .iter()
                .map(|phase| Band {
                    from: at(phase.from_us as i64),
                    to: at(phase.to_us as i64),
                    name: phase.name.clone(),
                    colour: colour(&phase.name),
                })
                .collect(),
        }),
    }
}
