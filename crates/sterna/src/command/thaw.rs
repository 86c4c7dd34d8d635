//! `sterna thaw`: a frozen process goes on, here.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use sterna_migration::Life;
use sterna_node::message::{Belongings, BindingSort};
use sterna_process::{
    Directory, Image, ImageFile, Plain, ProcessId, Provenance, ReadLimits, Resources, Stdio,
};

use super::filed::Thawing;
use super::given::{self, Given};
use super::logs::Follow;
use super::placed;
use crate::complete;
use crate::host::{self, Facts, Signals};
use crate::key;
use crate::kinds::{self, Ready};
use crate::local::{GivenDirectory, Local};
use crate::node::{self, Which};
use crate::protocol::ThawReport;
use crate::rundir::{Entry, Record, Registered, RunDirectory};
use crate::show;

/// Lets a frozen process go on, in the foreground.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Thaw {
    #[command(flatten)]
    given: Given,
    /// Thaw an image that someone else made without asking.
    #[arg(short, long)]
    yes: bool,
    /// Give the process a new id: it is a clone, and the original may go on elsewhere.
    #[arg(long)]
    new_id: bool,
    /// Write what thawing took into a file, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Thaw it on a node of the cluster: its name, or the beginning of its id.
    #[arg(long, value_name = "NODE", add = complete::nodes())]
    on: Option<String>,
    /// On this machine's node, and return as soon as it runs.
    #[arg(short, long)]
    detach: bool,
    /// Print JSON, with --detach.
    #[arg(long, requires = "detach")]
    json: bool,
    #[command(flatten)]
    which: Which,
    /// The image, made by `sterna freeze`.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

const AFTER_HELP: &str = "\
Examples:
  sterna thaw lua.sterna
  sterna thaw --detach lua.sterna           on this machine's node
  sterna thaw --dir /srv/data::/data lua.sterna < more-input

The process takes up standard input, output and error and the exit code where it is thawed; exit codes are \
those of `sterna run`. Directories are opened again where they were if you made the image yourself on a \
machine where they are; otherwise give them with --dir.

The file stays. Thawing it twice makes two processes, each of which does the rest of the work: the second \
gets a new id if the first still runs here. A process that was frozen on a node goes on as the same one if \
its cluster says that it is in this very file, and then only once; otherwise, or without --on and --detach, \
it becomes another one. There, directories that are fixed to their node are given again with --dir; the \
others it has anyway. What it had not read of its input goes along with --on or --detach only. An image that \
someone else made is thawed only after it was shown and confirmed.";

/// An image that is to be thawed, and what is known about it.
struct Frozen {
    file: ImageFile,
    image: Image,
    local: Local,
    own: bool,
    /// The process in it is one of a cluster, which does not hear of what is made of it here.
    of_cluster: bool,
}

impl Thaw {
    // long because: its steps are timed one after the other
    pub(crate) fn run(mut self) -> Result<u8> {
        let begun = Instant::now();
        let key = key::own()?;
        let frozen = self.open(&key)?;
        let open = begun.elapsed();
        if !frozen.own && !self.yes {
            confirm(&frozen)?;
        }
        if self.on.is_some() || self.detach {
            return self.on_node(&frozen);
        }
        let (directories, given) = self.directories(&frozen)?;
        let directory = RunDirectory::open()?;

        let step = Instant::now();
        let name = frozen.local.name.clone();
        let ready = kinds::from_image(&frozen.file, &name, &self.given.build)?;
        let program = step.elapsed();

        let step = Instant::now();
        let Frozen {
            file,
            mut image,
            local,
            own,
            of_cluster,
        } = frozen;
        let before = image.header.process;
        let shown = self.file.display().to_string();
        let what = || format!("could not thaw {shown}");
        let incoming = ready
            .kind
            .prepare(&ready.program, &image.header.layout)
            .with_context(what)?;
        file.install_into(&*incoming.memory()).with_context(what)?;
        let pages = step.elapsed();

        let step = Instant::now();
        let local = Local {
            name: self.given.name.take().unwrap_or(local.name),
            directories: given,
            limits: self.given.limits(own.then_some(local.limits)),
            ..local
        };
        given::check_name(&local.name)?;
        let entry = self.register(directory, &mut image, &ready, &local)?;
        let id = image.header.process;
        if of_cluster {
            show::note(format_args!(
                "this is another process, {}: {} is its cluster's, which goes on with that one by `sterna thaw --detach`",
                id.short(),
                before.short()
            ));
        }
        let snapshots = self.given.snapshots(&local.name, id)?;
        let resources = Resources {
            stdio: Stdio::inherited().context("could not take over the standard streams")?,
            directories,
            limits: local.limits.clone(),
            ..Resources::default()
        };
        let signals = Signals::catch()?;
        let paused = incoming.finish(image, resources, None).with_context(what)?;
        let running = paused.resume();
        let report = report(
            &file,
            (id, &local.name),
            (open, program, pages, step),
            begun,
        );
        self.tell(&report);
        let facts = Facts {
            id,
            local,
            program: ready.bytes,
            key,
            thaw: Some(report),
        };
        host::host(entry, running, facts, signals, snapshots)
    }

