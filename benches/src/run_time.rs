//! What being movable costs while nothing is moved: run time, size of the native code, compile time, beside
//! the other ways to interrupt a program.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sterna_process::ProgramId;
use sterna_sys::clock::process_cpu_time;
use sterna_wasm::{EngineOptions, Installed, pass};
use wasmtime::Module;

use crate::Plan;
use crate::measure::{geometric_mean, median, ms, quantile};
use crate::movable::{Movable, Ran};
use crate::programs::{Bench, Job, Work};
use crate::stock::{Interruption, Stock, compile_asyncified};
use crate::table::{Cell, Table};
use sterna_benches::peers;

/// A way of running a program.
enum Way {
    Stock(Stock),
    Asyncify(Stock),
    Movable(Box<Movable>),
}

/// A program made ready for a way of running it.
enum Ready {
    Stock(Module),
    Movable(Arc<Installed>),
}

/// What was found for one program run one way.
struct Found {
    /// Of each round, in milliseconds of CPU time.
    runs: Vec<f64>,
    code_bytes: usize,
    compile: Duration,
}

impl Way {
    fn make_ready(
        &self,
        plan: &Plan,
        bench: &Bench,
        job: &Job,
    ) -> Result<Option<(Ready, Duration)>> {
        let mut bytes = job.bytes.clone();
        if let Way::Asyncify(_) = self {
            // Binaryen in JavaScript needs a quarter of an hour and more memory than node gives for CPython.
            let instrumented = if bench.is_python() {
                None
            } else {
                peers::asyncify(&plan.root, &bytes)?
            };
            match instrumented {
                Some(instrumented) => bytes = instrumented,
                None => return Ok(None),
            }
        }
        let begin = process_cpu_time();
        let ready = match self {
            Way::Stock(stock) => Ready::Stock(stock.compile(&bytes)?),
            Way::Asyncify(stock) => Ready::Stock(compile_asyncified(stock, &bytes)?),
            Way::Movable(movable) => Ready::Movable(movable.install(&bytes)?),
        };
        Ok(Some((ready, process_cpu_time() - begin)))
    }

    fn run(&self, ready: &Ready, job: &Job) -> Result<Ran> {
        match (self, ready) {
            (Way::Stock(stock) | Way::Asyncify(stock), Ready::Stock(module)) => {
                stock.run(module, job)
            }
            (Way::Movable(movable), _) => movable.run(job),
            (_, Ready::Movable(_)) => unreachable!("made ready by the same way"),
        }
    }
}

impl Ready {
    fn code_bytes(&self) -> usize {
        match self {
            Ready::Stock(module) => module.text().len(),
            Ready::Movable(installed) => installed.code_bytes(),
        }
    }
}

fn ways(plan: &Plan) -> Result<Vec<(&'static str, Way)>> {
    let stock = |interruption| Stock::new(interruption);
    let movable = |nans, options| -> Result<Way> {
        let engine = EngineOptions {
            canonicalize_nans: nans,
            ..EngineOptions::default()
        };
        Ok(Way::Movable(Box::new(Movable::new(engine, options)?)))
    };
    let usual = pass::Options::default;
    let mut ways = vec![
        ("plain", Way::Stock(stock(Interruption::None)?)),
        ("Sterna", movable(false, usual())?),
        ("epochs", Way::Stock(stock(Interruption::Epochs)?)),
        ("fuel", Way::Stock(stock(Interruption::Fuel)?)),
        ("asyncify", Way::Asyncify(stock(Interruption::None)?)),
    ];
    if plan.options {
        let no_depth = pass::Options {
            count_depth: false,
            ..usual()
        };
        let no_hints = pass::Options {
            branch_hints: false,
            ..usual()
        };
        ways.push(("Sterna, depth not counted", movable(false, no_depth)?));
        ways.push(("Sterna, no branch hints", movable(false, no_hints)?));
        ways.push(("Sterna, NaNs canonical", movable(true, usual())?));
    }
    Ok(ways)
}

/// Writes what the pass makes of the programs, to be looked at.
pub(crate) fn instrument(plan: &Plan, folder: &Path) -> Result<()> {
    for bench in &plan.programs {
        let bytes = bench.job(&plan.root, Work::Quick)?.bytes;
        let wasm = pass::Program::parse(bytes, pass::Options::default())?
            .instrument()?
            .wasm;
        std::fs::write(folder.join(bench.name).with_extension("wasm"), wasm)?;
    }
    Ok(())
}

/// The tables of this part.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Table>> {
    let ways = ways(plan)?;
    let names: Vec<_> = ways.iter().map(|(name, _)| *name).collect();
    let mut found = Vec::new();
    let mut made = Made::new();
    for bench in &plan.programs {
        let of = program(plan, bench, &ways, &mut made)
            .with_context(|| format!("{} failed", bench.name))?;
        found.push((*bench, of));
    }
    Ok(vec![run_time(plan, &names, &found), code(&names, &found)])
}

/// What was made ready, and the CPU time it took, for each program in all ways.
type Made = HashMap<ProgramId, Rc<[Option<(Ready, Duration)>]>>;

