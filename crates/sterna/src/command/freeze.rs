//! `sterna freeze`: a running process into a file.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use sterna_process::Plain;

use crate::client;
use crate::node::Which;
use crate::protocol::{FreezeOrder, FreezeReport, Reply, Request};
use crate::rundir;
use crate::show::{self, Bar, Paint};

/// Freezes a running process into a file.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Freeze {
    /// The process: the beginning of its id, its name, or the pid of its `sterna run`.
    #[arg(value_name = "P")]
    process: String,
    /// The file. It replaces one that is there, at once and whole; only you can read it.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Let the process run on: a snapshot.
    #[arg(long)]
    keep: bool,
    /// Leave the program's bytes out. The file is smaller, and can be thawed where the program is in the cache.
    #[arg(long)]
    thin: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna freeze lua -o lua.sterna           its `sterna run` ends with code 75
  sterna thaw lua.sterna                    it goes on, here or on another machine
  sterna freeze 0f3k -o backup.sterna --keep

If anything fails, the process runs on as if nothing had been asked, and a file that was there before is untouched.";

impl Freeze {
    pub(crate) fn run(self) -> Result<u8> {
        ensure!(
            self.output.file_name().is_some() && self.output.as_os_str() != "-",
            "an image is frozen into a file: name one after -o"
        );
        let file = std::path::absolute(&self.output)
            .with_context(|| format!("could not find out where {} is", self.output.display()))?;
        let found = rundir::find(&self.process).map_err(|error| self.on_node(error))?;
        let order = FreezeOrder {
            file,
            keep: self.keep,
            thin: self.thin,
        };
        let bar = Bar::new("writing pages");
        let reply = client::ask(&found, &Request::Freeze(order), &mut |done, total| {
            bar.set(done, total);
        });
        drop(bar);
        match reply? {
            Reply::Frozen(report) if self.json => show::json(&report)?,
            Reply::Frozen(report) => show::print(text(&report)),
            other => return Err(client::unexpected(&other)),
        }
        Ok(0)
    }
}

impl Freeze {
    /// Why there is no such process here: perhaps it is on a node.
    fn on_node(&self, error: anyhow::Error) -> anyhow::Error {
        match self.which.find_living(&self.process) {
            Ok(entry) => anyhow::anyhow!(
                "process {} is on a node, and only those of `sterna run` without a node can be frozen so far",
                entry.process.short()
            ),
            Err(_) => error,
        }
    }
}

fn text(report: &FreezeReport) -> String {
    let paint = Paint::stdout();
    let name = Plain(&report.name).to_string();
    let file = show::path(&report.file);
    let (what, then) = match report.kept {
        true => ("a snapshot of ", "; it runs on"),
        false => ("", ""),
    };
    let id = report.process.short();
    let mut lines = vec![format!(
        "{} {what}{} ({id}) into {}{then}",
        paint.green("frozen:"),
        paint.bold(&name),
        paint.bold(&file)
    )];
    let mut line = |what: &str, value: String| lines.push(format!("  {what:<10} {value}"));
    let program = match report.thin {
        true => "without its program".to_owned(),
        false => format!("with its program of {}", show::bytes(report.program_bytes)),
    };
    line(
        "image",
        format!("{}, {program}", show::bytes(report.image_bytes)),
    );
    line(
        "pages",
        format!(
            "{} with contents, {} of zeros",
            report.pages_stored, report.pages_zero
        ),
    );
    line("frames", report.frames.to_string());
    line("pause", show::time_us(report.pause_us));
    line("capture", show::time_us(report.capture_us));
    if report.copy_us > 0 {
        line("copy", show::time_us(report.copy_us));
    }
    line("write", show::time_us(report.write_us));
    if report.kept {
        line("stood still", show::time_us(report.stopped_us));
    } else {
        line("go on with", format!("sterna thaw {file}"));
    }
    lines.join("\n") + "\n"
}
