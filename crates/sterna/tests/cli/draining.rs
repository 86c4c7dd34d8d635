//! Nodes that are emptied before their machines go.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::cluster::{Cluster, How, Node, start_with};
use crate::world::{Answer, World, guest, until};

const LUA_FOREVER: &str =
    "local i=0; while true do i=i+1; local s=0; for j=1,500000 do s=s+j%7 end; print(i) end";

/// Starts a program that works for ever, at a node; with more options.
fn start(cluster: &Cluster, node: &str, name: &str, options: &[&str]) {
    let mut words = vec!["run", "--detach", "--name", name];
    words.extend(options);
    let lua = guest("lua");
    words.extend([&*lua, "-e", LUA_FOREVER]);
    cluster.ask_at(node, &words).ok();
}

/// What became of a process, of what was told in JSON.
fn fate<'a>(told: &'a Value, name: &str) -> &'a Value {
    let rows = told["processes"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == name);
    row.unwrap_or_else(|| panic!("nothing of {name}: {told}"))
}

fn end_all(cluster: &Cluster, processes: &[&str]) {
    for process in processes {
        // One that has just arrived may not be ready for it.
        until("it is killed", || {
            cluster.ask(&["kill", process]).0.status.success()
        });
    }
}

#[test]
fn a_drained_node_is_empty_and_takes_nothing_until_it_is_told() {
    let cluster = Cluster::new(&["one", "two", "three"]);
    let shared = ["--dir", "desk::/desk:shared"];
    start(&cluster, "one", "a", &[]);
    start(&cluster, "one", "b", &shared);
    start(&cluster, "one", "c", &[]);
    cluster.ask(&["pause", "c"]).ok();
    let plan = cluster.json(&["drain", "one", "--dry-run", "--json"]);
    assert_eq!(plan["stage"], "planned");
    for name in ["a", "b", "c"] {
        assert_eq!(fate(&plan, name)["fate"], "moving", "{plan}");
        cluster.is_at(name, "one");
    }
    let told = cluster.ask_at("two", &["drain", "one"]).ok();
    assert!(
        told.contains("moved to two") && told.contains("moved to three"),
        "{told}"
    );
    assert!(told.contains("the registry moved to "), "{told}");
    for name in ["a", "b", "c"] {
        let (node, _) = cluster.place(name).unwrap();
        assert_ne!(node, "one");
        // Of one that has just come it is written down where it is before it is told to run.
        until("only what was paused is", || {
            let (_, state) = cluster.place(name).unwrap();
            (state == "paused") == (name == "c")
        });
    }
    for asked in &cluster.nodes {
        assert_eq!(asked.state_of(&cluster.world, "one"), "draining");
    }

    let lua = guest("lua");
    let refused = ["is being drained", "sterna drain --cancel"];
    let run = ["run", "--detach", "--on", "one", &lua, "-e", "print(1)"];
    cluster.ask(&run).fails(125, &refused);
    cluster.ask(&["move", "a", "one"]).fails(1, &refused);
    cluster
        .ask(&["drain", "one"])
        .fails(1, &["drained already", "--cancel"]);
    start(&cluster, "one", "d", &["--on", "auto"]);
    assert_ne!(cluster.place("d").unwrap().0, "one");

    let told = cluster.ask(&["drain", "--cancel", "one"]);
    assert_eq!(told.ok(), "", "what left then is no news");
    assert!(told.err().contains("takes processes again"));
    cluster
        .ask(&["drain", "--cancel", "one"])
        .fails(1, &["not being drained"]);
    assert_eq!(
        cluster.at("two").state_of(&cluster.world, "one"),
        "reachable"
    );
    cluster.ask(&["move", "a", "one"]).ok();
    cluster.ask(&["resume", "c"]).ok();
    end_all(&cluster, &["a", "b", "c", "d"]);
}

