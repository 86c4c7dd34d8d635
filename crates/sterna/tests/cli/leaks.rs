//! Nothing is left of a move in which somebody was killed, while all others live on, and clients of the process, too: no
//! descriptor, no thread, no noting of written pages, no relay, no file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::kv::Client;
use crate::trial::{Fate, Role, Trial};
use crate::world::{guest, until};

const CLIENTS: usize = 4;

/// What there is of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Having {
    /// Of its service and its runner: sorts of descriptors, and threads, and how many.
    service: BTreeMap<String, usize>,
    runner: BTreeMap<String, usize>,
    /// In its data directory.
    files: BTreeSet<String>,
}

impl Having {
    fn of(trial: &Trial, name: &str) -> Self {
        let node = trial.cluster.at(name);
        let runner = node.runner().expect("it has a runner").as_raw_nonzero();
        let mut files = BTreeSet::new();
        list(Path::new(&node.data), &mut files);
        Self {
            service: counted(&node.actor.pid()),
            runner: counted(&runner.to_string()),
            files,
        }
    }

    /// What is more than there was.
    fn beyond(&self, before: &Self) -> Vec<String> {
        let more = |who, now: &BTreeMap<String, usize>, before: &BTreeMap<String, usize>| {
            let had = |sort| before.get(sort).copied().unwrap_or(0);
            let more = now.iter().filter(|(sort, count)| **count > had(*sort));
            more.map(|(sort, count)| format!("{who}: {count} {sort}, and not {}", had(sort)))
                .collect::<Vec<_>>()
        };
        let mut beyond = more("service", &self.service, &before.service);
        beyond.extend(more("runner", &self.runner, &before.runner));
        beyond.extend(self.files.difference(&before.files).cloned());
        beyond
    }
}

/// Descriptors of a process by what they are, and its threads.
fn counted(pid: &str) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        // It may have been closed just now.
        let Ok(link) = fs::read_link(entry.path()) else {
            continue;
        };
        let link = link.to_string_lossy().into_owned();
        let sort = match link.split_once(":[") {
            Some((sort @ ("socket" | "pipe"), _)) => sort.to_owned(),
            // Each epoch has its own, and each process.
            _ if link.contains("/logs/") => "log".to_owned(),
            _ if link.ends_with("/pagemap") => "pagemap".to_owned(),
            _ => link,
        };
        *counted.entry(sort).or_default() += 1;
    }
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        // The service's own (`node`) come and go with what blocks.
        if !["", "node\n"].contains(&&*name) {
            *counted.entry(format!("threads {name:?}")).or_default() += 1;
        }
    }
    counted
}

/// All files but logs, of which each epoch has its own.
fn list(folder: &Path, files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("logs") {
            list(&path, files);
        } else {
            files.insert(path.to_string_lossy().into_owned());
        }
    }
}

/// Clients that are connected all the time.
struct Clients {
    address: SocketAddr,
    clients: Vec<Client>,
    written: u64,
}

impl Clients {
    fn connect(address: SocketAddr) -> Self {
        let client = |_| Client::connect_soon(address);
        Self {
            address,
            clients: (0..CLIENTS).map(client).collect(),
            written: 0,
        }
    }

    /// All of them are answered; those that were cut off, if they may be, connect again.
    fn are_answered(&mut self, may_be_cut: bool) {
        for number in 0..CLIENTS {
            let key = format!("key{number}");
            self.written += 1;
            let value = self.written.to_string();
            if let Err(error) = self.clients[number].put(&key, &value) {
                assert!(may_be_cut, "{error}");
                self.clients[number] = Client::connect_soon(self.address);
                self.clients[number].put(&key, &value).unwrap();
            }
            assert_eq!(self.clients[number].get(&key).unwrap(), value);
        }
    }
}

