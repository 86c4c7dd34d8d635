//! Memory that comes after its process (post-copy): to and fro, in the middle of it, and when it does not come.

use std::fs;
use std::io::{ErrorKind, Read};

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::clients::{Load, serving};
use crate::cluster::Cluster;
use crate::kv::Client;
use crate::live::{moved, number, rounds, writing};
use crate::trial::Fate::{self, Lives, Lost};
use crate::trial::{Fault, Role, Trial};
use crate::world::{Actor, World, guest, until};

const POST_COPY: &[&str] = &["--strategy", "post-copy"];
/// So that it takes a while: 32 MiB are there in half a minute.
const SLOWLY: &[&str] = &["--strategy", "post-copy", "--max-rate", "1MB/s"];

/// A program on the first of two nodes that writes lines until there is a file.
fn begin(program: &str) -> Cluster {
    let cluster = Cluster::new(&["one", "two"]);
    let words = ["run", "--detach", "--name", "p"];
    let given = ["--dir", "desk::/data:shared", &guest("lua"), "-e", program];
    cluster.ask(&[&words[..], &given].concat()).ok();
    until("it writes", || !cluster.ask(&["logs", "p"]).ok().is_empty());
    cluster
}

/// Ends it; what it wrote is what one writes that is never moved.
#[track_caller]
fn compare(cluster: &Cluster, program: impl Fn(&str) -> String) {
    fs::write(cluster.desk().join("end"), "").unwrap();
    let written = cluster.whole("p");
    let plain = program(&format!("r<{}", written.lines().count()));
    let expected = World::new().ask(["run", &guest("lua"), "-e", &plain]).ok();
    assert!(written == expected, "the output differs");
}

const UNTIL_END: &str = "not io.open('/data/end')";

/// A move of which the memory is on its way, and the process runs at the target.
fn in_the_middle(cluster: &Cluster) -> Actor {
    let words = [&["move", "p", "two"], SLOWLY].concat();
    let moving = cluster.at("two").begin(&cluster.world, &words);
    until("it runs at the target", || {
        let listed = cluster.json(&["ps", "--json"]);
        listed[0]["node"] == "two" && listed.to_string().contains("its memory is still coming")
    });
    moving
}

#[test]
fn a_large_heap_follows_its_program_to_and_fro_and_nothing_is_lost() {
    let cluster = begin(&writing(UNTIL_END));
    for target in ["two", "one", "two", "one"] {
        let report = moved(&cluster, &[&[target], POST_COPY].concat());
        assert_eq!(report["strategy"], "post-copy", "{report}");
        assert_eq!(rounds(&report).len(), 0, "{report}");
        assert!(number(&report, "pages") > 1000, "{report}");
        let parts = report["parts_us"].as_array().unwrap();
        // Who has asked just then hears no figures.
        let after = |part: &Value| part[0] == "follow" || part[0] == "confirm";
        assert!(parts.iter().any(after), "{report}");
    }
    compare(&cluster, writing);
}

/// It writes all of its memory, as fast as it can.
#[test]
fn rounds_that_do_not_converge_end_with_memory_that_follows() {
    let cluster = Cluster::new(&["one", "two"]);
    let words = ["run", "--detach", "--name", "p", &guest("fill"), "32", "0"];
    cluster.ask(&words).ok();
    until("all of it was written", || {
        let seen = cluster.json(&["ps", "--json"]);
        seen[0]["memory_bytes"].as_u64().unwrap() > 32 << 20
    });
    let mut targets = ["two", "one"].into_iter().cycle();
    // The first may come before all of it was written.
    until("rounds do not converge", || {
        let report = moved(&cluster, &[targets.next().unwrap()]);
        report["strategy"] == "hybrid" && !rounds(&report).is_empty()
    });
    cluster.ask(&["kill", "p"]).ok();
}

#[test]
fn clients_stay_connected_while_the_memory_of_their_server_follows() {
    let (cluster, address) = serving(&["one", "two", "three"], &[]);
    let load = Load::begin(address, 8);
    for target in ["two", "three", "one", "two"] {
        let words = [&["move", "kv", target], POST_COPY].concat();
        cluster.ask(&words).ok();
    }
    assert!(load.end().iter().all(|written| *written > 0));
    cluster.is_at("kv", "two");
}

/// It grows while it is moved.
fn growing(while_this: &str) -> String {
    format!(
        "local n=300000 local t={{}} for i=1,n do t[i]=i end local r=0 local s=0 \
         while {while_this} do r=r+1 for j=1,2000 do if n<900000 then n=n+1 t[n]=n end local i=(r*7919+j*13)%n+1 \
         s=(s*7+t[i])%1000003 end print(r..' '..s) io.stdout:flush() end"
    )
}