#[test]
fn what_cannot_go_stays_and_the_node_goes_on() {
    let cluster = Cluster::with(&["home", "one", "two"], |world, name| match name {
        "one" => vec![
            "--export".into(),
            format!("only={}", world.path("desk").display()),
        ],
        _ => Vec::new(),
    });
    let fixed = format!("{}::/here", cluster.desk().display());
    start(&cluster, "one", "goes", &[]);
    start(&cluster, "one", "fixed", &["--dir", &fixed]);
    start(&cluster, "one", "bound", &["--dir", "only::/desk:shared"]);
    for words in [
        &["drain", "one", "--json", "--dry-run"][..],
        &["drain", "one", "--json"],
    ] {
        let answer = cluster.ask(words);
        assert_eq!(answer.0.status.code(), Some(1), "{}", answer.err());
        let told: Value = serde_json::from_str(&answer.out()).unwrap();
        assert_eq!(told["registry"]["fate"], "elsewhere");
        for (name, why) in [
            ("fixed", "fixed to its node"),
            ("bound", "exports no directory"),
        ] {
            assert_eq!(fate(&told, name)["fate"], "stayed", "{told}");
            let said = fate(&told, name)["why"].as_str().unwrap();
            assert!(said.contains(why) && said.contains("home, two: "), "{said}");
            cluster.is_at(name, "one");
        }
        assert_ne!(fate(&told, "goes")["fate"], "stayed", "{told}");
    }
    assert_ne!(cluster.place("goes").unwrap().0, "one");
    assert_eq!(
        cluster.at("home").state_of(&cluster.world, "one"),
        "reachable"
    );
    cluster.ask(&["move", "goes", "one"]).ok();
    end_all(&cluster, &["goes", "fixed", "bound"]);
}

fn with_drain(names: &[&str], drained: &str) -> Cluster {
    Cluster::with(names, |_, name| match name == drained {
        true => vec!["--on-signal".into(), "drain=60s".into()],
        false => Vec::new(),
    })
}

#[test]
fn a_signal_drains_a_node_and_then_ends_it() {
    // The node that ends has the registry, too.
    let mut cluster = with_drain(&["one", "two"], "one");
    for name in ["a", "b"] {
        start(&cluster, "one", name, &[]);
    }
    let one = &mut cluster.node("one").actor;
    one.signal(Signal::TERM);
    one.ended(0);
    assert!(
        cluster.at("one").runner().is_none(),
        "nothing is left for it"
    );
    let status = cluster
        .at("two")
        .json(&cluster.world, &["registry", "status", "--json"]);
    assert_eq!(status["alive"], 2, "{status}");
    for name in ["a", "b"] {
        cluster.ask_at("two", &["kill", name]).ok();
    }
}

#[test]
fn what_a_signal_cannot_move_lives_on_for_the_next_start() {
    let mut cluster = with_drain(&["two", "one"], "one");
    let fixed = format!("{}::/here", cluster.desk().display());
    start(&cluster, "one", "fixed", &["--dir", &fixed]);
    start(&cluster, "one", "goes", &[]);
    let one = &mut cluster.node("one").actor;
    one.signal(Signal::TERM);
    one.ended(0);
    assert!(one.err.text().contains("stays here"), "{}", one.err.text());
    cluster.is_at("goes", "two");
    cluster.start_again("one");
    until("it is taken up again", || {
        cluster.place("fixed") == Some(("one".into(), "running".into()))
    });
    end_all(&cluster, &["fixed", "goes"]);
}

#[test]
fn a_second_signal_ends_a_node_at_once() {
    let mut cluster = with_drain(&["two", "one"], "one");
    start(&cluster, "one", "a", &[]);
    cluster.at("two").actor.signal(Signal::STOP);
    let one = &mut cluster.node("one").actor;
    one.signal(Signal::TERM);
    one.err.wait_for("a second signal ends the node at once");
    one.signal(Signal::TERM);
    one.ended(0);
    cluster.at("two").actor.signal(Signal::CONT);
    cluster.start_again("one");
    until("it is taken up again", || {
        cluster.place("a") == Some(("one".into(), "running".into()))
    });
    cluster.ask(&["kill", "a"]).ok();
}

