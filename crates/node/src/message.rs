//! What is asked of a node, and what it answers. Who may ask for what is decided at the [door](crate::door).

mod belongings;
mod draining;
mod effect;
mod events;
mod hosting;
mod ingress;
mod keeping;
mod logs;
mod moving;
mod process;
mod registry;
mod trees;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sterna_migration::{Grant, NodeId};
use sterna_process::ProcessId;
use sterna_runner::message::Paging;

use crate::handover::Handover;
use crate::limits::{ADDRESSES_MAX, NAME_BYTES_MAX, TEXT_BYTES_MAX};
use crate::ticket::{Seal, Secret};
pub use belongings::{Belongings, Binding, BindingSort};
pub use draining::{
    DrainEntry, DrainFate, DrainNews, DrainOrder, DrainPort, DrainStage, PortFate, RegistryFate,
    Room,
};
pub(crate) use effect::Effect;
pub use events::{EventRecord, EventSort};
pub use hosting::{
    Brief, Capacity, Deed, Found, HostingReply, HostingRequest, Listed, Looked, StartOrder, Where,
};
pub use ingress::{Listen, ListenOrder};
pub use keeping::{
    Cloned, Keeper, Keeping, KeepingsOf, LastSnapshot, Recovered, RecoveredCopy, ShelfReply,
    ShelfRequest, SnapshotOrder, ThawOrder,
};
pub use logs::{LaterPart, LogPage, LogPart, Missing};
pub use moving::{MoveEnd, MoveProgress, MoveReport, RoundNews};
pub use process::{
    Announced, Ending, How, Parent, ProcessEntry, ProcessInfo, ProcessPage, RecordPage,
    is_process_name,
};
pub use registry::{Piece, RegistryStatus, StoreStatus};
pub use trees::{TreeEntry, TreeNode, TreePage, TreeRound, TreeWish, TreesSent};

/// A question, or an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Who are you, and how are you?
    Status,
    /// Which nodes are there, and do they answer?
    Nodes,
    /// Make a ticket.
    Invite {
        /// For how long it is valid.
        valid_ms: u64,
    },
    /// Join another node's cluster.
    Join {
        /// The ticket's text.
        ticket: TicketText,
    },
    /// Take a node's membership away, for good.
    Remove {
        /// Which.
        node: NodeId,
    },
    /// End.
    Stop {
        /// What becomes of processes that run here.
        remains: Remains,
    },
    /// Let me in.
    Admit {
        /// What the ticket says.
        secret: Secret,
        /// Who wants to come in; its id is the key of the connection.
        candidate: Candidate,
    },
    /// Something of the registry.
    Registry(RegistryRequest),
    /// Something about processes.
    Hosting(HostingRequest),
    /// Give the registry to another node, which serves it from then on.
    RegistryMove {
        /// Which.
        to: NodeId,
    },
    /// Take a piece of the registry.
    RegistryTake(Piece),
    /// The registry has moved.
    RegistryMoved(Vec<Handover>),
    /// Where is the registry, and how is it?
    RegistryStatus,
    /// Write a copy of the registry into a file. Descriptor: the file, which is empty.
    RegistryBackup {
        /// What its user calls it.
        file: PathBuf,
    },
    /// Put such a copy in the place of what the registry has. Descriptor: its file.
    RegistryRestore {
        /// What its user calls it.
        file: PathBuf,
    },
    /// By what does memory move at a node?
    Paging {
        /// Which. Only a user may ask for another one than that which is asked.
        node: NodeId,
    },
}

/// What becomes of a node's processes when it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Remains {
    /// There must be none.
    None,
    /// They run on in their runner, for the next start of the node.
    Left,
    /// They are ended.
    Killed,
}

