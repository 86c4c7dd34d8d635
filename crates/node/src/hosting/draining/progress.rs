//! How far a node is with being drained: [`Progress`], for those who do it and those who watch.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sterna_migration::NodeId;
use sterna_process::ProcessId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::choice;
use crate::limits::{DRAIN_TRIES_MAX, NEWS_WITHIN};
use crate::message::{
    Brief, DrainEntry, DrainFate, DrainNews, DrainPort, DrainStage, Failure, PortFate,
    RegistryFate, Room,
};

/// How far it is, and for how long it may go on.
pub(in crate::hosting) struct Progress {
    news: watch::Sender<DrainNews>,
    until: watch::Sender<Until>,
}

/// When it is over.
#[derive(Clone, Copy)]
struct Until {
    at: Instant,
    cancelled: bool,
}

impl Default for Progress {
    fn default() -> Self {
        let until = Until {
            at: Instant::now(),
            cancelled: false,
        };
        Self {
            news: watch::Sender::default(),
            until: watch::Sender::new(until),
        }
    }
}

impl Progress {
    pub(super) fn stage(&self) -> DrainStage {
        self.news.borrow().stage
    }

    pub(super) fn news(&self) -> DrainNews {
        self.news.borrow().clone()
    }

    /// The news, as soon as there is other than this, or after a while.
    pub(super) async fn news_after(&self, after: u64) -> DrainNews {
        let mut news = self.news.subscribe();
        let newer = news.wait_for(|news| news.number != after);
        let _ = timeout(NEWS_WITHIN, newer).await;
        self.news()
    }

    /// The news as soon as nobody works at it any more.
    pub(super) async fn ended(&self) -> DrainNews {
        let mut news = self.news.subscribe();
        let _ = news
            .wait_for(|news| news.stage != DrainStage::Draining)
            .await;
        self.news()
    }

    pub(in crate::hosting) fn change(&self, change: impl FnOnce(&mut DrainNews)) {
        self.news.send_modify(|news| {
            change(news);
            news.number += 1;
        });
    }

    pub(super) fn set(&self, process: ProcessId, fate: DrainFate) {
        self.change(|news| set(news, process, fate));
    }

    /// Decides where a process goes, and notes it at once, so that those who choose next know.
    pub(super) fn assign(
        &self,
        process: ProcessId,
        rooms: &[Room],
        memory_bytes: u64,
        refused: &Refused,
    ) -> Option<NodeId> {
        let mut chosen = None;
        self.change(|news| {
            set(news, process, DrainFate::Waiting);
            let may = |node| refused.allows(node);
            chosen = choice::target(rooms, &news.processes, memory_bytes, may);
            if let Some(to) = chosen {
                set(news, process, DrainFate::Moving { to });
            }
        });
        chosen
    }

    /// Closes the node. Whoever does that then works until there is nothing to do, or until it [is over](Self::over).
    pub(super) fn begin(&self, within: Duration, registry: RegistryFate) -> Result<(), Failure> {
        let mut begun = Ok(());
        self.news.send_if_modified(|news| {
            begun = match news.stage {
                DrainStage::Draining => Err("the node is being drained already"),
                DrainStage::Drained => Err("the node is drained already"),
                _ => Ok(()),
            };
            if begun.is_ok() {
                self.until.send_replace(Until {
                    at: Instant::now() + within,
                    cancelled: false,
                });
                *news = DrainNews {
                    number: news.number + 1,
                    stage: DrainStage::Draining,
                    registry,
                    ..DrainNews::default()
                };
            }
            begun.is_ok()
        });
        begun.map_err(|why| {
            Failure::refused(format!(
                "{why}: `sterna nodes` shows it, and `sterna drain --cancel` lets it take processes again"
            ))
        })
    }

    /// Opens the node again; the news when that is done.
    pub(super) async fn cancel(&self) -> Result<DrainNews, Failure> {
        match self.stage() {
            DrainStage::Draining => {
                self.until.send_replace(Until {
                    at: Instant::now(),
                    cancelled: true,
                });
                Ok(self.ended().await)
            }
            DrainStage::Drained => {
                // What left then is no news, and stays where it is.
                self.change(|news| {
                    *news = DrainNews {
                        number: news.number,
                        stage: DrainStage::Cancelled,
                        ..DrainNews::default()
                    };
                });
                Ok(self.news())
            }
            _ => Err(Failure::refused("the node is not being drained")),
        }
    }

    /// No process is moved any more. What is here stays, and why if nobody has said; what is not is gone, unless that is not
    /// known: then what did not leave stays, too.
    pub(super) fn settle(&self, here: &HashSet<ProcessId>, is_known: bool, why: &str) {
        self.change(|news| {
            let known: HashSet<_> = news.processes.iter().map(|entry| entry.process).collect();
            let unseen = here.difference(&known).map(|process| DrainEntry {
                process: *process,
                memory_bytes: 0,
                fate: DrainFate::Waiting,
            });
            news.processes.extend(unseen);
            for entry in &mut news.processes {
                match &entry.fate {
                    DrainFate::Moved { .. } | DrainFate::Gone => {}
                    _ if is_known && !here.contains(&entry.process) => entry.fate = DrainFate::Gone,
                    DrainFate::Stayed { .. } => {}
                    DrainFate::Waiting | DrainFate::Moving { .. } => {
                        let why = why.to_owned();
                        entry.fate = DrainFate::Stayed { why };
                    }
                }
            }
        });
    }

