//! The file server beside nginx, in one run: `cargo xtask bench files`.
//!
//! Both serve the same files with one worker, in turns, to the same clients in a process of their own; figures are
//! medians of rounds, and of the ratios within each round, since machines are shared and noisy. nginx is the one that is
//! installed (Debian: nginx-light), with `sendfile on` and no log; the file server is under its hybrid model on one
//! kernel thread unless told otherwise.
//!
//! * `nginx` the peer
//! * `idle` memory of connections that do nothing

mod idle;
mod nginx;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use sterna_gateway::compare::subject::{Subject, measure};
use sterna_gateway::files::{Model, Settings};
use sterna_gateway::load::{Orders, Pace};
use sterna_gateway::role::ServerOrders;

/// Measures the file server beside nginx.
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench files")]
struct Cli {
    /// Models of the file server
    #[arg(
        long,
        value_name = "MODEL",
        value_delimiter = ',',
        default_value = "hybrid"
    )]
    models: Vec<String>,
    /// Rounds of each comparison: many short ones, so that what else the machine does meets both
    #[arg(long, value_name = "N", default_value_t = 21)]
    rounds: usize,
    /// Length of each measurement, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 700)]
    milliseconds: u64,
    /// Idle connections
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    idle: usize,
    /// Prints JSON to standard output, the tables to standard error
    #[arg(long)]
    json: bool,
}

/// A file and how many ask for it.
struct Load {
    name: &'static str,
    target: &'static str,
    bytes: usize,
    connections: usize,
}

const LOADS: [Load; 3] = [
    Load {
        name: "4 KiB, 64 connections",
        target: "/4k",
        bytes: 4 * 1024,
        connections: 64,
    },
    Load {
        name: "4 KiB, 1 connection",
        target: "/4k",
        bytes: 4 * 1024,
        connections: 1,
    },
    Load {
        name: "1 MiB, 8 connections",
        target: "/1m",
        bytes: 1024 * 1024,
        connections: 8,
    },
];

/// One measurement of one server.
#[derive(Clone, Copy)]
struct Figure {
    per_cpu_second: f64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

/// A server that is measured.
struct Server {
    name: String,
    address: std::net::SocketAddr,
    process: u32,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    ensure!(cli.rounds > 0, "no rounds, no figures");
    let program = role_program()?;
    let root = tempfile::tempdir().context("could not make the files")?;
    for load in &LOADS {
        fs::write(root.path().join(&load.target[1..]), vec![b'x'; load.bytes])?;
    }
    let models = cli
        .models
        .iter()
        .map(|name| model(name))
        .collect::<Result<Vec<_>>>()?;
    let subjects = models
        .iter()
        .map(|&model| start(&program, root.path(), model));
    let subjects = subjects.collect::<Result<Vec<_>>>()?;
    let nginx = nginx::Nginx::start(root.path())?;
    let mut servers = vec![Server {
        name: "nginx".to_owned(),
        address: nginx.address(),
        process: nginx.process(),
    }];
    servers.extend(models.iter().zip(&subjects).map(|(model, subject)| Server {
        name: model.name().to_owned(),
        address: subject.address(),
        process: subject.process(),
    }));
    let say = |text: String| {
        if cli.json {
            eprintln!("{text}")
        } else {
            println!("{text}")
        }
    };
    let mut results = Vec::new();
    for load in &LOADS {
        let rounds = measured(cli, &program, load, &servers)?;
        say(table(load, &servers, &rounds));
        results.push(json(load, &servers, &rounds));
    }
    drop((subjects, servers));
    let held = idle::measured(&program, root.path(), &models, &nginx, cli.idle)?;
    say(idle::table(&held, cli.idle));
    if cli.json {
        let idle = idle::json(&held);
        println!(
            "{:#}",
            serde_json::json!({ "loads": results, "idle": idle })
        );
    }
    Ok(())
}

/// Beside this program: both come from one build.
fn role_program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("could not find this program")?;
    let program = own.with_file_name("sterna-gateway-role");
    ensure!(
        program.exists(),
        "{} is missing; run `cargo xtask bench files`",
        program.display()
    );
    Ok(program)
}

