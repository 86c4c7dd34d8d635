//! Processes in the registry: names, endings, lists, and who tries to take what is not its own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sterna_migration::{Grant, Intent, Life, MoveId, Record};
use sterna_process::{Exit, ProcessId};

use super::world::{info, on_runtime};
use crate::identity::NodeId;
use crate::limits::{ENDINGS_KEPT, LOST_KEPT, PAGE_ENTRIES_MAX};
use crate::message::{Failure, FailureKind, How, ProcessEntry, RegistryRequest, Reply, SwapBytes};
use crate::registry::Registry;
use crate::store::Embedded;

const ONE: NodeId = NodeId::from_bytes([1; 32]);
const TWO: NodeId = NodeId::from_bytes([2; 32]);
const THREE: NodeId = NodeId::from_bytes([3; 32]);

/// A registry and those who ask it.
struct Office {
    registry: Registry<Embedded>,
    clock: Arc<AtomicU64>,
}

impl Office {
    fn open(directory: &Path) -> Self {
        let clock = Arc::new(AtomicU64::new(1_000_000));
        let read = Arc::clone(&clock);
        let store = Embedded::open(&directory.join("r"), move || read.load(Ordering::Relaxed));
        Self {
            registry: Registry::new(store.unwrap(), ONE),
            clock,
        }
    }

    async fn create(
        &self,
        by: NodeId,
        process: ProcessId,
        name: Option<&str>,
    ) -> Result<Option<Record>, Failure> {
        let info = Box::new(info(by, name));
        let request = RegistryRequest::CreateRecord { process, info };
        self.registry.answer(by, request).await.map(record)
    }

    async fn started(&self, by: NodeId, name: Option<&str>) -> ProcessId {
        let process = ProcessId::random();
        let record = self.create(by, process, name).await.unwrap();
        assert_eq!(record, Some(Record::first(by)));
        process
    }

    async fn swap(
        &self,
        by: NodeId,
        process: ProcessId,
        (expected, new): (Record, Record),
        (grant, ending): (Option<Grant>, Option<How>),
    ) -> Result<Option<Record>, Failure> {
        let swap = SwapBytes {
            process,
            expected: expected.encode().unwrap(),
            new: new.encode().unwrap(),
            grant,
            ending,
        };
        let request = RegistryRequest::SwapRecord(Box::new(swap));
        self.registry.answer(by, request).await.map(record)
    }

    /// Lets the owner close a record.
    async fn close(&self, process: ProcessId, life: Life, ending: Option<How>) -> Record {
        let now = self.entry(process).await.unwrap().record().unwrap();
        let closed = now.closed(life).unwrap();
        let found = self.swap(now.owner, process, (now, closed), (None, ending));
        assert_eq!(found.await.unwrap(), Some(closed));
        closed
    }

    async fn recover(
        &self,
        by: NodeId,
        process: ProcessId,
        from: Record,
        grant: Option<Grant>,
    ) -> Result<Option<Record>, Failure> {
        let new = from.recovered(by).unwrap();
        self.swap(by, process, (from, new), (grant, None)).await
    }

    async fn entry(&self, process: ProcessId) -> Option<ProcessEntry> {
        let request = RegistryRequest::Process { process };
        entry(self.registry.answer(THREE, request).await.unwrap())
    }

    async fn named(&self, name: &str) -> Option<ProcessId> {
        let name = name.to_owned();
        let request = RegistryRequest::Named { name };
        let found = entry(self.registry.answer(THREE, request).await.unwrap());
        found.map(|entry| entry.process)
    }

    async fn list(&self, ended: bool) -> Vec<ProcessEntry> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let request = RegistryRequest::Processes { ended, after };
            let Ok(Reply::Processes(page)) = self.registry.answer(THREE, request).await else {
                panic!("no list")
            };
            all.extend(page.entries);
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }

    async fn forget(&self, process: ProcessId) -> Result<(), FailureKind> {
        let request = RegistryRequest::Forget { process };
        let answered = self.registry.answer(THREE, request).await;
        answered.map(drop).map_err(|failure| failure.kind)
    }

    fn pass(&self, time: std::time::Duration) {
        self.clock
            .fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }
}

