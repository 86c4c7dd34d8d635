//! The processes that a node consists of: what each has no right to, and what becomes of the others when one is killed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, socket};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use sterna_node::manager::message::{Answer, Answered, Asked, Errand, Ready};
use sterna_runner::link;
use sterna_sys::spawn::Spawn;

use crate::cluster::{Node, start_with};
use crate::world::{World, guest, skip, until};

/// Capabilities by their numbers (capability.h): SETPCAP, SYS_ADMIN, SETFCAP.
const OF_MANAGER: u64 = 1 << 8 | 1 << 21 | 1 << 31;

/// The fields of a process's status, for each of its threads.
fn statuses(pid: u32) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let fields = |text: String| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect()
    };
    texts.map(fields).collect()
}

/// Parent and state of a process, if it is there (proc_pid_stat(5), fields 3 and 4).
fn stat(pid: u32) -> Option<(u32, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.to_owned();
    Some((fields.next()?.parse().ok()?, state))
}

fn is_there(pid: u32) -> bool {
    stat(pid).is_some_and(|(_, state)| state != "Z" && state != "X")
}

/// The child that was started as this part.
fn child(parent: u32, part: &str) -> Option<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is = words.split(|byte| *byte == 0).nth(1) == Some(part.as_bytes());
        is && stat(*pid).is_some_and(|(of, _)| of == parent)
    })
}

#[test]
fn nodes_say_by_what_memory_moves() {
    let world = World::new();
    let Parts { node, .. } = Parts::start(&world);
    let nodes = node.nodes(&world);
    let doctor = world.ask(["doctor", "--json"]).ok();
    let findings: Vec<serde_json::Value> = serde_json::from_str(&doctor).unwrap();
    for (way, what) in [
        ("dirty_pages", "userfaultfd, PAGEMAP_SCAN"),
        ("post_copy", "userfaultfd, missing pages"),
    ] {
        let finding = findings.iter().find(|finding| finding["what"] == what);
        let said = nodes[0][way].as_str().unwrap();
        match finding.unwrap()["state"] == "yes" {
            true => assert_eq!(said, "userfaultfd"),
            false => assert!(said.starts_with("none: "), "{said}"),
        }
    }
    node.ask(&world, &["node", "stop"]).ok();
}

/// A node with all its parts.
struct Parts {
    node: Node,
    service: u32,
    manager: u32,
    runner: u32,
}

impl Parts {
    fn start(world: &World) -> Self {
        let node = start_with(world, "one", &[]);
        let service = node.actor.child.id();
        let manager = child(service, "__manager").expect("a manager");
        until("there is a runner", || {
            node.nodes(world)[0]["runner_confinement"].is_string()
        });
        let runner = child(manager, "__runner").expect("a runner");
        Self {
            node,
            service,
            manager,
            runner,
        }
    }

    fn run_spin(&self, world: &World) {
        let program = guest("spin");
        let words = [
            "run",
            "--detach",
            "--name",
            "spin",
            "--node",
            &self.node.data,
        ];
        world.ask([&words[..], &[&program]].concat()).ok();
    }

