//! What is asked of nodes about the processes that they host, and what they answer.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use sterna_migration::{Attempt, NodeId, Travel};
use sterna_process::{Description, Epoch, MemoryLayout, ProcessId, ProgramId, Stats, Tag};
use sterna_runner::bytes::Bytes;
use sterna_runner::message::{FileAnswer, FileDeed, WindowSize};

use super::{
    Belongings, Binding, Cloned, DrainNews, DrainOrder, EventRecord, Keeping, ListenOrder, LogPage,
    LogPart, MoveProgress, MoveReport, ProcessEntry, Recovered, RecoveredCopy, Room, ShelfReply,
    ShelfRequest, SnapshotOrder, ThawOrder, TreePage, TreeRound, TreeWish, TreesSent,
    is_process_name,
};
use crate::limits::{ARGUMENTS_BYTES_MAX, BINDINGS_MAX, FILE_BYTES_MAX};

/// Something about processes. Whatever concerns one that is on another node is passed on to that, once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum HostingRequest {
    /// Start a process. Descriptors: its directories that are fixed or copied, in their order.
    Start(Box<StartOrder>),
    /// All processes of the cluster, with how they are. Of very many [`HostingRequest::ListPage`] is to be asked for.
    List {
        /// Those that run nowhere too.
        ended: bool,
    },
    /// Those on the asked node alone.
    Held,
    /// Which processes may be meant by a text: a name, or the beginning of an id.
    Find {
        /// The text.
        text: String,
    },
    /// Do something to it.
    Steer {
        /// Which.
        process: ProcessId,
        /// What.
        deed: Deed,
    },
    /// What is it doing?
    Describe {
        /// Which.
        process: ProcessId,
    },
    /// What has it written?
    Log {
        /// Which.
        process: ProcessId,
        /// From which byte of its output on.
        after: u64,
        /// For how long to wait if there is nothing yet.
        wait_ms: u64,
    },
    /// A part of its output that the asked node has.
    LogPart {
        /// Which.
        process: ProcessId,
        /// From which byte on.
        after: u64,
    },
    /// Something for its standard input.
    Input {
        /// Which.
        process: ProcessId,
        /// What.
        bytes: Vec<u8>,
        /// Whether this is the end.
        end: bool,
    },
    /// Answers when it runs nowhere any more, or after a while with how it is then.
    Wait {
        /// Which.
        process: ProcessId,
    },
    /// Move it.
    Move {
        /// Which.
        process: ProcessId,
        /// Where to.
        target: NodeId,
        /// Only say whether it could be moved.
        dry_run: bool,
    },
    /// Answers when a move has ended, or after a while.
    MoveNews {
        /// From where.
        source: NodeId,
        /// Which move.
        attempt: Attempt,
    },
    /// Give a move up.
    CancelMove {
        /// From where.
        source: NodeId,
        /// Which move.
        attempt: Attempt,
    },
    /// How much room is there?
    Capacity,
    /// Events after a number, of this node.
    Events {
        /// The last number that is known.
        after: u64,
        /// For how long to wait if there is none.
        wait_ms: u64,
    },
    /// Between nodes: a [`Message`](sterna_migration::Message) of a move.
    Message {
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Between nodes: a connection for the image and pages of a move, before version 3 of the protocol.
    Channel {
        /// Of which.
        attempt: Attempt,
    },
    /// Between nodes: a piece of a program.
    Program {
        /// Which.
        program: ProgramId,
        /// From which byte on.
        offset: u64,
    },
    /// See to its snapshots.
    Snapshot {
        /// Of which process.
        process: ProcessId,
        /// What.
        order: SnapshotOrder,
    },
    /// Go on with a lost process from what is newest: a copy that a node has kept, or a snapshot.
    Recover {
        /// Which.
        process: ProcessId,
        /// Where; where the copy is, or at the asked node, if nothing is said. Descriptors, at the asked node: its
        /// directories that are fixed, in their order.
        on: Option<NodeId>,
    },
    /// Make another process that is where this one is now.
    Clone {
        /// The original.
        process: ProcessId,
        /// Where the new one is to run.
        target: NodeId,
    },
    /// Write a process into a file. Descriptors: a pipe for its [copy](sterna_runner::copy), and a socket. On that
    /// comes, when the file is safe, the seal of what the file gives; a socket that ends before means that there is no
    /// file, and the process runs on. Between nodes both go over the stream of the request.
    Freeze {
        /// Which.
        process: ProcessId,
        /// Whether it runs on: then nothing comes on the socket.
        keep: bool,
        /// The file, for people.
        file: String,
    },
    /// Go on with a process from a file.
    Thaw(Box<ThawOrder>),
    /// Between nodes: an object that the asked node keeps.
    Shelf {
        /// The folder: of snapshots of this process.
        folder: ProcessId,
        /// What.
        request: ShelfRequest,
    },
    /// Between nodes: make a process of what is in the folder that has its name.
    Adopt {
        /// Its name.
        process: ProcessId,
        /// By which the folder's manifest is known.
        key: sterna_snapshot::Key,
        /// What it is a clone of.
        parent: ProcessId,
    },
    /// Between nodes: may a process come that is bound so?
    MayCome {
        /// Its kind.
        kind: Tag,
        /// What it is bound to.
        bindings: Vec<Binding>,
        /// Its memory, in bytes.
        memory_bytes: u64,
    },
    /// How is it, and what does it have?
    Look {
        /// Which.
        process: ProcessId,
    },
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
    /// A piece of the program of a process.
    ProgramOf {
        /// Of which process.
        process: ProcessId,
        /// From which byte on.
        offset: u64,
    },
    /// Events after a number, of any node.
    EventsOf {
        /// Which node.
        node: NodeId,
        /// The last number that is known.
        after: u64,
        /// For how long to wait if there is none.
        wait_ms: u64,
    },
    /// Between nodes: is there room for copies of directories, if a process comes?
    TreesMayCome {
        /// Which process.
        process: ProcessId,
        /// How much is in them, in bytes.
        bytes: u64,
        /// In how many files, directories and links.
        entries: u64,
    },
    /// Between nodes, asked by the target of a move: what is in the copies of directories?
    Tree {
        /// Which move.
        attempt: Attempt,
        /// When.
        round: TreeRound,
        /// From which entry on.
        after: u32,
    },
    /// Between nodes, asked by the target of a move: contents of files that were listed.
    TreePieces {
        /// Which move.
        attempt: Attempt,
        /// In which list.
        round: TreeRound,
        /// Which.
        wishes: Vec<TreeWish>,
    },
    /// Between nodes, said by the source of a move: the process stands still, so get what has changed in copies of
    /// directories. Answered when it is there.
    TreesStill {
        /// Which move.
        attempt: Attempt,
    },
    /// Between nodes: a process was forgotten, so nobody needs what is left of it.
    Forgotten {
        /// Which.
        process: ProcessId,
    },
    /// Empty a node before its machine goes.
    Drain {
        /// Which.
        node: NodeId,
        /// What is to be done about that.
        order: DrainOrder,
    },
    /// How much room do all nodes have?
    Rooms,
    /// Start a process with ports. Descriptors: as for `Start`.
    StartListening {
        /// The process.
        order: Box<StartOrder>,
        /// Its ports.
        listens: Vec<ListenOrder>,
    },
    /// Between nodes: open a port for a process that is about to start.
    Listen {
        /// Which process.
        process: ProcessId,
        /// Which of its ports.
        index: u32,
        /// The number that the port is to have; 0: any that is free.
        port: u16,
    },
    /// Between nodes: a process was not started, so close its ports.
    Unlisten {
        /// Which process.
        process: ProcessId,
    },
    /// Between nodes: clients of a process of the asking one. After `Done` there are [frames](sterna_ingress::Frame) both ways.
    Clients {
        /// Which process.
        process: ProcessId,
        /// Which of its ports.
        index: u32,
        /// The number that the port has, or had.
        port: u16,
    },
    /// Move it, and its memory so. From version 3 of the protocol on.
    MoveSo {
        /// Which.
        process: ProcessId,
        /// Where to.
        target: NodeId,
        /// How its memory is to travel.
        travel: Travel,
        /// Only say whether it could be moved.
        dry_run: bool,
    },
    /// Answers when a move has made another round or ended, or after a while. From version 3 of the protocol on.
    MoveProgress {
        /// From where.
        source: NodeId,
        /// Which move.
        attempt: Attempt,
        /// Rounds that are known.
        after: u32,
    },
    /// Between nodes: is a copy kept of a process that is lost? From version 3 of the protocol on.
    KeptCopy {
        /// Which.
        process: ProcessId,
    },
    /// Between nodes: the asking node has a port of a process of the asked one, and ends: open it here. From version 3 on.
    TakePort {
        /// Which process.
        process: ProcessId,
        /// Which of its ports.
        index: u32,
    },
    /// Some of all processes of the cluster, with how they are. From version 3 of the protocol on.
    ListPage {
        /// Those that run nowhere too.
        ended: bool,
        /// The last one that is known: `next` of [`HostingReply::ListedPage`].
        after: Option<ProcessId>,
    },
    /// Between nodes: a connection for a move is to be made, with a secret from this session and a salt. From version 3 on.
    SaltedChannel(Attempt, [u8; 16]),
    /// `Thaw` at any node. Between nodes only the copy comes, over the stream of the request. From version 3 on.
    ThawAt(Box<ThawOrder>, NodeId),
    /// Between nodes: a part of its output that the asked node has. From version 3 of the protocol on.
    LogPartBefore {
        /// Which.
        process: ProcessId,
        /// From which byte on.
        after: u64,
        /// What was written from this epoch on does not count.
        before: Epoch,
    },
}

