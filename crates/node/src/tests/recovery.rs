//! Backups of the registry, and what happens when an old one is put back.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sterna_migration::{Grant, Intent, Life, MoveId, Record};
use sterna_process::{Epoch, ProcessId};

use super::world::{Running, about, info, on_runtime};
use crate::AskError;
use crate::data::DataError;
use crate::identity::NodeId;
use crate::message::{
    Announced, Failure, FailureKind, RegistryRequest, Reply, Request, Roster, SwapBytes,
};
use crate::registry::{Backup, BackupError, Registry, RestoreError, new_file, restore};
use crate::store::Embedded;
use crate::ticket::Secret;
use crate::wire::now_ms;

const HOME: NodeId = NodeId::from_bytes([1; 32]);
const TWO: NodeId = NodeId::from_bytes([2; 32]);
const THREE: NodeId = NodeId::from_bytes([3; 32]);

/// A registry with three members.
struct Office {
    store: Embedded,
    registry: Registry<Embedded>,
}

impl Office {
    async fn open(directory: &Path) -> Self {
        let store = Embedded::open(&directory.join("r"), now_ms).unwrap();
        let registry = Registry::new(store.clone(), HOME);
        registry.found(about("home")).await.unwrap();
        let office = Self { store, registry };
        for (node, name) in [(TWO, "two"), (THREE, "three")] {
            office.admit(node, name).await;
        }
        office
    }

    async fn admit(&self, node: NodeId, name: &str) {
        let seal = Secret::random().seal();
        let valid_ms = 1000;
        let add = RegistryRequest::AddTicket { seal, valid_ms };
        self.ask(HOME, add).await.unwrap();
        let candidate = about(name);
        let admit = RegistryRequest::Admit {
            seal,
            node,
            candidate,
        };
        self.ask(HOME, admit).await.unwrap();
    }

    async fn ask(&self, by: NodeId, request: RegistryRequest) -> Result<Reply, Failure> {
        self.registry.answer(by, request).await
    }

    async fn start(&self, by: NodeId, name: Option<&str>) -> ProcessId {
        let (process, info) = (ProcessId::random(), Box::new(info(by, name)));
        let create = RegistryRequest::CreateRecord { process, info };
        self.ask(by, create).await.unwrap();
        process
    }

