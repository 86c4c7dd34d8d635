//! `sterna logs`: what a process has written, wherever it was.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use sterna_node::message::{HostingReply, HostingRequest, LogPage, Missing, Nodes};
use sterna_process::{Plain, ProcessId};
use sterna_runner::log::{Record, Stream};

use crate::complete;
use crate::node::{self, Which};
use crate::show;

/// For how long a node is asked to wait for more.
const WAIT: Duration = Duration::from_secs(5);

/// Shows what a process on a node has written to standard output and error, however often it was moved.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Logs {
    /// The process: its name, or the beginning of its id.
    #[arg(value_name = "P", add = complete::processes())]
    process: String,
    /// Go on as it writes more, until it ends.
    #[arg(short, long)]
    follow: bool,
    /// Only what was written in this time, e.g. 10m.
    #[arg(long, value_name = "TIME", value_parser = show::parse_duration)]
    since: Option<Duration>,
    /// Only the last lines.
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// When each piece was written.
    #[arg(short, long)]
    timestamps: bool,
    /// Print JSON: an object for each piece, one a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna logs server
  sterna logs -f --tail 20 server
  sterna logs --since 1h --json server | jq -r .text

Standard output goes to standard output, standard error to standard error. What was written on a node that \
cannot be asked now is named, not left out silently.";

#[derive(Serialize)]
struct Piece<'a> {
    at_ms: u64,
    offset: u64,
    stream: Stream,
    /// As text; what is no UTF-8 is replaced.
    text: &'a str,
}

#[derive(Serialize)]
struct Gap {
    missing_from: u64,
    missing_to: u64,
    node: Option<String>,
    why: String,
}

impl Logs {
    pub(crate) fn run(self) -> Result<u8> {
        let entry = self.which.find(&self.process)?;
        if let Some(parent) = &entry.info.parent {
            show::note(format_args!(
                "{} is a clone: what it wrote before are the first {} bytes of `sterna logs {}`",
                entry.process.short(),
                parent.log_offset,
                parent.process.short()
            ));
        }
        let mut follow = Follow::of(&self.which, entry.process);
        follow.since_ms = self.since.map(|since| {
            let ago = SystemTime::now().checked_sub(since);
            show::since_epoch_ms(ago.unwrap_or(SystemTime::UNIX_EPOCH))
        });
        follow.form = match (self.json, self.timestamps) {
            (true, _) => Form::Json,
            (_, true) => Form::Timed,
            _ => Form::Raw,
        };
        match self.tail {
            Some(lines) => follow.last(lines)?,
            None => follow.all_there_is()?,
        }
        if self.follow {
            follow.until_the_end()?;
        }
        Ok(0)
    }
}

/// How output is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Raw,
    Timed,
    Json,
}

/// Reads a process's output.
pub(crate) struct Follow<'a> {
    which: &'a Which,
    process: ProcessId,
    after: u64,
    pub(crate) since_ms: Option<u64>,
    pub(crate) form: Form,
    nodes: Option<Nodes>,
}

impl<'a> Follow<'a> {
    /// From its first byte on.
    pub(crate) fn of(which: &'a Which, process: ProcessId) -> Self {
        Self {
            which,
            process,
            after: 0,
            since_ms: None,
            form: Form::Raw,
            nodes: None,
        }
    }

    /// From a byte on.
    pub(crate) fn from(which: &'a Which, process: ProcessId, after: u64) -> Self {
        Self {
            after,
            ..Self::of(which, process)
        }
    }

    fn page(&mut self, wait: Duration) -> Result<LogPage> {
        let request = HostingRequest::Log {
            process: self.process,
            after: self.after,
            wait_ms: wait.as_millis() as u64,
        };
        match self.which.hosting(request)? {
            Some(HostingReply::Log(page)) => {
                self.after = page.next;
                Ok(page)
            }
            _ => Err(node::unexpected()),
        }
    }

    /// Shows what has been written until now.
    pub(crate) fn all_there_is(&mut self) -> Result<()> {
        loop {
            let page = self.page(Duration::ZERO)?;
            if page.records.is_empty() && page.missing.is_none() {
                return Ok(());
            }
            self.show(&page)?;
        }
    }

    /// Shows all until the process has ended.
    pub(crate) fn until_the_end(&mut self) -> Result<()> {
        loop {
            let page = self.page(WAIT)?;
            self.show(&page)?;
            if page.is_over {
                return Ok(());
            }
        }
    }

