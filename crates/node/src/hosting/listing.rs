//! All processes of the cluster as they are, which one is meant, and where there is room.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use serde::Serialize;
use sterna_migration::{Holding, Life, NodeId};
use sterna_process::ProcessId;
use sterna_runner::message::{Answer, Order, Seen};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Hosting;
use crate::limits::{
    LOOK_WITHIN, NAMES_MAX, PAGE_BYTES_MAX, PROBE_WITHIN, REPLY_BYTES_MAX, ROOM_AFTER_OTHERS,
};
use crate::message::{
    Brief, Capacity, Failure, FailureKind, Found, HostingReply, HostingRequest, KeepingsOf, Listed,
    Looked, ProcessEntry, RegistryRequest, Reply, Request, Room,
};
use crate::service::Service;
use crate::wire::encode_plain;

/// Of an answer with a list, for what is around that, in bytes.
const PAGE_SPARE_BYTES: usize = 1 << 10;

impl Hosting {
    /// All processes of the node. A runner that hangs holds nobody up.
    pub(super) async fn held(&self) -> Result<Vec<Brief>, Failure> {
        let runner = self.runner()?;
        let asked = timeout(LOOK_WITHIN, runner.answer(Order::LookAll, Vec::new()));
        match asked.await.map_err(|_| runner.hangs(&self.name))?? {
            Answer::Seen(seen) => Ok(seen.into_iter().filter_map(brief).collect()),
            _ => Err(Failure::refused("the runner answers another question")),
        }
    }

    /// How a process of this node is.
    pub(super) async fn looked(&self, process: ProcessId, node: NodeId) -> Result<Looked, Failure> {
        let seen = self.seen(process).await?;
        let (layout, has_input, terminal) = (seen.layout.clone(), seen.has_input, seen.terminal);
        let brief = brief(seen).ok_or_else(|| {
            let message = format!("process {} is just arriving, or has ended", process.short());
            Failure::new(FailureKind::Busy, message)
        })?;
        Ok(Looked {
            node,
            brief,
            layout,
            has_input,
            terminal,
        })
    }

    /// How much room there is for processes, if any are taken.
    pub(super) async fn room(&self) -> Result<HostingReply, Failure> {
        match self.closed() {
            None => self.capacity().await.map(HostingReply::Capacity),
            Some(reason) => Err(Failure::new(FailureKind::Drained, reason)),
        }
    }

    async fn capacity(&self) -> Result<Capacity, Failure> {
        let processes = self.held().await?.len() as u32;
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load
            .split(' ')
            .next()
            .and_then(|load| load.parse::<f64>().ok());
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        Ok(Capacity {
            processors: processors as u32,
            load_hundredths: (load.unwrap_or(0.0) * 100.0) as u32,
            memory_available_bytes: memory_available(),
            processes,
        })
    }
}

/// What can be had without others' losing theirs: `MemAvailable` of proc_meminfo(5).
fn memory_available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// What others are told; nothing of one that is only arriving or has ended.
fn brief(seen: Seen) -> Option<Brief> {
    match seen.holding {
        Holding::Running { .. } | Holding::Incomplete { .. } | Holding::Frozen { .. } => {
            Some(Brief {
                process: seen.process,
                stats: seen.stats,
                doing: seen.doing.or(match seen.holding {
                    Holding::Frozen { .. } => Some("being moved".to_owned()),
                    Holding::Incomplete { .. } => Some("its memory is still coming".to_owned()),
                    _ => None,
                }),
                output_bytes: seen.output_bytes,
            })
        }
        Holding::Made { .. }
        | Holding::Arriving { .. }
        | Holding::Ready { .. }
        | Holding::Exited { .. } => None,
    }
}

impl Service {
    /// What the registry knows of a process.
    pub(crate) async fn entry(&self, process: ProcessId) -> Result<ProcessEntry, Failure> {
        match self
            .ask_registry(RegistryRequest::Process { process })
            .await?
        {
            Reply::Process(Some(entry)) => Ok(*entry),
            Reply::Process(None) => Err(Failure::new(
                crate::message::FailureKind::NotHere,
                format!("the cluster knows no process {}", process.short()),
            )),
            _ => Err(Failure::refused("the registry answers another question")),
        }
    }

    /// All processes.
    /// Processes that are a node's, and alive.
    pub(crate) async fn living_of(&self, node: NodeId) -> Result<Vec<ProcessId>, Failure> {
        let entries = self.entries(false).await?.into_iter();
        let of_node = entries.filter_map(|entry| {
            let record = entry.record().ok()?;
            (record.owner == node && record.life == Life::Alive).then_some(entry.process)
        });
        Ok(of_node.collect())
    }

    async fn entries(&self, ended: bool) -> Result<Vec<ProcessEntry>, Failure> {
        let (mut entries, mut after) = (Vec::new(), None);
        loop {
            let (some, next) = self.entries_after(ended, after).await?;
            entries.extend(some);
            after = next;
            if after.is_none() {
                return Ok(entries);
            }
        }
    }

