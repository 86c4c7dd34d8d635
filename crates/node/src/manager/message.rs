//! What a service asks of its manager, and what that answers.

use serde::{Deserialize, Serialize};
use sterna_process::{ProgramId, Tag, Waypoint};
use sterna_runner::message::WindowSize;

/// What a manager says first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    /// The kinds of processes that its runners host.
    pub kinds: Vec<Tag>,
    /// How well it is confined: `full`, or `partial` or `none` and what is missing.
    pub confinement: String,
}

/// Something that is to be done, with a number by which the answer is known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// The number.
    pub number: u64,
    /// What.
    pub errand: Errand,
}

/// What can be asked: the methods of a [`Workshop`](crate::Workshop).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Errand {
    /// Start a runner. Descriptors: a Unix stream socket that is bound to the runner's name in the data directory; the
    /// file there for what it has to say, to be appended to.
    StartRunner,
    /// Can it be started as a process of this kind without anything being built?
    Has(Tag, ProgramId),
    /// A program's file. With the answer comes its descriptor.
    Module(ProgramId),
    /// Make a program ready for processes of this kind. Descriptor: its bytes, in a memory file that nobody can change any
    /// more.
    Add(Tag),
    /// Put what processes of a program need to go on from places where runners find it.
    Prepare {
        /// Of which kind.
        kind: Tag,
        /// Of which program.
        program: ProgramId,
        /// Which places.
        waypoints: Vec<Waypoint>,
    },
    /// Do in the background what will make moves of processes of this kind and program quicker.
    ExpectMoves(Tag, ProgramId),
    /// Detach a directory. Descriptor: the directory, opened for reading; with the answer comes the mount's.
    Detach {
        /// Whether nothing may be changed through it.
        read_only: bool,
    },
    /// Do something with directories of users. Descriptors: the [`TreeDeed`](crate::trees::TreeDeed), encoded, in a memory
    /// file that nobody can change any more; its directories, opened for reading. With the answer comes such a file with
    /// what came of it.
    Tree,
    /// Make a terminal. With the answer come its master and the end for a process.
    Terminal(WindowSize),
}

/// What came of an errand.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answered {
    /// Of which.
    pub number: u64,
    /// What.
    pub answer: Answer,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done. What came of it is beside, as a descriptor.
    Done,
    /// Whether it is so.
    Is(bool),
    /// It is not done. Text for people.
    Failed(String),
}
