//! What became of a move, for people and programs: [`MoveReport`].

use std::time::Duration;

use sterna_migration::{
    Attempt, Copied, Life, MoveFailure, NodeId, Outcome, Part, Record, Report, Retry,
};
use sterna_process::ProcessId;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::Hosting;
use super::input::Input;
use crate::limits::{LOST_WITHIN, NEWS_WITHIN, RETRY_FIRST, RUNNER_SILENT_MAX};
use crate::message::{
    Failure, HostingReply, MoveEnd, MoveProgress, MoveReport, RegistryRequest, Reply,
};
use crate::service::Service;

impl Service {
    /// How far a move is, when it has made more rounds than `after` or has ended, or after a while. A service that was
    /// started again since the move began knows of it what the record says.
    pub(super) async fn progress_of(
        &self,
        hosting: &Hosting,
        attempt: Attempt,
        after: u32,
    ) -> Result<MoveProgress, Failure> {
        let mut changed = hosting.news.watch();
        let until = Instant::now() + NEWS_WITHIN - RUNNER_SILENT_MAX;
        let known = hosting.news.going_of(attempt);
        loop {
            changed.borrow_and_update();
            let goes_on = hosting.is_busy(attempt).await;
            let going = hosting.news.going_of(attempt);
            let rounds = hosting.news.rounds_after(attempt, after);
            // Asked for after that: the report of a move is there before the move is over.
            let ended = match hosting.news.report_of(attempt) {
                Some((report, travelled)) => Some((report, Some(travelled))),
                None if goes_on => None,
                None => self
                    .end_by_record(attempt)
                    .await?
                    .map(|report| (report, None)),
            };
            let ended = match ended {
                Some((mut report, travelled)) if hosting.news.is_in_doubt(attempt) => {
                    if !report.moved {
                        self.note_freeze(&mut report).await;
                    } else if self.is_lost_soon(report.process).await {
                        report.note_loss();
                    }
                    Some((report, travelled))
                }
                ended => ended,
            };
            let ended = ended.map(|(report, travelled)| {
                let copied = hosting.copies.sent(attempt);
                Box::new(MoveEnd {
                    report,
                    travelled,
                    copied,
                })
            });
            if ended.is_some() || !rounds.is_empty() || going != known {
                return Ok(MoveProgress {
                    rounds,
                    going,
                    ended,
                });
            }
            let left = until.saturating_duration_since(Instant::now());
            if timeout(left.min(LOOK_EVERY), changed.changed())
                .await
                .is_err()
                && left.is_zero()
            {
                hosting.responds().await?;
                return Ok(MoveProgress::default());
            }
        }
    }

    /// The same for who asks for the end alone.
    pub(super) async fn news_of(
        &self,
        hosting: &Hosting,
        attempt: Attempt,
    ) -> Result<HostingReply, Failure> {
        let ended = self.progress_of(hosting, attempt, u32::MAX).await?.ended;
        Ok(match ended.map(|end| (end.report, end.copied)) {
            Some((report, Some(copied))) => HostingReply::MovedWithCopies(Box::new(report), copied),
            Some((report, None)) => HostingReply::MoveNews(Some(Box::new(report))),
            None => HostingReply::MoveNews(None),
        })
    }

    /// What the record says about a move of which nothing else is known, if it has ended.
    async fn end_by_record(&self, attempt: Attempt) -> Result<Option<MoveReport>, Failure> {
        let record = self.entry(attempt.process).await?.record();
        let record = record.map_err(Failure::refused)?;
        let report = || MoveReport::from_record(self.id, attempt, record);
        Ok(record.intent.is_none().then(report))
    }
}

/// How it is told that a process was not moved, before the reason.
pub(super) const STAYED: &str = "stayed where it is: ";
/// How often a move is asked after of which there may never be a report.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Hosting {
    /// Whether a move of the process goes on at this node.
    async fn is_busy(&self, attempt: Attempt) -> bool {
        let process = attempt.process;
        let (busy, answered) = oneshot::channel();
        self.tell(Input::IsBusy { process, busy }).await;
        answered.await.unwrap_or(true)
    }
}

impl Service {
    /// Whether the record of a process says that it was lost, within the time in which its owner would have written that.
    async fn is_lost_soon(&self, process: ProcessId) -> bool {
        let until = Instant::now() + LOST_WITHIN;
        while Instant::now() < until {
            let asked = self.ask_registry(RegistryRequest::Record { process }).await;
            if let Ok(Reply::Record(Some(bytes))) = asked
                && Record::decode(&bytes).is_ok_and(|record| record.life == Life::Lost)
            {
                return true;
            }
            sleep(RETRY_FIRST).await;
        }
        false
    }