/// What is done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// Let it stand still.
    Pause,
    /// Let it run on.
    Resume,
    /// End it.
    Kill,
    /// Forget it, if it runs nowhere.
    Forget,
}

/// A process that is to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartOrder {
    /// Where.
    pub place: Where,
    /// What it is to be called.
    pub name: Option<String>,
    /// Its program, which the asked node has.
    pub program: ProgramId,
    /// Its kind.
    pub kind: Tag,
    /// The file of the program, for people.
    pub file: String,
    /// Arguments, in bytes.
    pub arguments: Vec<Vec<u8>>,
    /// Environment variables, in bytes.
    pub variables: Vec<(Vec<u8>, Vec<u8>)>,
    /// The function to call instead of the usual entry.
    pub entry: Option<String>,
    /// What it has wherever it is.
    pub belongings: Belongings,
}

/// Where a process is to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Where {
    /// At the node that is asked.
    Here,
    /// At this one.
    At(NodeId),
    /// Where there is most room.
    Anywhere,
}

impl StartOrder {
    /// Whether it keeps to the limits.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let arguments: usize = self.arguments.iter().map(|one| one.len() + 1).sum();
        let bindings = &self.belongings.bindings;
        let is_path = |path: &str| path.starts_with('/') && path.len() <= FILE_BYTES_MAX;
        self.name.as_deref().is_none_or(is_process_name)
            && self.file.len() <= FILE_BYTES_MAX
            && arguments <= ARGUMENTS_BYTES_MAX
            && bindings.len() <= BINDINGS_MAX
            && bindings.iter().all(|binding| is_path(&binding.guest_path))
    }
}

