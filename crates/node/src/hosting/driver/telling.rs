//! What the machines of moves notice, as others hear of it: reports and events.

use std::sync::Arc;

use sterna_migration::Notice;
use sterna_process::ProcessId;

use super::Driver;
use crate::hosting::news::News;
use crate::message::{EventSort, How, MoveReport, RoundNews};

impl Driver {
    pub(super) fn notify(&mut self, notice: Notice) {
        let news: &News = &self.hosting.news;
        match notice {
            Notice::MoveEnded(report) => {
                self.connected.remove(&report.attempt);
                let watched = self.watched.remove(&report.attempt);
                self.trees_sent.remove(&report.attempt);
                self.hosting.copies.left(report.attempt);
                let told = MoveReport::of(&report, watched);
                let (to, downtime_us) = (report.target, told.downtime_us);
                let sort = match told.moved {
                    true => EventSort::Moved { to, downtime_us },
                    false => EventSort::NotMoved { to },
                };
                news.event(report.attempt.process, sort, told.outcome.clone());
                let in_doubt = MoveReport::is_in_doubt(&report);
                news.report(report.attempt, (told, in_doubt), report.travelled);
            }
            Notice::Round {
                attempt,
                round,
                expected,
            } => {
                let expected_us = expected.as_micros().try_into().unwrap_or(u64::MAX);
                news.round(attempt, RoundNews { round, expected_us });
            }
            Notice::Arrived {
                attempt, source, ..
            } => {
                let sort = EventSort::Arrived { from: source };
                news.event(attempt.process, sort, "has arrived");
            }
            Notice::Lost { process, .. } => {
                self.unfollowed.remove(&process);
                self.tell_of_loss(process);
            }
            Notice::Fenced { process, .. } => {
                let what = "was ended here, since it lives on elsewhere";
                news.event(process, EventSort::Other, what);
            }
        }
    }

    /// With the reason that the registry has, so that all say the same.
    fn tell_of_loss(&self, process: ProcessId) {
        let (service, hosting) = (Arc::clone(&self.service), Arc::clone(&self.hosting));
        tokio::spawn(async move {
            let entry = service.entry(process).await;
            let ending = entry.ok().and_then(|entry| entry.ending);
            let what = match ending.map(|ending| ending.how) {
                Some(How::Lost { reason }) if !reason.is_empty() => format!("was lost: {reason}"),
                _ => "was lost with its runner".to_owned(),
            };
            hosting.news.event(process, EventSort::Lost, what);
        });
    }
}
