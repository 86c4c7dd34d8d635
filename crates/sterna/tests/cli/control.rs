//! What users do with processes on nodes: look at what they use and what happens, type to them, copy their files.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::Node;
use crate::terminal::on_terminal_with;
use crate::world::{Actor, Answer, World, guest, skip, until};

/// Two nodes of one cluster. The one that has the registry ends last, so that all is written down.
struct Pair {
    two: Node,
    one: Node,
    world: World,
}

impl Pair {
    fn new() -> Self {
        let world = World::new();
        let one = Node::start(&world, "one", "127.0.0.1:0");
        let two = Node::start(&world, "two", "127.0.0.1:0");
        two.join(&world, &one.invite(&world)).ok();
        for node in [&one, &two] {
            until("both have runners", || {
                let nodes = node.nodes(&world);
                nodes
                    .iter()
                    .all(|node| node["runner_confinement"].is_string())
            });
        }
        Self { world, one, two }
    }

    fn ask(&self, words: &[&str]) -> Answer {
        self.one.ask(&self.world, words)
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ask(words).ok()).unwrap()
    }

    /// Each line of what is printed.
    fn lines(&self, words: &[&str]) -> Vec<Value> {
        let printed = self.ask(words).ok();
        let lines = printed.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn run(&self, options: &[&str], program: &str, arguments: &[&str]) {
        let program = guest(program);
        let words = [&["run", "--node", &self.one.data, "--detach"], options].concat();
        let words = [&words, &[&*program][..], arguments].concat();
        self.world.ask(words).ok();
    }

    /// At the process, on a terminal; `line` makes a line of the shell of the command.
    fn attach(&self, process: &str, line: impl FnOnce(String) -> String) -> Option<Actor> {
        let words = ["attach", process, "--node", &self.one.data];
        on_terminal_with(&self.world, &words, line)
    }
}

const NO_SCRIPT: &str = "there is no `script` (util-linux) to make a terminal";

#[test]
fn a_terminal_is_attached_to_across_moves_and_left_as_it_was() {
    let pair = Pair::new();
    pair.run(&["-t", "--name", "echo"], "echo", &[]);
    let line = |command| format!("stty cols 91 rows 23; {command}; stty -a");
    let Some(mut here) = pair.attach("echo", line) else {
        skip!("{NO_SCRIPT}");
    };
    until("the terminal has the size of who is attached", || {
        let inspected = pair.json(&["inspect", "echo", "--json"]);
        inspected["terminal"]["columns"] == 91 && inspected["terminal"]["rows"] == 23
    });
    let same = |command| format!("stty cols 91 rows 23; {command}");
    let mut beside = pair.attach("echo", same).unwrap();
    here.say("one\n");
    here.out.wait_for("1: one");
    // Who types is attached, and sees what comes from then on.
    beside.say("beside\n");
    beside.out.wait_for("2: beside");
    here.out.wait_for("2: beside");
    beside.say("\x10\x11");
    beside.ended(0);
    here.say("half");
    here.out.wait_for("half");
    pair.ask(&["move", "echo", "two"]).ok();
    here.say(" a line\n");
    here.out.wait_for("3: half a line");
    let inspected = pair.json(&["inspect", "echo", "--json"]);
    assert_eq!(inspected["node"], "two");
    assert_eq!(inspected["terminal"]["columns"], 91);
    here.say("\x10\x11");
    let after = here.ended(0);
    assert!(after.contains("which runs on"), "{after}");
    assert!(
        after.contains(" icanon") && after.contains(" echo "),
        "{after}"
    );
    let mut again = pair.attach("echo", |command| command).unwrap();
    again.say("back\n");
    again.out.wait_for("4: back");
    again.say("\x04");
    again.ended(0);
}

#[test]
fn a_pipe_is_typed_into_until_its_end() {
    let pair = Pair::new();
    pair.run(&["-i", "--name", "echo"], "echo", &[]);
    let attach = ["attach", "echo", "--node", &pair.two.data];
    let mut first = pair.world.start(attach);
    first.say("one\n");
    first.out.wait_for("1: one");
    pair.ask(&["move", "echo", "two"]).ok();
    first.say("two\n");
    first.out.wait_for("2: two");
    let mut last = pair.world.start([&attach[..], &["--end-input"]].concat());
    last.say("three\n");
    first.out.wait_for("3: three");
    last.hang_up();
    last.ended(0);
    first.ended(0);
    pair.ask(&["attach", "echo"]).fails(1, &["ended"]);
}

#[test]
fn a_process_without_input_says_so() {
    let pair = Pair::new();
    pair.run(&["--name", "spin"], "spin", &[]);
    let words = ["attach", "spin", "--node", &pair.one.data];
    let mut watching = pair.world.start(words);
    watching.err.wait_for("no standard input");
    pair.ask(&["kill", "spin"]).ok();
    watching.ended(137);
}

