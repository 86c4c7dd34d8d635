//! Processes on real nodes: moved, killed, and what becomes of them when a node's service or runner is.

use std::fs;

use rustix::process::Signal;

use crate::cluster::{Cluster, How, free_address};
use crate::world::{Answer, World, guest, skip, until};

/// How often, in tests that can be made longer.
fn rounds(quick: usize, full: usize) -> usize {
    match std::env::var_os("STERNA_TEST_FULL") {
        Some(_) => full,
        None => quick,
    }
}

/// Some lines, each after some work.
const LUA: &str = "for i=1,150 do local s=0; for j=1,1500000 do s=s+j%7 end; print(i,s) end";
const LUA_FOREVER: &str =
    "local i=0; while true do i=i+1; local s=0; for j=1,500000 do s=s+j%7 end; print(i) end";

/// Whether a move did not come about because there was nothing to move any more.
fn has_ended(moved: &Answer) -> bool {
    let said = moved.out() + &moved.err();
    said.contains("ended") || said.contains("does not run on this node")
}

/// Moves a process between two nodes as long as it lives; how often.
#[track_caller]
fn move_about(cluster: &Cluster, process: &str, most: usize) -> usize {
    for number in 0..most {
        let target = ["two", "one"][number % 2];
        let moved = cluster.ask(&["move", process, target]);
        match moved.0.status.code() {
            Some(0) => {}
            // Just before, or while it was being moved.
            _ if has_ended(&moved) => return number,
            _ => panic!("move {number}: {}{}", moved.out(), moved.err()),
        }
    }
    most
}

#[track_caller]
fn check_moved(program: &str, arguments: &[&str], directory: Option<&str>) {
    let cluster = Cluster::new(&["one", "two"]);
    let program = guest(program);
    let words = |options: &[&str], directory: Option<String>| -> Vec<String> {
        let mut words: Vec<String> = ["run"]
            .iter()
            .chain(options)
            .map(|word| word.to_string())
            .collect();
        if let Some(directory) = directory {
            words.extend(["--dir".to_owned(), directory]);
        }
        words.push(program.clone());
        words.extend(arguments.iter().map(|word| word.to_string()));
        words
    };
    let plain = World::new();
    fs::create_dir(plain.path("desk")).unwrap();
    let at = |guest: &str| format!("{}::{guest}", plain.path("desk").display());
    let expected = plain.ask(words(&[], directory.map(at))).ok();
    let shared = directory.map(|guest| format!("desk::{guest}:shared"));
    let words = words(&["--detach", "--name", "p"], shared);
    let words: Vec<&str> = words.iter().map(|word| &**word).collect();
    cluster.ask(&words).ok();
    let moved = move_about(&cluster, "p", rounds(8, 60));
    assert!(moved > 1, "it was moved {moved} times only");
    assert!(cluster.whole("p") == expected, "the output differs");
    for entry in fs::read_dir(plain.path("desk")).unwrap() {
        let name = entry.unwrap().file_name();
        let bytes = |world: &World| fs::read(world.path("desk").join(&name)).unwrap();
        assert!(bytes(&plain) == bytes(&cluster.world), "{name:?} differs");
    }
}

#[test]
fn lua_writes_the_same_wherever_it_is() {
    check_moved("lua", &["-e", LUA], None);
}

/// Nodes of which some speak one version of the protocol only.
fn speaking(nodes: &[(&str, Option<&str>)]) -> Cluster {
    let names: Vec<&str> = nodes.iter().map(|node| node.0).collect();
    Cluster::new_so(&names, |_, name| {
        let version = nodes
            .iter()
            .find(|node| node.0 == name)
            .and_then(|node| node.1);
        let options = version.map(|version| vec!["--protocol".to_owned(), version.to_owned()]);
        let how = How {
            options: options.unwrap_or_default(),
            ..How::default()
        };
        (free_address(), how)
    })
}

