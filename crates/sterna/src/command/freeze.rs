//! `sterna freeze`: a running process into a file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use sterna_process::Plain;

use super::filed::Freezing;
use crate::client;
use crate::complete;
use crate::host::Signals;
use crate::node::Which;
use crate::protocol::{FreezeOrder, FreezeReport, Reply, Request};
use crate::rundir;
use crate::show::{self, Bar, Paint};

/// Freezes a running process into a file.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Freeze {
    /// The process: the beginning of its id, its name, or the pid of its `sterna run`; or one of the cluster of
    /// this machine's node.
    #[arg(value_name = "P", add = complete::processes())]
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

If anything fails, the process runs on as if nothing had been asked, and a file that was there before is \
untouched. Ctrl-C gives it up if the process is on a node; one of a `sterna run` is frozen all the same, \
since that does it.";

impl Freeze {
    pub(crate) fn run(self) -> Result<u8> {
        ensure!(
            self.output.file_name().is_some() && self.output.as_os_str() != "-",
            "an image is frozen into a file: name one after -o"
        );
        let file = std::path::absolute(&self.output)
            .with_context(|| format!("could not find out where {} is", self.output.display()))?;
        let found = match rundir::find(&self.process) {
            Ok(found) => found,
            Err(_) if self.which.is_there() => return self.on_node(&file),
            Err(error) => return Err(error),
        };
        let order = FreezeOrder {
            file,
            keep: self.keep,
            thin: self.thin,
        };
        note_signals(&found.record.name, &order.file)?;
        let bar = Bar::new("writing pages");
        let reply = client::ask(&found, &Request::Freeze(order), &mut |done, total| {
            bar.set(done, total);
        });
        drop(bar);
        match reply? {
            Reply::Frozen(report) => self.tell(&report),
            other => Err(client::unexpected(&other)),
        }
    }

    /// One of a node's processes.
    fn on_node(&self, file: &Path) -> Result<u8> {
        let entry = self.which.find_living(&self.process)?;
        let report = Freezing {
            which: &self.which,
            entry: &entry,
            file,
            keep: self.keep,
            thin: self.thin,
        };
        self.tell(&report.run()?)
    }

    fn tell(&self, report: &FreezeReport) -> Result<u8> {
        match self.json {
            true => show::json(report)?,
            false => show::print(text(report)),
        }
        Ok(0)
    }
}

/// On a signal: what becomes of the file. The process's own `sterna run` writes it.
fn note_signals(name: &str, file: &Path) -> Result<()> {
    let (name, file) = (Plain(name).to_string(), show::path(file).to_string());
    Signals::catch()?.each(move |signal| {
        show::note(format_args!(
            "its `sterna run` goes on with this: {name} will be in {file}, unless that fails there"
        ));
        std::process::exit(128 + signal);
    })
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
    // Of one on a node only the whole is known here.
    let copy = report.copy_us.filter(|us| *us > 0);
    for (what, us) in [
        ("pause", report.pause_us),
        ("capture", report.capture_us),
        ("copy", copy),
    ] {
        if let Some(us) = us {
            line(what, show::time_us(us));
        }
    }
    line("write", show::time_us(report.write_us));
    if report.kept {
        line("stood still", show::time_us(report.stopped_us));
    } else {
        line("go on with", format!("sterna thaw {file}"));
    }
    lines.join("\n") + "\n"
}
