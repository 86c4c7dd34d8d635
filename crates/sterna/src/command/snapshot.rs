//! `sterna snapshot`, `sterna recover` and `sterna clone`: copies of processes that nodes keep, and what is made of them.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use sterna_node::identity;
use sterna_node::message::{
    Belongings, Cloned, HostingReply, HostingRequest, Keeper, Keeping, Nodes, SnapshotOrder,
};
use sterna_process::{Plain, ProcessId};

use super::given::{self, WantedDirectory};
use crate::complete;
use crate::host::Signals;
use crate::node::{self, Which};
use crate::show;

/// Keeps snapshots of a process on a node, to go on from when its own node dies.
#[derive(Debug, Args)]
#[command(after_help = SNAPSHOT_HELP)]
pub(crate) struct Snapshot {
    /// The process: its name, or the beginning of its id.
    #[arg(value_name = "P", add = complete::processes())]
    process: String,
    /// Make one now, and then this often, e.g. 30s.
    #[arg(long, value_name = "TIME", value_parser = show::parse_duration, conflicts_with_all = ["once", "stop"])]
    every: Option<Duration>,
    /// Make one now.
    #[arg(long, conflicts_with = "stop")]
    once: bool,
    /// Make no more. Those that there are stay for as long as the process is known.
    #[arg(long)]
    stop: bool,
    /// The node that keeps them, another one than the process is on, if they are to be of use when that dies; or
    /// store:NAME, what `node start --store` calls so. All that are made from then on are kept there.
    #[arg(long, value_name = "NODE", conflicts_with = "stop", add = complete::nodes())]
    to: Option<String>,
    /// How many are kept.
    #[arg(long, value_name = "N", default_value_t = 3, requires = "every")]
    keep: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const SNAPSHOT_HELP: &str = "\
Examples:
  sterna snapshot server --every 30s --to lab-2
  sterna snapshot server --every 30s --to store:backup
  sterna snapshot server --once
  sterna snapshot server --stop
  sterna recover server                  after its node has died

Only pages that have changed since the last snapshot are written. The process stands still only while they \
are copied. It goes on after moves and restarts of nodes. A snapshot that cannot be kept shows in `sterna \
ps` and `sterna events`.";

/// Before the name of a store. No node has a `:` in its name.
const STORE: &str = "store:";

#[derive(Serialize)]
struct Kept<'a> {
    id: ProcessId,
    to: String,
    /// If it is a node.
    to_id: Option<String>,
    every_ms: Option<u64>,
    keep: u32,
    number: Option<u64>,
    at_ms: Option<u64>,
    output_bytes: Option<u64>,
    pages: Option<u64>,
    pages_new: Option<u64>,
    bytes_new: Option<u64>,
    stood_us: Option<u64>,
    trouble: Option<&'a str>,
}

impl Snapshot {
    pub(crate) fn run(self) -> Result<u8> {
        ensure!(
            self.every.is_some() || self.once || self.stop,
            "say --every TIME, --once or --stop"
        );
        let entry = self.which.find_living(&self.process)?;
        let nodes = self.which.nodes()?;
        let to = self.to.as_deref();
        let to = to.map(|text| keeper(&nodes, text)).transpose()?;
        let order = match self.every {
            Some(every) => SnapshotOrder::Every {
                every_ms: every.as_millis().try_into()?,
                to,
                keep: self.keep,
            },
            None if self.once => SnapshotOrder::Once { to },
            None => SnapshotOrder::Stop,
        };
        let process = entry.process;
        let request = HostingRequest::Snapshot { process, order };
        let Some(HostingReply::Keeping(keeping)) = self.which.hosting(request)? else {
            return Err(node::unexpected());
        };
        let name = match &keeping.to {
            Keeper::Node(id) => node::name_of(&nodes, *id),
            Keeper::Store(store) => format!("{STORE}{}", Plain(store)),
        };
        let own = entry.record().map(|record| Keeper::Node(record.owner));
        if !self.stop && own.is_ok_and(|own| own == keeping.to) {
            show::note(format_args!(
                "the process runs on {name}, and its snapshots are lost with that node: name another one with --to"
            ));
        }
        match self.json {
            true => show::json(&kept(process, &keeping, name))?,
            false => show::print(told(process, &keeping, &name, &self)),
        }
        Ok(0)
    }
}

