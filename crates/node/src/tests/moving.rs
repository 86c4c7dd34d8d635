//! The registry goes from node to node; nodes in processes of their own, killed at each step.

use std::env;
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::world::{Running, options};
use crate::handover::Handover;
use crate::identity::{NodeId, NodeKey};
use crate::message::{FailureKind, Nodes, Reply, Request, Status};
use crate::{AskError, Node};

/// The directory of a node that a test starts as a process.
const CHILD_DATA: &str = "STERNA_TEST_NODE";
/// Where it stops and waits to be killed.
const CHILD_STOP: &str = "STERNA_TEST_STOP_AT";

/// Called by a node at the steps of a move.
pub(crate) async fn stop_at(step: &str) {
    if env::var(CHILD_STOP).is_ok_and(|chosen| chosen == step) {
        writeln!(std::io::stdout(), "stopped").unwrap();
        std::future::pending::<()>().await;
    }
}

/// A node in a process of its own, which is killed in the end.
struct Killable {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    data: PathBuf,
}

impl Killable {
    fn start(data: &Path, stop_at: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("tests::moving::whoever_is_killed_in_a_move_there_is_one_home")
            .env(CHILD_DATA, data)
            .env(CHILD_STOP, stop_at)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let data = data.to_owned();
        let mut node = Self { child, lines, data };
        node.hears("serving");
        node
    }

    fn hears(&mut self, word: &str) {
        let mut lines = self.lines.by_ref().map(Result::unwrap);
        assert!(lines.any(|line| line == word), "no {word:?}");
    }

    fn ask(&self, request: &Request) -> Result<Reply, AskError> {
        crate::ask(&self.data, request)
    }

    fn status(&self) -> Status {
        match self.ask(&Request::Status) {
            Ok(Reply::Status(status)) => status,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One that is free by TCP, where the kernel has other ports for who listens than for who connects, and by UDP.
fn free_address() -> SocketAddr {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// A node that keeps its address when it is started again, as others know it.
fn serve(data: &Path) {
    let mut options = options(data, "n");
    let kept = data.with_extension("address");
    let address = match std::fs::read_to_string(&kept) {
        Ok(address) => address.parse().unwrap(),
        Err(_) => free_address(),
    };
    options.bind = Some(address);
    let node = Node::start(&options).unwrap();
    std::fs::write(&kept, address.to_string()).unwrap();
    writeln!(std::io::stdout(), "serving").unwrap();
    node.serve();
}

#[test]
fn whoever_is_killed_in_a_move_there_is_one_home() {
    if let Some(data) = env::var_os(CHILD_DATA) {
        return serve(&PathBuf::from(data));
    }
    // At the old home, and at the new one; and whether it has moved in the end.
    let cases = [
        ("frozen", "", false),
        ("sending", "", false),
        ("sent", "", false),
        ("decided", "", true),
        ("", "taking", false),
        ("", "taken", false),
        ("", "renamed", true),
        ("", "home", true),
    ];
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || kill_in_a_move(case));
        }
    });
}

fn kill_in_a_move((at_old, at_new, moved): (&str, &str, bool)) {
    let directory = tempfile::tempdir().unwrap();
    let (old_data, new_data) = (directory.path().join("o"), directory.path().join("n"));
    let mut old = Killable::start(&old_data, at_old);
    let mut new = Killable::start(&new_data, at_new);
    let Ok(Reply::Ticket(ticket)) = old.ask(&Request::Invite { valid_ms: 60_000 }) else {
        panic!("no ticket")
    };
    new.ask(&Request::Join { ticket }).unwrap();
    let to = new.status().id;
    let asked = std::thread::spawn({
        let data = old_data.clone();
        move || crate::ask(&data, &Request::RegistryMove { to })
    });
    // Both have to be up again for the end; the other one goes on meanwhile.
    if at_old.is_empty() {
        new.hears("stopped");
        drop(new);
        new = Killable::start(&new_data, "");
    } else {
        old.hears("stopped");
        drop(old);
        old = Killable::start(&old_data, "");
    }
    let _ = asked.join().unwrap();
    let expected = if moved { to } else { old.status().id };
    let settled = |node: &Killable| {
        let status = node.ask(&Request::RegistryStatus);
        matches!(status, Ok(Reply::RegistryStatus(status)) if status.home == expected)
            && node.status().home == expected
    };
    while !(settled(&old) && settled(&new)) {}
    // And it takes changes, from both.
    for node in [&old, &new] {
        let made = node.ask(&Request::Invite { valid_ms: 60_000 });
        assert!(
            matches!(made, Ok(Reply::Ticket(_))),
            "{at_old}{at_new}: {made:?}"
        );
    }
}

fn home(node: &Running) -> NodeId {
    match node.ask(&Request::Nodes) {
        Ok(Reply::Nodes(Nodes { this, .. })) => this.home,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_registry_moves_on_and_back_and_all_follow_even_if_the_old_home_is_gone() {
    let (one, two, three) = (
        Running::start("a"),
        Running::start("b"),
        Running::start("c"),
    );
    two.join(&one);
    three.join(&one);
    let ticket = one.invite();
    let mut home_now = &one;
    for next in [&two, &one, &three] {
        let moved = home_now.ask(&Request::RegistryMove { to: next.id });
        assert!(matches!(moved, Ok(Reply::Done)), "{moved:?}");
        home_now = next;
    }
    // A ticket that was made before all that is good.
    let late = Running::start("d");
    late.ask(&Request::Join { ticket }).unwrap();
    drop(one);
    for node in [&two, &three, &late] {
        while home(node) != three.id {}
        assert!(node.ask(&Request::Invite { valid_ms: 1000 }).is_ok());
    }
    let failure = two.refuses(&Request::RegistryMove { to: late.id });
    assert!(failure.message.contains("served by node c"), "{failure}");
    let failure = three.refuses(&Request::RegistryMove { to: three.id });
    assert!(failure.message.contains("already"), "{failure}");
    let nobody = NodeId::from_bytes([9; 32]);
    let failure = three.refuses(&Request::RegistryMove { to: nobody });
    assert!(failure.message.contains("no node"), "{failure}");
}

#[test]
fn a_member_can_neither_give_away_nor_take_what_it_does_not_serve() {
    let (one, two, three) = (
        Running::start("a"),
        Running::start("b"),
        Running::start("c"),
    );
    two.join(&one);
    three.join(&one);
    let key = NodeKey::load_or_make(&two.data().join("node.key")).unwrap();
    let ask = |node: &Running, request: &Request| {
        super::world::on_runtime(async {
            let peer = super::world::Peer::dial(node.address, node.id, &key).await;
            peer.ask(request).await
        })
    };
    let piece = crate::message::Piece {
        number: 1,
        total: 1,
        offset: 0,
        hash: [0; 32],
        bytes: vec![0],
    };
    let taken = ask(&three, &Request::RegistryTake(piece.clone()));
    assert!(
        matches!(taken, Some(Reply::Failed(failure)) if failure.kind == FailureKind::Forbidden)
    );
    let taken = ask(&one, &Request::RegistryTake(piece));
    assert!(
        matches!(taken, Some(Reply::Failed(failure)) if failure.kind == FailureKind::Forbidden)
    );
    // It says that it has the registry now, and signs that itself.
    let forged = Request::RegistryMoved(vec![Handover::sign(&key, two.id, 1)]);
    ask(&three, &forged);
    assert_eq!(home(&three), one.id);
}
