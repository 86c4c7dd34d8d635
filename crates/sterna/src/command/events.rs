//! `sterna events`: what has happened to processes and nodes of the cluster.
//!
//! Each node keeps what happened there. Each is asked, through the node that the command talks to, and what they
//! say is put in the order of its time.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use sterna_node::NodeId;
use sterna_node::message::{EventRecord, EventSort, HostingReply, HostingRequest, Nodes};
use sterna_process::{Plain, ProcessId};

use crate::node::{self, Which};
use crate::show;

/// For how long a node is asked to wait for more.
const WAIT: Duration = Duration::from_secs(5);
/// Between two tries to ask a node that does not answer.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// Answers that wait to be shown.
const WAITING_MAX: usize = 64;

/// Shows what has happened in the cluster: processes started, moved, ended, lost; nodes joined and removed.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Events {
    /// Only what happened in this time, e.g. 10m.
    #[arg(long, value_name = "TIME", value_parser = show::parse_duration)]
    since: Option<Duration>,
    /// Go on as more happens.
    #[arg(short, long)]
    follow: bool,
    /// Print JSON: an object for each event, one a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna events --since 1h
  sterna events -f --json | jq -c 'select(.event == \"moved\") | [.name, .node, .to, .downtime_us]'

A node remembers its last some thousand events, also when it was stopped or killed. Times are those of each \
node's own clock, shown in this machine's time zone (TZ); with --json, at_ms has milliseconds since 1970, \
and number counts the events of one node. A node that does not answer is named, and so are events that were \
forgotten before they were shown.";

/// What one node has said.
type Heard = (NodeId, Result<Vec<EventRecord>>);

#[derive(Serialize)]
struct Line<'a> {
    /// Since 1970.
    at_ms: u64,
    /// Of this node's events.
    number: u64,
    /// Where it was noticed.
    node: &'a str,
    id: Option<ProcessId>,
    name: Option<&'a str>,
    event: &'static str,
    /// For people.
    what: &'a str,
    from: Option<String>,
    to: Option<String>,
    downtime_us: Option<u64>,
}

impl Events {
    pub(crate) fn run(self) -> Result<u8> {
        let (said, heard) = mpsc::sync_channel(WAITING_MAX);
        let mut shower = Shower {
            which: &self.which,
            json: self.json,
            since_ms: self.since.map(|since| {
                let ago = SystemTime::now().checked_sub(since);
                show::since_epoch_ms(ago.unwrap_or(SystemTime::UNIX_EPOCH))
            }),
            nodes: self.which.nodes()?,
            names: HashMap::new(),
            asked: HashSet::new(),
        };
        shower.ask_new(&said, self.follow)?;
        shower.first(&heard)?;
        if !self.follow {
            return Ok(0);
        }
        loop {
            let (node, events) = heard.recv().context("nobody is left to ask")?;
            let Ok(events) = events else {
                continue; // it is asked again
            };
            let joined = |event: &EventRecord| matches!(event.sort, EventSort::NodeJoined { .. });
            if events.iter().any(joined) {
                shower.nodes = self.which.nodes()?;
                shower.ask_new(&said, true)?;
            }
            for event in events {
                shower.show(node, &event)?;
            }
        }
    }
}

/// Asks a node, once or for ever.
fn ask(which: &Which, node: NodeId, said: &SyncSender<Heard>, follow: bool) {
    let (mut after, mut is_first) = (0, true);
    loop {
        let wait = if is_first { Duration::ZERO } else { WAIT };
        let request = HostingRequest::EventsOf {
            node,
            after,
            wait_ms: wait.as_millis() as u64,
        };
        let events = match which.hosting(request) {
            Ok(Some(HostingReply::Events(events))) => Ok(events),
            Ok(_) => Err(node::unexpected()),
            Err(error) => Err(error),
        };
        let failed = events.is_err();
        let forgotten = match &events {
            Ok(events) => forgotten(after, events),
            Err(_) => None,
        };
        if let Ok(events) = &events
            && let Some(last) = events.last()
        {
            after = last.number;
        }
        if let Some((first, last)) = forgotten {
            show::note(format_args!(
                "events {first} to {last} of node {node} were forgotten before they were asked for"
            ));
        }
        if said.send((node, events)).is_err() || !follow {
            return;
        }
        is_first = false;
        if failed {
            thread::sleep(RETRY_EVERY);
        }
    }
}

/// The numbers that are missing between what is known and what came next, from the first to the last.
fn forgotten(after: u64, events: &[EventRecord]) -> Option<(u64, u64)> {
    let next = events.first()?.number;
    // Of a node that is asked for the first time nothing was missed.
    (after > 0 && next > after + 1).then(|| (after + 1, next - 1))
}