    async fn record(&self, process: ProcessId) -> Option<Record> {
        match self.ask(HOME, RegistryRequest::Record { process }).await {
            Ok(Reply::Record(bytes)) => bytes.map(|bytes| Record::decode(&bytes).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    async fn swap(
        &self,
        by: NodeId,
        process: ProcessId,
        (expected, new): (Record, Record),
        grant: Option<Grant>,
    ) -> Result<Reply, Failure> {
        let swap = SwapBytes {
            process,
            expected: expected.encode().unwrap(),
            new: new.encode().unwrap(),
            grant,
            ending: None,
        };
        self.ask(by, RegistryRequest::SwapRecord(Box::new(swap)))
            .await
    }

    /// Moves a process from its owner to another node.
    async fn move_to(&self, process: ProcessId, target: NodeId) -> Record {
        let at_rest = self.record(process).await.unwrap();
        let (declared, grant) = declared(at_rest, target);
        let by = at_rest.owner;
        self.swap(by, process, (at_rest, declared), None)
            .await
            .unwrap();
        let committed = declared.committed().unwrap();
        self.swap(target, process, (declared, committed), Some(grant))
            .await
            .unwrap();
        committed
    }

    async fn restore(&self, backup: &Backup) -> u64 {
        self.registry
            .restore(&self.store, backup.clone())
            .await
            .unwrap();
        self.roster().await.recovery.unwrap()
    }

    async fn roster(&self) -> Roster {
        match self.ask(TWO, RegistryRequest::Roster { after: 0 }).await {
            Ok(Reply::Roster(roster)) => roster,
            other => panic!("{other:?}"),
        }
    }

    async fn announce(
        &self,
        by: NodeId,
        number: u64,
        has: &[(ProcessId, Epoch)],
        last: bool,
    ) -> Result<Reply, Failure> {
        let announced = |(process, epoch): &(ProcessId, Epoch)| Announced {
            process: *process,
            epoch: *epoch,
            info: Box::new(info(by, None)),
        };
        let processes = has.iter().map(announced).collect();
        let request = RegistryRequest::AnnounceProcesses {
            number,
            processes,
            last,
        };
        self.ask(by, request).await
    }
}

fn declared(at_rest: Record, target: NodeId) -> (Record, Grant) {
    let grant = Grant::from_bytes([5; 16]);
    let intent = Intent {
        move_id: MoveId::from_bytes([6; 16]),
        target,
        seal: grant.seal(),
    };
    (at_rest.declared(intent), grant)
}

fn office<T>(act: impl AsyncFnOnce(Office) -> T) -> T {
    let directory = tempfile::tempdir().unwrap();
    on_runtime(async { act(Office::open(directory.path()).await).await })
}

#[test]
fn after_an_old_backup_the_later_owner_has_the_process() {
    office(async |office| {
        let moved = office.start(HOME, Some("moved")).await;
        let stayed = office.start(TWO, None).await;
        let backup = office.registry.backup().await.unwrap();
        let record = office.move_to(moved, THREE).await;
        let new = office.start(THREE, None).await;
        let number = office.restore(&backup).await;
        assert_eq!(office.record(moved).await, Some(Record::first(HOME)));
        assert_eq!(office.record(new).await, None);

        // The old owner does not hold it any more, and would write that it is lost. Not now.
        let first = Record::first(HOME);
        let lost = first.closed(Life::Lost).unwrap();
        let early = office.swap(HOME, moved, (first, lost), None).await;
        let early = early.unwrap_err();
        assert_eq!(early.kind, FailureKind::Busy);
        assert!(early.message.contains("three"), "{early}");
        office.announce(HOME, number, &[], true).await.unwrap();
        let has = [(stayed, Epoch::FIRST)];
        office.announce(TWO, number, &has, true).await.unwrap();
        assert!(office.swap(HOME, moved, (first, lost), None).await.is_err());

        let has = [(moved, record.epoch), (new, Epoch::FIRST)];
        office.announce(THREE, number, &has, true).await.unwrap();
        assert_eq!(office.record(moved).await, Some(record));
        assert_eq!(office.record(new).await, Some(Record::first(THREE)));
        assert_eq!(office.record(stayed).await, Some(Record::first(TWO)));
        assert_eq!(office.roster().await.recovery, None);
        // Its name came back with it.
        let name = "moved".to_owned();
        let named = office.ask(TWO, RegistryRequest::Named { name }).await;
        assert!(matches!(named, Ok(Reply::Process(Some(entry))) if entry.process == moved));
        // All goes on.
        office.move_to(moved, TWO).await;
    });
}

#[test]
fn records_are_lifted_only_upward_once_by_each_and_only_while_a_recovery_is_open() {
    office(async |office| {
        let theirs = office.start(HOME, None).await;
        let much = Epoch(1000);
        let closed = office.announce(TWO, 1, &[(theirs, much)], false).await;
        assert_eq!(closed.unwrap_err().kind, FailureKind::Refused);
        let back = office.move_to(theirs, TWO).await;
        let backup = office.registry.backup().await.unwrap();
        let number = office.restore(&backup).await;
        let earlier = office
            .announce(THREE, number - 1, &[(theirs, much)], false)
            .await;
        assert_eq!(earlier.unwrap_err().kind, FailureKind::Refused);
        // The same epoch, or an earlier one, is somebody's who has lost it.
        for epoch in [back.epoch, Epoch::FIRST] {
            let has = [(theirs, epoch)];
            office.announce(THREE, number, &has, false).await.unwrap();
            assert_eq!(office.record(theirs).await, Some(back));
        }
        // What was started since is not restored, and cannot be lifted.
        let young = office.start(TWO, None).await;
        office
            .announce(THREE, number, &[(young, much)], true)
            .await
            .unwrap();
        assert_eq!(office.record(young).await, Some(Record::first(TWO)));
        let again = office
            .announce(THREE, number, &[(theirs, much)], false)
            .await;
        assert_eq!(again.unwrap_err().kind, FailureKind::Forbidden);
        assert_eq!(office.record(theirs).await, Some(back));
        // Who never comes back is removed, and then nobody waits for it.
        office.announce(HOME, number, &[], true).await.unwrap();
        assert_eq!(office.roster().await.recovery, Some(number));
        office
            .ask(HOME, RegistryRequest::Remove { node: TWO })
            .await
            .unwrap();
        assert_eq!(office.roster().await.recovery, None);
    });
}

#[test]
fn a_move_that_a_restore_interrupts_ends_in_one_place() {
    // The target has committed and the source has not heard of it, or it has not.
    for committed in [true, false] {
        office(async |office| {
            let process = office.start(HOME, None).await;
            let at_rest = Record::first(HOME);
            let backup = office.registry.backup().await.unwrap();
            let (declared, grant) = declared(at_rest, TWO);
            office
                .swap(HOME, process, (at_rest, declared), None)
                .await
                .unwrap();
            let taken = declared.committed().unwrap();
            let commit = (declared, taken);
            if committed {
                office
                    .swap(TWO, process, commit, Some(grant))
                    .await
                    .unwrap();
            }
            let number = office.restore(&backup).await;
            let settled = declared.settled().unwrap();
            let settle = office.swap(HOME, process, (declared, settled), None).await;
            assert_eq!(settle.unwrap_err().kind, FailureKind::Busy);
            let has = [(process, Epoch::FIRST)];
            office.announce(HOME, number, &has, true).await.unwrap();
            office.announce(THREE, number, &[], true).await.unwrap();
            let has = [(process, taken.epoch)];
            let has = if committed { &has[..] } else { &[] };
            office.announce(TWO, number, has, true).await.unwrap();

            let late = office
                .swap(TWO, process, commit, Some(grant))
                .await
                .unwrap();
            let settle = office.swap(HOME, process, (declared, settled), None).await;
            let expected = if committed { taken } else { settled };
            assert!(matches!(settle, Ok(Reply::Record(Some(_)))), "{settle:?}");
            assert_eq!(office.record(process).await, Some(expected));
            let Reply::Record(Some(late)) = late else {
                panic!("{late:?}")
            };
            assert_eq!(Record::decode(&late).unwrap() == taken, committed);
        });
    }
}

#[test]
fn who_was_removed_since_the_backup_stays_removed_and_tickets_do_not_come_back() {
    office(async |office| {
        let seal = Secret::random().seal();
        let valid_ms = 100_000;
        let add = RegistryRequest::AddTicket { seal, valid_ms };
        office.ask(HOME, add).await.unwrap();
        let backup = office.registry.backup().await.unwrap();
        office
            .ask(HOME, RegistryRequest::Remove { node: TWO })
            .await
            .unwrap();
        let four = NodeId::from_bytes([4; 32]);
        office.admit(four, "four").await;
        office.restore(&backup).await;
        let roster = office.roster().await;
        assert_eq!(roster.removed, [TWO]);
        assert!(roster.member(four).is_some());
        let admit = RegistryRequest::Admit {
            seal,
            node: NodeId::from_bytes([5; 32]),
            candidate: about("five"),
        };
        let refused = office.ask(HOME, admit).await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::Ticket);
    });
}

#[test]
fn a_backup_is_private_whole_and_of_this_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("backup");
    office(async |office| {
        office.start(HOME, Some("x")).await;
        let backup = office.registry.backup().await.unwrap();
        new_file(&file, |to| backup.write(&file, to)).unwrap();
        assert_eq!(Backup::load(&file).unwrap(), backup);
        assert_eq!(backup.processes(), 1);
        let stranger = Registry::new(office.store.clone(), NodeId::from_bytes([9; 32]));
        let refused = stranger.restore(&office.store, backup).await;
        assert!(matches!(refused, Err(BackupError::OtherCluster { .. })));
    });
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let whole = fs::read(&file).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&file, &bytes).unwrap();
        assert!(Backup::load(&file).is_err(), "byte {at}");
        fs::write(&file, &whole[..at]).unwrap();
        assert!(Backup::load(&file).is_err(), "cut at {at}");
    }
    let mut newer = whole;
    newer[8] = 9;
    fs::write(&file, &newer).unwrap();
    let error = Backup::load(&file).unwrap_err();
    assert!(matches!(error, BackupError::Newer { found: 9, .. }));
}