    /// On the asked node, or by it on another one.
    fn on_node(&self, frozen: &Frozen) -> Result<u8> {
        let local = &frozen.local;
        let nodes = self.which.nodes()?;
        let on = self.on.as_deref();
        let on = on.map(|name| node::member(&nodes, name)).transpose()?;
        let on = on.filter(|on| *on != nodes.this.id);
        let at = on.unwrap_or(nodes.this.id);
        let opened = self.opened(frozen, on.is_some())?;
        kinds::from_image(&frozen.file, &local.name, &self.given.build)?;
        let thawing = Thawing {
            which: &self.which,
            file: &frozen.file,
            image: frozen.image.clone(),
            local,
            name: self.given.name.clone(),
            limits: self.given.limits(frozen.own.then(|| local.limits.clone())),
            new_id: self.new_id,
            on,
            opened,
        };
        let process = thawing.run()?;
        if self.detach {
            return placed::started(process, &node::name_of(&nodes, at), self.json);
        }
        Follow::of(&self.which, process).until_the_end()?;
        super::wait::outcome(&self.which, process, true)
    }

    /// The directories that are fixed to their node, in the order of the process's record, if it can go on as the same one.
    fn opened(&self, frozen: &Frozen, is_elsewhere: bool) -> Result<Vec<OwnedFd>> {
        let process = frozen.image.header.process;
        let before = match self.new_id {
            true => None,
            false => self.which.find(&process.to_string()).ok(),
        };
        let before = before.filter(|entry| {
            let record = entry.record();
            record.is_ok_and(|record| matches!(record.life, Life::Frozen(_)))
        });
        let belongings = before.and_then(|entry| Belongings::decode(&entry.info.extra));
        let bindings = belongings.unwrap_or_default().bindings;
        let mut fixed = bindings.iter();
        if let Some(fixed) = fixed.find(|one| is_elsewhere && one.sort == BindingSort::Fixed) {
            bail!(
                "the directory {} is fixed to a machine: thaw it there, without --on; or start the process with \
                 `:shared`, for what every node exports",
                Plain(&fixed.guest_path)
            );
        }
        given::fixed(&bindings, self.given.bound()?, &frozen.local.name)
    }

    fn open(&mut self, key: &sterna_process::ImageKey) -> Result<Frozen> {
        let shown = self.file.display();
        let file = ImageFile::open(&self.file, &ReadLimits::default(), key)
            .with_context(|| format!("could not thaw {shown}"))?;
        let mut image = file.image().clone();
        let local =
            Local::take_from(&mut image).with_context(|| format!("could not thaw {shown}"))?;
        let local = local.unwrap_or_else(|| Local {
            name: image.header.process.short(),
            file: image.header.program.short(),
            directories: Vec::new(),
            limits: sterna_process::Limits::default(),
        });
        let own = file.provenance() == Provenance::Own;
        let mut of_cluster = false;
        if self.on.is_none() && !self.detach {
            of_cluster = sterna_runner::take_out(&mut image)?;
            self.new_id |= of_cluster;
        }
        Ok(Frozen {
            file,
            image,
            local,
            own,
            of_cluster,
        })
    }