    /// Some processes after one, in the order of ids, and the last of them if there are more.
    async fn entries_after(
        &self,
        ended: bool,
        after: Option<ProcessId>,
    ) -> Result<(Vec<ProcessEntry>, Option<ProcessId>), Failure> {
        let request = RegistryRequest::Processes { ended, after };
        match self.ask_registry(request).await? {
            Reply::Processes(page) => Ok((page.entries, page.next)),
            _ => Err(Failure::refused("the registry answers another question")),
        }
    }

    /// All processes, with how they are where their nodes answer.
    pub(super) async fn listed(
        &self,
        hosting: &Hosting,
        ended: bool,
    ) -> Result<HostingReply, Failure> {
        let entries = self.entries(ended).await?;
        Ok(HostingReply::Listed(self.looked_at(hosting, entries).await))
    }

    /// Some processes after one, so many that an answer has room for them, and the last of them if there are more.
    pub(super) async fn listed_after(
        &self,
        hosting: &Hosting,
        ended: bool,
        after: Option<ProcessId>,
    ) -> Result<(Vec<Listed>, Option<ProcessId>), Failure> {
        let (mut entries, mut next) = (Vec::new(), after);
        // Nodes that do not answer are waited for on each page: until they are known to be silent, and there are to be few.
        let mut bytes = 0;
        loop {
            let (some, last) = self.entries_after(ended, next).await?;
            bytes += some.iter().map(size).sum::<usize>();
            entries.extend(some);
            next = last;
            if next.is_none() || bytes >= PAGE_BYTES_MAX {
                break;
            }
        }
        let mut listed = self.looked_at(hosting, entries).await;
        let mut bytes = 0;
        let fits = listed.iter().take_while(|one| {
            bytes += size(one);
            bytes < REPLY_BYTES_MAX - PAGE_SPARE_BYTES
        });
        let fits = fits.count().max(1);
        if fits < listed.len() {
            listed.truncate(fits);
            next = listed.last().map(|one| one.entry.process);
        }
        Ok((listed, next))
    }

    /// Processes, with how they are where their nodes answer.
    async fn looked_at(&self, hosting: &Hosting, entries: Vec<ProcessEntry>) -> Vec<Listed> {
        let mut owners: BTreeMap<NodeId, usize> = BTreeMap::new();
        for record in entries.iter().filter_map(|entry| entry.record().ok()) {
            if record.life == Life::Alive {
                *owners.entry(record.owner).or_default() += 1;
            }
        }
        let mut briefs: HashMap<ProcessId, Brief> = HashMap::new();
        let mut asked = JoinSet::new();
        for owner in owners.into_keys() {
            if owner == self.id {
                let held = hosting.held().await.unwrap_or_default();
                briefs.extend(held.into_iter().map(|brief| (brief.process, brief)));
                continue;
            }
            let (transport, within) = (self.transport.clone(), self.patience(owner));
            asked.spawn(async move {
                let request = Request::Hosting(HostingRequest::Held);
                let asked = transport.ask(owner, &request, within);
                match timeout(within, asked).await {
                    Ok(Ok((Reply::Hosting(HostingReply::Held(held)), _))) => Ok(held),
                    _ => Err(owner),
                }
            });
        }
        while let Some(Ok(held)) = asked.join_next().await {
            let held = held.unwrap_or_else(|silent| {
                self.note_missed(silent);
                Vec::new()
            });
            briefs.extend(held.into_iter().map(|brief| (brief.process, brief)));
        }
        let mut keepings = self.keepings(KeepingsOf::All).await.unwrap_or_default();
        let listed = entries.into_iter().map(|entry| Listed {
            keeping: keepings.remove(&entry.process),
            brief: briefs.remove(&entry.process),
            entry,
        });
        listed.collect()
    }

    /// Who may be meant by a text.
    pub(super) async fn find(&self, text: String) -> Result<HostingReply, Failure> {
        let name = text.clone();
        let named = self.ask_registry(RegistryRequest::Named { name }).await?;
        if let Reply::Process(Some(entry)) = named {
            let entries = vec![*entry];
            let names = Vec::new();
            return Ok(HostingReply::Found(Found { entries, names }));
        }
        let all = self.entries(true).await?;
        let entries: Vec<ProcessEntry> = meant(&all, &text).into_iter().cloned().collect();
        let names = match entries.is_empty() {
            true => {
                let living = all.iter().filter(|entry| lives(entry));
                let names = living.filter_map(|entry| entry.name.clone());
                names.take(NAMES_MAX).collect()
            }
            false => Vec::new(),
        };
        Ok(HostingReply::Found(Found { entries, names }))
    }

    /// The node with most room: most processors for each process that is ready to run, then fewest processes. This one if
    /// no other can be had.
    pub(super) async fn roomiest(&self, hosting: &Hosting) -> NodeId {
        let rooms = self.rooms(hosting, self.members()).await;
        let open = rooms
            .into_iter()
            .filter_map(|room| Some((room.node, room.capacity?)));
        let best = open.min_by_key(|(node, capacity)| (crowded(capacity), *node != self.id));
        best.map_or(self.id, |(node, _)| node)
    }