    /// Nobody works at it any more. What came of it.
    pub(super) fn end(&self) -> DrainStage {
        let cancelled = self.is_cancelled();
        self.change(|news| {
            let has_left = |fate: &_| matches!(fate, DrainFate::Moved { .. } | DrainFate::Gone);
            let stays = |entry: &DrainEntry| !has_left(&entry.fate);
            let port_stays = |port: &DrainPort| matches!(port.fate, PortFate::Stayed { .. });
            let registry_stays = matches!(news.registry, RegistryFate::Stayed { .. });
            news.stage = match cancelled {
                true => DrainStage::Cancelled,
                false
                    if registry_stays
                        || news.processes.iter().any(stays)
                        || news.ports.iter().any(port_stays) =>
                {
                    DrainStage::Incomplete
                }
                false => DrainStage::Drained,
            };
        });
        self.stage()
    }

    pub(in crate::hosting) fn is_cancelled(&self) -> bool {
        self.until.borrow().cancelled
    }

    pub(super) fn is_over(&self) -> bool {
        self.until.borrow().at <= Instant::now()
    }

    /// Until it is cancelled, or its time is over.
    pub(super) async fn over(&self) {
        let mut until = self.until.subscribe();
        loop {
            let at = until.borrow_and_update().at;
            tokio::select! {
                () = sleep_until(at) => return,
                _ = until.changed() => {}
            }
        }
    }
}

fn set(news: &mut DrainNews, process: ProcessId, fate: DrainFate) {
    let mut entries = news.processes.iter_mut();
    if let Some(entry) = entries.find(|entry| entry.process == process) {
        entry.fate = fate;
    }
}

impl DrainEntry {
    pub(super) fn waiting(brief: &Brief) -> Self {
        Self {
            process: brief.process,
            memory_bytes: brief.stats.memory_bytes,
            fate: DrainFate::Waiting,
        }
    }
}

/// Which nodes did not take something, why, and how often each can still be tried.
#[derive(Default)]
pub(super) struct Refused(HashMap<NodeId, (String, u32)>);

impl Refused {
    pub(super) fn add(&mut self, node: NodeId, why: String, retry: bool) {
        let left = self.0.get(&node).map_or(DRAIN_TRIES_MAX, |(_, left)| *left);
        let left = if retry { left - 1 } else { 0 };
        self.0.insert(node, (why, left));
    }

    pub(super) fn allows(&self, node: NodeId) -> bool {
        self.0.get(&node).is_none_or(|(_, left)| *left > 0)
    }

    /// All reasons, with the names of those whose they are.
    pub(super) fn told(&self, name: impl Fn(NodeId) -> String) -> String {
        let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
        for (node, (why, _)) in &self.0 {
            match reasons.iter_mut().find(|(known, _)| known == why) {
                Some((_, nodes)) => nodes.push(name(*node)),
                None => reasons.push((why, vec![name(*node)])),
            }
        }
        let told = reasons.into_iter().map(|(why, mut nodes)| {
            nodes.sort();
            format!("{}: {why}", nodes.join(", "))
        });
        let mut told: Vec<String> = told.collect();
        told.sort();
        match told.is_empty() {
            true => "no other node that answers has room and takes processes".to_owned(),
            false => told.join("; "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fate: DrainFate) -> DrainEntry {
        DrainEntry {
            process: ProcessId::random(),
            memory_bytes: 1,
            fate,
        }
    }

    /// What came of a drain, and how many stay, with one entry of each fate; `sees`: whether the runner still answers.
    fn settled(sees: bool) -> (DrainStage, usize) {
        let to = NodeId::from_bytes([1; 32]);
        let moved = DrainFate::Moved {
            to,
            downtime_us: None,
        };
        let fates = [DrainFate::Waiting, DrainFate::Moving { to }, moved];
        let progress = Progress::default();
        progress.change(|news| news.processes.extend(fates.map(entry)));
        let unseen = HashSet::from([ProcessId::random()]);
        match sees {
            true => progress.settle(&HashSet::new(), true, "late"),
            false => progress.settle(&unseen, false, "no answer"),
        }
        let stage = progress.end();
        let all = progress.news().processes;
        let stayed = all.iter().filter(|entry| match &entry.fate {
            DrainFate::Stayed { why } => why == "no answer",
            _ => false,
        });
        (stage, stayed.count())
    }

    #[tokio::test]
    async fn what_is_cancelled_when_all_had_left_has_no_other_news() {
        let progress = Progress::default();
        progress.change(|news| news.processes.push(entry(DrainFate::Gone)));
        assert_eq!(progress.end(), DrainStage::Drained);
        let number = progress.news().number;
        let news = progress.cancel().await.unwrap();
        assert_eq!(news.stage, DrainStage::Cancelled);
        assert!(news.processes.is_empty() && news.number > number);
        assert!(progress.cancel().await.is_err());
    }

    #[test]
    fn what_is_not_known_to_have_left_stays() {
        assert_eq!(settled(true), (DrainStage::Drained, 0));
        assert_eq!(settled(false), (DrainStage::Incomplete, 3));
        let progress = Progress::default();
        progress.change(|news| news.processes.push(entry(DrainFate::Waiting)));
        assert_eq!(progress.end(), DrainStage::Incomplete);
    }
}
