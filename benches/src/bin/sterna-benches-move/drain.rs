//! A node with many processes of several sorts is emptied by `sterna drain`.
//!
//! Most wait, as processes do, and some compute without a pause, so that the processors are busy before the drain begins. The
//! registry, and the ports of servers, are at a node that is not drained.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sterna_benches::measure::{median, quantile};
use sterna_benches::table::{Cell, Table};

use crate::Plan;
use crate::cluster::{Cluster, Node};
use crate::moves::command;

/// Drains that are measured, after one into empty caches.
const DRAINS_MAX: usize = 5;
/// Seconds that a drain may take.
const WANTED_S: f64 = 5.0;
const WITHIN: &str = "120s";
/// For a node to make all programs ready.
const PREPARED_WITHIN: Duration = Duration::from_secs(180);

const LUA: &str = "local t = {} for k = 1, 2048 do local c = {} for i = 1, 1024 do c[i] = k * i + 0.5 end t[k] = c end \
                   print('full') io.stdout:flush() for line in io.lines() do t[1][#line % 1024 + 1] = #line end";
const PYTHON: &str = "import random, time\nr = random.Random(7)\nkept = bytearray(32 << 20)\n\
                      for at in range(0, len(kept), 4096): kept[at:at + 4096] = r.randbytes(4096)\nprint('full', flush=True)\n\
                      while True:\n    kept[r.randrange(len(kept))] = 1\n    time.sleep(0.02)\n";

/// Processes that are alike.
struct Sort {
    count: usize,
    /// What they do.
    name: &'static str,
    /// Of `sterna run`.
    options: &'static [&'static str],
    guest: &'static str,
    arguments: &'static [&'static str],
}

/// All that are there at once.
const MIX: [Sort; 4] = [
    Sort {
        count: 14,
        name: "CPython, which writes every 20 ms",
        options: &[],
        guest: "python",
        arguments: &["-c", PYTHON],
    },
    Sort {
        count: 14,
        name: "Lua, at its terminal",
        options: &["--tty"],
        guest: "lua",
        arguments: &["-e", LUA],
    },
    Sort {
        count: 4,
        name: "SQLite, which computes without a pause",
        options: &[],
        guest: "sqlite",
        arguments: &["200000", "1000000"],
    },
    Sort {
        count: 18,
        name: "a key-value server without clients",
        options: &["--listen", "node-0:0"],
        guest: "kv",
        arguments: &["32"],
    },
];

pub(crate) fn measure(plan: &Plan) -> Result<Option<Table>> {
    let cluster = Cluster::start(plan, 3, None)?;
    let Some(processes) = start_all(&cluster, plan)? else {
        return Ok(None);
    };
    let first = drain(&cluster, 1, processes)?;
    drop(cluster);
    let cluster = Cluster::start_so(plan, 3, |_| &["--prepare"])?;
    start_all(&cluster, plan)?;
    wait_until_prepared(&cluster.nodes[2])?;
    let prepared = drain(&cluster, 1, processes)?;
    let drains = plan.rounds.min(DRAINS_MAX);
    let later = (0..drains)
        .map(|number| drain(&cluster, 2 - number % 2, processes))
        .collect::<Result<Vec<_>>>()?;
    let counts = MIX.map(|sort| format!("{} of {}", sort.count, sort.name));
    let note = format!(
        "{} processes with 32 MiB each: {}. Seconds of `sterna drain`, its \
         own start included, until all are at another node; milliseconds in which nobody executed a process. First into empty \
         caches; the first time to a node that was started with --prepare; then {drains} times.",
        processes,
        counts.join(", ")
    );
    let columns = [
        "node",
        "seconds: median",
        "longest",
        "wanted",
        "downtime: median",
        "90 % within",
        "longest ",
    ];
    let mut table = Table::new("A node is emptied", &note, &columns);
    table.row("first", row(&[first]));
    table.row("first, prepared", row(&[prepared]));
    table.row("again", row(&later));
    Ok(Some(table))
}

/// One drain.
struct Drained {
    seconds: f64,
    downtimes_ms: Vec<f64>,
}

fn row(drains: &[Drained]) -> Vec<Cell> {
    let seconds: Vec<f64> = drains.iter().map(|drained| drained.seconds).collect();
    let all = drains.iter().flat_map(|drained| &drained.downtimes_ms);
    let downtimes: Vec<f64> = all.copied().collect();
    let ms = |q| Cell::Number(quantile(&downtimes, q), 1);
    vec![
        Cell::Number(median(&seconds), 2),
        Cell::Number(quantile(&seconds, 1.0), 2),
        Cell::Number(WANTED_S, 0),
        ms(0.5),
        ms(0.9),
        ms(1.0),
    ]
}

/// All of the mix at one node, when their memory is full; how many these are, `None` if a program is missing.
fn start_all(cluster: &Cluster, plan: &Plan) -> Result<Option<usize>> {
    let node = &cluster.nodes[1];
    let mut processes = Vec::new();
    for sort in MIX {
        let command = command(&plan.root, sort.name, sort.guest, sort.arguments);
        let Some(command) = command else {
            return Ok(None);
        };
        let command = command.iter().map(String::as_str);
        let words: Vec<&str> = sort.options.iter().copied().chain(command).collect();
        for _ in 0..sort.count {
            eprint!("\r{} processes", processes.len());
            let process = node.start_process(&words)?;
            node.wait_for_output(process, 1)?;
            // The next one would take long to start beside it.
            let process = process.to_string();
            node.run(&["pause", &process])?;
            processes.push(process);
        }
    }
    eprintln!("\rall processes are there");
    for process in &processes {
        node.run(&["resume", process])?;
    }
    Ok(Some(processes.len()))
}

/// Waits until all programs of the mix are compiled at a node.
fn wait_until_prepared(node: &Node) -> Result<()> {
    let begun = Instant::now();
    loop {
        let listed: Value = serde_json::from_slice(&node.run(&["programs", "ls", "--json"])?)?;
        let rows = listed.as_array().context("no list of programs")?;
        let ready = rows.iter().filter(|row| row["usable"] == true);
        if ready.count() == MIX.len() {
            eprintln!(
                "all programs are ready after {:.0} s",
                begun.elapsed().as_secs_f64()
            );
            return Ok(());
        }
        ensure!(
            begun.elapsed() < PREPARED_WITHIN,
            "programs are not made ready: {listed}"
        );
        thread::sleep(Duration::from_millis(200));
    }
}

/// Empties a node, and lets it take processes again.
fn drain(cluster: &Cluster, number: usize, processes: usize) -> Result<Drained> {
    let node = &cluster.nodes[number];
    let [name, to] = [number, 3 - number].map(|number| format!("node-{number}"));
    let words = ["drain", &name, "--to", &to, "--within", WITHIN, "--json"];
    let begun = Instant::now();
    let output = node.command().args(words).output()?;
    let seconds = begun.elapsed().as_secs_f64();
    let told = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{name} was not emptied: {told}");
    eprintln!("{name} is empty after {seconds:.2} s");
    node.run(&["drain", "--cancel", &name])?;
    let told: Value = serde_json::from_str(&told)?;
    let rows = told["processes"].as_array().context("no processes")?;
    let moved = rows.iter().filter(|row| row["fate"] == "moved");
    ensure!(moved.count() == processes, "not all were moved: {told}");
    let downtimes = rows.iter().filter_map(|row| row["downtime_us"].as_f64());
    let downtimes_ms = downtimes.map(|us| us / 1e3).collect();
    Ok(Drained {
        seconds,
        downtimes_ms,
    })
}
