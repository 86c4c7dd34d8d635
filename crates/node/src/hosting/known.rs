//! What this node itself remembers of its processes, so that a registry which was restored from an old copy hears of
//! them.
//!
//! ```text
//! DATA/hosting/known/PROCESS      version u8 │ ProcessInfo in postcard
//! ```

use std::fs;
use std::io;
use std::path::PathBuf;

use sterna_migration::{Holding, Record};
use sterna_process::ProcessId;
use sterna_runner::message::{Answer, Order};

use super::Hosting;
use super::runner::make_folder;
use crate::message::{Announced, ProcessInfo};
use crate::wire::encode_plain;

const VERSION: u8 = 1;

impl Hosting {
    fn known(&self, process: ProcessId) -> PathBuf {
        self.folder.join("known").join(process.to_string())
    }

    /// Remembers how a process began. What is not remembered is only missed after a restore.
    pub(super) fn remember(&self, process: ProcessId, info: &ProcessInfo) {
        let path = self.known(process);
        let bytes = [vec![VERSION], encode_plain(info)].concat();
        let written = make_folder(&self.folder.join("known")).and_then(|()| fs::write(path, bytes));
        if let Err(error) = written {
            tracing::warn!("not remembered how a process began: {error}");
        }
    }

    /// Forgets a process that is not here any more.
    pub(super) fn forget(&self, process: ProcessId) {
        match fs::remove_file(self.known(process)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!("a process is not forgotten: {error}");
            }
            _ => {}
        }
    }

    /// The same on the word of a record: unless that says that it is just coming.
    pub(super) fn forget_unless_arriving(&self, process: ProcessId, record: Option<Record>) {
        if record.is_none_or(|record| record.intent.is_none()) {
            self.forget(process);
        }
    }

    pub(super) fn remembered(&self, process: ProcessId) -> Option<ProcessInfo> {
        let bytes = fs::read(self.known(process)).ok()?;
        match bytes.split_first()? {
            (&VERSION, body) => postcard::from_bytes(body).ok(),
            _ => None,
        }
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