#[test]
fn ctrl_c_ends_a_process_on_another_node_as_one_here() {
    let pair = Pair::new();
    let (node, program) = (&pair.one.data, guest("count"));
    let there = [
        "run", "--node", node, "--on", "two", &program, "100000", "100000",
    ];
    let mut run = pair.world.start(there);
    run.out.wait_for("3 ");
    run.signal(Signal::INT);
    run.ended(130);
}

#[test]
fn a_process_in_the_foreground_is_named_as_such_by_what_needs_one_on_a_node() {
    let pair = Pair::new();
    let mut run = pair
        .world
        .start(["run", &guest("count"), "100000", "100000"]);
    run.out.wait_for("3 ");
    for words in [&["move", "count", "two"][..], &["logs", "count"]] {
        pair.ask(words).fails(1, &["foreground", "thaw --detach"]);
    }
    run.signal(Signal::INT);
    run.ended(130);
}

#[test]
fn what_processes_use_is_shown() {
    let pair = Pair::new();
    pair.run(&["--name", "spin"], "spin", &[]);
    let used = pair.json(&["stats", "spin", "--json"]);
    let used = &used.as_array().unwrap()[..];
    assert_eq!(used.len(), 1);
    assert_eq!(used[0]["node"], "one");
    assert!(used[0]["cpu_percent"].as_f64().unwrap() > 0.0, "{used:?}");
    assert!(used[0]["output_bytes"].is_u64() && used[0]["memory_bytes"].as_u64() > Some(0));
    let tables = pair
        .ask(&["top", "--interval", "100ms", "--times", "2"])
        .ok();
    assert_eq!(tables.matches("CPU %").count(), 2, "{tables}");
    assert!(tables.contains("spin") && !tables.contains('\x1b'));
    let words = ["top", "--node", &pair.one.data];
    let line = |command| format!("{command}; stty -a");
    let Some(mut top) = on_terminal_with(&pair.world, &words, line) else {
        skip!("{NO_SCRIPT}");
    };
    top.out.wait_for("spin");
    top.say("q");
    let after = top.ended(0);
    assert!(after.contains("\x1b[?1049l"), "the screen is given back");
    assert!(
        after.contains(" icanon") && after.contains(" echo "),
        "{after}"
    );
    pair.ask(&["stats", "spinn"])
        .fails(1, &["no process spinn", "did you mean spin"]);
}

#[test]
fn what_happens_is_told_of_all_nodes() {
    let pair = Pair::new();
    let words = ["events", "-f", "--json", "--node", &pair.two.data];
    let following = pair.world.start(words);
    following.out.wait_for("node_joined");
    pair.run(&["--name", "spin"], "spin", &[]);
    pair.ask(&["move", "spin", "two"]).ok();
    following.out.wait_for("\"moved\"");
    pair.ask(&["kill", "spin"]).ok();
    following.out.wait_for("\"ended\"");
    let told = pair.lines(&["events", "--since", "1h", "--json"]);
    let of = |event: &str| {
        let found = told.iter().position(|line| line["event"] == event);
        found.unwrap_or_else(|| panic!("no {event} in {told:?}"))
    };
    assert!(of("started") < of("moved") && of("moved") < of("ended"));
    let moved = &told[of("moved")];
    assert_eq!(moved["name"], "spin");
    assert_eq!([&moved["from"], &moved["to"]], ["one", "two"]);
    assert!(moved["downtime_us"].as_u64().unwrap() > 0);
    assert_eq!(told[of("ended")]["node"], "two");
    assert_eq!(told[of("ended")]["what"], "killed");
    assert!(told.is_sorted_by_key(|line| line["at_ms"].as_u64()));
    let text = pair.ask(&["events"]).ok();
    assert!(
        text.contains("was moved, from one to two, stood still for"),
        "{text}"
    );
    assert_eq!(pair.ask(&["events", "--since", "0s"]).ok(), "");
}

#[test]
fn a_process_on_a_node_is_inspected() {
    let pair = Pair::new();
    pair.run(&["--name", "lua"], "spin", &[]);
    let inspected = pair.json(&["inspect", "lua", "--json"]);
    assert_eq!(
        [&inspected["node"], &inspected["started_on"]],
        ["one", "one"]
    );
    assert_eq!(inspected["epoch"], 0);
    assert!(inspected["cpu_ms"].is_u64() && inspected["started_ms"].is_u64());
    let frames = inspected["description"]["frames"].as_array().unwrap();
    assert!(!frames.is_empty());
    let text = pair.ask(&["inspect", "lua"]).ok();
    assert!(text.contains("frames, innermost first") && text.contains("one"));
    pair.ask(&["inspect", "luo"])
        .fails(1, &["did you mean lua"]);
}

