//! A process of 1 GiB, all of it written: how quickly pages go, sealed, from memory to memory.

use anyhow::Result;
use sterna_benches::measure::{median, quantile};
use sterna_benches::table::{Cell, Table};
use sterna_node::message::MoveReport;
use sterna_process::PAGE_SIZE;

use crate::Plan;
use crate::cluster::{Cluster, part};
use crate::live::STOP_AND_COPY;
use crate::moves::values;

/// Moves: each takes seconds.
const ROUNDS_MAX: usize = 6;
/// Fills 1 GiB once, and computes from then on.
const SCRIPT: &str = "local kept = {} for i = 1, 1024 do kept[i] = string.rep(string.char(i % 255 + 1), 1048576 - 25) end \
                      print('filled') io.stdout:flush() local s = 0 for i = 1, 1e12 do s = s + i % 7 end print(s)";

pub(crate) fn measure(plan: &Plan) -> Result<Option<Table>> {
    let cluster = Cluster::start(plan, 2, None)?;
    let module = plan.root.join("guests/wasm/lua.wasm");
    let node = &cluster.nodes[0];
    let process = node.start_process(&[&module.to_string_lossy(), "-e", SCRIPT])?;
    node.wait_for_output(process, 1)?;
    eprintln!("1 GiB: moving");
    let reports: Vec<MoveReport> = (0..plan.rounds.min(ROUNDS_MAX))
        .map(|round| {
            let end = cluster.hop_so(process, round % 2, STOP_AND_COPY)?;
            Ok(end.report)
        })
        .collect::<Result<_>>()?;
    let rates: Vec<f64> = reports.iter().map(rate).collect();
    let seconds = |name| median(&values(&reports, |report| part(report, name))) / 1e3;
    let note = format!(
        "A program that keeps 1 GiB and computes with none of it, moved {} times with its memory at once: GB a second \
         from memory to memory, sealed, on loopback, where both ends share the processors; seconds.",
        reports.len()
    );
    let columns = [
        "program",
        "GB/s: median",
        "best",
        "wanted",
        "capture",
        "send",
        "restore",
        "commit",
        "resume",
    ];
    let mut table = Table::new("1 GiB", &note, &columns);
    let number = |value: f64| Cell::Number(value, 2);
    let mut cells = vec![
        number(median(&rates)),
        number(quantile(&rates, 1.0)),
        Cell::Number(1.0, 0),
    ];
    let parts = ["capture", "send", "restore", "commit", "resume"];
    cells.extend(parts.map(|name| Cell::Number(seconds(name), 3)));
    table.row("Lua, 1 GiB", cells);
    Ok(Some(table))
}

/// Bytes of pages by the time that they took to get to their places, in 10⁹ bytes a second.
fn rate(report: &MoveReport) -> f64 {
    let bytes = report.pages as f64 * PAGE_SIZE as f64;
    bytes / (part(report, "send").max(1) as f64 * 1e3)
}
