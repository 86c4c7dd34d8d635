//! Stopping, freezing and thawing programs in the middle of their work, and how fast they are afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sterna_process::Paused;

use crate::Plan;
use crate::measure::{Random, median, ms, quantile};
use crate::movable::{Frozen, Movable, finish, freeze, pause};
use crate::programs::{Bench, Job, Work};
use crate::table::{Cell, Table};

/// What was seen of the moves of one program, in milliseconds and bytes, an entry a move.
#[derive(Default)]
struct Moves {
    parked: Vec<f64>,
    captured: Vec<f64>,
    /// Thawed while its continuations may still have to be compiled.
    thawed: Vec<f64>,
    /// Thawed again from the same image.
    thawed_again: Vec<f64>,
    page_bytes: Vec<f64>,
    other_bytes: Vec<f64>,
}

/// The tables of this part.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Table>> {
    let count = if plan.quick { 20 } else { 100 };
    let movable = Movable::cached(&plan.root)?;
    let (mut stops, mut images, mut after) = tables(count, plan.rounds);
    for bench in plan.programs.iter().filter(|bench| bench.is_real) {
        let failed = || format!("{} failed", bench.name);
        let job = bench.job(&plan.root, Work::Endless)?;
        eprintln!("{}: compiling", bench.name);
        movable.install(&job.bytes)?;
        eprintln!("{}: moving", bench.name);
        let moves = moves(&movable, &job, count).with_context(failed)?;
        let number = |value: f64| Cell::Number(value, 3);
        let quantiles = |values: &[f64]| [0.5, 0.9, 0.99].map(|q| number(quantile(values, q)));
        stops.row(
            bench.name,
            [quantiles(&moves.parked), quantiles(&moves.captured)].concat(),
        );
        let first = moves.thawed.first().copied().unwrap_or(f64::NAN);
        images.row(
            bench.name,
            vec![
                Cell::Number(median(&moves.page_bytes) / 1024.0, 0),
                Cell::Number(median(&moves.other_bytes) / 1024.0, 1),
                number(median(&moves.thawed_again)),
                number(quantile(&moves.thawed_again, 0.9)),
                number(first),
                number(median(&moves.thawed)),
                number(quantile(&moves.thawed, 0.9)),
            ],
        );
        let (ratio, spread) = speed_afterwards(plan, &movable, bench).with_context(failed)?;
        after.row(bench.name, vec![number(ratio), number(spread)]);
    }
    Ok(vec![stops, images, after])
}

fn tables(count: usize, rounds: usize) -> (Table, Table, Table) {
    let note = format!(
        "Milliseconds from the request until the program stands still, its stack intact (*parked*), and until its \
         stack is unwound and all but its pages is taken (*captured*); {count} pauses at random moments."
    );
    let columns = [
        "program",
        "parked: median",
        "p90",
        "p99",
        "captured: median",
        "p90 ",
        "p99 ",
    ];
    let stops = Table::new("Pause", &note, &columns);
    let note = "An image is the changed pages and all the rest, in KiB without compression. A thaw is measured in \
                milliseconds from the bytes of the image until the program has gone on and reached its next poll: \
                when its continuations are ready (*again*), and when it arrives at this point for the first time.";
    let columns = [
        "program",
        "pages",
        "rest",
        "thaw again: median",
        "p90",
        "very first thaw",
        "first thaws: median",
        "p90 ",
    ];
    let images = Table::new("Image and thaw", note, &columns);
    let note = format!(
        "CPU time of the rest of a run after a thaw, relative to the same rest of a run that was never moved; \
         medians of {rounds} interleaved rounds, and half the distance of the quartiles."
    );
    let after = Table::new("Speed after a thaw", &note, &["program", "ratio", "±"]);
    (stops, images, after)
}

fn moves(movable: &Movable, job: &Job, count: usize) -> Result<Moves> {
    let mut moves = Moves::default();
    let mut random = Random(1);
    let mut running = movable.start(job, None)?;
    // Into the middle of its work.
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..count {
        std::thread::sleep(Duration::from_secs_f64(0.002 + 0.008 * random.draw()));
        let begin = Instant::now();
        let mut paused = pause(running.process)?;
        moves.parked.push(ms(begin.elapsed()));
        paused.capture()?;
        moves.captured.push(ms(begin.elapsed()));
        let frozen = freeze(&mut *paused)?;
        paused.discard();
        moves
            .page_bytes
            .push((frozen.pages.page_count() * sterna_process::PAGE_SIZE) as f64);
        moves.other_bytes.push(frozen.image.len() as f64);
        let (standing, took) = thaw_to_a_poll(movable, job, &frozen)?;
        moves.thawed.push(took);
        standing.discard();
        let (standing, took) = thaw_to_a_poll(movable, job, &frozen)?;
        moves.thawed_again.push(took);
        running = standing.resume();
    }
    running.control.kill();
    Ok(moves)
}

/// Makes the program go on until its next poll, and how long that took, in milliseconds.
fn thaw_to_a_poll(movable: &Movable, job: &Job, frozen: &Frozen) -> Result<(Box<dyn Paused>, f64)> {
    let begin = Instant::now();
    let running = movable.thaw(job, frozen)?.resume();
    let standing = pause(running.process)?;
    Ok((standing, ms(begin.elapsed())))
}

/// The ratio, and half the distance of its quartiles.
fn speed_afterwards(plan: &Plan, movable: &Movable, bench: &Bench) -> Result<(f64, f64)> {
    let job = bench.job(
        &plan.root,
        if plan.quick { Work::Quick } else { Work::Full },
    )?;
    let whole = movable.run(&job)?.cpu;
    let mut random = Random(2);
    let mut ratios = Vec::new();
    for round in 0..plan.rounds {
        eprint!(
            "\r{}: after a thaw, round {} of {}",
            bench.name,
            round + 1,
            plan.rounds
        );
        let wait = whole.mul_f64(0.1 + 0.2 * random.draw());
        let mut runs = [(0.0, 0.0); 2];
        for turn in 0..2 {
            let moved = (turn + round) % 2 == 1;
            runs[usize::from(moved)] = run(movable, &job, wait, moved)?;
        }
        let [(_, never), (before, moved)] = runs;
        ratios.push((moved - before) / (never - before));
    }
    eprintln!();
    Ok((
        median(&ratios),
        (quantile(&ratios, 0.75) - quantile(&ratios, 0.25)) / 2.0,
    ))
}

/// A run that is stopped when it has used `wait`, and moved there or not: what it had used by then, and in the end,
/// in seconds of CPU time.
fn run(movable: &Movable, job: &Job, wait: Duration, moved: bool) -> Result<(f64, f64)> {
    let mut running = movable.start(job, None)?;
    while running.control.stats().cpu_time < wait {
        std::thread::sleep(Duration::from_micros(500));
    }
    let mut paused = pause(running.process)?;
    let before = running.control.stats().cpu_time;
    if moved {
        let frozen = freeze(&mut *paused)?;
        paused.discard();
        paused = movable.thaw(job, &frozen)?;
    }
    running = paused.resume();
    let all = finish(&running)?;
    Ok((before.as_secs_f64(), all.as_secs_f64()))
}
