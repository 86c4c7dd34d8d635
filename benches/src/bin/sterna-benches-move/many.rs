//! A node with many processes that do nothing: how quickly they start, and what commands take then.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use sterna_benches::measure::{median, ms, quantile};
use sterna_benches::table::{Cell, Table};
use sterna_node::message::{
    Belongings, HostingReply, HostingRequest, ProcessEntry, StartOrder, Where,
};

use crate::Plan;
use crate::cluster::{Cluster, Node};

/// Clients that start processes at once.
const CLIENTS: usize = 16;
/// Commands of each sort.
const COMMANDS: usize = 20;

pub(crate) fn measure(plan: &Plan) -> Result<Option<Table>> {
    let cluster = Cluster::start(plan, 1, None)?;
    let node = &cluster.nodes[0];
    let module = plan.root.join("guests/wasm/idle.wasm");
    let first = node.start_process(&["--name", "first", &module.to_string_lossy(), "sleep"])?;
    let entry = node.entry(first)?;
    eprintln!("{} processes: starting", plan.processes);
    let rate = start_all(node, &entry, plan.processes)?;
    let note = format!(
        "A node with {} processes that sleep, started one after the other by each of {CLIENTS} clients of its control \
         socket. Commands are timed from outside, their own start included: milliseconds.",
        plan.processes
    );
    let columns = ["figure", "median", "max", "wanted"];
    let mut table = Table::new("A crowded node", &note, &columns);
    table.row(
        "processes started a second",
        vec![Cell::Number(rate, 0), Cell::None, Cell::Number(2000.0, 0)],
    );
    let commands: [(&str, &[&str], f64); 5] = [
        ("sterna ps", &["ps"], 200.0),
        ("sterna logs first", &["logs", "first"], 50.0),
        ("sterna pause first", &["pause", "first"], 50.0),
        ("sterna resume first", &["resume", "first"], 50.0),
        ("sterna nodes", &["nodes"], 50.0),
    ];
    for (name, arguments, wanted) in commands {
        let times = time(node, arguments).with_context(|| name.to_owned())?;
        table.row(
            name,
            vec![
                Cell::Number(median(&times), 1),
                Cell::Number(quantile(&times, 1.0), 1),
                Cell::Number(wanted, 0),
            ],
        );
    }
    Ok(Some(table))
}

/// Starts so many more processes like one, and gives how many came a second.
fn start_all(node: &Node, like: &ProcessEntry, count: usize) -> Result<f64> {
    let order = StartOrder {
        place: Where::Here,
        name: None,
        program: like.info.program,
        kind: like.info.kind.clone(),
        file: like.info.file.clone(),
        arguments: like
            .info
            .arguments
            .iter()
            .map(|text| text.clone().into_bytes())
            .collect(),
        variables: Vec::new(),
        entry: None,
        belongings: Belongings::default(),
    };
    let next = AtomicUsize::new(0);
    let begin = Instant::now();
    let client = || {
        while next.fetch_add(1, Ordering::Relaxed) < count {
            let request = HostingRequest::Start(Box::new(order.clone()));
            match node.ask(request)? {
                HostingReply::Started { .. } => {}
                _ => return Err(anyhow!("the node answers another question")),
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let mut ended = clients.into_iter().map(|client| client.join());
        ended.try_for_each(|ended| ended.map_err(|_| anyhow!("a client failed"))?)
    })?;
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

fn time(node: &Node, arguments: &[&str]) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..COMMANDS {
        let begin = Instant::now();
        node.run(arguments)?;
        times.push(ms(begin.elapsed()));
    }
    Ok(times)
}
