//! What a call that blocks does to others, fair shares between groups, and processor time at rest.

use std::time::Duration;

use anyhow::Result;
use sterna_threads::{Builder, Group, Runtime, sleep, yield_now};

use crate::Plan;
use crate::blocking::implementation;
use crate::peers::{Peer, Task};
use crate::table::{Table, median};

/// Threads of the group that has more.
const MANY: usize = 9;
/// Blocked threads of a runtime at rest.
const AT_REST: usize = 1_000;

/// Milliseconds that a thread waits which sleeps for one, at most, while another blocks for 500.
pub(crate) fn gaps(plan: &Plan) -> Result<Table> {
    let columns = ["announced, ms", "unannounced, ms"].map(str::to_owned);
    let note = "The longest time between two turns of a thread that sleeps for 1 ms, on one worker and one processor, \
                while another blocks in the kernel for 500 ms. The medians of the rounds.";
    let mut table = Table::new("While one blocks", note, &columns);
    for peer in Peer::here(plan) {
        let figures = [Task::AnnouncedGap, Task::Gap].map(|task| figures(plan, &peer, task, 0));
        let [announced, unannounced] = figures;
        table.row(peer.name, vec![median(announced?), median(unannounced?)]);
    }
    Ok(table)
}

/// The share of a group of one thread beside a group of nine.
pub(crate) fn shares(plan: &Plan) -> Result<Table> {
    let columns = ["share".to_owned()];
    let note = "The share, in percent, of a group of one thread beside a group of nine of the same weight, over a \
                second. The medians of the rounds.";
    let mut table = Table::new("Fair shares", note, &columns);
    for peer in Peer::here(plan) {
        // Those of the kernel know no groups.
        if peer.is_ours() && !peer.is_heavy() {
            table.row(
                peer.name,
                vec![median(figures(plan, &peer, Task::Share, MANY)?)],
            );
        }
    }
    Ok(table)
}

/// Processor time at rest.
pub(crate) fn idle(plan: &Plan) -> Result<Table> {
    let columns = ["ms in a second".to_owned()];
    let note = "Processor time of a process with 1,000 blocked threads. The medians of the rounds.";
    let mut table = Table::new("At rest", note, &columns);
    for peer in Peer::here(plan) {
        table.row(
            peer.name,
            vec![median(figures(plan, &peer, Task::Idle, AT_REST)?)],
        );
    }
    Ok(table)
}

fn figures(plan: &Plan, peer: &Peer, task: Task, count: usize) -> Result<Vec<f64>> {
    let mut figures = Vec::new();
    for _ in 0..plan.rounds {
        figures.extend(peer.ask(plan, task, count)?);
    }
    Ok(figures)
}

/// Is the peer that shares out.
pub(crate) fn share(name: &str, many: usize) -> Result<f64> {
    let runtime = Runtime::builder(implementation(name)).workers(1).build()?;
    runtime.run(|| {
        let (one, others) = (Group::new("one"), Group::new("many"));
        for (group, threads) in [(&one, 1), (&others, many)] {
            for _ in 0..threads {
                drop(Builder::new().group(group).spawn(work)?);
            }
        }
        sleep(Duration::from_secs(1));
        let (time, rest) = (
            one.run_time().as_secs_f64(),
            others.run_time().as_secs_f64(),
        );
        for group in [one, others] {
            group.cancel();
            group.join();
        }
        Ok(100.0 * time / (time + rest))
    })
}

fn work() {
    loop {
        let mut sum = 0_u64;
        (0..20_000).for_each(|i| sum = std::hint::black_box(sum + i));
        yield_now();
    }
}