/// An answer to a [`HostingRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum HostingReply {
    /// It was started.
    Started {
        /// Its name.
        process: ProcessId,
        /// Where.
        node: NodeId,
    },
    /// All processes.
    Listed(Vec<Listed>),
    /// Those of the node.
    Held(Vec<Brief>),
    /// To [`HostingRequest::Find`].
    Found(Found),
    /// To [`HostingRequest::Describe`].
    Described(Box<Description>),
    /// To [`HostingRequest::Log`] and [`HostingRequest::LogPart`].
    Log(LogPage),
    /// To [`HostingRequest::Wait`].
    Waited(Box<ProcessEntry>),
    /// A move has begun.
    Moving {
        /// From where: there is its news.
        source: NodeId,
        /// Which.
        attempt: Attempt,
    },
    /// It could be moved.
    CouldMove {
        /// From where.
        source: NodeId,
        /// Its memory now, in bytes.
        memory_bytes: u64,
    },
    /// To [`HostingRequest::MoveNews`]; `None` if it goes on.
    MoveNews(Option<Box<MoveReport>>),
    /// To [`HostingRequest::Capacity`].
    Capacity(Capacity),
    /// To [`HostingRequest::Events`].
    Events(Vec<EventRecord>),
    /// To [`HostingRequest::Channel`]: where to connect.
    Channel {
        /// The TCP port.
        port: u16,
    },
    /// To [`HostingRequest::Snapshot`].
    Keeping(Box<Keeping>),
    /// To [`HostingRequest::Recover`].
    Recovered(Box<Recovered>),
    /// To [`HostingRequest::Clone`] and [`HostingRequest::Adopt`].
    Cloned(Cloned),
    /// To [`HostingRequest::Freeze`].
    Frozen {
        /// For how many microseconds it stood still, if it runs on.
        stood_us: u64,
    },
    /// To [`HostingRequest::Thaw`].
    Thawed {
        /// Its name now.
        process: ProcessId,
        /// Where.
        node: NodeId,
        /// Why it is not the one that was frozen, if it is not.
        why_new: Option<String>,
    },
    /// To [`HostingRequest::Shelf`].
    Shelf(ShelfReply),
    /// To [`HostingRequest::Program`] and [`HostingRequest::ProgramOf`].
    Program {
        /// Its whole length.
        total: u64,
        /// The piece.
        bytes: Vec<u8>,
    },
    /// To [`HostingRequest::Look`].
    Looked(Box<Looked>),
    /// To [`HostingRequest::Input`]: how many bytes were taken. If not all, the rest can be given again, and then the end.
    Took(u64),
    /// To [`HostingRequest::File`].
    File(FileAnswer),
    /// To [`HostingRequest::Tree`].
    Tree(TreePage),
    /// To [`HostingRequest::TreePieces`], in their order. Zeros at the end of a piece are left out.
    TreePieces(Vec<Bytes>),
    /// To [`HostingRequest::MoveNews`], if directories are copied along.
    MovedWithCopies(Box<MoveReport>, TreesSent),
    /// To [`HostingRequest::Drain`].
    Drain(Box<DrainNews>),
    /// To [`HostingRequest::Rooms`]: of those that answer.
    Rooms(Vec<Room>),
    /// To [`HostingRequest::Listen`] and [`HostingRequest::TakePort`]: where.
    Listening(SocketAddr),
    /// To [`HostingRequest::MoveProgress`].
    MoveProgress(MoveProgress),
    /// To [`HostingRequest::KeptCopy`]: its epoch.
    KeptCopy(Option<Epoch>),
    /// To [`HostingRequest::Recover`], if it goes on from a copy that was kept.
    RecoveredCopy(Box<RecoveredCopy>),
    /// To [`HostingRequest::ListPage`].
    ListedPage {
        /// Some processes.
        listed: Vec<Listed>,
        /// If there are more: the last one.
        next: Option<ProcessId>,
    },
    /// To [`HostingRequest::LogPartBefore`].
    LogPart(LogPart),
}

