//! `sterna inspect`: what a frozen or running process is doing, without running or stopping it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use sterna_node::message::{Belongings, BindingSort, HostingReply, HostingRequest};
use sterna_process::image::{PageStatistics, SectionSummary};
use sterna_process::{
    Description, Epoch, ImageFile, ImageHeader, MemoryLayout, PAGE_SIZE, Plain, ProcessId,
    ProgramId, Provenance, ReadLimits, Stats, Tag,
};
use sterna_runner::message::WindowSize;

use super::ps::{self, PortRow};
use crate::client;
use crate::key;
use crate::local::Local;
use crate::node::{self, Which};
use crate::protocol::{Described, Reply, Request, ThawReport};
use crate::rundir::{self, Record};
use crate::show::{self, Align, Paint, Table};

/// Shows a frozen or running process: its sections, memory, calls and bindings.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Inspect {
    /// An image's file; or a process, on a node or not: the beginning of its id, its name, or the pid of its `sterna run`.
    #[arg(value_name = "FILE|P")]
    what: String,
    /// Read all pages of an image and compare them with their checksums.
    #[arg(long)]
    check: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna inspect lua.sterna
  sterna inspect ./lua           a file, also if a process has that name
  sterna inspect lua --json | jq '.description.frames[0]'

Nothing of an image is run. Names that come from programs and images are shown with what a terminal would \
act on escaped.";

#[derive(Serialize)]
struct Frozen<'a> {
    file: String,
    file_bytes: u64,
    provenance: Provenance,
    header: &'a ImageHeader,
    local: Option<Local>,
    program_bytes: Option<u64>,
    pages: PageStatistics,
    pages_checked: bool,
    sections: Vec<SectionSummary>,
    description: &'a Description,
}

#[derive(Serialize)]
struct Live<'a> {
    record: &'a Record,
    /// When it was first started, in milliseconds since 1970.
    started_ms: u64,
    #[serde(flatten)]
    usage: Usage,
    description: &'a Description,
    layout: &'a MemoryLayout,
    /// The architecture of the processor that it runs on.
    processor: &'a str,
    /// How it came here, if it was thawed.
    thaw: Option<&'a ThawReport>,
}

/// What a process does and uses, as `ps` names it.
#[derive(Serialize)]
struct Usage {
    state: String,
    cpu_ms: u64,
    memory_bytes: u64,
    memory_bytes_peak: u64,
}

impl Usage {
    fn of(stats: &Stats, doing: Option<&String>) -> Self {
        Self {
            state: doing.map_or_else(|| stats.state.to_string(), String::clone),
            cpu_ms: ps::ms(stats.cpu_time),
            memory_bytes: stats.memory_bytes,
            memory_bytes_peak: stats.memory_bytes_peak,
        }
    }
}

impl Inspect {
    pub(crate) fn run(self) -> Result<u8> {
        let path = Path::new(&self.what);
        match path.is_file() || self.what.contains('/') {
            true => self.file(path),
            false => self.process(),
        }
    }

    fn file(&self, path: &Path) -> Result<u8> {
        let shown = path.display();
        let what = || format!("could not inspect {shown}");
        let key = key::own_or_none()?;
        let file = ImageFile::open(path, &ReadLimits::default(), &key).with_context(what)?;
        if self.check {
            file.check_pages().with_context(what)?;
        }
        let frozen = Frozen {
            file: path.to_string_lossy().into_owned(),
            file_bytes: file.file_bytes(),
            provenance: file.provenance(),
            header: file.header(),
            local: Local::take_from(&mut file.image().clone()).with_context(what)?,
            program_bytes: file.program_bytes(),
            pages: file.page_statistics(),
            pages_checked: self.check,
            sections: file.sections(),
            description: &file.image().description,
        };
        match self.json {
            true => show::json(&frozen)?,
            false => show::print(frozen.text(Paint::stdout())),
        }
        Ok(0)
    }

    fn process(&self) -> Result<u8> {
        let found = match rundir::find(&self.what) {
            Err(_) if self.which.is_there() => return self.on_node(),
            found => {
                found.with_context(|| format!("there is no file {} either", Plain(&self.what)))?
            }
        };
        let described = match client::ask(&found, &Request::Describe, &mut |_, _| {})? {
            Reply::Described(described) => *described,
            other => return Err(client::unexpected(&other)),
        };
        let (record, status) = (&found.record, &described.status);
        match self.json {
            true => show::json(&Live {
                record,
                started_ms: show::since_epoch_ms(status.stats.started),
                usage: Usage::of(&status.stats, status.doing.as_ref()),
                description: &described.description,
                layout: &described.layout,
                processor: &described.processor,
                thaw: described.thaw.as_ref(),
            })?,
            false => show::print(live_text(record, &described, Paint::stdout())),
        }
        Ok(0)
    }
}