    /// The directories given now, and those of before that were not given anew, opened where they were. All that
    /// is missing is named at once.
    fn directories(&self, frozen: &Frozen) -> Result<(Vec<Directory>, Vec<GivenDirectory>)> {
        let mut opened = self.given.directories()?;
        let mut missing = Vec::new();
        for before in &frozen.local.directories {
            if opened.iter().any(|(_, given)| given.guest == before.guest) {
                continue;
            }
            let guest = Plain(&before.guest).to_string();
            let host = before.host();
            match frozen.own.then(|| given::open(before)) {
                Some(Ok(directory)) => opened.push((directory, before.clone())),
                Some(Err(error)) => missing.push(format!(
                    "\n  --dir HOST::{guest}    (it was {}: {})",
                    Plain(&host.to_string_lossy()),
                    Plain(&error.root_cause().to_string())
                )),
                None => missing.push(format!(
                    "\n  --dir HOST::{guest}    (it was {} where the image was made)",
                    Plain(&host.to_string_lossy())
                )),
            }
        }
        ensure!(
            missing.is_empty(),
            "the process {} uses directories that have to be given:{}",
            Plain(&frozen.local.name),
            missing.concat()
        );
        Ok(opened.into_iter().unzip())
    }

    /// Enters the process into the run directory; under a new id if it is a clone.
    fn register(
        &self,
        directory: RunDirectory,
        image: &mut Image,
        ready: &Ready,
        local: &Local,
    ) -> Result<Entry> {
        let header = &mut image.header;
        header.epoch = header
            .epoch
            .next()
            .context("the image's epoch is not possible")?;
        if self.new_id {
            header.process = ProcessId::random();
        }
        let record = |id| {
            Record::new(
                id,
                &local.name,
                ready.kind.name(),
                ready.program.id(),
                &local.file,
            )
        };
        let other = match directory.register(record(header.process))? {
            Registered::Done(entry) => return Ok(entry),
            Registered::Taken(other) => other,
        };
        header.process = ProcessId::random();
        show::note(format_args!(
            "process {} runs already (pid {}): this one is a clone, {}",
            other.id.short(),
            other.pid,
            header.process.short()
        ));
        match RunDirectory::open()?.register(record(header.process))? {
            Registered::Done(entry) => Ok(entry),
            Registered::Taken(_) => bail!("a process of the same random name exists: try again"),
        }
    }

    /// Writes the report. The process runs already: that it cannot be written is only said.
    fn tell(&self, report: &ThawReport) {
        let Some(path) = &self.report else { return };
        let written = show::json_text(report).and_then(|text| Ok(fs::write(path, text)?));
        if let Err(error) = written {
            let path = path.display();
            show::note(format_args!("could not write the report {path}: {error:#}"));
        }
    }
}

/// What the steps took; the last one is over now.
fn report(
    file: &ImageFile,
    (process, name): (ProcessId, &str),
    (open, program, pages, restore): (Duration, Duration, Duration, Instant),
    begun: Instant,
) -> ThawReport {
    let us = |time: Duration| time.as_micros().try_into().unwrap_or(u64::MAX);
    let statistics = file.page_statistics();
    ThawReport {
        process,
        name: name.to_owned(),
        image_bytes: file.file_bytes(),
        pages: statistics.stored + statistics.zero,
        open_us: us(open),
        program_us: us(program),
        pages_us: us(pages),
        restore_us: us(restore.elapsed()),
        total_us: us(begun.elapsed()),
    }
}

/// Shows what someone else's image wants, and asks whether it may have it.
fn confirm(frozen: &Frozen) -> Result<()> {
    let key = match frozen.file.provenance() {
        Provenance::Foreign { key } => key.to_string(),
        Provenance::Own => String::new(),
    };
    let header = &frozen.image.header;
    let mut text = format!(
        "this image was made by someone else, or elsewhere (key {key}): anyone could have made it\n  \
         process {} ({}), program {}\n",
        header.process.short(),
        Plain(&frozen.local.name),
        header.program.short()
    );
    for binding in &frozen.image.description.bindings {
        text.push_str(&format!("  uses {binding}\n"));
    }
    show::note(&text);
    // Standard input is the program's.
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let Ok(mut terminal) = terminal else {
        return Err(anyhow!(
            "it is not thawed without a question, and there is no terminal to ask: pass --yes if you trust it"
        ));
    };
    write!(terminal, "Thaw it? [y/N] ").context("could not ask")?;
    let mut answer = String::new();
    BufReader::new(terminal)
        .read_line(&mut answer)
        .context("could not read the answer")?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("it was not thawed"),
    }
}
