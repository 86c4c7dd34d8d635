//! Programs that compute, moved to and fro while they do.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use sterna_benches::measure::{Random, median, quantile};
use sterna_benches::table::{Cell, Table};
use sterna_node::message::MoveReport;

use crate::Plan;
use crate::cluster::{Cluster, part};

/// A program, as it is given to `sterna run`.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    guest: &'static str,
    arguments: &'static [&'static str],
    /// What it has written when it is in the middle of its work.
    begun_bytes: u64,
    /// Longest pause that is wanted, in milliseconds.
    wanted_ms: f64,
}

const LUA: &str = "local t = {} for i = 1, 1e9 do t[i % 5000] = tostring(i) .. 'x' \
                   if i % 100000 == 0 then print(i, #t) io.stdout:flush() end end";
const PYTHON: &str = "import json, hashlib, random\nr = random.Random(7)\nkept = {}\nfor i in range(10**9):\n    \
                      kept[i % 2000] = json.dumps([r.random() for _ in range(20)])\n    \
                      d = hashlib.sha256(kept[i % 2000].encode()).hexdigest()\n    \
                      if i % 500 == 0: print(i, d, flush=True)\n";

/// All of them.
pub(crate) const ALL: [Program; 4] = [
    Program {
        name: "C, counting",
        guest: "count",
        arguments: &["1000000", "3000000"],
        begun_bytes: 1,
        wanted_ms: 5.0,
    },
    Program {
        name: "Lua",
        guest: "lua",
        arguments: &["-e", LUA],
        begun_bytes: 1,
        wanted_ms: 8.0,
    },
    Program {
        name: "SQLite, 20 MB",
        guest: "sqlite",
        arguments: &["80000", "1000000"],
        begun_bytes: 1,
        wanted_ms: 20.0,
    },
    Program {
        name: "CPython",
        guest: "python",
        arguments: &["-c", PYTHON],
        begun_bytes: 1,
        wanted_ms: 30.0,
    },
];

impl Program {
    /// What comes after `sterna run`, if the program is here.
    pub(crate) fn command(&self, root: &Path) -> Option<Vec<String>> {
        command(root, self.name, self.guest, self.arguments)
    }
}

/// What comes after `sterna run` for a guest with these arguments, if it is here.
pub(crate) fn command(
    root: &Path,
    name: &str,
    guest: &str,
    arguments: &[&str],
) -> Option<Vec<String>> {
    let folder = match guest {
        "python" => "target/guests",
        _ => "guests/wasm",
    };
    let path = root.join(folder).join(guest).with_extension("wasm");
    if !path.exists() {
        eprintln!(
            "skipped: {name}, since {} is not here: cargo xtask guests --download",
            path.display()
        );
        return None;
    }
    let arguments = arguments.iter().map(|&argument| argument.to_owned());
    Some(
        [path.display().to_string()]
            .into_iter()
            .chain(arguments)
            .collect(),
    )
}

/// Moves a process to and fro, so often, at random moments.
pub(crate) fn hops(
    cluster: &Cluster,
    process: sterna_process::ProcessId,
    rounds: usize,
) -> Result<Vec<MoveReport>> {
    let mut random = Random(1);
    let mut reports = Vec::new();
    for round in 0..rounds {
        reports.push(cluster.hop(process, round % 2)?);
        thread::sleep(Duration::from_secs_f64(0.03 + 0.05 * random.draw()));
    }
    Ok(reports)
}

/// Values of reports in milliseconds.
pub(crate) fn values(reports: &[MoveReport], of: impl Fn(&MoveReport) -> u64) -> Vec<f64> {
    let all = reports.iter().map(of);
    all.map(|us| us as f64 / 1e3).collect()
}

fn downtimes(reports: &[MoveReport]) -> Vec<f64> {
    let known = reports.iter().filter_map(|report| report.downtime_us);
    known.map(|us| us as f64 / 1e3).collect()
}