impl Inspect {
    /// A process on a node.
    fn on_node(&self) -> Result<u8> {
        let entry = self.which.find_living(&self.what)?;
        let process = entry.process;
        let looked = super::attach::look(&self.which, process)?;
        let described = match self.which.hosting(HostingRequest::Describe { process })? {
            Some(HostingReply::Described(description)) => *description,
            _ => return Err(node::unexpected()),
        };
        let record = entry.record().context("its record cannot be read")?;
        let nodes = self.which.nodes()?;
        let hosted = Hosted {
            id: process,
            name: entry.name.clone(),
            node: node::name_of(&nodes, looked.node),
            epoch: record.epoch,
            started_on: node::name_of(&nodes, entry.info.started_on),
            started_ms: entry.info.started_ms,
            kind: entry.info.kind.clone(),
            program: entry.info.program,
            file: entry.info.file.clone(),
            arguments: entry.info.arguments.clone(),
            belongings: Belongings::decode(&entry.info.extra),
            ports: PortRow::all(&entry.info.extra, &nodes),
            usage: Usage::of(&looked.brief.stats, looked.brief.doing.as_ref()),
            output_bytes: looked.brief.output_bytes,
            layout: looked.layout,
            has_input: looked.has_input,
            terminal: looked.terminal,
            description: described,
        };
        match self.json {
            true => show::json(&hosted)?,
            false => show::print(hosted.text(Paint::stdout())),
        }
        Ok(0)
    }
}

/// A process on a node.
#[derive(Serialize)]
struct Hosted {
    id: ProcessId,
    name: Option<String>,
    node: String,
    epoch: Epoch,
    started_on: String,
    started_ms: u64,
    kind: Tag,
    program: ProgramId,
    file: String,
    arguments: Vec<String>,
    /// Its limits and directories; null if a newer node wrote them down.
    belongings: Option<Belongings>,
    /// Where its clients connect.
    ports: Vec<PortRow>,
    #[serde(flatten)]
    usage: Usage,
    output_bytes: u64,
    layout: MemoryLayout,
    has_input: bool,
    terminal: Option<WindowSize>,
    description: Description,
}

impl Hosted {
    fn text(&self, paint: Paint) -> String {
        let mut page = Page {
            text: String::new(),
            paint,
        };
        let name = self.name.as_deref().unwrap_or("without a name");
        page.heading(format_args!(
            "process {} ({})",
            self.id.short(),
            Plain(name)
        ));
        let usage = &self.usage;
        page.line("node", &self.node);
        page.line("epoch", self.epoch);
        page.line("state", Plain(&usage.state));
        page.line(
            "program",
            format_args!("{} {}", self.kind, self.program.short()),
        );
        page.line("from", Plain(&self.file));
        page.line("started on", &self.started_on);
        page.line("CPU time", show::time(Duration::from_millis(usage.cpu_ms)));
        page.line("memory", show::bytes(usage.memory_bytes));
        page.line("at most", show::bytes(usage.memory_bytes_peak));
        page.line("output", show::bytes(self.output_bytes));
        if let Some(size) = self.terminal {
            let (columns, rows) = (size.columns, size.rows);
            page.line("terminal", format_args!("{columns} × {rows}"));
        }
        let bindings = self.belongings.iter().flat_map(|all| &all.bindings);
        for binding in bindings {
            let sort = match &binding.sort {
                BindingSort::Shared { export } => format!("shared as {}", Plain(export)),
                other => format!("{other:?}").to_lowercase(),
            };
            let only = if binding.read_only { ", read-only" } else { "" };
            let path = Plain(&binding.guest_path);
            page.line("directory", format_args!("{path}, {sort}{only}"));
        }
        for port in &self.ports {
            let (name, node, address) = (Plain(&port.name), Plain(&port.node), port.address);
            page.line("port", format_args!("{name}, of {node}: {address}"));
        }
        page.layout(&self.layout);
        page.description(&self.description);
        page.text
    }
}

