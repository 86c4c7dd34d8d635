//! A server that moves while clients write: [`Live`].

use anyhow::{Result, ensure};
use serde::Serialize;
use sterna_laboratory::clients::{Hop, Load, Pace, Tally, moves};
use sterna_migration::{Strategy, Travel};

use crate::command::stage::Stage;

/// Of the server's heap.
pub(super) const HEAP_MIB: u64 = 64;
pub(super) const CLIENTS: usize = 64;
/// Writes a second of all clients.
pub(super) const RATE: u32 = 1000;
/// Once round all nodes, twice.
const MOVES: usize = 6;
const PRE_COPY: Travel = Travel {
    strategy: Some(Strategy::PreCopy),
    downtime_max: None,
    rate_max: None,
    within: None,
};

/// What clients saw of moves.
#[derive(Debug, Serialize)]
pub(super) struct Live {
    pub(super) moves: Vec<LiveMove>,
    pub(super) requests: Tally,
}

/// One move.
#[derive(Debug, Serialize)]
pub(super) struct LiveMove {
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) rounds: usize,
    #[serde(flatten)]
    pub(super) seen: Hop,
}

/// Moves a server round the nodes while clients write, and checks each of their answers.
pub(super) fn play(stage: &Stage) -> Result<Live> {
    let mut server = stage.serve(HEAP_MIB)?;
    // Once to each node: there it is compiled then.
    let mut ways = Vec::new();
    let load = Load::begin(&server.orders(CLIENTS, Pace::Open(RATE.into())))?;
    for _ in 0..MOVES / 2 {
        server.hop(PRE_COPY)?;
    }
    load.take();
    let way = moves(&load, CLIENTS, MOVES, &mut || {
        let from = server.node();
        let (moved, end) = server.hop(PRE_COPY)?;
        let rounds = end.travelled.map_or(0, |one| one.rounds.len());
        ways.push((from, server.node(), rounds));
        anyhow::Ok(moved)
    })?;
    let requests = load.end();
    ensure!(
        requests.is_clean(),
        "{} requests of clients failed and {} answers were wrong while their server moved: this is a bug, please report \
         it ({})",
        requests.failed,
        requests.wrong,
        requests.first_fault.unwrap_or_default()
    );
    server.kill()?;
    let one = |((from, to, rounds), seen)| LiveMove {
        from,
        to,
        rounds,
        seen,
    };
    Ok(Live {
        moves: ways.into_iter().zip(way.hops).map(one).collect(),
        requests,
    })
}
