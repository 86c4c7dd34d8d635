//! What a process has wherever it is: [`Belongings`].

use serde::{Deserialize, Serialize};
use sterna_process::Limits;
use sterna_runner::message::WindowSize;

/// What a process has wherever it is: kept with its record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Belongings {
    /// How much it may use.
    pub limits: Limits,
    /// Its directories.
    pub bindings: Vec<Binding>,
    /// Whether it has a standard input.
    pub input: bool,
    /// If its standard streams are a terminal: how large that is at the start.
    pub terminal: Option<WindowSize>,
}

/// A directory of a process, and what becomes of it on a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Its absolute path as the process sees it.
    pub guest_path: String,
    /// Whether writing is forbidden.
    pub read_only: bool,
    /// What becomes of it.
    pub sort: BindingSort,
}

/// What becomes of a directory on a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindingSort {
    /// It stays, and the process with it.
    Fixed,
    /// Every node has one of this name, which its operator exports.
    Shared {
        /// The name.
        export: String,
    },
    /// A copy of it goes along.
    Copy,
}

/// Version of [`Belongings`] as they are kept, their first byte. Those of version 1 end before the terminal.
const BELONGINGS_VERSION: u8 = 2;

/// How `None` is written.
const NO_TERMINAL: u8 = 0;

impl Belongings {
    /// As they are kept with a record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("belongings can be written");
        [vec![BELONGINGS_VERSION], body].concat()
    }

    /// What was kept; `None` if a newer program did it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, body) = bytes.split_first()?;
        let body = match *version {
            1 => [body, &[NO_TERMINAL]].concat(),
            BELONGINGS_VERSION => body.to_vec(),
            _ => return None,
        };
        match postcard::take_from_bytes(&body) {
            Ok((belongings, [])) => Some(belongings),
            _ => None,
        }
    }
}
