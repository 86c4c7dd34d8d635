//! How much and how long: every limit of what nodes say to each other, by name.

use std::time::Duration;

/// Longest request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Longest reply, in bytes: a list of [`MEMBERS_MAX`] members fits.
pub const REPLY_BYTES_MAX: usize = 4 << 20;
/// Nodes of one cluster, those that were removed included.
pub const MEMBERS_MAX: usize = 4096;
/// Addresses of one node.
pub const ADDRESSES_MAX: usize = 16;
/// Longest name of a node, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest text about a node (version, confinement), in bytes.
pub const TEXT_BYTES_MAX: usize = 512;
/// Tickets that are valid at the same time.
pub const TICKETS_MAX: usize = 1024;
/// Longest time for which a ticket may be valid.
pub const TICKET_VALID_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Longest name of a process, in bytes.
pub const PROCESS_NAME_BYTES_MAX: usize = 200;
/// Longest path of a file that is shown to people, in bytes (`PATH_MAX` of Linux).
pub const FILE_BYTES_MAX: usize = 4096;
/// All arguments of a process together, in bytes, with one more for each.
pub const ARGUMENTS_BYTES_MAX: usize = 16 << 10;
/// What a service may keep of a process in the registry, in bytes.
pub const EXTRA_BYTES_MAX: usize = 8 << 10;
/// Processes of a cluster, those that have ended included. Counted from time to time: it may be exceeded by as
/// many as are started meanwhile.
pub const PROCESSES_MAX: usize = 100_000;
/// For the record to say that a process was lost, after what was still to come of its memory is gone.
pub const LOST_WITHIN: Duration = Duration::from_secs(3);
/// For how long it is remembered how a process ended. Lost ones are kept for [`LOST_KEPT`], frozen ones until they
/// are thawed or removed.
pub const ENDINGS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// For how long a lost process can be recovered under its own id.
pub const LOST_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Processes that have ended or are lost, and are remembered: of more, the oldest are forgotten.
pub const ENDINGS_MAX: usize = 20_000;
/// Processes, or records, in one answer.
pub const PAGE_ENTRIES_MAX: usize = 1024;
/// Length from which on an answer with several processes is ended: the last one may exceed it.
pub const PAGE_BYTES_MAX: usize = 2 << 20;

/// Pieces in which a registry goes to another node, in bytes: one fits into a request.
pub const PIECE_BYTES_MAX: usize = 48 << 10;
/// Largest registry that goes to another node, in bytes.
pub const REGISTRY_BYTES_MAX: u64 = 1 << 30;
/// How often the registry is asked for where it has moved to, for one request.
pub const MOVES_FOLLOWED_MAX: usize = 4;
/// Handovers of the registry that are remembered. Who has missed more has to join again.
pub const HANDOVERS_MAX: usize = 32;

/// From the first packet of a connection until both sides have said hello.
pub const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// For a whole request to arrive, and for a reply to be taken.
pub const FRAME_WITHIN: Duration = Duration::from_secs(10);
/// For another node to answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// For another node to say that it is there.
pub const PROBE_WITHIN: Duration = Duration::from_secs(3);
/// The same, when others are waited for as well and it did not answer before.
pub const PROBE_SILENT_WITHIN: Duration = Duration::from_millis(200);
/// How often in a row that has to have been.
pub const SILENT_AFTER_PROBES: u32 = 1;
/// For another node to say how much room it has, after others have said so.
pub const ROOM_AFTER_OTHERS: Duration = Duration::from_millis(500);
/// For a process that is to be moved to be done with what is done to it, a snapshot for example.
pub const FREE_WITHIN: Duration = Duration::from_secs(2);
/// For the target of a move to answer, before the process is stopped for it.
pub const THERE_WITHIN: Duration = Duration::from_secs(2);
/// Of [`PROBE_WITHIN`], for a connection that may be dead.
pub const PROBE_OLD_WITHIN: Duration = Duration::from_secs(1);
/// For another node to start a process, whose program it may have to fetch and compile first.
pub const START_WITHIN: Duration = Duration::from_secs(300);
/// Between two such questions, unless somebody asks.
pub const PROBE_EVERY: Duration = Duration::from_secs(5);
/// For how long a question for changes stays open at most.
pub const WATCH_WITHIN: Duration = Duration::from_secs(20);
/// First pause after the registry could not be reached; later ones double.
pub const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest such pause.
pub const RETRY_MAX: Duration = Duration::from_secs(5);
/// For others to take notice when a node stops.
pub const GOODBYE_WITHIN: Duration = Duration::from_secs(2);
/// Silence after which a connection is dead.
pub const IDLE_MAX: Duration = Duration::from_secs(15);
/// For a stranger to be admitted, after which it is cut off.
pub const STRANGER_WITHIN: Duration = Duration::from_secs(30);

