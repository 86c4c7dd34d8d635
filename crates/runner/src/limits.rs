//! How much and how long: every limit of a runner, by name.

use std::time::Duration;

/// Longest message between a service and its runner, in bytes: a look at as many processes as there may be fits, or a
/// layout with the most regions.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Back-traces that a service which begins is told of those that have ended, in bytes; of others it hears how they ended.
pub const BACK_TRACES_BYTES_MAX: usize = 4 << 20;
/// Descriptors that come with one message.
pub const DESCRIPTORS_MAX: usize = 32;
/// Directories of one process.
pub const DIRECTORIES_MAX: usize = DESCRIPTORS_MAX - 4;
/// Processes of one runner.
pub const PROCESSES_MAX: usize = 16_384;
/// Descriptors that processes and their clients leave free: for services, and moves of what is here.
pub const DESCRIPTORS_SPARE: u64 = 128;
/// Before the next service is let in, after there was no descriptor or thread for one.
pub const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
/// Moves of which a runner remembers that they were given up before anything of them was here.
pub const GIVEN_UP_MAX: usize = 1024;
/// Orders that wait to be written to a runner.
pub const ORDERS_WAITING_MAX: usize = 65_536;
/// For a runner that was started to answer.
pub const HELLO_WITHIN: Duration = Duration::from_secs(20);
/// For the first service to come to a runner that was started; without one it ends.
pub const FIRST_SERVICE_WITHIN: Duration = Duration::from_secs(30);
/// For a runner to take or give a message once it has begun.
pub const MESSAGE_WITHIN: Duration = Duration::from_secs(30);

/// Longest record on a channel, in bytes, without its seal.
pub const RECORD_BYTES_MAX: usize = 256 << 10;
/// Longest image that is taken from a channel, in bytes. Pages are not in it.
pub const IMAGE_BYTES_MAX: u64 = 256 << 20;
/// Most bytes under way between a port's clients and a process that travel with it.
pub const CARRIED_BYTES_MAX: usize = 128 << 20;
/// For the other end of a channel to take or give anything.
pub const CHANNEL_WITHIN: Duration = Duration::from_secs(20);
/// For the reason of a target that has hung up to be heard.
pub const REASON_WITHIN: Duration = Duration::from_secs(1);
/// Preparations that one arriving process may have under way.
pub const PREPARATIONS_MAX: usize = 32;

/// How often a process is looked at before it is stopped, while the target makes ready what is seen.
pub const LOOKS: u32 = 10;
/// Between two looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Longest time for a look.
pub const LOOK_WITHIN: Duration = Duration::from_millis(100);
/// Then, for the process to come to a place that is ready.
pub const AMONG_WITHIN: Duration = Duration::from_millis(25);
/// How often the process is looked at again if it came to none.
pub const LOOKS_AGAIN: u32 = 5;
/// How often it is looked at in each round of pre-copy.
pub const LOOKS_IN_A_ROUND: u32 = 3;
/// How often all this is done, before the process is stopped wherever it is.
pub const ROUNDS: u32 = 8;

/// Pages up to which those are sent that were written while a good moment was looked for: 64 MiB. More would be as many
/// again when they are there.
pub const CATCH_UP_PAGES_MAX: u64 = 16_384;
/// How often that is done in a row.
pub const CATCH_UPS: u32 = 3;

/// Connections of a move on which memory that follows its process goes unasked.
pub const LANES: u8 = 2;
/// For the first of them to be there; without one, such pages go where answers go.
pub const LANE_WITHIN: Duration = Duration::from_millis(200);
/// Between two words on how far a round is.
pub const TELL_EVERY: Duration = Duration::from_millis(250);
/// For a process whose memory follows to run, if it asks for no page.
pub const RUNS_WITHIN: Duration = Duration::from_millis(50);
/// Between two looks at whether it has.
pub const RUNS_LOOK_EVERY: Duration = Duration::from_millis(1);
/// A process that has asked for a page will ask for more, for so long: what goes unasked is held back.
pub const ASKS_FOR: Duration = Duration::from_millis(2);
/// Then it goes in one part of so many of the time, in pieces of so many pages,
pub const HELD_BACK_SHARE: u32 = 4;
/// See [`HELD_BACK_SHARE`].
pub const HELD_BACK_PAGES: u64 = 16;
/// with pauses of at most so long,
pub const HOLD_MAX: Duration = Duration::from_millis(20);
/// and not for longer than this, so that there is an end.
pub const HELD_BACK_MAX: Duration = Duration::from_secs(5);
/// Pages that go along with one that is asked for near the last one: the next ones, and those before.
pub const AHEAD_PAGES: u64 = 24;
/// See [`AHEAD_PAGES`].
pub const BEHIND_PAGES: u64 = 8;
/// For any of the memory that is missing to come, while its process runs already. Then it is lost: a source that is alive
/// sends the next pages all the time.
pub const FOLLOWED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at whether some has.
pub const FOLLOWED_LOOK_EVERY: Duration = Duration::from_millis(50);

/// Bytes of a copy that are written or read at once.
pub const COPY_BYTES: usize = 1 << 20;
/// Pages up to which a process runs on while a copy of it is written: 256 MiB.
pub const COPY_PAGES_MAX: u64 = 65_536;
/// Longest list of pages of a copy, in bytes.
pub const COPY_RUNS_BYTES_MAX: u64 = 64 << 20;

/// For whatever an earlier service has begun to come to its end.
pub const SETTLE_WITHIN: Duration = Duration::from_secs(30);
/// For a killed process to have ended.
pub const KILL_WITHIN: Duration = Duration::from_secs(10);
/// For a process to be described.
pub const DESCRIBE_WITHIN: Duration = Duration::from_secs(2);
/// For a process to stand still because its user says so.
pub const PAUSE_WITHIN: Duration = Duration::from_secs(10);

/// Returns to copies of which a process's log knows; each takes up to 30 bytes of its header.
pub const REWINDS_MAX: usize = 128;
/// Longest piece of output in one record of a log, in bytes.
pub const LOG_RECORD_BYTES_MAX: usize = 64 << 10;

/// Input that a process has not read and that travels with it, in bytes: what a pipe has room for (pipe(7)).
pub const UNREAD_BYTES_MAX: usize = 64 << 10;
/// A line that is being typed on a terminal, in bytes: what that has room for (termios(3)).
pub const LINE_BYTES_MAX: usize = 4096;
/// For a process to take some input, before whoever gives it is told how much was taken.
pub const INPUT_WITHIN: Duration = Duration::from_secs(2);
/// Contents of a file in one message, in bytes.
pub const FILE_PIECE_BYTES: usize = 512 << 10;
/// Entries of a directory in one message.
pub const FILE_ENTRIES_MAX: usize = 512;
/// Longest path of a file that a user asks for, in bytes (`PATH_MAX` of Linux).
pub const PATH_BYTES_MAX: usize = 4096;