    /// A process that runs nowhere any more may have been frozen.
    async fn note_freeze(&self, report: &mut MoveReport) {
        let entry = self.entry(report.process).await;
        let record = entry.ok().and_then(|entry| entry.record().ok());
        if record.is_some_and(|record| matches!(record.life, Life::Frozen(_))) {
            "was frozen before it could be moved".clone_into(&mut report.outcome);
        }
    }
}

impl MoveReport {
    /// It was the target's, and was lost there with what had not come yet.
    fn note_loss(&mut self) {
        self.moved = false;
        "was lost: the runner that had the rest of its memory died before that had followed it"
            .clone_into(&mut self.outcome);
    }

    /// Only the record knows what became of it: whether all of its memory had followed, if the runner that had the rest died;
    /// and by what it ended, if it did.
    pub(super) fn is_in_doubt(report: &Report) -> bool {
        match report.outcome {
            Outcome::Moved { copy } => copy == Copied::Gone && report.travelled.strategy.follows(),
            Outcome::Ended => true,
            Outcome::Stayed(_) | Outcome::Lost { .. } => false,
        }
    }

    /// Of a move whose beginning nobody remembers.
    fn from_record(source: NodeId, attempt: Attempt, record: Record) -> Self {
        let moved = record.owner != source && record.epoch > attempt.epoch;
        let outcome = match moved {
            true => "was moved; its node was started again meanwhile, and has no figures of it",
            false => "stayed where it is: its node was started again in the middle of the move",
        };
        Self {
            process: attempt.process,
            move_id: attempt.move_id,
            source,
            target: record.owner,
            moved,
            outcome: outcome.to_owned(),
            retry: !moved,
            image_bytes: 0,
            pages: 0,
            downtime_us: None,
            watched_us: None,
            was_ready: None,
            total_us: 0,
            parts: Vec::new(),
        }
    }

    /// As it is told to people and programs.
    pub(super) fn of(report: &Report, watched: Option<(u64, bool)>) -> Self {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let size = report.size.unwrap_or_default();
        let parts = report.parts.iter();
        let (moved, outcome, retry) = told(&report.outcome);
        Self {
            process: report.attempt.process,
            move_id: report.attempt.move_id,
            source: report.source,
            target: report.target,
            moved,
            outcome,
            retry,
            image_bytes: size.image_bytes,
            pages: size.pages,
            downtime_us: report.downtime().map(us),
            watched_us: watched.map(|(us, _)| us),
            was_ready: watched.map(|(_, ready)| ready),
            total_us: us(report.total),
            parts: parts
                .map(|(part, time)| (part_name(*part).to_owned(), us(*time)))
                .collect(),
        }
    }
}

fn told(outcome: &Outcome) -> (bool, String, bool) {
    match outcome {
        Outcome::Moved { copy } => {
            let text = match copy {
                Copied::Discarded | Copied::Gone => "was moved",
                Copied::Kept => {
                    "belongs to the target, which has not said that it runs there; its copy here is kept"
                }
            };
            (true, text.to_owned(), false)
        }
        Outcome::Stayed(failure) => {
            let retry = failure.retry() != Retry::Never;
            (false, format!("{STAYED}{}", chain(failure)), retry)
        }
        Outcome::Ended => (false, "ended before it could be moved".to_owned(), false),
        Outcome::Lost { copy } => {
            let text = match copy {
                Copied::Kept => "was lost at the target; a copy is kept here",
                _ => "was lost with its runner",
            };
            (false, text.to_owned(), false)
        }
    }
}

fn chain(failure: &MoveFailure) -> String {
    match std::error::Error::source(failure) {
        Some(source) => format!("{failure}: {source}"),
        None => failure.to_string(),
    }
}

const fn part_name(part: Part) -> &'static str {
    match part {
        Part::Fetch => "fetch",
        Part::Room => "room",
        Part::Accept => "accept",
        Part::Declare => "declare",
        Part::Copy => "copy",
        Part::Pause => "pause",
        Part::Capture => "capture",
        Part::Send => "send",
        Part::Restore => "restore",
        Part::Commit => "commit",
        Part::Resume => "resume",
        Part::Travel => "travel",
        Part::Follow => "follow",
        Part::Confirm => "confirm",
        Part::Settle => "settle",
        Part::Return => "return",
    }
}
