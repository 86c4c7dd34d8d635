//! What the demo prints.

use std::fmt::Write as _;
use std::time::Duration;

use super::live::{self, Live};
use super::story::{LUA, Property};
use super::{Accident, Hop, Outcome};
use crate::command::stage::{KV, NODES};
use crate::show::{self, Paint};

/// Names of frames that are shown for a hop.
const FRAMES_SHOWN: usize = 3;
/// The first hop's back-trace is shown up to here.
const BACK_TRACE_SHOWN: usize = 14;

pub(super) fn compiled(took: Duration, paint: Paint) -> String {
    format!(
        "{} A server and Lua 5.4, {} of WebAssembly, are compiled to native code in {}.",
        paint.bold("1"),
        show::bytes((KV.len() + LUA.len()) as u64),
        show::time(took)
    )
}

pub(super) fn raised(took: Duration, paint: Paint) -> String {
    format!(
        "{} The nodes {} of this machine become a cluster in {}.",
        paint.bold("2"),
        NODES.join(", "),
        show::time(took)
    )
}

pub(super) fn serving(paint: Paint) -> String {
    format!(
        "{} A key-value server with a heap of {} MiB moves round them, and {} clients on connections that they keep write \
         {} times a second into all of it.\n",
        paint.bold("3"),
        live::HEAP_MIB,
        live::CLIENTS,
        live::RATE
    )
}

pub(super) fn live(live: &Live, paint: Paint) -> String {
    let head = "MOVE   FROM → TO      ROUNDS  STOOD STILL  LONGEST GAP OF A CLIENT  WITHOUT A MOVE";
    let mut text = format!("{}\n", paint.bold(head));
    for (number, one) in live.moves.iter().enumerate() {
        let seen = &one.seen;
        let _ = writeln!(
            text,
            "{:>4}  {:>5} → {:<5}  {:>6}  {:>11}  {:>23}  {:>14}",
            number + 1,
            one.from,
            one.to,
            one.rounds,
            seen.downtime_us
                .map_or_else(|| "–".to_owned(), show::time_us),
            show::time_us(seen.gap_us),
            show::time_us(seen.quiet_gap_us),
        );
    }
    let _ = writeln!(
        text,
        "\n  {} requests, all answered, all answers right: {} failed.\n",
        live.requests.answered,
        paint.green("0")
    );
    text
}

pub(super) fn undisturbed(
    lines: usize,
    took: Duration,
    property: Property,
    paint: Paint,
) -> String {
    let without = match property {
        Property::Directory => "",
        Property::Nothing => {
            " (without a file: this machine cannot confine a process to a directory)"
        }
    };
    format!(
        "{} A script runs on {}, undisturbed: {lines} lines of output in {}{without}.",
        paint.bold("4"),
        NODES[0],
        show::time(took)
    )
}

pub(super) fn journey(hops: u16, paint: Paint) -> String {
    format!(
        "{} The same again; {hops} times it is moved to the next node in the middle of its work.\n",
        paint.bold("5")
    )
}

pub(super) const HEAD: &str =
    " HOP  AFTER LINE   FROM → TO      STOOD STILL  WHOLE MOVE  PAGES      SENT  IT WAS IN";

pub(super) fn hop(hop: &Hop, lines: usize, paint: Paint) -> String {
    let names: Vec<String> = hop.frames.iter().take(FRAMES_SHOWN).cloned().collect();
    let more = match hop.frames.len() {
        count if count > FRAMES_SHOWN => format!(" … {count} frames"),
        _ => String::new(),
    };
    format!(
        "{:>4}  {:>4} of {:<3}  {:>5} → {:<5}  {:>11}  {:>10}  {:>5}  {:>8}  {}{}",
        hop.number,
        hop.lines,
        lines,
        hop.from,
        hop.to,
        hop.downtime_us
            .map_or_else(|| "–".to_owned(), show::time_us),
        show::time_us(hop.total_us),
        hop.pages,
        show::bytes(bytes(hop)),
        paint.cyan(names.join(" ← ")),
        paint.dim(more),
    )
}

/// What went from node to node.
fn bytes(hop: &Hop) -> u64 {
    hop.image_bytes + hop.pages * sterna_process::PAGE_SIZE as u64
}

/// Where the program was before it was first moved.
pub(super) fn back_trace(hop: &Hop, paint: Paint) -> String {
    if hop.frames.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "Where it was before it was first moved, after {} lines:\n",
        hop.lines
    );
    for (depth, name) in hop.frames.iter().take(BACK_TRACE_SHOWN).enumerate() {
        let _ = writeln!(text, "{depth:>5}: {}", paint.cyan(name));
    }
    if let Some(more) = hop.frames.len().checked_sub(BACK_TRACE_SHOWN + 1) {
        let _ = writeln!(text, "       and {} more", more + 1);
    }
    text
}

pub(super) fn accident(accident: &Accident, paint: Paint) -> String {
    format!(
        "      {} {} is killed with -9 after line {}, and with it the program. {} later it goes on on {}, from its \
         snapshot of line {}.",
        paint.red("✗"),
        accident.node,
        accident.lines_before,
        show::time_us(accident.back_us),
        accident.recovered_on,
        accident.lines_of_snapshot,
    )
}

pub(super) fn verdict(outcome: &Outcome, paint: Paint) -> String {
    let mut still: Vec<u64> = outcome
        .hops
        .iter()
        .filter_map(|hop| hop.downtime_us)
        .collect();
    still.sort_unstable();
    let median = still.get(still.len() / 2).copied().unwrap_or(0);
    let verdict = match outcome.identical {
        true => paint.green("identical"),
        false => paint.red("different"),
    };
    let file = match outcome.had_directory {
        true => format!(" and the file it wrote ({} bytes)", outcome.log_bytes),
        false => String::new(),
    };
    format!(
        "\n{} Its output ({} lines, {} bytes){file}: {verdict}, byte for byte.\n  \
         It was moved {} times, and stood still for {} each time (median). One of its nodes was killed.",
        paint.bold("6"),
        outcome.output_lines,
        outcome.output_bytes,
        outcome.hops.len(),
        show::time_us(median),
    )
}