/// A process as its node sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Looked {
    /// Where it is.
    pub node: NodeId,
    /// How it is.
    pub brief: Brief,
    /// Its memory.
    pub layout: MemoryLayout,
    /// Whether it has a standard input.
    pub has_input: bool,
    /// The size of its terminal, if it has one.
    pub terminal: Option<WindowSize>,
}

/// A process as it is listed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listed {
    /// What the registry knows.
    pub entry: ProcessEntry,
    /// How it is, if its node answered.
    pub brief: Option<Brief>,
    /// How its snapshots are kept, if they are.
    pub keeping: Option<Keeping>,
}

/// How a process is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brief {
    /// Which.
    pub process: ProcessId,
    /// What it has used.
    pub stats: Stats,
    /// What is being done with it.
    pub doing: Option<String>,
    /// Bytes of output until now.
    pub output_bytes: u64,
}

/// Who may be meant.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Found {
    /// Those that fit: living ones, and if there is none, others.
    pub entries: Vec<ProcessEntry>,
    /// If nothing fits: names of living ones, to suggest some.
    pub names: Vec<String>,
}

/// How much room a node has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Processors.
    pub processors: u32,
    /// Processes that are ready to run, in hundredths (the load average of one minute).
    pub load_hundredths: u32,
    /// Memory that could be used, in bytes.
    pub memory_available_bytes: u64,
    /// Processes that it hosts.
    pub processes: u32,
}
