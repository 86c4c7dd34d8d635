//! What became of a move, for people and programs.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use sterna_migration::{Round, RoundGoing, RoundsEnd, Strategy, Travelled};
use sterna_node::identity;
use sterna_node::message::{MoveEnd, Nodes, RoundNews};
use sterna_process::{PAGE_SIZE, Plain, ProcessId};

use crate::{node, show};

#[derive(Serialize)]
struct Told<'a> {
    id: ProcessId,
    from: &'a str,
    to: &'a str,
    from_id: String,
    to_id: String,
    moved: bool,
    outcome: &'a str,
    retry: bool,
    image_bytes: u64,
    pages: u64,
    downtime_us: Option<u64>,
    watched_us: Option<u64>,
    was_ready: Option<bool>,
    total_us: u64,
    parts_us: Vec<(&'a str, u64)>,
    copied: Option<Copied>,
    #[serde(flatten)]
    way: Option<Way<'a>>,
}

/// How memory went.
#[derive(Serialize)]
struct Way<'a> {
    strategy: &'static str,
    why_not: Option<&'a str>,
    rounds_ended: Option<&'static str>,
    expected_us: Option<u64>,
    rounds: Vec<ToldRound>,
}

#[derive(Serialize)]
struct ToldRound {
    pages: u64,
    bytes: u64,
    us: u64,
    held_back_us: u64,
    dirty_pages: u64,
}

/// What went of directories that are copied along.
#[derive(Serialize)]
struct Copied {
    running_bytes: u64,
    still_bytes: u64,
    still_us: u64,
    bytes: u64,
    entries: u64,
}

/// Says what became of a move.
pub(super) fn tell(end: &MoveEnd, nodes: &Nodes, as_json: bool) -> Result<()> {
    let report = &end.report;
    let from = node::name_of(nodes, report.source);
    let to = node::name_of(nodes, report.target);
    if !as_json {
        show::print(text(end, &from, &to));
        return Ok(());
    }
    let parts = report.parts.iter();
    show::json(&Told {
        id: report.process,
        from: &from,
        to: &to,
        from_id: identity::text(report.source),
        to_id: identity::text(report.target),
        moved: report.moved,
        outcome: &report.outcome,
        retry: report.retry,
        image_bytes: report.image_bytes,
        pages: report.pages,
        downtime_us: report.downtime_us,
        watched_us: report.watched_us,
        was_ready: report.was_ready,
        total_us: report.total_us,
        parts_us: parts.map(|(part, us)| (&**part, *us)).collect(),
        copied: end.copied.map(|sent| Copied {
            running_bytes: sent.running_bytes,
            still_bytes: sent.still_bytes,
            still_us: sent.still_us,
            bytes: sent.bytes,
            entries: sent.entries,
        }),
        way: end.travelled.as_ref().map(Way::of),
    })
}

impl<'a> Way<'a> {
    fn of(travelled: &'a Travelled) -> Self {
        let rounds = travelled.rounds.iter();
        Self {
            strategy: strategy(travelled.strategy),
            why_not: travelled.why_not.as_deref(),
            rounds_ended: travelled.end.map(|end| match end {
                RoundsEnd::Enough => "enough",
                RoundsEnd::NotConverging => "not converging",
                RoundsEnd::Late => "late",
                _ => "otherwise",
            }),
            expected_us: travelled.expected.map(us),
            rounds: rounds
                .map(|round| ToldRound {
                    pages: round.pages,
                    bytes: round.bytes,
                    us: us(round.took),
                    held_back_us: us(round.held_back),
                    dirty_pages: round.dirty,
                })
                .collect(),
        }
    }
}

fn us(time: Duration) -> u64 {
    time.as_micros().try_into().unwrap_or(u64::MAX)
}

pub(super) fn strategy(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::StopAndCopy => "stop-and-copy",
        Strategy::PreCopy => "pre-copy",
        Strategy::PostCopy => "post-copy",
        Strategy::Hybrid => "hybrid",
        _ => "otherwise",
    }
}

/// A round of a move that goes on, in a line.
pub(super) fn round(number: u32, RoundNews { round, expected_us }: &RoundNews) -> String {
    format!(
        "round {number}: {} pages left, {}/s written, would stand still for {}",
        round.dirty,
        show::bytes(rate(round.dirty.saturating_mul(PAGE_SIZE as u64), round)),
        show::time_us(*expected_us)
    )
}

/// A round that goes on, or what follows, in a line.
pub(super) fn going(number: u32, going: RoundGoing) -> String {
    let (sent, of) = (show::bytes(going.sent), show::bytes(going.of));
    match going.follows {
        true => format!("it runs there; {sent} of {of} of its memory have followed"),
        false => format!("round {number}: {sent} of {of}"),
    }
}

