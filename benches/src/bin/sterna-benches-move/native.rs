//! The key-value server, compiled for this machine.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sterna_benches::peers::quietly;

const READY_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The program; static, so that it runs where nothing else is.
pub(crate) fn compile(root: &Path) -> Result<PathBuf> {
    let output = root.join("target/bench/kv-native");
    fs::create_dir_all(root.join("target/bench"))?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-static", "-o"]).arg(&output);
    quietly(compiler.arg(root.join("guests/servers/kv.c")))?;
    Ok(output)
}

/// Starts it in a session of its own, with what it says in a file of this folder. It serves when this returns.
pub(crate) fn start(program: &Path, mib: u64, folder: &Path) -> Result<(Child, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let said = folder.join("said");
    let output = File::create(&said)?;
    // Descriptor 3 is the listener's, as systemd has it.
    let script = "exec setsid \"$0\" \"$1\" 3<&0 </dev/null";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(program)
        .arg(mib.to_string())
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(output.try_clone()?)
        .stderr(output);
    let child = command.spawn().context("could not start the server")?;
    let until = Instant::now() + READY_WITHIN;
    while !fs::read_to_string(&said)?.starts_with("serving") {
        ensure!(Instant::now() < until, "the server does not serve");
        thread::sleep(LOOK_EVERY);
    }
    Ok((child, address))
}