#[test]
fn a_backup_is_put_back_into_a_node_that_does_not_run() {
    let one = Running::start("n");
    let two = Running::start("m");
    two.join(&one);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("backup");
    let backup = Request::RegistryBackup { file: file.clone() };
    one.ask_with(&backup, &File::create(&file).unwrap())
        .unwrap();
    // It runs; it is another one; it is another cluster's.
    let running = restore(&one.data(), &file).unwrap_err();
    assert!(matches!(
        running,
        RestoreError::Data(DataError::InUse { .. })
    ));
    let data = two.stop();
    let other = restore(&data.path().join("node"), &file).unwrap_err();
    assert!(matches!(other, RestoreError::Elsewhere { .. }), "{other:?}");
    let data = tempfile::tempdir().unwrap();
    let stranger = restore(&data.path().join("node"), &file).unwrap_err();
    assert!(matches!(
        stranger,
        RestoreError::Backup(BackupError::OtherCluster { .. })
    ));

    let data = one.stop();
    let registry = data.path().join("node/registry.redb");
    fs::write(&registry, "damaged").unwrap();
    fs::write(directory.path().join("x"), "y").unwrap();
    let nonsense = restore(&data.path().join("node"), &directory.path().join("x")).unwrap_err();
    assert!(matches!(
        nonsense,
        RestoreError::Backup(BackupError::Foreign { .. })
    ));
    assert_eq!(fs::read(&registry).unwrap(), b"damaged");
    restore(&data.path().join("node"), &file).unwrap();
    assert_eq!(
        fs::read(registry.with_extension("damaged")).unwrap(),
        b"damaged"
    );
    let one = Running::start_on(data, "n", |_| {});
    assert_eq!(one.names(), ["m", "n"]);
}