/// One node knows the version before only, as in the middle of an upgrade; the registry is on it, or on a newer one.
#[test]
fn processes_move_between_nodes_of_two_versions() {
    let lua = guest("lua");
    let expected = World::new().ask(["run", &lua, "-e", LUA]).ok();
    let clusters = [
        speaking(&[("one", Some("2")), ("two", None)]),
        speaking(&[("two", None), ("one", Some("2"))]),
    ];
    for cluster in clusters {
        let words = [
            "run", "--detach", "--on", "one", "--name", "p", &lua, "-e", LUA,
        ];
        cluster.ask(&words).ok();
        cluster.ask(&["move", "p", "two"]).ok();
        cluster.ask(&["move", "p", "one"]).ok();
        let moved = move_about(&cluster, "p", rounds(6, 60));
        assert!(moved > 1, "it was moved {moved} times only");
        assert!(cluster.whole("p") == expected, "the output differs");
    }
}

/// Between them there is one that would understand both.
#[test]
fn nodes_without_a_version_in_common_say_what_to_do() {
    let cluster = speaking(&[("both", None), ("old", Some("2")), ("new", Some("3"))]);
    let lua = guest("lua");
    let words = [
        "run",
        "--detach",
        "--on",
        "old",
        "--name",
        "p",
        &lua,
        "-e",
        LUA_FOREVER,
    ];
    cluster.ask(&words).ok();
    let refused = [
        "speaks version 3 of the protocol, this one version 2",
        "upgrade sterna here",
    ];
    cluster.ask(&["move", "p", "new"]).fails(1, &refused);
    cluster.is_at("p", "old");
    for node in ["both", "new"] {
        // By way of the one that both can talk to.
        cluster.ask(&["move", "p", "both"]);
        cluster.ask(&["move", "p", node]);
        cluster.is_at("p", node);
    }
    cluster.ask(&["kill", "p"]).ok();
}

#[test]
fn sqlite_has_one_file_wherever_it_is() {
    check_moved("sqlite", &["4000", "80", "/data/base"], Some("/data"));
}

#[test]
fn a_move_that_cannot_be_says_why_and_the_process_stays() {
    let cluster = Cluster::new(&["one", "two"]);
    let lua = guest("lua");
    let run = ["run", "--detach", "--name", "p", &lua, "-e", LUA_FOREVER];
    cluster.ask(&run).ok();
    cluster.ask(&run).fails(125, &["the name p belongs to"]);
    cluster
        .ask(&["move", "p", "one"])
        .fails(1, &["on that node already"]);
    cluster
        .ask(&["move", "p", "twoo"])
        .fails(1, &["no node twoo", "did you mean two"]);
    // No id begins so: there is no `u` in them.
    cluster.ask(&["move", "u", "two"]).fails(1, &["process u"]);
    cluster.ask(&["move", "--dry-run", "p", "two"]).ok();
    let could = cluster.json(&["move", "--dry-run", "--json", "p", "two"]);
    assert_eq!(
        (&could["from"], &could["to"]),
        (&"one".into(), &"two".into())
    );
    assert!(could["memory_bytes"].as_u64() > Some(0), "{could}");
    cluster.is_at("p", "one");
    cluster.ask(&["pause", "p"]).ok();
    cluster.ask(&["move", "p", "two"]).ok();
    let state = cluster.place("p");
    assert_eq!(state, Some(("two".into(), "paused".into())));
    let seen = cluster.json(&["ps", "--json"]);
    for used in ["memory_bytes", "cpu_ms"] {
        assert!(seen[0][used].as_u64().unwrap() > 0, "{seen}");
    }
    cluster.ask(&["resume", "p"]).ok();
    cluster.ask_at("two", &["kill", "p"]).ok();
    cluster.ask(&["wait", "p"]).fails(137, &["killed"]);
    cluster.ask(&["move", "p", "one"]).fails(1, &["p"]);
    cluster.ask(&["rm", "p"]).ok();
    cluster.ask(&run).ok(); // the name is free again
    cluster.ask(&["kill", "p"]).ok();
}