#[test]
fn files_of_directories_are_copied_and_no_others() {
    let pair = Pair::new();
    let listed = pair.one.nodes(&pair.world);
    let confinement = listed[0]["runner_confinement"].as_str().unwrap().to_owned();
    let world = &pair.world;
    for name in ["given", "given/inner", "fixed", "tree", "tree/sub"] {
        fs::create_dir(world.path(name)).unwrap();
    }
    let large: Vec<u8> = (0..700_001_u32).map(|at| (at * 7 % 251) as u8).collect();
    fs::write(world.path("given/large"), &large).unwrap();
    fs::write(world.path("given/inner/small"), "small").unwrap();
    fs::write(world.path("secret"), "secret").unwrap();
    symlink("../secret", world.path("given/out")).unwrap();
    fs::write(world.path("tree/sub/file"), "brought").unwrap();
    fs::write(world.path("tree/empty"), "").unwrap();
    let (given, fixed) = (world.path("given"), world.path("fixed"));
    let given = format!("{}::/work", given.display());
    let fixed = format!("{}::/fixed:ro", fixed.display());
    let program = guest("spin");
    let words = [
        "run",
        "--detach",
        "--name",
        "spin",
        "--node",
        &pair.one.data,
    ];
    let started = world.ask([&words[..], &["--dir", &given, "--dir", &fixed, &program]].concat());
    if !started.0.status.success() && started.err().contains("cannot confine") {
        skip!("runners take no directories on this machine: {confinement}");
    }
    started.ok();

    let cp = |from: &str, to: &str| pair.ask(&["cp", "-r", from, to]);
    cp("spin:/work/large", "large").ok();
    assert_eq!(fs::read(world.path("large")).unwrap(), large);
    cp("./large", "spin:/work/copy").ok();
    assert_eq!(fs::read(world.path("given/copy")).unwrap(), large);
    cp("spin:/work", "all").ok();
    assert_eq!(fs::read(world.path("all/inner/small")).unwrap(), b"small");
    assert!(!world.path("all/out").exists(), "links are left out");
    let told = pair.json(&["cp", "-r", "--json", "tree", "spin:/work"]);
    assert_eq!((&told["files"], &told["bytes"]), (&json!(2), &json!(7)));
    let brought = world.path("given/tree");
    assert_eq!(fs::read(brought.join("sub/file")).unwrap(), b"brought");
    assert_eq!(fs::read(brought.join("empty")).unwrap(), b"");

    cp("spin:/work/out", "x").fails(1, &["leads out"]);
    cp("spin:/work/../secret", "x").fails(1, &["leads out"]);
    cp("spin:/etc/passwd", "x").fails(1, &["not in a directory that it was given: /work, /fixed"]);
    cp("large", "spin:/fixed/large").fails(1, &["for reading only"]);
    cp("spin:/work/none", "x").fails(1, &["/work/none", "No such file"]);
    pair.ask(&["cp", "spin:/work", "x"])
        .fails(1, &["copy it with -r"]);
    assert!(!world.path("x").exists());
}

#[test]
fn programs_are_told_what_was_done() {
    let world = World::new();
    let (one, two) = (
        Node::start(&world, "one", "127.0.0.1:0"),
        Node::start(&world, "two", "127.0.0.1:0"),
    );
    let shown = one.json(&world, &["node", "invite", "--json"]);
    assert!(
        shown["ticket"]
            .as_str()
            .unwrap()
            .starts_with("sterna-ticket-")
    );
    let file = world.file("ticket", "");
    let kept = one.json(
        &world,
        &["node", "invite", "--json", "--expires", "5m", "-o", &file],
    );
    assert_eq!(
        kept,
        json!({"ticket": null, "file": file, "valid_ms": 300_000})
    );
    let joined = two.json(&world, &["node", "join", "--json", &file]);
    assert_eq!(joined, json!({"nodes": 2}));

    let (idle, image) = (guest("idle"), world.file("image", ""));
    fs::remove_file(&image).unwrap();
    one.ask(
        &world,
        &["run", "--detach", "--name", "idle", &idle, "sleep"],
    )
    .ok();
    one.ask(&world, &["freeze", "idle", "-o", &image]).ok();
    let thawed = two.json(&world, &["thaw", "--detach", "--json", &image]);
    assert_eq!(thawed["node"], "two");
    world
        .ask(["thaw", "--json", &image])
        .fails(2, &["--detach"]);
    let killed = one.json(&world, &["kill", "--json", "idle"]);
    assert_eq!(
        (&killed[0]["id"], &killed[0]["state"]),
        (&thawed["id"], &json!("killed"))
    );
    // What was killed has ended: nothing is in the way of removing it.
    one.ask(&world, &["rm", "idle"]).ok();
    let stopped = two.json(&world, &["node", "stop", "--json", "--kill"]);
    assert_eq!(stopped, json!({"processes": "killed"}));
    one.stop(&world);
}
