//! What an echo of 64 bytes costs a server, in processor time.

use anyhow::Result;

use crate::Plan;
use crate::load::Load;
use crate::peers::{Peer, Task, processor_time};
use crate::table::{Table, median};

/// Connections at once.
const CONNECTIONS: [usize; 2] = [64, 1000];
/// Requests before the ones that count.
const WARM_UP: usize = 5_000;

/// Microseconds of processor time for each request, kernel included; the server has one processor, the clients another.
pub(crate) fn measure(plan: &Plan) -> Result<Table> {
    let requests = if plan.quick { 20_000 } else { 60_000 };
    let peers = Peer::here(plan);
    let columns: Vec<_> = CONNECTIONS
        .iter()
        .map(|count| format!("µs at {count} connections"))
        .collect();
    let mut figures = vec![[const { Vec::new() }; CONNECTIONS.len()]; peers.len()];
    for _ in 0..plan.rounds {
        for (peer, figures) in peers.iter().zip(&mut figures) {
            for (connections, figures) in CONNECTIONS.into_iter().zip(figures) {
                figures.push(once(plan, peer, connections, requests)?);
            }
        }
    }
    let note =
        "Processor time of the server for each request of 64 bytes. The medians of the rounds.";
    let mut table = Table::new("Echo", note, &columns);
    for (peer, figures) in peers.iter().zip(figures) {
        table.row(peer.name, figures.map(median).to_vec());
    }
    Ok(table)
}

fn once(plan: &Plan, peer: &Peer, connections: usize, requests: usize) -> Result<f64> {
    let mut server = peer.start(plan, Task::Echo, connections, 1)?;
    let port = server.figure()?.unwrap_or_default() as u16;
    let id = server.child.id().to_string();
    let mut load = Load::new(port, connections)?;
    load.run(WARM_UP)?;
    let before = processor_time(&id);
    load.run(requests)?;
    let used = processor_time(&id) - before;
    drop(load);
    server.end()?;
    Ok(used / 1e3 / requests as f64)
}
