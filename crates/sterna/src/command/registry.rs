//! `sterna registry`: where the registry of a cluster is, its copies, and moving it.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use serde::Serialize;
use sterna_node::message::{RegistryStatus, Reply, Request, StoreStatus};
use sterna_node::registry::BackupError;
use sterna_node::{identity, registry};
use sterna_process::Plain;

use crate::complete;
use crate::host::{First, Signals};
use crate::node::{self, Which};
use crate::show;

/// Shows the registry of the cluster, copies it, and moves it to another node.
#[derive(Debug, Args)]
pub(crate) struct RegistryCommand {
    #[command(subcommand)]
    command: Deed,
}

#[derive(Debug, Subcommand)]
enum Deed {
    Status(Status),
    Move(Move),
    Backup(Backup),
    Restore(Restore),
}

/// Shows where the registry is, what is in it, and how long it takes to write.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sterna registry status\n  sterna registry status --json | jq .alive"
)]
struct Status {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

/// Gives the registry to another node, which serves it from then on, e.g. before this machine goes. To be said at the
/// node that serves it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sterna registry move lab-3

All nodes follow by themselves. Nothing is lost if either node is killed meanwhile: the registry is then at the old or at
the new one.")]
struct Move {
    /// The node: its name, or the beginning of its id.
    #[arg(value_name = "NODE", add = complete::nodes())]
    wanted: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

/// Writes a copy of the registry into a file that only its owner can read, and replaces one that is there, at once and
/// whole. To be said at the node that serves it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sterna registry backup /backups/registry-$(date +%F)")]
struct Backup {
    /// The file.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

/// Puts a copy back in the place of what the registry has. To be said at the node that serves it, whether it runs or not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sterna registry restore /backups/registry-2026-11-29

After that every node says what it runs, and no process changes its place or ends in the registry before all have. Remove
nodes that never come back with `sterna nodes rm`; `sterna registry status` shows who is awaited. Tickets are not put
back, and who was removed from the cluster stays so.")]
struct Restore {
    /// The file.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

impl RegistryCommand {
    pub(crate) fn run(self) -> Result<u8> {
        match self.command {
            Deed::Status(status) => status.run(),
            Deed::Move(order) => order.run(),
            Deed::Backup(backup) => backup.run(),
            Deed::Restore(restore) => restore.run(),
        }
    }
}

#[derive(Serialize)]
struct Shown {
    home: String,
    /// `embedded` or `etcd`.
    store: &'static str,
    /// A path on the home, or an address.
    place: String,
    bytes: Option<u64>,
    requests: Option<u64>,
    commits: Option<u64>,
    commit_last_us: Option<u64>,
    commit_max_us: Option<u64>,
    revision: u64,
    members: u64,
    removed: u64,
    tickets: u64,
    alive: u64,
    ended: u64,
    lost: u64,
    frozen: u64,
    names: u64,
    followers: Vec<String>,
    awaited: Vec<String>,
}

fn shown(status: &RegistryStatus) -> Shown {
    let ids = |nodes: &[sterna_node::NodeId]| nodes.iter().map(|id| identity::text(*id)).collect();
    let mut shown = Shown {
        home: identity::text(status.home),
        store: "etcd",
        place: String::new(),
        bytes: None,
        requests: None,
        commits: None,
        commit_last_us: None,
        commit_max_us: None,
        revision: status.revision,
        members: status.members,
        removed: status.removed,
        tickets: status.tickets,
        alive: status.alive,
        ended: status.ended,
        lost: status.lost,
        frozen: status.frozen,
        names: status.names,
        followers: ids(&status.followers),
        awaited: ids(&status.awaited),
    };
    match &status.store {
        StoreStatus::Etcd { address } => shown.place.clone_from(address),
        StoreStatus::Embedded {
            path,
            bytes,
            requests,
            commits,
            commit_last_us,
            commit_max_us,
        } => {
            shown.store = "embedded";
            shown.place.clone_from(path);
            shown.bytes = Some(*bytes);
            shown.requests = Some(*requests);
            shown.commits = Some(*commits);
            shown.commit_last_us = Some(*commit_last_us);
            shown.commit_max_us = Some(*commit_max_us);
        }
    }
    shown
}

impl Status {
    fn run(self) -> Result<u8> {
        let Reply::RegistryStatus(status) = self.which.ask(&Request::RegistryStatus)? else {
            return Err(node::unexpected());
        };
        let shown = shown(&status);
        if self.json {
            show::json(&shown)?;
            return Ok(0);
        }
        let nodes = self.which.nodes()?;
        let name = |id: &String| {
            let mut all = nodes.nodes.iter().map(|seen| &seen.member);
            let member = all.find(|member| identity::text(member.id) == *id);
            member.map_or_else(
                || id[..8].to_owned(),
                |member| Plain(&member.about.name).to_string(),
            )
        };
        let names = |ids: &[String]| match ids {
            [] => "none".to_owned(),
            ids => ids.iter().map(name).collect::<Vec<_>>().join(", "),
        };
        let time = |us: Option<u64>| us.map(|us| show::time(Duration::from_micros(us)));
        let mut lines = Vec::new();
        let mut row = |what: &str, value: String| lines.push(format!("{what:<11}{value}\n"));
        row("home", name(&shown.home));
        row("store", format!("{}, {}", shown.store, Plain(&shown.place)));
        row("revision", shown.revision.to_string());
        row(
            "nodes",
            format!("{} and {} removed", shown.members, shown.removed),
        );
        row(
            "processes",
            format!(
                "{} alive, {} frozen, {} lost, {} ended; {} names",
                shown.alive, shown.frozen, shown.lost, shown.ended, shown.names
            ),
        );
        row("tickets", shown.tickets.to_string());
        if let (Some(bytes), Some(last), Some(max)) = (
            shown.bytes,
            time(shown.commit_last_us),
            time(shown.commit_max_us),
        ) {
            row("size", show::bytes(bytes));
            row("writes", format!("the last took {last}, the slowest {max}"));
        }
        row("followers", names(&shown.followers));
        if !shown.awaited.is_empty() {
            row("awaited", names(&shown.awaited));
        }
        show::print(lines.concat());
        Ok(0)
    }
}

impl Move {
    fn run(self) -> Result<u8> {
        let to = node::member(&self.which.nodes()?, &self.wanted)?;
        done(self.which.ask(&Request::RegistryMove { to })?)?;
        if self.json {
            show::json(&serde_json::json!({ "home": identity::text(to) }))?;
        } else {
            show::note(format_args!(
                "the registry is at {} now",
                Plain(&self.wanted)
            ));
        }
        Ok(0)
    }
}

/// The signal that came before a copy was whole.
#[derive(Debug)]
struct Interrupted(i32);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

impl Backup {
    fn run(self) -> Result<u8> {
        let file = absolute(&self.file)?;
        let request = Request::RegistryBackup { file: file.clone() };
        let signals = Signals::catch()?;
        let which = self.which.clone();
        // Opened by the user, and written by the node, which reaches nothing of the user's.
        let made = registry::new_file(&file, |to| {
            let to = to.try_clone().context("could not hand the file on")?;
            match signals.or_done(move || which.ask_with(&request, vec![to.as_fd()]))? {
                First::Done(reply) => done(reply?),
                First::Signal(signal) => Err(Interrupted(signal).into()),
            }
        });
        match made {
            Ok(()) => report(&file, self.json, "the registry is in"),
            Err(error) => match error.downcast::<Interrupted>() {
                Ok(Interrupted(signal)) => {
                    let shown = show::path(&file);
                    show::note(format_args!("interrupted: {shown} was not written"));
                    Ok((128 + signal).try_into()?)
                }
                Err(error) => Err(said_once(error)),
            },
        }
    }
}

impl Restore {
    fn run(self) -> Result<u8> {
        let file = absolute(&self.file)?;
        let request = Request::RegistryRestore { file: file.clone() };
        let from =
            File::open(&file).with_context(|| format!("could not read {}", file.display()))?;
        match self.which.ask_with(&request, vec![from.as_fd()]) {
            Ok(reply) => done(reply)?,
            Err(error) => match error.downcast_ref() {
                // It does not run: then its files are ours to change.
                Some(sterna_node::AskError::NotRunning { .. }) => {
                    registry::restore(&self.which.data()?, &file)
                        .map_err(|error| said_once(error.into()))?;
                }
                _ => return Err(error),
            },
        }
        report(&file, self.json, "the registry was put back from")
    }
}

/// Texts about backups end with what the system said, and need not say it again.
fn said_once(error: anyhow::Error) -> anyhow::Error {
    let is_whole = error.is::<BackupError>()
        || matches!(
            error.downcast_ref(),
            Some(registry::RestoreError::Backup(_))
        );
    match is_whole {
        true => anyhow!("{error}"),
        false => error,
    }
}

fn report(file: &Path, json: bool, what: &str) -> Result<u8> {
    let shown = file.display().to_string();
    if json {
        show::json(&serde_json::json!({ "file": shown }))?;
    } else {
        show::note(format_args!("{what} {}", Plain(&shown)));
    }
    Ok(0)
}

fn absolute(file: &Path) -> Result<PathBuf> {
    std::path::absolute(file).with_context(|| format!("could not find {}", file.display()))
}

fn done(reply: Reply) -> Result<()> {
    match reply {
        Reply::Done => Ok(()),
        _ => Err(node::unexpected()),
    }
}
