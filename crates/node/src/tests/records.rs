//! The registry: compare-and-swap, leases, watches; damaged files; whose records they are.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sterna_migration::{Grant, Intent, MoveId, Record};
use sterna_process::ProcessId;

use super::world::{about, info, on_runtime, options};
use crate::identity::NodeId;
use crate::message::{FailureKind, RegistryRequest, Reply, SwapBytes};
use crate::registry::Registry;
use crate::store::{Change, Embedded, LeaseId, Store, StoreError, Swapped};
use crate::ticket::Secret;
use crate::{Node, StartError};

const HOME: NodeId = NodeId::from_bytes([1; 32]);
const OTHER: NodeId = NodeId::from_bytes([2; 32]);

/// A store whose clock stands still until it is set.
fn store(path: &Path) -> (Embedded, Arc<AtomicU64>) {
    let clock = Arc::new(AtomicU64::new(1_000_000));
    let read = Arc::clone(&clock);
    let store = Embedded::open(path, move || read.load(Ordering::Relaxed)).unwrap();
    (store, clock)
}

fn change(key: &str, expected: Option<u64>, value: Option<&str>, lease: Option<LeaseId>) -> Change {
    Change {
        key: key.into(),
        expected,
        value: value.map(Into::into),
        lease,
    }
}

#[test]
fn a_swap_needs_the_revision_and_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.redb");
    let first = on_runtime(async {
        let (store, _) = store(&path);
        let made = store
            .swap(change("a/1", None, Some("x"), None))
            .await
            .unwrap();
        let Swapped::Done(first) = made else {
            panic!("{made:?}")
        };
        let again = store
            .swap(change("a/1", None, Some("y"), None))
            .await
            .unwrap();
        assert!(matches!(again, Swapped::Other(Some(entry)) if entry.value == b"x"));
        let absent = store
            .swap(change("a/2", Some(first), Some("y"), None))
            .await
            .unwrap();
        assert_eq!(absent, Swapped::Other(None));
        first
    });
    on_runtime(async {
        let (store, _) = store(&path);
        let second = store
            .swap(change("a/1", Some(first), Some("y"), None))
            .await
            .unwrap();
        assert!(matches!(second, Swapped::Done(second) if second > first));
        let stale = store
            .swap(change("a/1", Some(first), None, None))
            .await
            .unwrap();
        assert!(matches!(stale, Swapped::Other(Some(_))));
        store
            .swap(change("b", None, Some("z"), None))
            .await
            .unwrap();
        assert_eq!(store.list(b"a/").await.unwrap().entries.len(), 1);
        assert_eq!(store.list(b"").await.unwrap().entries.len(), 2);
    });
}

#[test]
fn what_is_leased_vanishes_unless_the_lease_is_renewed() {
    let directory = tempfile::tempdir().unwrap();
    on_runtime(async {
        let (store, clock) = store(&directory.path().join("r"));
        let lease = store.lease(Duration::from_secs(10)).await.unwrap();
        store
            .swap(change("k", None, Some("v"), Some(lease)))
            .await
            .unwrap();
        clock.fetch_add(9_000, Ordering::Relaxed);
        assert!(store.renew(lease).await.unwrap());
        clock.fetch_add(9_999, Ordering::Relaxed);
        assert!(store.get(b"k").await.unwrap().is_some());
        clock.fetch_add(1, Ordering::Relaxed);
        assert_eq!(store.get(b"k").await.unwrap(), None);
        assert!(store.list(b"").await.unwrap().entries.is_empty());
        assert!(!store.renew(lease).await.unwrap());
        let anew = store
            .swap(change("k", None, Some("w"), None))
            .await
            .unwrap();
        assert!(matches!(anew, Swapped::Done(_)));
    });
}

#[test]
fn who_watches_hears_of_changes_and_of_no_others() {
    let directory = tempfile::tempdir().unwrap();
    on_runtime(async {
        let (store, _) = store(&directory.path().join("r"));
        let before = store.list(b"").await.unwrap().revision;
        let watching = store.clone();
        let watch = tokio::spawn(async move { watching.changed(b"a/", before).await });
        store
            .swap(change("b/1", None, Some("x"), None))
            .await
            .unwrap();
        tokio::task::yield_now().await;
        assert!(!watch.is_finished());
        store
            .swap(change("a/1", None, Some("x"), None))
            .await
            .unwrap();
        watch.await.unwrap().unwrap();
        // One who is behind, or ahead of a file that was put back, is told at once.
        store.changed(b"a/", before).await.unwrap();
        store.changed(b"a/", before + 100).await.unwrap();
    });
}

