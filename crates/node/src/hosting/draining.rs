//! A node is emptied before its machine goes: [`Service::see_to_draining`].
//!
//! ```text
//!            Begin                    all have left
//!   Open ──────────► Draining ──────────────────────► Drained
//!                      │   │ something has stayed        │
//!               Cancel │   └──► Incomplete               │ Cancel
//!                      ▼                                 ▼
//!                  Cancelled                         Cancelled
//! ```
//!
//! In `Draining` and `Drained` nothing comes here: [`Hosting::closed`]. The node does the work by itself, whoever asked for it
//! and whether they still watch; how far it is is in its memory only, so that it does not outlive its service.

mod choice;
mod progress;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sterna_migration::{Attempt, Holding, Life, Record, Travel};
use sterna_process::ProcessId;
use sterna_runner::message::{Answer, Order};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::choice::Value;
pub(super) use self::progress::Progress as Draining;
use self::progress::Refused;
use super::Hosting;
use super::report::STAYED;
use crate::identity::NodeId;
use crate::limits::{DRAIN_ENDS_WITHIN, DRAIN_LOOK_EVERY, DRAIN_MOVES_AT_ONCE, DRAIN_WITHIN_MAX};
use crate::message::{
    Brief, DrainEntry, DrainFate, DrainNews, DrainOrder, DrainPort, DrainStage, Failure,
    FailureKind, HostingReply, KeepingsOf, MoveProgress, MoveReport, PortFate, RegistryFate,
    RegistryRequest, Remains, Reply,
};
use crate::service::Service;

/// Why a process does not come to a node that is drained.
const CLOSED: &str = "the node is being drained and takes no processes: choose another one, or end that with \
    `sterna drain --cancel`";

impl Hosting {
    /// Why nothing may come here, if that is so.
    pub(super) fn closed(&self) -> Option<&'static str> {
        let stage = self.draining.stage();
        matches!(stage, DrainStage::Draining | DrainStage::Drained).then_some(CLOSED)
    }

    /// Whether something is on its way to running here, as far as is known.
    async fn awaits_some(&self) -> bool {
        let Ok(Answer::Seen(seen)) = self.ask(Order::LookAll, Vec::new()).await else {
            return true;
        };
        let comes = |holding: &Holding| {
            matches!(
                holding,
                Holding::Made { .. } | Holding::Arriving { .. } | Holding::Ready { .. }
            )
        };
        seen.iter().any(|seen| comes(&seen.holding))
    }
}

/// What one try to move a process came to.
enum Tried {
    Moved { downtime_us: Option<u64> },
    Stayed { why: String, retry: bool },
    Gone,
}

impl Service {
    /// What somebody wants of it.
    pub(super) async fn see_to_draining(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        order: DrainOrder,
    ) -> Result<HostingReply, Failure> {
        let news = match order {
            DrainOrder::Begin {
                within_ms,
                to,
                dry_run,
                cut,
            } => {
                let targets = self.drain_targets(&to)?;
                if dry_run {
                    let mut news = self.plan_drain(hosting, &targets).await?;
                    if !cut {
                        news.ports = ports_with_clients(hosting);
                    }
                    return Ok(HostingReply::Drain(Box::new(news)));
                }
                if let Some(clients) = self.clients_to_cut(hosting).await
                    && !cut
                {
                    return Err(Failure::refused(format!(
                        "clients are connected at ports of this node, and are cut off when these move, wherever their servers \
                         are: {clients}; drain it with --cut if that may be"
                    )));
                }
                let within = Duration::from_millis(within_ms);
                self.begin_drain(hosting, within, targets, cut)?;
                hosting.draining.news()
            }
            DrainOrder::News { after } => hosting.draining.news_after(after).await,
            DrainOrder::Cancel => hosting.draining.cancel().await?,
        };
        Ok(HostingReply::Drain(Box::new(news)))
    }

