//! Peers that do not keep to the protocol: the node cuts them off and goes on.

use super::world::{Peer, Running, on_runtime};
use crate::identity::NodeKey;
use crate::limits::{REQUEST_BYTES_MAX, REQUESTS_MAX};
use crate::message::{FailureKind, Reply, Request};
use crate::wire;

fn is_refused(reply: Option<Reply>) -> bool {
    matches!(reply, Some(Reply::Failed(failure)) if failure.kind == FailureKind::Refused)
}

#[test]
fn frames_that_are_wrong_are_answered_or_cut_off() {
    let node = Running::start("n");
    on_runtime(async {
        let peer = Peer::dial(node.address, node.id, &NodeKey::random()).await;
        let whole = wire::encode(&Request::Status, REQUEST_BYTES_MAX).unwrap();
        let oversized = (REQUEST_BYTES_MAX as u32 + 1).to_le_bytes();
        assert!(is_refused(peer.send(&oversized, false).await));
        assert!(is_refused(peer.send(&u32::MAX.to_le_bytes(), false).await));
        assert!(is_refused(peer.send(&whole[..whole.len() - 1], true).await));
        assert!(is_refused(peer.send(&[], true).await));
        assert!(is_refused(peer.send(&[1, 0, 0, 0, 255], true).await));
        // A reply where a request should be, and a request twice: only the first is read.
        let reply = wire::encode(&Reply::Done, REQUEST_BYTES_MAX).unwrap();
        assert!(peer.send(&reply, true).await.is_some());
        let twice = peer.send(&[&whole[..], &whole].concat(), true).await;
        assert!(
            matches!(twice, Some(Reply::Failed(failure)) if failure.kind == FailureKind::Forbidden)
        );
        // Never ends: cut off by time.
        assert!(is_refused(peer.send(&[200, 0, 0, 0, 1, 2, 3], false).await));
    });
    node.is_well();
}

#[test]
fn a_connection_without_a_good_hello_is_closed() {
    let node = Running::start("n");
    on_runtime(async {
        let silent = Peer::silent(node.address, node.id, &NodeKey::random()).await;
        let early = Peer::silent(node.address, node.id, &NodeKey::random()).await;
        let request = wire::encode(&Request::Status, REQUEST_BYTES_MAX).unwrap();
        assert_eq!(early.send(&request, true).await.map(|_| ()), None);
        for peer in [silent, early] {
            assert!(peer.closed().await.contains("no hello"));
        }
    });
    node.is_well();
}

#[test]
fn a_peer_that_stops_reading_holds_up_nobody() {
    let node = Running::start("n");
    on_runtime(async {
        let peer = Peer::dial(node.address, node.id, &NodeKey::random()).await;
        let frame = wire::encode(&Request::Nodes, REQUEST_BYTES_MAX).unwrap();
        let mut unread = Vec::new();
        // As many as are let in beside the hello, and none of the answers is read.
        for _ in 1..REQUESTS_MAX {
            let (mut to, from) = peer.connection.open_bi().await.unwrap();
            to.write_all(&frame).await.unwrap();
            unread.push((to, from));
        }
        let other = Peer::dial(node.address, node.id, &NodeKey::random()).await;
        assert!(other.ask(&Request::Nodes).await.is_some());
    });
    node.is_well();
}

#[test]
fn noise_on_the_port_changes_nothing() {
    let node = Running::start("n");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in [0, 1, 20, 1200, 1472] {
        for byte in [0_u8, 0x40, 0xc0, 0xff] {
            socket.send_to(&vec![byte; length], node.address).unwrap();
        }
    }
    node.is_well();
}
