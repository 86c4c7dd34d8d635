//! Nodes as their users meet them: real processes on loopback, each with a data directory of its own.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::{Node, free_address};
use crate::world::{Answer, World, guest, until};

fn start(world: &World, name: &str, address: &str) -> Node {
    Node::start(world, name, address)
}

/// Three nodes of one cluster, of both families of addresses.
fn three(world: &World) -> [Node; 3] {
    let one = start(world, "one", "127.0.0.1:0");
    let two = start(world, "two", "[::1]:0");
    let three = start(world, "three", "127.0.0.1:0");
    let file = world.path("ticket").to_str().unwrap().to_owned();
    one.ask(world, &["node", "invite", "--expires", "5m", "-o", &file])
        .ok();
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    two.ask(world, &["node", "join", &file]).ok();
    let ticket = two.invite(world);
    three.join(world, &ticket).ok();
    three
        .join(world, &ticket)
        .fails(1, &["joined that cluster already"]);
    [one, two, three]
}

#[test]
fn nodes_that_have_joined_see_each_other() {
    let world = World::new();
    let nodes = three(&world);
    for node in &nodes {
        let listed = node.nodes(&world);
        let names: Vec<&str> = listed
            .iter()
            .map(|node| node["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["one", "three", "two"]);
        let shown = node.ask(&world, &["nodes"]).ok();
        assert!(
            shown.contains("127.0.0.1:") && shown.contains("[::1]:"),
            "{shown}"
        );
        until("all are reachable", || {
            let nodes = node.nodes(&world);
            nodes
                .iter()
                .filter(|node| node["state"] == "reachable")
                .count()
                == 2
        });
    }
    for node in nodes {
        assert!(node.files().contains(&"control.sock".into()));
        let data = node.data.clone();
        node.stop(&world);
        assert!(!fs::exists(format!("{data}/control.sock")).unwrap());
    }
}

#[test]
fn the_registry_is_shown_copied_and_moved() {
    let world = World::new();
    let [one, two, three] = three(&world);
    let status = |node: &Node| -> Value {
        let shown = node.ask(&world, &["registry", "status", "--json"]).ok();
        serde_json::from_str(&shown).unwrap()
    };
    let shown = two.ask(&world, &["registry", "status"]).ok();
    assert!(shown.contains("home       one"), "{shown}");
    assert!(shown.contains("3 and 0 removed"), "{shown}");
    let copy = world.path("copy").to_str().unwrap().to_owned();
    two.ask(&world, &["registry", "backup", &copy])
        .fails(1, &["served by node one"]);
    one.ask(&world, &["registry", "backup", &copy]).ok();
    let mode = fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    one.ask(&world, &["registry", "move", "nowhere"])
        .fails(1, &["no node nowhere"]);
    one.ask(&world, &["registry", "move", "three"]).ok();
    until("all follow", || {
        let homes = [&one, &two, &three].map(|node| status(node)["home"].clone());
        homes[0] == homes[1] && homes[1] == homes[2]
    });
    let shown = two.ask(&world, &["registry", "status"]).ok();
    assert!(shown.contains("home       three"), "{shown}");
    three.ask(&world, &["registry", "restore", &copy]).ok();
    until("all have said what they run", || {
        status(&three)["awaited"].as_array().unwrap().is_empty()
    });
    // And while it does not run.
    let data = three.data.clone();
    let nodes = three.nodes(&world);
    let this = nodes.iter().find(|node| node["name"] == "three").unwrap();
    // The others look for it where it was.
    let address = this["addresses"][0].as_str().unwrap().to_owned();
    three.stop(&world);
    world
        .ask(["registry", "restore", &copy, "--node", &data])
        .ok();
    let three = start(&world, "three", &address);
    until("it serves again", || {
        status(&three)["awaited"].as_array().unwrap().is_empty()
    });
    fs::write(&copy, "something else").unwrap();
    three
        .ask(&world, &["registry", "restore", &copy])
        .fails(1, &["is not a backup of a registry"]);
}

#[test]
fn nothing_moves_while_a_restored_registry_waits_for_a_node() {
    let world = World::new();
    let [one, two, three] = three(&world);
    let idle = guest("idle");
    let run = [
        "run", "--detach", "--name", "p", "--on", "two", &idle, "sleep",
    ];
    one.ask(&world, &run).ok();
    let copy = world.path("copy").to_str().unwrap().to_owned();
    one.ask(&world, &["registry", "backup", &copy]).ok();
    three.actor.signal(Signal::STOP);
    one.ask(&world, &["registry", "restore", &copy]).ok();
    until("the others know", || {
        let moved = one.ask(&world, &["move", "p", "one"]);
        assert!(!moved.0.status.success());
        moved.err().contains("restored from a backup") && moved.err().contains("start three")
    });
    three.actor.signal(Signal::CONT);
    until("it may move", || {
        one.ask(&world, &["move", "p", "one"]).0.status.success()
    });
    one.ask(&world, &["kill", "p"]).ok();
    for node in [three, two, one] {
        node.stop(&world);
    }
}

/// Files of a folder with this in their names.
fn named(folder: &Path, part: &str) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.contains(part)).collect()
}

