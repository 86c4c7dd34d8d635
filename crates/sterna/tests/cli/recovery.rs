//! What is gone on with when the target of a move dies before its source has heard that the process runs there.

use std::fs;

use rustix::process::{Signal, kill_process};

use crate::cluster::has_id;
use crate::trial::{Fate, Role, Trial};
use crate::world::until;

fn has_lost(trial: &Trial, name: &str, id: &str) {
    assert_eq!(trial.settle(name, id), Fate::Lost);
}

/// Has it end, and gives its output, which is whole although some of it was written twice elsewhere.
fn end(trial: &Trial, name: &str) -> String {
    trial.writes_on(name);
    let file = trial.cluster.desk().join(format!("{name}.end"));
    fs::write(file, "").unwrap();
    trial.cluster.whole(name)
}

#[test]
fn what_its_target_lost_goes_on_with_the_copy_at_its_source() {
    let mut trial = Trial::new();
    // It never ran there, or did without anybody's hearing of it.
    for (name, point) in [("p0", "runner obey Resume"), ("p1", "runner tell Resumed")] {
        let id = trial.start(name);
        let older = ["snapshot", name, "--once", "--to", "home"];
        trial.cluster.ask(&older).ok();
        let mut moving = trial.move_to_point(name, (Role::TargetRunner, point));
        trial.cluster.at("two").kill_runner();
        trial.arm(Role::TargetRunner, "");
        moving.end();
        has_lost(&trial, name, &id);
        let elsewhere = ["recover", name, "--on", "home"];
        let said = ["node one has kept a copy", "--on one"];
        trial.cluster.ask(&elsewhere).fails(1, &said);
        let told = trial.cluster.ask(&["recover", name]).ok();
        assert!(told.contains("goes on on one with the copy"), "{told}");
        trial
            .cluster
            .ask(&["recover", name])
            .fails(1, &["not lost"]);
        assert_eq!(trial.settle(name, &id), Fate::Lives);
        trial.cluster.is_at(name, "one");
        let output = end(&trial, name);
        trial.written.push((point.to_owned(), output));
        until("the node has a runner", || {
            trial.cluster.at("two").runner().is_some()
        });
    }
    trial.compare();
}

#[test]
fn a_snapshot_that_the_target_has_made_goes_before_the_copy_at_the_source() {
    let mut trial = Trial::new();
    let id = trial.start("p0");
    drop(trial.move_to_point("p0", (Role::SourceService, "service order Discard")));
    trial.cluster.kill("one");
    trial.arm(Role::SourceService, "");
    trial.writes_on("p0");
    let newer = ["snapshot", "p0", "--once", "--to", "home"];
    trial.cluster.ask(&newer).ok();
    trial.cluster.at("two").kill_runner();
    has_lost(&trial, "p0", &id);
    trial.cluster.start_again("one");
    let holds = |trial: &Trial| {
        let here = trial.cluster.at("one").here(&trial.cluster.world);
        here.iter().any(|(of, _)| of.starts_with(&id))
    };
    until("the copy is seen", || holds(&trial));
    let at_the_copy = trial.cluster.ask_at("one", &["recover", "p0"]);
    at_the_copy.fails(1, &["snapshot 0", "is newer than the copy"]);
    let told = trial.cluster.ask(&["recover", "p0"]).ok();
    assert!(told.contains("goes on on home from snapshot 0"), "{told}");
    let output = end(&trial, "p0");
    until("the copy is let go", || !holds(&trial));
    trial.written.push(("a newer snapshot".to_owned(), output));
    trial.compare();
}

#[test]
fn what_is_kept_of_a_process_is_let_go_when_that_is_removed() {
    let trial = Trial::new();
    let id = trial.start("p0");
    let mut moving = trial.move_to_point("p0", (Role::TargetRunner, "runner tell Resumed"));
    trial.cluster.at("two").kill_runner();
    trial.arm(Role::TargetRunner, "");
    moving.end();
    has_lost(&trial, "p0", &id);
    let holds = || {
        let here = trial.cluster.at("one").here(&trial.cluster.world);
        here.iter().any(|(of, _)| of.starts_with(&id))
    };
    assert!(holds());
    trial.cluster.ask(&["rm", "p0"]).ok();
    until("the copy is let go", || !holds());
}

/// Who asks for all processes hears of those of a node whose runner hangs what the registry knows.
#[test]
fn a_runner_that_hangs_holds_up_no_list() {
    let trial = Trial::new();
    let id = trial.start("p0");
    let one = trial.cluster.at("one");
    let runner = one.runner().unwrap();
    kill_process(runner, Signal::STOP).unwrap();
    let rows = one.json(&trial.cluster.world, &["ps", "--json"]);
    let row = &rows.as_array().unwrap()[0];
    assert!(has_id(row, &id), "{rows}");
    assert_eq!(row["state"], "unknown", "{rows}");
    one.fails(
        &trial.cluster.world,
        &["ps", "--here"],
        &["does not answer"],
    );
    kill_process(runner, Signal::CONT).unwrap();
    let rows = one.json(&trial.cluster.world, &["ps", "--json"]);
    assert_ne!(rows[0]["state"], "unknown", "{rows}");
    trial.finish("p0", "a runner that hung");
}