/// What members ask of the node that serves the registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum RegistryRequest {
    /// How are you?
    Status,
    /// All nodes, as soon as there is a newer list than this one.
    Roster {
        /// The revision of the list that is known.
        after: u64,
    },
    /// Remember a ticket.
    AddTicket {
        /// By what its secret is recognised.
        seal: Seal,
        /// For how long.
        valid_ms: u64,
    },
    /// Admit a node that has shown a ticket.
    Admit {
        /// By what the ticket's secret is recognised.
        seal: Seal,
        /// The key that it has proved to have.
        node: NodeId,
        /// What it says of itself.
        candidate: Candidate,
    },
    /// I am now like this.
    Announce(Candidate),
    /// Take a node's membership away.
    Remove {
        /// Which.
        node: NodeId,
    },
    /// The record of a process.
    Record {
        /// Which.
        process: ProcessId,
    },
    /// The first record of a process that the asking node has started, and its name. Both, or nothing.
    CreateRecord {
        /// Which.
        process: ProcessId,
        /// How it began.
        info: Box<ProcessInfo>,
    },
    /// A compare-and-swap of a record. With one that closes it, its name becomes free; a process that is recovered
    /// or thawed takes its name again, unless another has it now.
    SwapRecord(Box<SwapBytes>),
    /// Forget a process that runs nowhere. What is frozen in a file goes on from it as another process then.
    Forget {
        /// Which.
        process: ProcessId,
    },
    /// What is known of a process.
    Process {
        /// Which.
        process: ProcessId,
    },
    /// Which living process has this name?
    Named {
        /// The name.
        name: String,
    },
    /// All processes, some at a time.
    Processes {
        /// Those that run nowhere too.
        ended: bool,
        /// The last one that is known: [`ProcessPage::next`].
        after: Option<ProcessId>,
    },
    /// The records in which a node is the owner, or the target of a move; some at a time. Those that say "ended"
    /// are left out.
    ProcessesOf {
        /// Which node.
        node: NodeId,
        /// The last process that is known: [`RecordPage::next`].
        after: Option<ProcessId>,
    },
    /// What the asking node has, after a backup was restored. Records that the backup knew in an earlier epoch are
    /// lifted to this one.
    AnnounceProcesses {
        /// Which restore: [`Roster::recovery`].
        number: u64,
        /// Processes that run here, or stand still here and are owned by this node as far as it knows.
        processes: Vec<Announced>,
        /// Whether this is all. Until every member has said so, restored records change by announcements only.
        last: bool,
    },
    /// How a process's snapshots are kept. Only its owner says so.
    SetKeeping {
        /// Which process.
        process: ProcessId,
        /// A [`Keeping`], encoded.
        bytes: Vec<u8>,
    },
    /// How snapshots are kept.
    Keepings(KeepingsOf),
    /// Answers as soon as some process may have changed since a revision, or after a while; at once if that is 0.
    ProcessesChanged {
        /// The revision of what is known.
        after: u64,
    },
    /// What a process has, [`ProcessInfo::extra`], is something else now. Only its owner says so, who knows what it was.
    SetExtra {
        /// Which process.
        process: ProcessId,
        /// What it was.
        before: Vec<u8>,
        /// What it is.
        extra: Vec<u8>,
    },
}

/// A [`Swap`](sterna_migration::Swap) with its records in the encoding that they are stored in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwapBytes {
    /// Whose record.
    pub process: ProcessId,
    /// What it must be.
    pub expected: Vec<u8>,
    /// What it becomes.
    pub new: Vec<u8>,
    /// The source's grant, if this is a commit; the file's, if a process is thawed.
    pub grant: Option<Grant>,
    /// How it ended, with a record that says that it did.
    pub ending: Option<How>,
}

/// What comes back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Nodes`].
    Nodes(Nodes),
    /// To [`Request::Invite`].
    Ticket(TicketText),
    /// To [`Request::Join`], [`Request::Admit`] and [`RegistryRequest::Roster`].
    Roster(Roster),
    /// To [`RegistryRequest::Record`], [`RegistryRequest::CreateRecord`] and [`RegistryRequest::SwapRecord`]: the record as it is now, encoded.
    Record(Option<Vec<u8>>),
    /// To [`RegistryRequest::Process`] and [`RegistryRequest::Named`].
    Process(Option<Box<ProcessEntry>>),
    /// To [`RegistryRequest::Processes`].
    Processes(ProcessPage),
    /// To [`RegistryRequest::ProcessesOf`].
    Records(RecordPage),
    /// To [`Request::RegistryStatus`] and [`RegistryRequest::Status`].
    RegistryStatus(Box<RegistryStatus>),
    /// To [`RegistryRequest::ProcessesChanged`]: the registry's revision.
    Revision(u64),
    /// To [`RegistryRequest::Keepings`].
    Keepings(Vec<(ProcessId, Vec<u8>)>),
    /// To [`Request::Hosting`].
    Hosting(HostingReply),
    /// To [`Request::Registry`], by a node that has served it.
    Moved(Vec<Handover>),
    /// To the others.
    Done,
    /// It was not done.
    Failed(Failure),
    /// To [`Request::Paging`]: nothing if it has no runner now, or is older.
    Paging(Option<Paging>),
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// For people: what failed, on what, and what to do next.
    pub message: String,
}