/// Where snapshots are to be kept.
fn keeper(nodes: &Nodes, text: &str) -> Result<Keeper> {
    match text.strip_prefix(STORE) {
        Some(store) => Ok(Keeper::Store(store.to_owned())),
        None => node::member(nodes, text).map(Keeper::Node),
    }
}

fn kept(id: ProcessId, keeping: &Keeping, to: String) -> Kept<'_> {
    let last = keeping.last.as_ref();
    Kept {
        id,
        to,
        to_id: match keeping.to {
            Keeper::Node(id) => Some(identity::text(id)),
            Keeper::Store(_) => None,
        },
        every_ms: keeping.every_ms,
        keep: keeping.keep,
        number: last.map(|last| last.number),
        at_ms: last.map(|last| last.at_ms),
        output_bytes: last.map(|last| last.output_bytes),
        pages: last.map(|last| last.pages),
        pages_new: last.map(|last| last.pages_new),
        bytes_new: last.map(|last| last.bytes_new),
        stood_us: last.map(|last| last.stood_us),
        trouble: keeping.trouble.as_deref(),
    }
}

fn told(process: ProcessId, keeping: &Keeping, to: &str, asked: &Snapshot) -> String {
    let short = process.short();
    if asked.stop {
        return format!("no more snapshots of {short}; the last ones stay on {to}\n");
    }
    let Some(last) = &keeping.last else {
        return format!("{short} has no snapshot\n");
    };
    let next = match keeping.every_ms.map(Duration::from_millis) {
        Some(every) if asked.once && asked.to.is_some() => {
            format!(", and so will be the next, every {}", show::time(every))
        }
        Some(every) => format!(", and again every {}", show::time(every)),
        None => String::new(),
    };
    format!(
        "snapshot {} of {short} is on {to}{next}\n  {} pages, {} of them new, {} written; it stood still for {}\n",
        last.number,
        last.pages,
        last.pages_new,
        show::bytes(last.bytes_new),
        show::time_us(last.stood_us)
    )
}

/// How old something is that was done at a time in milliseconds since 1970.
pub(crate) fn age_ms(at_ms: u64) -> u64 {
    show::since_epoch_ms(SystemTime::now()).saturating_sub(at_ms)
}