#[test]
fn ctrl_c_leaves_no_half_copy_of_the_registry() {
    let world = World::new();
    let one = start(&world, "one", "127.0.0.1:0");
    one.actor.signal(Signal::STOP);
    let copy = world.path("copy").to_str().unwrap().to_owned();
    let mut backup = one.begin(&world, &["registry", "backup", &copy]);
    until("its file is there", || {
        !named(world.directory.path(), "copy").is_empty()
    });
    backup.signal(Signal::INT);
    backup.ended(130);
    let said = backup.err.text();
    assert!(said.contains("interrupted: copy was not written"), "{said}");
    assert!(named(world.directory.path(), "copy").is_empty());
    one.actor.signal(Signal::CONT);
    one.ok(&world, &["registry", "backup", &copy]);
    assert_eq!(named(world.directory.path(), "copy"), ["copy"]);
    let nowhere = one.ask(&world, &["registry", "backup", "no/such/place"]);
    nowhere.fails(1, &["could not make "]);
    assert_eq!(nowhere.err().matches("No such file").count(), 1);
    one.stop(&world);
}

#[test]
fn a_killed_node_is_unknown_and_a_removed_one_is_gone() {
    let world = World::new();
    let [one, two, mut three] = three(&world);
    three.kill();
    until("it is noticed", || {
        one.state_of(&world, "three") == "unknown"
    });
    let shown = one.ask(&world, &["nodes"]).ok();
    assert!(
        shown.contains("unknown") && !shown.contains("lost"),
        "{shown}"
    );
    // It comes back as the same node, at another port, and knows where it belongs.
    three.start_again(&world);
    until("it is back", || {
        one.state_of(&world, "three") == "reachable"
    });
    assert_eq!(three.nodes(&world).len(), 3);

    one.ask(&world, &["nodes", "rm", "thre"])
        .fails(1, &["no node thre", "did you mean three"]);
    let removed = two.json(&world, &["nodes", "rm", "--json", "three"]);
    assert_eq!(
        (&removed["name"], &removed["lost"]),
        (&json!("three"), &json!([]))
    );
    until("all know that it is gone", || {
        [&one, &two]
            .iter()
            .all(|node| node.state_of(&world, "three") == "none")
    });
    until("it knows itself", || {
        three
            .ask(&world, &["nodes"])
            .err()
            .contains("was removed from the cluster")
    });
    assert_eq!(three.state_of(&world, "one"), "unknown");
    three
        .ask(&world, &["node", "invite"])
        .fails(1, &["was removed"]);
    for node in [three, two, one] {
        node.stop(&world);
    }
}

#[test]
fn a_killed_registry_comes_back_with_all_it_knew() {
    let world = World::new();
    let address = free_address();
    let mut one = start(&world, "one", &address);
    let two = start(&world, "two", "127.0.0.1:0");
    two.join(&world, &one.invite(&world)).ok();
    let ticket = one.invite(&world);
    one.kill();
    one.start_again(&world);
    assert_eq!(one.nodes(&world).len(), 2);
    until("they have found each other", || {
        two.state_of(&world, "one") == "reachable"
    });
    let three = start(&world, "three", "127.0.0.1:0");
    three.join(&world, &ticket).ok();
    assert_eq!(three.nodes(&world).len(), 3);
    for node in [three, two, one] {
        node.stop(&world);
    }
}

