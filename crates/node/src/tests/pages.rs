//! Lists that are longer than an answer.

use sterna_process::ProcessId;

use super::broken::Host;
use super::world::{info, on_runtime};
use crate::AskError;
use crate::limits::REPLY_BYTES_MAX;
use crate::message::{HostingReply, HostingRequest, RegistryRequest, Reply, Request};

/// Bytes of the arguments of each process, and how many there are.
const LONG: usize = 16_000;
const MANY: usize = REPLY_BYTES_MAX / LONG + 50;

#[test]
fn more_processes_than_an_answer_has_room_for_are_listed_in_pages() {
    let host = Host::new();
    let mut all: Vec<ProcessId> = (0..MANY).map(|_| ProcessId::random()).collect();
    on_runtime(async {
        let peer = host.dial().await;
        for process in &all {
            let mut info = info(host.member.id(), None);
            info.arguments = vec!["a".repeat(LONG)];
            let created = RegistryRequest::CreateRecord {
                process: *process,
                info: Box::new(info),
            };
            let created = peer.ask(&Request::Registry(created)).await;
            assert!(
                matches!(created, Some(Reply::Record(Some(_)))),
                "{created:?}"
            );
        }
    });
    // Who asks for all at once hears why there is no answer.
    let whole = Request::Hosting(HostingRequest::List { ended: false });
    match host.node.ask(&whole) {
        Err(AskError::Failed(failure)) => {
            assert!(failure.message.contains("too long"), "{failure}");
        }
        other => panic!("{other:?}"),
    }
    let (mut found, mut pages, mut after) = (Vec::new(), 0, None);
    loop {
        let request = HostingRequest::ListPage {
            ended: false,
            after,
        };
        let reply = host.node.ask(&Request::Hosting(request));
        let Ok(Reply::Hosting(HostingReply::ListedPage { listed, next })) = reply else {
            panic!("{reply:?}");
        };
        found.extend(listed.iter().map(|one| one.entry.process));
        (pages, after) = (pages + 1, next);
        if after.is_none() {
            break;
        }
    }
    all.sort();
    assert!(pages > 1);
    assert_eq!(found, all);
}