/// Kills somebody at each of these points, one after the other.
fn check(ingress: &str, way: &'static [&'static str], points: &[(Role, &str)]) {
    let mut trial = Trial::new();
    trial.way = way;
    let (listen, kv) = (format!("{ingress}:0"), guest("kv"));
    let words = ["run", "--detach", "--name", "kv", "--listen", &listen];
    let words = [&words[..], &["--on", "one", &kv, "4"]].concat();
    let id = trial.cluster.ask(&words).ok().trim().to_owned();
    let mut clients = Clients::connect(trial.cluster.address_of("kv"));
    let back = |trial: &Trial| {
        let moved = |target: &str| {
            trial
                .cluster
                .ask(&["move", "kv", target])
                .0
                .status
                .success()
        };
        until("it is back", || {
            moved("one") || trial.cluster.place("kv").unwrap().0 == "one"
        });
    };
    // What is opened once is there before anything is counted.
    let names = ["home", "one", "two"];
    for name in names {
        trial.cluster.kill(name);
        trial.cluster.start_again(name);
    }
    for target in ["two", "home", "two"] {
        let words = [&["move", "kv", target], way].concat();
        until("it is moved", || {
            trial.cluster.ask(&words).0.status.success()
        });
        clients.are_answered(true);
    }
    back(&trial);
    clients.are_answered(false);
    let before = names.map(|name| Having::of(&trial, name));
    for (role, point) in points {
        println!("{role:?} is killed at {point:?}");
        let mut moving = trial.move_to_point("kv", (*role, *point));
        let node = trial.cluster.at(role.node());
        let victim = match role.is_runner() {
            true => node.runner().unwrap(),
            false => Pid::from_raw(node.actor.child.id() as i32).unwrap(),
        };
        kill_process(victim, Signal::KILL).unwrap();
        trial.arm(*role, "");
        if !role.is_runner() {
            trial.cluster.node(role.node()).actor.end();
            trial.cluster.start_again(role.node());
        }
        moving.end();
        assert_eq!(trial.settle("kv", &id), Fate::Lives);
        let is_of_ingress = role.node() == ingress && !role.is_runner();
        clients.are_answered(is_of_ingress);
        back(&trial);
        clients.are_answered(false);
        trial.cluster.have_runners();
        for (name, before) in names.iter().zip(&before) {
            nothing_is_beyond(&trial, name, before);
        }
    }
}

fn nothing_is_beyond(trial: &Trial, name: &str, before: &Having) {
    let mut beyond = Vec::new();
    until("nothing is left", || {
        let now = Having::of(trial, name).beyond(before);
        if now != beyond {
            println!("  {name}: {now:#?}");
            beyond = now;
        }
        beyond.is_empty()
    });
}

#[test]
fn nothing_is_left_of_a_source_or_target_that_was_killed() {
    check(
        "home",
        &[],
        &[
            // Earlier, a target keeps the place that it has made for a minute (`Limits::state_within`).
            (Role::SourceService, "service answered Declare"),
            (Role::SourceService, "service told Captured"),
            (Role::SourceService, "service hear Committed"),
            (Role::TargetService, "service hear Offer"),
            (Role::TargetService, "service told Prepared"),
            (Role::TargetService, "service answered Commit"),
            (Role::TargetRunner, "runner SomeTaken"),
        ],
    );
}

#[test]
fn nothing_is_left_of_rounds_in_which_somebody_was_killed() {
    check(
        "two",
        &["--strategy", "pre-copy"],
        &[
            (Role::SourceService, "service told Tracking"),
            (Role::SourceService, "service told RoundSent"),
            (Role::TargetService, "service say Accept"),
            (Role::TargetRunner, "runner SomeTaken"),
        ],
    );
}

#[test]
fn nothing_is_left_of_an_ingress_and_a_registry_that_were_killed() {
    check(
        "home",
        &[],
        &[
            (Role::Home, "registry write Declare"),
            (Role::Home, "registry wrote Declare"),
            (Role::Home, "registry write Commit"),
            (Role::Home, "registry wrote Commit"),
        ],
    );
    check(
        "one",
        &[],
        &[
            (Role::SourceService, "service answered Declare"),
            (Role::SourceService, "service told Pushed"),
        ],
    );
}
