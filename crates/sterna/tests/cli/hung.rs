//! Runners that hang: stopped, they answer nothing, and nobody may wait for them for ever. And runners that can have no more
//! descriptors.

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::cluster::{Cluster, How, free_address};
use crate::trial::{Role, Trial};
use crate::world::{guest, until};

/// All at once, since each is waited for a little.
#[test]
fn who_orders_something_of_a_runner_that_is_stopped_hears_what_to_do() {
    let trial = Trial::new();
    trial.start("p0");
    let (cluster, world) = (&trial.cluster, &trial.cluster.world);
    let (lua, text) = (guest("lua"), "io.read()");
    let other = ["run", "--detach", "-i", "--on", "two", "--name", "p1"];
    cluster
        .ask(&[&other[..], &[&lua, "-e", text]].concat())
        .ok();
    let stopped = cluster.at("one").runner().unwrap();
    kill_process(stopped, Signal::STOP).unwrap();
    let path = |name: &str| world.path(name).to_str().unwrap().to_owned();
    let (copy, file) = (path("copy"), path("p0.image"));
    let orders: &[&[&str]] = &[
        &["pause", "p0"],
        &["resume", "p0"],
        &["kill", "p0"],
        &["inspect", "p0"],
        &["attach", "p0"],
        &["cp", "p0:/data/p0.log", &copy],
        &["snapshot", "p0", "--once", "--to", "home"],
        &["freeze", "p0", "-o", &file],
        &["freeze", "p0", "--keep", "-o", &file],
        &["clone", "p0", "two"],
        &["move", "p0", "two"],
        &["move", "p1", "one"],
        &["run", "--detach", "--on", "one", &lua, "-e", text],
    ];
    let remedies = [
        format!("kill -CONT {}", stopped.as_raw_nonzero()),
        "kill -KILL".to_owned(),
    ];
    for asked in ["home", "one"] {
        let begin = |words: &&[&str]| cluster.at(asked).begin(world, words);
        let begun: Vec<_> = orders.iter().map(begin).collect();
        for (words, mut actor) in orders.iter().zip(begun) {
            println!("{words:?}, asked of {asked}");
            actor.end();
            let said = actor.err.text();
            assert!(
                said.contains("runner of node one does not answer"),
                "{words:?}: {said}"
            );
            assert!(
                remedies.iter().all(|remedy| said.contains(remedy)),
                "{words:?}: {said}"
            );
        }
    }
    // What was written before can be read without it.
    assert!(!cluster.ask(&["logs", "p0"]).ok().is_empty());
    kill_process(stopped, Signal::CONT).unwrap();
    trial.finish("p0", "a runner that was stopped");
    cluster.ask(&["move", "p1", "one"]).ok();
    cluster.ask(&["kill", "p1"]).ok();
}

/// It writes on while it is copied, and is not brought to a stand that the registry could not end.
#[test]
fn a_process_is_not_stopped_for_a_registry_that_hangs() {
    let trial = Trial::new();
    let much = "local much=string.rep('x', 64*1024*1024)";
    trial.start_with(much, "p0");
    trial.arm(Role::SourceRunner, "runner HalfRound");
    let cluster = &trial.cluster;
    let words = ["move", "p0", "two", "--strategy", "pre-copy"];
    let mut moving = cluster.at("one").begin(&cluster.world, &words);
    until("half of a round", || trial.has_reached(Role::SourceRunner));
    cluster.at("home").actor.signal(Signal::STOP);
    trial.arm(Role::SourceRunner, "");
    let why = "a node or the registry does not answer";
    until("it is said why", || moving.err.text().contains(why));
    trial.writes_on("p0");
    cluster.at("home").actor.signal(Signal::CONT);
    moving.end();
    let (told, said) = (moving.out.text(), "the registry does not answer any more");
    assert!(told.contains(said), "{told}");
    trial.cluster.is_at("p0", "one");
    trial.finish("p0", "a registry that hung");
}

/// The snapshot is being made when its runner is stopped.
#[test]
fn a_snapshot_that_is_not_made_to_its_end_is_not_waited_for() {
    let trial = Trial::new();
    let much = "local much=string.rep('x', 300*1024*1024)";
    let id = trial.start_with(much, "p0");
    let one = trial.cluster.at("one");
    let stopped = one.runner().unwrap();
    let is_copied = || {
        let here = one.here(&trial.cluster.world);
        here.iter()
            .any(|(of, state)| of.starts_with(&id) && state.contains("copied"))
    };
    let snapshot = ["snapshot", "p0", "--once", "--to", "home"];
    loop {
        let mut making = trial.cluster.begin(&snapshot);
        until("it is being copied", || making.has_ended() || is_copied());
        kill_process(stopped, Signal::STOP).unwrap();
        let is_made = making.end().success();
        kill_process(stopped, Signal::CONT).unwrap();
        // That was too late, then.
        if !is_made {
            let said = making.err.text();
            assert!(
                said.contains("runner of node one does not answer"),
                "{said}"
            );
            break;
        }
    }
    let again = || trial.cluster.ask(&snapshot).0.status.success();
    until("there is a snapshot", again);
    trial.finish("p0", "a snapshot that was interrupted");
}

/// Until there are no more, processes are started; what is there is not harmed by that.
#[test]
fn a_runner_without_descriptors_starts_nothing_and_keeps_what_it_has() {
    let few = |_: &crate::world::World, _: &str| {
        let within = ["sh", "-c", "ulimit -n 256 && exec \"$@\"", "sh"];
        let how = How {
            within: within.map(str::to_owned).to_vec(),
            ..How::default()
        };
        (free_address(), how)
    };
    let cluster = Cluster::new_so(&["one"], few);
    cluster.have_runners();
    let runner = cluster.at("one").runner();
    let lua = guest("lua");
    let start = || cluster.ask(&["run", "--detach", "-i", &lua, "-e", "io.read()"]);
    let mut started: Vec<String> = Vec::new();
    let refused = loop {
        let answer = start();
        if !answer.0.status.success() {
            break answer;
        }
        started.push(answer.ok().trim().to_owned());
        assert!(started.len() < 256);
    };
    let said = ["descriptors", "ulimit -Hn"];
    refused.fails(125, &said);
    start().fails(125, &said);
    let listed = cluster.json(&["ps", "--json"]);
    let states: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["state"])
        .collect();
    assert_eq!(states.len(), started.len());
    assert!(states.iter().all(|state| *state == "waiting"), "{states:?}");
    assert_eq!(cluster.at("one").runner(), runner);
    cluster.ask(&["kill", &started[0]]).ok();
    until("there is room again", || start().0.status.success());
    for id in &started[1..] {
        cluster.ask(&["kill", id]).ok();
    }
}
