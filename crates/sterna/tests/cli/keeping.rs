//! Processes of nodes in files, copies of them, and what comes back after a death: real nodes, killed with SIGKILL.

use std::fs;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::cluster::{How, Node, join, joined, start_with, two};
use crate::world::{Answer, World, guest, until};

const ENDLESS: &str = "local i=0; while true do i=i+1; for j=1,300000 do end print(i) end";
const PROGRAM: &str = "for i=1,150 do local s=0; for j=1,1000000 do s=s+j%7 end; print(i,s) end";

fn run_lua(node: &Node, world: &World, on: &str) {
    run(node, world, on, PROGRAM);
}

fn run(node: &Node, world: &World, on: &str, program: &str) {
    let lua = guest("lua");
    let words = ["run", "--detach", "--name", "lua", "--on", on];
    let mut words = words.to_vec();
    words.extend(["--node", &node.data, &lua, "-e", program]);
    world.ask(words).ok();
    until("some output", || {
        node.ok(world, &["logs", "lua"]).lines().count() > 3
    });
}

fn writes_on(node: &Node, world: &World) {
    let log = || node.ok(world, &["logs", "lua"]).len();
    let before = log();
    until("it writes on", || log() > before + 20);
}

fn plain(world: &World) -> String {
    world.ask(["run", &guest("lua"), "-e", PROGRAM]).ok()
}

#[test]
fn a_process_whose_node_was_killed_comes_back_from_its_snapshot() {
    let world = World::new();
    let [one, mut other] = two(&world);
    let third = joined(&world, &one, "three");
    run_lua(&one, &world, "two");
    one.fails(&world, &["recover", "lua"], &["not lost"]);
    let every = [
        "snapshot", "lua", "--every", "1s", "--to", "one", "--keep", "2",
    ];
    one.ok(&world, &every);
    other.kill_runner();
    other.kill();
    one.fails(
        &world,
        &["logs", "lua"],
        &["node two: no answer", "start it again"],
    );
    other.start_again(&world);
    one.hears_of_a_loss(&world);
    // What happened there is not forgotten with the service.
    let events = one.ok(&world, &["events"]);
    let is_of = |line: &&str| line.contains(" two: ") && line.contains("was started");
    let started = events.lines().find(is_of);
    let started = started.unwrap_or_else(|| panic!("{events}"));
    assert_eq!(started.find('T'), Some("2026-11-29".len()), "{started}");
    // By a third node, which reads what it needs of the one that keeps it.
    let told = one.ok(&world, &["recover", "lua", "--on", "three"]);
    assert!(told.contains("on three from snapshot"), "{told}");
    one.fails(&world, &["recover", "lua"], &["not lost"]);
    one.ok(&world, &["wait", "lua"]);
    assert_eq!(one.ok(&world, &["logs", "lua"]), plain(&world));
    for node in [third, other, one] {
        node.stop(&world);
    }
}

/// Its snapshot is of the time when it was elsewhere, so the last part of its log on its node is of a life that does not
/// count, and the one that says where it was then.
#[test]
fn the_log_of_a_process_that_comes_back_where_it_was_lost_is_whole() {
    let world = World::new();
    let [one, other] = two(&world);
    run(&one, &world, "two", ENDLESS);
    one.ok(&world, &["move", "lua", "one"]);
    writes_on(&one, &world);
    one.ok(&world, &["snapshot", "lua", "--once", "--to", "one"]);
    writes_on(&one, &world);
    one.ok(&world, &["move", "lua", "two"]);
    writes_on(&one, &world);
    other.kill_runner();
    one.hears_of_a_loss(&world);
    one.ok(&world, &["recover", "lua", "--on", "two"]);
    writes_on(&one, &world);
    one.ok(&world, &["kill", "lua"]);
    for node in [&one, &other] {
        let log = node.ok(&world, &["logs", "lua"]);
        let lines = 1..=log.lines().count();
        let counted: String = lines.map(|number| format!("{number}\n")).collect();
        assert_eq!(log, counted);
    }
    for node in [other, one] {
        node.stop(&world);
    }
}

