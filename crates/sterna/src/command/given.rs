//! What a process is given on the command line, at its start and when it is thawed: [`Given`].

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sterna_node::message::{Binding, BindingSort};
use sterna_process::{Directory, Limits, Plain, ProcessId};

use crate::host::Snapshots;
use crate::kinds::BuildOptions;
use crate::local::GivenDirectory;
use crate::show;

/// Options that `run` and `thaw` have in common.
#[derive(Debug, Args)]
pub(crate) struct Given {
    /// Directory the program may use, and all below it. GUEST is the path by which the program knows it
    /// (by default the same), `:ro` forbids writing. On a node also `:copy`, a copy that goes along on moves and whose
    /// changes go back in the end, and NAME::GUEST:shared, what each node exports under that name; others are fixed to
    /// their node. May be given several times.
    #[arg(long = "dir", value_name = "HOST[::GUEST][:ro][:copy]", value_parser = parse_directory)]
    directories: Vec<WantedDirectory>,
    /// Most memory the program may have, e.g. 256M [default: 4G, or what it had when it was frozen].
    #[arg(long, value_name = "SIZE", value_parser = show::parse_bytes)]
    memory: Option<u64>,
    /// Name under which `sterna ps` shows it [default: its file's name, or what it had when it was frozen].
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Write a snapshot this often, e.g. 30s; needs --to.
    #[arg(long, value_name = "TIME", value_parser = show::parse_duration, requires = "to")]
    snapshot_every: Option<Duration>,
    /// Directory for snapshots: one file for the process, replaced each time.
    #[arg(long, value_name = "DIR", requires = "snapshot_every")]
    to: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) build: BuildOptions,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedDirectory {
    host: PathBuf,
    guest: String,
    read_only: bool,
    sort: WantedSort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WantedSort {
    /// The directory itself.
    Fixed,
    /// Not a directory of this machine, but what each node exports under the name in `host`.
    Shared,
    /// A copy of it.
    Copy,
}

impl WantedSort {
    const fn word(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Shared => "shared",
            Self::Copy => "copy",
        }
    }
}

/// A directory for a process on a node.
#[derive(Debug)]
pub(crate) struct BoundDirectory {
    pub(crate) binding: Binding,
    /// Opened here, unless every node has its own.
    pub(crate) handle: Option<OwnedFd>,
}

impl Given {
    /// The directories, opened, and how to open them again.
    pub(crate) fn directories(&self) -> Result<Vec<(Directory, GivenDirectory)>> {
        let opened = |wanted: &WantedDirectory| {
            ensure!(
                wanted.sort == WantedSort::Fixed,
                "{}:{} is for processes on nodes: run it with --on or --detach",
                wanted.host.display(),
                wanted.sort.word()
            );
            let host = fs::canonicalize(&wanted.host).with_context(|| {
                let shown = wanted.host.display();
                format!("could not find the directory {shown} (--dir)")
            })?;
            let given = GivenDirectory::new(&wanted.guest, &host, wanted.read_only);
            Ok((open(&given)?, given))
        };
        self.directories.iter().map(opened).collect()
    }

    /// The directories for a process on a node: those of this machine are opened.
    pub(crate) fn bound(&self) -> Result<Vec<BoundDirectory>> {
        bound(&self.directories)
    }

    /// The limits: given here, or else `before`.
    pub(crate) fn limits(&self, before: Option<Limits>) -> Limits {
        let mut limits = before.unwrap_or_default();
        if let Some(memory) = self.memory {
            limits.memory_bytes_max = memory;
        }
        limits
    }

    pub(crate) fn snapshots(&self, name: &str, id: ProcessId) -> Result<Option<Snapshots>> {
        match (self.snapshot_every, &self.to) {
            (Some(every), Some(to)) => Ok(Some(Snapshots::new(every, to, name, id)?)),
            _ => Ok(None),
        }
    }
}

/// Opens a directory that was given.
pub(crate) fn open(given: &GivenDirectory) -> Result<Directory> {
    let host = given.host();
    let mut directory = Directory::open(&host, given.guest.clone())
        .with_context(|| format!("could not open the directory {}", host.display()))?;
    directory.read_only = given.read_only;
    Ok(directory)
}

/// The name and the file of a program, as records have them.
pub(crate) fn file_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Fails on names that would be mistaken for something else.
pub(crate) fn check_name(name: &str) -> Result<()> {
    ensure!(
        !name.trim().is_empty(),
        "a process's name cannot be empty (--name)"
    );
    ensure!(
        name.len() <= 200,
        "a process's name has 200 bytes at most (--name)"
    );
    Ok(())
}

