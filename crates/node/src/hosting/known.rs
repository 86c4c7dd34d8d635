//! What this node itself remembers of its processes, so that a registry which was restored from an old copy hears of
//! them: [`Known`].
//!
//! ```text
//! DATA/hosting/processes      a journal that begins with "STPR" and its version: (process, how it began, or that it is gone)
//! ```
//!
//! One file, and not one for each: processes come and go by the thousand, and a file system that finds room for each new file among
//! those that were just removed is what starting them would wait for.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sterna_migration::{Holding, Record};
use sterna_process::ProcessId;
use sterna_runner::message::{Answer, Order};

use super::Hosting;
use super::journal::{self, HEAD_BYTES, Journal};
use super::runner::make_folder;
use crate::message::{Announced, ProcessInfo};

const HEAD: [u8; HEAD_BYTES] = *b"STPR\x01\0";
const FILE: &str = "processes";
const NEW: &str = "processes.new";
/// The file is written anew when it is so long, and twice as long as it was then.
const REWRITE_BYTES: u64 = 256 << 10;

/// A record: how a process began; `None` once it is gone.
type Entry = (ProcessId, Option<ProcessInfo>);

/// Processes, and how they began.
#[derive(Debug)]
pub(super) struct Known {
    folder: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    processes: HashMap<ProcessId, ProcessInfo>,
    /// Absent if it could not be written: then it is written anew at the next occasion.
    journal: Option<Journal>,
    /// How long the file was when it was written anew.
    rewritten_bytes: u64,
}

impl Known {
    /// What is known in a folder.
    pub(super) fn in_folder(folder: &Path) -> Self {
        let mut kept = Kept::default();
        let path = folder.join(FILE);
        let read = make_folder(folder).and_then(|()| journal::read::<Entry>(&path, HEAD, u64::MAX));
        let opened = read.and_then(|(entries, bytes)| {
            for (process, info) in entries {
                match info {
                    Some(info) => kept.processes.insert(process, info),
                    None => kept.processes.remove(&process),
                };
            }
            Journal::append(&path, HEAD, bytes)
        });
        match opened {
            Ok(journal) => kept.journal = Some(journal),
            Err(error) => tracing::warn!("how processes began: {error}"),
        }
        Self {
            folder: folder.to_owned(),
            kept: Mutex::new(kept),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, process: ProcessId) -> Option<ProcessInfo> {
        self.kept().processes.get(&process).cloned()
    }

    fn set(&self, process: ProcessId, info: Option<&ProcessInfo>) {
        let kept = &mut *self.kept();
        let is_known = match info {
            Some(info) => kept.processes.insert(process, info.clone()).as_ref() == Some(info),
            None => kept.processes.remove(&process).is_none(),
        };
        let written = match &mut kept.journal {
            Some(_) if is_known => return,
            Some(journal) => journal.add(&(process, info)).map(|()| journal.bytes()),
            None => Ok(u64::MAX),
        };
        let written =
            written.and_then(
                |bytes| match bytes >= REWRITE_BYTES.max(2 * kept.rewritten_bytes) {
                    true => self.rewrite(kept),
                    false => Ok(()),
                },
            );
        if let Err(error) = written {
            kept.journal = None;
            tracing::warn!("not remembered how a process began: {error}");
        }
    }

    /// Writes the file anew, without those that are gone.
    fn rewrite(&self, kept: &mut Kept) -> io::Result<()> {
        let new = self.folder.join(NEW);
        let mut journal = Journal::append(&new, HEAD, 0)?;
        for (process, info) in &kept.processes {
            journal.add(&(process, Some(info)))?;
        }
        fs::rename(new, self.folder.join(FILE))?;
        kept.rewritten_bytes = journal.bytes();
        kept.journal = Some(journal);
        Ok(())
    }
}

impl Hosting {
    /// Remembers how a process began. What is not remembered is only missed after a restore.
    pub(super) fn remember(&self, process: ProcessId, info: &ProcessInfo) {
        self.known.set(process, Some(info));
    }

    /// Forgets a process that is not here any more.
    pub(super) fn forget(&self, process: ProcessId) {
        self.known.set(process, None);
    }