/// What that node alone had is named, and the part before is found, though only that node could say where it is.
#[test]
fn the_log_of_a_process_whose_machine_is_gone_has_what_others_have() {
    let world = World::new();
    let [one, mut other] = two(&world);
    let third = joined(&world, &one, "three");
    run(&one, &world, "one", ENDLESS);
    one.ok(&world, &["move", "lua", "two"]);
    writes_on(&one, &world);
    one.ok(&world, &["snapshot", "lua", "--once", "--to", "three"]);
    other.kill_runner();
    other.kill();
    one.ok(&world, &["nodes", "rm", "--lost", "two"]);
    one.ok(&world, &["recover", "lua", "--on", "three"]);
    writes_on(&one, &world);
    one.ok(&world, &["kill", "lua"]);
    let log = one.ask(&world, &["logs", "lua"]);
    assert!(log.err().contains("output are missing here"));
    assert!(log.out().starts_with("1\n2\n3\n4\n"), "{}", log.out());
    for node in [third, one] {
        node.stop(&world);
    }
}

/// Each life writes something else: what it says is the log before it comes back must be so afterwards.
#[test]
fn what_a_lost_life_wrote_is_not_in_the_log_when_the_process_is_there_again() {
    let world = World::new();
    let [one, other] = two(&world);
    let clock =
        "local i=0; while true do i=i+1; for j=1,300000 do end print(i, os.clock(), os.time()) end";
    run(&one, &world, "two", clock);
    let log = || one.ok(&world, &["logs", "lua"]);
    one.ok(&world, &["snapshot", "lua", "--once", "--to", "one"]);
    writes_on(&one, &world);
    other.kill_runner();
    one.hears_of_a_loss(&world);
    one.ok(&world, &["recover", "lua", "--on", "one"]);
    writes_on(&one, &world);
    let before = log();
    one.ok(&world, &["move", "lua", "two"]);
    writes_on(&one, &world);
    let after = log();
    assert!(after.starts_with(&before), "{before}\n---\n{after}");
    one.ok(&world, &["kill", "lua"]);
    for node in [other, one] {
        node.stop(&world);
    }
}

#[test]
fn a_lost_process_comes_back_from_a_store_on_a_node_that_has_it() {
    let world = World::new();
    let kept = world.path("kept");
    fs::create_dir(&kept).unwrap();
    let store = format!("backup=file://{}", kept.display());
    let one = start_with(&world, "one", &[]);
    let with_store = |name: &str| {
        let node = start_with(&world, name, &["--store", &store]);
        join(&world, &one, &node);
        node
    };
    let (mut other, third) = (with_store("two"), with_store("three"));
    run_lua(&one, &world, "two");
    let snapshot = |to| ["snapshot", "lua", "--once", "--to", to];
    let unknown = ["has no store \"elsewhere\"", "--store elsewhere=URL"];
    one.fails(&world, &snapshot("store:elsewhere"), &unknown);
    let told = one.ok(&world, &snapshot("store:backup"));
    assert!(told.contains("is on store:backup"), "{told}");
    other.kill_runner();
    other.kill();
    other.start_again_so(&world, How::default());
    one.hears_of_a_loss(&world);
    // Started without it, or never with it: neither opens a place that a schedule names.
    for node in ["one", "two"] {
        let recover = ["recover", "lua", "--on", node];
        third.fails(&world, &recover, &["has no store \"backup\""]);
    }
    let told = third.ok(&world, &["recover", "lua"]);
    assert!(told.contains("from snapshot"), "{told}");
    one.ok(&world, &["wait", "lua"]);
    assert_eq!(one.ok(&world, &["logs", "lua"]), plain(&world));
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 1);
    for node in [third, other, one] {
        node.stop(&world);
    }
}

