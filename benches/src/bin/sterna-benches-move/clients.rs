//! A server whose clients write while it moves: what `sterna bench move` of this build measures, and beside it the same
//! server compiled natively, moved by others.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sterna_benches::table::{Cell, Table};
use sterna_laboratory::clients::{Heap, Hop, KEYS_PER_MIB, Load, Move, Moved, Orders, Pace, Way};

use crate::{Plan, criu, qemu};

/// Connections, and writes a second on all of them.
pub(crate) const CLIENTS: usize = 64;
pub(crate) const RATE: u32 = 10_000;
/// Of the smaller heap and of the larger, in MiB.
const SMALL_MIB: u64 = 64;
const LARGE_MIB: u64 = 1024;
/// Moves by others: each takes much longer. Of the larger heap half as many.
const PEERS_ROUNDS_MAX: usize = 20;

/// Something that moves the native server.
pub(crate) trait Mover {
    /// Where clients connect.
    fn address(&self) -> std::net::SocketAddr;
    /// Moves it once.
    fn hop(&mut self) -> Result<Moved>;
}

/// What clients saw of moves by somebody else.
pub(crate) struct Peer {
    /// By name.
    pub(crate) ways: Vec<(String, Way)>,
    /// Requests that did.
    pub(crate) failed: u64,
}

pub(crate) fn measure(plan: &Plan) -> Result<Option<Table>> {
    let measured = by_sterna(plan)?;
    let note = format!(
        "A key-value server, all of whose heap is written, moved {} times in each way while {CLIENTS} clients on connections \
         that they keep make {RATE} writes a second, due at their times whether there are answers or not. Milliseconds: the \
         longest time between two answers that any client saw in a move, the same in as much time without one, and what it \
         was more; how long nobody executed the server; how long memory went while it ran; how long the slowest hundredth of \
         requests took before and then. Answers a second then, and after the moves, relative to before. Moves beside these in \
         which every answer was checked, too: {}. Capacity: {}",
        plan.rounds,
        measured.checked,
        measured
            .heaps
            .iter()
            .filter_map(capacity)
            .collect::<Vec<_>>()
            .join("; ")
    );
    let mut table = Table::new("Clients of a server that moves", &note, &COLUMNS);
    for heap in &measured.heaps {
        for way in &heap.ways {
            row(
                &mut table,
                &format!("{} MiB, {}", heap.bytes >> 20, way.strategy),
                heap.bytes >> 20,
                way,
            );
        }
    }
    let tally = &measured.tally;
    ensure!(
        tally.is_clean(),
        "{table}\n{} requests failed and {} answers were wrong: {:?}",
        tally.failed,
        tally.wrong,
        tally.first_fault
    );
    table.note.push_str(&format!(
        ". Of {} requests none failed, and no answer was wrong.",
        tally.answered
    ));
    for (name, mib, measure) in PEERS {
        let rounds = match mib {
            SMALL_MIB => plan.rounds.min(PEERS_ROUNDS_MAX),
            _ => plan.rounds.min(PEERS_ROUNDS_MAX).div_ceil(2),
        };
        match measure(plan, mib, rounds) {
            Ok(Some(peer)) => {
                for (way_name, way) in &peer.ways {
                    row(
                        &mut table,
                        &format!("{mib} MiB, native, {way_name}"),
                        mib,
                        way,
                    );
                }
                if peer.failed > 0 {
                    let failed =
                        format!(" With {name}, {mib} MiB, {} requests failed.", peer.failed);
                    table.note.push_str(&failed);
                }
            }
            Ok(None) => eprintln!(
                "{name}: skipped, there is none; cargo xtask bench move --install gets it"
            ),
            Err(error) => eprintln!("{name}: skipped, it does not work here: {error:#}"),
        }
    }
    Ok(Some(table))
}

