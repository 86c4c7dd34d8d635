//! Processes of nodes in files, copies of them, and what comes back after a death: real nodes, killed with SIGKILL.

use std::fs;

use crate::cluster::Node;
use crate::world::{World, guest, until};

const PROGRAM: &str = "for i=1,150 do local s=0; for j=1,1000000 do s=s+j%7 end; print(i,s) end";

fn two(world: &World) -> [Node; 2] {
    let [one, other] = ["one", "two"].map(|name| Node::start(world, name, "127.0.0.1:0"));
    other.join(world, &one.invite(world)).ok();
    [one, other]
}

fn run_lua(node: &Node, world: &World, on: &str) {
    let lua = guest("lua");
    let words = ["run", "--detach", "--name", "lua", "--on", on];
    let mut words = words.to_vec();
    words.extend(["--node", &node.data, &lua, "-e", PROGRAM]);
    world.ask(words).ok();
    until("some output", || {
        node.ok(world, &["logs", "lua"]).lines().count() > 3
    });
}

fn plain(world: &World) -> String {
    world.ask(["run", &guest("lua"), "-e", PROGRAM]).ok()
}

#[test]
fn a_process_whose_node_was_killed_comes_back_from_its_snapshot() {
    let world = World::new();
    let [one, mut other] = two(&world);
    run_lua(&one, &world, "two");
    one.fails(&world, &["recover", "lua"], &["not lost"]);
    let every = [
        "snapshot", "lua", "--every", "1s", "--to", "one", "--keep", "2",
    ];
    one.ok(&world, &every);
    other.kill_runner();
    other.kill();
    other.start_again(&world);
    until("the loss is known", || {
        one.ok(&world, &["ps", "-a"]).contains("lost")
    });
    let told = one.ok(&world, &["recover", "lua"]);
    assert!(told.contains("from snapshot"), "{told}");
    one.fails(&world, &["recover", "lua"], &["not lost"]);
    one.ok(&world, &["wait", "lua"]);
    assert_eq!(one.ok(&world, &["logs", "lua"]), plain(&world));
    other.stop(&world);
    one.stop(&world);
}

#[test]
fn a_frozen_process_goes_on_once_as_the_same_one_and_then_as_another() {
    let world = World::new();
    let [one, other] = two(&world);
    run_lua(&one, &world, "one");
    let file = world.path("lua.sterna").to_str().unwrap().to_owned();
    other.fails(&world, &["freeze", "lua", "-o", &file], &["is on one"]);
    one.ok(&world, &["freeze", "lua", "-o", &file]);
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
