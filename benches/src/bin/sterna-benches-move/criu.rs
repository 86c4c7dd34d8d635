//! CRIU moves the native server: dumped into a folder in memory and restored from it, with its pages or before them.
//!
//! Dump and restore are two commands one after the other, as they would be on two machines; nothing is sent between them, so
//! that CRIU is spared what a network would cost. Connections of clients are kept: until they are restored, a filter holds
//! back what comes for them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sterna_benches::peers::{self, quietly};
use sterna_laboratory::clients::{Moved, Pace, moves};
use tempfile::TempDir;

use crate::Plan;
use crate::clients::{self, CLIENTS, Mover, Peer, RATE};
use crate::native;

const MADE_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What clients see of it, if there is a CRIU.
pub(crate) fn measure(plan: &Plan, mib: u64, rounds: usize) -> Result<Option<Peer>> {
    measure_so(plan, mib, rounds, false)
}

/// The same with pages that the server gets when it touches them, and all others meanwhile.
pub(crate) fn measure_lazy(plan: &Plan, mib: u64, rounds: usize) -> Result<Option<Peer>> {
    measure_so(plan, mib, rounds, true)
}

fn measure_so(plan: &Plan, mib: u64, rounds: usize, lazy: bool) -> Result<Option<Peer>> {
    let Some(mut criu) = Criu::start(plan, mib, lazy)? else {
        return Ok(None);
    };
    let load = clients::begin(&criu, mib, Pace::Open(RATE.into()))?;
    criu.hop()?;
    load.take();
    let way = moves(&load, CLIENTS, rounds, &mut || criu.hop())?;
    let failed = clients::end(load)?;
    let name = match lazy {
        true => "CRIU dump and lazy restore",
        false => "CRIU dump and restore",
    };
    let ways = vec![(name.to_owned(), way)];
    Ok(Some(Peer { ways, failed }))
}

/// The server, and CRIU. Dropping it ends the server.
struct Criu {
    root: PathBuf,
    folder: TempDir,
    address: SocketAddr,
    /// Whose end is waited for: the server, or the command that restored it.
    parent: Child,
    pid: String,
    dumps: u32,
    /// Whether it runs before its pages are there.
    lazy: bool,
}

impl Criu {
    /// Starts the server, if there is a CRIU.
    fn start(plan: &Plan, mib: u64, lazy: bool) -> Result<Option<Self>> {
        if peers::criu(&plan.root).is_none() {
            return Ok(None);
        }
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => TempDir::new_in(memory)?,
            false => TempDir::new()?,
        };
        let program = native::compile(&plan.root)?;
        let (parent, address) = native::start(&program, mib, folder.path())?;
        let pid = parent.id().to_string();
        Ok(Some(Self {
            root: plan.root.clone(),
            folder,
            address,
            parent,
            pid,
            dumps: 0,
            lazy,
        }))
    }

    fn command(&self, verb: &str, images: &Path) -> Result<Command> {
        let mut command = peers::criu(&self.root).context("it has gone")?;
        let log = format!("{verb}.log");
        command.args([verb, "-v1", "-o", &log, "-D"]).arg(images);
        Ok(command)
    }

    /// Starts who has the pages.
    fn start_pager(&self, images: &Path) -> Result<Child> {
        let mut pager = self.command("lazy-pages", images)?;
        let mut pager = pager.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let listens = wait_for(&images.join("lazy-pages.socket"), &mut pager);
        if listens.is_err() {
            let _ = pager.kill();
            let _ = pager.wait();
        }
        listens.map(|()| pager)
    }
}

/// Waits until there is something that a command of CRIU makes.
fn wait_for(made: &Path, by: &mut Child) -> Result<()> {
    let until = Instant::now() + MADE_WITHIN;
    while !made.exists() {
        if let Some(status) = by.try_wait()? {
            bail!("criu ended with {status}, without {}", made.display());
        }
        ensure!(Instant::now() < until, "no {}", made.display());
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

impl Drop for Criu {
    fn drop(&mut self) {
        // Whoever waits for it ends then.
        let _ = Command::new("kill").args(["-9", &self.pid]).status();
        let _ = self.parent.wait();
    }
}

impl Mover for Criu {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn hop(&mut self) -> Result<Moved> {
        self.dumps += 1;
        let images = self.folder.path().join(format!("images-{}", self.dumps));
        fs::create_dir(&images)?;
        let ordered = Instant::now();
        let mut dump = self.command("dump", &images)?;
        dump.args(["--tcp-established", "--network-lock", "nftables"]);
        quietly(dump.args(["-t", &self.pid]))?;
        self.parent.wait()?;
        let dumped = ordered.elapsed();
        let pidfile = images.join("pid");
        let mut restore = self.command("restore", &images)?;
        restore
            .args(["--tcp-established", "--pidfile"])
            .arg(&pidfile);
        let mut pager = None;
        if self.lazy {
            restore.arg("--lazy-pages");
            pager = Some(self.start_pager(&images)?);
        }
        self.parent = restore
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("could not restore")?;
        // It is written before this.
        wait_for(&images.join("stats-restore"), &mut self.parent)?;
        self.pid = fs::read_to_string(&pidfile)?.trim().to_owned();
        let restored = ordered.elapsed() - dumped;
        let mut parts = vec![
            ("send".to_owned(), dumped),
            ("restore".to_owned(), restored),
        ];
        if let Some(mut pager) = pager {
            let status = pager.wait()?;
            ensure!(status.success(), "criu lazy-pages ended with {status}");
            parts.push(("pull".to_owned(), ordered.elapsed() - dumped - restored));
        }
        // The server has its pages: nothing is left to be read.
        fs::remove_dir_all(&images)?;
        Ok(Moved {
            ordered,
            parts,
            downtime: None,
        })
    }
}