    /// The same on the word of a record: unless that says that it is just coming.
    pub(super) fn forget_unless_arriving(&self, process: ProcessId, record: Option<Record>) {
        if record.is_none_or(|record| record.intent.is_none()) {
            self.forget(process);
        }
    }

    pub(super) fn remembered(&self, process: ProcessId) -> Option<ProcessInfo> {
        self.known.get(process)
    }

    /// All processes that run here, or stand still here for a move that may not have been decided.
    pub(crate) async fn announced(&self) -> Vec<Announced> {
        let Ok(runner) = self.runner() else {
            return Vec::new();
        };
        // However long it takes: nothing must not be said of a runner that hangs.
        let Ok(Answer::Seen(all)) = runner.answer(Order::LookAll, Vec::new()).await else {
            return Vec::new();
        };
        let here = all.into_iter().filter_map(|seen| match seen.holding {
            Holding::Running { epoch }
            | Holding::Incomplete { epoch, .. }
            | Holding::Frozen { epoch, .. } => {
                let info = Box::new(self.remembered(seen.process)?);
                Some(Announced {
                    process: seen.process,
                    epoch,
                    info,
                })
            }
            Holding::Made { .. }
            | Holding::Arriving { .. }
            | Holding::Ready { .. }
            | Holding::Exited { .. } => None,
        });
        here.collect()
    }
}

#[cfg(test)]
mod tests {
    use sterna_migration::NodeId;
    use sterna_process::{ProgramId, Tag};

    use super::*;

    fn process(number: u8) -> ProcessId {
        ProcessId::from_bytes([number; 16])
    }

    fn info(started_ms: u64) -> ProcessInfo {
        ProcessInfo {
            name: Some("server".into()),
            program: ProgramId::from_bytes([1; 32]),
            kind: Tag::new("wasm"),
            file: "server.wasm".into(),
            arguments: vec!["--fast".into()],
            started_ms,
            started_on: NodeId::from_bytes([2; 32]),
            parent: None,
            extra: vec![3; 40],
        }
    }

    #[test]
    fn what_is_known_is_there_again_and_what_is_gone_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let known = Known::in_folder(folder.path());
        known.set(process(1), Some(&info(1)));
        known.set(process(2), Some(&info(2)));
        known.set(process(1), Some(&info(3)));
        known.set(process(2), None);
        for known in [known, Known::in_folder(folder.path())] {
            assert_eq!(known.get(process(1)), Some(info(3)));
            assert_eq!(known.get(process(2)), None);
        }
    }

    #[test]
    fn the_file_does_not_grow_with_those_that_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let known = Known::in_folder(folder.path());
        known.set(process(1), Some(&info(1)));
        let file = folder.path().join(FILE);
        let mut longest = 0;
        for round in 0..10_000 {
            known.set(process(2), Some(&info(round)));
            known.set(process(2), None);
            longest = longest.max(fs::metadata(&file).unwrap().len());
        }
        assert!(longest < 2 * REWRITE_BYTES, "{longest}");
        assert_eq!(
            Known::in_folder(folder.path()).get(process(1)),
            Some(info(1))
        );
        assert!(!folder.path().join(NEW).exists());
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosting");
        fs::write(&path, "in the way").unwrap();
        let known = Known::in_folder(&path);
        known.set(process(1), Some(&info(1)));
        assert_eq!(known.get(process(1)), Some(info(1)));
        fs::remove_file(&path).unwrap();
        make_folder(&path).unwrap();
        known.set(process(2), Some(&info(2)));
        let again = Known::in_folder(&path);
        for number in [1, 2] {
            assert_eq!(again.get(process(number)), Some(info(number.into())));
        }
    }

    #[test]
    fn a_record_of_another_form_costs_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        let mut journal = Journal::append(&file, HEAD, 0).unwrap();
        journal.add(&(process(1), Some(info(1)))).unwrap();
        journal.add(&"something else").unwrap();
        journal.add(&(process(2), Some(info(2)))).unwrap();
        let known = Known::in_folder(folder.path());
        known.set(process(3), Some(&info(3)));
        let again = Known::in_folder(folder.path());
        for number in [1, 2, 3] {
            assert_eq!(again.get(process(number)), Some(info(number.into())));
        }
    }
}
