//! Requests and the responses they must get.

use std::fs;
use std::io::{Read, Seek};
use std::time::Duration;

use sterna_gateway::files::{Model, Slowness};

use crate::world::{OLD, Response, Server, pattern, tree, write};

/// What a response must be.
struct Expected {
    status: u16,
    /// Fields that it must have.
    fields: &'static [(&'static str, &'static str)],
    body: Option<&'static str>,
}

const fn expected(
    status: u16,
    fields: &'static [(&'static str, &'static str)],
    body: &'static str,
) -> Expected {
    Expected {
        status,
        fields,
        body: Some(body),
    }
}

/// Whatever the words.
const fn status(status: u16) -> Expected {
    Expected {
        status,
        fields: &[],
        body: None,
    }
}

const TEN: &str = "0123456789";

/// Target, fields, and what comes of it; the method is `GET` unless the target names one.
const PLAIN: &[(&str, &str, Expected)] = &[
    (
        "/ten.txt",
        "",
        expected(
            200,
            &[
                ("Content-Length", "10"),
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Last-Modified", OLD),
                ("Accept-Ranges", "bytes"),
                ("X-Content-Type-Options", "nosniff"),
                ("Connection", "keep-alive"),
            ],
            TEN,
        ),
    ),
    (
        "/ten",
        "",
        expected(200, &[("Content-Type", "application/octet-stream")], TEN),
    ),
    ("http://x/ten", "", expected(200, &[], TEN)),
    ("/ten?query=/../..", "", expected(200, &[], TEN)),
    ("//ten", "", expected(200, &[], TEN)),
    ("/sub/../ten", "", expected(200, &[], TEN)),
    (
        "/nothing",
        "",
        expected(200, &[("Content-Length", "0")], ""),
    ),
    (
        "/",
        "",
        expected(
            200,
            &[("Content-Type", "text/html; charset=utf-8")],
            "<p>index",
        ),
    ),
    ("/sub/", "", expected(200, &[], "<p>sub")),
    (
        "/sub/a%20b.css",
        "",
        expected(200, &[("Content-Type", "text/css; charset=utf-8")], "a{}"),
    ),
    (
        "/sub/dir%20with%20space/%C3%A9.js",
        "",
        expected(200, &[], "1"),
    ),
    (
        "/sub",
        "",
        expected(301, &[("Location", "/sub/")], "See /sub/\n"),
    ),
    (
        "//sub?a=b",
        "",
        expected(301, &[("Location", "/sub/?a=b")], "See /sub/?a=b\n"),
    ),
    (
        "/sub/dir%20with%20space",
        "",
        expected(
            301,
            &[("Location", "/sub/dir%20with%20space/")],
            "See /sub/dir%20with%20space/\n",
        ),
    ),
    ("/link", "", expected(200, &[], TEN)),
    ("/ten/", "", status(404)),
    ("/ten/x", "", status(404)),
    (
        "/missing",
        "",
        expected(404, &[("Connection", "keep-alive")], "404 Not Found\n"),
    ),
    ("/empty/", "", status(403)),
    ("/.secret", "", status(404)),
    ("/out", "", status(404)),
    ("/up/passwd", "", status(404)),
    ("/loop", "", status(404)),
    ("/../../etc/passwd", "", status(400)),
    ("/%2e%2e/%2e%2e/etc/passwd", "", status(400)),
    ("/sub/..%2f..%2fetc/passwd", "", status(404)),
    ("/ten%00", "", status(400)),
    ("/%zz", "", status(400)),
    (
        "HEAD /ten.txt",
        "",
        expected(200, &[("Content-Length", "10")], ""),
    ),
    (
        "HEAD /missing",
        "",
        expected(404, &[("Content-Length", "14")], ""),
    ),
    (
        "HEAD /ten",
        "Range: bytes=0-1\r\n",
        expected(200, &[("Content-Length", "10")], ""),
    ),
    (
        "POST /ten",
        "Content-Length: 0\r\n",
        expected(
            405,
            &[("Allow", "GET, HEAD"), ("Connection", "close")],
            "405 Method Not Allowed\n",
        ),
    ),
    ("BREW /ten", "", status(501)),
    ("/ten", "Content-Length: 0\r\n", expected(200, &[], TEN)),
    (
        "/ten",
        "Connection: close\r\n",
        expected(200, &[("Connection", "close")], TEN),
    ),
];