#[test]
fn a_target_that_is_killed_costs_nothing() {
    let mut cluster = Cluster::new(&["home", "one", "two", "three"]);
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        start(&cluster, "one", name, &[]);
    }
    let mut drain = cluster.begin(&[
        "drain",
        "one",
        "--to",
        "two,three",
        "--within",
        "60s",
        "--json",
    ]);
    until("one of them is at two", || {
        !cluster.at("two").here(&cluster.world).is_empty()
    });
    cluster.kill("two");
    let (status, told) = (drain.end(), drain.out.text());
    assert!(status.success(), "{told}");
    let told: Value = serde_json::from_str(&told).unwrap();
    cluster.start_again("two");
    for name in names {
        let id = fate(&told, name)["id"].as_str().unwrap();
        until("it runs at one node", || cluster.running_at(id).len() == 1);
        assert_ne!(cluster.running_at(id), ["one"], "{told}");
    }
    end_all(&cluster, &names);
}

#[test]
fn whoever_watches_may_go_and_it_can_be_given_up() {
    let cluster = Cluster::new(&["home", "one", "two"]);
    start(&cluster, "one", "a", &[]);
    cluster.at("two").actor.signal(Signal::STOP);
    let drain = ["drain", "one", "--to", "two", "--within", "100ms", "--json"];
    let told = cluster.ask(&drain);
    assert_eq!(told.0.status.code(), Some(1), "{}", told.err());
    let told: Value = serde_json::from_str(&told.out()).unwrap();
    assert_eq!(told["stage"], "incomplete", "{told}");
    assert_eq!(fate(&told, "a")["fate"], "stayed", "{told}");

    let mut drain = cluster.begin(&["drain", "one", "--to", "two", "--within", "10m"]);
    until("it has begun", || {
        cluster.at("home").state_of(&cluster.world, "one") == "draining"
    });
    drain.signal(Signal::INT);
    drain.end();
    let said = drain.err.text();
    assert!(said.contains("goes on with this"), "{said}");
    cluster
        .ask(&["drain", "one"])
        .fails(1, &["being drained already"]);
    let told = cluster.ask(&["drain", "--cancel", "one", "--json"]).ok();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(fate(&told, "a")["fate"], "stayed", "{told}");
    let why = fate(&told, "a")["why"].as_str().unwrap();
    assert!(!why.contains("the time was over"), "{why}");
    assert_eq!(
        cluster.at("home").state_of(&cluster.world, "one"),
        "reachable"
    );
    cluster.at("two").actor.signal(Signal::CONT);
    cluster.is_at("a", "one");
    let events = cluster.ask(&["events"]).ok();
    assert!(
        events.contains("one: the node is not drained: something stays"),
        "{events}"
    );
    assert!(
        events.contains("one: the node is not drained: that was given up"),
        "{events}"
    );
    cluster.ask(&["kill", "a"]).ok();
}

#[test]
fn what_makes_no_sense_is_refused() {
    let world = World::new();
    let mut alone = start_with(&world, "alone", &["--on-signal", "drain"]);
    alone.fails(
        &world,
        &["drain", "alone"],
        &["alone in its cluster", "nowhere to go"],
    );
    alone.actor.signal(Signal::TERM);
    alone.actor.ended(0);
    assert!(alone.actor.err.text().contains("nowhere to go"));
    drop(alone);

    let mut cluster = Cluster::new(&["one", "two"]);
    cluster
        .ask(&["drain", "twoo"])
        .fails(1, &["no node twoo", "did you mean two"]);
    cluster
        .ask(&["drain", "one", "--to", "four"])
        .fails(1, &["no node four"]);
    cluster
        .ask(&["drain", "one", "--to", "one"])
        .fails(1, &["name others with --to"]);
    cluster
        .ask(&["drain", "one", "--within", "0s"])
        .fails(2, &["in no time"]);
    cluster
        .ask(&["drain", "one", "--within", "25h"])
        .fails(1, &["at most 24 hours"]);
    cluster
        .ask(&["drain", "one", "--within", "soon"])
        .fails(2, &["not a time"]);
    let both = ["drain", "--cancel", "one", "--dry-run"];
    cluster.ask(&both).fails(2, &["cannot be used with"]);
    cluster
        .ask(&["node", "start", "--on-signal", "stop"])
        .fails(2, &["write drain"]);
    cluster.kill("two");
    cluster
        .ask(&["drain", "two"])
        .fails(1, &["node two: no answer"]);
    cluster.start_again("two");
}