#[test]
fn a_frozen_process_goes_on_once_as_the_same_one_and_then_as_another() {
    let world = World::new();
    let [one, other] = two(&world);
    run_lua(&one, &world, "one");
    let file = world.path("lua.sterna").to_str().unwrap().to_owned();
    one.ok(&world, &["freeze", "lua", "-o", &file]);
    assert!(one.ok(&world, &["ps", "-a"]).contains("is frozen in"));
    // Without a node it is another one.
    let there = world.ask(["thaw", &file]);
    assert!(
        there.err().contains("this is another process"),
        "{}",
        there.err()
    );
    assert!(plain(&world).ends_with(&there.ok()));
    assert!(one.ok(&world, &["ps", "-a"]).contains("is frozen in"));
    // On any node of the cluster.
    let first = other.ok(&world, &["thaw", "--detach", &file]);
    let listed = other.ok(&world, &["ps"]);
    assert!(
        listed.contains(first.trim()) && listed.contains("lua"),
        "{listed}"
    );
    let second = one.ok(&world, &["thaw", "--detach", &file]);
    assert_ne!(first, second);
    one.ok(&world, &["wait", first.trim()]);
    assert_eq!(one.ok(&world, &["logs", first.trim()]), plain(&world));
    one.ok(&world, &["wait", second.trim()]);
    let rest = one.ok(&world, &["logs", second.trim()]);
    assert!(plain(&world).ends_with(&rest));
    other.stop(&world);
    one.stop(&world);
}

/// A directory of one machine is opened there once more.
#[test]
fn a_process_with_a_directory_is_recovered_where_that_is() {
    let world = World::new();
    let [one, other] = two(&world);
    let work = world.path("work");
    fs::create_dir(&work).unwrap();
    let directory = format!("{}::/work", work.display());
    let lua = guest("lua");
    let counts = "local i=0; while true do i=i+1; for j=1,300000 do end; print(i); \
                  local f=io.open('/work/'..i,'w'); f:close() end";
    let run = ["run", "-d", "--name", "lua", "--node", &one.data];
    world
        .ask([&run[..], &["--dir", &directory, &lua, "-e", counts]].concat())
        .ok();
    until("some output", || {
        one.ok(&world, &["logs", "lua"]).lines().count() > 3
    });
    one.ok(&world, &["snapshot", "lua", "--once", "--to", "two"]);
    one.kill_runner();
    one.hears_of_a_loss(&world);
    let how = ["/work is fixed to its node", "--dir HOST::/work"];
    one.fails(&world, &["recover", "lua"], &how);
    let recover = ["recover", "lua", "--dir", &directory];
    other.fails(
        &world,
        &[&recover[..], &["--on", "one"]].concat(),
        &["on their own machine"],
    );
    for wrong in ["/other", "/work:ro"] {
        let wrong = format!("{}::{wrong}", work.display());
        let recover = ["recover", "lua", "--dir", &wrong];
        one.fails(&world, &recover, &["have to be given", "--dir HOST::/work"]);
    }
    one.ok(&world, &recover);
    let before = fs::read_dir(&work).unwrap().count();
    until("it goes on", || {
        fs::read_dir(&work).unwrap().count() > before + 3
    });
    one.ok(&world, &["kill", "lua"]);
    for node in [other, one] {
        node.stop(&world);
    }
}

