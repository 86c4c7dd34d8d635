//! What a service orders its runner to do, and what the runner says.
//!
//! Orders are numbered; each is answered once, but for [`Order::Step`] and [`Order::Channel`], of which events come.
//! Whatever has to be opened is opened by the service, or by the user, and comes as descriptors with the order.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sterna_migration::{Attempt, Command, Holding, MoveId, NodeId, RoundGoing, RunnerEvent};
use sterna_process::{
    Description, Epoch, Exit, Limits, MemoryLayout, ProcessId, ProgramId, Stats, Tag,
};

/// Something a runner is to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// What do you hold? From now on whatever an earlier service has ordered and is not done yet is void.
    Holdings,
    /// Start a process. Descriptors: as [`Place`] says.
    Spawn(Box<Spawn>),
    /// A step of a move. With [`Command::Prepare`] comes the place that the process will have.
    Step {
        /// What.
        command: Command,
        /// For `Prepare`. Descriptors: as it says.
        place: Option<Box<Place>>,
    },
    /// A connection to the other runner of a move, and the secret that both have. Descriptor: the connection.
    Channel {
        /// Which move.
        attempt: Attempt,
        /// From which the keys are derived.
        secret: Secret,
        /// Which end of it this runner is.
        side: Side,
    },
    /// How is this process?
    Look(ProcessId),
    /// How are all?
    LookAll,
    /// What is it doing?
    Describe(ProcessId),
    /// Let it stand still until it is resumed.
    Pause(ProcessId),
    /// Let it run on.
    Resume(ProcessId),
    /// End it.
    Kill(ProcessId),
    /// Something for its standard input.
    Input {
        /// Whose.
        process: ProcessId,
        /// What.
        bytes: Vec<u8>,
        /// Whether this is the end.
        end: bool,
    },
    /// The answer to [`Said::Need`].
    Had {
        /// The number of the need.
        number: u64,
        /// Whether it is there now.
        result: Result<(), String>,
    },
    /// End all processes, and yourself.
    End,
    /// Make its terminal so large.
    Resize {
        /// Whose.
        process: ProcessId,
        /// How large.
        size: WindowSize,
    },
    /// Something with a file beneath a directory of it.
    File {
        /// Whose.
        process: ProcessId,
        /// What.
        deed: FileDeed,
    },
    /// Write a [copy](crate::copy) of a process. Descriptor: where to.
    Copy {
        /// Which.
        process: ProcessId,
        /// Let it stand still afterwards.
        hold: Option<Hold>,
    },
    /// Let a process run on that is held.
    Release {
        /// Which.
        process: ProcessId,
        /// By what it is held.
        move_id: MoveId,
    },
    /// Let go of a process that is held, or was made and does not run.
    Drop {
        /// Which.
        process: ProcessId,
        /// By what it is held.
        move_id: MoveId,
    },
    /// Make a process of a copy, which stands still until [`Command::Resume`]. Descriptors: the copy; then as [`Place`]
    /// says.
    Make(Box<Make>),
    /// A way to the ingress of a port of a process, in place of the one before. Descriptor: a stream socket, on which
    /// [frames](sterna_ingress::Frame) go.
    Attach {
        /// Whose.
        process: ProcessId,
        /// Which port, in their order.
        port: u32,
    },
}

/// For what a process is to stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Until it is released or dropped under this name.
    pub name: MoveId,
    /// Of the record that will be swapped: it is in this epoch from then on. A resumption that belongs to it or an older
    /// one, and comes late, does not let it run.
    pub epoch: Epoch,
}

/// Which end of a channel a runner is. Its service knows, which has made or taken the connection: a node that connects
/// gets nothing of a process by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// The process is here: its service has connected to the target.
    Source {
        /// Whether this is one more connection, for memory that follows the process.
        lane: bool,
    },
    /// The process is to come: this node has connected, as the other end of a session that it alone can have.
    Target {
        /// Which node.
        source: NodeId,
        /// Whether this is one more connection, for memory that follows the process.
        lane: bool,
    },
}

/// 256 bits that two runners have in common. `Debug` keeps them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A process that is to be started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spawn {
    /// Its name.
    pub process: ProcessId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its kind.
    pub kind: Tag,
    /// Its program, which is installed.
    pub program: ProgramId,
    /// Arguments, in bytes; the first is the program's name.
    pub arguments: Vec<Vec<u8>>,
    /// Environment variables: names and values, in bytes.
    pub variables: Vec<(Vec<u8>, Vec<u8>)>,
    /// The function to call instead of the usual entry.
    pub entry: Option<String>,
    /// What it has on this node.
    pub place: Place,
}

/// A process that is to be made of a copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Make {
    /// Its name.
    pub process: ProcessId,
    /// The epoch of its record until now: it is resumed in the next one, when this node has that.
    pub epoch: Epoch,
    /// The epoch in which it will run.
    pub log_epoch: Epoch,
    /// Nobody else has ever had it: its output begins here. Such a one is void when another service comes.
    pub is_new: bool,
    /// By which it can be dropped again.
    pub move_id: MoveId,
    /// What it has on this node.
    pub place: Place,
}