/// Shows events, with the names of what they are about.
struct Shower<'a> {
    which: &'a Which,
    json: bool,
    since_ms: Option<u64>,
    nodes: Nodes,
    names: HashMap<ProcessId, Option<String>>,
    asked: HashSet<NodeId>,
}

impl Shower<'_> {
    /// Begins to ask nodes that are not asked yet.
    fn ask_new(&mut self, said: &SyncSender<Heard>, follow: bool) -> Result<()> {
        for seen in &self.nodes.nodes {
            let id = seen.member.id;
            if self.asked.insert(id) {
                let (which, said) = (self.which.clone(), said.clone());
                thread::Builder::new()
                    .name("events".into())
                    .spawn(move || ask(&which, id, &said, follow))
                    .context("could not start a thread that asks a node")?;
            }
        }
        Ok(())
    }

    /// What each node has said first, in the order of time.
    fn first(&mut self, heard: &Receiver<Heard>) -> Result<()> {
        let mut waiting = self.asked.clone();
        let mut all = Vec::new();
        while !waiting.is_empty() {
            let (node, events) = heard.recv().context("nobody is left to ask")?;
            waiting.remove(&node);
            match events {
                Ok(events) => all.extend(events.into_iter().map(|event| (node, event))),
                Err(error) => show::note(format_args!(
                    "node {} does not say what happened there: {error:#}",
                    node::name_of(&self.nodes, node)
                )),
            }
        }
        all.sort_by_key(|(node, event)| (event.at_ms, *node, event.number));
        for (node, event) in &all {
            self.show(*node, event)?;
        }
        Ok(())
    }

    fn show(&mut self, node: NodeId, event: &EventRecord) -> Result<()> {
        if self.since_ms.is_some_and(|since| event.at_ms < since) {
            return Ok(());
        }
        let name = match event.process {
            Some(process) => self.name(process)?,
            None => None,
        };
        let at = node::name_of(&self.nodes, node);
        let line = self.line(&at, name.as_deref(), event);
        if self.json {
            let text = serde_json::to_string(&line).context("could not write JSON")?;
            show::print(format_args!("{text}\n"));
            return Ok(());
        }
        let time = show::moment(event.at_ms);
        let subject = event.process.map_or_else(String::new, |process| {
            let name = line
                .name
                .map_or_else(String::new, |name| format!(" ({})", Plain(name)));
            format!("{}{name} ", process.short())
        });
        let way = match (&line.from, &line.to) {
            (_, Some(to)) => format!(", from {at} to {to}"),
            (Some(from), _) => format!(", from {from}"),
            _ => String::new(),
        };
        let downtime = line.downtime_us.map_or_else(String::new, |us| {
            format!(", stood still for {}", show::time_us(us))
        });
        show::print(format_args!(
            "{time} {at}: {subject}{}{way}{downtime}\n",
            Plain(&event.what)
        ));
        Ok(())
    }

    fn line<'a>(&self, node: &'a str, name: Option<&'a str>, event: &'a EventRecord) -> Line<'a> {
        let called = |id| Some(node::name_of(&self.nodes, id));
        let here = Some(node.to_owned());
        let (sort, from, to, downtime_us) = match &event.sort {
            EventSort::Started => ("started", None, None, None),
            EventSort::Moved { to, downtime_us } => ("moved", here, called(*to), *downtime_us),
            EventSort::NotMoved { to } => ("not_moved", here, called(*to), None),
            EventSort::Arrived { from } => ("arrived", called(*from), None, None),
            EventSort::Ended => ("ended", None, None, None),
            EventSort::Lost => ("lost", None, None, None),
            EventSort::NodeJoined { .. } => ("node_joined", None, None, None),
            EventSort::NodeRemoved { .. } => ("node_removed", None, None, None),
            EventSort::Other => ("other", None, None, None),
        };
        Line {
            at_ms: event.at_ms,
            number: event.number,
            node,
            id: event.process,
            name,
            event: sort,
            what: &event.what,
            from,
            to,
            downtime_us,
        }
    }

    /// What a process is, or was, called.
    fn name(&mut self, process: ProcessId) -> Result<Option<String>> {
        if let Some(name) = self.names.get(&process) {
            return Ok(name.clone());
        }
        for one in self.which.listed(true)? {
            self.names.insert(one.entry.process, one.entry.info.name);
        }
        Ok(self.names.entry(process).or_default().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_is_named() {
        let event = |number| EventRecord {
            number,
            at_ms: 0,
            process: None,
            sort: EventSort::Other,
            what: String::new(),
        };
        let check = |after, first: Option<u64>, expected| {
            let events: Vec<EventRecord> = first.map(event).into_iter().collect();
            assert_eq!(forgotten(after, &events), expected, "{after} {first:?}");
        };
        check(7, None, None);
        check(7, Some(8), None);
        check(7, Some(10), Some((8, 9)));
        check(0, Some(10), None);
        check(7, Some(1), None);
    }
}
