//! CRIU moves the native server: dumped into a folder in memory and restored from it.
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
use sterna_laboratory::clients::Moved;
use tempfile::TempDir;

use crate::Plan;
use crate::clients::Mover;
use crate::native;

const RESTORED_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The server, and CRIU. Dropping it ends the server.
pub(crate) struct Criu {
    root: PathBuf,
    folder: TempDir,
    address: SocketAddr,
    /// Whose end is waited for: the server, or the command that restored it.
    parent: Child,
    pid: String,
    dumps: u32,
}

impl Criu {
    /// Starts the server, if there is a CRIU.
    pub(crate) fn start(plan: &Plan, mib: u64) -> Result<Option<Self>> {
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
        }))
    }

    fn command(&self, verb: &str, images: &Path) -> Result<Command> {
        let mut command = peers::criu(&self.root).context("it has gone")?;
        command
            .args([verb, "-v1", "-o", "log", "--tcp-established", "-D"])
            .arg(images);
        Ok(command)
    }
}

/// Waits until it says of which process it is the parent.
fn wait_for(pidfile: &Path, parent: &mut Child) -> Result<String> {
    let until = Instant::now() + RESTORED_WITHIN;
    loop {
        let pid = fs::read_to_string(pidfile).unwrap_or_default();
        if !pid.is_empty() {
            return Ok(pid.trim().to_owned());
        }
        if let Some(status) = parent.try_wait()? {
            bail!("criu restore ended with {status}");
        }
        ensure!(Instant::now() < until, "it was not restored");
        thread::sleep(LOOK_EVERY);
    }
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
        quietly(dump.args(["--network-lock", "nftables", "-t", &self.pid]))?;
        self.parent.wait()?;
        let dumped = ordered.elapsed();
        let pidfile = images.join("pid");
        let mut restore = self.command("restore", &images)?;
        restore.arg("--pidfile").arg(&pidfile);
        self.parent = restore
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("could not restore")?;
        self.pid = wait_for(&pidfile, &mut self.parent)?;
        let restored = ordered.elapsed() - dumped;
        // The server has its pages: nothing is left to be read.
        fs::remove_dir_all(&images)?;
        Ok(Moved {
            ordered,
            parts: vec![
                ("send".to_owned(), dumped),
                ("restore".to_owned(), restored),
            ],
            downtime: None,
        })
    }
}
