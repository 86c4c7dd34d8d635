//! Processes on real nodes: moved, killed, and what becomes of them when a node's service or runner is.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::{Actor, Answer, World, guest, until};

/// A node of a cluster, whose data directory is its name's.
struct Node {
    name: &'static str,
    address: String,
    /// Options of its start beside those that all have.
    options: Vec<String>,
    actor: Actor,
}

/// Nodes on loopback that have joined. Dropping it ends them and their runners, and looks for what they have left.
pub(crate) struct Cluster {
    pub(crate) world: World,
    nodes: Vec<Node>,
}

/// A port of the loopback device that was free just now: a node that is started again must have the same.
fn free_address() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().to_string()
}

fn start(world: &World, name: &str, address: &str, options: &[String]) -> Actor {
    let data = world.path(name);
    let mut words = vec!["node", "start", "--name", name, "--bind", address];
    words.extend(["--data", data.to_str().unwrap()]);
    words.extend(options.iter().map(|option| &**option));
    let actor = world.start(words);
    actor.err.wait_for("is ready at");
    actor
}

impl Cluster {
    /// The first of these has the registry.
    fn new(names: &[&'static str]) -> Self {
        let plain: Vec<_> = names.iter().map(|name| (*name, &[][..])).collect();
        Self::told(&plain)
    }

    /// The same, with more that each node is told.
    fn told(nodes: &[(&'static str, &'static [&'static str])]) -> Self {
        let names: Vec<&'static str> = nodes.iter().map(|(name, _)| *name).collect();
        Self::with(&names, |world, name| {
            let desk = format!("desk={}", world.path("desk").display());
            let told = nodes.iter().filter(|(of, _)| *of == name);
            let told = told
                .flat_map(|(_, more)| *more)
                .map(|word| (*word).to_owned());
            ["--export".to_owned(), desk]
                .into_iter()
                .chain(told)
                .collect()
        })
    }

    /// The same, each with its own options.
    pub(crate) fn with(
        names: &[&'static str],
        options: impl Fn(&World, &str) -> Vec<String>,
    ) -> Self {
        let world = World::new();
        fs::create_dir(world.path("desk")).unwrap();
        let node = |&name| {
            let (address, options) = (free_address(), options(&world, name));
            let actor = start(&world, name, &address, &options);
            Node {
                name,
                address,
                options,
                actor,
            }
        };
        let nodes: Vec<Node> = names.iter().map(node).collect();
        let cluster = Self { world, nodes };
        let ticket = cluster.world.path("ticket");
        let ticket = ticket.to_str().unwrap();
        for node in &cluster.nodes[1..] {
            cluster.ask(&["node", "invite", "-o", ticket]).ok();
            cluster.ask_at(node.name, &["node", "join", ticket]).ok();
            fs::remove_file(ticket).unwrap();
        }
        cluster
    }

    /// Asks the first node.
    pub(crate) fn ask(&self, words: &[&str]) -> Answer {
        self.ask_at(self.nodes[0].name, words)
    }

    pub(crate) fn ask_at(&self, name: &str, words: &[&str]) -> Answer {
        let mut command = self.world.command(words);
        command.env("STERNA_NODE", self.world.path(name));
        Answer(command.stdin(std::process::Stdio::null()).output().unwrap())
    }

    /// The same in the background.
    pub(crate) fn begin(&self, words: &[&str]) -> Actor {
        let mut command = self.world.command(words);
        command.env("STERNA_NODE", self.world.path(self.nodes[0].name));
        Actor::start(command)
    }

    fn node(&mut self, name: &str) -> &mut Node {
        let node = self.nodes.iter_mut().find(|node| node.name == name);
        node.unwrap()
    }

    /// Kills a node's service. Its runner and processes live on.
    pub(crate) fn kill(&mut self, name: &str) {
        let node = self.node(name);
        node.actor.signal(Signal::KILL);
        node.actor.end();
    }

    pub(crate) fn start_again(&mut self, name: &str) {
        let (address, options) = (
            self.node(name).address.clone(),
            self.node(name).options.clone(),
        );
        let actor = start(&self.world, name, &address, &options);
        self.node(name).actor = actor;
    }

    fn runner(&self, name: &str) -> Pid {
        runner_of(&self.world.path(name)).unwrap()
    }

    /// Node and state of a process, as the cluster has it.
    fn place(&self, process: &str) -> Option<(String, String)> {
        let listed = self.ask(&["ps", "--all", "--json"]);
        let rows: Vec<serde_json::Value> = serde_json::from_str(&listed.out()).ok()?;
        let row = rows.iter().rfind(|row| row["name"] == process)?;
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        Some((text("node"), text("state")))
    }

    #[track_caller]
    pub(crate) fn is_at(&self, process: &str, node: &str) {
        let place = self.place(process);
        assert_eq!(
            place.as_ref().map(|place| &*place.0),
            Some(node),
            "{place:?}"
        );
    }

    /// On how many nodes a process runs, by what each node's runner itself says.
    fn alive_in(&self, process: &str) -> usize {
        let running = |node: &&Node| {
            let place = self.place(process);
            place.is_some_and(|(at, state)| at == node.name && !state.contains("unknown"))
        };
        self.nodes.iter().filter(running).count()
    }

    /// All output, as soon as it has ended with code 0.
    #[track_caller]
    fn whole(&self, process: &str) -> String {
        self.ask(&["wait", process]).ok();
        self.ask(&["logs", process]).ok()
    }
}

/// Who listens for services of a node, as the kernel has it.
fn runner_of(data: &Path) -> Option<Pid> {
    let socket = UnixStream::connect(data.join("hosting/runner.sock")).ok()?;
    Some(rustix::net::sockopt::socket_peercred(&socket).ok()?.pid)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // One that was stopped takes no other signal.
            let _ = node.actor.child.kill();
            let _ = node.actor.child.wait();
            if let Some(runner) = runner_of(&self.world.path(node.name)) {
                let _ = kill_process(runner, Signal::KILL);
            }
        }
        if !std::thread::panicking() {
            until("nothing of it is left", || {
                left_of(self.world.directory.path()).is_empty()
            });
        }
    }
}

/// Processes and mounts that know a folder.
fn left_of(folder: &Path) -> Vec<PathBuf> {
    let folder = folder.to_str().unwrap();
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let is_process = entry.file_name().to_string_lossy().parse::<u32>().is_ok();
        let is_own = entry.file_name().to_string_lossy() == std::process::id().to_string();
        let of_folder = fs::read(path.join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(folder));
        if is_process && !is_own && of_folder {
            left.push(path);
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(folder))
            .map(PathBuf::from),
    );
    left
}

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

/// One node knows the version before only, as in the middle of an upgrade; the registry is on it, or on a newer one.
#[test]
fn processes_move_between_nodes_of_two_versions() {
    const OLD: &[&str] = &["--protocol", "1"];
    let lua = guest("lua");
    let expected = World::new().ask(["run", &lua, "-e", LUA]).ok();
    let clusters = [
        Cluster::told(&[("one", OLD), ("two", &[])]),
        Cluster::told(&[("two", &[]), ("one", OLD)]),
    ];
    for cluster in clusters {
        let words = [
            "run", "--detach", "--on", "one", "--name", "p", &lua, "-e", LUA,
        ];
        cluster.ask(&words).ok();
        let there = cluster.ask(&["move", "p", "two"]).ok();
        // What only the newer version can say is not said.
        assert!(
            there.contains("accept") && !there.contains("room"),
            "{there}"
        );
        cluster.ask(&["move", "p", "one"]).ok();
        let moved = move_about(&cluster, "p", rounds(6, 60));
        assert!(moved > 1, "it was moved {moved} times only");
        assert!(cluster.whole("p") == expected, "the output differs");
    }
}

#[test]
fn nodes_of_the_newer_version_say_more() {
    let cluster = Cluster::new(&["one", "two"]);
    let lua = guest("lua");
    let words = ["run", "--detach", "--name", "p", &lua, "-e", LUA_FOREVER];
    cluster.ask(&words).ok();
    let moved = cluster.ask(&["move", "p", "two"]).ok();
    assert!(moved.contains("the target made room"), "{moved}");
    cluster.ask(&["kill", "p"]).ok();
}

/// Between them there is one that would understand both.
#[test]
fn nodes_without_a_version_in_common_say_what_to_do() {
    let cluster = Cluster::told(&[
        ("both", &[]),
        ("old", &["--protocol", "1"]),
        ("new", &["--protocol", "2"]),
    ]);
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
        "speaks version 2 of the protocol, this one version 1",
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
    cluster.ask(&["move", "q", "two"]).fails(1, &["q"]);
    cluster.ask(&["move", "--dry-run", "p", "two"]).ok();
    cluster.is_at("p", "one");
    cluster.ask(&["pause", "p"]).ok();
    cluster.ask(&["move", "p", "two"]).ok();
    let state = cluster.place("p");
    assert_eq!(state, Some(("two".into(), "paused".into())));
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
    cluster
        .ask(&["run", "--detach", "--name", "p", &lua, "-e", LUA_FOREVER])
        .ok();
    for _ in 0..rounds(3, 30) {
        let mut both = ["two", "three"].map(|target| cluster.begin(&["move", "p", target]));
        let codes = both.each_mut().map(|one| one.end().code());
        let errors = both.each_ref().map(|one| one.err.text());
        assert!(codes.contains(&Some(0)), "{codes:?} {errors:?}");
        assert_eq!(cluster.alive_in("p"), 1);
        cluster.ask(&["move", "p", "one"]).ok();
    }
    let mut given_up = cluster.begin(&["move", "p", "two"]);
    given_up.signal(Signal::INT);
    given_up.end();
    assert_eq!(cluster.alive_in("p"), 1);
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
    kill_process(cluster.runner("two"), Signal::KILL).unwrap();
    for name in ["a", "b"] {
        cluster.ask(&["wait", name]).fails(137, &["lost"]);
    }
    let listed = cluster.ask(&["ps", "--all", "--json"]).ok();
    assert_eq!(listed.matches("lost").count(), 2, "{listed}");
    until("the node has another runner", || {
        runner_of(&cluster.world.path("two")).is_some()
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