    fn all(&self) -> [u32; 3] {
        [self.service, self.manager, self.runner]
    }
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn the_service_has_no_privilege_and_the_manager_no_network() {
    let world = World::new();
    let parts = Parts::start(&world);
    let listed = parts.node.nodes(&world);
    let how = |part: &str| listed[0][part].as_str().unwrap().to_owned();
    for part in ["service_confinement", "manager_confinement"] {
        assert!(
            ["full", "partial: ", "none: "]
                .iter()
                .any(|begin| how(part).starts_with(begin)),
            "{}",
            how(part)
        );
    }
    let (service, manager) = (how("service_confinement"), how("manager_confinement"));
    if [&*service, &*manager] != ["full"; 2] {
        parts.node.ask(&world, &["node", "stop"]).ok();
        skip!("this machine does not confine in full: {service}; {manager}");
    }
    for pid in parts.all() {
        for thread in statuses(pid) {
            assert_eq!((&*thread["NoNewPrivs"], &*thread["Seccomp"]), ("1", "2"));
        }
    }
    let root = geteuid().is_root();
    for thread in statuses(parts.service) {
        assert_eq!(u64::from_str_radix(&thread["CapEff"], 16), Ok(0));
        assert_eq!(u64::from_str_radix(&thread["CapPrm"], 16), Ok(0));
        assert!(!root || u64::from_str_radix(&thread["CapBnd"], 16) == Ok(0));
    }
    for thread in statuses(parts.manager) {
        let expected = if root { OF_MANAGER } else { 0 };
        assert_eq!(u64::from_str_radix(&thread["CapEff"], 16), Ok(expected));
        assert!(!root || u64::from_str_radix(&thread["CapBnd"], 16) == Ok(OF_MANAGER));
    }
    if root {
        let devices = fs::read_to_string(format!("/proc/{}/net/dev", parts.manager)).unwrap();
        let names = devices
            .lines()
            .skip(2)
            .filter_map(|line| line.split_once(':'));
        let names: Vec<&str> = names.map(|(name, _)| name.trim()).collect();
        assert_eq!(names, ["lo"]);
    }
    let all = parts.all();
    parts.node.ask(&world, &["node", "stop"]).ok();
    for pid in all {
        until("nothing is left", || !is_there(pid));
    }
}

#[test]
fn a_node_whose_manager_is_killed_ends_and_its_processes_are_taken_up() {
    let world = World::new();
    let mut parts = Parts::start(&world);
    parts.run_spin(&world);
    kill(parts.manager);
    assert_eq!(parts.node.actor.end().code(), Some(1));
    let said = parts.node.actor.err.text();
    assert!(said.contains("the node's manager has ended"), "{said}");
    assert!(is_there(parts.runner));
    parts.node.start_again(&world);
    let again = &parts.node;
    until("the process is there", || {
        again.ask(&world, &["ps"]).ok().contains("spin")
    });
    assert!(is_there(parts.runner), "it was the same runner");
    again.ask(&world, &["node", "stop", "--kill"]).ok();
    until("nothing is left", || {
        !parts.all().iter().any(|pid| is_there(*pid))
    });
}

#[test]
fn a_manager_ends_with_its_killed_service_and_the_runner_does_not() {
    let world = World::new();
    let mut parts = Parts::start(&world);
    parts.run_spin(&world);
    parts.node.actor.signal(Signal::KILL);
    parts.node.actor.end();
    until("the manager has ended", || !is_there(parts.manager));
    assert!(is_there(parts.runner));
    parts.node.start_again(&world);
    let again = &parts.node;
    until("the process is there", || {
        again.ask(&world, &["ps"]).ok().contains("spin")
    });
    again.ask(&world, &["node", "stop", "--kill"]).ok();
    until("nothing is left", || !is_there(parts.runner));
}

#[test]
fn ctrl_c_ends_service_and_manager() {
    let world = World::new();
    let mut parts = Parts::start(&world);
    parts.node.actor.signal(Signal::INT);
    parts.node.actor.ended(0);
    // It was waited for.
    assert!(!is_there(parts.manager));
    // The runner is left for the next start, which finds it, and ends it as it is told.
    parts.node.start_again(&world);
    let again = &parts.node;
    until("there is a runner", || {
        again.nodes(&world)[0]["runner_confinement"].is_string()
    });
    again.ask(&world, &["node", "stop"]).ok();
    until("nothing is left", || !is_there(parts.runner));
}

#[test]
fn a_runner_that_is_killed_is_followed_by_another() {
    let world = World::new();
    let parts = Parts::start(&world);
    kill(parts.runner);
    until("there is another runner", || {
        child(parts.manager, "__runner").is_some_and(|pid| pid != parts.runner)
    });
    until("it serves", || {
        parts.node.nodes(&world)[0]["runner_confinement"].is_string()
    });
    parts.run_spin(&world);
    parts.node.ask(&world, &["node", "stop", "--kill"]).ok();
}

/// A service that was taken over: it has the socket to the manager, and whatever it can open.
struct Taken {
    link: UnixStream,
}

impl Taken {
    fn ask(&self, errand: Errand, given: &[BorrowedFd<'_>]) -> Answer {
        link::send(&self.link, &Asked { number: 1, errand }, given).unwrap();
        let (Answered { answer, .. }, _) = link::receive(&self.link).unwrap();
        answer
    }

    #[track_caller]
    fn is_refused(&self, errand: Errand, given: &[BorrowedFd<'_>]) {
        let answer = self.ask(errand, given);
        assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    }
}

fn bound(path: &Path) -> OwnedFd {
    let bound = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&bound, &SocketAddrUnix::new(path).unwrap()).unwrap();
    bound
}

#[test]
fn a_service_that_was_taken_over_gets_one_runner_and_nothing_else() {
    let world = World::new();
    let hosting = world.path("node/hosting");
    fs::create_dir_all(&hosting).unwrap();
    let (mut link, there) = UnixStream::pair().unwrap();
    let mut manager = Spawn::new(env!("CARGO_BIN_EXE_sterna"))
        .arg("__manager")
        .arg(world.path("node"))
        .env("STERNA_CACHE_DIR", &world.cache)
        .descriptor("MANAGER_SERVICE", there.into())
        .start()
        .unwrap();
    link::greet(&mut link).unwrap();
    link::receive::<Ready>(&link).unwrap();
    let taken = Taken { link };
    let log = |path: &Path| {
        let mut options = OpenOptions::new();
        options.create(true).append(true).open(path).unwrap()
    };
    let errors = log(&hosting.join("runner.log"));
    let elsewhere = bound(&world.path("elsewhere.sock"));
    let start = || Errand::StartRunner;
    taken.is_refused(start(), &[elsewhere.as_fd(), errors.as_fd()]);
    let own = bound(&hosting.join("runner.sock"));
    let other = log(&world.path("other.log"));
    taken.is_refused(start(), &[own.as_fd(), other.as_fd()]);
    // A directory that was only named, and what is none.
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let root = rustix::fs::open("/", flags, Mode::empty()).unwrap();
    let read_only = false;
    taken.is_refused(Errand::Detach { read_only }, &[root.as_fd()]);
    taken.is_refused(Errand::Detach { read_only }, &[errors.as_fd()]);
    let device = File::open("/dev/zero").unwrap();
    taken.is_refused(Errand::Add(sterna_wasm::KIND), &[device.as_fd()]);
    // What belongs to it, once.
    let answer = taken.ask(start(), &[own.as_fd(), errors.as_fd()]);
    assert_eq!(answer, Answer::Done);
    fs::remove_file(hosting.join("runner.sock")).unwrap();
    let second = bound(&hosting.join("runner.sock"));
    taken.is_refused(start(), &[second.as_fd(), errors.as_fd()]);
    drop(second);
    let runner = child(manager.id(), "__runner").expect("a runner");
    // Nonsense ends the manager, and the runner stays.
    let header = [0xFF; 5];
    sterna_sys::messages::send(&taken.link, &header, &[]).unwrap();
    let ended = manager
        .wait(Some(Duration::from_secs(60)))
        .unwrap()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(is_there(runner));
    kill(runner);
    until("the runner has ended", || !is_there(runner));
    for socket in [&hosting.join("runner.sock"), &world.path("elsewhere.sock")] {
        fs::remove_file(socket).unwrap();
    }
}