const RANGES: &[(&str, &str, Expected)] = &[
    (
        "/ten",
        "Range: bytes=2-4\r\n",
        expected(
            206,
            &[("Content-Range", "bytes 2-4/10"), ("Content-Length", "3")],
            "234",
        ),
    ),
    (
        "/ten",
        "Range: bytes=7-\r\n",
        expected(206, &[("Content-Range", "bytes 7-9/10")], "789"),
    ),
    (
        "/ten",
        "Range: bytes=-2\r\n",
        expected(206, &[("Content-Range", "bytes 8-9/10")], "89"),
    ),
    (
        "/ten",
        "Range: bytes=5-99\r\n",
        expected(206, &[("Content-Range", "bytes 5-9/10")], "56789"),
    ),
    (
        "/ten",
        "Range: bytes=10-\r\n",
        expected(416, &[("Content-Range", "bytes */10")], "no such range\n"),
    ),
    (
        "/nothing",
        "Range: bytes=0-\r\n",
        expected(416, &[("Content-Range", "bytes */0")], "no such range\n"),
    ),
    ("/ten", "Range: bytes=4-2\r\n", expected(200, &[], TEN)),
    ("/ten", "Range: lines=1-2\r\n", expected(200, &[], TEN)),
    (
        "/ten",
        "Range: bytes=0-1\r\nRange: bytes=2-3\r\n",
        expected(200, &[], TEN),
    ),
    ("/ten", "Range: bytes=0-9,0-9\r\n", expected(200, &[], TEN)),
    (
        "/ten",
        "Range: bytes=1-2\r\nIf-Range: \"other\"\r\n",
        expected(200, &[], TEN),
    ),
    (
        "/ten",
        "Range: bytes=1-2\r\nIf-Range: Sun, 13 Sep 2020 12:26:40 GMT\r\n",
        expected(206, &[], "12"),
    ),
    (
        "/ten",
        "Range: bytes=1-2\r\nIf-Range: Sun, 13 Sep 2020 12:26:41 GMT\r\n",
        expected(200, &[], TEN),
    ),
];

const CONDITIONS: &[(&str, &str, Expected)] = &[
    (
        "/ten",
        "If-Modified-Since: Sun, 13 Sep 2020 12:26:40 GMT\r\n",
        expected(304, &[("Last-Modified", OLD)], ""),
    ),
    (
        "/ten",
        "If-Modified-Since: Sun, 13 Sep 2020 12:26:39 GMT\r\n",
        expected(200, &[], TEN),
    ),
    (
        "/ten",
        "If-Modified-Since: nonsense\r\n",
        expected(200, &[], TEN),
    ),
    ("/ten", "If-None-Match: *\r\n", expected(304, &[], "")),
    (
        "/ten",
        "If-None-Match: \"a\", \"b\"\r\n",
        expected(200, &[], TEN),
    ),
    (
        "/ten",
        "If-None-Match: \"a\"\r\nIf-Modified-Since: Sun, 13 Sep 2020 12:26:40 GMT\r\n",
        expected(200, &[], TEN),
    ),
    ("/ten", "If-Match: \"a\"\r\n", status(412)),
    ("/ten", "If-Match: *\r\n", expected(200, &[], TEN)),
    (
        "/ten",
        "If-Unmodified-Since: Sun, 13 Sep 2020 12:26:39 GMT\r\n",
        status(412),
    ),
    (
        "/ten",
        "If-Unmodified-Since: Sun, 13 Sep 2020 12:26:40 GMT\r\n",
        expected(200, &[], TEN),
    ),
    ("/missing", "If-None-Match: *\r\n", status(404)),
];

fn matches(what: &str, response: &Response, expected: &Expected) {
    assert_eq!(
        response.status, expected.status,
        "{what}: {}",
        response.head
    );
    for (name, value) in expected.fields {
        assert_eq!(
            response.field(name),
            Some(*value),
            "{what}: {}",
            response.head
        );
    }
    if let Some(body) = expected.body {
        assert_eq!(response.text(), body, "{what}");
    }
    assert!(response.field("Date").is_some(), "{what}: no date");
}

pub(crate) fn check(model: Model) {
    let root = tree();
    let server = Server::start(model, root.path(), |_| {});
    for (target, fields, expected) in PLAIN.iter().chain(RANGES).chain(CONDITIONS) {
        let line = match target.split_once(' ') {
            Some(_) => (*target).to_owned(),
            None => format!("GET {target}"),
        };
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        matches(&request, &server.ask(&request), expected);
    }
    by_tag(&server);
    several_ranges(&server);
    old_version(&server);
    listing(model);
    assert_eq!(server.end().cut_off, 0);
}

fn by_tag(server: &Server) {
    let first = server.get("/ten");
    let tag = first.field("ETag").unwrap().to_owned();
    let with = |fields: &str| server.ask(&format!("GET /ten HTTP/1.1\r\nHost: x\r\n{fields}\r\n"));
    let again = with(&format!("If-None-Match: \"x\", W/{tag}\r\n"));
    assert_eq!((again.status, again.field("ETag")), (304, Some(&*tag)));
    let part = with(&format!("Range: bytes=3-3\r\nIf-Range: {tag}\r\n"));
    assert_eq!((part.status, part.text()), (206, "3"));
    assert_eq!(with(&format!("If-Match: {tag}\r\n")).status, 200);
}

