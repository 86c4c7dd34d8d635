//! How fast programs start: a large interpreter as a command, many small programs in one process, and idle ones.

use std::fs::File;
use std::io::Read;
use std::process::{self, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sterna_process::{Environment, Resources, Running, State, Stdio};
use sterna_sys::clock::process_cpu_time;

use crate::Plan;
use crate::measure::{median, ms};
use crate::movable::{CACHE, Movable, finish};
use crate::programs::{Job, module};
use crate::table::{Cell, Table};
use sterna_benches::peers;

/// What CPython is asked to do.
const LINE: &str = "print('ready', flush=True)";

/// The table of a large program's start.
pub(crate) fn large(plan: &Plan) -> Result<Vec<Table>> {
    let Some(wasmtime) = peers::wasmtime(&plan.root) else {
        eprintln!(
            "start: skipped, there is no wasmtime command; cargo xtask bench --install gets it"
        );
        return Ok(Vec::new());
    };
    let python = module(&plan.root, "python");
    ensure!(
        python.exists(),
        "CPython is missing; get it with cargo xtask guests --download"
    );
    let compiled = plan.root.join("target/bench/python.cwasm");
    if !compiled.exists() {
        peers::quietly(
            Command::new(&wasmtime)
                .arg("compile")
                .arg(&python)
                .arg("-o")
                .arg(&compiled),
        )?;
    }
    // Into the cache, as it is compiled for the other.
    Movable::cached(&plan.root)?.install(&std::fs::read(&python)?.into())?;
    let this = std::env::current_exe()?;
    let root = plan.root.canonicalize()?;
    let theirs = || {
        let mut command = Command::new(&wasmtime);
        command
            .args(["run", "--allow-precompiled"])
            .arg(&compiled)
            .args(["-c", LINE]);
        command
    };
    let library = || {
        let mut command = Command::new(&this);
        command.arg("--root").arg(&root).args(["--start", LINE]);
        command
    };
    let ours = || {
        let mut command = Command::new(this.with_file_name("sterna"));
        command.arg("run").arg(&python).args(["-c", LINE]);
        command.env("STERNA_CACHE_DIR", root.join(CACHE));
        // Not the user's own.
        for name in ["STERNA_RUN_DIR", "STERNA_DATA_DIR"] {
            command.env(name, root.join("target/bench").join(name));
        }
        command
    };
    let commands: [(&str, &dyn Fn() -> Command); 3] = [
        ("wasmtime run", &theirs),
        ("sterna run", &ours),
        ("Sterna as a library", &library),
    ];
    compare(plan, &commands)
}

/// The table of commands that do the same; the first is what the others are relative to.
fn compare(plan: &Plan, commands: &[(&str, &dyn Fn() -> Command)]) -> Result<Vec<Table>> {
    let mut lines = vec![Vec::new(); commands.len()];
    // The first of each fills caches.
    for (_, command) in commands {
        first_line(command())?;
    }
    for round in 0..plan.rounds * 3 {
        for turn in 0..commands.len() {
            let at = (turn + round) % commands.len();
            lines[at].push(ms(first_line(commands[at].1())?));
        }
    }
    let note = "Milliseconds of real time from the start of the command to CPython's first line of output; the \
                program is compiled already, for `wasmtime run --allow-precompiled` as for Sterna.";
    let mut table = Table::new("Start of CPython", note, &["command", "median", "relative"]);
    for ((name, _), times) in commands.iter().zip(&lines) {
        let ratios = times.iter().zip(&lines[0]);
        let ratios: Vec<_> = ratios.map(|(time, theirs)| time / theirs).collect();
        table.row(
            name,
            vec![
                Cell::Number(median(times), 1),
                Cell::Number(median(&ratios), 2),
            ],
        );
    }
    Ok(vec![table])
}

fn first_line(mut command: Command) -> Result<Duration> {
    let begin = Instant::now();
    let mut child = command
        .stdin(process::Stdio::null())
        .stdout(process::Stdio::piped())
        .spawn()?;
    let mut output = child.stdout.take().context("the child has no output")?;
    let mut byte = [0];
    output
        .read_exact(&mut byte)
        .with_context(|| format!("{command:?} printed nothing"))?;
    let took = begin.elapsed();
    output.read_to_end(&mut Vec::new())?;
    ensure!(child.wait()?.success(), "{command:?} failed");
    Ok(took)
}

/// The tables of many small programs.
pub(crate) fn small(plan: &Plan) -> Result<Vec<Table>> {
    let movable = Movable::cached(&plan.root)?;
    Ok(vec![
        one_after_another(plan, &movable)?,
        idle(plan, &movable)?,
    ])
}

fn one_after_another(plan: &Plan, movable: &Movable) -> Result<Table> {
    let count = if plan.quick { 300 } else { 1000 };
    let job = Job::new(&plan.root, "hello", &["world"])?;
    movable.install(&job.bytes)?;
    let mut rates = Vec::new();
    let mut real = Vec::new();
    for _ in 0..plan.rounds {
        let (cpu, begin) = (process_cpu_time(), Instant::now());
        for _ in 0..count {
            finish(&movable.start(&job, None)?)?;
        }
        rates.push(f64::from(count) / (process_cpu_time() - cpu).as_secs_f64());
        real.push(f64::from(count) / begin.elapsed().as_secs_f64());
    }
    let note =
        format!("`hello`, {count} times one after another in one process: started, run and ended.");
    let columns = ["", "per second of CPU time", "per second of real time"];
    let mut table = Table::new("Small programs", &note, &columns);
    let number = |values: &[f64]| Cell::Number(median(values), 0);
    table.row("hello", vec![number(&rates), number(&real)]);
    Ok(table)
}

fn idle(plan: &Plan, movable: &Movable) -> Result<Table> {
    let count = if plan.quick { 500 } else { 5000 };
    let job = Job::new(&plan.root, "idle", &["sleep"])?;
    movable.install(&job.bytes)?;
    // Code and tables that all share.
    movable.start(&job, None)?.control.kill();
    std::thread::sleep(Duration::from_millis(50));
    let (before, maps) = (resident()?, mappings()?);
    let mut guests = Vec::with_capacity(count);
    for _ in 0..count {
        guests.push(movable.start(&job, None)?);
    }
    let waits = |guest: &Running| guest.control.stats().state == State::Waiting;
    let until = Instant::now() + Duration::from_secs(60);
    while !guests.iter().all(waits) {
        ensure!(
            Instant::now() < until,
            "the idle programs do not come to rest"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let each = resident()?.saturating_sub(before) as f64 / count as f64;
    let maps = mappings()?.saturating_sub(maps) as f64 / count as f64;
    for guest in &guests {
        guest.control.kill();
    }
    for guest in &guests {
        guest
            .control
            .wait(Duration::from_secs(10))
            .context("an idle program does not end when killed")?;
    }
    let note = format!("{count} guests at once that sleep, in one process.");
    let mut table = Table::new(
        "Idle programs",
        &note,
        &["", "resident KiB each", "mappings each"],
    );
    table.row(
        "idle",
        vec![Cell::Number(each / 1024.0, 1), Cell::Number(maps, 1)],
    );
    Ok(table)
}

/// Bytes of memory that this process has.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .context("no VmRSS")?;
    Ok(kib.parse::<u64>()? * 1024)
}

fn mappings() -> Result<usize> {
    Ok(std::fs::read_to_string("/proc/self/maps")?.lines().count())
}

/// Runs CPython from the cache in this process: what [`large`] times from outside.
pub(crate) fn start(plan: &Plan, line: &str) -> Result<()> {
    let movable = Movable::cached(&plan.root)?;
    let program = movable.install_file(&File::open(module(&plan.root, "python"))?)?;
    let environment = Environment {
        arguments: ["python", "-c", line].map(Into::into).into(),
        resources: Resources {
            stdio: Stdio::inherited()?,
            ..Resources::default()
        },
        ..Environment::default()
    };
    finish(&movable.spawn(program, environment)?)?;
    Ok(())
}
