//! What has happened, for those who ask later: reports of moves, and events. Events outlive the service.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sterna_migration::{Attempt, RoundGoing, Travelled};
use sterna_process::ProcessId;
use tokio::sync::watch;

use super::Hosting;
use super::chronicle::Chronicle;
use crate::limits::{EVENT_BYTES_MAX, EVENTS_MAX, REPORTS_MAX};
use crate::message::{EventRecord, EventSort, MoveReport, Roster, RoundNews};
use crate::wire::now_ms;

impl Hosting {
    /// A node was removed that had a process.
    pub(crate) fn note_lost_with_node(&self, process: ProcessId) {
        let what = "was lost: its node was removed from the cluster";
        self.news.event(process, EventSort::Lost, what);
    }

    /// The list of nodes has changed. It is told at one node alone, the one that serves the registry.
    pub(crate) fn note_members(&self, before: &Roster, now: &Roster) {
        self.news.members(before, now);
    }
}

/// Reports of one node since it was started, and its events.
#[derive(Default)]
pub(super) struct News {
    kept: Mutex<Kept>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    /// Of moves that go on.
    rounds: HashMap<Attempt, Vec<RoundNews>>,
    /// How far the rounds are that these are in.
    going: HashMap<Attempt, RoundGoing>,
    reports: VecDeque<Ended>,
    events: VecDeque<EventRecord>,
    numbers: u64,
    /// Where they are kept; nothing if that cannot be.
    chronicle: Option<Chronicle>,
}

/// A move that has ended.
struct Ended {
    attempt: Attempt,
    report: MoveReport,
    travelled: Travelled,
    /// The process may have been lost by that, or was frozen: its record says so.
    in_doubt: bool,
}

impl News {
    /// With the events that a folder has.
    pub(super) fn in_folder(folder: &Path) -> Self {
        let mut kept = Kept::default();
        match Chronicle::open(folder) {
            Ok((chronicle, events)) => {
                kept.numbers = events.last().map_or(0, |last| last.number);
                let many = events.len().saturating_sub(EVENTS_MAX);
                kept.events = events.into_iter().skip(many).collect();
                kept.chronicle = Some(chronicle);
            }
            Err(error) => tracing::warn!("events will be forgotten when the node ends: {error}"),
        }
        Self {
            kept: Mutex::new(kept),
            changed: watch::Sender::default(),
        }
    }

    /// A move has made a round.
    pub(super) fn round(&self, attempt: Attempt, round: RoundNews) {
        self.change(|kept| {
            kept.going.remove(&attempt);
            kept.rounds.entry(attempt).or_default().push(round);
        });
    }

    /// So far is a round of a move.
    pub(super) fn going(&self, attempt: Attempt, going: RoundGoing) {
        self.change(|kept| _ = kept.going.insert(attempt, going));
    }

    /// How far the round is that goes on, if somebody has said so.
    pub(super) fn going_of(&self, attempt: Attempt) -> Option<RoundGoing> {
        let kept = self.kept();
        kept.going.get(&attempt).copied()
    }

    /// The rounds of a move that goes on, after so many.
    pub(super) fn rounds_after(&self, attempt: Attempt, after: u32) -> Vec<RoundNews> {
        let kept = self.kept();
        let rounds = kept.rounds.get(&attempt).into_iter().flatten();
        rounds.skip(after as usize).copied().collect()
    }

    pub(super) fn report(
        &self,
        attempt: Attempt,
        (report, in_doubt): (MoveReport, bool),
        travelled: Travelled,
    ) {
        self.change(|kept| {
            kept.rounds.remove(&attempt);
            kept.going.remove(&attempt);
            if kept.reports.len() >= REPORTS_MAX {
                kept.reports.pop_front();
            }
            kept.reports.push_back(Ended {
                attempt,
                report,
                travelled,
                in_doubt,
            });
        });
    }

    pub(super) fn is_in_doubt(&self, attempt: Attempt) -> bool {
        self.kept()
            .reports
            .iter()
            .any(|ended| ended.attempt == attempt && ended.in_doubt)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened to a process.
    pub(super) fn event(&self, process: ProcessId, sort: EventSort, what: impl Into<String>) {
        self.note(Some(process), sort, what.into());
    }

    /// Something happened to this node.
    pub(super) fn node_event(&self, what: &str) {
        self.note(None, EventSort::Other, what.to_owned());
    }

    /// Nodes have come or gone.
    fn members(&self, before: &Roster, now: &Roster) {
        for member in &now.members {
            if before.member(member.id).is_none() {
                let what = format!("node {} has joined", member.about.name);
                self.note(None, EventSort::NodeJoined { node: member.id }, what);
            }
        }
        for member in &before.members {
            if now.member(member.id).is_none() {
                let what = format!("node {} was removed", member.about.name);
                self.note(None, EventSort::NodeRemoved { node: member.id }, what);
            }
        }
    }

    fn note(&self, process: Option<ProcessId>, sort: EventSort, mut what: String) {
        what.truncate(what.floor_char_boundary(EVENT_BYTES_MAX / 2));
        self.change(|kept| {
            if kept.events.len() >= EVENTS_MAX {
                kept.events.pop_front();
            }
            kept.numbers += 1;
            let event = EventRecord {
                number: kept.numbers,
                at_ms: now_ms(),
                process,
                sort,
                what,
            };
            if let Some(chronicle) = &mut kept.chronicle
                && let Err(error) = chronicle.add(&event)
            {
                tracing::warn!("an event will be forgotten when the node ends: {error}");
            }
            kept.events.push_back(event);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        change(&mut self.kept());
        self.changed.send_modify(|number| *number += 1);
    }

    pub(super) fn report_of(&self, attempt: Attempt) -> Option<(MoveReport, Travelled)> {
        let kept = self.kept();
        let found = kept
            .reports
            .iter()
            .rev()
            .find(|ended| ended.attempt == attempt);
        found.map(|ended| (ended.report.clone(), ended.travelled.clone()))
    }

    pub(super) fn events_after(&self, after: u64) -> Vec<EventRecord> {
        let kept = self.kept();
        // The machine crashed before the last ones were on disk, or its data directory is another one now.
        let after = if after > kept.numbers { 0 } else { after };
        let newer = kept.events.iter().filter(|event| event.number > after);
        newer.cloned().collect()
    }

    /// Changes whenever there is something new.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
