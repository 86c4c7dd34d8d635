//! Heaps that are written while they are copied: how long the program stands still with and without rounds, and how much
//! slower it is meanwhile.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sterna_benches::measure::{median, quantile};
use sterna_benches::table::{Cell, Table};
use sterna_migration::{Strategy, Travel};
use sterna_node::message::MoveEnd;
use sterna_process::{PAGE_SIZE, ProcessId};
use tempfile::TempDir;

use crate::Plan;
use crate::cluster::{Cluster, part};

/// All of its memory while it stands still.
pub(crate) const STOP_AND_COPY: Travel = Travel {
    strategy: Some(Strategy::StopAndCopy),
    downtime_max: None,
    rate_max: None,
    within: None,
};
const PRE_COPY: Travel = Travel {
    strategy: Some(Strategy::PreCopy),
    ..STOP_AND_COPY
};
const POST_COPY: Travel = Travel {
    strategy: Some(Strategy::PostCopy),
    ..STOP_AND_COPY
};
/// How long a round lasts in which is seen what the program does meanwhile.
const ROUND: Duration = Duration::from_secs(3);
/// Moves of each sort.
const MOVES_MAX: usize = 8;
/// For how long what the program does is counted.
const COUNTED: Duration = Duration::from_millis(1500);
/// Pages that it writes for each byte of output.
const PAGES_A_BYTE: u64 = 500;

/// A heap, and how much is computed between two writes to different pages of it.
const HEAPS: [(&str, u64, u32); 2] = [("64 MiB", 64 << 20, 20_000), ("1 GiB", 1 << 30, 20_000)];

