//! Processes of nodes whose registry is in a real etcd: moved; their node killed; the etcd killed and started again.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;

use crate::cluster::{Node, join, start_with};
use crate::world::{World, guest, skip, until};

const PROGRAM: &str = "local i=0; while true do i=i+1; for j=1,300000 do end print(i) end";

/// An etcd of one member, killed when dropped.
struct Etcd {
    member: Child,
    ports: [u16; 2],
    data: String,
}

impl Etcd {
    fn start(data: String, ports: [u16; 2]) -> Self {
        let [client, peer] = ports.map(|port| format!("http://127.0.0.1:{port}"));
        let mut member = Command::new("etcd")
            .args(["--name", "m", "--data-dir", &data])
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m={peer}")])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(member.stderr.take().unwrap()).lines();
        let is_ready = |line: Result<String, _>| {
            let line: String = line.unwrap();
            line.contains("ready to serve client requests")
        };
        assert!(lines.any(is_ready), "etcd ended");
        thread::spawn(move || lines.for_each(drop));
        Self {
            member,
            ports,
            data,
        }
    }

    fn kill(&mut self) {
        self.member.kill().unwrap();
        self.member.wait().unwrap();
    }

    fn start_again(&mut self) {
        *self = Self::start(self.data.clone(), self.ports);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.member.kill();
        let _ = self.member.wait();
    }
}

/// Ports that nobody has.
fn ports() -> [u16; 2] {
    let open = [0, 1].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    open.map(|listener| listener.local_addr().unwrap().port())
}

fn lines(world: &World, node: &Node) -> usize {
    let log = node.ok(world, &["logs", "lua"]);
    let count = log.lines().count();
    let all: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
    assert!(log.lines().eq(&all), "{log}");
    count
}

/// That it goes on there, and that what it has done was done once.
fn goes_on(world: &World, node: &Node, at: &str) {
    let before = lines(world, node);
    until("more output", || lines(world, node) > before + 1);
    let rows: Value = serde_json::from_str(&node.ok(world, &["ps", "--json"])).unwrap();
    let row = &rows[0];
    assert_eq!(
        (&row["name"], &row["node"]),
        (&"lua".into(), &at.into()),
        "{rows}"
    );
}

#[test]
fn processes_outlive_their_service_and_their_etcd() {
    if Command::new("etcd").arg("--version").output().is_err() {
        skip!("no etcd on this machine (apt-get install etcd-server)");
    }
    let world = World::new();
    let data = world.path("etcd").to_str().unwrap().to_owned();
    let mut etcd = Etcd::start(data, ports());
    let registry = format!("etcd://127.0.0.1:{}/test", etcd.ports[0]);
    let one = start_with(&world, "one", &["--registry", &registry]);
    let mut other = start_with(&world, "two", &[]);
    join(&world, &one, &other);
    let lua = guest("lua");
    let words = ["run", "--detach", "--name", "lua", "--node", &one.data];
    world
        .ask([&words[..], &[&lua, "-e", PROGRAM]].concat())
        .ok();
    goes_on(&world, &other, "one");
    one.ok(&world, &["move", "lua", "two"]);
    goes_on(&world, &one, "two");

    other.kill();
    other.start_again(&world);
    // It listens at another port, of which the others hear by their registry.
    until("it is found again", || {
        one.ask(&world, &["logs", "lua"]).0.status.success()
    });
    goes_on(&world, &one, "two");

    etcd.kill();
    // Without a registry nobody says whose a process is; it runs on.
    let asked = world.ask(["move", "lua", "one", "--node", &one.data]);
    assert!(!asked.0.status.success(), "{}", asked.out());
    etcd.start_again();
    until("the registry is back", || {
        world.ask(["ps", "--node", &one.data]).0.status.success()
    });
    goes_on(&world, &other, "two");
    until("it can be moved again", || {
        let words = ["move", "lua", "one", "--node", &other.data];
        world.ask(words).0.status.success()
    });
    goes_on(&world, &other, "one");
    // Both in etcd, whatever became of the file that a registry is otherwise.
    assert!(fs::metadata(world.path("two/registry.redb")).is_err());
    other.stop(&world);
    one.stop(&world);
}
