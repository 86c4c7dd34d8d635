//! [`Bench`] as a page of charts.

use super::{Bench, Means};
use crate::carrier::{Carrier, Placement};
use crate::plot::{Bars, Chart, Group, Page, Part, Scale, Unit};

impl Bench {
    /// What was measured, as charts.
    pub fn page(&self) -> Page {
        let mut parts = vec![self.operations(), self.memory()];
        let mut sizes: Vec<usize> = self.messages.iter().map(|row| row.bytes).collect();
        sizes.dedup();
        parts.extend(sizes.into_iter().map(|bytes| self.messages(bytes)));
        Page {
            title: "What processes and threads cost".to_owned(),
            about: format!(
                "{}. Best of several rounds; logarithmic scales.",
                self.machine
            ),
            parts,
        }
    }

    fn operations(&self) -> Part {
        let rows = self
            .operations
            .chunk_by(|one, two| (one.operation, one.placement) == (two.operation, two.placement));
        let groups = rows.map(|rows| Group {
            label: label(rows[0].operation.name(), rows[0].placement),
            values: by_carrier(|carrier| {
                let row = rows.iter().find(|row| row.carrier == carrier)?;
                row.cost.measured().map(|cost| cost.best_ns)
            }),
        });
        part(
            "Operations",
            "Time of one operation. Creating a process is fork, exec, exit and wait; a value goes through a pipe between \
             processes and through a channel between threads.",
            Unit::Nanoseconds,
            groups.collect(),
        )
    }

    fn memory(&self) -> Part {
        let rows = self.memory.chunk_by(|one, two| one.count == two.count);
        let groups = rows.map(|rows| Group {
            label: format!("{} that wait", rows[0].count),
            values: by_carrier(|carrier| {
                let row = rows.iter().find(|row| row.carrier == carrier)?;
                row.held.measured().map(|held| held.total())
            }),
        });
        part(
            "Memory",
            "Bytes of each: resident memory with page tables, and the stack in the kernel.",
            Unit::Bytes,
            groups.collect(),
        )
    }

    fn messages(&self, bytes: usize) -> Part {
        let mut groups = Vec::new();
        for placement in Placement::ALL {
            for means in Means::ALL {
                let row = |carrier| {
                    self.messages.iter().find(|row| {
                        (row.bytes, row.placement, row.means, row.carrier)
                            == (bytes, placement, means, carrier)
                    })
                };
                groups.push(Group {
                    label: label(means.name(), placement),
                    values: by_carrier(|carrier| {
                        row(carrier)?.cost.measured().map(|cost| cost.best_ns)
                    }),
                });
            }
        }
        part(
            &format!("Messages of {bytes} bytes"),
            "Time of one message in one direction, with the wake-up of who waits for it.",
            Unit::Nanoseconds,
            groups,
        )
    }
}

fn by_carrier(value: impl Fn(Carrier) -> Option<f64>) -> Vec<Option<f64>> {
    Carrier::ALL.map(value).to_vec()
}

fn label(what: &str, placement: Placement) -> String {
    match placement {
        Placement::OneProcessor => what.to_owned(),
        Placement::TwoProcessors => format!("{what}, across"),
    }
}

fn part(heading: &str, text: &str, unit: Unit, groups: Vec<Group>) -> Part {
    Part {
        heading: heading.to_owned(),
        text: text.to_owned(),
        chart: Chart::Bars(Bars {
            unit,
            scale: Scale::Logarithmic,
            series: Carrier::ALL
                .map(|carrier| carrier.name().to_owned())
                .to_vec(),
            groups,
        }),
    }
}