    /// Shows the last lines of what there is.
    fn last(&mut self, lines: usize) -> Result<()> {
        let (mut kept, mut gaps): (Vec<Record>, Vec<Missing>) = Default::default();
        loop {
            let page = self.page(Duration::ZERO)?;
            if page.records.is_empty() && page.missing.is_none() {
                break;
            }
            gaps.extend(page.missing);
            kept.extend(page.records);
            let ends = |record: &Record| record.bytes.iter().filter(|&&b| b == b'\n').count();
            let mut have: usize = kept.iter().map(ends).sum();
            while kept.len() > 1 && have - ends(&kept[0]) > lines {
                have -= ends(&kept.remove(0));
            }
        }
        cut_to(&mut kept, lines);
        let start = match kept.first() {
            Some(first) => first.offset,
            None if lines == 0 => self.after,
            None => 0,
        };
        let mut kept = kept.into_iter().peekable();
        for missing in gaps.into_iter().filter(|gap| gap.to > start) {
            while let Some(record) = kept.next_if(|record| record.offset < missing.to) {
                self.show_since(&record)?;
            }
            self.show_missing(&missing)?;
        }
        kept.try_for_each(|record| self.show_since(&record))
    }

    fn show(&mut self, page: &LogPage) -> Result<()> {
        if let Some(missing) = &page.missing {
            self.show_missing(missing)?;
        }
        page.records
            .iter()
            .try_for_each(|record| self.show_since(record))
    }

    fn show_since(&self, record: &Record) -> Result<()> {
        match self.since_ms {
            Some(since) if record.at_ms < since => Ok(()),
            _ => self.show_record(record),
        }
    }

    fn show_missing(&mut self, missing: &Missing) -> Result<()> {
        if self.nodes.is_none() {
            self.nodes = self.which.nodes().ok();
        }
        let name = |id| match &self.nodes {
            Some(nodes) => node::name_of(nodes, id),
            None => id.to_string(),
        };
        let node = missing.node.map(name);
        if self.form == Form::Json {
            let gap = Gap {
                missing_from: missing.from,
                missing_to: missing.to,
                node,
                why: missing.why.clone(),
            };
            return line(&gap);
        }
        let at = node.map_or_else(String::new, |node| format!(", on node {node}"));
        show::note(format_args!(
            "{} bytes of output are missing here{at}: {}",
            missing.to.saturating_sub(missing.from),
            Plain(&missing.why)
        ));
        Ok(())
    }

    fn show_record(&self, record: &Record) -> Result<()> {
        if self.form == Form::Json {
            return line(&Piece {
                at_ms: record.at_ms,
                offset: record.offset,
                stream: record.stream,
                text: &String::from_utf8_lossy(&record.bytes),
            });
        }
        let mut bytes = record.bytes.clone();
        if self.form == Form::Timed {
            let time = format!("{} ", show::moment(record.at_ms));
            let text = String::from_utf8_lossy(&record.bytes).into_owned();
            let lines = text.split_inclusive('\n');
            bytes = lines
                .flat_map(|line| [&*time, line].concat().into_bytes())
                .collect();
        }
        let written = match record.stream {
            Stream::Output => write_all(&mut io::stdout().lock(), &bytes),
            Stream::Error => write_all(&mut io::stderr().lock(), &bytes),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                crate::terminal::restore();
                std::process::exit(141)
            }
            Err(error) => bail!("could not show the output: {error}"),
            Ok(()) => Ok(()),
        }
    }
}

fn write_all(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

fn line(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value).context("could not write JSON")?;
    show::print(format_args!("{text}\n"));
    Ok(())
}

/// Cuts the beginning off, so that so many lines remain. The last one need not have ended.
fn cut_to(records: &mut Vec<Record>, lines: usize) {
    if lines == 0 {
        return records.clear();
    }
    let mut ends = 0;
    let last = records.len().saturating_sub(1);
    for index in (0..records.len()).rev() {
        let bytes = &records[index].bytes;
        // The end of the last line is not one between two.
        let between = bytes.len() - usize::from(index == last && bytes.ends_with(b"\n"));
        for at in (0..between).rev().filter(|at| bytes[*at] == b'\n') {
            ends += 1;
            if ends == lines {
                records[index].bytes.drain(..=at);
                records[index].offset += at as u64 + 1;
                let is_empty = records[index].bytes.is_empty();
                records.drain(..index + usize::from(is_empty));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&str], lines: usize, expected: &str) {
        let mut records: Vec<Record> = pieces
            .iter()
            .map(|piece| Record {
                offset: 0,
                at_ms: 0,
                stream: Stream::Output,
                bytes: piece.as_bytes().to_vec(),
            })
            .collect();
        cut_to(&mut records, lines);
        let bytes: Vec<u8> = records
            .into_iter()
            .flat_map(|record| record.bytes)
            .collect();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            expected,
            "{pieces:?} {lines}"
        );
    }

    #[test]
    fn the_last_lines_remain() {
        check(&["a\nb\nc\n"], 2, "b\nc\n");
        check(&["a\nb", "\nc\n"], 2, "b\nc\n");
        check(&["a\nb\n", "c"], 2, "b\nc");
        check(&["a\nb\n", "c\n"], 1, "c\n");
        check(&["a\n"], 5, "a\n");
        check(&["a\nb\n"], 0, "");
        check(&[], 3, "");
    }
}
