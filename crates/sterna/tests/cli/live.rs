//! Memory that goes in rounds while its process runs.

use std::fs;

use serde_json::Value;

use crate::cluster::{Cluster, How, free_address};
use crate::terminal::on_terminal_with;
use crate::trial::Fate::{self, Lives, Lost};
use crate::trial::{Fault, Role, Trial};
use crate::world::{World, guest, skip, until};

const PRE_COPY: &[&str] = &["--strategy", "pre-copy"];

/// It fills a large memory, and writes a part of it again and again; each line says something of all that was there.
pub(crate) fn writing(while_this: &str) -> String {
    format!(
        "local n=400000 local t={{}} for i=1,n do t[i]=i end local r=0 local s=0 \
         while {while_this} do r=r+1 for j=1,20000 do local i=(r*7919+j)%n+1 \
         s=(s*7+t[i])%1000003 t[i]=t[i]*31%1000003 end print(r..' '..s) io.stdout:flush() end"
    )
}

/// It computes for ever, in little memory.
const SMALL: &str = "local s=0 while true do s=(s+1)%7 end";

pub(crate) fn number(report: &Value, key: &str) -> u64 {
    report[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key}: {report}"))
}

/// What a move says, which has gone well; its parts add up.
#[track_caller]
pub(crate) fn moved(cluster: &Cluster, words: &[&str]) -> Value {
    let words = [&["move", "p"], words, &["--json"]].concat();
    let report = cluster.json(&words);
    let parts = report["parts_us"].as_array().unwrap();
    let sum: u64 = parts.iter().map(|part| part[1].as_u64().unwrap()).sum();
    assert_eq!(sum, number(&report, "total_us"), "{report}");
    for node in &cluster.nodes {
        node.notes_nothing();
    }
    report
}

/// That a move ends with this code, since the process stays, and what is told of it.
#[track_caller]
fn stays(cluster: &Cluster, words: &[&str], code: i32, said: &[&str]) {
    let answer = cluster.ask(words);
    assert_eq!(answer.0.status.code(), Some(code), "{}", answer.err());
    let told = answer.out();
    assert!(said.iter().all(|said| told.contains(said)), "{told}");
}

pub(crate) fn rounds(report: &Value) -> Vec<Value> {
    report["rounds"].as_array().unwrap().clone()
}

#[test]
fn a_program_that_keeps_writing_moves_in_rounds_and_loses_nothing() {
    let lua = guest("lua");
    let cluster = Cluster::new(&["one", "two"]);
    let program = writing("not io.open('/data/end')");
    let words = [
        "run",
        "--detach",
        "--name",
        "p",
        "--dir",
        "desk::/data:shared",
    ];
    let words = [&words[..], &[&lua, "-e", &program]].concat();
    cluster.ask(&words).ok();
    until("it writes", || !cluster.ask(&["logs", "p"]).ok().is_empty());
    for target in ["two", "one", "two", "one"] {
        let report = moved(&cluster, &[&[target], PRE_COPY].concat());
        assert_eq!(report["strategy"], "pre-copy", "{report}");
        let rounds = rounds(&report);
        assert!(number(&rounds[0], "pages") > 0, "{report}");
        // The pages that went while it stood still are fewer than those of the first round.
        assert!(
            number(&report, "pages") < number(&rounds[0], "pages"),
            "{report}"
        );
        let parts = report["parts_us"].as_array().unwrap();
        assert!(parts.iter().any(|part| part[0] == "copy"), "{report}");
    }
    fs::write(cluster.desk().join("end"), "").unwrap();
    let written = cluster.whole("p");
    let lines = written.lines().count();
    let plain = writing(&format!("r<{lines}"));
    let expected = World::new().ask(["run", &lua, "-e", &plain]).ok();
    assert!(written == expected, "the output differs");
}

/// It writes all of its memory, as fast as it can.
#[test]
fn what_writes_as_fast_as_it_is_copied_is_moved_all_the_same_or_not_as_is_wanted() {
    let cluster = Cluster::new(&["one", "two"]);
    let words = ["run", "--detach", "--name", "p", &guest("fill"), "32", "0"];
    cluster.ask(&words).ok();
    until("all of it was written", || {
        let seen = cluster.json(&["ps", "--json"]);
        seen[0]["memory_bytes"].as_u64().unwrap() > 32 << 20
    });
    let strict = ["two", "--strategy", "pre-copy", "--max-downtime", "1ms"];
    let words = [&["move", "p"][..], &strict].concat();
    let said = ["would stand still for about", "1.0ms are allowed"];
    stays(&cluster, &words, 3, &said);
    cluster.is_at("p", "one");
    for node in &cluster.nodes {
        node.notes_nothing();
    }
    moved(&cluster, &["two"]);
    let limited = ["one", "--max-rate", "1GB/s", "--deadline", "10s"];
    moved(&cluster, &limited);
    let report = moved(&cluster, &["two", "--strategy", "stop-and-copy"]);
    assert_eq!(rounds(&report), Vec::<Value>::new());
    cluster.ask(&["kill", "p"]).ok();
}

