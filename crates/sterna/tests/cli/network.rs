//! Networks for tests: namespaces joined by a bridge, whose links are cut, or lose packets.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cluster::How;
use crate::trial::Trial;

/// Network namespaces, each with one link to a bridge in one more. Dropping it removes them.
pub(crate) struct Network {
    /// Tests of one process have different ones.
    number: u32,
    names: Vec<String>,
    family: Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Four,
    Six,
}

const HUB: &str = "hub";
/// Where clients are.
pub(crate) const CLIENTS: &str = "clients";
/// Where what delays is: see `detour`.
const DETOUR: &str = "detour";
pub(crate) const NODES: [&str; 3] = ["home", "one", "two"];
const PLACES: [&str; 5] = ["home", "one", "two", CLIENTS, DETOUR];

impl Network {
    /// Or why there can be none.
    pub(crate) fn new(family: Family) -> Result<Self, String> {
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
        for name in PLACES {
            network.add(name)?;
            let peer = network.namespace(name);
            let link = format!("link add dev {name} type veth peer name link netns {peer}");
            network.ip(HUB, &link)?;
            network.ip(HUB, &format!("link set dev {name} master bridge up"))?;
            network.ip(name, "link set dev lo up")?;
            network.ip(name, "link set dev link up")?;
            let address = match family {
                Family::Four => format!("address add {}/16 dev link", network.host(name)),
                // No other could have it: it need not be looked for.
                Family::Six => format!("address add {}/64 dev link nodad", network.host(name)),
            };
            network.ip(name, &address)?;
        }
        if family == Family::Four {
            for name in NODES {
                let address = format!("address add {}/16 dev link", network.detour(name));
                network.ip(DETOUR, &address)?;
            }
        }
        // What rules are made with later is tried now.
        network.filter(HUB, Some("numgen random mod 100 < 1"))?;
        Ok(network)
    }

    pub(crate) fn namespace(&self, name: &str) -> String {
        format!("sterna-{}-{}-{name}", std::process::id(), self.number)
    }

    pub(crate) fn host(&self, name: &str) -> String {
        let number = 1 + PLACES.iter().position(|place| *place == name).unwrap();
        match self.family {
            Family::Four => format!("10.77.0.{number}"),
            Family::Six => format!("fd77::{number}"),
        }
    }

    /// Where the detour to a node begins.
    pub(crate) fn detour(&self, name: &str) -> String {
        let number = 1 + NODES.iter().position(|node| *node == name).unwrap();
        format!("10.77.1.{number}")
    }

    /// Has something done in the network of the detour.
    pub(crate) fn within_detour<T: Send>(&self, deed: impl FnOnce() -> T + Send) -> T {
        let namespace = self.namespace(DETOUR);
        let thread = || {
            Self::enter(&namespace);
            deed()
        };
        thread::scope(|scope| scope.spawn(thread).join().unwrap())
    }

    /// Brings the calling thread there: sockets that it makes from now on are there.
    pub(crate) fn enter(namespace: &str) {
        let file = File::open(format!("/run/netns/{namespace}")).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
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

    pub(crate) fn cut(&self, name: &str) {
        self.filter(name, Some("")).unwrap();
    }

    pub(crate) fn heal(&self, name: &str) {
        self.filter(name, None).unwrap();
    }

    /// Of what comes to this node and leaves it, so much gets lost.
    pub(crate) fn thin(&self, name: &str, percent: u32) {
        let condition = format!("numgen random mod 100 < {percent}");
        self.filter(name, Some(&condition)).unwrap();
    }

    /// A command that starts others there.
    pub(crate) fn within(&self, name: &str) -> Vec<String> {
        let net = format!("--net=/run/netns/{}", self.namespace(name));
        vec!["nsenter".to_owned(), net]
    }

    /// A cluster with a node in each.
    pub(crate) fn trial(&self) -> Trial {
        Trial::on(|name| {
            let address = match self.family {
                Family::Four => format!("{}:7355", self.host(name)),
                Family::Six => format!("[{}]:7355", self.host(name)),
            };
            let how = How {
                within: self.within(name),
                ..How::default()
            };
            (address, how)
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

/// A network, or the test is skipped.
macro_rules! network {
    ($family:expr) => {
        match crate::network::Network::new($family) {
            Ok(network) => network,
            Err(why) => crate::world::skip!("no networks for tests here (ip, nft): {why}"),
        }
    };
}
pub(crate) use network;