/// Connections at the same time.
pub const CONNECTIONS_MAX: usize = 1024;
/// Of those, with keys that are no member's.
pub const STRANGERS_MAX: usize = 64;
/// Of those, of one key: a node has two, and others that die. Of more, the oldest is closed.
pub const CONNECTIONS_OF_ONE_MAX: usize = 8;
/// Connections from which on a peer must prove its address before it gets an answer.
pub const CONNECTIONS_UNPROVEN_MAX: usize = 256;
/// Requests at the same time on one connection, beside attachments to ports.
pub const REQUESTS_MAX: u32 = 64;
/// Requests of one node that are carried out at the same time, whatever becomes of their connections.
pub const DEEDS_OF_ONE_MAX: usize = CONNECTIONS_OF_ONE_MAX * REQUESTS_MAX as usize;
/// Replies that wait to be read on one connection, in bytes. Who lets more pile up hears that there are too many.
pub const REPLIES_WAITING_BYTES: usize = 16 << 20;
/// Requests at the same time on the local socket.
pub const LOCAL_MAX: usize = 256;

/// Directories of one process.
pub const BINDINGS_MAX: usize = sterna_runner::limits::DIRECTORIES_MAX;
/// For how long a program that was there is taken to be there, when processes are started.
pub const PROGRAM_SEEN_FOR: Duration = Duration::from_secs(1);
/// Length of a piece of a program, in bytes.
pub const PROGRAM_PIECE_BYTES: usize = 1 << 20;
/// Longest program that is fetched from another node, in bytes.
pub const PROGRAM_BYTES_MAX: u64 = 256 << 20;
/// Output in one answer, in bytes.
pub const LOG_PAGE_BYTES: usize = 256 << 10;
/// Longest wait for output in one answer.
pub const LOG_WAIT_MAX: Duration = Duration::from_secs(8);
/// How often a log is looked at while somebody waits for more.
pub const LOG_LOOK_EVERY: Duration = Duration::from_millis(20);
/// Nodes that are asked one after the other for the parts of a log.
pub const LOG_NODES_MAX: usize = 64;
/// Places in logs from which it is soon read on: one for each who reads one.
pub const LOG_MARKS_MAX: usize = 1024;
/// Input in one request, in bytes.
pub const INPUT_BYTES_MAX: usize = 32 << 10;
/// For a connection between two runners to be made.
pub const CHANNEL_WITHIN: Duration = Duration::from_secs(5);
/// How long the other end of a connection for pages may acknowledge nothing, before it counts as gone.
pub const CHANNEL_SILENCE: Duration = Duration::from_secs(15);
/// What a runner may have made ready at once.
pub const PREPARING_MAX: usize = 32;
/// The same with what waits for its turn. More than there are processes at a node is nonsense.
pub const NEEDING_MAX: usize = 4096;
/// Connections for pages that are announced and not made yet.
pub const CHANNELS_WAITING_MAX: usize = 64;
/// Connections for pages at the same time that have not said their name.
pub const CHANNELS_UNNAMED_MAX: usize = 64;
/// Reports of moves that have ended, kept for those who ask.
pub const REPORTS_MAX: usize = 1024;
/// Between two looks at which programs other nodes' processes have, where these are made ready ahead.
pub const PREPARE_EVERY: Duration = Duration::from_secs(5);
/// Programs that are made ready so at one time.
pub const PREPARED_MAX: usize = 256;
/// Events that are kept.
pub const EVENTS_MAX: usize = 4096;
/// Longest event, in bytes; its text is cut to a half of that.
pub const EVENT_BYTES_MAX: usize = 1024;
/// Longest time that a node is given to be drained.
pub const DRAIN_WITHIN_MAX: Duration = Duration::from_secs(24 * 3600);
/// Moves that a node that is drained has under way at once: their pages share one link.
pub const DRAIN_MOVES_AT_ONCE: usize = 4;
/// How often a process is tried to be moved to one node before that is given up, when a node is drained.
pub const DRAIN_TRIES_MAX: u32 = 3;
/// How often a node that is drained looks what else it has, and tries again.
pub const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(200);
/// When the time to drain a node is over: for moves that are under way to come to an end.
pub const DRAIN_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// For news of a move in one answer.
pub const NEWS_WITHIN: Duration = Duration::from_secs(8);
/// How often the target of a move is asked whether it is there, until it has accepted the process.
pub const TARGET_LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it may not answer in a row before the move is given up.
pub const TARGET_MISSES_MAX: u32 = 3;
/// How often records are compared with what the runner holds, without being asked.
pub const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// How often output is looked for that nobody can ask for any more.
pub const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// For how long such output is kept after it was last written.
pub const SWEEP_AFTER: Duration = Duration::from_secs(3600);
/// For a runner that was started to listen.
pub const RUNNER_WITHIN: Duration = Duration::from_secs(20);
/// For a runner to say how all its processes are: shorter than [`PROBE_WITHIN`], so that other nodes hear that it does not.
pub const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// How often a runner that is busy with an order is asked whether it is there.
pub const RUNNER_LOOK_EVERY: Duration = Duration::from_secs(1);
/// For it to say so. With [`RUNNER_LOOK_EVERY`] shorter than [`ANSWER_WITHIN`], so that other nodes hear that it does not.
pub const RUNNER_SILENT_MAX: Duration = Duration::from_secs(4);
/// When a node stops: for the end of its processes to be written down.
pub const KILLED_WITHIN: Duration = Duration::from_secs(5);
/// What waits to be seen by the driver of moves.
pub const INPUTS_WAITING_MAX: usize = 8192;
/// For a manager that was started to be ready.
pub const MANAGER_WITHIN: Duration = Duration::from_secs(20);
/// Errands that a manager runs at the same time: more than [`PREPARING_MAX`], so that others come through.
pub const ERRANDS_MAX: usize = 128;
/// Names that are suggested from.
pub const NAMES_MAX: usize = 1024;