fn program(
    plan: &Plan,
    bench: &Bench,
    ways: &[(&str, Way)],
    made: &mut Made,
) -> Result<Vec<Option<Found>>> {
    let job = bench.job(
        &plan.root,
        if plan.quick { Work::Quick } else { Work::Full },
    )?;
    if let Entry::Vacant(place) = made.entry(job.id) {
        eprintln!("{}: compiling", bench.name);
        let ready = ways
            .iter()
            .map(|(_, way)| way.make_ready(plan, bench, &job));
        place.insert(ready.collect::<Result<_>>()?);
    }
    let ready = made[&job.id].clone();
    let mut found: Vec<Option<Found>> = ready
        .iter()
        .map(|ready| {
            let (ready, compile) = ready.as_ref()?;
            Some(Found {
                runs: Vec::new(),
                code_bytes: ready.code_bytes(),
                compile: *compile,
            })
        })
        .collect();
    let mut expected = None;
    for round in 0..plan.rounds {
        eprint!("\r{}: round {} of {}", bench.name, round + 1, plan.rounds);
        for turn in 0..ways.len() {
            // Each goes first in some round: what a neighbour on the machine does hits them all alike.
            let at = (turn + round) % ways.len();
            let (Some((ready, _)), Some(found)) = (&ready[at], &mut found[at]) else {
                continue;
            };
            let ran = ways[at]
                .1
                .run(ready, &job)
                .with_context(|| format!("run as {}", ways[at].0))?;
            let expected = expected.get_or_insert_with(|| ran.output.clone());
            ensure!(
                *expected == ran.output,
                "as {} it prints something else",
                ways[at].0
            );
            found.runs.push(ms(ran.cpu));
        }
    }
    let medians = found
        .iter()
        .map(|found| found.as_ref().map_or(f64::NAN, |found| median(&found.runs)));
    eprintln!("\r{}: {:.0?} ms", bench.name, medians.collect::<Vec<_>>());
    let fastest = |found: &Option<Found>| {
        found
            .as_ref()
            .map_or(f64::NAN, |found| quantile(&found.runs, 0.0))
    };
    let plain = fastest(&found[0]);
    let fastest: Vec<_> = found.iter().map(|found| fastest(found) / plain).collect();
    eprintln!("{}: the fastest runs, relative: {fastest:.3?}", bench.name);
    Ok(found)
}

type All<'a> = [(&'a Bench, Vec<Option<Found>>)];

/// The median over the rounds of a way's time in one round by the plain engine's in the same.
fn ratio(of: &[Option<Found>], way: usize) -> Option<f64> {
    let (plain, found) = (of[0].as_ref()?, of[way].as_ref()?);
    let ratios: Vec<_> = found
        .runs
        .iter()
        .zip(&plain.runs)
        .map(|(run, plain)| run / plain)
        .collect();
    Some(median(&ratios))
}

fn cell(number: Option<f64>, decimals: usize) -> Cell {
    number.map_or(Cell::None, |number| Cell::Number(number, decimals))
}

/// A row of geometric means of what `of` gives for the programs that have it.
fn means(
    all: &All<'_>,
    ways: usize,
    of: impl Fn(&[Option<Found>], usize) -> Option<f64>,
) -> Vec<Cell> {
    let mean = |way| {
        let ratios: Vec<_> = all.iter().filter_map(|(_, found)| of(found, way)).collect();
        cell((!ratios.is_empty()).then(|| geometric_mean(&ratios)), 3)
    };
    (1..ways).map(mean).collect()
}

fn run_time(plan: &Plan, names: &[&str], all: &All<'_>) -> Table {
    let note = format!(
        "CPU time relative to the plain engine; medians of {} interleaved rounds. *Plain* in milliseconds.",
        plan.rounds
    );
    let columns: Vec<_> = ["program"].iter().chain(names).copied().collect();
    let mut table = Table::new("Run time", &note, &columns);
    for (bench, found) in all {
        let plain = found[0].as_ref().map(|found| median(&found.runs));
        let ratios = (1..names.len()).map(|way| cell(ratio(found, way), 3));
        table.row(
            bench.name,
            std::iter::once(cell(plain, 0)).chain(ratios).collect(),
        );
    }
    let with_plain = |means| std::iter::once(Cell::None).chain(means).collect();
    table.row("geometric mean", with_plain(means(all, names.len(), ratio)));
    table
}

fn code(names: &[&str], all: &All<'_>) -> Table {
    let note = "Native code and CPU time of the compilation (the pass included), relative to the plain engine; \
                *plain* in KiB and milliseconds.";
    let mut columns = vec!["program".to_owned()];
    columns.extend(names.iter().map(|name| format!("{name}: code")));
    columns.extend(names.iter().map(|name| format!("{name}: compile")));
    let columns: Vec<_> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new("Native code and compile time", note, &columns);
    let of = |found: &Found| (found.code_bytes as f64, found.compile.as_secs_f64());
    let size = |found: &[Option<Found>], way: usize| {
        Some(of(found[way].as_ref()?).0 / of(found[0].as_ref()?).0)
    };
    let time = |found: &[Option<Found>], way: usize| {
        Some(of(found[way].as_ref()?).1 / of(found[0].as_ref()?).1)
    };
    for (bench, found) in all {
        let plain = found[0].as_ref().map(of);
        let mut cells = vec![cell(plain.map(|plain| plain.0 / 1024.0), 0)];
        cells.extend((1..names.len()).map(|way| cell(size(found, way), 2)));
        cells.push(cell(plain.map(|plain| plain.1 * 1e3), 0));
        cells.extend((1..names.len()).map(|way| cell(time(found, way), 2)));
        table.row(bench.name, cells);
    }
    let mut cells = vec![Cell::None];
    cells.extend(means(all, names.len(), size));
    cells.push(Cell::None);
    cells.extend(means(all, names.len(), time));
    table.row("geometric mean", cells);
    table
}
