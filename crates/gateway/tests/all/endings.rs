//! How a server ends.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use sterna_gateway::files::Model;

use crate::world::{PATIENCE, Server, pattern, tree, write};

const LENGTH: usize = 24 * 1024 * 1024;

/// What has begun is finished, idle connections end, no new ones are taken.
pub(crate) fn graceful(model: Model) {
    let root = tree();
    let content = pattern(LENGTH);
    write(&root.path().join("large"), &content);
    let server = Server::start(model, root.path(), |settings| {
        settings.limits.grace = PATIENCE
    });
    let (mut idle, mut busy) = (server.connect(), server.connect());
    idle.send("GET /ten HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(idle.response(false).status, 200);
    busy.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
    busy.response(true);
    let address = server.address;
    let ending = std::thread::spawn(move || server.end());
    // At the same time: a server of one thread sees the idle one when it is done with the other.
    let reading = std::thread::spawn(move || busy.rest());
    assert!(idle.rest().is_empty(), "the idle connection has ended");
    assert!(
        reading.join().unwrap() == content,
        "the other got everything"
    );
    let served = ending.join().unwrap();
    assert_eq!((served.requests, served.cut_off), (2, 0));
    assert!(
        TcpStream::connect(address).is_err(),
        "nobody listens any more"
    );
}

/// A request of which a part was there is answered.
pub(crate) fn half_sent(model: Model) {
    let root = tree();
    let server = Server::start(model, root.path(), |settings| {
        settings.limits.grace = PATIENCE
    });
    let mut client = server.connect();
    client.send("GET /ten HTTP/1.1\r\nHost: x\r\n\r\nGET /ten HTTP/1.1\r\n");
    assert_eq!(client.response(false).status, 200);
    // Whoever has answered the first has read the beginning of the second with it.
    server.stop.request();
    let address = server.address;
    let ending = std::thread::spawn(move || server.end());
    while TcpStream::connect(address).is_ok() {
        std::thread::yield_now();
    }
    client.send("Host: x\r\n\r\n");
    let response = client.response(false);
    assert_eq!(response.status, 200);
    // A process of its own may hear of the end only after that.
    if model != Model::Processes {
        assert_eq!(response.field("Connection"), Some("close"));
    }
    assert!(client.rest().is_empty(), "the connection has ended");
    assert_eq!(ending.join().unwrap().cut_off, 0);
}

pub(crate) fn forced(model: Model) {
    let root = tree();
    let log = root.path().join("log");
    write(&root.path().join("large"), &pattern(LENGTH));
    let grace = Duration::from_millis(200);
    let file = fs::File::create(&log).unwrap();
    let server = Server::with_log(model, root.path(), Some(file), |settings| {
        settings.limits.grace = grace
    });
    let mut client = server.connect();
    client.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
    client.response(true);
    let begun = Instant::now();
    let served = server.end();
    assert!(begun.elapsed() >= grace && begun.elapsed() < PATIENCE);
    assert_eq!(served.cut_off, 1);
    assert!(client.rest().len() < LENGTH);
    let log = fs::read_to_string(log).unwrap();
    let [line] = log.lines().collect::<Vec<_>>()[..] else {
        panic!("one request was made: {log:?}");
    };
    let (_, after) = line.split_once("\" 200 ").unwrap();
    let sent: usize = after.split(' ').next().unwrap().parse().unwrap();
    assert!(0 < sent && sent < LENGTH, "{line}");
}