/// Opens directories that are bound on a node.
pub(crate) fn bound(wanted: &[WantedDirectory]) -> Result<Vec<BoundDirectory>> {
    let bound = |wanted: &WantedDirectory| {
        let export = wanted.host.to_string_lossy().into_owned();
        let handle = match wanted.sort {
            WantedSort::Shared => None,
            WantedSort::Fixed | WantedSort::Copy => Some(
                Directory::open(&wanted.host, "")
                    .with_context(|| format!("could not open the directory {export} (--dir)"))?,
            ),
        };
        Ok(BoundDirectory {
            binding: Binding {
                guest_path: wanted.guest.clone(),
                read_only: wanted.read_only,
                sort: match wanted.sort {
                    WantedSort::Shared => BindingSort::Shared { export },
                    WantedSort::Fixed => BindingSort::Fixed,
                    WantedSort::Copy => BindingSort::Copy,
                },
            },
            handle: handle.map(|directory| directory.handle),
        })
    };
    wanted.iter().map(bound).collect()
}

/// Those that are fixed to their node, in the order of a process's record, which has the others anyway.
pub(crate) fn fixed(
    bindings: &[Binding],
    mut given: Vec<BoundDirectory>,
    name: &str,
) -> Result<Vec<OwnedFd>> {
    let (mut opened, mut missing) = (Vec::new(), Vec::new());
    let is_fixed = |binding: &&Binding| binding.sort == BindingSort::Fixed;
    for wanted in bindings.iter().filter(is_fixed) {
        let found = given.iter().position(|one| one.binding == *wanted);
        match found.and_then(|at| given.swap_remove(at).handle) {
            Some(handle) => opened.push(handle),
            None => {
                let ro = if wanted.read_only { ":ro" } else { "" };
                missing.push(format!("\n  --dir HOST::{}{ro}", Plain(&wanted.guest_path)));
            }
        }
    }
    ensure!(
        missing.is_empty(),
        "the process {} uses directories that are fixed to their node and have to be given:{}",
        Plain(name),
        missing.concat()
    );
    if let Some(other) = given.first() {
        bail!(
            "{} is no directory of the process that is fixed to its node, and the others it has on any node as it was \
             started: leave that --dir out",
            other.binding.guest_path
        );
    }
    Ok(opened)
}

pub(crate) fn parse_directory(text: &str) -> Result<WantedDirectory, String> {
    let (mut rest, mut read_only, mut sort) = (text, false, WantedSort::Fixed);
    loop {
        rest = match rest.rsplit_once(':') {
            Some((before, "ro")) => {
                read_only = true;
                before
            }
            Some((before, "rw" | "fixed")) => before,
            Some((before, "shared")) => {
                sort = WantedSort::Shared;
                before
            }
            Some((before, "copy")) => {
                sort = WantedSort::Copy;
                before
            }
            _ => break,
        };
    }
    let (host, guest) = rest.rsplit_once("::").unwrap_or((rest, rest));
    if host.is_empty() || guest.is_empty() {
        return Err("write HOST::GUEST, for example .::/work or ./data::/data:ro".into());
    }
    if rest != guest
        && let Some((_, word)) = guest.rsplit_once(':')
        && !word.contains('/')
    {
        let words = "ro, copy, shared or fixed";
        return Err(format!(
            "{word:?} says nothing of a directory: write {words}"
        ));
    }
    Ok(WantedDirectory {
        host: host.into(),
        guest: guest.into(),
        read_only,
        sort,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_read() {
        let parsed = |text| {
            let WantedDirectory {
                host,
                guest,
                read_only,
                ..
            } = parse_directory(text).unwrap();
            (host.to_str().unwrap().to_owned(), guest, read_only)
        };
        let whole = |host: &str, guest: &str, ro| (host.to_owned(), guest.to_owned(), ro);
        assert_eq!(parsed("a::/b"), whole("a", "/b", false));
        assert_eq!(parsed("a::/b:ro"), whole("a", "/b", true));
        assert_eq!(parsed("/x:ro"), whole("/x", "/x", true));
        assert_eq!(parsed("a::b::/c:rw"), whole("a::b", "/c", false));
        let shared = parse_directory("data::/d:shared:ro").unwrap();
        assert!(shared.sort == WantedSort::Shared && shared.read_only && shared.guest == "/d");
        let sort = |text| parse_directory(text).unwrap().sort;
        assert_eq!(sort("data::/d:fixed"), WantedSort::Fixed);
        assert_eq!(sort("data::/d:copy:ro"), WantedSort::Copy);
        assert_eq!(parsed("/a:b"), whole("/a:b", "/a:b", false));
        for text in ["", "::", "::/a", "a::", ":ro", "a::/b:copied", "a::/b:x:ro"] {
            assert!(parse_directory(text).is_err(), "{text}");
        }
    }
}
