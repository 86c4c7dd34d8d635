//! Any bytes as the requests of a connection: what fuzzing and property tests check.
//!
//! However the network cuts a stream of bytes up, the answers are the same; the answers are well-formed; and what could
//! be read in two ways is refused.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::connection::{Connection, Step};
use super::settings::Settings;
use super::site::Site;
use super::stop::Stop;

/// Bytes of the files that are asked for.
const FILE: &[u8] = b"0123456789";

/// Answers to what is not understood to its end. (400 may also be about a path, which is.)
const REFUSALS: [u16; 8] = [405, 408, 413, 414, 417, 431, 501, 505];

/// A small site in a directory.
///
/// # Panics
/// The directory cannot be written to.
pub fn site(root: &Path) -> Arc<Site> {
    fs::create_dir_all(root.join("d")).expect("a directory");
    for name in ["a", "index.html", "d/b.txt"] {
        fs::write(root.join(name), FILE).expect("a file");
    }
    let mut settings = Settings::of(root);
    settings.listing = true;
    let stop = Stop::new().expect("a descriptor");
    Arc::new(Site::new(settings, None, stop).expect("the root"))
}

/// Gives `bytes` to a connection, whole and cut into pieces by `cuts`, and compares.
///
/// # Panics
/// The answers differ, are not well-formed, or go on after a refusal.
pub fn check(site: &Arc<Site>, bytes: &[u8], cuts: &[u8]) {
    let whole = answers(site, &[bytes]);
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for cut in cuts {
        let (piece, after) = rest.split_at(rest.len().min(usize::from(*cut) + 1));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    let cut = answers(site, &pieces);
    assert_eq!(
        String::from_utf8_lossy(&comparable(&whole)),
        String::from_utf8_lossy(&comparable(&cut)),
        "answers depend on how bytes arrive"
    );
}

fn answers(site: &Arc<Site>, pieces: &[&[u8]]) -> Vec<u8> {
    let now = Instant::now();
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut connection = Connection::new(Arc::clone(site), peer, now);
    let (mut pieces, mut output) = (pieces.iter().filter(|piece| !piece.is_empty()), Vec::new());
    loop {
        match connection.step() {
            Step::Receive => match pieces.next() {
                Some(piece) => connection.received(piece, now),
                None => connection.ended(),
            },
            Step::Find(inquiry) => {
                let answer = inquiry.make();
                connection.found(answer, now);
            }
            Step::Send(outgoing) => {
                let mut sent = outgoing.bytes.to_vec();
                if let Some((file, part)) = outgoing.file {
                    let start = sent.len();
                    sent.resize(start + part.length as usize, 0);
                    file.read_exact_at(&mut sent[start..], part.offset)
                        .expect("the file is as long as was said");
                }
                assert!(!sent.is_empty(), "a step without bytes makes no progress");
                output.extend_from_slice(&sent);
                connection.sent(sent.len() as u64, now);
            }
            Step::Finish => connection.finished(),
            Step::Reset => connection.gave_up(),
            Step::Close => return output,
        }
    }
}

/// Without the lines that tell the time, and without what a refusal at the end is called: of two things that are wrong
/// with a request, the one that has arrived is.
fn comparable(output: &[u8]) -> Vec<u8> {
    let output = &output[..check_form(output)];
    let lines = output.split_inclusive(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.starts_with(b"Date: "))
        .flatten()
        .copied()
        .collect()
}

/// A sequence of heads, with or without their bodies (`HEAD` gets none), and nothing after `Connection: close`. Returns
/// where a refusal begins, or the end.
fn check_form(output: &[u8]) -> usize {
    let mut rest = output;
    while !rest.is_empty() {
        let start = output.len() - rest.len();
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(rest) {
            Ok(httparse::Status::Complete(length)) => length,
            other => panic!("no head: {other:?} in {:?}", String::from_utf8_lossy(rest)),
        };
        let field = |name: &str| {
            let mut found = response.headers.iter().filter(|field| field.name == name);
            let value = found
                .next()
                .map(|field| String::from_utf8_lossy(field.value).into_owned());
            assert!(found.next().is_none(), "{name} twice");
            value
        };
        let (closes, body) = (field("Connection"), field("Content-Length"));
        let closes = closes.as_deref() == Some("close");
        let body = body.map_or(0, |length| length.parse::<usize>().expect("a length"));
        let status = response.code.expect("a status");
        rest = &rest[length..];
        let without_body = rest.is_empty() || rest.starts_with(b"HTTP/1.1 ");
        if !without_body {
            assert!(rest.len() >= body, "the body is cut");
            rest = &rest[body..];
        }
        if closes {
            assert!(rest.is_empty(), "something follows the end");
        }
        assert!(
            closes || !REFUSALS.contains(&status),
            "{status} must end the connection"
        );
        if closes && (status == 400 || REFUSALS.contains(&status)) {
            return start;
        }
    }
    output.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Requests made of words that mean something, which random bytes seldom are.
    fn requests() -> impl Strategy<Value = Vec<u8>> {
        let words = prop::sample::select(vec![
            "GET ",
            "HEAD ",
            "POST ",
            "/a",
            "/",
            "/d",
            "/d/",
            "/d/b.txt",
            "/%2e%2e/",
            "..",
            "%",
            " HTTP/1.1\r\n",
            " HTTP/1.0\r\n",
            " HTTP/1.1\n",
            "Host: x\r\n",
            "Host: y\r\n",
            "Content-Length: 5\r\n",
            "Content-Length: 0\r\n",
            "Content-Length : 3\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Range: bytes=0-1,3-4\r\n",
            "Range: bytes=-3\r\n",
            "If-None-Match: *\r\n",
            "Connection: close\r\n",
            "Connection: keep-alive\r\n",
            "Expect: 100-continue\r\n",
            "\r\n",
            "\n",
            "\r",
            " ",
            "\t",
            ":",
            "hello",
            "\0",
            "GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
        ]);
        prop::collection::vec(words, 0..24).prop_map(|words| words.concat().into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn answers_do_not_depend_on_how_bytes_arrive(
            bytes in requests(),
            cuts in prop::collection::vec(any::<u8>(), 0..16),
        ) {
            thread_local!(static SITE: (tempfile::TempDir, Arc<Site>) = {
                let folder = tempfile::tempdir().expect("a directory");
                let site = site(folder.path());
                (folder, site)
            });
            SITE.with(|(_, site)| check(site, &bytes, &cuts));
        }
    }
}