#[test]
fn a_small_one_is_stopped_and_copied_unless_somebody_wants_rounds() {
    let cluster = Cluster::new(&["one", "two"]);
    let words = ["run", "--detach", "--name", "p", &guest("lua"), "-e", SMALL];
    cluster.ask(&words).ok();
    let report = moved(&cluster, &["two"]);
    assert_eq!(report["strategy"], "stop-and-copy", "{report}");
    assert_eq!(report["why_not"], Value::Null);
    let report = moved(&cluster, &[&["one"], PRE_COPY].concat());
    assert_eq!(report["strategy"], "pre-copy", "{report}");
    let told = cluster
        .ask(&[&["move", "p", "two"], PRE_COPY].concat())
        .ok();
    let said = ["pre-copy", "round 1", "in rounds, while it ran", "downtime"];
    assert!(said.iter().all(|said| told.contains(said)), "{told}");
    cluster.ask(&["kill", "p"]).ok();
}

/// On a terminal: a line that tells how far the first round is.
#[test]
fn a_slow_round_tells_how_far_it_is() {
    let cluster = Cluster::new(&["one", "two"]);
    let words = ["run", "--detach", "--name", "p", &guest("fill"), "32", "0"];
    cluster.ask(&words).ok();
    let node = &cluster.at("one").data;
    let words = ["move", "p", "two", "--max-rate", "1MB/s", "--node", node];
    let Some(mut moving) = on_terminal_with(&cluster.world, &words, |command| command) else {
        skip!("there is no `script` (util-linux) to make a terminal");
    };
    moving.out.wait_for(" MiB of ");
    moving.say("\x03");
    moving.end();
    cluster.is_at("p", "one");
    cluster.ask(&["kill", "p"]).ok();
}

/// Its runner takes pages without it.
#[test]
fn a_process_is_not_stopped_for_a_target_whose_service_has_died() {
    let mut cluster = Cluster::new(&["one", "two"]);
    let words = ["run", "--detach", "--name", "p", &guest("fill"), "32", "0"];
    cluster.ask(&words).ok();
    let resident_kib = |node| {
        let runner = cluster.at(node).runner().unwrap().as_raw_nonzero();
        let memory = fs::read_to_string(format!("/proc/{runner}/status"));
        let memory = memory.unwrap_or_default();
        let resident = memory
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = resident.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.unwrap_or(0)
    };
    until("it is large", || resident_kib("one") > 32 << 10);
    let mut moving = cluster.begin(&["move", "p", "two", "--max-rate", "10MB/s"]);
    until("pages go", || resident_kib("two") > 8 << 10);
    cluster.kill("two");
    let told = moving.ended(3);
    assert!(told.contains("does not answer any more"), "{told}");
    assert!(!told.contains("capture"), "it was not stopped: {told}");
    cluster.start_again("two");
    cluster.is_at("p", "one");
    cluster.ask(&["kill", "p"]).ok();
}

#[test]
fn what_cannot_be_wanted_is_refused_before_anything_is_done() {
    let cluster = Cluster::new(&["one", "two"]);
    let words = ["run", "--detach", "--name", "p", &guest("lua"), "-e", SMALL];
    cluster.ask(&words).ok();
    let refused = |words: &[&str], code: i32, said: &[&str]| {
        let words = [&["move", "p", "two"], words].concat();
        cluster.ask(&words).fails(code, said);
        cluster.is_at("p", "one");
    };
    refused(
        &["--max-rate", "0"],
        2,
        &["--max-rate", "at a rate of 0 bytes"],
    );
    refused(&["--max-rate", "fast"], 2, &["is not a rate"]);
    refused(
        &["--max-downtime", "0s"],
        2,
        &["--max-downtime", "no time at all"],
    );
    refused(&["--deadline", "0s"], 2, &["--deadline", "no time at all"]);
    let short = ["--strategy", "post-copy", "--max-downtime", "10ms"];
    refused(&short, 2, &["post-copy has no downtime"]);
    for limit in [
        ["--max-downtime", "10ms"],
        ["--max-rate", "1GB/s"],
        ["--deadline", "1s"],
    ] {
        let words = [&["--strategy", "stop-and-copy"], &limit[..]].concat();
        refused(&words, 2, &["stop-and-copy makes no rounds"]);
    }
    // Some dozens of pages at 64 KiB a second.
    let slow = ["--max-rate", "64K/s", "--deadline", "1ms"];
    let words = [&["move", "p", "two"], &slow[..]].concat();
    stays(
        &cluster,
        &words,
        1,
        &["to copy its memory takes", "there are 1.0ms"],
    );
    cluster.is_at("p", "one");
    cluster.at("one").notes_nothing();
    let here = cluster.ask(&["move", "p", "one", "--strategy", "pre-copy"]);
    here.fails(1, &["is on that node already"]);
    cluster.ask(&["kill", "p"]).ok();
}

