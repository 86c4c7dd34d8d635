//! Running other programs: a failure names the whole command line and shows what the program said.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program whose output belongs on the screen.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("could not start {}", line(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", line(command));
    }
    Ok(())
}

/// Runs a program and returns its standard output; what it says on standard error is shown only if it fails.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start {}", line(command)))?;
    if !output.status.success() {
        bail!(
            "{} failed: {}\n{}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} printed something that is not UTF-8", line(command)))
}

/// Runs a program whose standard output is taken line by line while it runs. The answer is how it ended.
pub(crate) fn follow(command: &mut Command, take: impl FnMut(String)) -> Result<ExitStatus> {
    let mut running = start(command.stdout(Stdio::piped()))?;
    let output = running.stdout.take().context("the output is a pipe")?;
    lines(output, take).with_context(|| format!("could not read what {} says", line(command)))?;
    Ok(running.wait()?)
}

/// The same with its standard error.
pub(crate) fn follow_errors(command: &mut Command, take: impl FnMut(String)) -> Result<ExitStatus> {
    let mut running = start(command.stderr(Stdio::piped()))?;
    let errors = running.stderr.take().context("errors go to a pipe")?;
    lines(errors, take).with_context(|| format!("could not read what {} says", line(command)))?;
    Ok(running.wait()?)
}

fn start(command: &mut Command) -> Result<Child> {
    let running = command.spawn();
    running.with_context(|| format!("could not start {}", line(command)))
}

fn lines(from: impl Read, mut take: impl FnMut(String)) -> io::Result<()> {
    for text in BufReader::new(from).split(b'\n') {
        take(String::from_utf8_lossy(&text?).into_owned());
    }
    Ok(())
}

/// Whether a program starts and ends well, without a word.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Where cargo builds.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |folder| root.join(folder))
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The command line as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
