//! What the registry knows of a process beside its record: how it began, how it ended, and what it is called.

use serde::{Deserialize, Serialize};
use sterna_migration::{Life, NodeId, Record};
use sterna_process::{Epoch, Exit, ProcessId, ProgramId, Tag};

use crate::limits::{
    ARGUMENTS_BYTES_MAX, EXTRA_BYTES_MAX, FILE_BYTES_MAX, PROCESS_NAME_BYTES_MAX, TEXT_BYTES_MAX,
};

/// How a process began. Written once, with its first record, but for `extra`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// What it is to be called, which no other living process of the cluster is.
    pub name: Option<String>,
    /// What it was started from.
    pub program: ProgramId,
    /// Its kind, e.g. `wasm`.
    pub kind: Tag,
    /// The file that it was started from, for people. May be empty.
    pub file: String,
    /// What it was given.
    pub arguments: Vec<String>,
    /// When, in milliseconds since 1970, by the clock of the node that started it.
    pub started_ms: u64,
    /// Where it was started.
    pub started_on: NodeId,
    /// What it is a clone of.
    pub parent: Option<Parent>,
    /// What the service that started it keeps of it, e.g. limits and bindings. The registry does not look at it.
    pub extra: Vec<u8>,
}

/// What a clone was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The original.
    pub process: ProcessId,
    /// How long the original's log was, in bytes: up to there it is the clone's too.
    pub log_offset: u64,
}

impl ProcessInfo {
    /// Whether it keeps to the limits and is fit to be shown.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let arguments: usize = self.arguments.iter().map(|one| one.len() + 1).sum();
        self.name.as_deref().is_none_or(is_process_name)
            && self.file.len() <= FILE_BYTES_MAX
            && arguments <= ARGUMENTS_BYTES_MAX
            && self.extra.len() <= EXTRA_BYTES_MAX
    }
}

/// Whether a process may be called so: 1 to 200 bytes that a terminal shows as they are, in one word.
#[must_use]
pub fn is_process_name(name: &str) -> bool {
    let shown = sterna_process::Plain(name).to_string() == name;
    (1..=PROCESS_NAME_BYTES_MAX).contains(&name.len())
        && shown
        && !name.contains(char::is_whitespace)
}

/// How a process came to run nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// When, in milliseconds since 1970, by the registry's clock.
    pub at_ms: u64,
    /// Where.
    pub node: NodeId,
    /// In what way.
    pub how: How,
}

/// In what way a process came to run nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    /// It ended, or was killed.
    Exited(Exit),
    /// It ended, and the node that wrote this down did not see how.
    Unseen,
    /// Its runner died, and it with it.
    Lost {
        /// For people. May be empty.
        reason: String,
    },
    /// It was frozen into a file, from which it can go on.
    Frozen {
        /// The file's path on that node, for people.
        file: String,
    },
}

impl How {
    /// The same with all texts at most as long as they may be.
    #[must_use]
    pub fn bounded(self) -> Self {
        let cut = |mut text: String, max| {
            text.truncate(text.floor_char_boundary(max));
            text
        };
        match self {
            Self::Exited(exit) => Self::Exited(exit.bounded()),
            Self::Lost { reason } => Self::Lost {
                reason: cut(reason, TEXT_BYTES_MAX),
            },
            Self::Frozen { file } => Self::Frozen {
                file: cut(file, FILE_BYTES_MAX),
            },
            Self::Unseen => self,
        }
    }

    /// What is written down if a node says nothing; `None` of what runs.
    #[must_use]
    pub const fn of(life: Life) -> Option<Self> {
        match life {
            Life::Alive => None,
            Life::Ended => Some(Self::Unseen),
            Life::Lost => Some(Self::Lost {
                reason: String::new(),
            }),
            Life::Frozen(_) => Some(Self::Frozen {
                file: String::new(),
            }),
        }
    }

    /// Whether a record may say so.
    #[must_use]
    pub const fn fits(&self, life: Life) -> bool {
        matches!(
            (self, life),
            (Self::Exited(_) | Self::Unseen, Life::Ended)
                | (Self::Lost { .. }, Life::Lost)
                | (Self::Frozen { .. }, Life::Frozen(_))
        )
    }
}

/// A process that a node has, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Which.
    pub process: ProcessId,
    /// The epoch in which the node has it.
    pub epoch: Epoch,
    /// How it began, in case the registry has never heard of it.
    pub info: Box<ProcessInfo>,
}

/// A process, as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEntry {
    /// Which.
    pub process: ProcessId,
    /// Who owns it, [encoded](Record::encode).
    pub record: Vec<u8>,
    /// When the record was changed last, in milliseconds since 1970, by the registry's clock.
    pub changed_ms: u64,
    /// What it is called. Of one that runs nowhere: was called, and another may be now.
    pub name: Option<String>,
    /// How it began.
    pub info: ProcessInfo,
    /// How it ended, if it runs nowhere.
    pub ending: Option<Ending>,
}

impl ProcessEntry {
    /// Who owns it.
    ///
    /// # Errors
    /// It was written by a newer program.
    pub fn record(&self) -> Result<Record, sterna_migration::WireError> {
        Record::decode(&self.record)
    }
}

/// Some of all processes, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPage {
    /// The registry's revision before the page was read: what changes later is told to who asks with
    /// [`ProcessesChanged`](super::RegistryRequest::ProcessesChanged) after it.
    pub revision: u64,
    /// The processes.
    pub entries: Vec<ProcessEntry>,
    /// After which to ask for more, if there may be more.
    pub next: Option<ProcessId>,
}

/// Some of the records that concern a node, in the order of their processes' ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordPage {
    /// Processes and their records, encoded.
    pub records: Vec<(ProcessId, Vec<u8>)>,
    /// After which to ask for more, if there may be more.
    pub next: Option<ProcessId>,
}
