//! The registry in a file of one node and in an etcd: what it adds to a move.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sterna_benches::measure::median;
use sterna_benches::table::{Cell, Table};
use tempfile::TempDir;

use crate::Plan;
use crate::cluster::{Cluster, part};
use crate::moves::{hops, values};

/// For etcd to listen.
const READY_WITHIN: Duration = Duration::from_secs(30);

pub(crate) fn measure(plan: &Plan) -> Result<Option<Table>> {
    let note = format!(
        "A small C program, moved {} times as soon as it has arrived: moves a second, the milliseconds that it stood \
         still, those of them in which the registry wrote the new owner down, and their share. One etcd, on this machine.",
        plan.rounds
    );
    let columns = ["registry", "moves a second", "downtime", "commit", "share"];
    let mut table = Table::new("Registries", &note, &columns);
    table.row("a file of one node", row(plan, None)?);
    match Etcd::start()? {
        Some(etcd) => table.row("etcd", row(plan, Some(&etcd.address))?),
        None => {
            eprintln!("skipped: etcd, since the command `etcd` is not here (Debian: etcd-server)")
        }
    }
    Ok(Some(table))
}

fn row(plan: &Plan, etcd: Option<&str>) -> Result<Vec<Cell>> {
    let cluster = Cluster::start(plan, 2, etcd)?;
    let module = plan.root.join("guests/wasm/count.wasm");
    let node = &cluster.nodes[0];
    let process = node.start_process(&[&module.to_string_lossy(), "1000000", "3000000"])?;
    node.wait_for_output(process, 1)?;
    hops(&cluster, process, 2)?;
    let mut reports = Vec::new();
    let begin = Instant::now();
    for round in 0..plan.rounds {
        reports.push(cluster.hop(process, round % 2)?);
    }
    let rate = plan.rounds as f64 / begin.elapsed().as_secs_f64();
    let down = median(&values(&reports, |report| report.downtime_us.unwrap_or(0)));
    let commit = median(&values(&reports, |report| part(report, "commit")));
    Ok(vec![
        Cell::Number(rate, 1),
        Cell::Number(down, 2),
        Cell::Number(commit, 2),
        Cell::Number(commit / down, 2),
    ])
}

/// An etcd with an empty store. Dropping it ends it.
struct Etcd {
    address: String,
    child: Child,
    _folder: TempDir,
}

impl Etcd {
    /// Nothing if the command is not here.
    fn start() -> Result<Option<Etcd>> {
        let folder = TempDir::new()?;
        let [clients, peers] = [free_port()?, free_port()?];
        let [clients_url, peers_url] =
            [clients, peers].map(|port| format!("http://127.0.0.1:{port}"));
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .args([
                "--listen-client-urls",
                &clients_url,
                "--advertise-client-urls",
                &clients_url,
            ])
            .args([
                "--listen-peer-urls",
                &peers_url,
                "--initial-advertise-peer-urls",
                &peers_url,
            ])
            .args(["--initial-cluster", &format!("default={peers_url}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.path().join("errors"))?);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("could not start etcd"),
        };
        let etcd = Etcd {
            address: format!("etcd://127.0.0.1:{clients}/bench"),
            child,
            _folder: folder,
        };
        let until = Instant::now() + READY_WITHIN;
        while std::net::TcpStream::connect(("127.0.0.1", clients)).is_err() {
            if Instant::now() > until {
                bail!("etcd does not listen");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(etcd))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
