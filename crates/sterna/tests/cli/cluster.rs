//! Real nodes for tests: [`Node`], and [`Cluster`], some that have joined. Each has a data directory of its own, named for
//! it, in the folder of a [`World`].
//!
//! Dropping them ends them in the way that users do, and their processes with them; the world then looks for what they
//! have left.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::world::{Actor, Answer, World, until};

/// A node.
pub(crate) struct Node {
    pub(crate) name: String,
    /// Its data directory.
    pub(crate) data: String,
    pub(crate) actor: Actor,
    /// Where it listens; also after it was started again, if it is a certain port.
    address: String,
    how: How,
    is_over: bool,
}

/// How a node is started.
#[derive(Clone, Default)]
pub(crate) struct How {
    /// A command that starts it somewhere, as `ip netns exec NAME` does.
    pub(crate) within: Vec<String>,
    pub(crate) options: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

impl Node {
    /// Starts one that listens at an address.
    pub(crate) fn start(world: &World, name: &str, address: &str) -> Self {
        Self::start_so(world, name, address, How::default())
    }

    pub(crate) fn start_so(world: &World, name: &str, address: &str, how: How) -> Self {
        let data = world.path(name).to_str().unwrap().to_owned();
        let actor = begin(world, &data, name, address, &how);
        actor.err.wait_for("is ready at");
        Self {
            name: name.to_owned(),
            data,
            actor,
            address: address.to_owned(),
            how,
            is_over: false,
        }
    }

    pub(crate) fn ask(&self, world: &World, words: &[&str]) -> Answer {
        Answer(self.command(world, words).output().unwrap())
    }

    /// Standard output of what must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, world: &World, words: &[&str]) -> String {
        self.ask(world, words).ok()
    }

    /// That it is refused, and all of this said.
    #[track_caller]
    pub(crate) fn fails(&self, world: &World, words: &[&str], said: &[&str]) {
        self.ask(world, words).fails(1, said);
    }

    /// The same as [`ask`](Self::ask) in the background.
    pub(crate) fn begin(&self, world: &World, words: &[&str]) -> Actor {
        Actor::start(self.command(world, words))
    }

    fn command(&self, world: &World, words: &[&str]) -> Command {
        let mut command = world.command(words);
        command.env("STERNA_NODE", &self.data).stdin(Stdio::null());
        command
    }

    pub(crate) fn json(&self, world: &World, words: &[&str]) -> Value {
        serde_json::from_str(&self.ask(world, words).ok()).unwrap()
    }

    pub(crate) fn nodes(&self, world: &World) -> Vec<Value> {
        let listed = self.json(world, &["nodes", "--json"]);
        listed["nodes"].as_array().unwrap().clone()
    }

    pub(crate) fn state_of(&self, world: &World, name: &str) -> String {
        let nodes = self.nodes(world);
        let node = nodes.iter().find(|node| node["name"] == name);
        node.map_or("none".into(), |node| node["state"].as_str().unwrap().into())
    }

    pub(crate) fn invite(&self, world: &World) -> String {
        self.ask(world, &["node", "invite"]).ok()
    }

    /// Joins by standard input.
    pub(crate) fn join(&self, world: &World, ticket: &str) -> Answer {
        let mut command = self.command(world, &["node", "join"]);
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(ticket.as_bytes()).unwrap();
        drop(stdin);
        Answer(child.wait_with_output().unwrap())
    }

    /// What it has itself, as its runner says: ids and states. Nothing if it does not answer.
    pub(crate) fn here(&self, world: &World) -> Vec<(String, String)> {
        let listed = self.ask(world, &["ps", "--here", "--json"]);
        let listed: Vec<Value> = serde_json::from_str(&listed.out()).unwrap_or_default();
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let row = |row: &Value| (text(row, "id"), text(row, "state"));
        listed.iter().map(row).collect()
    }

    /// Its runner: who listens for services, as the kernel has it.
    pub(crate) fn runner(&self) -> Option<Pid> {
        let socket = Path::new(&self.data).join("hosting/runner.sock");
        let socket = UnixStream::connect(socket).ok()?;
        Some(rustix::net::sockopt::socket_peercred(&socket).ok()?.pid)
    }

    /// Waits until its runner does not note what any process writes, as the kernel has it.
    pub(crate) fn notes_nothing(&self) {
        until("no written pages are noted any more", || {
            let runner = self.runner().expect("it has a runner").as_raw_nonzero();
            let open = fs::read_dir(format!("/proc/{runner}/fd")).unwrap();
            let mut files = open.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
            !files.any(|file| file.to_string_lossy().contains("userfaultfd"))
        });
    }

