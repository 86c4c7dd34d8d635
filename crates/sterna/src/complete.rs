//! What a shell completes that only a node knows: names of processes and of nodes.
//!
//! A shell waits for it with the user, so a node that does not answer at once is not waited for, and where none runs
//! nothing is said.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use sterna_node::message::{Found, HostingReply, HostingRequest, Reply, Request};

use crate::node;

/// So long a user waits at most.
const WITHIN: Duration = Duration::from_millis(200);
/// Neither a name nor the beginning of an id: the node then says which names there are.
const NO_NAME: &str = " ";

/// Names of processes that live.
pub(crate) fn processes() -> ArgValueCompleter {
    ArgValueCompleter::new(|begun: &OsStr| {
        let text = NO_NAME.to_owned();
        let asked = ask(Request::Hosting(HostingRequest::Find { text }));
        match asked {
            Some(Reply::Hosting(HostingReply::Found(Found { names, .. }))) => fit(names, begun),
            _ => Vec::new(),
        }
    })
}

/// Names of the cluster's nodes.
pub(crate) fn nodes() -> ArgValueCompleter {
    ArgValueCompleter::new(|begun: &OsStr| match ask(Request::Nodes) {
        Some(Reply::Nodes(nodes)) => {
            let nodes = nodes.nodes.into_iter();
            fit(nodes.map(|seen| seen.member.about.name), begun)
        }
        _ => Vec::new(),
    })
}

fn fit(names: impl IntoIterator<Item = String>, begun: &OsStr) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy();
    let names = names.into_iter();
    let fit = names.filter(|name| name.starts_with(&*begun));
    fit.map(CompletionCandidate::new).collect()
}

fn ask(request: Request) -> Option<Reply> {
    let data = which()?;
    let (answer, answered) = mpsc::channel();
    // If it takes longer, it ends with the program.
    let asking = thread::Builder::new().name("complete".into());
    let asking = asking.spawn(move || answer.send(sterna_node::ask(&data, &request)));
    asking.ok()?;
    answered.recv_timeout(WITHIN).ok()?.ok()
}

/// The node that the command which is being completed would talk to.
fn which() -> Option<PathBuf> {
    let mut words = std::env::args_os().skip_while(|word| word != "--node");
    words
        .nth(1)
        .or_else(|| std::env::var_os("STERNA_NODE"))
        .map_or_else(|| node::default().ok(), |data| Some(data.into()))
}