#[test]
fn a_file_that_is_damaged_or_newer_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("node");
    drop(Node::start(&options(&data, "n")).unwrap());
    let path = data.join("registry.redb");
    let whole = fs::read(&path).unwrap();
    for damaged in [
        b"not a registry, but long enough".repeat(99),
        whole[..whole.len() / 2].to_vec(),
    ] {
        fs::write(&path, &damaged).unwrap();
        let error = Node::start(&options(&data, "n")).err().unwrap();
        assert!(
            matches!(error, StartError::Registry(StoreError::Damaged { .. })),
            "{error:?}"
        );
        assert!(error.to_string().contains("registry.redb"));
        assert_eq!(fs::read(&path).unwrap().len(), damaged.len());
    }
    fs::write(&path, &whole).unwrap();
    drop(Node::start(&options(&data, "n")).unwrap());
}

#[test]
fn a_changed_byte_anywhere_ends_in_an_error_or_in_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("node");
    drop(Node::start(&options(&data, "n")).unwrap());
    let path = data.join("registry.redb");
    let whole = fs::read(&path).unwrap();
    // The head has all that matters for opening; of the rest a sample.
    let places = (0..400).step_by(7).chain((4096..whole.len()).step_by(509));
    for at in places {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        fs::write(&path, &bytes).unwrap();
        match Node::start(&options(&data, "n")) {
            Ok(_) | Err(StartError::Registry(StoreError::Damaged { .. })) => {}
            Err(StartError::Records(failure)) => assert_eq!(failure.kind, FailureKind::Internal),
            Err(other) => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn tickets_expire_by_the_registrys_clock() {
    let directory = tempfile::tempdir().unwrap();
    on_runtime(async {
        let (store, clock) = store(&directory.path().join("r"));
        let registry = Registry::new(store, HOME);
        let seal = Secret::random().seal();
        let add = RegistryRequest::AddTicket {
            seal,
            valid_ms: 1000,
        };
        registry.answer(HOME, add).await.unwrap();
        clock.fetch_add(1000, Ordering::Relaxed);
        let admit = || RegistryRequest::Admit {
            seal,
            node: OTHER,
            candidate: about("late"),
        };
        let late = registry.answer(HOME, admit()).await.unwrap_err();
        assert!(late.message.contains("expired"), "{late}");
        clock.fetch_add(2 * 86_400_000, Ordering::Relaxed);
        let forgotten = registry.answer(HOME, admit()).await.unwrap_err();
        assert!(forgotten.message.contains("does not know"), "{forgotten}");
        for valid_ms in [0, u64::MAX] {
            let add = RegistryRequest::AddTicket { seal, valid_ms };
            let refused = registry.answer(HOME, add).await.unwrap_err();
            assert_eq!(refused.kind, FailureKind::Refused);
        }
    });
}

#[test]
fn a_process_record_changes_by_the_rules_of_moves_only() {
    let directory = tempfile::tempdir().unwrap();
    on_runtime(async {
        let registry = Registry::new(store(&directory.path().join("r")).0, HOME);
        let process = ProcessId::random();
        let ask = async |by, request| registry.answer(by, request).await;
        let record = |reply| match reply {
            Ok(Reply::Record(Some(bytes))) => Record::decode(&bytes).unwrap(),
            other => panic!("{other:?}"),
        };
        let create = |by| RegistryRequest::CreateRecord {
            process,
            info: Box::new(info(by, None)),
        };
        let first = record(ask(HOME, create(HOME)).await);
        assert_eq!(first, Record::first(HOME));
        // It is there already, and stays whose it is.
        assert_eq!(record(ask(OTHER, create(OTHER)).await), first);

        let grant = Grant::from_bytes([5; 16]);
        let declared = first.declared(Intent {
            move_id: MoveId::from_bytes([6; 16]),
            target: OTHER,
            seal: grant.seal(),
        });
        let committed = declared.committed().unwrap();
        let swap = |expected: Record, new: Record, grant| {
            RegistryRequest::SwapRecord(Box::new(SwapBytes {
                process,
                expected: expected.encode().unwrap(),
                new: new.encode().unwrap(),
                grant,
                ending: None,
            }))
        };
        let stolen = ask(OTHER, swap(first, Record::first(OTHER), None))
            .await
            .unwrap_err();
        assert_eq!(stolen.kind, FailureKind::Forbidden);
        assert_eq!(
            record(ask(HOME, swap(first, declared, None)).await),
            declared
        );
        let early = ask(OTHER, swap(declared, committed, None))
            .await
            .unwrap_err();
        assert_eq!(early.kind, FailureKind::Forbidden);
        let commit = || swap(declared, committed, Some(grant));
        assert_eq!(record(ask(OTHER, commit()).await), committed);
        // Repeated, it finds its own success; too late, it finds what is there instead.
        assert_eq!(record(ask(OTHER, commit()).await), committed);
        let settle = swap(declared, declared.settled().unwrap(), None);
        assert_eq!(record(ask(HOME, settle).await), committed);
        let other = RegistryRequest::Record {
            process: ProcessId::random(),
        };
        assert!(matches!(ask(HOME, other).await, Ok(Reply::Record(None))));
    });
}
