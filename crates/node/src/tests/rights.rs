//! Who may do what: strangers, members, removed nodes, and those who have somebody's ticket.

use quinn::{Endpoint, ServerConfig};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::world::{Peer, Running, about, hello, on_runtime, stolen};
use crate::identity::{NodeId, NodeKey};
use crate::limits::{FRAME_WITHIN, REQUEST_BYTES_MAX};
use crate::message::{FailureKind, RegistryRequest, Reply, Request, TicketText};
use crate::ticket::{Secret, Ticket};
use crate::tls;
use crate::wire::{self, VERSIONS};

fn failed(reply: Option<Reply>) -> Option<FailureKind> {
    match reply? {
        Reply::Failed(failure) => Some(failure.kind),
        _ => None,
    }
}

fn admission(secret: Secret) -> Request {
    Request::Admit {
        secret,
        candidate: about("thief"),
    }
}

/// Asks a node on behalf of a key.
fn as_key(key: &NodeKey, node: &Running, request: &Request) -> Option<Reply> {
    on_runtime(async {
        Peer::dial(node.address, node.id, key)
            .await
            .ask(request)
            .await
    })
}

#[test]
fn nodes_join_and_see_each_other_under_names_of_their_own() {
    let (one, two, three) = (
        Running::start("n"),
        Running::start("n"),
        Running::start("m"),
    );
    assert_eq!(two.join(&one).members.len(), 2);
    // Through a node that does not serve the registry.
    assert_eq!(three.join(&two).members.len(), 3);
    assert_eq!(three.names(), ["m", "n", "n-2"]);
}

#[test]
fn strangers_may_ask_for_nothing_but_to_be_admitted() {
    let node = Running::start("n");
    let key = NodeKey::random();
    let requests = [
        Request::Status,
        Request::Nodes,
        Request::Invite { valid_ms: 1000 },
        Request::Join {
            ticket: node.invite(),
        },
        Request::Remove { node: node.id },
        Request::Stop {
            remains: crate::message::Remains::Left,
        },
        Request::Registry(RegistryRequest::Roster { after: 0 }),
        Request::Registry(RegistryRequest::Remove { node: node.id }),
    ];
    for request in requests {
        let reply = as_key(&key, &node, &request);
        assert_eq!(failed(reply), Some(FailureKind::Forbidden), "{request:?}");
    }
    let reply = as_key(&key, &node, &admission(Secret::random()));
    assert_eq!(failed(reply), Some(FailureKind::Ticket));
    node.is_well();
}

#[test]
fn a_ticket_is_good_once_and_the_thief_is_named() {
    let (node, late) = (Running::start("n"), Running::start("late"));
    let ticket = node.invite();
    let (thief, other) = (NodeKey::random(), NodeKey::random());
    let secret = stolen(&ticket).secret;
    assert!(matches!(
        as_key(&thief, &node, &admission(secret.clone())),
        Some(Reply::Roster(_))
    ));
    // Again by the same key: its first answer may have been lost. By any other: no.
    assert!(matches!(
        as_key(&thief, &node, &admission(secret.clone())),
        Some(Reply::Roster(_))
    ));
    let reply = as_key(&other, &node, &admission(secret));
    assert_eq!(failed(reply), Some(FailureKind::Ticket));
    let failure = late.refuses(&Request::Join { ticket });
    assert_eq!(failure.kind, FailureKind::Ticket);
    assert!(
        failure.message.contains(&thief.id().to_string()),
        "{failure}"
    );
    assert_eq!(late.names(), ["late"]);
}

#[test]
fn members_have_no_rights_of_the_users_of_other_machines() {
    let (one, two) = (Running::start("n"), Running::start("m"));
    let key = NodeKey::load_or_make(&two.data().join("node.key")).unwrap();
    two.join(&one);
    for request in [
        Request::Stop {
            remains: crate::message::Remains::Left,
        },
        Request::Invite { valid_ms: 1000 },
        Request::Remove { node: one.id },
        Request::Join {
            ticket: one.invite(),
        },
    ] {
        let reply = as_key(&key, &one, &request);
        assert_eq!(failed(reply), Some(FailureKind::Forbidden), "{request:?}");
    }
    // Nor is a member that serves no registry asked for it.
    let first = NodeKey::load_or_make(&one.data().join("node.key")).unwrap();
    let reply = as_key(
        &first,
        &two,
        &Request::Registry(RegistryRequest::Roster { after: 0 }),
    );
    assert_eq!(failed(reply), Some(FailureKind::Refused));
}