/// Fills a heap of so many bytes behind its first 64 KiB, then writes a word into one page after the other, seventeen
/// pages on each time.
fn program(bytes: u64, work: u32) -> String {
    let pages = bytes / (64 << 10) + 1;
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") {pages})
  (data (i32.const 0) "\08\00\00\00\01\00\00\00.")
  (func (export "_start") (local $at i32) (local $left i32) (local $i i32) (local $x i32)
    (memory.fill (i32.const 65536) (i32.const 1) (i32.const {bytes}))
    (loop $forever
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
      (local.set $left (i32.const {PAGES_A_BYTE}))
      (loop $pages
        (local.set $i (i32.const {work}))
        (loop $compute
          (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 1103515245)) (i32.const 12345)))
          (br_if $compute (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
        (i32.store offset=65536 (local.get $at) (local.get $x))
        (local.set $at (i32.rem_u (i32.add (local.get $at) (i32.const 69632)) (i32.const {bytes})))
        (br_if $pages (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
      (br $forever))))"#
    )
}

pub(crate) fn measure(plan: &Plan) -> Result<Option<Table>> {
    let moves = plan.rounds.min(MOVES_MAX);
    let note = format!(
        "A program that writes a word into one page after the other and computes in between, moved {moves} times in each \
         way. Milliseconds in which nobody executed it; rounds, and GB a second of the first; milliseconds until all of \
         its memory had followed it, and GB a second of that; MB a second that it writes, in pages; the same relative to that in a round that is held back to last {ROUND:?}, and after all moves."
    );
    let columns = [
        "heap",
        "stop-and-copy: median",
        "max",
        "pre-copy: median",
        "max",
        "rounds",
        "GB/s",
        "post-copy: median",
        "max",
        "followed",
        "GB/s",
        "MB/s written",
        "in a round",
        "wanted",
        "afterwards",
    ];
    let mut table = Table::new("Heaps that are written meanwhile", &note, &columns);
    let folder = TempDir::new()?;
    for (name, bytes, work) in HEAPS {
        let file = folder.path().join("program.wat");
        fs::write(&file, program(bytes, work))?;
        let cluster = Cluster::start(plan, 2, None)?;
        let process = cluster.nodes[0].start_process(&[&file.to_string_lossy()])?;
        cluster.nodes[0].wait_for_output(process, 10)?;
        eprintln!("{name}: moving");
        let hops = |travel| -> Result<Vec<MoveEnd>> {
            let hop = |number| cluster.hop_so(process, number % 2, travel);
            (0..moves / 2 * 2).map(hop).collect()
        };
        let stopped = hops(STOP_AND_COPY)?;
        let live = hops(PRE_COPY)?;
        let followed = hops(POST_COPY)?;
        let before = speed(&cluster, process)?;
        let meanwhile = speed_in_a_round(&cluster, process, bytes)?;
        let after = speed(&cluster, process)?;
        cluster.nodes[0].kill(process)?;
        let number = |value: f64| Cell::Number(value, 2);
        let (still, copied) = (downtimes(&stopped), downtimes(&live));
        let before_its_memory = downtimes(&followed);
        table.row(
            name,
            vec![
                number(median(&still)),
                number(quantile(&still, 1.0)),
                number(median(&copied)),
                number(quantile(&copied, 1.0)),
                Cell::Number(median(&numbers(&live, rounds)), 0),
                number(median(&numbers(&live, rate))),
                number(median(&before_its_memory)),
                number(quantile(&before_its_memory, 1.0)),
                Cell::Number(median(&numbers(&followed, follow)), 0),
                number(median(&numbers(&followed, follow_rate))),
                Cell::Number(before, 0),
                number(meanwhile / before),
                number(0.8),
                number(after / before),
            ],
        );
    }
    Ok(Some(table))
}

fn numbers(ends: &[MoveEnd], of: impl Fn(&MoveEnd) -> f64) -> Vec<f64> {
    ends.iter().map(of).collect()
}

fn downtimes(ends: &[MoveEnd]) -> Vec<f64> {
    let known = ends.iter().filter_map(|end| end.report.downtime_us);
    known.map(|us| us as f64 / 1e3).collect()
}

fn rounds(end: &MoveEnd) -> f64 {
    let rounds = end.travelled.as_ref().map(|one| one.rounds.len());
    rounds.unwrap_or(0) as f64
}

/// Of the first round, in 10⁹ bytes a second.
fn rate(end: &MoveEnd) -> f64 {
    let first = end.travelled.as_ref().and_then(|one| one.rounds.first());
    first.map_or(0.0, |one| one.bytes as f64 / one.took.as_secs_f64() / 1e9)
}

/// Until all of the memory had come, in milliseconds; what a move without figures says instead.
fn follow(end: &MoveEnd) -> f64 {
    let parts = ["follow", "confirm"].map(|name| part(&end.report, name));
    parts.iter().sum::<u64>() as f64 / 1e3
}

/// In 10⁹ bytes a second.
fn follow_rate(end: &MoveEnd) -> f64 {
    end.report.pages as f64 * PAGE_SIZE as f64 / (follow(end) * 1e6)
}

/// How much the program writes, in MB a second.
fn speed(cluster: &Cluster, process: ProcessId) -> Result<f64> {
    let begun = (cluster.nodes[0].output_bytes(process)?, Instant::now());
    thread::sleep(COUNTED);
    let written = cluster.nodes[0].output_bytes(process)? - begun.0;
    let pages = (written * PAGES_A_BYTE) as f64;
    Ok(pages * PAGE_SIZE as f64 / begun.1.elapsed().as_secs_f64() / 1e6)
}

/// The same while the first round of a move goes on.
fn speed_in_a_round(cluster: &Cluster, process: ProcessId, bytes: u64) -> Result<f64> {
    let slow = Travel {
        rate_max: Some(bytes / ROUND.as_secs()),
        ..PRE_COPY
    };
    let (speed, end) = thread::scope(|scope| {
        let moving = scope.spawn(|| cluster.hop_so(process, 0, slow));
        // It is asked, accepts, and the registry writes.
        thread::sleep(Duration::from_millis(30));
        let speed = speed(cluster, process);
        (speed, moving.join())
    });
    let end = end.map_err(|_| anyhow::anyhow!("a move came to nothing"))??;
    cluster.hop_so(process, 1, PRE_COPY)?;
    let copied = Duration::from_micros(part(&end.report, "copy"));
    ensure!(copied > COUNTED, "the rounds were over in {copied:?}");
    speed
}
