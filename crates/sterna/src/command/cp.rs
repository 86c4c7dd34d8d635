//! `sterna cp`: files of the directories that a process on a node was given, from there and back.
//!
//! The process's runner reads and writes them, beneath these directories and nowhere else, piece by piece, some at once; so
//! a copy goes on while the process moves to another node with the same directory. Of a process that runs nowhere any more
//! its last node reads what was copied along with it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use sterna_node::message::{HostingReply, HostingRequest, ProcessEntry};
use sterna_process::{Plain, ProcessId};
use sterna_runner::message::{FileAnswer, FileDeed, FileFacts, FileSort};

use crate::node::{self, Which};
use crate::show::{self, Bar};

/// Written at once, in bytes: what a request to a node has room for.
const PIECE_BYTES: usize = 60 << 10;
/// Read from there by one thread at a time, in bytes: a few answers.
const STRIPE_BYTES: u64 = 1 << 20;
/// Questions to the node that are open at once.
const AT_ONCE: u64 = 6;
/// Directories within each other.
const DEPTH_MAX: usize = 100;

/// Copies files from the directories of a process on a node, and to them.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Cp {
    /// What to copy: a file here, or P:/PATH, as the process knows it.
    #[arg(value_name = "FROM")]
    from: String,
    /// Where to: P:/PATH, or a file or directory here.
    #[arg(value_name = "TO")]
    to: String,
    /// Directories with all that is in them.
    #[arg(short, long)]
    recursive: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna cp lua:/work/result.txt .
  sterna cp -r input lua:/work
  sterna cp -r lua:/work result            also when it has ended, what was copied along with it (`:copy`)
  sterna cp ./odd:name lua:/work/name      a file here whose name has a colon

Only what the process was given with --dir can be reached, with the rights of the node's user, and what was \
given with `:ro` is only read. Links are followed where they are named; in directories that are copied with \
-r they are left out. What is there already is written over.";

/// One end of a copy.
enum End {
    Here(PathBuf),
    There { process: String, path: String },
}

impl End {
    fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((process, path)) if !process.is_empty() && !process.contains('/') => Self::There {
                process: process.to_owned(),
                path: path.to_owned(),
            },
            _ => Self::Here(text.into()),
        }
    }
}

impl Cp {
    pub(crate) fn run(self) -> Result<u8> {
        let copied = match (End::parse(&self.from), End::parse(&self.to)) {
            (End::There { process, path }, End::Here(here)) => {
                let entry = self.which.find(&process)?;
                let remote = self.remote(entry, &path)?;
                remote.fetch(&path, &here, self.recursive)?;
                remote.copied
            }
            (End::Here(here), End::There { process, path }) => {
                let entry = self.which.find_living(&process)?;
                let remote = self.remote(entry, &path)?;
                remote.bring(&here, &path, self.recursive)?;
                remote.copied
            }
            (End::Here(_), End::Here(_)) => {
                bail!(
                    "name a process's file, for example lua:/work/file: others are copied with cp"
                )
            }
            (End::There { .. }, End::There { .. }) => {
                bail!("one of the two has to be a file of this machine: copy in two steps")
            }
        };
        if self.json {
            show::json(&copied)?;
        }
        Ok(0)
    }

    fn remote(&self, entry: ProcessEntry, path: &str) -> Result<Remote<'_>> {
        ensure!(
            path.starts_with('/'),
            "{}: write the path as the process knows it, from / on",
            Plain(path)
        );
        Ok(Remote {
            which: &self.which,
            process: entry.process,
            copied: Copied::default(),
        })
    }
}

/// The files of a process.
struct Remote<'a> {
    which: &'a Which,
    process: ProcessId,
    copied: Copied,
}