#[test]
fn a_removed_node_is_nobody_with_a_ticket_or_without() {
    let node = Running::start("n");
    let key = NodeKey::random();
    let secret = || stolen(&node.invite()).secret;
    on_runtime(async {
        let peer = Peer::dial(node.address, node.id, &key).await;
        assert!(peer.ask(&admission(secret())).await.is_some());
        assert!(matches!(
            peer.ask(&Request::Status).await,
            Some(Reply::Status(_))
        ));
        node.ask(&Request::Remove { node: key.id() }).unwrap();
        // On the connection that it had, as soon as the node has taken notice.
        while failed(peer.ask(&Request::Status).await) != Some(FailureKind::Removed) {}
    });
    let reply = as_key(&key, &node, &admission(secret()));
    assert_eq!(failed(reply), Some(FailureKind::Removed));
    assert_eq!(node.names(), ["n"]);
    let failure = node.refuses(&Request::Remove { node: node.id });
    assert!(failure.message.contains("itself"), "{failure}");
}

#[test]
fn joining_what_makes_no_sense_is_refused() {
    let (one, two, third) = (
        Running::start("n"),
        Running::start("m"),
        Running::start("o"),
    );
    let join = |ticket| Request::Join { ticket };
    assert!(one.refuses(&join(one.invite())).message.contains("itself"));
    two.join(&one);
    assert!(two.refuses(&join(one.invite())).message.contains("already"));
    assert!(
        one.refuses(&join(third.invite()))
            .message
            .contains("cluster of 2")
    );
    let garbled = TicketText(third.invite().0.replace('a', "b") + "0");
    let failure = third.refuses(&join(garbled));
    assert_eq!(failure.kind, FailureKind::Ticket);
    let gone = {
        let short_lived = Running::start("x");
        short_lived.invite()
    };
    assert_eq!(third.refuses(&join(gone)).kind, FailureKind::Unreachable);
}

#[test]
fn a_ticket_is_shown_to_the_node_that_made_it_only() {
    let (node, joiner) = (Running::start("n"), Running::start("j"));
    let forged = Ticket {
        node: NodeKey::random().id(),
        ..stolen(&node.invite())
    };
    let failure = joiner.refuses(&Request::Join {
        ticket: forged.text(),
    });
    assert_eq!(failure.kind, FailureKind::Ticket);
    assert!(failure.message.contains("another node"), "{failure}");
    assert!(failure.message.contains(&node.id.to_string()), "{failure}");
}

/// A node with a clock of its own, which counts as an attack if it is shown a ticket.
async fn wrong_clock(endpoint: Endpoint) {
    let connection = endpoint.accept().await.unwrap().await.unwrap();
    let (mut to, mut from) = connection.accept_bi().await.unwrap();
    let yesterday = hello(|hello| hello.now_ms -= 86_400_000);
    to.write_all(&yesterday).await.unwrap();
    wire::greet(&mut from, &mut tokio::io::sink(), &VERSIONS, FRAME_WITHIN)
        .await
        .unwrap();
    while let Ok((mut to, mut from)) = connection.accept_bi().await {
        let request: Request = wire::receive(&mut from, REQUEST_BYTES_MAX, FRAME_WITHIN)
            .await
            .unwrap();
        assert!(matches!(request, Request::Status), "{request:?}");
        wire::send(&mut to, &Reply::Done, REQUEST_BYTES_MAX, FRAME_WITHIN)
            .await
            .unwrap();
        let _ = to.finish();
    }
}

#[test]
fn a_clock_that_is_far_off_is_noticed_before_the_ticket_is_shown() {
    let joiner = Running::start("j");
    let key = NodeKey::random();
    on_runtime(async {
        let config = ServerConfig::with_crypto(Arc::new(tls::server(&key)));
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let ticket = Ticket {
            node: key.id(),
            addresses: vec![endpoint.local_addr().unwrap()],
            secret: Secret::random(),
        };
        let request = Request::Join {
            ticket: ticket.text(),
        };
        let served = tokio::spawn(wrong_clock(endpoint));
        let data = joiner.data();
        let asked = tokio::task::spawn_blocking(move || crate::ask(&data, &request));
        let error = asked.await.unwrap().unwrap_err().to_string();
        assert!(
            error.contains("clock") && error.contains("ahead of"),
            "{error}"
        );
        drop(joiner);
        served.await.unwrap();
    });
}

#[test]
fn what_a_candidate_says_of_itself_is_checked() {
    let node = Running::start("n");
    for name in ["", "a b", "x\u{1b}[2J", "a/b", &"x".repeat(65)] {
        let request = Request::Admit {
            secret: stolen(&node.invite()).secret,
            candidate: about(name),
        };
        let reply = as_key(&NodeKey::random(), &node, &request);
        assert_eq!(failed(reply), Some(FailureKind::Refused), "{name:?}");
    }
    let nobody = NodeId::from_bytes([1; 32]);
    assert!(
        node.refuses(&Request::Remove { node: nobody })
            .message
            .contains("no node")
    );
}
