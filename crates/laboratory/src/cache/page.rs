//! [`Cache`] as a page of charts.

use super::{CARRIERS, Cache, CurveRow, Lines, Picture, Point};
use crate::carrier::Carrier;
use crate::plot::{Axis, Chart, Line, Lines as LineChart, Page, Part, Scale, Shades, Stroke, Unit};

/// Of sizes of working sets, the smallest first. More would share them.
const STROKES: [Stroke; 3] = [Stroke::Dashed, Stroke::Solid, Stroke::Dotted];

impl Cache {
    /// What was found, as charts.
    pub fn page(&self) -> Page {
        let mut parts = vec![self.access(), self.shares(), self.ticks()];
        parts.extend(self.lines.iter().filter_map(picture));
        Page {
            title: "What a switch costs beyond itself".to_owned(),
            about: self.machine.to_string(),
            parts,
        }
    }

    fn marks(&self) -> Vec<(f64, String)> {
        let marks = self.levels.iter();
        marks
            .map(|level| (level.bytes as f64, format!("L{}", level.level)))
            .collect()
    }

    fn points(&self, carrier: Carrier, value: impl Fn(&Point) -> f64) -> Vec<(f64, f64)> {
        let of = |row: &CurveRow| Some((row.bytes as f64, value(row.point.measured()?)));
        let rows = self.curve.iter().filter(|row| row.carrier == carrier);
        rows.filter_map(of).collect()
    }

    fn access(&self) -> Part {
        let mut series = vec![Line {
            name: "before a switch".to_owned(),
            colour: 3,
            stroke: Stroke::Solid,
            points: self.points(CARRIERS[1], |point| point.before_ns),
        }];
        for (colour, carrier) in CARRIERS.into_iter().enumerate() {
            series.push(Line {
                name: format!("after a switch between {carrier}, the other uses as much memory"),
                colour,
                stroke: Stroke::Solid,
                points: self.points(carrier, |point| point.after_ns),
            });
            series.push(Line {
                name: format!("after a switch between {carrier}, the other touches nothing"),
                colour,
                stroke: Stroke::Dashed,
                points: self.points(carrier, |point| point.after_nothing_ns),
            });
        }
        self.curve_part(
            "Time per access",
            "Working sets of growing size are walked once, line by line, in an order that no prefetcher guesses. Where the \
             set no longer fits into a cache, the curve rises; after a switch it must come from farther away.",
            ("time per access", Unit::Nanoseconds, Scale::Logarithmic),
            series,
        )
    }

    fn shares(&self) -> Part {
        let mut series = Vec::new();
        for (colour, carrier) in CARRIERS.into_iter().enumerate() {
            series.push(Line {
                name: format!("{carrier}, indirect"),
                colour,
                stroke: Stroke::Solid,
                points: self.points(carrier, |point| point.indirect_ns),
            });
            series.push(Line {
                name: format!("{carrier}, direct"),
                colour,
                stroke: Stroke::Dashed,
                points: self.points(carrier, |point| point.direct_ns),
            });
        }
        self.curve_part(
            "Direct and indirect cost",
            "The switch there and back itself, and what the first walk after it takes longer because the other used as much \
             memory.",
            ("per switch there and back", Unit::Nanoseconds, Scale::Logarithmic),
            series,
        )
    }

    fn curve_part(
        &self,
        heading: &str,
        text: &str,
        (label, unit, scale): (&str, Unit, Scale),
        series: Vec<Line>,
    ) -> Part {
        Part {
            heading: heading.to_owned(),
            text: text.to_owned(),
            chart: Chart::Lines(LineChart {
                x: Axis {
                    label: "working set".to_owned(),
                    unit: Unit::Bytes,
                    scale: Scale::Logarithmic,
                },
                y: Axis {
                    label: label.to_owned(),
                    unit,
                    scale,
                },
                series,
                marks: self.marks(),
                bands: Vec::new(),
            }),
        }
    }