/// What has been copied.
#[derive(Debug, Default, Serialize)]
struct Copied {
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Copied {
    fn add(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Remote<'_> {
    fn ask(&self, deed: FileDeed) -> Result<FileAnswer> {
        let process = self.process;
        match self.which.hosting(HostingRequest::File { process, deed })? {
            Some(HostingReply::File(answer)) => Ok(answer),
            _ => Err(node::unexpected()),
        }
    }

    fn look(&self, path: &str) -> Result<FileFacts> {
        let path = path.to_owned();
        match self.ask(FileDeed::Look { path })? {
            FileAnswer::Facts(facts) => Ok(facts),
            _ => Err(node::unexpected()),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<(String, FileFacts)>> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let path = path.to_owned();
            let FileAnswer::Entries(entries) = self.ask(FileDeed::List { path, after })? else {
                return Err(node::unexpected());
            };
            if entries.is_empty() {
                return Ok(all);
            }
            for (name, facts) in entries {
                // It becomes a part of a path here.
                ensure!(
                    !name.contains('/') && !matches!(&*name, "" | "." | ".."),
                    "the node names a file {}, which no file is called",
                    Plain(&name)
                );
                all.push((name, facts));
            }
            after = all.last().map(|(name, _)| name.clone());
        }
    }

    /// From there to here.
    fn fetch(&self, path: &str, here: &Path, recursive: bool) -> Result<()> {
        let facts = self.look(path)?;
        let target = match here.is_dir() {
            true => here.join(last_name(path).context("name the file that it is to become")?),
            false => here.to_owned(),
        };
        match facts.sort {
            FileSort::Directory if !recursive => {
                bail!("{} is a directory: copy it with -r", Plain(path))
            }
            FileSort::Directory => self.fetch_directory(path, &target, 0),
            _ => self.fetch_file(path, &target, facts),
        }
    }

    fn fetch_directory(&self, path: &str, here: &Path, depth: usize) -> Result<()> {
        ensure!(
            depth < DEPTH_MAX,
            "{DEPTH_MAX} directories within each other are enough"
        );
        let shown = here.display();
        if !here.is_dir() {
            fs::create_dir(here).with_context(|| format!("could not make {shown}"))?;
        }
        for (name, facts) in self.list(path)? {
            let (from, to) = (below(path, &name), here.join(&name));
            match facts.sort {
                FileSort::File => self.fetch_file(&from, &to, facts)?,
                FileSort::Directory => self.fetch_directory(&from, &to, depth + 1)?,
                FileSort::Link | FileSort::Other => left_out(&from),
            }
        }
        Ok(())
    }

    fn fetch_file(&self, path: &str, here: &Path, facts: FileFacts) -> Result<()> {
        let failed = || format!("could not write {}", here.display());
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let file = options.mode(facts.mode & 0o777).open(here);
        let file = file.with_context(failed)?;
        let bar = Bar::new(&Plain(path).to_string());
        let (done, end) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        stripes(STRIPE_BYTES, facts.bytes, 0, |start| {
            let mut offset = start;
            while offset < start + STRIPE_BYTES {
                let path = path.to_owned();
                let FileAnswer::Piece(bytes) = self.ask(FileDeed::Read { path, offset })? else {
                    return Err(node::unexpected());
                };
                if bytes.is_empty() {
                    end.fetch_min(offset, Ordering::Relaxed);
                    return Ok(false);
                }
                file.write_all_at(&bytes, offset).with_context(failed)?;
                offset += bytes.len() as u64;
                let now = done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                bar.set(now, facts.bytes.max(now));
            }
            Ok(true)
        })?;
        // It may have become shorter meanwhile.
        file.set_len(end.into_inner()).with_context(failed)?;
        self.copied.add(done.into_inner());
        Ok(())
    }

    /// From here to there.
    fn bring(&self, here: &Path, path: &str, recursive: bool) -> Result<()> {
        let found = fs::metadata(here);
        let found = found.with_context(|| format!("could not find {}", here.display()))?;
        let is_directory = |facts: FileFacts| facts.sort == FileSort::Directory;
        let target = match self.look(path).map(is_directory) {
            Ok(true) => {
                let whole = fs::canonicalize(here)?;
                let name = whole.file_name().and_then(|name| name.to_str());
                below(path, name.context("name the file that it is to become")?)
            }
            // What is wrong with the path is told by who writes there.
            _ => path.to_owned(),
        };
        match found.is_dir() {
            true if !recursive => bail!("{} is a directory: copy it with -r", here.display()),
            true => self.bring_directory(here, &target, 0),
            false => self.bring_file(here, &target),
        }
    }

    fn bring_directory(&self, here: &Path, path: &str, depth: usize) -> Result<()> {
        ensure!(
            depth < DEPTH_MAX,
            "{DEPTH_MAX} directories within each other are enough"
        );
        let failed = || format!("could not read {}", here.display());
        let make = path.to_owned();
        self.ask(FileDeed::MakeDirectory { path: make })?;
        for entry in fs::read_dir(here).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let from = entry.path();
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                left_out(&from.to_string_lossy());
                continue;
            };
            let to = below(path, name);
            let sort = entry.file_type().with_context(failed)?;
            match (sort.is_dir(), sort.is_file()) {
                (true, _) => self.bring_directory(&from, &to, depth + 1)?,
                (_, true) => self.bring_file(&from, &to)?,
                _ => left_out(&from.to_string_lossy()),
            }
        }
        Ok(())
    }