    /// Waits until the cluster says that a process is lost.
    pub(crate) fn hears_of_a_loss(&self, world: &World) {
        until("the loss is known", || {
            self.ok(world, &["ps", "-a"]).contains("lost")
        });
    }

    pub(crate) fn kill_runner(&self) {
        kill_process(self.runner().expect("it has a runner"), Signal::KILL).unwrap();
    }

    /// Kills its service. Its runner and processes live on.
    pub(crate) fn kill(&mut self) {
        self.actor.signal(Signal::KILL);
        self.actor.end();
    }

    pub(crate) fn start_again(&mut self, world: &World) {
        self.actor = begin(world, &self.data, &self.name, &self.address, &self.how);
        self.actor.err.wait_for("is ready at");
    }

    /// The same, in another way.
    pub(crate) fn start_again_so(&mut self, world: &World, how: How) {
        self.how = how;
        self.start_again(world);
    }

    /// Stops it as users do. All that it has said.
    pub(crate) fn stop(mut self, world: &World) -> String {
        self.ask(world, &["node", "stop", "--kill"]).ok();
        self.actor.ended(0);
        self.is_over = true;
        self.actor.err.text()
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.data).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn begin(world: &World, data: &str, name: &str, address: &str, how: &How) -> Actor {
    let mut words = vec!["node", "start", "--name", name, "--bind", address];
    words.extend(["--data", data]);
    words.extend(how.options.iter().map(String::as_str));
    let plain = world.command(words);
    let mut command = match how.within.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(plain.get_program());
            command.args(plain.get_args());
            command.current_dir(world.directory.path());
            let set = plain.get_envs();
            command.envs(set.filter_map(|(name, value)| Some((name, value?))));
            command
        }
        None => plain,
    };
    command.envs(how.environment.iter().map(|(name, value)| (name, value)));
    Actor::start(command)
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let runner = self.runner();
        let is_up = !std::thread::panicking() && !self.actor.has_ended();
        let mut stop = Command::new(env!("CARGO_BIN_EXE_sterna"));
        stop.args(["node", "stop", "--kill", "--node", &self.data]);
        if is_up && stop.output().is_ok_and(|output| output.status.success()) {
            self.actor.end();
            return;
        }
        // What was killed leaves what it listened at, until it is started again.
        let _ = self.actor.child.kill();
        let _ = self.actor.child.wait();
        if let Some(runner) = runner {
            let _ = kill_process(runner, Signal::KILL);
        }
        for socket in ["control.sock", "hosting/runner.sock"] {
            let _ = fs::remove_file(Path::new(&self.data).join(socket));
        }
    }
}

/// Nodes that have joined.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) world: World,
}

/// Whether that is the beginning of a row's id.
pub(crate) fn has_id(row: &Value, beginning: &str) -> bool {
    row["id"]
        .as_str()
        .is_some_and(|id| id.starts_with(beginning))
}

impl Drop for Cluster {
    /// The registry ends last: the others write down what has ended.
    fn drop(&mut self) {
        while let Some(node) = self.nodes.pop() {
            drop(node);
        }
    }
}

/// A node that listens wherever there is room, with more options.
pub(crate) fn start_with(world: &World, name: &str, more: &[&str]) -> Node {
    let options = more.iter().map(|option| (*option).to_owned()).collect();
    let how = How {
        options,
        ..How::default()
    };
    Node::start_so(world, name, "127.0.0.1:0", how)
}

pub(crate) fn join(world: &World, one: &Node, other: &Node) {
    other.join(world, &one.invite(world)).ok();
}

/// A node more in the cluster of another one.
pub(crate) fn joined(world: &World, one: &Node, name: &str) -> Node {
    let other = start_with(world, name, &[]);
    join(world, one, &other);
    other
}

/// The first has the registry.
pub(crate) fn two(world: &World) -> [Node; 2] {
    let one = start_with(world, "one", &[]);
    let other = joined(world, &one, "two");
    [one, other]
}

/// A port of the loopback device that was free just now by TCP and UDP: a node that is started again must have the same.
pub(crate) fn free_address() -> String {
    loop {
        // By TCP first: there the kernel has other ports for who listens than for who connects, as long as it has any.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address.to_string();
        }
    }
}

impl Cluster {
    /// The first of these has the registry. All export a directory `desk`.
    pub(crate) fn new(names: &[&str]) -> Self {
        Self::new_so(names, |_, _| (free_address(), How::default()))
    }

    /// The same; address and way of each node.
    pub(crate) fn new_so(names: &[&str], how: impl Fn(&World, &str) -> (String, How)) -> Self {
        Self::in_world(World::new(), names, how)
    }

