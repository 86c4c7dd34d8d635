//! Slow and greedy clients.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sterna_gateway::files::Model;

use crate::world::{Client, PATIENCE, Server, pattern, tree, write};

/// Long enough for an honest request on a busy machine, short enough for a test.
const SHORT: Duration = Duration::from_millis(400);

/// A client that sends a byte at a time, and never comes to an end, is told so; others are served meanwhile.
pub(crate) fn slow_head(model: Model) {
    let root = tree();
    let server = Server::start(model, root.path(), |settings| {
        settings.limits.head_time = SHORT
    });
    let mut slow = server.connect();
    slow.send("GET /ten HTTP/1.1\r\n");
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(server.get("/ten").status, 200);
        slow.send("A");
    }
    let rest = String::from_utf8(slow.rest()).unwrap();
    assert!(rest.starts_with("HTTP/1.1 408 "), "{rest}");
    assert!(begun.elapsed() >= SHORT / 2 && begun.elapsed() < PATIENCE);
}

pub(crate) fn idle(model: Model) {
    let root = tree();
    let server = Server::start(model, root.path(), |settings| {
        settings.limits.idle_time = SHORT
    });
    let (mut fresh, mut used) = (server.connect(), server.connect());
    used.send("GET /ten HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(used.response(false).status, 200);
    // Both see an end, and no word.
    assert_eq!((fresh.rest(), used.rest()), (Vec::new(), Vec::new()));
}

/// A client that asks for much and takes nothing.
pub(crate) fn stalled(model: Model) {
    let root = tree();
    let length = 24 * 1024 * 1024;
    write(&root.path().join("large"), &pattern(length));
    let server = Server::start(model, root.path(), |settings| {
        settings.limits.stall_time = SHORT;
        settings.limits.rate_min = 32 * 1024 * 1024;
    });
    let mut client = server.connect();
    client.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
    let begun = Instant::now();
    // The reset is seen whatever else waits to be read.
    let mut polled = [PollFd::new(&client.stream, PollFlags::RDHUP)];
    poll(&mut polled, Some(&PATIENCE.try_into().unwrap())).unwrap();
    assert_eq!(server.get("/ten").status, 200);
    assert!(client.rest().len() < length, "it was cut off");
    assert!(begun.elapsed() < PATIENCE);
}

/// A client that takes a large file slowly, but takes it, as one on a poor line does: it gets all, although what it takes
/// within a stall is far less than what the kernel holds for it.
pub(crate) fn slow_body(model: Model) {
    const STALL: Duration = Duration::from_millis(600);
    const BYTES_PER_SECOND: usize = 1024 * 1024;
    let root = tree();
    let content = pattern(24 * 1024 * 1024);
    write(&root.path().join("large"), &content);
    let server = Server::start(model, root.path(), |settings| {
        settings.limits.stall_time = STALL;
        settings.limits.rate_min = BYTES_PER_SECOND as u64 / 4;
    });
    let mut client = server.connect();
    client.send("GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    client.response(true);
    let begun = Instant::now();
    let mut taken = 0;
    while begun.elapsed() < STALL * 4 {
        // Time itself is what is tested.
        let due = Duration::from_secs_f64(taken as f64 / BYTES_PER_SECOND as f64);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        taken += client.take();
    }
    assert!(client.rest() == content, "it was cut off");
}

pub(crate) fn full(model: Model) {
    const ROOM: usize = 4;
    let root = tree();
    let server = Server::start(model, root.path(), |settings| {
        settings.limits.connections = ROOM
    });
    let (mut inside, mut refused) = (Vec::new(), 0);
    for _ in 0..4 * ROOM {
        let mut client = server.connect();
        client.send("GET /ten HTTP/1.1\r\nHost: x\r\n\r\n");
        match client.response(false).status {
            200 => inside.push(client),
            503 => refused += 1,
            other => panic!("{other}"),
        }
    }
    // Several processes have the room of one.
    assert_eq!((inside.len(), refused), (ROOM, 3 * ROOM));
    // Who is inside is served as ever, and who leaves makes room.
    inside[0].send("GET /ten HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(inside[0].response(false).status, 200);
    drop(inside);
    let begun = Instant::now();
    while server.get("/ten").status != 200 {
        assert!(begun.elapsed() < PATIENCE, "there is room again");
    }
}

/// Thousands of connections that do nothing, and among them one that wants something.
pub(crate) fn slow_clients_hold_up_nobody(model: Model) {
    // Threads of the kernel are dearer, and take this machine longer to start.
    let count = if model == Model::ThreadPerConnection {
        1000
    } else {
        4000
    };
    let Some(descriptors) = descriptors(2 * count + 500) else {
        return;
    };
    assert!(descriptors >= 2 * count as u64);
    let root = tree();
    let server = Server::start(model, root.path(), |_| {});
    let idle: Vec<_> = (0..count).map(|_| server.connect()).collect();
    let served = |mut client: Client| {
        client.send("GET /ten HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert_eq!(client.response(false).text(), "0123456789");
    };
    served(server.connect());
    let mut idle = idle.into_iter();
    served(idle.next_back().unwrap());
    served(idle.next().unwrap());
    drop(idle);
    assert!(server.end().connections >= count as u64);
}

/// Raises the limit of descriptors of this process. `None`, and a word, if that is not allowed.
fn descriptors(wanted: usize) -> Option<u64> {
    let wanted = wanted as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Some(u64::MAX);
    }
    let raised = Rlimit {
        current: Some(wanted.max(limit.current.unwrap_or(0))),
        maximum: limit.maximum.map(|maximum| maximum.max(wanted)),
    };
    if setrlimit(Resource::Nofile, raised).is_err() {
        println!("SKIPPED: {wanted} descriptors are not allowed here");
        return None;
    }
    Some(wanted)
}

/// A server without descriptors turns connections away instead of spinning or dying, and goes on when there are some.
///
/// In a process of its own, since the limit is one of processes.
#[test]
fn descriptors_run_out_and_come_back() {
    let root = tree();
    let program = env!("CARGO_BIN_EXE_sterna-gateway-role");
    let server = crate::world::Process::start(program, root.path(), 64);
    let connect = || TcpStream::connect(server.address).map(Client::new);
    let mut clients = Vec::new();
    let mut turned_away = 0;
    while turned_away < 20 && clients.len() < 500 {
        let Ok(mut client) = connect() else { continue };
        client.send("GET /ten HTTP/1.1\r\nHost: x\r\n\r\n");
        match client.try_response() {
            Some(response) if response.status == 200 => clients.push(client),
            // No descriptor for the file.
            Some(response) => {
                assert_eq!(response.status, 503);
                clients.push(client);
                turned_away += 1;
            }
            None => turned_away += 1,
        }
    }
    assert!(
        turned_away >= 20 && clients.len() >= 16,
        "{} connections",
        clients.len()
    );
    drop(clients);
    let begun = Instant::now();
    loop {
        let mut client = connect().unwrap();
        client.send("GET /ten HTTP/1.1\r\nHost: x\r\n\r\n");
        if client
            .try_response()
            .is_some_and(|response| response.status == 200)
        {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it never recovered");
    }
    server.end();
}