/// What is said about a process's snapshots, in bytes.
pub const KEEPING_BYTES_MAX: usize = 4096;
/// Longest reason for which there are no snapshots, in bytes.
pub const TROUBLE_BYTES_MAX: usize = 512;
/// Shortest time between two snapshots.
pub const SNAPSHOT_EVERY_MIN: Duration = Duration::from_secs(1);
/// Snapshots of one process.
pub const SNAPSHOTS_MAX: u32 = 1000;
/// How often it is looked which snapshots are due.
pub const SNAPSHOTS_LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whose snapshots are not needed any more.
pub const SNAPSHOTS_SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Snapshots that are made at the same time.
pub const SNAPSHOTS_AT_ONCE: usize = 4;
/// A piece of an object that goes to another node, in bytes: a request has room for it.
pub const OBJECT_PIECE_BYTES: usize = 60 << 10;
/// Such pieces that are under way at the same time. Of 32 the receiver's socket buffer dropped packets, and it took longer
/// than one by one.
pub const OBJECT_PIECES_AT_ONCE: usize = 8;
/// A piece of an object that comes from another node, in bytes.
pub const OBJECT_REPLY_BYTES: usize = 2 << 20;
/// Longest object, in bytes.
pub const OBJECT_BYTES_MAX: u64 = 1 << 30;
/// For a bucket to take a connection.
pub const STORE_CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// For a bucket to answer, and to take a request; each may take longer by what its bytes need at
/// [`STORE_BYTES_PER_S_MIN`].
pub const STORE_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Bytes that go to or from a bucket in a second, at least.
pub const STORE_BYTES_PER_S_MIN: u64 = 128 << 10;
/// How often a bucket is asked again the same.
pub const STORE_RETRIES_MAX: usize = 4;
/// Longest pause before that.
pub const STORE_RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Time after which a bucket is not asked again the same.
pub const STORE_RETRY_WITHIN: Duration = Duration::from_secs(15);
/// For how long a connection to a bucket is kept for the next request.
pub const STORE_IDLE_MAX: Duration = Duration::from_secs(20);
/// A piece of a frozen process on its way to a file on another machine, in bytes.
pub const FREEZE_PIECE_BYTES: usize = 256 << 10;
/// For a node to let go of what is left there of a process that is thawed or recovered.
pub const LET_GO_WITHIN: Duration = Duration::from_secs(5);
/// For a file of a frozen process to be written and safe.
pub const FREEZE_WITHIN: Duration = Duration::from_secs(3600);

