//! What a process has wherever it is: [`Belongings`].

use serde::{Deserialize, Serialize};
use sterna_process::Limits;
use sterna_runner::message::WindowSize;

use super::Listen;

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
    /// Ports at which clients reach it. Not in an order: the node that starts the process opens them.
    #[serde(skip)]
    pub listens: Vec<Listen>,
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

/// Newest version of [`Belongings`] as they are kept, their first byte. Those of version 1 end before the terminal, those
/// of version 2 before the ports. Each is written in the oldest version that can say it, which most nodes read.
const BELONGINGS_VERSION: u8 = 3;

/// How `None` is written.
const NO_TERMINAL: u8 = 0;

impl Belongings {
    /// As they are kept with a record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("belongings can be written");
        if self.listens.is_empty() {
            return [vec![2], body].concat();
        }
        let listens = postcard::to_stdvec(&self.listens).expect("ports can be written");
        [vec![BELONGINGS_VERSION], body, listens].concat()
    }

    /// What was kept; `None` if a newer program did it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, body) = bytes.split_first()?;
        let body = match *version {
            1 => [body, &[NO_TERMINAL]].concat(),
            2..=BELONGINGS_VERSION => body.to_vec(),
            _ => return None,
        };
        let (mut belongings, rest): (Self, &[u8]) = postcard::take_from_bytes(&body).ok()?;
        if *version < BELONGINGS_VERSION {
            return rest.is_empty().then_some(belongings);
        }
        match postcard::take_from_bytes(rest) {
            Ok((listens, [])) => {
                belongings.listens = listens;
                Some(belongings)
            }
            _ => None,
        }
    }
}