#[test]
fn a_target_that_is_stopped_gets_nothing_and_the_process_stays() {
    let mut cluster = Cluster::new(&["one", "two"]);
    let lua = guest("lua");
    cluster
        .ask(&["run", "--detach", "--name", "p", &lua, "-e", LUA])
        .ok();
    cluster.node("two").actor.signal(Signal::STOP);
    let stayed = cluster.ask(&["move", "p", "two"]);
    assert!(!stayed.0.status.success(), "{}", stayed.out());
    cluster.is_at("p", "one");
    cluster.node("two").actor.signal(Signal::CONT);
    until("it can be reached again", || {
        cluster.ask(&["move", "p", "two"]).0.status.success()
            || cluster
                .place("p")
                .is_none_or(|(_, state)| state.contains("ended"))
    });
    let plain = World::new().ask(["run", &lua, "-e", LUA]).ok();
    assert!(cluster.whole("p") == plain, "the output differs");
}

#[test]
fn of_two_moves_at_once_one_is_made() {
    let cluster = Cluster::new(&["one", "two", "three"]);
    let lua = guest("lua");
    let started = cluster.ask(&["run", "--detach", "--name", "p", &lua, "-e", LUA_FOREVER]);
    let id = started.ok().trim().to_owned();
    for _ in 0..rounds(3, 30) {
        let mut both = ["two", "three"].map(|target| cluster.begin(&["move", "p", target]));
        let codes = both.each_mut().map(|one| one.end().code());
        let errors = both.each_ref().map(|one| one.err.text());
        assert!(codes.contains(&Some(0)), "{codes:?} {errors:?}");
        assert_eq!(cluster.running_at(&id).len(), 1);
        cluster.ask(&["move", "p", "one"]).ok();
    }
    let mut given_up = cluster.begin(&["move", "p", "two"]);
    given_up.signal(Signal::INT);
    given_up.end();
    assert_eq!(cluster.running_at(&id).len(), 1);
    cluster.ask(&["kill", "p"]).ok();
}

#[test]
fn a_killed_runner_loses_its_processes_once_and_the_node_goes_on() {
    let cluster = Cluster::new(&["one", "two"]);
    let lua = guest("lua");
    let run = |name: &str, on: &str| {
        let words = [
            "run",
            "--detach",
            "--name",
            name,
            "--on",
            on,
            &lua,
            "-e",
            LUA_FOREVER,
        ];
        cluster.ask(&words).ok()
    };
    run("here", "one");
    for name in ["a", "b"] {
        run(name, "two");
    }
    cluster.at("two").kill_runner();
    for name in ["a", "b"] {
        cluster.ask(&["wait", name]).fails(137, &["lost"]);
    }
    let listed = cluster.ask(&["ps", "--all", "--json"]).ok();
    assert_eq!(listed.matches("lost").count(), 2, "{listed}");
    until("the node has another runner", || {
        cluster.at("two").runner().is_some()
    });
    cluster.is_at("here", "one");
    until("the name is free", || {
        let words = [
            "run", "--detach", "--name", "a", "--on", "two", &lua, "-e", "print(7)",
        ];
        cluster.ask(&words).0.status.success()
    });
    assert_eq!(cluster.whole("a"), "7\n");
    cluster.ask(&["move", "here", "two"]).ok();
    cluster.ask(&["kill", "here"]).ok();
}

/// The user `nobody` of all distributions.
const NOBODY: u32 = 65_534;

#[test]
fn nodes_without_root_move_processes_and_say_what_they_lack() {
    if !rustix::process::geteuid().is_root() {
        skip!("all other tests run without root here");
    }
    let world = World::of_user(NOBODY);
    // What it is to run may lie where nobody else may look.
    let mut version = world.command(["--version"]);
    if !version.output().is_ok_and(|output| output.status.success()) {
        skip!("the program is where user {NOBODY} cannot read it");
    }
    let program = world.file("lua.wasm", fs::read(guest("lua")).unwrap());
    let cluster = Cluster::in_world(world, &["one", "two"], |_, _| {
        (free_address(), How::default())
    });
    cluster.have_runners();
    let run = [
        "run",
        "--detach",
        "--name",
        "lua",
        &program,
        "-e",
        LUA_FOREVER,
    ];
    cluster.ask(&run).ok();
    for target in ["two", "one", "two"] {
        cluster.ask(&["move", "lua", target]).ok();
        cluster.is_at("lua", target);
    }
    cluster.ask(&["kill", "lua"]).ok();
    let written = cluster.ask(&["logs", "lua"]).ok();
    let all: String = (1..=written.lines().count())
        .map(|number| format!("{number}\n"))
        .collect();
    assert!(!all.is_empty() && written == all, "the output differs");
    let shown = cluster.ask(&["nodes"]).ok();
    for node in cluster.at("one").nodes(&cluster.world) {
        let confinement = node["runner_confinement"].as_str().unwrap();
        let (extent, lacks) = confinement.split_once(": ").unwrap_or((confinement, ""));
        assert!(
            ["full", "partial", "none"].contains(&extent),
            "{confinement}"
        );
        assert_eq!(extent == "full", lacks.is_empty(), "{confinement}");
        assert!(shown.contains(extent), "{shown}");
    }
}

