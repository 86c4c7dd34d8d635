//! What became of a move, for people and programs: [`MoveReport`].

use std::time::Duration;

use sterna_migration::{Copied, MoveFailure, Outcome, Part, Report, Retry};

use crate::message::MoveReport;

impl MoveReport {
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
            (
                false,
                format!("stayed where it is: {}", chain(failure)),
                retry,
            )
        }
        Outcome::Ended => (false, "ended before it could be moved".to_owned(), false),
        Outcome::Lost { copy } => {
            let text = match copy {
                Copied::Kept => "was lost with the target's runner; a copy is kept here",
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
        Part::Accept => "accept",
        Part::Declare => "declare",
        Part::Pause => "pause",
        Part::Capture => "capture",
        Part::Send => "send",
        Part::Restore => "restore",
        Part::Commit => "commit",
        Part::Resume => "resume",
        Part::Travel => "travel",
        Part::Confirm => "confirm",
        Part::Settle => "settle",
        Part::Return => "return",
    }
}