#[test]
fn in_the_middle_it_can_be_paused_and_grows_and_is_not_copied_or_moved() {
    let cluster = begin(&growing(UNTIL_END));
    let mut moving = in_the_middle(&cluster);
    let file = cluster.world.path("p.sterna");
    let file = file.to_str().unwrap();
    for words in [
        &["move", "p", "one"][..],
        &["freeze", "p", "--keep", "-o", file],
        &["clone", "p", "one"],
        &["snapshot", "p", "--once", "--to", "one"],
    ] {
        let answer = cluster.ask(words);
        assert!(!answer.0.status.success(), "{words:?}");
        let why = answer.err();
        let named = ["its memory is still at", "not ended", "being moved"];
        assert!(named.iter().any(|named| why.contains(named)), "{why}");
    }
    cluster.ask(&["pause", "p"]).ok();
    cluster.ask(&["resume", "p"]).ok();
    moving.ended(0);
    for node in &cluster.nodes {
        node.notes_nothing();
    }
    moved(&cluster, &["one"]);
    compare(&cluster, growing);
}

#[test]
fn one_that_is_killed_in_the_middle_has_ended_and_nothing_is_left() {
    let cluster = begin(&writing(UNTIL_END));
    let mut moving = in_the_middle(&cluster);
    cluster.ask(&["kill", "p"]).ok();
    moving.end();
    let listed = cluster.json(&["ps", "--all", "--json"]);
    let state = listed[0]["state"].to_string();
    assert!(state.contains("killed"), "{listed}");
    for node in &cluster.nodes {
        node.notes_nothing();
    }
}

#[test]
fn services_that_are_killed_in_the_middle_cost_only_time() {
    let mut cluster = begin(&writing(UNTIL_END));
    let _moving = in_the_middle(&cluster);
    for node in ["one", "two"] {
        cluster.kill(node);
        cluster.start_again(node);
    }
    until("all of it has come", || {
        let listed = cluster.json(&["ps", "--json"]);
        listed[0]["node"] == "two" && !listed.to_string().contains("its memory is still coming")
    });
    for node in &cluster.nodes {
        node.notes_nothing();
    }
    cluster.is_at("p", "two");
    compare(&cluster, writing);
}

#[test]
fn a_source_that_dies_in_the_middle_takes_the_process_with_it() {
    lost(Signal::KILL);
}

#[test]
fn a_source_that_stops_to_answer_is_not_waited_for_without_end() {
    lost(Signal::STOP);
}

/// The server is lost with what is left of its memory: that is said, its name is free, and its clients hear of it.
fn lost(signal: Signal) {
    let cluster = Cluster::new(&["home", "one", "two"]);
    let words = ["run", "--detach", "--on", "one", "--name", "kv"];
    let given = ["--listen", "home:0", &guest("kv"), "16"];
    cluster.ask(&[&words[..], &given].concat()).ok();
    let address = cluster.address_of("kv");
    let mut client = Client::connect(address).unwrap();
    client.put("key", "value").unwrap();
    let words = [&["move", "kv", "two"], SLOWLY].concat();
    let mut moving = cluster.at("home").begin(&cluster.world, &words);
    until("it runs at the target", || {
        let listed = cluster.json(&["ps", "--json"]);
        listed.to_string().contains("its memory is still coming")
    });
    let runner = cluster.at("one").runner().unwrap();
    kill_process(runner, signal).unwrap();
    client.send("GET", "key", "").unwrap();
    until("it is lost", || {
        let listed = cluster.json(&["ps", "--all", "--json"]);
        listed.to_string().contains("lost")
    });
    // An answer may have been on its way. What comes then is no end that an answer could be taken to have.
    let cut = match client.receive() {
        Ok(_) => client.from.read(&mut [0]).unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(cut.kind(), ErrorKind::ConnectionReset, "{cut}");
    match signal {
        Signal::STOP => {
            kill_process(runner, Signal::CONT).unwrap();
            moving.end();
        }
        _ => {
            let told = moving.ended(1);
            assert!(told.contains("was lost"), "{told}");
        }
    }
    let told = cluster.ask(&["events", "--json"]).ok();
    let lost = told.lines().filter(|line| line.contains("\"lost\""));
    assert_eq!(lost.count(), 1, "{told}");
    cluster
        .ask(&["run", "--detach", "--name", "kv", &guest("kv"), "1"])
        .ok();
    cluster.at("two").notes_nothing();
}

fn check(role: Role, fault: Fault, points: &[(&'static str, Fate)]) {
    let mut trial = Trial::new();
    trial.way = POST_COPY;
    for (point, fate) in points {
        trial.disturb(role, point, fault, *fate);
    }
    trial.compare();
}

#[test]
fn a_source_runner_that_is_killed_loses_what_needs_it() {
    let source = [("runner tell Paused", Lost), ("runner obey Discard", Lives)];
    check(Role::SourceRunner, Fault::Kill, &source);
}
