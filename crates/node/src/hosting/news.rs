//! What has happened, for those who ask later: reports of moves, and events.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use sterna_migration::Attempt;
use sterna_process::ProcessId;
use tokio::sync::watch;

use super::Hosting;
use crate::limits::{EVENTS_MAX, REPORTS_MAX};
use crate::message::{EventRecord, EventSort, MoveReport, Roster};
use crate::wire::now_ms;

impl Hosting {
    /// The list of nodes has changed. It is told at one node alone, the one that serves the registry.
    pub(crate) fn note_members(&self, before: &Roster, now: &Roster) {
        self.news.members(before, now);
    }
}

/// Reports and events of one node since it was started.
#[derive(Default)]
pub(super) struct News {
    kept: Mutex<Kept>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    reports: VecDeque<(Attempt, MoveReport)>,
    events: VecDeque<EventRecord>,
    numbers: u64,
}

impl News {
    pub(super) fn report(&self, attempt: Attempt, report: MoveReport) {
        self.change(|kept| {
            if kept.reports.len() >= REPORTS_MAX {
                kept.reports.pop_front();
            }
            kept.reports.push_back((attempt, report));
        });
    }

    /// Something happened to a process.
    pub(super) fn event(&self, process: ProcessId, sort: EventSort, what: impl Into<String>) {
        self.note(Some(process), sort, what.into());
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

    fn note(&self, process: Option<ProcessId>, sort: EventSort, what: String) {
        self.change(|kept| {
            if kept.events.len() >= EVENTS_MAX {
                kept.events.pop_front();
            }
            kept.numbers += 1;
            kept.events.push_back(EventRecord {
                number: kept.numbers,
                at_ms: now_ms(),
                process,
                sort,
                what,
            });
        });
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        change(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|number| *number += 1);
    }

    pub(super) fn report_of(&self, attempt: Attempt) -> Option<MoveReport> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.reports.iter().rev().find(|(of, _)| *of == attempt);
        found.map(|(_, report)| report.clone())
    }

    pub(super) fn events_after(&self, after: u64) -> Vec<EventRecord> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // The node was started again: its numbers began anew.
        let after = if after > kept.numbers { 0 } else { after };
        let newer = kept.events.iter().filter(|event| event.number > after);
        newer.cloned().collect()
    }

    /// Changes whenever there is something new.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