/// The kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// Whoever asks may not.
    Forbidden,
    /// The asking node was removed from the cluster.
    Removed,
    /// The ticket is damaged, unknown, expired or used, or names other nodes.
    Ticket,
    /// What was asked for makes no sense here and now.
    Refused,
    /// Somebody else has it: another process the name, another move the process.
    Taken,
    /// There is no such process, or not here.
    NotHere,
    /// Another node does not answer: trying again may help.
    Unreachable,
    /// Too many at once: trying again may help.
    Busy,
    /// A fault of this node.
    Internal,
    /// The node is drained, and takes no processes.
    Drained,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, message: impl ToString) -> Self {
        Self {
            kind,
            message: message.to_string(),
        }
    }

    pub(crate) fn refused(message: impl ToString) -> Self {
        Self::new(FailureKind::Refused, message)
    }
}

/// A ticket as text. It is a secret, and `Debug` keeps it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TicketText(pub String);

impl std::fmt::Debug for TicketText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketText(secret)")
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// What it would like to be called.
    pub name: String,
    /// Where others reach it.
    pub addresses: Vec<SocketAddr>,
    /// Its version of Sterna.
    pub software: String,
    /// How well it can confine what it runs: `full`, or `partial` or `none` and what is missing.
    pub confinement: String,
}

impl Candidate {
    /// Whether it keeps to the limits and is fit to be shown.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let plain = |text: &str, max| {
            text.len() <= max && !text.is_empty() && !text.chars().any(char::is_control)
        };
        plain(&self.name, NAME_BYTES_MAX)
            && !self.name.contains(['/', ' ', ':'])
            && plain(&self.software, TEXT_BYTES_MAX)
            && plain(&self.confinement, TEXT_BYTES_MAX)
            && (1..=ADDRESSES_MAX).contains(&self.addresses.len())
    }
}

/// A node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its key.
    pub id: NodeId,
    /// What it says of itself; its name is its own in the cluster.
    pub about: Candidate,
    /// When it joined, in milliseconds since 1970.
    pub joined_ms: u64,
}

/// All nodes of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Grows with each change.
    pub revision: u64,
    /// The node that serves the registry.
    pub home: Option<NodeId>,
    /// Those that belong to it, by id.
    pub members: Vec<Member>,
    /// Those that were removed, and never come back.
    pub removed: Vec<NodeId>,
    /// The registry was restored from a backup, and asks the members once what they run:
    /// [`RegistryRequest::AnnounceProcesses`] with this number.
    pub recovery: Option<u64>,
    /// The etcd that the registry is in, if it is in one: each node asks that one itself.
    pub registry: Option<String>,
    /// How the registry came to its home, the last ones, oldest first.
    pub handovers: Vec<Handover>,
}

impl Roster {
    /// The member with this key.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }
}

/// A node as it sees itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its key.
    pub id: NodeId,
    /// What it says of itself.
    pub about: Candidate,
    /// When it was started, in milliseconds since 1970.
    pub started_ms: u64,
    /// The node that serves its registry.
    pub home: NodeId,
    /// Whether it was removed from its cluster.
    pub removed: bool,
    /// How well its parts are confined.
    pub confinement: Confinement,
}

/// How well the processes that a node consists of are confined: each `full`, or `partial` or `none` and what is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Who has the network and the key.
    pub service: Option<String>,
    /// Who has what privilege there is.
    pub manager: Option<String>,
    /// Who hosts processes, if there is one now.
    pub runner: Option<String>,
}

/// The nodes of a cluster as one of them sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// Who was asked.
    pub this: Status,
    /// All of them, by name.
    pub nodes: Vec<Seen>,
}

/// A node as another one sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// What is known of it.
    pub member: Member,
    /// Whether it answers.
    pub state: Reachability,
    /// By how much its clock is ahead, if it answered.
    pub clock_ahead_ms: Option<i64>,
    /// How well its parts are confined, as far as it answered.
    pub confinement: Confinement,
}

/// Whether a node answers. One that does not is *unknown*: silence says nothing about what runs there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reachability {
    /// It is the node that was asked.
    This,
    /// It has answered just now.
    Reachable,
    /// It does not answer.
    Unknown {
        /// When it did so last, in milliseconds since 1970, if it ever did since this node was started.
        since_ms: Option<u64>,
    },
    /// It is the node that was asked, or has answered just now, and is drained: it takes no processes.
    Draining,
}
