//! Servers on nodes, and their clients, which stay connected while the server moves and hear of it when it is lost.

use std::io::{self, BufReader, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, How, Node, free_address, has_id};
use crate::kv::Client;
use crate::world::{World, guest, until};

/// Clients that write without end, each its own key: that is done exactly once each time.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<u64>>,
}

impl Load {
    pub(crate) fn begin(address: SocketAddr, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number: usize| {
            let stop = Arc::clone(&stop);
            let mut client = Client::connect(address).unwrap();
            thread::spawn(move || {
                let key = format!("key{number}");
                let mut written = 0;
                while !stop.load(Ordering::Relaxed) {
                    written += 1;
                    let value = format!("{number}:{written}");
                    assert_eq!(client.put(&key, &value).unwrap(), written);
                    assert_eq!(client.get(&key).unwrap(), value);
                }
                written
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, clients }
    }

    /// How often they have written, each of them.
    pub(crate) fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let clients = self.clients.into_iter();
        clients.map(|client| client.join().unwrap()).collect()
    }
}

/// A cluster with a server at its first node, whose port is there.
pub(crate) fn serving(names: &[&str], options: &[&str]) -> (Cluster, SocketAddr) {
    let cluster = Cluster::new(names);
    let address = serve(&cluster, options, "0");
    (cluster, address)
}

fn serve(cluster: &Cluster, options: &[&str], listen: &str) -> SocketAddr {
    let kv = guest("kv");
    let words = ["run", "--detach", "--name", "kv", "--listen", listen];
    cluster.ask(&[&words, options, &[&kv, "1"]].concat()).ok();
    cluster.address_of("kv")
}

/// Whether a client is cut off: not only that nothing comes.
pub(crate) fn is_cut_off(client: &mut Client) -> bool {
    let mut byte = [0];
    match client.from.read(&mut byte) {
        Ok(0) => true,
        Ok(_) => panic!("an answer that nobody has asked for"),
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn clients_stay_connected_while_their_server_moves() {
    let (cluster, address) = serving(&["one", "two", "three"], &[]);
    let load = Load::begin(address, 8);
    let mut idle = Client::connect(address).unwrap();
    assert_eq!(idle.put("idle", "before").unwrap(), 1);
    for target in ["two", "three", "one", "three", "two", "one", "two"] {
        cluster.ask(&["move", "kv", target]).ok();
        // Somebody who comes just now.
        let mut new = Client::connect(address).unwrap();
        assert_eq!(new.get("idle").unwrap(), "before");
    }
    assert_eq!(idle.get("idle").unwrap(), "before");
    assert!(load.end().iter().all(|written| *written > 0));
    cluster.is_at("kv", "two");
}

#[test]
fn what_is_under_way_when_a_server_moves_gets_there_once() {
    let (cluster, address) = serving(&["one", "two"], &[]);
    let value = "v".repeat(176);
    let mut client = Client::connect(address).unwrap();
    client.put("key", &value).unwrap();
    // More than fits anywhere on the way, and nobody reads the answers: everything is full when it moves.
    let many = 20_000;
    let mut sending = Client::connect(address).unwrap();
    let mut receiving = Client {
        to: sending.to.try_clone().unwrap(),
        from: BufReader::new(sending.to.try_clone().unwrap()),
    };
    let sender = thread::spawn(move || {
        for _ in 0..many {
            sending.send("GET", "key", "").unwrap();
        }
        sending.to.shutdown(Shutdown::Write).unwrap();
    });
    for target in ["two", "one", "two"] {
        cluster.ask(&["move", "kv", target]).ok();
    }
    for number in 0..many {
        assert!(receiving.receive().unwrap() == value, "answer {number}");
        if number == many / 2 {
            cluster.ask(&["move", "kv", "one"]).ok();
        }
    }
    sender.join().unwrap();
    assert!(
        is_cut_off(&mut receiving),
        "it has closed what the client ended"
    );
}

#[test]
fn a_half_closed_connection_moves_and_its_answers_come() {
    let (cluster, address) = serving(&["one", "two"], &[]);
    let mut client = Client::connect(address).unwrap();
    client.put("key", "value").unwrap();
    cluster.ask(&["pause", "kv"]).ok();
    for _ in 0..10 {
        client.send("GET", "key", "").unwrap();
    }
    client.to.shutdown(Shutdown::Write).unwrap();
    cluster.ask(&["move", "kv", "two"]).ok();
    cluster.ask(&["resume", "kv"]).ok();
    for _ in 0..10 {
        assert_eq!(client.receive().unwrap(), "value");
    }
    assert!(is_cut_off(&mut client));
}

#[test]
fn clients_of_a_paused_server_wait() {
    let (cluster, address) = serving(&["one", "two"], &[]);
    cluster.ask(&["pause", "kv"]).ok();
    let mut client = Client::connect(address).unwrap();
    client.send("PUT", "key", "value").unwrap();
    // It has not even been accepted, and moves all the same.
    cluster.ask(&["move", "kv", "two"]).ok();
    cluster.ask(&["resume", "kv"]).ok();
    assert_eq!(client.receive().unwrap(), "1\n");
}

#[test]
fn a_service_that_is_killed_costs_clients_only_time() {
    let (mut cluster, address) = serving(&["one", "two"], &[]);
    cluster.ask(&["move", "kv", "two"]).ok();
    let load = Load::begin(address, 4);
    for _ in 0..2 {
        cluster.kill("two");
        cluster.start_again("two");
        let mut client = Client::connect(address).unwrap();
        client.put("other", "value").unwrap();
    }
    cluster.ask(&["move", "kv", "one"]).ok();
    assert!(load.end().iter().all(|written| *written > 0));
}

#[test]
fn an_ingress_that_is_killed_loses_its_clients_and_takes_new_ones() {
    let (mut cluster, address) = serving(&["one", "two"], &[]);
    cluster.ask(&["move", "kv", "two"]).ok();
    let mut client = Client::connect(address).unwrap();
    assert_eq!(client.put("key", "before").unwrap(), 1);
    cluster.kill("one");
    assert!(is_cut_off(&mut client));
    cluster.start_again("one");
    let mut client = Client::connect_soon(address);
    assert_eq!(client.get("key").unwrap(), "before");
    assert_eq!(client.put("key", "after").unwrap(), 2);
}

#[test]
fn clients_of_a_server_that_is_lost_are_cut_off_and_come_back_to_a_recovered_one() {
    let (cluster, address) = serving(&["one", "two", "three"], &[]);
    cluster.ask(&["move", "kv", "two"]).ok();
    let mut client = Client::connect(address).unwrap();
    client.put("key", "kept").unwrap();
    cluster
        .ask(&["snapshot", "kv", "--once", "--to", "three"])
        .ok();
    client.put("key", "lost").unwrap();
    cluster.at("two").kill_runner();
    assert!(is_cut_off(&mut client));
    until("nobody listens for a lost process", || {
        TcpStream::connect(address).is_err()
    });
    cluster.ask(&["recover", "kv"]).ok();
    let mut client = Client::connect_soon(address);
    assert_eq!(client.get("key").unwrap(), "kept");
}

#[test]
fn clients_are_cut_off_when_their_server_ends_and_its_port_is_free() {
    let (cluster, address) = serving(&["one", "two"], &[]);
    let mut client = Client::connect(address).unwrap();
    client.put("key", "value").unwrap();
    cluster.ask(&["kill", "kv"]).ok();
    assert!(is_cut_off(&mut client));
    until("the port is free", || TcpListener::bind(address).is_ok());
    cluster.ask(&["wait", "kv"]).fails(137, &["killed"]);
    let listed = cluster.json(&["ps", "--all", "--json"]);
    assert_eq!(listed[0]["ports"], serde_json::json!([]), "{listed}");
}

#[test]
fn a_server_that_is_removed_leaves_its_port() {
    let (cluster, address) = serving(&["one", "two"], &[]);
    cluster.ask(&["rm", "--kill", "kv"]).ok();
    let removed = Instant::now();
    until("the port is free", || TcpListener::bind(address).is_ok());
    // One that was never started keeps it for a minute.
    assert!(removed.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_clone_and_a_copy_do_not_take_clients_away() {
    let (cluster, address) = serving(&["one", "two"], &[]);
    let mut client = Client::connect(address).unwrap();
    assert_eq!(client.put("key", "value").unwrap(), 1);
    cluster.ask(&["clone", "kv", "two"]).ok();
    let copy = cluster.world.path("copy");
    let copy = copy.to_str().unwrap();
    cluster.ask(&["freeze", "kv", "--keep", "-o", copy]).ok();
    assert_eq!(client.put("key", "value").unwrap(), 2);
    // The port goes with the original.
    let listed = cluster.json(&["ps", "--json"]);
    let of = |row: &serde_json::Value| row["ports"].as_array().unwrap().len();
    let ports: usize = listed.as_array().unwrap().iter().map(of).sum();
    assert_eq!(ports, 1, "{listed}");
}

#[test]
fn a_frozen_server_comes_back_at_its_port() {
    let (cluster, address) = serving(&["one", "two"], &[]);
    let mut client = Client::connect(address).unwrap();
    client.put("key", "value").unwrap();
    let file = cluster.world.path("kv.sterna");
    let file = file.to_str().unwrap();
    cluster.ask(&["freeze", "kv", "-o", file]).ok();
    assert!(is_cut_off(&mut client));
    let at_two: &Node = cluster.at("two");
    at_two.ok(&cluster.world, &["thaw", "--detach", "--on", "two", file]);
    let mut client = Client::connect_soon(address);
    assert_eq!(client.get("key").unwrap(), "value");
}

#[test]
fn a_port_can_be_another_nodes_and_has_a_name() {
    let cluster = Cluster::new(&["one", "two"]);
    let address = serve(&cluster, &[], "http=two:0");
    let mut client = Client::connect(address).unwrap();
    assert_eq!(client.put("key", "value").unwrap(), 1);
    let listed = cluster.json(&["ps", "--json"]);
    let port = &listed[0]["ports"][0];
    assert_eq!(
        (&port["name"], &port["node"]),
        (&"http".into(), &"two".into())
    );
    assert!(has_id(&listed[0], listed[0]["id"].as_str().unwrap()));
}

#[test]
fn a_node_is_not_drained_of_clients_unless_they_may_be_cut_off() {
    let (cluster, address) = serving(&["one", "two"], &[]);
    cluster.ask(&["drain", "one", "--dry-run"]).ok();
    let mut client = Client::connect(address).unwrap();
    assert_eq!(client.put("key", "value").unwrap(), 1);
    let port = format!("kv at port {} (1)", address.port());
    cluster.ask(&["drain", "one"]).fails(1, &[&port, "--cut"]);
    let plan = cluster.ask(&["drain", "one", "--dry-run"]);
    plan.fails(1, &[]);
    let number = address.port();
    let in_the_way = format!("port {number} of kv stays: 1 client is connected");
    for told in ["goes to two", &in_the_way, "--cut"] {
        assert!(plan.out().contains(told), "{}", plan.out());
    }
    cluster.ask(&["drain", "one", "--dry-run", "--cut"]).ok();
    cluster.is_at("kv", "one");
    let told = cluster.ask(&["drain", "one", "--cut"]).ok();
    cluster.is_at("kv", "two");
    assert!(is_cut_off(&mut client));
    let address = cluster.address_of("kv");
    let moved = format!("of kv is at two now: {address}");
    assert!(told.contains(&moved), "{told}");
    let mut client = Client::connect(address).unwrap();
    assert_eq!(client.put("key", "value").unwrap(), 2);
}

/// Nodes of whose services each may have so many descriptors, as `ulimit` has it.
fn limited(limit: &str) -> (Cluster, SocketAddr) {
    let limited = |_: &World, _: &str| {
        let shell = format!("ulimit {limit} && exec \"$@\"");
        let how = How {
            within: ["sh", "-c", &shell, "sh"].map(str::to_owned).to_vec(),
            ..How::default()
        };
        (free_address(), how)
    };
    let cluster = Cluster::new_so(&["one", "two"], limited);
    let address = serve(&cluster, &[], "0");
    (cluster, address)
}

#[test]
fn a_node_takes_as_many_descriptors_for_clients_as_it_can_get() {
    let (cluster, address) = limited("-Sn 256");
    let connect = |_| Client::connect(address).unwrap();
    let mut idle: Vec<Client> = (0..400).map(connect).collect();
    assert_eq!(idle[399].put("key", "value").unwrap(), 1);
    cluster.ask(&["nodes"]).ok();
}

/// Anybody may connect, and stay connected.
#[test]
fn idle_clients_leave_a_node_what_it_needs_itself() {
    let (cluster, address) = limited("-n 512");
    let connect = |_| Client::connect(address).unwrap();
    let mut idle: Vec<Client> = (0..600).map(connect).collect();
    // When the last is turned away, all have been seen to.
    assert!(is_cut_off(idle.last_mut().unwrap()));
    assert_eq!(idle[0].put("key", "value").unwrap(), 1);
    cluster.ask(&["drain", "one", "--cut"]).ok();
    cluster.is_at("kv", "two");
}

/// A cluster whose nodes have addresses of their own, so that two can have the same port.
fn apart(names: &[&str]) -> Cluster {
    let number = |name: &str| 1 + names.iter().position(|one| *one == name).unwrap();
    Cluster::new_so(names, |_, name| {
        let port = free_address().rsplit_once(':').unwrap().1.to_owned();
        (format!("127.0.0.{}:{port}", number(name)), How::default())
    })
}

#[test]
fn a_drained_ingress_leaves_its_ports_to_the_nodes_that_have_the_processes() {
    let mut cluster = apart(&["home", "one", "two"]);
    // One goes along with its process, the other one follows it.
    let address = serve(&cluster, &["--on", "one"], "one:0");
    let (kv, words) = (guest("kv"), ["run", "--detach", "--name", "other"]);
    let more = ["--listen", "one:0", "--on", "two", &kv, "1"];
    cluster.ask(&[&words[..], &more].concat()).ok();
    let mut client = Client::connect(address).unwrap();
    assert_eq!(client.put("key", "value").unwrap(), 1);
    drop(client);
    let other = cluster.address_of("other");
    // The clients are gone as soon as that is noticed.
    until("it is drained", || {
        let drain = cluster.ask(&["drain", "one", "--to", "two", "--json"]);
        drain.0.status.success()
    });
    for (name, before) in [("kv", address), ("other", other)] {
        let now = cluster.address_of(name);
        assert_eq!(now.port(), before.port(), "the number is free there");
        assert_eq!(now.ip().to_string(), "127.0.0.3");
        let inspected = cluster.ask(&["inspect", name]).ok();
        let port = format!("of two: {now}");
        assert!(inspected.contains(&port), "{inspected}");
        until("it is closed", || TcpStream::connect(before).is_err());
    }
    cluster.kill("one");
    let mut client =
        Client::connect(SocketAddr::new([127, 0, 0, 3].into(), address.port())).unwrap();
    assert_eq!(client.get("key").unwrap(), "value");
    // The port stays where it is now when the process moves on, and when services die.
    cluster.ask(&["move", "kv", "home"]).ok();
    cluster.kill("home");
    cluster.start_again("home");
    assert_eq!(client.put("key", "value").unwrap(), 2);
    cluster.start_again("one");
}

#[test]
fn ports_that_cannot_be_are_refused_and_nothing_is_left() {
    let cluster = Cluster::new(&["one", "two"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let kv = guest("kv");
    let free = "two:0";
    let run = |listen: &str, code, said: &[&str]| {
        let words = ["run", "-d", "--listen", free, "--listen", listen, &kv];
        cluster.ask(&words).fails(code, said);
    };
    run(&port, 125, &["is taken", "choose another one"]);
    run(&format!("two:{port}"), 125, &["is taken"]);
    run("nobody:0", 125, &["nobody"]);
    run("x", 2, &["[NAME=][NODE:]PORT"]);
    run("a:b=0", 125, &["name"]);
    let listed = cluster.json(&["ps", "-a", "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), 0, "{listed}");
}