/// All that is copied along with one process, in bytes, holes included.
pub const TREE_BYTES_MAX: u64 = 16 << 30;
/// Files, directories and links of that.
pub const TREE_ENTRIES_MAX: usize = 100_000;
/// Longest path in it, in bytes (`PATH_MAX` of Linux, without the end).
pub const TREE_PATH_BYTES_MAX: usize = 4095;
/// Longest name in it, in bytes (`NAME_MAX` of Linux).
pub const TREE_NAME_BYTES_MAX: usize = 255;
/// Contents that are read or sent at once, in bytes: a reply has room for so much.
pub const TREE_PIECE_BYTES: usize = 1 << 20;
/// Files of which one request wants contents.
pub const TREE_WISHES_MAX: usize = 1024;
/// Requests for contents that are under way at once.
pub const TREE_ASKED_AT_ONCE: usize = 4;
/// For a node to list what is copied along: it reads all of it.
pub const TREE_LIST_WITHIN: Duration = Duration::from_secs(100);
/// For the target of a move to get what has changed, while the process stands still.
pub const TREE_STILL_WITHIN: Duration = Duration::from_secs(500);
/// What may be copied along with processes to one node, unless its operator says otherwise, in bytes.
pub const COPIES_BYTES_MAX: u64 = 64 << 30;
/// What copies leave free on the disk, in bytes.
pub const COPIES_SPARE_BYTES: u64 = 64 << 20;
/// Directories that are held open to get changes of processes back.
pub const ORIGINS_MAX: usize = 256;

/// By how much the clocks of two nodes may differ when one joins the other.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// Ports that a node's ingress has open.
pub const PORTS_MAX: usize = 1024;
/// Ports of one process.
pub const LISTENS_MAX: usize = 16;
/// Longest name of a port, in bytes (`FDNAME_MAX` of sd_listen_fds(3)).
pub const LISTEN_NAME_BYTES_MAX: usize = 255;
/// Clients that are connected to all ports of a node, and never more than a quarter of the descriptors that it may have.
pub const CLIENTS_MAX: usize = 16 << 10;
/// Frames that are read or made ready at once, in bytes.
pub const FRAMES_BYTES: usize = 64 << 10;
/// Between two tries of a node to attach a process to its ingress, at most. Its clients wait for that long.
pub const ATTACH_AGAIN_MAX: Duration = Duration::from_secs(1);
/// How often an ingress asks what has become of processes that nobody attaches.
pub const UNATTACHED_WITHIN: Duration = Duration::from_millis(500);
/// For a process to start whose port is open.
pub const NOT_STARTED_WITHIN: Duration = Duration::from_secs(60);
/// For a client to close a connection that the process has closed.
pub const LINGER_WITHIN: Duration = Duration::from_secs(2);