fn model(name: &str) -> Result<Model> {
    let found = Model::ALL.into_iter().find(|model| model.name() == name);
    found.with_context(|| format!("no model is called {name}"))
}

fn start(program: &Path, root: &Path, model: Model) -> Result<Subject> {
    let mut settings = Settings::of(root);
    settings.limits.grace = Duration::ZERO;
    let orders = ServerOrders {
        settings,
        model,
        workers: (model == Model::Hybrid).then_some(1),
        descriptors: None,
    };
    Ok(Subject::start(program, &orders)?)
}

/// Round by round, what each server did.
fn measured(
    cli: &Cli,
    program: &Path,
    load: &Load,
    servers: &[Server],
) -> Result<Vec<Vec<Figure>>> {
    let duration = Duration::from_millis(cli.milliseconds);
    let mut rounds = Vec::new();
    for round in 0..cli.rounds {
        let mut figures = Vec::new();
        for server in servers {
            let orders = Orders {
                address: server.address,
                targets: vec![load.target.to_owned()],
                connections: load.connections,
                pace: Pace::Closed,
                slow: 0,
                slow_target: load.target.to_owned(),
                idle: 0,
                warm_up: duration / 10,
                duration,
            };
            let (report, usage) = measure(program, &orders, server.process)?;
            ensure!(
                report.errors == 0,
                "{}: {} errors",
                server.name,
                report.errors
            );
            let whole = (duration + orders.warm_up).as_secs_f64() / report.seconds;
            figures.push(Figure {
                per_cpu_second: report.requests as f64 * whole / usage.cpu.as_secs_f64(),
                per_second: report.requests as f64 / report.seconds,
                p50_us: report.latency_us.p50,
                p99_us: report.latency_us.p99,
            });
        }
        eprintln!("{}: round {} of {}", load.name, round + 1, cli.rounds);
        rounds.push(figures);
    }
    Ok(rounds)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    }
}

/// The middle of all rounds, and of the ratios to nginx in each.
struct Middle {
    per_cpu_second: f64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    ratio: f64,
    p99_ratio: f64,
}

fn middle(rounds: &[Vec<Figure>], server: usize) -> Middle {
    let of = |value: fn(&Figure) -> f64| median(rounds.iter().map(|round| value(&round[server])));
    let ratio = |value: fn(&Figure) -> f64| {
        median(
            rounds
                .iter()
                .map(|round| value(&round[server]) / value(&round[0])),
        )
    };
    Middle {
        per_cpu_second: of(|figure| figure.per_cpu_second),
        per_second: of(|figure| figure.per_second),
        p50_us: of(|figure| figure.p50_us),
        p99_us: of(|figure| figure.p99_us),
        ratio: ratio(|figure| figure.per_cpu_second),
        p99_ratio: ratio(|figure| figure.p99_us),
    }
}

fn table(load: &Load, servers: &[Server], rounds: &[Vec<Figure>]) -> String {
    let mut text = format!(
        "### {}\n\n| | requests per CPU-second | of nginx's | requests per second | p50, µs | p99, µs | of nginx's \
         |\n|---|---:|---:|---:|---:|---:|---:|\n",
        load.name
    );
    for (index, server) in servers.iter().enumerate() {
        let middle = middle(rounds, index);
        text += &format!(
            "| {} | {:.0} | {:.2} | {:.0} | {:.0} | {:.0} | {:.2} |\n",
            server.name,
            middle.per_cpu_second,
            middle.ratio,
            middle.per_second,
            middle.p50_us,
            middle.p99_us,
            middle.p99_ratio
        );
    }
    text
}

fn json(load: &Load, servers: &[Server], rounds: &[Vec<Figure>]) -> serde_json::Value {
    let server = |(index, server): (usize, &Server)| {
        let middle = middle(rounds, index);
        serde_json::json!({
            "server": server.name,
            "requests_per_cpu_second": middle.per_cpu_second,
            "ratio": middle.ratio,
            "requests_per_second": middle.per_second,
            "p50_us": middle.p50_us,
            "p99_us": middle.p99_us,
            "p99_ratio": middle.p99_ratio,
        })
    };
    let servers: Vec<_> = servers.iter().enumerate().map(server).collect();
    serde_json::json!({ "load": load.name, "servers": servers })
}
