//! The registry in a real etcd, which the tests start: one member, and three of which one is killed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use sterna_process::ProcessId;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::durable::{compare, drafts};
use super::world::{Running, info, on_runtime, options};
use crate::identity::NodeId;
use crate::message::{FailureKind, RegistryRequest, Reply, Request};
use crate::registry::Registry;
use crate::store::{CHANGES_MAX, Change, Etcd, EtcdAddress, Login, Store, StoreError, Swapped};
use crate::{AskError, Node, StartError};

const ONE: NodeId = NodeId::from_bytes([1; 32]);

/// Members of an etcd cluster, killed when dropped.
struct Cluster {
    members: Vec<Child>,
    clients: Vec<u16>,
    _data: TempDir,
}

/// Whether there is an etcd; says why not.
fn is_here() -> bool {
    let version = Command::new("etcd").arg("--version").output();
    if version.is_err() {
        println!("SKIPPED: no etcd on this machine (apt-get install etcd-server)");
    }
    version.is_ok()
}

/// Ports that nobody has.
fn ports(count: usize) -> Vec<u16> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let open: Vec<TcpListener> = (0..count).map(bind).collect();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    open.iter().map(port).collect()
}

impl Cluster {
    fn start(count: usize) -> Self {
        let data = tempfile::tempdir().unwrap();
        let ports = ports(2 * count);
        let (clients, peers) = ports.split_at(count);
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let all: Vec<String> = (0..count)
            .map(|at| format!("m{at}={}", url(&peers[at])))
            .collect();
        let mut members: Vec<Child> = (0..count)
            .map(|at| {
                Command::new("etcd")
                    .args(["--name", &format!("m{at}")])
                    .args(["--listen-client-urls", &url(&clients[at])])
                    .args(["--advertise-client-urls", &url(&clients[at])])
                    .args(["--listen-peer-urls", &url(&peers[at])])
                    .args(["--initial-advertise-peer-urls", &url(&peers[at])])
                    .args(["--initial-cluster", &all.join(",")])
                    .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
                    .arg("--data-dir")
                    .arg(data.path().join(at.to_string()))
                    .stderr(Stdio::piped())
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for member in &mut members {
            until_ready(member);
        }
        Self {
            members,
            clients: clients.to_vec(),
            _data: data,
        }
    }

    fn address(&self, prefix: &str) -> EtcdAddress {
        let members = self.clients.iter();
        let members = members.map(|port| format!("127.0.0.1:{port}")).collect();
        EtcdAddress {
            members,
            prefix: prefix.to_owned(),
        }
    }

    fn store(&self, prefix: &str) -> Etcd {
        Etcd::new(self.address(prefix), None)
    }
}

/// Reads what a member says until it serves, and then for as long as it lives, so that it does not wait for a reader.
fn until_ready(member: &mut Child) {
    let mut lines = BufReader::new(member.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    loop {
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("etcd ended: {said:?}"));
        let line = line.unwrap();
        let ready = line.contains("ready to serve client requests");
        said.push(line);
        if ready {
            break;
        }
    }
    std::thread::spawn(move || lines.for_each(drop));
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

fn change(key: &str, expected: Option<u64>, value: Option<&str>) -> Change {
    Change {
        key: key.into(),
        expected,
        value: value.map(Into::into),
        lease: None,
    }
}

#[test]
fn an_etcd_does_what_a_store_must() {
    if !is_here() {
        return;
    }
    let cluster = Cluster::start(1);
    on_runtime(async {
        let store = cluster.store("a");
        let made = store.swap(change("k/1", None, Some("x"))).await.unwrap();
        let Swapped::Done(first) = made else {
            panic!("{made:?}")
        };
        let again = store.swap(change("k/1", None, Some("y"))).await.unwrap();
        assert!(
            matches!(&again, Swapped::Other(Some(entry)) if entry.value == b"x" && entry.revision == first)
        );
        // Another cluster in the same etcd sees nothing of it.
        let other = cluster.store("b");
        assert_eq!(other.get(b"k/1").await.unwrap(), None);
        assert!(other.list(b"").await.unwrap().entries.is_empty());

        // More than are read at once.
        let keys: Vec<String> = (0..1100).map(|at| format!("l/{at:05}")).collect();
        for some in keys.chunks(CHANGES_MAX) {
            let made = some.iter().map(|key| change(key, None, Some("v")));
            assert!(store.swap_all(made.collect()).await.unwrap().is_some());
        }
        let all = store.list(b"l/").await.unwrap();
        assert_eq!(all.entries.len(), 1100);
        assert!(all.entries.is_sorted_by(|one, other| one.0 < other.0));
        let page = store.page(b"l/", b"l/00599", 600).await.unwrap().entries;
        assert_eq!((page.len(), &page[0].0[..]), (500, &b"l/00600"[..]));
        let page = store.page(b"l/", b"l/00000", 600).await.unwrap().entries;
        assert_eq!((page.len(), &page[599].0[..]), (600, &b"l/00600"[..]));

        let mut runner = TestRunner::deterministic();
        for case in 0..4 {
            let drafts = drafts().new_tree(&mut runner).unwrap().current();
            let prefix = format!("m{case}/");
            compare(&store, prefix.as_bytes(), &drafts).await;
        }
    });
}

#[test]
fn watches_and_leases_are_those_of_etcd() {
    if !is_here() {
        return;
    }
    let cluster = Cluster::start(1);
    on_runtime(async {
        let store = cluster.store("a");
        let before = store.list(b"").await.unwrap().revision;
        let watching = store.clone();
        let watch = tokio::spawn(async move { watching.changed(b"w/", before).await });
        store.swap(change("v/1", None, Some("x"))).await.unwrap();
        tokio::task::yield_now().await;
        assert!(!watch.is_finished());
        store.swap(change("w/1", None, Some("x"))).await.unwrap();
        watch.await.unwrap().unwrap();
        store.changed(b"w/", before).await.unwrap();
        store.changed(b"w/", before + 1000).await.unwrap();

        let lease = store.lease(Duration::from_millis(900)).await.unwrap();
        assert!(store.renew(lease).await.unwrap());
        let leased = Change {
            lease: Some(lease),
            ..change("t/1", None, Some("x"))
        };
        let Swapped::Done(written) = store.swap(leased).await.unwrap() else {
            panic!("not written")
        };
        assert!(store.get(b"t/1").await.unwrap().is_some());
        store.changed(b"t/", written).await.unwrap();
        assert_eq!(store.get(b"t/1").await.unwrap(), None);
        assert!(!store.renew(lease).await.unwrap());
    });
}

fn creation(process: ProcessId, name: &str) -> RegistryRequest {
    let info = Box::new(info(ONE, Some(name)));
    RegistryRequest::CreateRecord { process, info }
}

#[test]
fn processes_that_are_started_at_once_have_their_names() {
    const COUNT: usize = 512;
    const AT_ONCE: usize = 32;
    if !is_here() {
        return;
    }
    let cluster = Cluster::start(1);
    let registry = Arc::new(Registry::new(cluster.store("a"), ONE));
    on_runtime(async {
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for task in 0..AT_ONCE {
            let registry = Arc::clone(&registry);
            tasks.spawn(async move {
                for number in (task..COUNT).step_by(AT_ONCE) {
                    // Each name is wanted twice: one of the two gets it.
                    let asked = creation(ProcessId::random(), &format!("p{}", number / 2));
                    match registry.answer(ONE, asked).await {
                        Ok(_) => {}
                        Err(failure) => assert_eq!(failure.kind, FailureKind::Taken, "{failure}"),
                    }
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        let rate = COUNT as f64 / begun.elapsed().as_secs_f64();
        println!("{COUNT} processes, half of them refused: {rate:.0} a second");
        let request = RegistryRequest::Processes {
            ended: true,
            after: None,
        };
        let Ok(Reply::Processes(page)) = registry.answer(ONE, request).await else {
            panic!("no list")
        };
        let names: BTreeSet<String> = page.entries.into_iter().flat_map(|one| one.name).collect();
        assert_eq!(names.len(), COUNT / 2);
    });
}

#[test]
fn one_of_three_members_is_killed_and_nothing_is_lost() {
    if !is_here() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let registry = Arc::new(Registry::new(cluster.store("a"), ONE));
    let killed = Arc::new(AtomicBool::new(false));
    on_runtime(async {
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let (registry, killed) = (Arc::clone(&registry), Arc::clone(&killed));
            tasks.spawn(async move {
                let (mut answered, mut after) = (Vec::new(), 0);
                while after < 20 {
                    let process = ProcessId::random();
                    let asked = creation(process, &process.to_string());
                    match registry.answer(ONE, asked).await {
                        Ok(_) => answered.push(process),
                        // While they elect another leader; whether it was done is not known.
                        Err(failure) => {
                            let waits = failure.message.contains("leader")
                                || failure.message.contains("timed out");
                            let kind = failure.kind;
                            assert!(waits || kind == FailureKind::Unreachable, "{failure}");
                            continue;
                        }
                    }
                    after += usize::from(killed.load(Ordering::Relaxed));
                }
                answered
            });
        }
        // The one that is asked first by all.
        cluster.members[0].kill().unwrap();
        cluster.members[0].wait().unwrap();
        killed.store(true, Ordering::Relaxed);
        let mut answered = Vec::new();
        while let Some(done) = tasks.join_next().await {
            answered.extend(done.unwrap());
        }
        assert!(answered.len() >= 160);
        for process in answered {
            let name = process.to_string();
            let found = registry.answer(ONE, RegistryRequest::Named { name }).await;
            assert!(matches!(found, Ok(Reply::Process(Some(entry))) if entry.process == process));
        }
    });
}

#[test]
fn an_etcd_without_majority_is_unreachable_and_says_so() {
    if !is_here() {
        return;
    }
    let cluster = Cluster::start(1);
    let store = cluster.store("a");
    drop(cluster);
    let error = on_runtime(async { store.get(b"k").await.unwrap_err() });
    assert!(matches!(error, StoreError::Etcd(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("no member of the etcd cluster answers"),
        "{text}"
    );
}

#[test]
fn an_etcd_that_knows_users_wants_a_password() {
    if !is_here() {
        return;
    }
    let cluster = Cluster::start(1);
    on_runtime(async {
        let open = cluster.store("a");
        for (path, body) in [
            (
                "user/add",
                serde_json::json!({ "name": "root", "password": "hunter2" }),
            ),
            ("role/add", serde_json::json!({ "name": "root" })),
            (
                "user/grant",
                serde_json::json!({ "user": "root", "role": "root" }),
            ),
            ("enable", serde_json::json!({})),
        ] {
            open.ask(&format!("/v3/auth/{path}"), &body).await.unwrap();
        }
        let refused = open.get(b"k").await.unwrap_err().to_string();
        assert!(refused.contains("STERNA_ETCD_LOGIN_FILE"), "{refused}");
        for (login, good) in [("root:hunter2", true), ("root:hunter3", false)] {
            let store = Etcd::new(cluster.address("a"), Login::parse(login));
            let made = store.swap(change("k", None, Some("v"))).await;
            assert_eq!(made.is_ok(), good, "{made:?}");
            if let Err(error) = made {
                assert!(!error.to_string().contains("hunter"), "{error}");
            }
            let watch = store.changed(b"", 1).await;
            assert_eq!(watch.is_ok(), good, "{watch:?}");
        }
    });
}

#[test]
fn nodes_of_a_cluster_share_an_etcd() {
    if !is_here() {
        return;
    }
    let cluster = Cluster::start(1);
    let in_etcd = |options: &mut crate::Options| options.registry = Some(cluster.address("a"));
    let one = Running::start_with("n", in_etcd);
    let two = Running::start("m");
    assert_eq!(two.join(&one).members.len(), 2);
    // Each asks etcd itself: the second goes on without the first.
    let other = Running::start("o");
    let first = one.id;
    drop(one);
    assert_eq!(other.join(&two).members.len(), 3);
    assert_eq!(two.names(), ["m", "n", "o"]);
    let Ok(Reply::RegistryStatus(status)) = two.ask(&Request::RegistryStatus) else {
        panic!("no status")
    };
    assert_eq!((status.home, status.members), (two.id, 3));
    let backup = Request::RegistryBackup { file: "x".into() };
    let Err(AskError::Failed(failure)) = two.ask_with(&backup, &tempfile::tempfile().unwrap())
    else {
        panic!("an etcd was copied")
    };
    assert!(failure.message.contains("etcdctl"), "{failure}");
    two.ask(&Request::Remove { node: first }).unwrap();

    // A stranger that can reach the etcd does not become a member by that, nor is a cluster taken elsewhere.
    let directory = tempfile::tempdir().unwrap();
    let start = |data: &Path, prefix| {
        let mut options = options(data, "s");
        options.registry = Some(cluster.address(prefix));
        Node::start(&options).map(drop)
    };
    let stranger = start(&directory.path().join("s"), "a");
    assert!(matches!(
        stranger,
        Err(StartError::NotMember { members: 2, .. })
    ));
    let data = two.stop();
    let elsewhere = start(&data.path().join("node"), "b");
    assert!(matches!(elsewhere, Err(StartError::OtherRegistry { .. })));
    // It knows its cluster without being told, even while the etcd is away.
    drop(cluster);
    let node = Node::start(&options(&data.path().join("node"), "m")).unwrap();
    assert_eq!(node.about().name, "m");
}