    /// Drains the node, as far as that goes within a time.
    pub(crate) async fn drain_before_end(self: &Arc<Self>, within: Duration) {
        let Some(hosting) = &self.hosting else {
            return;
        };
        if let Some(clients) = self.clients_to_cut(hosting).await {
            tracing::warn!("clients of this node's ports are cut off: {clients}");
        }
        let begun = match hosting.closed() {
            Some(_) => Ok(()),
            None => self
                .drain_targets(&[])
                .and_then(|targets| self.begin_drain(hosting, within, targets, true)),
        };
        match begun {
            Ok(()) => warn_of_stayed(&hosting.draining.ended().await),
            Err(failure) => tracing::warn!("{failure}"),
        }
        // A runner that has nothing left ends, too.
        if let Err(failure) = hosting.stop(Remains::Left).await {
            tracing::warn!("{failure}");
        }
    }

    /// Who is connected at this node's ports, if anybody is.
    async fn clients_to_cut(&self, hosting: &Hosting) -> Option<String> {
        let mut told = Vec::new();
        let all = hosting.ingress.all().into_iter();
        for (process, _, address, clients) in all.filter(|(.., clients)| *clients > 0) {
            let entry = self.entry(process).await.ok();
            let name = entry.and_then(|entry| entry.name);
            let name = name.unwrap_or_else(|| process.short());
            told.push(format!("{name} at port {} ({clients})", address.port()));
        }
        told.sort();
        (!told.is_empty()).then(|| told.join(", "))
    }

    /// The nodes that its processes may go to.
    fn drain_targets(&self, wanted: &[NodeId]) -> Result<HashSet<NodeId>, Failure> {
        let roster = self.roster();
        let members = roster.members.iter().map(|member| member.id);
        let others: HashSet<NodeId> = members.filter(|id| *id != self.id).collect();
        if others.is_empty() {
            return Err(Failure::refused(
                "the node is alone in its cluster: there is nowhere to go; bring another one in (`sterna node invite`)",
            ));
        }
        match wanted.iter().find(|id| !others.contains(id)) {
            Some(id) if *id == self.id => Err(Failure::refused(
                "processes cannot go to the node that is drained: name others with --to",
            )),
            Some(id) => Err(Failure::refused(format!(
                "the cluster has no node {id}: see `sterna nodes`"
            ))),
            None if wanted.is_empty() => Ok(others),
            None => Ok(wanted.iter().copied().collect()),
        }
    }

    /// What is to become of the registry.
    fn registry_fate(&self) -> RegistryFate {
        match self.serves_embedded_registry() {
            true => RegistryFate::Waiting,
            false => RegistryFate::Elsewhere,
        }
    }

    fn begin_drain(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        within: Duration,
        targets: HashSet<NodeId>,
        cut: bool,
    ) -> Result<(), Failure> {
        if within.is_zero() || within > DRAIN_WITHIN_MAX {
            return Err(Failure::refused(
                "a node is drained within some time, of at most 24 hours",
            ));
        }
        hosting.draining.begin(within, self.registry_fate())?;
        hosting.news.node_event("the node is being drained");
        let (service, hosting) = (Arc::clone(self), Arc::clone(hosting));
        tokio::spawn(async move {
            service.drain(&hosting, Arc::new(targets), cut).await;
            hosting.news.node_event(match hosting.draining.end() {
                DrainStage::Drained => "the node is drained",
                DrainStage::Cancelled => "the node is not drained: that was given up",
                _ => "the node is not drained: something stays",
            });
        });
        Ok(())
    }

