//! What fuzz targets start from: the samples that tests have, and requests.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Samples of what nodes and runners say, and the number by which the target `wire` knows their sort.
const WIRE: [(u8, &str); 8] = [
    (0, "node/src/tests/samples/requests-1.txt"),
    (1, "node/src/tests/samples/replies-1.txt"),
    (2, "node/src/tests/samples/orders-1.txt"),
    (3, "node/src/tests/samples/said-1.txt"),
    (5, "migration/tests/samples/messages-2.txt"),
    (5, "migration/tests/samples/messages-3.txt"),
    (6, "migration/tests/samples/records-1.txt"),
    (6, "migration/tests/samples/records-2.txt"),
];

/// The smallest programs, so that many are tried.
const PROGRAMS: [&str; 4] = ["spin.wasm", "idle.wasm", "fib.wasm", "echo.wasm"];

/// Requests to the file server.
const REQUESTS: [&str; 10] = [
    "GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "HEAD /d/b.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /d/ HTTP/1.1\r\nHost: x\r\n\r\nGET /d HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1,3-4\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: x\r\nRange: bytes=-3\r\nIf-Range: \"0\"\r\nIf-None-Match: *\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: x\r\nIf-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT\r\nIf-Match: \"0\"\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    "GET /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "GET /%2e%2e/d/%62.txt?q HTTP/1.1\r\nHost: [::1]:80\r\nAccept-Encoding: gzip\r\n\r\n",
];

/// Puts inputs into a target's corpus, under names by which they are there once.
pub(super) fn write(corpus: &Path, seeds: &[Vec<u8>]) -> Result<()> {
    fs::create_dir_all(corpus).with_context(|| format!("could not make {}", corpus.display()))?;
    for seed in seeds {
        let path = corpus.join(blake3::hash(seed).to_hex().as_str());
        fs::write(&path, seed).with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

pub(super) fn wire(root: &Path) -> Result<Vec<Vec<u8>>> {
    let mut seeds = Vec::new();
    for (sort, file) in WIRE {
        let path = root.join("crates").join(file);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("could not read {}", path.display()))?;
        for line in text.lines() {
            let bytes = line.split_whitespace().next_back().and_then(bytes);
            let mut seed = vec![sort];
            seed.extend(bytes.with_context(|| format!("{file} has no bytes in: {line}"))?);
            seeds.push(seed);
        }
    }
    Ok(seeds)
}

pub(super) fn files(_: &Path) -> Result<Vec<Vec<u8>>> {
    // Where the stream is cut is written before it: `1` and a length for each piece, and something even.
    let cuts: [&[u8]; 2] = [&[0], &[1, 3, 1, 17, 0]];
    let inputs = REQUESTS
        .iter()
        .flat_map(|request| cuts.map(|cuts| [cuts, request.as_bytes()].concat()));
    Ok(inputs.collect())
}

pub(super) fn image(root: &Path) -> Result<Vec<Vec<u8>>> {
    Ok(vec![read(
        &root.join("crates/process/tests/samples/v1.image"),
    )?])
}

pub(super) fn pass(root: &Path) -> Result<Vec<Vec<u8>>> {
    let folder = root.join("guests/wasm");
    PROGRAMS
        .map(|name| read(&folder.join(name)))
        .into_iter()
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("could not read {}", path.display()))
}

/// What two hexadecimal digits a byte stand for.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
