//! Each role of a move is killed, and stopped, at each of its phases.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use sterna_migration::Limits;

use crate::cluster::{Cluster, How, free_address};
use crate::trial::Fate::{self, Either, Lives, Lost};
use crate::trial::{Fault, Role, Trial, faults};
use crate::world::{guest, until};

const SOURCE_SERVICE: [&str; 12] = [
    "service hear Accept",
    "service ask Declare",
    "service answered Declare",
    "service order Pause",
    "service told Paused",
    "service order Capture",
    "service told Captured",
    "service order Push",
    "service say State",
    "service told Pushed",
    "service hear Committed",
    "service order Discard",
];
const TARGET_SERVICE: [&str; 13] = [
    "service hear Offer",
    "service order Prepare",
    "service told Prepared",
    "service say Accept",
    "service hear State",
    "service order Restore",
    "service told Restored",
    "service ask Commit",
    "service answered Commit",
    "service say Committed",
    "service order Resume",
    "service told Resumed",
    "service say Done",
];
const HOME: [&str; 4] = [
    "registry write Declare",
    "registry wrote Declare",
    "registry write Commit",
    "registry wrote Commit",
];
/// With what becomes of the process if it is killed there.
const SOURCE_RUNNER: [(&str, Fate); 7] = [
    ("runner obey Pause", Lost),
    ("runner Looked", Lost),
    ("runner tell Paused", Lost),
    ("runner tell Captured", Lost),
    ("runner HalfSent", Lost),
    ("runner tell Pushed", Either),
    ("runner obey Discard", Lives),
];
const TARGET_RUNNER: [(&str, Fate); 7] = [
    ("runner obey Prepare", Lives),
    ("runner tell Prepared", Lives),
    ("runner SomeTaken", Lives),
    ("runner Made", Lives),
    ("runner tell Restored", Lives),
    ("runner obey Resume", Lost),
    ("runner tell Resumed", Lost),
];

fn check(role: Role, fault: Fault, points: impl IntoIterator<Item = (&'static str, Fate)>) {
    let mut trial = Trial::new();
    for (point, fate) in points {
        trial.disturb(role, point, fault, fate);
    }
    trial.compare();
}

fn lives(point: &'static str) -> (&'static str, Fate) {
    (point, Lives)
}

#[test]
fn a_source_that_is_killed_at_any_phase_loses_nothing() {
    check(Role::SourceService, Fault::Kill, SOURCE_SERVICE.map(lives));
}

#[test]
fn a_target_that_is_killed_at_any_phase_loses_nothing() {
    check(Role::TargetService, Fault::Kill, TARGET_SERVICE.map(lives));
}

#[test]
fn a_registry_that_is_killed_before_or_after_a_write_loses_nothing() {
    check(Role::Home, Fault::Kill, HOME.map(lives));
}

#[test]
fn a_runner_that_is_killed_loses_what_it_alone_had_and_that_once() {
    check(Role::SourceRunner, Fault::Kill, SOURCE_RUNNER);
}

#[test]
fn a_targets_runner_that_is_killed_loses_what_was_committed_and_nothing_before() {
    check(Role::TargetRunner, Fault::Kill, TARGET_RUNNER);
}

#[test]
fn a_source_that_is_stopped_at_any_phase_goes_on() {
    check(Role::SourceService, Fault::Stop, SOURCE_SERVICE.map(lives));
}

#[test]
fn a_target_that_is_stopped_at_any_phase_is_given_up_or_waited_for() {
    check(Role::TargetService, Fault::Stop, TARGET_SERVICE.map(lives));
}

#[test]
fn a_registry_that_is_stopped_before_or_after_a_write_goes_on() {
    check(Role::Home, Fault::Stop, HOME.map(lives));
}

#[test]
fn a_runner_that_is_stopped_at_any_phase_goes_on() {
    let points = |(point, _)| lives(point);
    check(Role::SourceRunner, Fault::Stop, SOURCE_RUNNER.map(points));
}

#[test]
fn a_targets_runner_that_is_stopped_at_any_phase_is_given_up_or_waited_for() {
    let points = |(point, _)| lives(point);
    check(Role::TargetRunner, Fault::Stop, TARGET_RUNNER.map(points));
}

/// With the limits that users have, of which the longest is for a target that compiles.
#[test]
fn a_target_that_dies_before_it_accepts_is_not_waited_for() {
    let mut cluster = Cluster::new_so(&["home", "one", "two"], |world, name| {
        let mut how = How::default();
        if name == "two" {
            let file = faults(world, name);
            fs::write(&file, "service order Prepare").unwrap();
            let file = file.to_str().unwrap().to_owned();
            how.environment.push(("STERNA_FAULTS".to_owned(), file));
        }
        (free_address(), how)
    });
    cluster.have_runners();
    let (lua, endless) = (guest("lua"), "while true do end");
    let words = ["run", "--detach", "--on", "one", "--name", "p"];
    let words = [&words[..], &[&*lua, "-e", endless]].concat();
    cluster.ask(&words).ok();
    let mut moving = cluster.begin(&["move", "p", "two", "--json"]);
    let file = faults(&cluster.world, "two");
    until("it is there", || {
        assert!(!moving.out.has_ended(), "{}", moving.err.text());
        fs::read_to_string(&file).unwrap().starts_with("reached")
    });
    cluster.kill("two");
    assert_eq!(moving.end().code(), Some(3), "{}", moving.err.text());
    let report: Value = serde_json::from_str(&moving.out.text()).unwrap();
    assert!(
        report["outcome"]
            .as_str()
            .unwrap()
            .contains("did not answer"),
        "{report}"
    );
    let took = Duration::from_micros(report["total_us"].as_u64().unwrap());
    assert!(took < Limits::default().accept_within / 2, "{took:?}");
    cluster.is_at("p", "one");
    fs::write(&file, "").unwrap();
    cluster.start_again("two");
    until("it is taken", || {
        cluster.ask(&["move", "p", "two"]).0.status.success()
    });
    cluster.ask(&["kill", "p"]).ok();
}

/// So much that it cannot all be on its way.
const LARGE: &str = "local large={} for i=1,64 do large[i]=string.rep(tostring(i),400000) end";

#[test]
fn a_target_that_stops_reading_is_given_up_and_takes_the_process_later() {
    let mut trial = Trial::new();
    let id = trial.start_with(LARGE, "p0");
    let mut moving = trial.move_to_point("p0", (Role::TargetRunner, "runner SomeTaken"));
    assert!(!moving.end().success(), "{}", moving.out.text());
    assert_eq!(trial.settle("p0", &id), Lives);
    trial.cluster.is_at("p0", "one");
    trial.writes_on("p0");
    trial.arm(Role::TargetRunner, "");
    until("it is taken", || {
        let moved = trial.cluster.ask(&["move", "p0", "two"]);
        moved.0.status.success()
    });
    trial.cluster.is_at("p0", "two");
    let log = trial.finish("p0", "stops reading");
    trial.written.push(("stops reading".to_owned(), log));
    trial.compare();
}