/// With what it has not read.
#[test]
fn a_process_that_is_typed_to_is_frozen_and_recovered() {
    let world = World::new();
    let [one, other] = two(&world);
    let echo = guest("echo");
    let run = ["run", "-d", "-i", "--name", "echo", "--on", "two"];
    let run = [&run[..], &["--node", &one.data, &echo]].concat();
    world.ask(run).ok();
    let say = |line: &str| {
        let mut typing = world.start(["attach", "echo", "--node", &one.data]);
        typing.say(line);
        typing
    };
    let wrote = |line: &str| {
        until("it has read that", || {
            one.ok(&world, &["logs", "echo"]).contains(line)
        })
    };
    let mut typing = say("one\n");
    wrote("1: one");
    let file = world.path("echo.sterna").to_str().unwrap().to_owned();
    one.ok(&world, &["pause", "echo"]);
    typing.say("two\n");
    let unread = || {
        one.ok(&world, &["freeze", "echo", "-o", &file, "--keep"]);
        let there = fs::read(&file).unwrap();
        there.windows(4).any(|bytes| bytes == b"two\n")
    };
    until("it is typed", unread);
    one.ok(&world, &["freeze", "echo", "-o", &file]);
    typing.end();
    // Who thaws it elsewhere types anew.
    let mut there = world.start(["thaw", &file]);
    there.say("else\n");
    there.out.wait_for("2: else");
    there.hang_up();
    there.ended(0);
    one.ok(&world, &["thaw", "--detach", "--on", "two", &file]);
    one.ok(&world, &["resume", "echo"]);
    wrote("2: two");
    one.ok(&world, &["snapshot", "echo", "--once", "--to", "one"]);
    other.kill_runner();
    one.hears_of_a_loss(&world);
    one.ok(&world, &["recover", "echo", "--on", "two"]);
    let mut typing = say("three\n");
    wrote("3: three");
    one.ok(&world, &["kill", "echo"]);
    typing.end();
    for node in [other, one] {
        node.stop(&world);
    }
}

#[test]
fn a_process_is_frozen_from_another_node_and_thawed_on_a_third() {
    let world = World::new();
    let [one, other] = two(&world);
    let cache = world.path("cache of three").to_str().unwrap().to_owned();
    let how = How {
        environment: vec![("STERNA_CACHE_DIR".into(), cache)],
        ..How::default()
    };
    let third = Node::start_so(&world, "three", "127.0.0.1:0", how);
    join(&world, &one, &third);
    run(&one, &world, "two", ENDLESS);
    let file = world.path("lua.sterna").to_str().unwrap().to_owned();
    let kept = world.path("kept.sterna").to_str().unwrap().to_owned();
    one.ok(&world, &["freeze", "lua", "-o", &kept, "--keep"]);
    // A full disk, say: it runs on, and can be frozen once more.
    let nowhere = ["freeze", "lua", "-o", "no/such/place"];
    one.fails(&world, &nowhere, &["no/such/place"]);
    // The program is not in this user's cache: it comes from the node that has the process.
    let mut freeze = world.command(["freeze", "lua", "-o", &file, "--node", &one.data]);
    freeze.env("STERNA_CACHE_DIR", world.path("empty"));
    Answer(freeze.output().unwrap()).ok();
    assert!(third.ok(&world, &["ps", "-a"]).contains("is frozen in"));
    let inspected = world.ask(["inspect", "--check", &file]).ok();
    assert!(inspected.contains("in the file"), "{inspected}");
    one.fails(&world, &["freeze", "lua", "-o", &kept], &["is frozen"]);
    let nowhere = ["thaw", "--detach", "--on", "four", &file];
    let nowhere = [&nowhere[..], &["--node", &one.data]].concat();
    world.ask(nowhere).fails(125, &["no node four"]);
    let thaw = ["thaw", "--detach", "--on", "three", &file];
    let process = one.ok(&world, &thaw);
    // Which has got the program of the node that was asked.
    assert_ne!(
        fs::read_dir(world.path("cache of three")).unwrap().count(),
        0
    );
    let rows: Value = serde_json::from_str(&one.ok(&world, &["ps", "--json"])).unwrap();
    assert_eq!(rows[0]["name"], "lua");
    assert_eq!(rows[0]["node"], "three");
    let lines = |log: &str| log.lines().count();
    let before = lines(&one.ok(&world, &["logs", "lua"]));
    until("more output", || {
        lines(&one.ok(&world, &["logs", "lua"])) > before + 1
    });
    let log = one.ok(&world, &["logs", "lua"]);
    let all: Vec<String> = (1..=lines(&log)).map(|number| number.to_string()).collect();
    assert!(log.lines().eq(&all), "{log}");
    // Another one since: what was only a copy has never been the process.
    let clone = other.ok(&world, &["thaw", "--detach", &kept]);
    assert_ne!(clone, process);
    for node in [third, other, one] {
        node.stop(&world);
    }
}

