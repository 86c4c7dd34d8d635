//! What was answered is on disk: many at once, a program that is killed, and several entries in one step.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use sterna_process::ProcessId;
use tokio::task::JoinSet;

use super::world::{info, on_runtime};
use crate::identity::NodeId;
use crate::message::{RegistryRequest, Reply};
use crate::registry::Registry;
use crate::store::{Change, Embedded, Store};
use crate::wire::now_ms;

const ONE: NodeId = NodeId::from_bytes([1; 32]);
/// Where the child of the test below writes.
const CHILD_FILE: &str = "STERNA_TEST_REGISTRY_FILE";

fn creation(process: ProcessId, name: Option<&str>) -> RegistryRequest {
    let info = Box::new(info(ONE, name));
    RegistryRequest::CreateRecord { process, info }
}

#[test]
fn processes_that_are_started_at_once_share_transactions() {
    const COUNT: u64 = 4000;
    const AT_ONCE: u64 = 256;
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(&directory.path().join("r"), now_ms).unwrap();
    let registry = Arc::new(Registry::new(store.clone(), ONE));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let begun = Instant::now();
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for task in 0..AT_ONCE {
            let registry = Arc::clone(&registry);
            tasks.spawn(async move {
                for number in (task..COUNT).step_by(AT_ONCE as usize) {
                    let request = creation(ProcessId::random(), Some(&format!("p{number}")));
                    let created = registry.answer(ONE, request).await;
                    assert!(matches!(created, Ok(Reply::Record(Some(_)))), "{created:?}");
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
    let took = begun.elapsed();
    let figures = store.figures();
    println!(
        "{COUNT} processes in {took:.2?}: {:.0} a second, in {} transactions, the slowest {:.1?}",
        COUNT as f64 / took.as_secs_f64(),
        figures.commits,
        figures.commit_max,
    );
    assert_eq!(figures.requests, COUNT);
    assert!(figures.commits * 4 < COUNT, "{figures:?}");
    let records = runtime.block_on(store.list(b"record/")).unwrap();
    assert_eq!(records.entries.len() as u64, COUNT);
}

/// Starts processes for as long as it lives, and says of which ones the registry has answered.
fn start_processes(file: &Path) {
    let store = Embedded::open(file, now_ms).unwrap();
    let registry = Arc::new(Registry::new(store, ONE));
    on_runtime(async {
        let mut tasks = JoinSet::new();
        for _ in 0..32 {
            let registry = Arc::clone(&registry);
            tasks.spawn(async move {
                loop {
                    let process = ProcessId::random();
                    registry
                        .answer(ONE, creation(process, Some(&process.to_string())))
                        .await
                        .unwrap();
                    writeln!(std::io::stdout(), "answered {process}").unwrap();
                }
            });
        }
        tasks.join_next().await;
    });
}

#[test]
fn a_killed_registry_has_all_that_it_answered() {
    if let Some(file) = env::var_os(CHILD_FILE) {
        return start_processes(&PathBuf::from(file));
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r");
    let mut answered = Vec::new();
    // More than once, and with the same file: what the first left has to last as well.
    for round in 1..=3 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("tests::durable::a_killed_registry_has_all_that_it_answered")
            .env(CHILD_FILE, &file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines {
            if let Some(process) = line.unwrap().strip_prefix("answered ") {
                answered.push(process.parse::<ProcessId>().unwrap());
            }
            if answered.len() == round * 500 {
                child.kill().unwrap();
                break;
            }
        }
        child.wait().unwrap();
        assert_eq!(answered.len(), round * 500);
    }
    on_runtime(async {
        let registry = Registry::new(Embedded::open(&file, now_ms).unwrap(), ONE);
        for process in answered {
            let name = process.to_string();
            let found = registry.answer(ONE, RegistryRequest::Named { name }).await;
            let Ok(Reply::Process(Some(entry))) = found else {
                panic!("{process} was answered, and is not there")
            };
            assert_eq!(entry.process, process);
        }
    });
}

/// A change of an entry: which one, whether what is expected is right, and what it becomes.
type Draft = (u8, bool, Option<u8>);

pub(super) fn drafts() -> impl Strategy<Value = Vec<Vec<Draft>>> {
    let draft = (0..5_u8, proptest::bool::weighted(0.85), any::<Option<u8>>());
    proptest::collection::vec(proptest::collection::vec(draft, 1..4), 1..40)
}

/// Carries the changes out in a store and in a map, and compares.
pub(super) async fn compare(store: &impl Store, prefix: &[u8], drafts: &[Vec<Draft>]) {
    let mut model: BTreeMap<Vec<u8>, (u64, Vec<u8>)> = BTreeMap::new();
    let mut newest = 0;
    for step in drafts {
        let mut changes: BTreeMap<u8, Change> = BTreeMap::new();
        for (number, right, value) in step {
            let key = [prefix, &[b'a' + number]].concat();
            let now = model.get(&key).map(|(revision, _)| *revision);
            let wrong = match now {
                Some(revision) => Some(revision - 1),
                None => Some(1 + newest),
            };
            let change = Change {
                expected: if *right { now } else { wrong },
                value: value.map(|value| vec![value]),
                key,
                lease: None,
            };
            changes.insert(*number, change);
        }
        let changes: Vec<Change> = changes.into_values().collect();
        let expected = changes
            .iter()
            .all(|change| model.get(&change.key).map(|(revision, _)| *revision) == change.expected);
        let found = store.swap_all(changes.clone()).await.unwrap();
        assert_eq!(found.is_some(), expected, "{changes:?}");
        if let Some(revision) = found {
            // To remove what is not there is no change to an etcd.
            let changes_something = changes
                .iter()
                .any(|change| change.expected.is_some() || change.value.is_some());
            assert!(revision > newest || revision == newest && !changes_something);
            newest = revision;
            for change in changes {
                match change.value {
                    Some(value) => model.insert(change.key, (revision, value)),
                    None => model.remove(&change.key),
                };
            }
        }
        let listed = store.list(prefix).await.unwrap().entries.into_iter();
        let listed: BTreeMap<_, _> = listed
            .map(|(key, entry)| (key, (entry.revision, entry.value)))
            .collect();
        assert_eq!(listed, model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn several_entries_change_together_or_not_at_all(drafts in drafts()) {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(&directory.path().join("r"), now_ms).unwrap();
        on_runtime(compare(&store, b"m/", &drafts));
    }
}

#[test]
fn a_thousand_processes_are_one_answer() {
    const COUNT: usize = 1000;
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(
        Embedded::open(&directory.path().join("r"), now_ms).unwrap(),
        ONE,
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        for _ in 0..COUNT {
            let request = creation(ProcessId::random(), None);
            registry.answer(ONE, request).await.unwrap();
        }
        let begun = Instant::now();
        let request = RegistryRequest::Processes {
            ended: true,
            after: None,
        };
        let listed = registry.answer(ONE, request).await;
        println!("{COUNT} processes listed in {:.1?}", begun.elapsed());
        let Ok(Reply::Processes(page)) = listed else {
            panic!("{listed:?}")
        };
        assert_eq!((page.entries.len(), page.next), (COUNT, None));
        let bytes = postcard::to_stdvec(&page).unwrap().len();
        assert!(bytes < crate::limits::REPLY_BYTES_MAX, "{bytes}");
    });
}