    fn bring_file(&self, here: &Path, path: &str) -> Result<()> {
        let failed = || format!("could not read {}", here.display());
        let file = File::open(here).with_context(failed)?;
        let found = file.metadata().with_context(failed)?;
        let mode = found.permissions().mode() & 0o777;
        let bar = Bar::new(&Plain(path).to_string());
        let piece = |offset| -> Result<Vec<u8>> {
            let mut bytes = vec![0; PIECE_BYTES];
            let got = file.read_at(&mut bytes, offset).with_context(failed)?;
            bytes.truncate(got);
            Ok(bytes)
        };
        // Whatever was there is gone with the first.
        let bytes = piece(0)?;
        let done = AtomicU64::new(bytes.len() as u64);
        self.ask(FileDeed::Write {
            path: path.to_owned(),
            offset: 0,
            bytes,
            mode,
        })?;
        let begin = done.load(Ordering::Relaxed);
        stripes(PIECE_BYTES as u64, found.len(), begin, |start| {
            let mut offset = start;
            while offset < start + PIECE_BYTES as u64 {
                let mut bytes = piece(offset)?;
                bytes.truncate((start + PIECE_BYTES as u64 - offset) as usize);
                if bytes.is_empty() {
                    return Ok(false);
                }
                let got = bytes.len() as u64;
                let path = path.to_owned();
                self.ask(FileDeed::Put {
                    path,
                    offset,
                    bytes,
                })?;
                offset += got;
                let now = done.fetch_add(got, Ordering::Relaxed) + got;
                bar.set(now, found.len().max(now));
            }
            Ok(true)
        })?;
        self.copied.add(done.into_inner());
        Ok(())
    }
}

/// Does something for one stripe of a file after the other, some at once, until one of them says that the file ends in it.
/// As many threads as are of use for a file of so many bytes.
fn stripes(
    stripe_bytes: u64,
    file_bytes: u64,
    begin: u64,
    act: impl Fn(u64) -> Result<bool> + Sync,
) -> Result<()> {
    let (next, over) = (AtomicU64::new(begin), AtomicBool::new(false));
    let work = || -> Result<()> {
        while !over.load(Ordering::Relaxed) {
            // Whoever has taken a stripe sees to it, also if a later one was the last.
            let goes_on = act(next.fetch_add(stripe_bytes, Ordering::Relaxed));
            if !matches!(goes_on, Ok(true)) {
                over.store(true, Ordering::Relaxed);
            }
            goes_on?;
        }
        Ok(())
    };
    let threads = (file_bytes / stripe_bytes).clamp(1, AT_ONCE);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let done = work();
        let others = others.into_iter().map(|other| match other.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        others.fold(done, Result::and)
    })
}

fn left_out(path: &str) {
    show::note(format_args!(
        "{} is left out: it is no file and no directory",
        Plain(path)
    ));
}

fn below(path: &str, name: &str) -> String {
    format!("{}/{name}", path.trim_end_matches('/'))
}

fn last_name(path: &str) -> Option<&str> {
    let name = path.trim_end_matches('/').rsplit('/').next()?;
    (!matches!(name, "" | "." | "..")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let there = |text| match End::parse(text) {
            End::There { process, path } => Some((process, path)),
            End::Here(_) => None,
        };
        let whole = |process: &str, path: &str| Some((process.into(), path.into()));
        assert_eq!(there("lua:/work/a:b"), whole("lua", "/work/a:b"));
        assert_eq!(there("0f3k:/"), whole("0f3k", "/"));
        assert_eq!(there("./odd:name"), None);
        assert_eq!(there("/abs/odd:name"), None);
        assert_eq!(there("plain"), None);
        assert_eq!(there(":/x"), None);
    }

    #[test]
    fn names_are_the_last_of_their_paths() {
        assert_eq!(last_name("/work/file"), Some("file"));
        assert_eq!(last_name("/work/"), Some("work"));
        assert_eq!(last_name("/"), None);
        assert_eq!(last_name("/work/.."), None);
        assert_eq!(below("/work/", "file"), "/work/file");
    }
}
