//! `sterna programs`: the program cache.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use sterna_process::{Plain, ProgramId};
use sterna_wasm::Processor;
use sterna_wasm::cache::{Entry, ProgramCache, Prune};

use crate::kinds::{self, BuildOptions};
use crate::show::{self, Align, Paint, Table};

/// Lists, adds and removes programs in the cache.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Programs {
    #[command(subcommand)]
    action: Action,
}

const AFTER_HELP: &str = "\
Examples:
  sterna programs ls
  sterna programs add --moves python.wasm       compiled now, for moves too, not when it is first started
  sterna programs add --target aarch64 tool.wasm  compiled here, for Arm machines
  sterna programs rm b3:1f2e
  sterna programs prune --unused 30d --max-bytes 2G --dry-run

The cache is in $STERNA_CACHE_DIR, else $XDG_CACHE_HOME/sterna, else ~/.cache/sterna. Programs that are \
removed are compiled again when they are next started; processes that run are not disturbed.";

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists the programs in the cache, the last used first.
    #[command(visible_alias = "list")]
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Compiles programs and puts them into the cache.
    Add {
        /// Also compile what programs need to go on after a move, as far as that can be known before.
        #[arg(long)]
        moves: bool,
        /// Compile for other machines, all that have this processor. They find it in a copy of this cache.
        #[arg(long, value_name = "PROCESSOR", value_enum, conflicts_with = "moves")]
        target: Option<ProcessorName>,
        #[command(flatten)]
        build: BuildOptions,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// The programs: WebAssembly modules.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Removes programs from the cache.
    #[command(visible_alias = "remove")]
    Rm {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// The beginning of a program's id, or its name.
        #[arg(value_name = "ID", required = true)]
        programs: Vec<String>,
    },
    /// Removes what is no longer of use: remains of interrupted work, code of other versions of sterna, and what
    /// the options say.
    Prune {
        /// Programs that were not started for so long, e.g. 30d.
        #[arg(long, value_name = "TIME", value_parser = show::parse_duration)]
        unused: Option<Duration>,
        /// The longest unused programs, until the others take no more than this, e.g. 2G.
        #[arg(long, value_name = "SIZE", value_parser = show::parse_bytes)]
        max_bytes: Option<u64>,
        /// Only say which programs would be removed.
        #[arg(long)]
        dry_run: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Processors that programs can be compiled for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProcessorName {
    Aarch64,
    #[value(name = "x86_64")]
    X86_64,
}

impl From<ProcessorName> for Processor {
    fn from(name: ProcessorName) -> Self {
        match name {
            ProcessorName::Aarch64 => Self::Aarch64,
            ProcessorName::X86_64 => Self::X86_64,
        }
    }
}

#[derive(Serialize)]
struct Row {
    id: ProgramId,
    name: Option<String>,
    module_bytes: u64,
    native_bytes: u64,
    continuation_bytes: u64,
    last_used_ms: Option<u64>,
    made_by: Vec<String>,
    /// Whether this sterna can use what is there; else it is compiled again when it is next started.
    usable: bool,
}

#[derive(Serialize)]
struct Added {
    id: ProgramId,
    file: String,
}

#[derive(Serialize)]
struct Removed {
    programs: Vec<ProgramId>,
    bytes: u64,
    /// Programs that are being compiled and were therefore left alone.
    busy: usize,
    dry_run: bool,
}

impl Programs {
    pub(crate) fn run(self) -> Result<u8> {
        match self.action {
            Action::Ls { json } => list(json)?,
            Action::Add {
                moves,
                target,
                build,
                json,
                files,
            } => {
                let what = What {
                    moves,
                    target: target.map(Processor::from),
                };
                add(&files, &what, &build, json)?;
            }
            Action::Rm { json, programs } => remove(&programs, json)?,
            Action::Prune {
                unused,
                max_bytes,
                dry_run,
                json,
            } => {
                let what = Prune {
                    unused_for: unused,
                    total_bytes_max: max_bytes,
                    stale: true,
                };
                prune(&what, dry_run, json)?;
            }
        }
        Ok(0)
    }
}

fn cache() -> Result<ProgramCache> {
    kinds::cache(&BuildOptions::default()).map(|(_, cache)| cache)
}

/// All programs; one is usable if it is ready for processes of any kind.
fn entries() -> Result<Vec<Entry>> {
    let mut all: Vec<Entry> = Vec::new();
    for options in BuildOptions::of_kinds() {
        let (_, cache) = kinds::cache(&options)?;
        for entry in cache.list().context("could not list the program cache")? {
            match all.iter_mut().find(|known| known.id == entry.id) {
                Some(known) => known.usable |= entry.usable,
                None => all.push(entry),
            }
        }
    }
    Ok(all)
}

fn list(json: bool) -> Result<()> {
    let entries = entries()?;
    if json {
        return show::json(&entries.into_iter().map(row).collect::<Vec<_>>());
    }
    if entries.is_empty() {
        show::note(
            "no programs are in the cache; they come when they are first run, or by `sterna programs add`",
        );
        return Ok(());
    }
    let mut table = Table::new([
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("MODULE", Align::Right),
        ("NATIVE", Align::Right),
        ("FOR MOVES", Align::Right),
        ("USED", Align::Right),
        ("STATE", Align::Left),
    ]);
    for entry in entries {
        let used = entry
            .last_used
            .and_then(|used| SystemTime::now().duration_since(used).ok());
        table.row([
            entry.id.short(),
            Plain(entry.name.as_deref().unwrap_or("-")).to_string(),
            show::bytes(entry.module_bytes),
            show::bytes(entry.artifact_bytes),
            show::bytes(entry.continuation_bytes),
            used.map_or_else(|| "-".into(), |used| format!("{} ago", show::age(used))),
            if entry.usable {
                "ready"
            } else {
                "of another version"
            }
            .to_owned(),
        ]);
    }
    show::print(table.shown(Paint::stdout()));
    Ok(())
}

fn row(entry: Entry) -> Row {
    Row {
        id: entry.id,
        name: entry.name,
        module_bytes: entry.module_bytes,
        native_bytes: entry.artifact_bytes,
        continuation_bytes: entry.continuation_bytes,
        last_used_ms: entry.last_used.map(show::since_epoch_ms),
        made_by: entry.made_by,
        usable: entry.usable,
    }
}

/// What is compiled of a program.
struct What {
    moves: bool,
    target: Option<Processor>,
}

fn add(files: &[PathBuf], what: &What, build: &BuildOptions, json: bool) -> Result<()> {
    let (_, cache) = kinds::cache(build)?;
    let mut added = Vec::new();
    for file in files {
        let name = file.to_string_lossy().into_owned();
        let id = match what.target {
            Some(processor) => kinds::install_for(&cache, processor, file)?,
            None => add_here(&cache, file, &name, what.moves)?,
        };
        if !json {
            show::print(format_args!("{id}  {}\n", Plain(&name)));
        }
        added.push(Added { id, file: name });
    }
    match json {
        true => show::json(&added),
        false => Ok(()),
    }
}

fn add_here(cache: &ProgramCache, file: &Path, name: &str, moves: bool) -> Result<ProgramId> {
    let (id, installed) = kinds::install(cache, file)?;
    if moves {
        kinds::building(&format!("{name}, for moves"), |progress| {
            Ok(installed.compile_loop_headers(progress)?)
        })?;
    }
    Ok(id)
}

fn remove(names: &[String], json: bool) -> Result<()> {
    let cache = cache()?;
    // All are found before the first is removed.
    let ids = names
        .iter()
        .map(|name| cache.find(name))
        .collect::<Result<Vec<_>, _>>()?;
    let mut removed = Removed {
        programs: Vec::new(),
        bytes: 0,
        busy: 0,
        dry_run: false,
    };
    let entries = cache.list().context("could not list the program cache")?;
    for id in ids {
        if cache.remove(&id)? {
            let entry = entries.iter().find(|entry| entry.id == id);
            removed.bytes += entry.map_or(0, Entry::bytes);
            removed.programs.push(id);
        }
    }
    tell(&removed, json)
}

fn prune(what: &Prune, dry_run: bool, json: bool) -> Result<()> {
    let cache = cache()?;
    let removed = if dry_run {
        let entries = cache.list().context("could not list the program cache")?;
        let chosen = would_go(&entries, what);
        Removed {
            bytes: chosen.iter().map(|entry| entry.bytes()).sum(),
            programs: chosen.iter().map(|entry| entry.id).collect(),
            busy: 0,
            dry_run: true,
        }
    } else {
        let pruned = cache
            .prune(what)
            .context("could not prune the program cache")?;
        Removed {
            programs: pruned.programs,
            bytes: pruned.bytes,
            busy: pruned.busy,
            dry_run: false,
        }
    };
    tell(&removed, json)
}

/// The programs that [`ProgramCache::prune`] would remove, of entries of which the last used is the first.
fn would_go<'a>(entries: &'a [Entry], what: &Prune) -> Vec<&'a Entry> {
    let unused = |entry: &&Entry| {
        let used = entry
            .last_used
            .and_then(|used| SystemTime::now().duration_since(used).ok());
        what.unused_for
            .is_some_and(|limit| used.is_none_or(|used| used >= limit))
    };
    let (mut gone, mut kept): (Vec<_>, Vec<_>) = entries.iter().partition(unused);
    let mut total: u64 = kept.iter().map(|entry| entry.bytes()).sum();
    while what.total_bytes_max.is_some_and(|limit| total > limit)
        && let Some(entry) = kept.pop()
    {
        total -= entry.bytes();
        gone.push(entry);
    }
    gone
}

fn tell(removed: &Removed, json: bool) -> Result<()> {
    if json {
        return show::json(removed);
    }
    for program in &removed.programs {
        show::print(format_args!("{program}\n"));
    }
    let count = match removed.programs.len() {
        1 => "1 program".to_owned(),
        count => format!("{count} programs"),
    };
    let would = if removed.dry_run {
        "would be removed"
    } else {
        "removed"
    };
    let busy = match removed.busy {
        0 => String::new(),
        busy => format!("; {busy} being compiled were left alone"),
    };
    show::note(format_args!(
        "{count}, {} {would}{busy}",
        show::bytes(removed.bytes)
    ));
    Ok(())
}