fn start(
    cluster: &Cluster,
    plan: &Plan,
    program: &Program,
) -> Result<Option<sterna_process::ProcessId>> {
    let Some(command) = program.command(&plan.root) else {
        return Ok(None);
    };
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let node = &cluster.nodes[0];
    let process = node.start_process(&command)?;
    node.wait_for_output(process, program.begun_bytes)?;
    Ok(Some(process))
}

/// Each program, moved again and again.
pub(crate) fn programs(plan: &Plan) -> Result<Option<Table>> {
    let note = format!(
        "Milliseconds in which nobody executed the process, of {} moves to and fro, the first two left out; and the \
         medians of its parts. Then the whole move from order to end, and KiB that went meanwhile.",
        plan.rounds
    );
    let columns = [
        "program",
        "downtime: median",
        "p90",
        "max",
        "wanted",
        "capture",
        "send",
        "restore",
        "commit",
        "resume",
        "whole",
        "KiB",
    ];
    let mut table = Table::new("Moves between two nodes", &note, &columns);
    for program in &ALL {
        let cluster = Cluster::start(plan, 2, None)?;
        eprintln!("{}: compiling", program.name);
        let Some(process) = start(&cluster, plan, program)? else {
            continue;
        };
        eprintln!("{}: moving", program.name);
        hops(&cluster, process, 2)?;
        let reports = hops(&cluster, process, plan.rounds)?;
        cluster.nodes[plan.rounds % 2].kill(process)?;
        let down = downtimes(&reports);
        let number = |value: f64| Cell::Number(value, 2);
        let mut cells = vec![
            number(median(&down)),
            number(quantile(&down, 0.9)),
            number(quantile(&down, 1.0)),
            Cell::Number(program.wanted_ms, 0),
        ];
        for name in ["capture", "send", "restore", "commit", "resume"] {
            cells.push(number(median(&values(&reports, |report| {
                part(report, name)
            }))));
        }
        cells.push(number(median(&values(&reports, |report| report.total_us))));
        let kib = |report: &MoveReport| (report.image_bytes + report.pages * PAGE) * 1000 / 1024;
        cells.push(Cell::Number(median(&values(&reports, kib)), 0));
        table.row(program.name, cells);
    }
    Ok(Some(table))
}

const PAGE: u64 = sterna_process::PAGE_SIZE as u64;

/// Each program, moved once, soon after it was started with an empty cache.
pub(crate) fn first(plan: &Plan) -> Result<Option<Table>> {
    let note = "The same for the very first move of a program that was started some moments before, from an empty \
                cache to an empty cache, as often as three times. Until it is paused the program is fetched and compiled \
                at the target, and what it needs to go on: *until paused*. *Ready*: share of the moves in which all of \
                that was there by then.";
    let columns = [
        "program",
        "downtime: median",
        "max",
        "wanted",
        "capture",
        "send",
        "restore",
        "commit",
        "resume",
        "until paused",
        "ready",
    ];
    let mut table = Table::new("First moves", note, &columns);
    for program in &ALL {
        let mut reports = Vec::new();
        for _ in 0..3 {
            let cluster = Cluster::start(plan, 2, None)?;
            eprintln!("{}: first move", program.name);
            let Some(process) = start(&cluster, plan, program)? else {
                break;
            };
            reports.push(cluster.hop(process, 0)?);
        }
        if reports.is_empty() {
            continue;
        }
        let number = |value: f64| Cell::Number(value, 2);
        let down = downtimes(&reports);
        let mut cells = vec![
            number(median(&down)),
            number(quantile(&down, 1.0)),
            Cell::Number(program.wanted_ms, 0),
        ];
        for name in ["capture", "send", "restore", "commit", "resume"] {
            cells.push(number(median(&values(&reports, |report| {
                part(report, name)
            }))));
        }
        let before = |report: &MoveReport| {
            ["accept", "declare", "copy", "pause"]
                .map(|name| part(report, name))
                .iter()
                .sum::<u64>()
        };
        cells.push(Cell::Number(median(&values(&reports, before)), 0));
        let ready = reports
            .iter()
            .filter(|report| report.was_ready == Some(true));
        cells.push(number(ready.count() as f64 / reports.len() as f64));
        table.row(program.name, cells);
    }
    Ok(Some(table))
}