fn record(reply: Reply) -> Option<Record> {
    match reply {
        Reply::Record(bytes) => bytes.map(|bytes| Record::decode(&bytes).unwrap()),
        other => panic!("{other:?}"),
    }
}

fn entry(reply: Reply) -> Option<ProcessEntry> {
    match reply {
        Reply::Process(entry) => entry.map(|entry| *entry),
        other => panic!("{other:?}"),
    }
}

/// With an empty registry.
fn office<T>(act: impl AsyncFnOnce(Office) -> T) -> T {
    let directory = tempfile::tempdir().unwrap();
    on_runtime(act(Office::open(directory.path())))
}

#[test]
fn a_name_belongs_to_one_living_process_and_is_free_when_that_ends() {
    office(async |office| {
        let first = office.started(ONE, Some("web")).await;
        assert_eq!(office.named("web").await, Some(first));
        let second = ProcessId::random();
        let taken = office.create(TWO, second, Some("web")).await.unwrap_err();
        assert_eq!(taken.kind, FailureKind::Taken);
        assert!(taken.message.contains(&first.short()), "{taken}");
        // Nothing of it was written: it can be started with another name.
        assert_eq!(office.entry(second).await, None);
        office.create(TWO, second, Some("web2")).await.unwrap();
        // Whoever repeats what was done finds it done.
        let again = office.create(ONE, first, Some("web")).await.unwrap();
        assert_eq!(again, Some(Record::first(ONE)));

        let exit = How::Exited(Exit::Code(3));
        office.close(first, Life::Ended, Some(exit.clone())).await;
        assert_eq!(office.named("web").await, None);
        let ended = office.entry(first).await.unwrap();
        assert_eq!(ended.ending.unwrap().how, exit);
        assert_eq!(ended.name.as_deref(), Some("web"));
        let third = office.started(TWO, Some("web")).await;
        assert_eq!(office.named("web").await, Some(third));
    });
}

#[test]
fn who_is_recovered_has_its_name_again_unless_another_has_it() {
    office(async |office| {
        let lucky = office.started(ONE, Some("a")).await;
        let unlucky = office.started(ONE, Some("b")).await;
        for process in [lucky, unlucky] {
            let lost = office.close(process, Life::Lost, None).await;
            if process == unlucky {
                office.started(TWO, Some("b")).await;
            }
            let found = office.recover(THREE, process, lost, None).await.unwrap();
            assert_eq!(found, lost.recovered(THREE));
        }
        assert_eq!(office.named("a").await, Some(lucky));
        assert_ne!(office.named("b").await, Some(unlucky));
        let entry = office.entry(unlucky).await.unwrap();
        assert_eq!((entry.name, entry.ending), (None, None));
        assert_eq!(entry.info.name.as_deref(), Some("b"));
        // It has no name to give back: the other one keeps it.
        office.close(unlucky, Life::Ended, None).await;
        assert!(office.named("b").await.is_some());
    });
}

#[test]
fn a_frozen_process_goes_on_once_and_from_the_newest_file_only() {
    office(async |office| {
        let process = office.started(ONE, Some("f")).await;
        let (older, newest) = (Grant::of_file(&[1; 32]), Grant::of_file(&[2; 32]));
        let first = office
            .close(process, Life::Frozen(older.seal()), None)
            .await;
        assert_eq!(office.named("f").await, None);
        let thawed = office.recover(TWO, process, first, Some(older)).await;
        assert_eq!(thawed.unwrap(), first.recovered(TWO));
        let second = office
            .close(process, Life::Frozen(newest.seal()), None)
            .await;

        // With the old file, without any, or for another node: no. The record is not told to be wrong, either.
        for grant in [None, Some(older)] {
            let refused = office.recover(THREE, process, second, grant).await;
            assert_eq!(refused.unwrap_err().kind, FailureKind::Forbidden);
        }
        let stale = office.recover(THREE, process, first, Some(older)).await;
        assert_eq!(stale.unwrap(), Some(second));

        let thawed = office.recover(THREE, process, second, Some(newest)).await;
        assert_eq!(thawed.unwrap(), second.recovered(THREE));
        let again = office.recover(TWO, process, second, Some(newest)).await;
        assert_eq!(again.unwrap(), second.recovered(THREE), "thawed twice");
        assert_eq!(office.named("f").await, Some(process));
    });
}