/// At some moment of a move one side's service is killed, and started again. Every process writes all that it would.
#[track_caller]
fn check_killed(killed: &'static str) {
    let mut cluster = Cluster::new(&["home", "one", "two"]);
    let lua = guest("lua");
    let expected = World::new().ask(["run", &lua, "-e", LUA]).ok();
    for round in 0..rounds(4, 40) {
        let name = format!("p{round}");
        let words = [
            "run", "--detach", "--on", "one", "--name", &name, &lua, "-e", LUA,
        ];
        cluster.ask(&words).ok();
        let mut moving = cluster.begin(&["move", &name, "two"]);
        // Each question takes about as long as a part of the move.
        for _ in 0..round % 7 {
            cluster.ask(&["nodes"]);
        }
        cluster.kill(killed);
        cluster.start_again(killed);
        moving.end();
        assert!(
            cluster.whole(&name) == expected,
            "{name} has another output"
        );
        let place = cluster.place(&name).unwrap();
        assert!(["one", "two"].contains(&&*place.0), "{place:?}");
    }
}

#[test]
fn a_move_whose_source_is_killed_ends_well() {
    check_killed("one");
}

#[test]
fn a_move_whose_target_is_killed_ends_well() {
    check_killed("two");
}

#[test]
fn a_move_whose_registry_is_killed_ends_well() {
    check_killed("home");
}

/// The others have connections to where it was, and hear of its new address before they could see that those are dead.
#[test]
fn a_node_that_comes_back_at_another_port_can_be_moved_to_at_once() {
    let mut cluster = Cluster::new_so(&["home", "one", "two"], |_, name| {
        let address = match name {
            "two" => "127.0.0.1:0".to_owned(),
            _ => free_address(),
        };
        (address, How::default())
    });
    let words = ["run", "-d", "--on", "one", "--name", "lua", &guest("lua")];
    cluster
        .ask(&[&words[..], &["-e", LUA_FOREVER]].concat())
        .ok();
    for _ in 0..3 {
        for target in ["two", "one"] {
            cluster.ask(&["move", "lua", target]).ok();
        }
        cluster.kill("two");
        cluster.start_again("two");
        cluster.ask(&["move", "lua", "two"]).ok();
        cluster.ask(&["move", "lua", "one"]).ok();
    }
    cluster.ask(&["kill", "lua"]).ok();
}

#[test]
fn output_of_before_is_shown_though_the_node_that_has_the_process_is_down() {
    let mut cluster = Cluster::new(&["home", "one", "two"]);
    let words = ["run", "-d", "--on", "one", "--name", "lua", &guest("lua")];
    cluster
        .ask(&[&words[..], &["-e", LUA_FOREVER]].concat())
        .ok();
    until("it writes", || {
        !cluster.ask(&["logs", "lua"]).ok().is_empty()
    });
    cluster.ask(&["move", "lua", "two"]).ok();
    cluster.kill("two");
    let shown = cluster.ask(&["logs", "lua"]);
    assert!(!shown.0.stdout.is_empty());
    shown.fails(1, &["node two: no answer"]);
    cluster.start_again("two");
    cluster.ask(&["kill", "lua"]).ok();
}

#[test]
fn one_that_was_moved_standing_still_can_be_killed() {
    let cluster = Cluster::new(&["one", "two"]);
    let words = [
        "run",
        "-d",
        "--name",
        "lua",
        &guest("lua"),
        "-e",
        LUA_FOREVER,
    ];
    cluster.ask(&words).ok();
    cluster.ask(&["pause", "lua"]).ok();
    cluster.ask(&["move", "lua", "two"]).ok();
    cluster.ask(&["kill", "lua"]).ok();
    cluster.ask(&["wait", "lua"]).fails(137, &[]);
}

