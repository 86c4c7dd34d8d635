//! Memory of connections that do nothing: fresh ones, and ones that have had an answer before.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use anyhow::{Context, Result};
use sterna_gateway::compare::subject::usage;
use sterna_gateway::files::Model;

use crate::nginx::Nginx;
use crate::start;

const REQUEST: &[u8] = b"GET /4k HTTP/1.1\r\nHost: x\r\n\r\n";
const BODY_BYTES: usize = 4 * 1024;

/// What a server takes, in KiB.
pub(crate) struct Held {
    name: String,
    alone: u64,
    fresh: u64,
    used: u64,
}

pub(crate) fn measured(
    program: &Path,
    root: &Path,
    models: &[Model],
    nginx: &Nginx,
    count: usize,
) -> Result<Vec<Held>> {
    let mut all = vec![held("nginx", nginx.address(), nginx.process(), count)?];
    for &model in models {
        let subject = start(program, root, model)?;
        let (address, process) = (subject.address(), subject.process());
        all.push(held(model.name(), address, process, count)?);
    }
    Ok(all)
}

fn held(name: &str, address: SocketAddr, process: u32, count: usize) -> Result<Held> {
    let memory = || Ok::<_, anyhow::Error>(usage(process)?.memory_kib);
    let alone = memory()?;
    let connect = || TcpStream::connect(address);
    let mut connections = (0..count)
        .map(|_| connect())
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("could not make {count} connections (see ulimit -n)"))?;
    // The last one is served, so all before it are in.
    if let Some(last) = connections.last_mut() {
        ask(last)?;
    }
    let fresh = memory()?;
    for connection in &mut connections {
        ask(connection)?;
    }
    Ok(Held {
        name: name.to_owned(),
        alone,
        fresh,
        used: memory()?,
    })
}

fn ask(connection: &mut TcpStream) -> Result<()> {
    connection.write_all(REQUEST)?;
    let (mut buffer, mut answer) = ([0; 8192], Vec::new());
    loop {
        let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        if head.is_some_and(|head| answer.len() >= head + 4 + BODY_BYTES) {
            return Ok(());
        }
        let count = connection.read(&mut buffer)?;
        anyhow::ensure!(count > 0, "the server ended a connection");
        answer.extend_from_slice(&buffer[..count]);
    }
}

pub(crate) fn table(all: &[Held], count: usize) -> String {
    let mut text = format!(
        "### {count} idle connections\n\n| | MiB without | fresh | after an answer each |\n|---|---:|---:|---:|\n"
    );
    for held in all {
        let mib = |kib: u64| kib as f64 / 1024.0;
        text += &format!(
            "| {} | {:.1} | {:.1} | {:.1} |\n",
            held.name,
            mib(held.alone),
            mib(held.fresh),
            mib(held.used)
        );
    }
    text
}

pub(crate) fn json(all: &[Held]) -> Vec<serde_json::Value> {
    let one = |held: &Held| {
        serde_json::json!({
            "server": held.name,
            "alone_kib": held.alone,
            "fresh_kib": held.fresh,
            "used_kib": held.used,
        })
    };
    all.iter().map(one).collect()
}
