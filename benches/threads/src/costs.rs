//! Nanoseconds for making a thread, for switching and for handing over; bytes of a thread that is blocked.

use anyhow::Result;

use crate::Plan;
use crate::peers::{Peer, Task};
use crate::table::{Table, median};

/// Most threads of the kernel at once: machines limit them.
const HEAVY_MAX: usize = 10_000;

/// Nanoseconds on one processor.
pub(crate) fn costs(plan: &Plan) -> Result<Table> {
    let tasks = [Task::Create, Task::Yield, Task::Channel];
    let columns = ["create + join", "yield", "channel"].map(|name| format!("{name}, ns"));
    let note = "One processor. The medians of the rounds. A hand-over goes through a channel of one place.";
    let mut table = Table::new("What threads cost", note, &columns);
    let rows = in_turns(plan, &tasks.map(|task| (task, 0)), |peer, (task, _)| {
        let count = match (peer.is_heavy(), task) {
            (true, Task::Create) => 2_000,
            (true, _) => 20_000,
            (false, _) => 1_000_000,
        };
        Some(if plan.quick { count / 10 } else { count })
    })?;
    for (name, figures) in rows {
        table.row(name, figures);
    }
    Ok(table)
}

/// Bytes of each blocked thread.
pub(crate) fn memory(plan: &Plan) -> Result<Table> {
    let counts: &[usize] = if plan.quick {
        &[1_000, 10_000]
    } else {
        &[1_000, 10_000, 100_000, 1_000_000]
    };
    let columns: Vec<_> = counts.iter().map(|count| format!("at {count}")).collect();
    let note = "Bytes of each blocked thread, page tables included.";
    let mut table = Table::new("Memory", note, &columns);
    let tasks: Vec<_> = counts.iter().map(|&count| (Task::Blocked, count)).collect();
    let plan = Plan {
        rounds: 1,
        ..plan.clone()
    };
    let rows = in_turns(&plan, &tasks, |peer, (_, count)| {
        // `may` gives each a mapping of its own, of which a process may have 65,530.
        let most = match peer.name {
            "may" => 3 * HEAVY_MAX,
            _ if peer.is_heavy() => HEAVY_MAX,
            _ => usize::MAX,
        };
        (count <= most).then_some(count)
    })?;
    for (name, figures) in rows {
        table.row(name, figures);
    }
    Ok(table)
}

/// A peer's name and its figures.
type Row = (&'static str, Vec<Option<f64>>);

/// Medians of each peer's figures of each task, taken in turns. `count` says how many, or that the peer cannot.
fn in_turns(
    plan: &Plan,
    tasks: &[(Task, usize)],
    count: impl Fn(&Peer, (Task, usize)) -> Option<usize>,
) -> Result<Vec<Row>> {
    let peers = Peer::here(plan);
    let mut figures = vec![vec![Vec::new(); tasks.len()]; peers.len()];
    for _ in 0..plan.rounds {
        for (peer, figures) in peers.iter().zip(&mut figures) {
            for (&task, figures) in tasks.iter().zip(figures) {
                if let Some(count) = count(peer, task)
                    && let Some(figure) = peer.ask(plan, task.0, count)?
                {
                    figures.push(figure);
                }
            }
        }
    }
    let rows = peers.iter().zip(figures);
    Ok(rows
        .map(|(peer, figures)| (peer.name, figures.into_iter().map(median).collect()))
        .collect())
}