#[test]
fn who_joined_knows_its_cluster_while_the_registry_is_away() {
    let world = World::new();
    let one = start(&world, "one", "127.0.0.1:0");
    let two = start(&world, "two", "127.0.0.1:0");
    two.join(&world, &one.invite(&world)).ok();
    assert!(!two.files().contains(&"registry.redb".into()));
    for node in [one, two] {
        let said = node.stop(&world);
        assert!(!said.contains("WARN"), "{said}");
    }
    let two = start(&world, "two", "127.0.0.1:0");
    assert_eq!(two.state_of(&world, "one"), "unknown");
    two.ask(&world, &["node", "invite"])
        .fails(1, &["registry does not answer"]);
    two.ask(&world, &["nodes", "rm", "one"])
        .fails(1, &["registry does not answer"]);
    two.stop(&world);
}

#[test]
fn secrets_are_in_no_argument_log_or_listing() {
    let world = World::new();
    let mut one = start(&world, "one", "127.0.0.1:0");
    let two = start(&world, "two", "127.0.0.1:0");
    let ticket = one.invite(&world);
    let ticket = ticket.trim();
    assert!(ticket.starts_with("sterna-ticket-1-"));
    two.ask(&world, &["node", "join", ticket])
        .fails(1, &["not given as an argument", "spoilt"]);
    two.join(&world, ticket).ok();
    let key = fs::read_to_string(format!("{}/node.key", one.data)).unwrap();
    let key = key.lines().nth(1).unwrap().to_owned();
    let listed = one.ask(&world, &["nodes", "--json"]).ok();
    two.stop(&world);
    one.actor.signal(Signal::TERM);
    one.actor.ended(0);
    let secret = &ticket[ticket.len() - 24..];
    for said in [listed, one.actor.err.text(), one.actor.out.text()] {
        assert!(!said.contains(&key) && !said.contains(secret), "{said}");
    }
    let registry = fs::read(format!("{}/registry.redb", one.data)).unwrap();
    assert!(
        !registry
            .windows(secret.len())
            .any(|window| window == secret.as_bytes())
    );
    for name in one.files() {
        let found = fs::metadata(format!("{}/{name}", one.data)).unwrap();
        assert_eq!(found.permissions().mode() & 0o077, 0, "{name}");
    }
}

#[test]
fn tickets_that_are_expired_garbled_or_of_nobody_are_refused() {
    let world = World::new();
    let one = start(&world, "one", "127.0.0.1:0");
    let two = start(&world, "two", "127.0.0.1:0");
    let late = one
        .ask(&world, &["node", "invite", "--expires", "1ms"])
        .ok();
    two.join(&world, &late).fails(1, &["expired", "new one"]);
    let good = one.invite(&world);
    two.join(&world, &good[..good.len() - 5])
        .fails(1, &["damaged or was cut short"]);
    two.join(&world, "hello").fails(1, &["not a ticket"]);
    two.join(&world, "").fails(1, &["not a ticket"]);
    two.ask(&world, &["node", "join", "nothing"])
        .fails(1, &["could not read the ticket nothing"]);
    one.join(&world, &good)
        .fails(1, &["made the ticket itself"]);
    one.ask(&world, &["node", "invite", "--expires", "30d"])
        .fails(1, &["at most 7 days"]);
    one.stop(&world);
    two.join(&world, &good)
        .fails(1, &["no answer from 127.0.0.1", "firewall"]);
    two.stop(&world);
}

