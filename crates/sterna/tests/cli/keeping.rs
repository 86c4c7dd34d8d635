//! Processes of nodes in files, copies of them, and what comes back after a death: real nodes, killed with SIGKILL.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::parts;
use crate::world::{Actor, World, guest, until};

const PROGRAM: &str = "for i=1,40 do local s=0; for j=1,1000000 do s=s+j%7 end; print(i,s) end";

struct Node {
    actor: Actor,
    data: String,
}

fn start(world: &World, name: &str) -> Node {
    let data = world.path(name).to_str().unwrap().to_owned();
    let bind = ["--bind", "127.0.0.1:0", "--name", name];
    let mut words = vec!["node", "start", "--data", &data];
    words.extend(bind);
    let actor = world.start(words);
    actor.err.wait_for("is ready at");
    Node { actor, data }
}

impl Node {
    fn ok(&self, world: &World, words: &[&str]) -> String {
        let mut words = words.to_vec();
        words.extend(["--node", &self.data]);
        world.ask(words).ok()
    }

    fn fails(&self, world: &World, words: &[&str], said: &[&str]) {
        let mut words = words.to_vec();
        words.extend(["--node", &self.data]);
        world.ask(words).fails(1, said);
    }

    fn runner(&self) -> Pid {
        let runner = parts::runner(self.actor.child.id());
        Pid::from_raw(runner.try_into().unwrap()).unwrap()
    }

    fn stop(mut self, world: &World) {
        self.ok(world, &["node", "stop", "--kill"]);
        self.actor.ended(0);
    }
}

fn two(world: &World) -> [Node; 2] {
    let (one, other) = (start(world, "one"), start(world, "two"));
    let ticket = world.path("ticket").to_str().unwrap().to_owned();
    one.ok(world, &["node", "invite", "-o", &ticket]);
    other.ok(world, &["node", "join", &ticket]);
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
    kill_process(other.runner(), Signal::KILL).unwrap();
    other.actor.signal(Signal::KILL);
    other.actor.end();
    let other = start(&world, "two");
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