#[test]
fn a_node_gets_nothing_that_belongs_to_others() {
    office(async |office| {
        let process = office.started(ONE, Some("mine")).await;
        let now = Record::first(ONE);
        let grant = Grant::from_bytes([5; 16]);
        let taken = Record {
            owner: TWO,
            ..Record::owned(TWO, now.epoch.next().unwrap())
        };
        let mut attempts = vec![taken, now.closed(Life::Ended).unwrap()];
        attempts.push(now.closed(Life::Lost).unwrap());
        attempts.push(now.closed(Life::Frozen(grant.seal())).unwrap());
        attempts.push(now.declared(Intent {
            move_id: MoveId::from_bytes([1; 16]),
            target: TWO,
            seal: grant.seal(),
        }));
        for new in attempts {
            let refused = office
                .swap(TWO, process, (now, new), (Some(grant), None))
                .await;
            assert_eq!(refused.unwrap_err().kind, FailureKind::Forbidden, "{new}");
        }
        // As if another node had started it.
        let request = RegistryRequest::CreateRecord {
            process: ProcessId::random(),
            info: Box::new(info(ONE, None)),
        };
        let refused = office.registry.answer(TWO, request).await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::Forbidden);
        // Under the id of another's.
        let found = office.create(TWO, process, Some("other")).await.unwrap();
        assert_eq!(found, Some(now));
        assert_eq!(office.named("other").await, None);
        assert_eq!(office.forget(process).await, Err(FailureKind::Refused));
        let entry = office.entry(process).await.unwrap();
        assert_eq!(entry.info, info(ONE, Some("mine")));
    });
}

#[test]
fn what_is_said_of_a_process_is_checked_and_bounded() {
    office(async |office| {
        let long = "x".repeat(201);
        for name in ["", "a b", "a\u{1b}[2J", "a\u{202e}b", "\n", &long] {
            let refused = office.create(ONE, ProcessId::random(), Some(name)).await;
            assert_eq!(refused.unwrap_err().kind, FailureKind::Refused, "{name:?}");
        }
        let mut large = info(ONE, None);
        large.extra = vec![0; (8 << 10) + 1];
        let mut many = info(ONE, None);
        many.arguments = vec![String::new(); (16 << 10) + 1];
        for info in [large, many] {
            let (process, info) = (ProcessId::random(), Box::new(info));
            let request = RegistryRequest::CreateRecord { process, info };
            let refused = office.registry.answer(ONE, request).await.unwrap_err();
            assert_eq!(refused.kind, FailureKind::Refused);
        }
        let process = office.started(ONE, Some(&long[1..])).await;
        let now = Record::first(ONE);
        let ended = now.closed(Life::Ended).unwrap();
        let lost = How::Lost {
            reason: String::new(),
        };
        let refused = office.swap(ONE, process, (now, ended), (None, Some(lost)));
        assert_eq!(refused.await.unwrap_err().kind, FailureKind::Refused);
        let trap = How::Exited(Exit::Trapped {
            what: "ä".repeat(5000),
            back_trace: "x".repeat(50_000),
        });
        office.close(process, Life::Ended, Some(trap)).await;
        let ending = office.entry(process).await.unwrap().ending.unwrap();
        let How::Exited(Exit::Trapped { what, back_trace }) = ending.how else {
            panic!("{ending:?}")
        };
        assert_eq!((what.len(), back_trace.len()), (512, 8 << 10));
    });
}