    /// Where each process could go now.
    async fn plan_drain(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        targets: &HashSet<NodeId>,
    ) -> Result<DrainNews, Failure> {
        let rooms = self.rooms(hosting, targets.iter().copied()).await;
        let mut news = DrainNews {
            stage: DrainStage::Planned,
            registry: self.registry_fate(),
            ..DrainNews::default()
        };
        for brief in self.held_in_order(hosting).await? {
            let (process, memory_bytes) = (brief.process, brief.stats.memory_bytes);
            let mut refused = Refused::default();
            let fate = loop {
                let may = |node| refused.allows(node);
                let Some(to) = choice::target(&rooms, &news.processes, memory_bytes, may) else {
                    let why = refused.told(|node| self.name_of(node));
                    break DrainFate::Stayed { why };
                };
                match self
                    .begin_move(hosting, process, (to, Travel::default()), true)
                    .await
                {
                    Ok(_) => break DrainFate::Moving { to },
                    Err(failure) => refused.add(to, failure.message, false),
                }
            };
            news.processes.push(DrainEntry {
                process,
                memory_bytes,
                fate,
            });
        }
        Ok(news)
    }

    /// What runs here, most valuable first.
    async fn held_in_order(&self, hosting: &Hosting) -> Result<Vec<Brief>, Failure> {
        let held = hosting.held().await?;
        let keepings = self.keepings(KeepingsOf::Node(self.id)).await;
        let keepings = keepings.unwrap_or_default();
        let now = SystemTime::now();
        let mut valued: Vec<(Value, Brief)> = held
            .into_iter()
            .map(|brief| {
                let keeping = keepings.get(&brief.process);
                let last = keeping.and_then(|keeping| keeping.last);
                (Value::of(&brief, last, now), brief)
            })
            .collect();
        choice::in_order(&mut valued);
        Ok(valued.into_iter().map(|(_, brief)| brief).collect())
    }

    /// Moves all away, then the ports, and then the registry.
    async fn drain(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        targets: Arc<HashSet<NodeId>>,
        cut: bool,
    ) {
        let draining = &hosting.draining;
        let (mut known, mut waiting) = (HashSet::new(), VecDeque::new());
        let mut was_quiet = false;
        let mut moves = JoinSet::new();
        loop {
            let is_over = draining.is_over();
            let awaits_some = hosting.awaits_some().await;
            // Also what was being started, or was arriving, when the node was closed.
            for brief in self.held_in_order(hosting).await.unwrap_or_default() {
                if known.insert(brief.process) {
                    draining.change(|news| news.processes.push(DrainEntry::waiting(&brief)));
                    waiting.push_back(brief);
                }
            }
            while !is_over
                && moves.len() < DRAIN_MOVES_AT_ONCE
                && let Some(brief) = waiting.pop_front()
            {
                let (service, hosting) = (Arc::clone(self), Arc::clone(hosting));
                let targets = Arc::clone(&targets);
                moves.spawn(async move { service.move_away(&hosting, &brief, &targets).await });
            }
            // Twice, since what was let in just before may not be seen yet.
            let is_quiet = moves.is_empty() && !awaits_some;
            if moves.is_empty() && is_over || is_quiet && was_quiet {
                break;
            }
            was_quiet = is_quiet;
            tokio::select! {
                _ = moves.join_next(), if !moves.is_empty() => {}
                () = sleep(DRAIN_LOOK_EVERY) => {}
            }
        }
        self.settle_stayed(hosting).await;
        if !draining.is_cancelled() {
            self.move_ports_away(hosting, cut).await;
        }
        self.move_registry_away(hosting, &targets).await;
    }

    /// Says of those whose turn did not come why they stay, and of those that are not here any more that they are gone. If
    /// the runner does not say what is here, all stays that the registry has here.
    async fn settle_stayed(&self, hosting: &Hosting) {
        let (here, is_known) = match hosting.held().await {
            Ok(held) => (held.iter().map(|brief| brief.process).collect(), true),
            Err(_) => (self.recorded_here().await, false),
        };
        let why = match hosting.draining.is_cancelled() {
            _ if !is_known => "the node's runner does not answer",
            true => "that was cancelled before its turn came",
            false => "the time was over before its turn came",
        };
        hosting.draining.settle(&here, is_known, why);
    }