/// So many bytes in the time of a round, in a second.
fn rate(bytes: u64, round: &Round) -> u64 {
    (bytes as f64 / round.took.as_secs_f64().max(1e-6)) as u64
}

/// How its memory went.
fn way(travelled: &Travelled) -> String {
    let mut text = format!("  {}", strategy(travelled.strategy));
    if let Some(why) = &travelled.why_not {
        text.push_str(&format!(", since {}", Plain(why)));
    }
    let ended = match travelled.end {
        Some(RoundsEnd::NotConverging) => "; it writes as fast as it is copied",
        Some(RoundsEnd::Late) => "; there was no time for more rounds",
        _ => "",
    };
    text.push_str(ended);
    text.push('\n');
    for (number, round) in travelled.rounds.iter().enumerate() {
        text.push_str(&format!(
            "    round {:<2} {:>9}  {} pages, {} at {}/s; {} written meanwhile\n",
            number + 1,
            show::time(round.took),
            round.pages,
            show::bytes(round.bytes),
            show::bytes(rate(round.bytes, round)),
            round.dirty
        ));
    }
    text
}

/// What each part of a move is.
fn meaning(part: &str, ready: Option<bool>, has_rounds: bool, moved: bool) -> &'static str {
    match (part, ready) {
        ("fetch", _) => "the program went to the target and was compiled there",
        ("room", _) => "the target made room",
        ("accept", _) => "the target was asked and accepted",
        ("declare", _) => "the registry wrote the intent down",
        ("copy", _) if has_rounds => "its memory went to the target in rounds, while it ran",
        ("copy", _) if moved => "it was counted how much memory is to be sent",
        ("copy", _) => "its memory was counted, and sent while it ran",
        ("pause", Some(true)) => {
            "watched, running, until all it needs was ready there; then stopped"
        }
        ("pause", _) => "until it stood still",
        ("capture", _) => "stood still: its state became an image",
        ("send", _) => {
            "image and pages, and what changed in copied directories, went to the target"
        }
        ("restore", _) => "the target made the process of them",
        ("commit", _) => "the registry wrote the new owner down",
        ("resume", _) => "until its first instruction there",
        ("follow", _) => "ran there, while the rest of its memory came",
        ("travel", _) => "messages on their way",
        ("confirm", _) => "waited for news after the commit",
        ("settle", _) => "the registry wrote down that it stays",
        ("return", _) => "until it ran here again",
        _ => "",
    }
}

fn text(end: &MoveEnd, from: &str, to: &str) -> String {
    let MoveEnd {
        report,
        travelled,
        copied,
    } = end;
    let process = report.process.short();
    let mut text = match report.moved {
        true => format!("{process} moved from {from} to {to}\n"),
        false => format!("{process} {}\n", Plain(&report.outcome)),
    };
    let has_rounds = travelled.as_ref().is_some_and(|one| !one.rounds.is_empty());
    for (part, us) in &report.parts {
        let span = show::time(Duration::from_micros(*us));
        let meaning = meaning(part, report.was_ready, has_rounds, report.moved);
        text.push_str(&format!(
            "  {:<8} {span:>9}  {meaning}\n",
            Plain(part).to_string()
        ));
    }
    let total = show::time(Duration::from_micros(report.total_us));
    text.push_str(&format!("  total    {total:>9}\n"));
    if let Some(us) = report.downtime_us {
        let span = show::time(Duration::from_micros(us));
        text.push_str(&format!(
            "  downtime {span:>9}  from its last instruction before to its first after\n"
        ));
    }
    if report.moved {
        let bytes = report.image_bytes + report.pages * sterna_process::PAGE_SIZE as u64;
        // Then all of them did, whatever rounds had sent before.
        let is_told = report.parts.iter().any(|(part, _)| part == "follow");
        let strategy = travelled.as_ref().map(|one| one.strategy);
        let when = match is_told || strategy == Some(Strategy::PostCopy) {
            true => "after it ran there",
            false => "while it stood still",
        };
        text.push_str(&format!(
            "  {} pages {when}, {} with its image\n",
            report.pages,
            show::bytes(bytes)
        ));
    }
    if let Some(travelled) = travelled {
        text.push_str(&way(travelled));
    }
    if let Some(sent) = copied {
        text.push_str(&format!(
            "  copied along: {} while it ran and {} in {} while it stood still, of {} in {} files and directories\n",
            show::bytes(sent.running_bytes),
            show::bytes(sent.still_bytes),
            show::time(Duration::from_micros(sent.still_us)),
            show::bytes(sent.bytes),
            sent.entries
        ));
    }
    text
}