/// Goes on with a lost process from what is newest of it: a copy or a snapshot.
#[derive(Debug, Args)]
#[command(after_help = RECOVER_HELP)]
pub(crate) struct Recover {
    /// The process: its name, or the beginning of its id.
    #[arg(value_name = "P", add = complete::processes())]
    process: String,
    /// The node where it goes on [default: where a copy is, or the one that is asked].
    #[arg(long, value_name = "NODE", add = complete::nodes())]
    on: Option<String>,
    /// A directory that is fixed to its node, which is the one that is asked, as it was given to `sterna run`; may be given
    /// several times.
    #[arg(long = "dir", value_name = "HOST::GUEST[:ro]", value_parser = given::parse_directory)]
    directories: Vec<WantedDirectory>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const RECOVER_HELP: &str = "\
Examples:
  sterna recover server
  sterna recover server --on lab-2
  sterna recover job --dir ./data::/data     a directory of this machine, which the node opens for it again

What the process did after the snapshot is done again: what it has said to others, and written to shared \
directories, may be there twice. Its log is cut back to the snapshot. If it was lost just after it was \
moved, before the node that it came from heard that it runs there, that node still has a copy; the process \
goes on there with that, unless a snapshot is newer. A process whose node only does not answer is not lost \
but unknown, and is not recovered: two of it must never run.";

impl Recover {
    pub(crate) fn run(self) -> Result<u8> {
        let entry = self.which.find(&self.process)?;
        let nodes = self.which.nodes()?;
        let on = self.on.as_deref();
        let on = on.map(|name| node::member(&nodes, name)).transpose()?;
        let process = entry.process;
        let opened = match self.directories.is_empty() {
            true => Vec::new(),
            false => {
                let belongings = Belongings::decode(&entry.info.extra).unwrap_or_default();
                let given = given::bound(&self.directories)?;
                given::fixed(&belongings.bindings, given, &self.process)?
            }
        };
        let request = HostingRequest::Recover { process, on };
        let told = match self.which.hosting_with(request, opened)? {
            Some(HostingReply::Recovered(found)) => Told {
                id: process,
                node: node::name_of(&nodes, found.node),
                snapshot: Some(found.snapshot),
                at_ms: Some(found.at_ms),
                age_ms: Some(age_ms(found.at_ms)),
                output_bytes: found.output_bytes,
                passed_over: found.passed_over,
            },
            Some(HostingReply::RecoveredCopy(found)) => Told {
                id: process,
                node: node::name_of(&nodes, found.node),
                snapshot: None,
                at_ms: None,
                age_ms: None,
                output_bytes: found.output_bytes,
                passed_over: found.passed_over,
            },
            _ => return Err(node::unexpected()),
        };
        match self.json {
            true => show::json(&told)?,
            false => told.print(),
        }
        Ok(0)
    }
}

/// What was gone on with. Of a copy that a node had kept since a move there is no number and no time.
#[derive(Serialize)]
struct Told {
    id: ProcessId,
    node: String,
    snapshot: Option<u64>,
    at_ms: Option<u64>,
    age_ms: Option<u64>,
    output_bytes: u64,
    passed_over: Vec<String>,
}

impl Told {
    fn print(&self) {
        for problem in &self.passed_over {
            show::note(format_args!("passed over: {}", Plain(problem)));
        }
        let from = match (self.snapshot, self.age_ms) {
            (Some(number), Some(age_ms)) => {
                let age = show::age(Duration::from_millis(age_ms));
                format!("from snapshot {number}, taken {age} ago")
            }
            _ => "with the copy that stood still there since its move".to_owned(),
        };
        show::print(format_args!(
            "{} goes on on {} {from}\n  its output after byte {} was cut off, and comes again; so does what else it did since\n",
            self.id.short(),
            Plain(&self.node),
            self.output_bytes
        ));
    }
}

/// Makes another process that is where this one is now. The original runs on.
#[derive(Debug, Args)]
#[command(after_help = CLONE_HELP)]
pub(crate) struct CloneCommand {
    /// The process: its name, or the beginning of its id.
    #[arg(value_name = "P", add = complete::processes())]
    process: String,
    /// The node where the clone is to run.
    #[arg(value_name = "NODE", add = complete::nodes())]
    target: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const CLONE_HELP: &str = "\
Examples:
  sterna clone server lab-2        prints the clone's id

The clone has a new id, no name, and an empty standard input. Its log begins where it does; what was written \
before is its parent's. The original stands still only while it is copied. Ctrl-C ends the waiting only: the \
nodes go on with it.";

impl CloneCommand {
    pub(crate) fn run(self) -> Result<u8> {
        let entry = self.which.find_living(&self.process)?;
        let nodes = self.which.nodes()?;
        let target = node::member(&nodes, &self.target)?;
        let request = HostingRequest::Clone {
            process: entry.process,
            target,
        };
        let name = node::name_of(&nodes, target);
        Signals::catch()?.each(move |signal| {
            show::note(format_args!(
                "the nodes go on with this: the clone may come to be on {name}, see `sterna ps`"
            ));
            std::process::exit(128 + signal);
        })?;
        let Some(HostingReply::Cloned(cloned)) = self.which.hosting(request)? else {
            return Err(node::unexpected());
        };
        let Cloned {
            process,
            log_offset,
            stood_us,
            ..
        } = cloned;
        #[derive(Serialize)]
        struct Told {
            id: ProcessId,
            node: String,
            parent: ProcessId,
            log_offset: u64,
            stood_us: u64,
        }
        let node = node::name_of(&nodes, cloned.node);
        match self.json {
            true => show::json(&Told {
                id: process,
                node,
                parent: entry.process,
                log_offset,
                stood_us,
            })?,
            false => show::print(format_args!("{}\n", process.short())),
        }
        Ok(0)
    }
}