#[test]
fn one_whose_functions_have_endless_names_ends_as_others_do() {
    let cluster = Cluster::new(&["one"]);
    let [deep, outer] = ["d", "o"].map(|letter| letter.repeat(90_000));
    let file = cluster.world.file(
        "names.wat",
        format!(
            "(module (func ${deep} (param i32)
                local.get 0 i32.eqz if unreachable end
                local.get 0 i32.const 1 i32.sub call ${deep})
             (func ${outer} i32.const 30 call ${deep})
             (func (export \"_start\") call ${outer}))"
        ),
    );
    let others = cluster
        .ask(&["run", "-d", &guest("count"), "100000000", "100000"])
        .ok();
    let ended = cluster.ask(&["run", "--on", "one", &file]);
    ended.fails(134, &["trapped: ", "unreachable"]);
    assert!(ended.err().len() < 20_000, "{} bytes", ended.err().len());
    assert!(cluster.ask(&["ps"]).ok().contains(others.trim()));
    cluster.ask(&["kill", others.trim()]).ok();
}

/// Says again and again how a new NaN begins.
const LUA_NANS: &str = "local i=0; while true do i=i+1; local zero=i-i; local bits=string.pack('>d',zero/zero); \
                        print(string.format('%02x%02x',bits:byte(1,2))); io.stdout:flush(); \
                        for j=1,300000 do zero=zero+j end end";

#[test]
fn nans_have_the_same_bits_wherever_a_process_goes_on_that_was_started_so() {
    let cluster = Cluster::new(&["one", "two"]);
    let writes_on = |name: &str| {
        let lines = || cluster.ask(&["logs", name]).out().lines().count();
        let before = lines();
        until("it writes on", || lines() > before + 1);
    };
    let start = |name: &str, options: &[&str]| {
        let run = ["run", "-d", "--on", "one", "--name", name];
        let program = [&guest("lua"), "-e", LUA_NANS];
        cluster.ask(&[&run, options, &program].concat()).ok();
        writes_on(name);
    };
    start("plain", &[]);
    start("p", &["--canonical-nans"]);
    // The other node has its program for those that are not so.
    cluster.ask(&["move", "plain", "two"]).ok();
    let cloned = cluster.json(&["clone", "p", "two", "--json"]);
    let clone = cloned["id"].as_str().unwrap();
    for target in ["two", "one", "two"] {
        cluster.ask(&["move", "p", target]).ok();
        writes_on("p");
    }
    let file = cluster.world.path("p.sterna");
    let file = file.to_str().unwrap();
    cluster.ask(&["freeze", "p", "-o", file]).ok();
    cluster
        .ask(&["thaw", "--canonical-nans", "--detach", file])
        .ok();
    writes_on("p");
    let snapshot = ["snapshot", "p", "--once", "--to", "two"];
    cluster.ask(&snapshot).ok();
    cluster.at("one").kill_runner();
    until("it is lost", || {
        cluster.place("p").unwrap().1.starts_with("was lost")
    });
    cluster.ask(&["recover", "p", "--on", "two"]).ok();
    writes_on("p");
    writes_on(clone);
    let nans = |name: &str| {
        let mut nans: Vec<String> = cluster
            .ask(&["logs", name])
            .out()
            .lines()
            .map(str::to_owned)
            .collect();
        nans.sort();
        nans.dedup();
        nans
    };
    // Arm computes the canonical one anyway.
    let plain = if cfg!(target_arch = "x86_64") {
        "fff8"
    } else {
        "7ff8"
    };
    assert_eq!(nans("plain"), [plain]);
    assert_eq!(nans("p"), ["7ff8"]);
    assert_eq!(nans(clone), ["7ff8"]);
    let frozen = ["freeze", "plain", "-o", file];
    cluster.ask(&frozen).ok();
    cluster
        .ask(&["thaw", "--canonical-nans", "--detach", file])
        .fails(125, &["was started without --canonical-nans"]);
}