/// What a process has on this node. Descriptors come in this order: its log, open for appending; if it has a terminal, that's
/// master and the process's end; then each directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// How much it may use.
    pub limits: Limits,
    /// Its directories, as it knows them.
    pub directories: Vec<PlacedDirectory>,
    /// Whether it has a standard input, on which [`Order::Input`] comes; otherwise that is empty.
    pub input: bool,
    /// From where it came: there the log is that goes before the one here.
    pub came_from: Option<NodeId>,
    /// Whether its standard streams are a terminal.
    pub terminal: bool,
    /// Names of its ports.
    pub ports: Vec<String>,
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// In a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Something with files beneath the directories of a process. Paths are the process's own, absolute; whatever they lead to
/// lies beneath the directory that the process was given, or is an error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FileDeed {
    /// What is there?
    Look {
        /// The path.
        path: String,
    },
    /// What is in a directory?
    List {
        /// The path.
        path: String,
        /// In the order of names, after this one.
        after: Option<String>,
    },
    /// A piece of a file.
    Read {
        /// The path.
        path: String,
        /// From which byte on.
        offset: u64,
    },
    /// Put these bytes into a file, which is made if there is none, and cut to where they begin.
    Write {
        /// The path.
        path: String,
        /// From which byte on.
        offset: u64,
        /// What.
        #[serde(with = "crate::bytes")]
        bytes: Vec<u8>,
        /// Permissions of a file that is made; the process's own umask does not count.
        mode: u32,
    },
    /// Make a directory, unless there is one.
    MakeDirectory {
        /// The path.
        path: String,
    },
    /// Put these bytes into a file that is there, and leave the rest of it as it is.
    Put {
        /// The path.
        path: String,
        /// From which byte on.
        offset: u64,
        /// What.
        #[serde(with = "crate::bytes")]
        bytes: Vec<u8>,
    },
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Of which sort.
    pub sort: FileSort,
    /// Its length, in bytes.
    pub bytes: u64,
    /// Its permissions.
    pub mode: u32,
}

/// Sorts of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileSort {
    /// With contents.
    File,
    /// With entries.
    Directory,
    /// A symbolic link.
    Link,
    /// Socket, pipe, device.
    Other,
}

/// What comes of a [`FileDeed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileAnswer {
    /// It is this, or was made.
    Facts(FileFacts),
    /// Some entries, by name. None: there are no more.
    Entries(Vec<(String, FileFacts)>),
    /// A piece. Empty: the file ends there.
    Piece(#[serde(with = "crate::bytes")] Vec<u8>),
}

/// A directory of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedDirectory {
    /// Its absolute path as the process sees it.
    pub guest_path: String,
    /// Whether writing is forbidden.
    pub read_only: bool,
}

/// Something a runner says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    /// The answer to an order.
    Answer {
        /// The order's number.
        number: u64,
        /// What came of it; text for people if nothing did.
        answer: Result<Answer, String>,
    },
    /// Something of a move, or an end.
    Event(RunnerEvent),
    /// How a process ended. Comes before [`RunnerEvent::Exited`].
    Ended(Ended),
    /// So long a move's process was watched for a good moment before it was stopped.
    Watched {
        /// Which move.
        attempt: Attempt,
        /// Microseconds from the order to pause until it was told to stand still.
        us: u64,
        /// Whether all that it needs to go on had been made ready by then.
        ready: bool,
    },
    /// The runner needs what only its service may make: all that processes of a program need to go on from places.
    Need {
        /// To be given back.
        number: u64,
        /// Their kind.
        kind: Tag,
        /// The program.
        program: ProgramId,
        /// Places, as [`Waypoint`](sterna_process::Waypoint)s.
        waypoints: Vec<sterna_process::Waypoint>,
    },
    /// How far a round is that takes its time.
    Going {
        /// Which move.
        attempt: Attempt,
        /// How far.
        going: RoundGoing,
    },
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which.
    pub process: ProcessId,
    /// In which epoch.
    pub epoch: Epoch,
    /// How.
    pub exit: Exit,
    /// What it has used.
    pub stats: Stats,
    /// When.
    pub at: SystemTime,
}

/// An answer to an [`Order`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// To [`Order::Holdings`].
    Holdings(Holdings),
    /// To [`Order::Look`] and [`Order::LookAll`].
    Seen(Vec<Seen>),
    /// To [`Order::Describe`].
    Described(Box<Description>),
    /// To [`Order::Input`]: how many bytes were taken. If not all, the rest can be given again, and then the end.
    Took(u64),
    /// To [`Order::File`].
    File(FileAnswer),
    /// To [`Order::Copy`]: for how many microseconds it stood still.
    Copied(u64),
}

/// By what memory moves while its process runs, tried where processes are hosted: each is `userfaultfd`, or `none` and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paging {
    /// How the pages that a process writes are found. Without this, all of its memory goes while it stands still.
    pub dirty_pages: String,
    /// How a process waits for pages that come after it. Without this, none comes here before its memory.
    pub post_copy: String,
}

/// All that a runner has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Holdings {
    /// How it is confined, for people.
    pub confinement: String,
    /// By what memory moves.
    pub paging: Paging,
    /// Whether it takes directories.
    pub takes_directories: bool,
    /// Its processes.
    pub held: Vec<(ProcessId, Holding)>,
    /// How those ended that have.
    pub ended: Vec<Ended>,
}

/// A process as its runner sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// Which.
    pub process: ProcessId,
    /// What is held of it.
    pub holding: Holding,
    /// Its program.
    pub program: ProgramId,
    /// Its kind.
    pub kind: Tag,
    /// What it has used.
    pub stats: Stats,
    /// Its memory.
    pub layout: MemoryLayout,
    /// What is being done with it.
    pub doing: Option<String>,
    /// Bytes of output that it has written since it was first started.
    pub output_bytes: u64,
    /// Whether it has a standard input.
    pub has_input: bool,
    /// The size of its terminal, if it has one.
    pub terminal: Option<WindowSize>,
}

/// With a number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Numbered {
    /// The number.
    pub number: u64,
    /// The order.
    pub order: Order,
}