#[test]
fn a_node_that_cannot_start_says_what_to_do() {
    let world = World::new();
    let start_with =
        |data: &str, bind: &str| world.ask(["node", "start", "--data", data, "--bind", bind]);
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    start_with("d", &address).fails(1, &[&address, "port is taken", "--bind"]);
    // Pages come by TCP.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    start_with("d", &address).fails(1, &[&address, "port is taken", "--bind"]);
    let long = "d".repeat(100);
    start_with(&long, "127.0.0.1:0").fails(1, &["87 are possible", "--data"]);
    let file = world.file("file", "");
    start_with("file/d", "127.0.0.1:0").fails(1, &[&file, "is not a directory", "--data"]);

    let one = start(&world, "one", "127.0.0.1:0");
    let pid = one.actor.pid();
    start_with(&one.data, "127.0.0.1:0").fails(1, &["in use", &pid, "sterna node stop"]);
    let data = one.data.clone();
    one.stop(&world);

    fs::write(format!("{data}/registry.redb"), "x".repeat(5000)).unwrap();
    start_with(&data, "127.0.0.1:0")
        .fails(1, &["registry.redb is damaged", "sterna registry restore"]);
    fs::write(format!("{data}/node.key"), "x").unwrap();
    start_with(&data, "127.0.0.1:0").fails(1, &["node.key", "damaged"]);
    fs::remove_file(format!("{data}/node.key")).unwrap();
    start_with(&data, "127.0.0.1:0").fails(1, &["node.key", "missing", "registry.redb"]);
    assert!(!fs::exists(format!("{data}/node.key")).unwrap());
    let twice = ["node", "start", "--export", "a=/tmp", "--export", "a=/"];
    world
        .ask(twice)
        .fails(1, &["two directories are exported as a"]);
    let twice = [
        "node",
        "start",
        "--store",
        "a=file:///tmp",
        "--store",
        "a=file:///",
    ];
    world.ask(twice).fails(1, &["two stores are called a"]);
    fs::write(format!("{data}/VERSION"), "sterna node 2\n").unwrap();
    start_with(&data, "127.0.0.1:0").fails(1, &["version 2", "newer sterna"]);
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    start_with(&data, "127.0.0.1:0").fails(1, &["open to other users", "--data"]);
    world
        .ask([
            "node",
            "start",
            "--data",
            "e",
            "--bind",
            "127.0.0.1:0",
            "--name",
            "a b",
        ])
        .fails(1, &["cannot be a node's name"]);
}

#[test]
fn the_node_that_is_meant_is_the_options_then_the_variables_then_the_users() {
    let world = World::new();
    let nothing = world.ask(["nodes"]);
    nothing.fails(1, &["no node runs", "sterna node start", "STERNA_NODE"]);
    let one = start(&world, "one", "127.0.0.1:0");
    let two = start(&world, "two", "127.0.0.1:0");
    let of_user = world.start(["node", "start", "--bind", "127.0.0.1:0", "--name", "mine"]);
    of_user.err.wait_for("is ready at");
    let asked = |arguments: &[&str], variable: Option<&str>| {
        let mut command = world.command(arguments);
        command.envs(variable.map(|value| ("STERNA_NODE", value)));
        Answer(command.output().unwrap()).ok()
    };
    assert!(asked(&["nodes"], None).contains("mine"));
    assert!(asked(&["nodes"], Some(&one.data)).contains("one"));
    assert!(asked(&["nodes", "--node", &two.data], Some(&one.data)).contains("two"));
    assert!(asked(&["nodes", "--help"], None).contains("STERNA_NODE"));
    assert!(asked(&["node", "stop"], None).is_empty());
    one.stop(&world);
    two.stop(&world);
}

#[test]
fn the_unit_starts_the_node_as_it_was_asked_for() {
    let world = World::new();
    let words = [
        "node",
        "start",
        "--bind",
        "[::1]:7000",
        "--name",
        "x",
        "--data",
        "a b%",
    ];
    let unit = world.ask([&words[..], &["--systemd=-"]].concat()).ok();
    let data = world.path("a b%%");
    let expected = format!(
        "--data \"{}\" --bind [::1]:7000 --name \"x\"\n",
        data.display()
    );
    assert!(
        unit.contains("\nExecStart=\"/") && unit.contains(&expected),
        "{unit}"
    );
    let file = world.path("units/sterna.service");
    world
        .ask(["node", "start", &format!("--systemd={}", file.display())])
        .ok();
    assert!(fs::read_to_string(file).unwrap().contains(" node start "));
}

#[test]
fn the_doctor_says_what_is_there_and_how_to_mend_what_is_not() {
    let world = World::new();
    let findings: Vec<Value> = serde_json::from_str(&world.ask(["doctor", "--json"]).ok()).unwrap();
    let shown = world.ask(["doctor"]).ok();
    for what in [
        "PAGEMAP_SCAN",
        "Landlock",
        "seccomp",
        "user namespaces",
        "parts of the node",
        "control groups",
        "KVM",
        "vm.max_map_count",
        "clock",
    ] {
        let finding = findings
            .iter()
            .find(|finding| finding["what"].as_str().unwrap().contains(what));
        let finding = finding.unwrap_or_else(|| panic!("nothing about {what}"));
        assert!(shown.contains(what));
        let lacking = finding["state"] != "yes";
        assert_eq!(lacking, finding["mend"].is_string(), "{finding}");
        assert!(!lacking || shown.contains(finding["mend"].as_str().unwrap()));
    }
}