#[test]
fn endings_are_kept_for_a_while_and_then_forgotten() {
    office(async |office| {
        let ended = office.started(ONE, None).await;
        let lost = office.started(ONE, None).await;
        let frozen = office.started(ONE, None).await;
        let alive = office.started(ONE, None).await;
        office.close(ended, Life::Ended, None).await;
        office.close(lost, Life::Lost, None).await;
        let seal = Grant::of_file(&[1; 32]).seal();
        office.close(frozen, Life::Frozen(seal), None).await;
        let ids = async |all| {
            let listed = office.list(all).await;
            let mut ids: Vec<_> = listed.iter().map(|entry| entry.process).collect();
            ids.sort_unstable();
            ids
        };
        let sorted = |mut ids: Vec<ProcessId>| {
            ids.sort_unstable();
            ids
        };
        assert_eq!(ids(true).await, sorted(vec![ended, lost, frozen, alive]));
        assert_eq!(ids(false).await, [alive]);
        office.pass(ENDINGS_KEPT);
        assert_eq!(ids(true).await, sorted(vec![lost, frozen, alive]));
        assert_eq!(office.entry(ended).await, None);
        office.pass(LOST_KEPT);
        // The next end removes them from the store.
        let last = office.started(ONE, None).await;
        office.close(last, Life::Ended, None).await;
        for process in [ended, lost] {
            let request = RegistryRequest::Record { process };
            let found = office.registry.answer(ONE, request).await.unwrap();
            assert_eq!(record(found), None);
        }
        assert_eq!(ids(true).await, sorted(vec![last, frozen, alive]));
        assert_eq!(office.forget(frozen).await, Ok(()));
        assert_eq!(office.forget(frozen).await, Ok(()), "twice is once");
        assert_eq!(ids(true).await, sorted(vec![last, alive]));
    });
}

#[test]
fn long_lists_come_in_pages_without_gaps() {
    let count = PAGE_ENTRIES_MAX + 5;
    office(async |office| {
        let mut all = Vec::new();
        for at in 0..count {
            let owner = if at % 3 == 0 { TWO } else { ONE };
            all.push((office.started(owner, None).await, owner));
        }
        all.sort_unstable_by_key(|(process, _)| *process);
        let listed: Vec<_> = office
            .list(true)
            .await
            .into_iter()
            .map(|entry| (entry.process, entry.info.started_on))
            .collect();
        assert_eq!(listed, all);
        // Of a node: those that it owns, and those that come to it.
        let (coming, _) = *all.iter().find(|(_, owner)| *owner == ONE).unwrap();
        let now = Record::first(ONE);
        let declared = now.declared(Intent {
            move_id: MoveId::from_bytes([1; 16]),
            target: TWO,
            seal: Grant::from_bytes([5; 16]).seal(),
        });
        let swap = office.swap(ONE, coming, (now, declared), (None, None));
        swap.await.unwrap();
        let request = RegistryRequest::ProcessesOf {
            node: TWO,
            after: None,
        };
        let Ok(Reply::Records(page)) = office.registry.answer(TWO, request).await else {
            panic!("no records")
        };
        let found: Vec<_> = page
            .records
            .into_iter()
            .map(|(process, _)| process)
            .collect();
        let theirs = all
            .iter()
            .filter(|(process, owner)| *owner == TWO || *process == coming);
        let theirs: Vec<_> = theirs.map(|(process, _)| *process).collect();
        assert_eq!((found, page.next), (theirs, None));
    });
}

#[test]
fn who_watches_processes_hears_of_them_and_of_nothing_else() {
    office(async |office| {
        office
            .registry
            .found(super::world::about("n"))
            .await
            .unwrap();
        let Office { registry, clock } = office;
        let registry = Arc::new(registry);
        let ask = |after| {
            let registry = Arc::clone(&registry);
            async move {
                let request = RegistryRequest::ProcessesChanged { after };
                match registry.answer(TWO, request).await {
                    Ok(Reply::Revision(revision)) => revision,
                    other => panic!("{other:?}"),
                }
            }
        };
        let before = ask(0).await;
        let watch = tokio::spawn(ask(before));
        registry
            .answer(ONE, RegistryRequest::Announce(super::world::about("m")))
            .await
            .unwrap();
        tokio::task::yield_now().await;
        assert!(!watch.is_finished());
        let registry = Arc::clone(&registry);
        let (process, info) = (ProcessId::random(), Box::new(info(ONE, None)));
        let request = RegistryRequest::CreateRecord { process, info };
        registry.answer(ONE, request).await.unwrap();
        assert!(watch.await.unwrap() > before);
        drop(clock);
    });
}