#[test]
fn the_unit_gives_a_node_time_to_drain() {
    let world = World::new();
    let words = ["node", "start", "--on-signal", "drain=90s", "--systemd=-"];
    let unit = world.ask(words).ok();
    assert!(unit.contains(" --on-signal drain=90s\n"), "{unit}");
    assert!(
        unit.contains("\nKillMode=process\nTimeoutStopSec=150\n"),
        "{unit}"
    );
    let unit = world
        .ask(["node", "start", "--prepare", "--systemd=-"])
        .ok();
    assert!(unit.contains(" --prepare\n"), "{unit}");
    assert!(!unit.contains("TimeoutStopSec"), "{unit}");
    assert!(
        fs::read_dir(world.path("own")).is_err(),
        "nothing was started"
    );
}

#[test]
fn the_unit_has_the_directories_of_whoever_wrote_it() {
    let world = World::new();
    let unit = |changed: &[(&str, Option<&str>)]| {
        let mut command = world.command(["node", "start", "--systemd=-"]);
        for (variable, value) in changed {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        Answer(command.output().unwrap())
    };
    // Of systemd.exec(5): no variables are replaced, but specifiers are.
    let named = [
        ("STERNA_CACHE_DIR", Some("/var/my $cache 9%\"")),
        ("STERNA_RUN_DIR", None),
    ];
    let told = unit(&named).ok();
    let line = "[Service]\nEnvironment=\"STERNA_CACHE_DIR=/var/my $cache 9%%\\\"\"\nExecStart=";
    assert!(told.contains(line), "{told}");
    let of_home = [
        ("STERNA_CACHE_DIR", None),
        ("XDG_CACHE_HOME", None),
        ("HOME", Some("/root")),
        ("STERNA_RUN_DIR", Some("/run/own")),
    ];
    let told = unit(&of_home).ok();
    for line in [
        "\nEnvironment=\"STERNA_CACHE_DIR=/root/.cache/sterna\"\n",
        "\nEnvironment=\"STERNA_RUN_DIR=/run/own\"\n",
    ] {
        assert!(told.contains(line), "{told}");
    }
    let homeless = [of_home[0], of_home[1], ("HOME", None)];
    unit(&homeless).fails(1, &["set HOME or STERNA_CACHE_DIR"]);
}

#[test]
fn a_node_that_prepares_has_programs_before_their_processes_come() {
    let world = World::new();
    let cache = world.path("cache of two").to_str().unwrap().to_owned();
    let how = How {
        options: vec!["--prepare".into()],
        environment: vec![("STERNA_CACHE_DIR".into(), cache.clone())],
        ..How::default()
    };
    let one = Node::start(&world, "one", "127.0.0.1:0");
    let two = Node::start_so(&world, "two", "127.0.0.1:0", how);
    two.join(&world, &one.invite(&world)).ok();
    let lua = guest("lua");
    let run = ["run", "--detach", "--name", "p", &lua, "-e", LUA_FOREVER];
    one.ok(&world, &run);
    until("it has the program", || {
        let mut list = world.command(["programs", "ls", "--json"]);
        let listed = list.env("STERNA_CACHE_DIR", &cache).output().unwrap();
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        let rows = listed.as_array().map_or(&[][..], Vec::as_slice);
        rows.iter().any(|row| row["usable"] == true)
    });
    let told = one.ok(&world, &["drain", "one", "--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(fate(&told, "p")["fate"], "moved", "{told}");
    two.ok(&world, &["kill", "p"]);
    one.stop(&world);
    two.stop(&world);
}