    /// The same, in a world that was made for it.
    pub(crate) fn in_world(
        world: World,
        names: &[&str],
        how: impl Fn(&World, &str) -> (String, How),
    ) -> Self {
        Self::start(world, names, |world, name| {
            let (address, mut how) = how(world, name);
            let export = format!("desk={}", world.path("desk").display());
            how.options.extend(["--export".to_owned(), export]);
            (address, how)
        })
    }

    /// Nodes that export nothing unless their options say so.
    pub(crate) fn with(names: &[&str], options: impl Fn(&World, &str) -> Vec<String>) -> Self {
        Self::start(World::new(), names, |world, name| {
            let how = How {
                options: options(world, name),
                ..How::default()
            };
            (free_address(), how)
        })
    }

    fn start(world: World, names: &[&str], how: impl Fn(&World, &str) -> (String, How)) -> Self {
        fs::create_dir(world.path("desk")).unwrap();
        let start = |name: &&str| {
            let (address, how) = how(&world, name);
            Node::start_so(&world, name, &address, how)
        };
        let nodes: Vec<Node> = names.iter().map(start).collect();
        for node in &nodes[1..] {
            node.join(&world, &nodes[0].invite(&world)).ok();
        }
        Self { nodes, world }
    }

    /// Asks the first node.
    pub(crate) fn ask(&self, words: &[&str]) -> Answer {
        self.nodes[0].ask(&self.world, words)
    }

    pub(crate) fn ask_at(&self, name: &str, words: &[&str]) -> Answer {
        self.at(name).ask(&self.world, words)
    }

    pub(crate) fn begin(&self, words: &[&str]) -> Actor {
        self.nodes[0].begin(&self.world, words)
    }

    pub(crate) fn json(&self, words: &[&str]) -> Value {
        self.nodes[0].json(&self.world, words)
    }

    pub(crate) fn at(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).unwrap()
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut Node {
        let node = self.nodes.iter_mut().find(|node| node.name == name);
        node.unwrap()
    }

    /// Kills a node's service. Its runner and processes live on.
    pub(crate) fn kill(&mut self, name: &str) {
        self.node(name).kill();
    }

    pub(crate) fn start_again(&mut self, name: &str) {
        let node = self.nodes.iter_mut().find(|node| node.name == name);
        node.unwrap().start_again(&self.world);
    }

    /// Node and state of a process, as the cluster has it.
    pub(crate) fn place(&self, process: &str) -> Option<(String, String)> {
        let listed = self.ask(&["ps", "--all", "--json"]);
        let rows: Vec<Value> = serde_json::from_str(&listed.out()).ok()?;
        // A name first: an id may begin so.
        let named = rows.iter().rfind(|row| row["name"] == process);
        let row = named.or_else(|| rows.iter().rfind(|row| has_id(row, process)))?;
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        Some((text("node"), text("state")))
    }

    /// Where clients of a process connect.
    pub(crate) fn address_of(&self, process: &str) -> SocketAddr {
        let listed = self.json(&["ps", "--json"]);
        let rows = listed.as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == process).unwrap();
        let address = row["ports"][0]["address"].as_str().unwrap();
        address.parse().unwrap()
    }

    #[track_caller]
    pub(crate) fn is_at(&self, process: &str, node: &str) {
        let place = self.place(process);
        let at = place.as_ref().map(|place| &*place.0);
        assert_eq!(at, Some(node), "{place:?}");
    }

    /// Nodes at which a process is and does not stand still for a move, by what each node's runner itself says. Those
    /// that do not answer say nothing.
    pub(crate) fn running_at(&self, id: &str) -> Vec<String> {
        let runs = |node: &&Node| {
            let here = node.here(&self.world);
            here.iter()
                .any(|(of, state)| of.starts_with(id) && state != "being moved")
        };
        let nodes = self.nodes.iter().filter(runs);
        nodes.map(|node| node.name.clone()).collect()
    }

    /// All output, as soon as it has ended with code 0.
    #[track_caller]
    pub(crate) fn whole(&self, process: &str) -> String {
        self.ask(&["wait", process]).ok();
        self.ask(&["logs", process]).ok()
    }

    /// Waits until all nodes have runners.
    pub(crate) fn have_runners(&self) {
        for node in &self.nodes {
            until("all have runners", || {
                let nodes = node.nodes(&self.world);
                let mut confined = nodes.iter().map(|node| &node["runner_confinement"]);
                confined.all(Value::is_string)
            });
        }
    }

    /// A folder that all nodes export.
    pub(crate) fn desk(&self) -> PathBuf {
        self.world.path("desk")
    }
}