fn several_ranges(server: &Server) {
    let request = "GET /ten.txt HTTP/1.1\r\nHost: x\r\nRange: bytes=8-9, 0-2\r\n\r\n";
    let response = server.ask(request);
    assert_eq!(response.status, 206);
    let media = response.field("Content-Type").unwrap();
    let boundary = media
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let part = |range: &str, bytes: &str| {
        format!(
            "\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Range: bytes {range}/10\r\n\r\n{bytes}"
        )
    };
    let body = format!(
        "{}{}\r\n--{boundary}--\r\n",
        part("8-9", "89"),
        part("0-2", "012")
    );
    assert_eq!(response.text(), body);
}

fn old_version(server: &Server) {
    let mut client = server.connect();
    client.send("GET /ten HTTP/1.0\r\n\r\n");
    let rest = client.rest();
    assert!(rest.starts_with(b"HTTP/1.1 200 ") && rest.ends_with(b"\r\n\r\n0123456789"));
    let kept = server.ask("GET /ten HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(kept.field("Connection"), Some("keep-alive"));
}

fn listing(model: Model) {
    let root = tree();
    let server = Server::start(model, root.path(), |settings| {
        settings.listing = true;
        settings.hidden = true;
    });
    let page = server.get("/listed/");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("href=\"./one\"") && page.text().contains("href=\"../\""));
    assert_eq!(
        server.get("/").text(),
        "<p>index",
        "an index is better than a list"
    );
    assert_eq!(server.get("/.secret").text(), "secret");
}

pub(crate) fn pipelined(model: Model) {
    let root = tree();
    let server = Server::start(model, root.path(), |_| {});
    let mut client = server.connect();
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut requests = String::new();
    for number in 0..200 {
        match number % 4 {
            0 => requests += &get("/ten"),
            1 => requests += &get("/missing"),
            2 => requests += "HEAD /ten HTTP/1.1\r\nHost: x\r\n\r\n",
            _ => requests += "GET /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nGET",
        }
    }
    client.send(requests);
    for number in 0..200 {
        let (status, body) =
            [(200, TEN), (404, "404 Not Found\n"), (200, ""), (200, "")][number % 4];
        let response = client.response(number % 4 == 2);
        assert_eq!(
            (response.status, response.text()),
            (status, body),
            "response {number}"
        );
    }
    client.send("GET /ten HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /ten HTTP/1.1\r\n");
    let rest = String::from_utf8(client.rest()).unwrap();
    assert_eq!(
        rest.matches("HTTP/1.1").count(),
        1,
        "nothing after the end: {rest}"
    );
    assert_eq!(server.end().requests, 201);
}

pub(crate) fn large(model: Model) {
    let root = tree();
    let content = pattern(9_000_001);
    write(&root.path().join("large"), &content);
    let server = Server::start(model, root.path(), |_| {});
    let mut client = server.connect();
    for _ in 0..2 {
        client.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(client.response(false).body == content);
    }
    let request =
        "GET /large HTTP/1.1\r\nHost: x\r\nRange: bytes=1000000-1999999,5-5,8000000-\r\n\r\n";
    client.send(request);
    let body = client.response(false).body;
    // The heads of parts are short.
    let find = |from: usize, wanted: &[u8]| {
        let mut windows = body[from..from + 1000].windows(64);
        from + windows.position(|bytes| *bytes == wanted[..64]).unwrap()
    };
    let first = find(0, &content[1_000_000..]);
    assert!(body[first..first + 1_000_000] == content[1_000_000..2_000_000]);
    let last = find(first + 1_000_000, &content[8_000_000..]);
    assert!(body[last..last + 1_000_001] == content[8_000_000..]);
}

pub(crate) fn logged(model: Model) {
    let root = tree();
    let mut file = tempfile::tempfile().unwrap();
    let log = file.try_clone().unwrap();
    let server = Server::with_log(model, root.path(), Some(log), |_| {});
    server.ask("GET /ten?q=\"x\" HTTP/1.1\r\nHost: x\r\nUser-Agent: t\r\nReferer: r\r\n\r\n");
    server.get("/missing");
    server.ask("nonsense\r\n\r\n");
    server.end();
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    let mut lines: Vec<_> = text
        .lines()
        .map(|line| line.split_once("] ").unwrap().1)
        .collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "\"GET /missing HTTP/1.1\" 404 14 \"-\" \"-\"",
            "\"GET /ten?q=\\x22x\\x22 HTTP/1.1\" 200 10 \"r\" \"t\"",
            "\"nonsense\" 400 16 \"-\" \"-\"",
        ]
    );
}

pub(crate) fn slow_disk(model: Model) {
    let root = tree();
    let content = pattern(300_000);
    write(&root.path().join("large"), &content);
    for slowness in [Slowness::Injected(Duration::from_millis(1)), Slowness::Cold] {
        fs::File::open(root.path().join("large"))
            .unwrap()
            .sync_all()
            .unwrap();
        let server = Server::start(model, root.path(), |settings| settings.slowness = slowness);
        let mut client = server.connect();
        for _ in 0..3 {
            client
                .send("GET /large HTTP/1.1\r\nHost: x\r\n\r\nGET /ten HTTP/1.1\r\nHost: x\r\n\r\n");
            assert!(client.response(false).body == content);
            assert_eq!(client.response(false).text(), TEN);
        }
    }
}
