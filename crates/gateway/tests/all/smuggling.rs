//! Requests that different servers read differently: after the techniques of Linhart, Klein, Heled and Orrin (2005), of
//! Kettle's "HTTP Desync Attacks" (2019) and its successors, and of the security sections of RFC 9112.
//!
//! Each must be answered once, with a refusal, and end the connection: what follows is never taken for a request.

use sterna_gateway::files::Model;

use crate::world::{Server, tree};

/// What is hidden behind each.
const HIDDEN: &str = "GET /ten HTTP/1.1\r\nHost: x\r\n\r\n";

/// Name, bytes, and the status that is due.
const CORPUS: &[(&str, &str, u16)] = &[
    (
        "CL.TE",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        400,
    ),
    (
        "TE.CL",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\nA\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST CL.TE",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunked",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "coding twice",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        501,
    ),
    (
        "coding unknown",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
        501,
    ),
    (
        "coding in quotes",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \"chunked\"\r\nContent-Length: 1\r\n\r\n",
        400,
    ),
    (
        "coding empty",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\nContent-Length: 1\r\n\r\n",
        400,
    ),
    (
        "coding with tab",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\tchunked\r\nContent-Length: 1\r\n\r\n",
        400,
    ),
    (
        "coding, space before colon",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n",
        400,
    ),
    (
        "coding, underscore",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer_Encoding: chunked\r\n\r\n",
        400,
    ),
    (
        "coding folded",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
        400,
    ),
    (
        "coding, vertical tab",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\nContent-Length: 1\r\n\r\n",
        400,
    ),
    (
        "coding in 1.0",
        "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    (
        "length twice, different",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 30\r\n\r\n",
        400,
    ),
    (
        "length twice, equal",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        400,
    ),
    (
        "length as a list",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 0\r\n\r\n",
        400,
    ),
    (
        "length with sign",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n",
        400,
    ),
    (
        "length negative",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        400,
    ),
    (
        "length in hex",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x0\r\n\r\n",
        400,
    ),
    (
        "length empty",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n",
        400,
    ),
    (
        "length with a word",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0 a\r\n\r\n",
        400,
    ),
    (
        "length in other digits",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: \u{0660}\r\n\r\n",
        400,
    ),
    (
        "length beyond all bounds",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551617\r\n\r\n",
        413,
    ),
    (
        "length, space before colon",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length : 0\r\n\r\n",
        400,
    ),
    (
        "length, underscore",
        "GET / HTTP/1.1\r\nHost: x\r\nContent_Length: 0\r\n\r\n",
        400,
    ),
    (
        "length after a zero byte",
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\0\r\nContent-Length: 0\r\n\r\n",
        400,
    ),
    (
        "waits for a go-ahead",
        "GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        417,
    ),
    ("bare LF", "GET / HTTP/1.1\nHost: x\n\n", 400),
    (
        "bare LF in fields",
        "GET / HTTP/1.1\r\nHost: x\nContent-Length: 0\r\n\r\n",
        400,
    ),
    ("bare LF at the end", "GET / HTTP/1.1\r\nHost: x\r\n\n", 400),
    (
        "bare CR",
        "GET / HTTP/1.1\r\nHost: x\rContent-Length: 0\r\n\r\n",
        400,
    ),
    (
        "bare CR in the first line",
        "GET /\rHTTP/1.1\r\nHost: x\r\n\r\n",
        400,
    ),
    ("CR CR LF", "GET / HTTP/1.1\r\nHost: x\r\r\n\r\n", 400),
    (
        "folded line",
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
        400,
    ),
    (
        "first field folded",
        "GET / HTTP/1.1\r\n Host: x\r\n\r\n",
        400,
    ),
    (
        "field without colon",
        "GET / HTTP/1.1\r\nHost: x\r\nHidden\r\n\r\n",
        400,
    ),
    (
        "field without name",
        "GET / HTTP/1.1\r\nHost: x\r\n: a\r\n\r\n",
        400,
    ),
    (
        "name with a space",
        "GET / HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n",
        400,
    ),
    ("no host", "GET / HTTP/1.1\r\n\r\n", 400),
    (
        "two hosts",
        "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        400,
    ),
    (
        "host with a path",
        "GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
        400,
    ),
    (
        "host with a space",
        "GET / HTTP/1.1\r\nHost: x y\r\n\r\n",
        400,
    ),
    ("no version", "GET /\r\n\r\n", 400),
    ("version 0.9", "GET / HTTP/0.9\r\n\r\n", 505),
    ("version 1.2", "GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
    ("version 2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (
        "version in small letters",
        "GET / http/1.1\r\nHost: x\r\n\r\n",
        505,
    ),
    ("two spaces", "GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("tab for a space", "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (
        "space in the target",
        "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        505,
    ),
    (
        "zero byte in the target",
        "GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
    ),
    (
        "target without slash",
        "GET ten HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
    ),
    ("asterisk", "GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("connect", "CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    (
        "another protocol",
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n\r\n",
        400,
    ),
];

pub(crate) fn check(model: Model) {
    let root = tree();
    let server = Server::start(model, root.path(), |_| {});
    for (name, bytes, status) in CORPUS {
        let mut client = server.connect();
        client.send(bytes);
        client.send(HIDDEN);
        let rest = client.rest();
        let text = String::from_utf8_lossy(&rest);
        assert!(
            text.starts_with(&format!("HTTP/1.1 {status} ")),
            "{name}: {text}"
        );
        assert!(text.contains("\r\nConnection: close\r\n"), "{name}: {text}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{name}: {text}");
    }
    // A body that is framed beyond doubt is thrown away, and is no request.
    let mut client = server.connect();
    let body = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{HIDDEN}",
        HIDDEN.len()
    );
    client.send(body);
    assert_eq!(client.response(false).text(), "<p>index");
    client.send("GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response(false).text(), "");
    assert!(client.rest().is_empty());
}