    fn ticks(&self) -> Part {
        let mut series = Vec::new();
        let same = |one: &super::TickRow, two: &super::TickRow| {
            (one.carrier, one.bytes) == (two.carrier, two.bytes)
        };
        let mut sizes: Vec<usize> = self.ticks.iter().map(|row| row.bytes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        for rows in self.ticks.chunk_by(same) {
            let point = |row: &super::TickRow| {
                let ticked = row.ticked.measured()?;
                Some((row.period_us as f64 / 1e6, ticked.slowdown.max(0.0)))
            };
            let colour = CARRIERS.iter().position(|one| *one == rows[0].carrier);
            let size = sizes.iter().position(|one| *one == rows[0].bytes);
            series.push(Line {
                name: format!("{}, {} KiB", rows[0].carrier, rows[0].bytes / 1024),
                colour: colour.unwrap_or(0),
                stroke: STROKES[size.unwrap_or(0) % STROKES.len()],
                points: rows.iter().filter_map(point).collect(),
            });
        }
        Part {
            heading: "Timer ticks".to_owned(),
            text: format!(
                "How much slower somebody computes whom a timer interrupts every so often in favour of somebody who reads {} \
                 KiB. Time of the other is not counted.",
                self.tick_bytes / 1024
            ),
            chart: Chart::Lines(LineChart {
                x: Axis {
                    label: "between two ticks".to_owned(),
                    unit: Unit::Seconds,
                    scale: Scale::Logarithmic,
                },
                y: Axis {
                    label: "slower by".to_owned(),
                    unit: Unit::Share,
                    scale: Scale::Linear,
                },
                series,
                marks: Vec::new(),
                bands: Vec::new(),
            }),
        }
    }
}

fn picture(lines: &Lines) -> Option<Part> {
    let picture: &Picture = lines.picture.measured()?;
    let ways = lines.cache.ways;
    let rows = picture.evicted.iter().enumerate();
    Some(Part {
        heading: format!(
            "Lines of the L{} cache, {}",
            lines.cache.level, lines.carrier
        ),
        text: format!(
            "A working set fills the cache: {ways} portions of {} KiB, used one after the other. Then the other party reads \
             some portions of its own (rows). Red: evicted; empty: still there.",
            picture.portion_bytes / 1024
        ),
        chart: Chart::Shades(Shades {
            rows_label: "the other read".to_owned(),
            columns_label: "portions of the working set, the least recently used first".to_owned(),
            columns: (1..=ways).map(|age| age.to_string()).collect(),
            rows: rows
                .map(|(read, shares)| (format!("{read} portions"), shares.clone()))
                .collect(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{TickRow, Ticked};
    use crate::carrier::Figure;
    use crate::place::Machine;

    #[test]
    fn lines_of_ticks_are_told_apart() {
        let ticked = Figure::Measured(Ticked {
            ticks: 12,
            quiet_ns: 1.0,
            direct_ns: 1.0,
            indirect_ns: 1.0,
            slowdown: 0.1,
        });
        let rows = CARRIERS.iter().flat_map(|&carrier| {
            [24 << 10, 512 << 10, 4 << 20].map(|bytes| TickRow {
                carrier,
                bytes,
                period_us: 500,
                ticked: ticked.clone(),
            })
        });
        let cache = Cache {
            machine: Machine::this(),
            levels: Vec::new(),
            curve: Vec::new(),
            tick_bytes: 0,
            ticks: rows.collect(),
            lines: Vec::new(),
        };
        let Chart::Lines(lines) = cache.ticks().chart else {
            panic!("ticks are lines");
        };
        let looks: Vec<_> = lines
            .series
            .iter()
            .map(|line| (line.colour, line.stroke))
            .collect();
        for (number, look) in looks.iter().enumerate() {
            assert!(!looks[..number].contains(look), "{look:?} is there twice");
        }
        assert_eq!(looks.len(), 3 * CARRIERS.len());
    }
}
