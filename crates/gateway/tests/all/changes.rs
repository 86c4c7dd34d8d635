//! Files that change while they are sent.

use std::fs::{self, File};

use sterna_gateway::files::Model;

use crate::world::{Server, pattern, tree, write};

/// More than sockets hold, so that the server is in the middle of it when the head has arrived.
const LENGTH: usize = 24 * 1024 * 1024;
const GET: &str = "GET /large HTTP/1.1\r\nHost: x\r\n\r\n";

/// The client is told by the end of the connection that it has not got what was announced.
pub(crate) fn truncated(model: Model) {
    let root = tree();
    let path = root.path().join("large");
    write(&path, &pattern(LENGTH));
    let server = Server::start(model, root.path(), |_| {});
    let mut client = server.connect();
    client.send(GET);
    let head = client.response(true);
    assert_eq!(head.field("Content-Length"), Some(&*LENGTH.to_string()));
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1000)
        .unwrap();
    assert!(client.rest().len() < LENGTH);
    assert_eq!(server.get("/large").body.len(), 1000, "the server goes on");
}

pub(crate) fn replaced(model: Model) {
    let root = tree();
    let path = root.path().join("large");
    let content = pattern(LENGTH);
    write(&path, &content);
    let server = Server::start(model, root.path(), |_| {});
    let mut client = server.connect();
    client.send(GET);
    let mut head = client.response(true);
    write(&root.path().join("new"), b"new");
    fs::rename(root.path().join("new"), &path).unwrap();
    client.send("GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    head.body = client.rest();
    assert!(head.body[..LENGTH] == content);
    assert!(head.body.ends_with(b"\r\n\r\nnew"));
}

pub(crate) fn grown(model: Model) {
    let root = tree();
    let path = root.path().join("large");
    let content = pattern(LENGTH);
    write(&path, &content);
    let server = Server::start(model, root.path(), |_| {});
    let mut client = server.connect();
    client.send("GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    client.response(true);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(2 * LENGTH as u64)
        .unwrap();
    assert!(client.rest() == content);
}
