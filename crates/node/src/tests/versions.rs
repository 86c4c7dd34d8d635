//! Nodes of other versions: the one before is understood, others hear what to do.

use super::world::{Peer, Running, hello, on_runtime};
use crate::identity::NodeKey;
use crate::limits::HELLO_WITHIN;
use crate::message::{FailureKind, Request};
use crate::wire::{self, VERSIONS, Versions};

fn speaking(name: &str, version: u16) -> Running {
    Running::start_with(name, |options| {
        options.versions = Versions::only(version).unwrap();
    })
}

/// The three nodes of an upgrade that is half done.
#[test]
fn a_cluster_of_both_versions_is_one() {
    let (oldest, newest) = VERSIONS.into_inner();
    assert_eq!(newest - oldest, 1, "the newest and the one before");
    let home = Running::start("home");
    let (old, new) = (speaking("old", oldest), speaking("new", newest));
    old.join(&home);
    new.join(&home);
    assert_eq!(home.names(), ["home", "new", "old"]);
    // Whichever serves the registry.
    let (home, both) = (speaking("home", oldest), Running::start("both"));
    both.join(&home);
    for node in [&home, &both] {
        assert_eq!(node.names(), ["both", "home"]);
    }
}

#[test]
fn those_who_have_none_in_common_hear_which_there_are_and_what_to_do() {
    let (old, new) = (speaking("old", 2), speaking("new", 3));
    let ticket = |node: &Running| Request::Join {
        ticket: node.invite(),
    };
    let failure = old.refuses(&ticket(&new));
    assert_eq!(failure.kind, FailureKind::Refused);
    let said = failure.to_string();
    assert!(
        said.contains("the other end speaks version 3 of the protocol, this one version 2"),
        "{said}"
    );
    assert!(said.contains("upgrade sterna here"), "{said}");
    let said = new.refuses(&ticket(&old)).to_string();
    assert!(said.contains("upgrade sterna there"), "{said}");
    assert_eq!(old.names(), ["old"]);
}

#[test]
fn a_peer_of_any_other_version_is_told_and_cut_off() {
    let node = Running::start("n");
    let (oldest, newest) = VERSIONS.into_inner();
    on_runtime(async {
        for versions in [0..=oldest - 1, newest + 1..=newest + 2, u16::MAX..=u16::MAX] {
            let peer = Peer::silent(node.address, node.id, &NodeKey::random()).await;
            let (mut to, mut from) = peer.connection.open_bi().await.unwrap();
            let said = hello(|hello| hello.versions = versions);
            to.write_all(&said).await.unwrap();
            // It hears which versions there are before it is closed.
            let mut nowhere = tokio::io::sink();
            let heard = wire::greet(&mut from, &mut nowhere, &VERSIONS, HELLO_WITHIN).await;
            assert_eq!(heard.unwrap().versions, VERSIONS);
            assert!(peer.closed().await.contains("no version in common"));
        }
        // One that speaks ours among others is understood.
        let peer = Peer::silent(node.address, node.id, &NodeKey::random()).await;
        let (mut to, _from) = peer.connection.open_bi().await.unwrap();
        let said = hello(|hello| hello.versions = newest..=u16::MAX);
        to.write_all(&said).await.unwrap();
        assert!(peer.ask(&Request::Status).await.is_some());
    });
    node.is_well();
}