    /// Living processes of this node, by the registry.
    async fn recorded_here(&self) -> HashSet<ProcessId> {
        let (node, mut after, mut here) = (self.id, None, HashSet::new());
        loop {
            let request = RegistryRequest::ProcessesOf { node, after };
            let Ok(Reply::Records(page)) = self.ask_registry(request).await else {
                return here;
            };
            let is_here = |bytes: &[u8]| {
                let record = Record::decode(bytes);
                record.is_ok_and(|record| record.owner == node && record.life == Life::Alive)
            };
            let records = page.records.into_iter();
            here.extend(records.filter_map(|(of, bytes)| is_here(&bytes).then_some(of)));
            after = page.next;
            if after.is_none() {
                return here;
            }
        }
    }

    /// Moves one process to some node, and notes what became of it.
    async fn move_away(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        brief: &Brief,
        targets: &HashSet<NodeId>,
    ) {
        let (process, memory_bytes) = (brief.process, brief.stats.memory_bytes);
        let draining = &hosting.draining;
        let mut refused = Refused::default();
        let fate = loop {
            let rooms = self.rooms(hosting, targets.iter().copied()).await;
            let Some(to) = draining.assign(process, &rooms, memory_bytes, &refused) else {
                // Those that do not answer now may do so later.
                if rooms.is_empty() && timeout(DRAIN_LOOK_EVERY, draining.over()).await.is_err() {
                    continue;
                }
                let why = refused.told(|node| self.name_of(node));
                break DrainFate::Stayed { why };
            };
            match self.try_move(hosting, process, to).await {
                Tried::Moved { downtime_us } => break DrainFate::Moved { to, downtime_us },
                Tried::Gone => break DrainFate::Gone,
                Tried::Stayed { why, .. } if draining.is_over() => {
                    break DrainFate::Stayed { why };
                }
                Tried::Stayed { why, retry } => {
                    refused.add(to, why, retry);
                    if retry {
                        let _ = timeout(DRAIN_LOOK_EVERY, draining.over()).await;
                    }
                }
            }
        };
        draining.set(process, fate);
    }

    /// Moves a process, or gives that up when the time is over.
    async fn try_move(
        self: &Arc<Self>,
        hosting: &Arc<Hosting>,
        process: ProcessId,
        to: NodeId,
    ) -> Tried {
        let attempt = match self
            .begin_move(hosting, process, (to, Travel::default()), false)
            .await
        {
            Ok(HostingReply::Moving { attempt, .. }) => attempt,
            Ok(_) => return Tried::Gone,
            Err(failure) if failure.kind == FailureKind::NotHere => return Tried::Gone,
            Err(failure) => {
                let retry = matches!(
                    failure.kind,
                    FailureKind::Busy | FailureKind::Taken | FailureKind::Unreachable
                );
                let why = failure.message;
                return Tried::Stayed { why, retry };
            }
        };
        let mut tried = std::pin::pin!(async {
            tokio::select! {
                tried = self.ended(hosting, attempt) => tried,
                // There is time to try another one.
                () = self.falls_silent(to) => match self.given_up(hosting, attempt).await {
                    Tried::Stayed { why, .. } => Tried::Stayed { why, retry: true },
                    tried => tried,
                }
            }
        });
        tokio::select! {
            tried = &mut tried => return tried,
            () = hosting.draining.over() => {}
        }
        let end = match hosting.draining.is_cancelled() {
            true => "that was cancelled",
            false => "the time was over",
        };
        let given_up = self.given_up(hosting, attempt);
        let why = match timeout(DRAIN_ENDS_WITHIN, given_up).await {
            Ok(Tried::Stayed { .. }) => format!("{end} while it was being moved"),
            Ok(tried) => return tried,
            Err(_) => format!("{end} while it was being moved, and the move goes on"),
        };
        let retry = false;
        Tried::Stayed { why, retry }
    }

