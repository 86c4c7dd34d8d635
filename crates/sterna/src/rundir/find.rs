//! Which process is meant: [`find`], by id, name or process id.

use anyhow::{Result, anyhow};
use sterna_process::Plain;

use super::{Record, RunDirectory, look};
use crate::show;

/// How alike a name must be to be suggested, of 1.
const ALIKE_MIN: f64 = 0.6;
const SUGGESTIONS_MAX: usize = 3;

/// A process that was asked for, and the way to it.
pub(crate) struct Found {
    pub(crate) directory: RunDirectory,
    pub(crate) record: Record,
}

/// The process that a user means: by the beginning of its id, its whole name, or its host's process id.
pub(crate) fn find(wanted: &str) -> Result<Found> {
    let (directory, live) = look()?;
    // A name goes first, also that of one which has just ended: no other is meant whose id begins so.
    let was = directory.ended().iter().any(|ended| ended.name == wanted);
    match choose(wanted, &live, was) {
        Choice::One(record) => Ok(Found { directory, record }),
        Choice::Several(records) => Err(ambiguous(wanted, &records)),
        Choice::None => Err(unknown(wanted, &directory, &live)),
    }
}

enum Choice {
    One(Record),
    Several(Vec<Record>),
    None,
}

fn choose(wanted: &str, live: &[Record], was_name: bool) -> Choice {
    let exact = |record: &&Record| {
        record.name == wanted || record.pid.to_string() == wanted || record.id.to_string() == wanted
    };
    let begins = |record: &&Record| record.id.has_prefix(wanted);
    let mut chosen: Vec<Record> = live.iter().filter(exact).cloned().collect();
    if chosen.is_empty() && !was_name {
        chosen = live.iter().filter(begins).cloned().collect();
    }
    match chosen.len() {
        0 => Choice::None,
        1 => Choice::One(chosen.remove(0)),
        _ => Choice::Several(chosen),
    }
}

fn ambiguous(wanted: &str, records: &[Record]) -> anyhow::Error {
    let list: String = records
        .iter()
        .map(|record| {
            format!(
                "\n  {}  {} (pid {})",
                record.id.short(),
                Plain(&record.name),
                record.pid
            )
        })
        .collect();
    anyhow!(
        "{} can mean several processes; name one by its id:{list}",
        Plain(wanted)
    )
}

fn unknown(wanted: &str, directory: &RunDirectory, live: &[Record]) -> anyhow::Error {
    let ended = directory.ended().into_iter().find(|ended| {
        ended.name == wanted || ended.pid.to_string() == wanted || ended.id.has_prefix(wanted)
    });
    if let Some(ended) = ended {
        return anyhow!(
            "process {} ({}) has just ended: {} ago, it {}",
            ended.id.short(),
            Plain(&ended.name),
            show::age(ended.ago()),
            Plain(&ended.how)
        );
    }
    let nearest = nearest(wanted, live);
    let wanted = Plain(wanted);
    match (live.len(), nearest.len()) {
        (0, _) => anyhow!("no process {wanted}: none runs here; start one with `sterna run`"),
        (_, 0) => anyhow!("no process {wanted}: see `sterna ps`"),
        _ => anyhow!(
            "no process {wanted}: did you mean {}?",
            nearest.join(" or ")
        ),
    }
}

/// Names and ids that look like what was asked for.
fn nearest(wanted: &str, live: &[Record]) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let mut alike: Vec<(f64, String)> = live
        .iter()
        .map(|record| {
            let name = record.name.to_lowercase();
            let by_name = strsim::jaro_winkler(&wanted, &name)
                .max(strsim::normalized_damerau_levenshtein(&wanted, &name));
            let short = record.id.short();
            let by_id = strsim::normalized_damerau_levenshtein(&wanted, &short);
            match by_name >= by_id {
                true => (by_name, format!("{} ({short})", Plain(&record.name))),
                false => (by_id, format!("{short} ({})", Plain(&record.name))),
            }
        })
        .filter(|(alike, _)| *alike >= ALIKE_MIN)
        .collect();
    alike.sort_by(|one, other| other.0.total_cmp(&one.0));
    alike.truncate(SUGGESTIONS_MAX);
    alike.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use sterna_process::{ProcessId, ProgramId, Tag};

    use super::*;

    fn record(first: u8, name: &str, pid: u32) -> Record {
        let mut bits = [0; 16];
        bits[0] = first;
        let id = ProcessId::from_bytes(bits);
        let mut record = Record::new(id, name, Tag::new("toy"), ProgramId::of(b""), "f");
        record.pid = pid;
        record
    }

    #[test]
    fn processes_are_chosen_by_name_then_by_beginning_of_the_id() {
        let live = [
            record(0, "lua", 700),
            record(1, "00", 701),
            record(255, "lua", 702),
        ];
        let one = |wanted: &str| match choose(wanted, &live, false) {
            Choice::One(record) => Some(record.pid),
            _ => None,
        };
        assert_eq!(
            one("00"),
            Some(701),
            "a whole name comes before a beginning"
        );
        assert_eq!(one("702"), Some(702));
        assert_eq!(one("ZZ"), None);
        assert_eq!(one("z"), Some(702));
        assert!(matches!(choose("lua", &live, false), Choice::Several(both) if both.len() == 2));
        assert!(matches!(choose("", &live, false), Choice::None));
        let after_its_end = choose("z", &live, true);
        assert!(
            matches!(after_its_end, Choice::None),
            "the name of one that has ended never means another's id"
        );
        assert_eq!(nearest("lau", &live[..2]), ["lua (00000000)"]);
    }
}
