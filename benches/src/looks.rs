//! Looking where programs stand while they run, and how long one waits until they stand where their target is ready.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use sterna_process::{Image, Pausing, Process, ReadLimits};

use crate::Plan;
use crate::measure::{Random, median, ms, quantile};
use crate::movable::{LONG, Movable, freeze, pause};
use crate::programs::{Bench, Job, Work};
use crate::table::{Cell, Table};

/// Looks before the first attempt, as a move makes them while its target compiles.
const LOOKS: usize = 10;
/// How far they are apart.
const APART: Duration = Duration::from_micros(2500);
/// How long is waited for a good moment before what was missing is asked for.
const ATTEMPT: Duration = Duration::from_millis(5);

/// What was seen of one program: times in microseconds (looks) and milliseconds (all else).
#[derive(Default)]
struct Seen {
    looks: Vec<f64>,
    places: Vec<f64>,
    until_ready: Vec<f64>,
    attempts: Vec<f64>,
    captured: Vec<f64>,
    finished: Vec<f64>,
    going_on: Vec<f64>,
}

/// The tables of this part.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Table>> {
    let (looks, moves) = if plan.quick { (300, 20) } else { (2000, 100) };
    let movable = Movable::cached(&plan.root)?;
    let note = "A look at a running program, in microseconds from the question to the answer, and how many different \
                places its frames stood at.";
    let columns = ["program", "median", "p90", "max", "places"];
    let mut cost = Table::new("A look", note, &columns);
    let note = format!(
        "Peek, then choose: after {LOOKS} looks, milliseconds until the program stands only at places that were seen \
         (those missing are learnt after {ATTEMPT:?}); then, with all that it needs ready, from the pause until all \
         but its pages is captured, for making a process of it, and until it has reached its next poll. {moves} moves."
    );
    let columns = [
        "program",
        "until ready: median",
        "p90",
        "max",
        "captured: median",
        "p90 ",
        "finish: median",
        "p90  ",
        "first poll: median",
    ];
    let mut ready = Table::new("Until ready", &note, &columns);
    for bench in plan.programs.iter().filter(|bench| bench.is_real) {
        let job = bench.job(&plan.root, Work::Endless)?;
        eprintln!("{}: compiling", bench.name);
        movable.install(&job.bytes)?;
        eprintln!("{}: looking", bench.name);
        let seen = look(&movable, &job, looks, moves)?;
        let number = |value: f64| Cell::Number(value, 3);
        let [median_look, p90_look, max_look] =
            [0.5, 0.9, 1.0].map(|q| Cell::Number(quantile(&seen.looks, q), 0));
        let places = Cell::Number(median(&seen.places), 0);
        cost.row(bench.name, vec![median_look, p90_look, max_look, places]);
        let of = |values: &[f64], q| number(quantile(values, q));
        ready.row(
            bench.name,
            vec![
                of(&seen.until_ready, 0.5),
                of(&seen.until_ready, 0.9),
                of(&seen.until_ready, 1.0),
                of(&seen.captured, 0.5),
                of(&seen.captured, 0.9),
                of(&seen.finished, 0.5),
                of(&seen.finished, 0.9),
                of(&seen.going_on, 0.5),
            ],
        );
        report_attempts(bench, &seen);
    }
    Ok(vec![cost, ready])
}

fn report_attempts(bench: &Bench, seen: &Seen) {
    let most = quantile(&seen.attempts, 1.0);
    eprintln!("{}: at most {most} attempts", bench.name);
}

fn look(movable: &Movable, job: &Job, looks: usize, moves: usize) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut random = Random(3);
    let mut running = movable.start(job, None)?;
    // Into the middle of its work.
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..looks {
        std::thread::sleep(Duration::from_secs_f64(0.0005 + 0.001 * random.draw()));
        let begin = Instant::now();
        let waypoints = running.process.waypoints(LONG)?;
        seen.looks.push(ms(begin.elapsed()) * 1e3);
        seen.places.push(waypoints.len() as f64);
    }
    for _ in 0..moves {
        std::thread::sleep(Duration::from_secs_f64(0.005 + 0.01 * random.draw()));
        let mut ready = BTreeSet::new();
        for _ in 0..LOOKS {
            std::thread::sleep(APART);
            learn(movable, job, &*running.process, &mut ready)?;
        }
        let begin = Instant::now();
        let mut attempts = 1;
        let mut process = running.process;
        let mut paused = loop {
            match process.pause_among(&ready, ATTEMPT) {
                Pausing::Paused(paused) => break paused,
                Pausing::Refused(again, _) => process = again,
                Pausing::Exited(exit) => bail!("the program ended too early: {exit:?}"),
            }
            learn(movable, job, &*process, &mut ready)?;
            attempts += 1;
        };
        seen.until_ready.push(ms(begin.elapsed()));
        seen.attempts.push(f64::from(attempts));
        let begin = Instant::now();
        paused.capture()?;
        seen.captured.push(ms(begin.elapsed()));
        let frozen = freeze(&mut *paused)?;
        paused.discard();
        let image = Image::decode(&frozen.image, &ReadLimits::default())?;
        let arriving = movable.room(job, &image, &frozen)?;
        let begin = Instant::now();
        let arrived = arriving.finish(image, movable.resources(job)?, None)?;
        seen.finished.push(ms(begin.elapsed()));
        running = arrived.resume();
        running = pause(running.process)?.resume();
        seen.going_on.push(ms(begin.elapsed()));
    }
    running.control.kill();
    Ok(seen)
}

fn learn(
    movable: &Movable,
    job: &Job,
    process: &dyn Process,
    ready: &mut BTreeSet<sterna_process::Waypoint>,
) -> Result<()> {
    let waypoints = process.waypoints(LONG)?;
    movable.anticipate(job, &waypoints)?;
    ready.extend(waypoints);
    Ok(())
}
