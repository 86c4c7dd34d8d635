//! Nodes in networks of their own, namespaces joined by a bridge, where links are cut, lossy, or of IPv6 alone.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::trial::{Role, Trial};
use crate::world::{skip, until};

/// Network namespaces, each with one link to a bridge in one more. Dropping it removes them.
struct Network {
    /// Tests of one process have different ones.
    number: u32,
    names: Vec<String>,
    family: Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Four,
    Six,
}

const HUB: &str = "hub";
const NODES: [&str; 3] = ["home", "one", "two"];

impl Network {
    /// Or why there can be none.
    fn new(family: Family) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("making networks needs root".into());
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut network = Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            names: Vec::new(),
            family,
        };
        network.add(HUB)?;
        network.ip(HUB, "link add bridge type bridge")?;
        network.ip(HUB, "link set dev bridge up")?;
        for name in NODES {
            network.add(name)?;
            let peer = network.namespace(name);
            let link = format!("link add dev {name} type veth peer name link netns {peer}");
            network.ip(HUB, &link)?;
            network.ip(HUB, &format!("link set dev {name} master bridge up"))?;
            network.ip(name, "link set dev lo up")?;
            network.ip(name, "link set dev link up")?;
            let address = match family {
                Family::Four => format!("address add {}/24 dev link", network.host(name)),
                // No other could have it: it need not be looked for.
                Family::Six => format!("address add {}/64 dev link nodad", network.host(name)),
            };
            network.ip(name, &address)?;
        }
        // What rules are made with later is tried now.
        network.filter(HUB, Some("numgen random mod 100 < 1"))?;
        Ok(network)
    }

    fn namespace(&self, name: &str) -> String {
        format!("sterna-{}-{}-{name}", std::process::id(), self.number)
    }

    fn host(&self, name: &str) -> String {
        let number = 1 + NODES.iter().position(|node| *node == name).unwrap();
        match self.family {
            Family::Four => format!("10.77.0.{number}"),
            Family::Six => format!("fd77::{number}"),
        }
    }

    fn add(&mut self, name: &str) -> Result<(), String> {
        let namespace = self.namespace(name);
        run("ip", &["netns", "add", &namespace], "")?;
        self.names.push(namespace);
        Ok(())
    }

    fn ip(&self, name: &str, words: &str) -> Result<(), String> {
        let namespace = self.namespace(name);
        let words: Vec<&str> = ["-n", &namespace]
            .into_iter()
            .chain(words.split(' '))
            .collect();
        run("ip", &words, "")
    }

    /// Drops the packets of a node's link, in both directions, of which a condition holds; without one, none.
    fn filter(&self, name: &str, condition: Option<&str>) -> Result<(), String> {
        let mut text = "add table inet test\ndelete table inet test\n".to_owned();
        if let Some(condition) = condition {
            text += "add table inet test\n";
            for (hook, link) in [("input", "iifname"), ("output", "oifname")] {
                text += &format!(
                    "add chain inet test {hook} {{ type filter hook {hook} priority 0 ; }}\n"
                );
                text += &format!("add rule inet test {hook} {link} \"link\" {condition} drop\n");
            }
        }
        let namespace = self.namespace(name);
        run(
            "ip",
            &["netns", "exec", &namespace, "nft", "-f", "-"],
            &text,
        )
    }

    fn cut(&self, name: &str) {
        self.filter(name, Some("")).unwrap();
    }

    fn heal(&self, name: &str) {
        self.filter(name, None).unwrap();
    }

    /// Of what comes to this node and leaves it, so much gets lost.
    fn thin(&self, name: &str, percent: u32) {
        let condition = format!("numgen random mod 100 < {percent}");
        self.filter(name, Some(&condition)).unwrap();
    }

    /// A cluster with a node in each.
    fn trial(&self) -> Trial {
        Trial::on(|name| {
            let address = match self.family {
                Family::Four => format!("{}:7355", self.host(name)),
                Family::Six => format!("[{}]:7355", self.host(name)),
            };
            let net = format!("--net=/run/netns/{}", self.namespace(name));
            (address, vec!["nsenter".to_owned(), net])
        })
    }
}

fn run(program: &str, words: &[&str], input: &str) -> Result<(), String> {
    let mut command = Command::new(program);
    let command = command
        .args(words)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let failed = |why: &dyn std::fmt::Display| format!("{program} {}: {why}", words.join(" "));
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(&String::from_utf8_lossy(&output.stderr))),
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = run("ip", &["netns", "del", name], "");
        }
    }
}

macro_rules! network {
    ($family:expr) => {
        match Network::new($family) {
            Ok(network) => network,
            Err(why) => skip!("no networks for tests here (ip, nft): {why}"),
        }
    };
}

/// A link is cut at a point of a move, and healed when the side that can has given it up or gone on.
fn check_cut(cut: &str, points: &[(Role, &str)]) {
    let network = network!(Family::Four);
    let mut trial = network.trial();
    for (role, point) in points {
        let case = format!("{cut} is cut off at {point:?}");
        println!("{case}");
        let name = format!("p{}", trial.written.len());
        let id = trial.start(&name);
        let mut moving = trial.move_to_point(&name, (*role, *point));
        network.cut(cut);
        trial.arm(*role, "");
        // The other nodes notice; of a source that is cut off, nothing can be known.
        if cut == "two" {
            moving.end();
        } else {
            until("it is noticed", || {
                let node = trial.cluster.at("home");
                node.state_of(&trial.cluster.world, cut) == "unknown"
            });
        }
        network.heal(cut);
        moving.end();
        trial.settle(&name, &id);
        let log = trial.finish(&name, &case);
        trial.written.push((case, log));
    }
    trial.compare();
}

#[test]
fn a_target_that_is_cut_off_in_a_move_costs_nothing_but_the_move() {
    check_cut(
        "two",
        &[
            (Role::SourceService, "service hear Accept"),
            (Role::SourceRunner, "runner HalfSent"),
            (Role::TargetService, "service ask Commit"),
            (Role::TargetService, "service answered Commit"),
        ],
    );
}

#[test]
fn a_source_that_is_cut_off_in_a_move_goes_on_when_it_is_back() {
    check_cut(
        "one",
        &[
            (Role::SourceService, "service answered Declare"),
            (Role::SourceRunner, "runner tell Captured"),
            (Role::TargetService, "service ask Commit"),
        ],
    );
}

/// Moves a process from node to node; how many moves were made. One that is not is asked for again.
fn check_moves(trial: &mut Trial, how: &str) {
    let id = trial.start("p0");
    for target in ["two", "one", "home", "two"] {
        loop {
            let moved = trial.cluster.ask(&["move", "p0", target]);
            println!("{how}: {}{}", moved.out(), moved.err());
            trial.settle("p0", &id);
            if trial
                .cluster
                .place(&id)
                .is_some_and(|place| place.0 == target)
            {
                break;
            }
        }
        trial.writes_on("p0");
    }
    let log = trial.finish("p0", how);
    trial.written.push((how.to_owned(), log));
    trial.compare();
}

#[test]
fn a_process_is_moved_over_links_that_lose_a_tenth_of_all_packets() {
    let network = network!(Family::Four);
    let mut trial = network.trial();
    for name in NODES {
        // A packet passes two of them.
        network.thin(name, 5);
    }
    check_moves(&mut trial, "with a tenth of all packets lost");
}

#[test]
fn nodes_with_ipv6_alone_move_processes() {
    let network = network!(Family::Six);
    let mut trial = network.trial();
    check_moves(&mut trial, "over IPv6");
}
