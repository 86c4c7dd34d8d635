//! The node that a command talks to: [`Which`]. What it says of processes, and which process or node is meant.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use sterna_migration::{Life, NodeId};
use sterna_node::identity;
use sterna_node::message::{
    Found, HostingReply, HostingRequest, Listed, Nodes, ProcessEntry, Remains, Reply, Request,
};
use sterna_process::Plain;

use crate::{private, rundir};

/// How alike a name must be to be suggested, of 1.
const ALIKE_MIN: f64 = 0.6;
const SUGGESTIONS_MAX: usize = 3;

/// Which node of this machine is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// The node to talk to, by its data directory. Without this option it is the one in the variable STERNA_NODE, and
    /// without that the one of this user, in $STERNA_DATA_DIR/node.
    #[arg(long, value_name = "DIR", env = "STERNA_NODE", hide_env = true)]
    node: Option<PathBuf>,
}

impl Which {
    /// Asks it.
    pub(crate) fn ask(&self, request: &Request) -> Result<Reply> {
        Ok(sterna_node::ask(&self.data()?, request)?)
    }

    /// The same, with descriptors. Those that are owned are closed here as soon as it is sent.
    pub(crate) fn ask_with(&self, request: &Request, descriptors: Vec<impl AsFd>) -> Result<Reply> {
        let data = self.data()?;
        Ok(sterna_node::ask_with(&data, request, descriptors)?)
    }

    /// Stops it, and waits for its end.
    pub(crate) fn stop(&self, remains: Remains) -> Result<()> {
        Ok(sterna_node::stop(&self.data()?, remains)?)
    }

    pub(crate) fn data(&self) -> Result<PathBuf> {
        self.node.clone().map_or_else(default, Ok)
    }

    /// All nodes, as it sees them.
    pub(crate) fn nodes(&self) -> Result<Nodes> {
        match self.ask(&Request::Nodes)? {
            Reply::Nodes(nodes) => Ok(nodes),
            _ => Err(unexpected()),
        }
    }

    /// Whether one was named, or one runs where this user's is.
    pub(crate) fn is_there(&self) -> bool {
        self.node.is_some() || matches!(self.ask(&Request::Status), Ok(Reply::Status(_)))
    }

    /// Asks it about processes; `None` if it was something to be done, and is.
    pub(crate) fn hosting(&self, request: HostingRequest) -> Result<Option<HostingReply>> {
        self.hosting_with(request, Vec::<OwnedFd>::new())
    }