#[test]
fn a_node_that_has_processes_does_not_leave_them_behind_by_joining() {
    let world = World::new();
    let one = start(&world, "one", "127.0.0.1:0");
    let two = start(&world, "two", "127.0.0.1:0");
    let ticket = one.invite(&world);
    let idle = guest("idle");
    let run = ["run", "--detach", "--name", "p", &idle, "sleep"];
    two.ask(&world, &run).ok();
    two.join(&world, &ticket)
        .fails(1, &["a process runs on this node", "end it or freeze it"]);
    two.ask(&world, &["kill", "p"]).ok();
    two.join(&world, &ticket).ok();
    for node in [two, one] {
        node.stop(&world);
    }
}

#[test]
fn processes_of_a_node_that_is_gone_for_good_are_given_up_by_a_user_alone() {
    let world = World::new();
    let one = start(&world, "one", "127.0.0.1:0");
    let two = start(&world, "two", "127.0.0.1:0");
    two.join(&world, &one.invite(&world)).ok();
    let idle = guest("idle");
    let ids = ["kept", "other"].map(|name| {
        let run = [
            "run", "--detach", "--name", name, "--on", "two", &idle, "sleep",
        ];
        one.ask(&world, &run).ok().trim().to_owned()
    });
    one.ask(&world, &["snapshot", "kept", "--once", "--to", "one"])
        .ok();
    one.ask(&world, &["nodes", "rm", "two"])
        .fails(1, &["has 2 processes", "sterna drain two", "--lost"]);
    one.ask(&world, &["recover", "kept"])
        .fails(1, &["is not lost", "nodes rm --lost two"]);
    let removed = one.ask(&world, &["nodes", "rm", "--lost", "two"]);
    removed.ok();
    for (name, what) in [
        ("kept", "go on from its snapshot"),
        ("other", "no snapshot of it"),
    ] {
        let said = removed.err();
        let line = said.lines().find(|line| line.contains(name));
        assert!(
            line.is_some_and(|line| line.contains("lost") && line.contains(what)),
            "{said}"
        );
    }
    one.ask(&world, &["logs", "other"])
        .fails(1, &["was removed from the cluster"]);
    let told = one.ask(&world, &["ps", "-a"]).ok();
    assert!(told.contains("its node was removed"), "{told}");
    let events = one.ask(&world, &["events"]).ok();
    assert_eq!(
        events.matches("was lost: its node was removed").count(),
        2,
        "{events}"
    );
    one.ask(&world, &["recover", "kept"]).ok();
    // It was not gone at all, and hears of it.
    let here = || two.ask(&world, &["ps", "--here"]).ok();
    until("it lets go of both", || {
        let here = here();
        !ids.iter().any(|id| here.contains(id))
    });
    let told = one.ask(&world, &["ps"]).ok();
    assert!(told.contains("kept"), "{told}");
    two.join(&world, &one.invite(&world)).fails(
        1,
        &["was removed from its cluster", "data directory of its own"],
    );
    let run = ["run", "--detach", "--name", "other", &idle, "sleep"];
    one.ask(&world, &run).ok();
    for process in ["kept", "other"] {
        one.ask(&world, &["kill", process]).ok();
    }
    for node in [two, one] {
        node.stop(&world);
    }
}

#[test]
fn who_was_removed_ends_what_nobody_knows_any_more() {
    let world = World::new();
    let one = start(&world, "one", "127.0.0.1:0");
    let two = start(&world, "two", "127.0.0.1:0");
    two.join(&world, &one.invite(&world)).ok();
    let idle = guest("idle");
    let run = [
        "run", "--detach", "--name", "p", "--on", "two", &idle, "sleep",
    ];
    one.ok(&world, &run);
    assert_eq!(two.here(&world).len(), 1);
    one.ok(&world, &["nodes", "rm", "--lost", "two"]);
    // Before the other has heard of anything.
    one.ok(&world, &["rm", "p"]);
    until("it has ended", || two.here(&world).is_empty());
    two.stop(&world);
    one.stop(&world);
}