    /// Gives a move up. What it came to then; it may be the target's already, which does not say so.
    async fn given_up(&self, hosting: &Hosting, attempt: Attempt) -> Tried {
        loop {
            if hosting.cancel(attempt).await.is_err()
                && let Ok(entry) = self.entry(attempt.process).await
                && entry.record().is_ok_and(|record| record.owner != self.id)
            {
                return Tried::Moved { downtime_us: None };
            }
            let ended = self.ended(hosting, attempt);
            if let Ok(tried) = timeout(DRAIN_LOOK_EVERY, ended).await {
                return tried;
            }
        }
    }

    /// What a move came to.
    async fn ended(&self, hosting: &Hosting, attempt: Attempt) -> Tried {
        loop {
            match self.progress_of(hosting, attempt, u32::MAX).await {
                Ok(MoveProgress {
                    ended: Some(end), ..
                }) => return Tried::of(&end.report),
                Ok(_) => {}
                // The registry does not answer just now.
                Err(_) => sleep(DRAIN_LOOK_EVERY).await,
            }
        }
    }

    /// Until a node does not answer.
    async fn falls_silent(&self, node: NodeId) {
        sleep(DRAIN_LOOK_EVERY).await;
        while self.answers(node).await {
            sleep(DRAIN_LOOK_EVERY).await;
        }
    }

    /// Gives the registry to a node that has room, if it is here.
    async fn move_registry_away(&self, hosting: &Hosting, targets: &HashSet<NodeId>) {
        let draining = &hosting.draining;
        if !self.serves_embedded_registry() || draining.is_cancelled() {
            return;
        }
        let rooms = self.rooms(hosting, targets.iter().copied()).await;
        let mut refused = Refused::default();
        let fate = loop {
            let Some(to) = choice::target(&rooms, &[], 0, |node| refused.allows(node)) else {
                let why = refused.told(|node| self.name_of(node));
                break RegistryFate::Stayed { why };
            };
            match self.move_registry(to).await {
                Ok(_) => break RegistryFate::Moved { to },
                Err(failure) => refused.add(to, failure.message, false),
            }
        };
        draining.change(|news| news.registry = fate);
    }

    pub(super) fn name_of(&self, node: NodeId) -> String {
        let roster = self.roster();
        let member = roster.member(node);
        member.map_or_else(|| node.to_string(), |member| member.about.name.clone())
    }
}

/// Ports for which a node is not drained unless clients may be cut off.
fn ports_with_clients(hosting: &Hosting) -> Vec<DrainPort> {
    let all = hosting.ingress.all().into_iter();
    let used = all.filter(|(.., clients)| *clients > 0);
    let ports = used.map(|(process, _, address, clients)| {
        let connected = match clients {
            1 => "1 client is connected and would be".to_owned(),
            count => format!("{count} clients are connected and would be"),
        };
        let why = format!("{connected} cut off: nothing is drained without --cut");
        DrainPort {
            process,
            address,
            fate: PortFate::Stayed { why },
        }
    });
    let mut ports: Vec<DrainPort> = ports.collect();
    ports.sort_by_key(|port| port.address);
    ports
}

fn warn_of_stayed(news: &DrainNews) {
    for entry in &news.processes {
        if let DrainFate::Stayed { why } = &entry.fate {
            tracing::warn!("process {} stays here: {why}", entry.process.short());
        }
    }
    for port in &news.ports {
        if let PortFate::Stayed { why } = &port.fate {
            tracing::warn!("port {} stays here: {why}", port.address.port());
        }
    }
    if let RegistryFate::Stayed { why } = &news.registry {
        tracing::warn!("the registry stays here: {why}");
    }
}

impl Tried {
    fn of(report: &MoveReport) -> Self {
        let outcome = &report.outcome;
        match report.moved {
            true => Self::Moved {
                downtime_us: report.downtime_us,
            },
            false => Self::Stayed {
                why: outcome.strip_prefix(STAYED).unwrap_or(outcome).to_owned(),
                retry: report.retry,
            },
        }
    }
}