/// What the command measures.
fn by_sterna(plan: &Plan) -> Result<Move> {
    let folder = plan.root.join("target/bench");
    fs::create_dir_all(&folder)?;
    let plot = folder.join("move.html");
    let mut command = Command::new(&plan.sterna);
    command
        .args(["bench", "move", "--json", "--plot"])
        .arg(&plot)
        .args(["--moves", &plan.rounds.to_string()])
        .args(["--checked", &plan.checked.to_string()])
        .args(["--rate", &RATE.to_string()])
        .args(["--clients", &CLIENTS.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().context("could not start the command")?;
    // It fails, too, if answers were wrong, which is told below.
    let measured = serde_json::from_slice(&output.stdout);
    let measured = measured.with_context(|| format!("`sterna bench move`: {}", output.status))?;
    eprintln!("drawn: {}", plot.display());
    Ok(measured)
}

type MeasurePeer = fn(&Plan, u64, usize) -> Result<Option<Peer>>;

/// Others, with heaps of so many MiB.
const PEERS: [(&str, u64, MeasurePeer); 4] = [
    ("CRIU", SMALL_MIB, criu::measure),
    ("CRIU, lazily", SMALL_MIB, criu::measure_lazy),
    ("QEMU", SMALL_MIB, qemu::measure),
    ("QEMU", LARGE_MIB, qemu::measure),
];

/// Clients of a server that others move.
pub(crate) fn begin(mover: &dyn Mover, mib: u64, pace: Pace) -> Result<Load> {
    Ok(Load::begin(&Orders {
        address: mover.address(),
        clients: CLIENTS,
        pace,
        keys: mib * KEYS_PER_MIB,
    })?)
}

/// How many requests failed; that no answer was wrong.
pub(crate) fn end(load: Load) -> Result<u64> {
    let tally = load.end();
    ensure!(
        tally.wrong == 0,
        "answers were wrong: {:?}",
        tally.first_fault
    );
    Ok(tally.failed)
}

const COLUMNS: [&str; 14] = [
    "heap, way",
    "longest gap",
    "without a move",
    "more: median",
    "90 % within",
    "max",
    "wanted",
    "downtime",
    "copied in",
    "p99 before",
    "p99 then",
    "answers then",
    "wanted then",
    "answers after",
];

/// Milliseconds that a gap may be longer than without a move: with a large heap half as long again.
fn wanted(heap_mib: u64, way: &Way) -> Cell {
    let factor = if heap_mib > SMALL_MIB { 1.5 } else { 1.0 };
    match way.strategy.as_str() {
        "pre-copy" => Cell::Number(8.0 * factor, 1),
        "post-copy" | "hybrid" => Cell::Number(5.0 * factor, 1),
        _ => Cell::None,
    }
}

fn row(table: &mut Table, name: &str, heap_mib: u64, way: &Way) {
    let ms = |us: f64| Cell::Number(us / 1e3, 1);
    let middle = |of: &dyn Fn(&Hop) -> Option<u64>| way.middle_us(of).map_or(Cell::None, ms);
    let share = |effect: &_| Cell::Number(way.share_of(effect), 3);
    let copying = way.copying.as_ref();
    table.row(
        name,
        vec![
            middle(&|hop| Some(hop.gap_us)),
            middle(&|hop| Some(hop.quiet_gap_us)),
            ms(way.above_us(0.5)),
            ms(way.above_us(0.9)),
            ms(way.above_us(1.0)),
            wanted(heap_mib, way),
            middle(&|hop| hop.downtime_us),
            middle(&|hop| (hop.copy_us > 0).then_some(hop.copy_us)),
            ms(way.before.p99_us as f64),
            copying.map_or(Cell::None, |effect| ms(effect.p99_us as f64)),
            copying.map_or(Cell::None, share),
            copying.map_or(Cell::None, |_| Cell::Number(0.8, 1)),
            share(&way.after),
        ],
    );
}

fn capacity(heap: &Heap) -> Option<String> {
    let capacity = heap.capacity.as_ref()?;
    Some(format!(
        "{} MiB {:.0} answers a second if each client asks as soon as it is answered, {:.2} of that while rounds are held \
         back to last 3 s, {:.2} at another node than its port's, {:.2} back there",
        heap.bytes >> 20,
        capacity.before,
        capacity.in_rounds / capacity.before,
        capacity.elsewhere / capacity.before,
        capacity.after / capacity.before
    ))
}