#[test]
fn a_clone_does_the_rest_of_the_work_too() {
    let world = World::new();
    let [one, other] = two(&world);
    run_lua(&one, &world, "one");
    let clone = one.ok(&world, &["clone", "lua", "two"]);
    one.ok(&world, &["wait", clone.trim()]);
    one.ok(&world, &["wait", "lua"]);
    let whole = plain(&world);
    assert_eq!(one.ok(&world, &["logs", "lua"]), whole);
    let rest = one.ok(&world, &["logs", clone.trim()]);
    assert!(!rest.is_empty() && whole.ends_with(&rest), "{rest}");
    assert_eq!(
        fs::read_dir(world.path("two/snapshots")).unwrap().count(),
        0
    );
    other.stop(&world);
    one.stop(&world);
}

#[test]
fn ctrl_c_gives_a_freeze_up_and_the_process_stays() {
    let world = World::new();
    let one = start_with(&world, "one", &[]);
    run(&one, &world, "one", ENDLESS);
    let file = world.path("lua.sterna").to_str().unwrap().to_owned();
    fs::write(&file, "what was there").unwrap();
    let runner = one.runner().unwrap();
    // It gives no image now, so the command waits for one.
    kill_process(runner, Signal::STOP).unwrap();
    let mut freeze = one.begin(&world, &["freeze", "lua", "-o", &file]);
    until("it catches signals", || catches_signals(&freeze.pid()));
    freeze.signal(Signal::INT);
    freeze.ended(130);
    let said = freeze.err.text();
    assert!(said.contains("lua.sterna was not written"), "{said}");
    kill_process(runner, Signal::CONT).unwrap();
    let names = fs::read_dir(world.directory.path()).unwrap().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    let files: Vec<String> = names.filter(|name| name.contains("lua.sterna")).collect();
    assert_eq!(files, ["lua.sterna"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "what was there");
    let mut told = Value::Null;
    until("it can be frozen", || {
        let frozen = one.ask(&world, &["freeze", "lua", "-o", &file, "--json"]);
        told = serde_json::from_str(&frozen.out()).unwrap_or_default();
        frozen.0.status.success()
    });
    // Of one on a node only the whole is known.
    assert!(told["stopped_us"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(told.get("pause_us"), None, "{told}");
    one.stop(&world);
}

#[test]
fn what_goes_with_its_node_is_told() {
    let world = World::new();
    let [one, other] = two(&world);
    run(&one, &world, "one", ENDLESS);
    let elsewhere = one.ask(&world, &["snapshot", "lua", "--once", "--to", "two"]);
    elsewhere.ok();
    assert_eq!(elsewhere.err(), "");
    let here = one.ask(&world, &["snapshot", "lua", "--once", "--to", "one"]);
    here.ok();
    assert!(
        here.err().contains("are lost with that node"),
        "{}",
        here.err()
    );
    one.fails(
        &world,
        &["node", "stop"],
        &["1 process runs here", "--leave"],
    );
    other.stop(&world);
    one.stop(&world);
}

/// Whether a program has said what is to be done on Ctrl-C, as the kernel has it: proc_pid_status(5).
fn catches_signals(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|caught| u64::from_str_radix(caught.trim(), 16).ok());
    caught.is_some_and(|caught| caught & (1 << (Signal::INT.as_raw() - 1)) != 0)
}

/// A cluster whose nodes have a store `kept`, with a process on `two`.
fn with_store(environment: &[(String, String)]) -> (World, Node, Node) {
    let world = World::new();
    let kept = world.path("kept");
    fs::create_dir(&kept).unwrap();
    let start = |name| {
        let how = How {
            options: vec!["--store".into(), format!("kept=file://{}", kept.display())],
            environment: environment.to_vec(),
            ..How::default()
        };
        Node::start_so(&world, name, "127.0.0.1:0", how)
    };
    let (one, other) = (start("one"), start("two"));
    join(&world, &one, &other);
    run(&one, &world, "two", ENDLESS);
    (world, one, other)
}

const ONCE: [&str; 4] = ["snapshot", "lua", "--once", "--json"];

#[test]
fn snapshots_that_are_wanted_at_once_are_made_one_after_the_other() {
    let (world, one, mut other) = with_store(&[]);
    let every = ["--every", "1s", "--keep", "1", "--to", "store:kept"];
    one.ok(&world, &[&["snapshot", "lua"][..], &every].concat());
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let at_once: Vec<_> = (0..4).map(|_| one.begin(&world, &ONCE)).collect();
        for mut making in at_once {
            let kept: Value = serde_json::from_str(&making.ended(0)).unwrap();
            assert_eq!(kept["every_ms"], 1000, "{kept}");
            numbers.push(kept["number"].as_u64().unwrap());
        }
    }
    numbers.sort_unstable();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    other.kill_runner();
    other.kill();
    other.start_again(&world);
    one.hears_of_a_loss(&world);
    let recovered = one.json(&world, &["recover", "lua", "--json"]);
    assert_eq!(recovered["passed_over"], Value::Array(Vec::new()));
    assert!(recovered["snapshot"].as_u64() >= numbers.last().copied());
    let before = one.ok(&world, &["logs", "lua"]);
    until("it goes on", || one.ok(&world, &["logs", "lua"]) > before);
    other.stop(&world);
    one.stop(&world);
}

#[test]
fn a_move_that_meets_a_snapshot_waits_for_it() {
    let (world, one, other) = with_store(&[]);
    one.ok(&world, &["snapshot", "lua", "--once", "--to", "store:kept"]);
    let mut making = one.begin(&world, &ONCE);
    for target in ["one", "two"].iter().cycle().take(12) {
        let begun = std::mem::replace(&mut making, one.begin(&world, &ONCE));
        one.ok(&world, &["move", "lua", target]);
        drop(begun);
    }
    drop(making);
    other.stop(&world);
    one.stop(&world);
}

#[test]
fn a_schedule_that_is_ended_while_a_snapshot_is_made_stays_ended() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let arm = |text: &str| fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let (world, one, other) = with_store(&[("STERNA_FAULTS".into(), path)]);
    let every = |every| ["snapshot", "lua", "--every", every, "--to", "store:kept"];
    let stands = || {
        let text = fs::read_to_string(file.path()).unwrap();
        text.starts_with("reached")
    };
    one.ok(&world, &every("1s"));
    arm("service kept Manifest");
    until("one of the schedule is kept, and not written down", stands);
    let told = one.ok(&world, &["snapshot", "lua", "--stop"]);
    assert!(told.contains("no more snapshots"), "{told}");
    arm("");
    let kept = one.json(&world, &ONCE);
    assert_eq!(kept["every_ms"], Value::Null, "{kept}");
    // And one with which a schedule was to begin.
    arm("service kept Manifest");
    let mut making = one.begin(&world, &every("1h"));
    until("it is kept, and not written down", stands);
    one.ok(&world, &["snapshot", "lua", "--stop"]);
    arm("");
    making.ended(0);
    let kept = one.json(&world, &ONCE);
    assert_eq!(kept["every_ms"], Value::Null, "{kept}");
    other.stop(&world);
    one.stop(&world);
}