    pub(super) async fn all_rooms(&self, hosting: &Hosting) -> Result<HostingReply, Failure> {
        let rooms = self.rooms(hosting, self.members()).await;
        Ok(HostingReply::Rooms(rooms))
    }

    pub(super) fn members(&self) -> Vec<NodeId> {
        let roster = self.roster();
        roster.members.iter().map(|member| member.id).collect()
    }

    /// How much room there is at some nodes, of those that answer. Once some have, the others are not waited for long.
    pub(crate) async fn rooms(
        &self,
        hosting: &Hosting,
        nodes: impl IntoIterator<Item = NodeId>,
    ) -> Vec<Room> {
        let mut rooms = Vec::new();
        let mut asked = JoinSet::new();
        for node in nodes {
            if node == self.id {
                let capacity = match hosting.closed() {
                    Some(_) => None,
                    None => match hosting.capacity().await {
                        Ok(capacity) => Some(capacity),
                        Err(_) => continue,
                    },
                };
                rooms.push(Room { node, capacity });
                continue;
            }
            let (transport, within) = (self.transport.clone(), self.patience(node));
            asked.spawn(async move {
                let request = Request::Hosting(HostingRequest::Capacity);
                let asked = transport.ask(node, &request, within);
                let capacity = match timeout(within, asked).await.ok()?.ok()?.0 {
                    Reply::Hosting(HostingReply::Capacity(capacity)) => Some(capacity),
                    Reply::Failed(failure) if failure.kind == FailureKind::Drained => None,
                    _ => return None,
                };
                Some(Room { node, capacity })
            });
        }
        let mut within = PROBE_WITHIN;
        while let Ok(Some(found)) = timeout(within, asked.join_next()).await {
            if let Ok(Some(room)) = found {
                rooms.push(room);
                within = ROOM_AFTER_OTHERS;
            }
        }
        rooms
    }
}

/// Processes that are ready to run, and all others, for each processor, in hundredths.
pub(super) fn crowded(capacity: &Capacity) -> u64 {
    let load = u64::from(capacity.load_hundredths) + 100 * u64::from(capacity.processes);
    load / u64::from(capacity.processors.max(1))
}

/// Length in an answer, in bytes.
fn size(value: &impl Serialize) -> usize {
    encode_plain(value).len()
}

fn lives(entry: &ProcessEntry) -> bool {
    let record = entry.record();
    record.is_ok_and(|record| record.life == Life::Alive)
}

/// Who may be meant by a text: whoever is called so, or was, the living first and then the last; otherwise those whose id
/// begins so, the living first. So a name that is short, and whose process has ended, never means another process.
fn meant<'a>(all: &'a [ProcessEntry], text: &str) -> Vec<&'a ProcessEntry> {
    let called = all
        .iter()
        .filter(|entry| entry.name.as_deref() == Some(text));
    if let Some(one) = called.max_by_key(|entry| (lives(entry), entry.changed_ms)) {
        return vec![one];
    }
    let fits = || all.iter().filter(|entry| entry.process.has_prefix(text));
    match fits().any(lives) {
        true => fits().filter(|entry| lives(entry)).collect(),
        false => fits().collect(),
    }
}

#[cfg(test)]
mod tests {
    use sterna_migration::Record;
    use sterna_process::{ProgramId, Tag};

    use super::*;
    use crate::message::ProcessInfo;

    fn entry(first: u8, name: Option<&str>, changed_ms: u64, life: Life) -> ProcessEntry {
        let owner = NodeId::from_bytes([1; 32]);
        let record = Record::first(owner);
        let record = match life {
            Life::Alive => record,
            life => record.closed(life).unwrap(),
        };
        ProcessEntry {
            process: ProcessId::from_bytes([first; 16]),
            record: record.encode().unwrap(),
            changed_ms,
            name: name.map(str::to_owned),
            info: ProcessInfo {
                name: None,
                program: ProgramId::from_bytes([0; 32]),
                kind: Tag::new("toy"),
                file: String::new(),
                arguments: Vec::new(),
                started_ms: 0,
                started_on: owner,
                parent: None,
                extra: Vec::new(),
            },
            ending: None,
        }
    }

    #[test]
    fn a_name_means_who_has_or_had_it_and_never_an_id_that_begins_so() {
        let other = entry(7, None, 9, Life::Alive);
        // A name may be as short as it likes.
        let name = other.process.to_string()[..1].to_owned();
        let early = entry(1, Some(&name), 3, Life::Ended);
        let late = entry(2, Some(&name), 5, Life::Lost);
        let living = entry(3, Some(&name), 1, Life::Alive);
        let all = [other.clone(), early.clone(), late.clone()];
        assert_eq!(meant(&all, &name), [&late]);
        let all = [other.clone(), early, living.clone(), late];
        assert_eq!(meant(&all, &name), [&living]);
        // Nobody was ever called so.
        let ended = entry(7, None, 9, Life::Ended);
        let all = [ended.clone(), other.clone()];
        assert_eq!(meant(&all, &name), [&other]);
        assert_eq!(meant(&all[..1], &name), [&ended]);
        assert!(meant(&all, "-").is_empty());
    }
}