    /// The same, with descriptors. Those that are owned are closed here as soon as it is sent.
    pub(crate) fn hosting_with(
        &self,
        request: HostingRequest,
        descriptors: Vec<impl AsFd>,
    ) -> Result<Option<HostingReply>> {
        let request = Request::Hosting(request);
        match sterna_node::ask_with(&self.data()?, &request, descriptors)? {
            Reply::Hosting(reply) => Ok(Some(reply)),
            Reply::Done => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// All processes of its cluster; `ended`: those that run nowhere, too.
    pub(crate) fn listed(&self, ended: bool) -> Result<Vec<Listed>> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let request = HostingRequest::ListPage { ended, after };
            let Some(HostingReply::ListedPage { listed, next }) = self.hosting(request)? else {
                return Err(unexpected());
            };
            all.extend(listed);
            after = next;
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    /// The process that a user means: by its name, or the beginning of its id.
    pub(crate) fn find(&self, wanted: &str) -> Result<ProcessEntry> {
        let text = wanted.to_owned();
        let Some(HostingReply::Found(Found { mut entries, names })) =
            self.hosting(HostingRequest::Find { text })?
        else {
            return Err(unexpected());
        };
        let shown = Plain(wanted);
        match entries.len() {
            1 => Ok(entries.remove(0)),
            0 if rundir::find(wanted).is_ok() => Err(anyhow!(
                "process {shown} runs in the foreground, on no node: freeze it (`sterna freeze`), and go on with it on one \
                 (`sterna thaw --detach --on NODE`)"
            )),
            0 => match nearest(wanted, names.iter().map(|name| (&**name, None))) {
                near if near.is_empty() => Err(anyhow!("no process {shown}: see `sterna ps -a`")),
                near => Err(anyhow!(
                    "no process {shown}: did you mean {}?",
                    near.join(" or ")
                )),
            },
            _ => {
                let ids = entries.iter().map(|entry| entry.process.short());
                let ids: Vec<String> = ids.collect();
                Err(anyhow!(
                    "{shown} can mean several processes; name one by its id: {}",
                    ids.join(", ")
                ))
            }
        }
    }

    /// The same, if it lives.
    pub(crate) fn find_living(&self, wanted: &str) -> Result<ProcessEntry> {
        let entry = self.find(wanted)?;
        let record = entry.record().context("its record cannot be read")?;
        if record.life != Life::Alive {
            bail!(
                "process {} {}: see `sterna ps -a`",
                entry.process.short(),
                crate::show::ending(entry.ending.as_ref())
            );
        }
        Ok(entry)
    }
}

/// The node that a user means: by its whole name, or by the beginning of its id.
pub(crate) fn member(nodes: &Nodes, wanted: &str) -> Result<NodeId> {
    let members = || nodes.nodes.iter().map(|seen| &seen.member);
    let named = members().find(|member| member.about.name == wanted);
    if let Some(member) = named {
        return Ok(member.id);
    }
    let lower = wanted.to_ascii_lowercase();
    let begin = |id| !lower.is_empty() && identity::text(id).starts_with(&lower);
    let found: Vec<_> = members().filter(|member| begin(member.id)).collect();
    let shown = Plain(wanted);
    match found[..] {
        [one] => Ok(one.id),
        [] => {
            let known: Vec<(String, String)> = members()
                .map(|member| (member.about.name.clone(), member.id.to_string()))
                .collect();
            let known = known.iter().map(|(name, id)| (&**name, Some(&**id)));
            Err(match nearest(wanted, known) {
                near if near.is_empty() => anyhow!("no node {shown}: see `sterna nodes`"),
                near => anyhow!("no node {shown}: did you mean {}?", near.join(" or ")),
            })
        }
        _ => {
            let ids: Vec<String> = found
                .iter()
                .map(|member| identity::text(member.id))
                .collect();
            Err(anyhow!(
                "{shown} can mean several nodes: {}",
                ids.join(", ")
            ))
        }
    }
}

/// What a node is called; its id if it is not known.
pub(crate) fn name_of(nodes: &Nodes, id: NodeId) -> String {
    let found = nodes.nodes.iter().find(|seen| seen.member.id == id);
    found.map_or_else(
        || id.to_string(),
        |seen| Plain(&seen.member.about.name).to_string(),
    )
}

/// Those of names, with or without ids, that look like what was asked for.
fn nearest<'a>(
    wanted: &str,
    known: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let mut alike: Vec<(f64, String)> = Vec::new();
    for (name, id) in known {
        let by_name = strsim::jaro_winkler(&wanted, &name.to_lowercase());
        let by_id = id.map_or(0.0, |id| {
            strsim::normalized_damerau_levenshtein(&wanted, id)
        });
        let likeness = by_name.max(by_id);
        if likeness >= ALIKE_MIN {
            let id = id.map_or_else(String::new, |id| format!(" ({id})"));
            alike.push((likeness, format!("{}{id}", Plain(name))));
        }
    }
    alike.sort_by(|one, other| other.0.total_cmp(&one.0));
    alike.truncate(SUGGESTIONS_MAX);
    alike.into_iter().map(|(_, name)| name).collect()
}

/// Where this user's node keeps what it has.
pub(crate) fn default() -> Result<PathBuf> {
    Ok(private::data_directory()?.join("node"))
}

/// The answer that was not expected; a fault of the program.
pub(crate) fn unexpected() -> anyhow::Error {
    anyhow!("the node gave an answer to another question")
}