#[test]
fn one_that_is_being_copied_is_moved_after_that() {
    let cluster = Cluster::new(&["one", "two"]);
    let words = ["run", "--detach", "--name", "p", &guest("fill"), "64", "0"];
    cluster.ask(&words).ok();
    for target in ["two", "one", "two"] {
        let mut cloning = cluster.begin(&["clone", "p", target]);
        until("it was moved", || {
            let moved = cluster.ask(&["move", "p", target, "--strategy", "stop-and-copy"]);
            let told = format!("{}{}", moved.out(), moved.err());
            assert!(!told.contains("does not fit"), "{told}");
            moved.0.status.success()
        });
        // It may have been moved before the copy was begun.
        if cloning.end().success() {
            cluster.ask(&["kill", cloning.out.text().trim()]).ok();
        }
    }
    cluster.ask(&["kill", "p"]).ok();
}

/// In the middle of an upgrade.
#[test]
fn an_older_node_gets_it_in_one_piece_and_the_report_says_so() {
    let cluster = Cluster::new_so(&["new", "old"], |_, name| {
        let options = match name {
            "old" => vec!["--protocol".to_owned(), "2".to_owned()],
            _ => Vec::new(),
        };
        let how = How {
            options,
            ..How::default()
        };
        (free_address(), how)
    });
    let words = ["run", "--detach", "--name", "p", &guest("lua"), "-e", SMALL];
    cluster.ask(&words).ok();
    let strict = [PRE_COPY, &["--max-downtime", "1s"]].concat();
    let words = [&["move", "p", "old"], &strict[..]].concat();
    stays(&cluster, &words, 3, &["node is older"]);
    cluster.is_at("p", "new");
    let words = ["move", "p", "old", "--strategy", "post-copy"];
    stays(&cluster, &words, 3, &["its memory cannot follow it"]);
    cluster.is_at("p", "new");
    let report = moved(&cluster, &[&["old"], PRE_COPY].concat());
    assert_eq!(report["strategy"], "stop-and-copy", "{report}");
    let why = report["why_not"].as_str().unwrap();
    assert!(why.contains("older"), "{report}");
    // The older one moves it in the one way that it knows.
    let words = [&["move", "p", "new"], PRE_COPY].concat();
    cluster.ask(&words).fails(1, &["older", "upgrade it"]);
    cluster.ask(&["move", "p", "new"]).ok();
    cluster.is_at("p", "new");
    cluster.ask(&["kill", "p"]).ok();
}

const SOURCE_SERVICE: [&str; 4] = [
    "service order Track",
    "service told Tracking",
    "service order Round",
    "service told RoundSent",
];
const SOURCE_RUNNER: [&str; 5] = [
    "runner obey Track",
    "runner tell Tracking",
    "runner obey Round",
    "runner HalfRound",
    "runner tell RoundSent",
];

fn check(role: Role, fault: Fault, points: &[&str], fate: Fate) {
    let mut trial = Trial::new();
    trial.way = PRE_COPY;
    for point in points {
        trial.disturb(role, point, fault, fate);
    }
    trial.compare();
}

#[test]
fn a_source_that_is_killed_in_a_round_loses_nothing() {
    check(Role::SourceService, Fault::Kill, &SOURCE_SERVICE, Lives);
}

#[test]
fn a_source_that_is_stopped_in_a_round_goes_on() {
    check(Role::SourceService, Fault::Stop, &SOURCE_SERVICE, Lives);
}

#[test]
fn a_runner_that_is_killed_in_a_round_loses_what_it_alone_had() {
    check(Role::SourceRunner, Fault::Kill, &SOURCE_RUNNER, Lost);
}

#[test]
fn a_runner_that_is_stopped_in_a_round_goes_on() {
    check(Role::SourceRunner, Fault::Stop, &SOURCE_RUNNER, Lives);
}

#[test]
fn a_targets_runner_that_is_killed_or_stopped_in_a_round_is_given_up_or_waited_for() {
    let mut trial = Trial::new();
    trial.way = PRE_COPY;
    for fault in [Fault::Kill, Fault::Stop] {
        trial.disturb(Role::TargetRunner, "runner SomeTaken", fault, Lives);
    }
    trial.compare();
}