/// Lines under headings.
struct Page {
    text: String,
    paint: Paint,
}

impl Page {
    fn heading(&mut self, text: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{}", self.paint.bold(text));
    }

    fn line(&mut self, what: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "  {what:<10} {value}");
    }

    fn layout(&mut self, layout: &MemoryLayout) {
        self.heading("memory");
        for region in layout.regions() {
            let bytes = |pages: u64| show::bytes(pages.saturating_mul(PAGE_SIZE as u64));
            let _ = writeln!(
                self.text,
                "  {:<10} {}, may grow to {}",
                Plain(&region.name).to_string(),
                bytes(region.pages),
                bytes(region.pages_max)
            );
        }
    }

    fn description(&mut self, description: &Description) {
        self.heading("frames, innermost first");
        self.text.push_str(&description.back_trace().to_string());
        self.heading("bindings");
        for binding in &description.bindings {
            let _ = writeln!(self.text, "  {binding}");
        }
        if !description.notes.is_empty() {
            self.heading("notes");
        }
        for (name, value) in &description.notes {
            self.line(&Plain(name).to_string(), Plain(value));
        }
    }
}

impl Frozen<'_> {
    fn text(&self, paint: Paint) -> String {
        let mut page = Page {
            text: String::new(),
            paint,
        };
        self.origin(&mut page);
        page.layout(&self.header.layout);
        let PageStatistics { stored, zero } = self.pages;
        let checked = if self.pages_checked {
            ", all checked"
        } else {
            ""
        };
        page.line(
            "pages",
            format_args!("{stored} with contents, {zero} of zeros{checked}"),
        );
        page.heading("sections");
        let mut table = Table::new([
            ("  SECTION", Align::Left),
            ("VERSION", Align::Right),
            ("BYTES", Align::Right),
        ]);
        for section in &self.sections {
            table.row([
                format!("  {}", section.tag),
                section.version.to_string(),
                section.bytes.to_string(),
            ]);
        }
        page.text.push_str(&table.shown(paint).to_string());
        page.description(self.description);
        for directory in self.local.iter().flat_map(|local| &local.directories) {
            let host = directory.host();
            let host = host.to_string_lossy();
            let only = if directory.read_only {
                ", read-only"
            } else {
                ""
            };
            let value = format!("{} was {}{only}", Plain(&directory.guest), Plain(&host));
            page.line("directory", value);
        }
        page.text
    }

    /// Whose it is, and of what.
    fn origin(&self, page: &mut Page) {
        let header = self.header;
        page.heading(format_args!("image {}", Plain(&self.file)));
        page.line("size", show::bytes(self.file_bytes));
        page.line(
            "made by",
            match self.provenance {
                Provenance::Own => "you, and not changed since".to_owned(),
                Provenance::Foreign { key } => {
                    format!("someone else, or elsewhere (key {key}): anyone could have made it")
                }
            },
        );
        let name = self
            .local
            .as_ref()
            .map_or("without a name", |local| &local.name);
        let (id, epoch) = (header.process, header.epoch);
        page.line(
            "process",
            format_args!("{} ({}), epoch {epoch}", id.short(), Plain(name)),
        );
        let program = match self.program_bytes {
            Some(bytes) => format!("in the file: {}", show::bytes(bytes)),
            None => "not in the file".to_owned(),
        };
        page.line(
            "program",
            format_args!("{} {}, {program}", header.kind, header.program.short()),
        );
    }
}

fn live_text(record: &Record, described: &Described, paint: Paint) -> String {
    let mut page = Page {
        text: String::new(),
        paint,
    };
    let stats = &described.status.stats;
    page.heading(format_args!(
        "process {} ({})",
        record.id.short(),
        Plain(&record.name)
    ));
    page.line("state", stats.state);
    page.line(
        "program",
        format_args!("{} {}", record.kind, record.program.short()),
    );
    page.line("from", Plain(&record.file));
    page.line("pid", record.pid);
    page.line("processor", Plain(&described.processor));
    page.line("CPU time", show::time(stats.cpu_time));
    page.line("memory", show::bytes(stats.memory_bytes));
    page.line("at most", show::bytes(stats.memory_bytes_peak));
    page.line("here for", show::age(record.hosted_for()));
    if let Some(thaw) = &described.thaw {
        page.line("thawed in", show::time_us(thaw.total_us));
    }
    page.layout(&described.layout);
    page.description(&described.description);
    page.text
}