#[test]
fn a_node_backs_up_and_restores_and_its_cluster_settles_down() {
    let (one, two) = (Running::start("n"), Running::start("m"));
    two.join(&one);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("backup");
    let backup = Request::RegistryBackup { file: file.clone() };
    let to = File::create(&file).unwrap();
    assert!(matches!(one.ask_with(&backup, &to), Ok(Reply::Done)));
    let Err(AskError::Failed(elsewhere)) = two.ask_with(&backup, &to) else {
        panic!("a node that does not serve the registry has copied it")
    };
    assert!(elsewhere.message.contains("node n"), "{elsewhere}");
    let from = File::open(&file).unwrap();
    let restore = Request::RegistryRestore { file };
    assert!(matches!(one.ask_with(&restore, &from), Ok(Reply::Done)));
    // Both say what they run, which is nothing, as soon as they hear of it.
    let awaited = || match two.ask(&Request::RegistryStatus) {
        Ok(Reply::RegistryStatus(status)) => {
            assert_eq!((status.home, status.members), (one.id, 2));
            status.awaited.len()
        }
        other => panic!("{other:?}"),
    };
    while awaited() > 0 {}
    // No path is opened because a request names it, and nothing but a file is written to.
    for without in [&backup, &restore] {
        assert!(one.refuses(without).message.contains("one file"));
        let folder = File::open(directory.path()).unwrap();
        let refused = one.ask_with(without, &folder);
        assert!(matches!(refused, Err(AskError::Failed(_))), "{refused:?}");
    }
}
