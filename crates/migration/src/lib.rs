//! How a process moves from one node to another, as state machines without I/O.
//!
//! ```text
//! source                               target                                   registry
//!   │ Offer ──────────────────────────────►│ admit? program here? room?
//!   │◄───────────────────── Accept, Refuse │
//!   │ declare: (S, e, –) → (S, e, move→T) ─────────────────────────────────────────►│ cannot be reached: no pause
//!   │ pages, in rounds, while it runs ────►│ installs them
//!   │ pause ▪ capture ▪ State with grant ─►│ restore, ready to run
//!   │                                      │ commit: (S, e, move→T) → (T, e+1, –) ──►│ here it changes its owner
//!   │◄────────────────────────── Committed │ resume
//!   │ the rest of the pages (post-copy) ──►│ waits for those that it touches
//!   │◄─────────────────────────────── Done │
//!   │ discard                              │
//!   ┆                                      ┆
//!   ┆ in doubt, either side:     settle: (S, e, move→T) → (S, e+1, –) ─────────────►│ whichever comes first, wins
//! ```
//!
//! **One write decides.** Between declaration and commit both sides may be right to go on, so both ask the
//! registry, and the record that is there first is the outcome. **A side in doubt settles by writing, never by
//! reading:** what it has read may be overtaken by a commit that is on its way; what it has written cannot.
//!
//! What follows, and is checked by [simulation](#tests):
//!
//! - At most one side ever runs the process, and only the one that the record names.
//! - While the runner of the owner lives, no other fault loses the process: crash of either service, of the
//!   target's runner or of the registry, lost, late, repeated or reordered messages, swaps and answers.
//! - If it dies, the record says *lost*, once. Silence means *unknown*, and never becomes *lost*.
//! - In post-copy both runners, and the way between them, are needed from the commit until Done: without one of them the
//!   process is lost, which the target writes.
//! - Nothing that the process did is undone: what goes on is what was stopped.
//! - Every move ends.
//!
//! Start reading at [`record`], then the pictures at the heads of `source.rs` and `target.rs`:
//!
//! - [`id`]: nodes, attempts, grants
//! - [`record`]: who owns a process, and how that changes
//! - [`message`], [`wire`]: what nodes say to each other, and its bytes
//! - [`action`]: what goes in and out of the machines
//! - `source`, `target`: the two sides of one move; `closing`: the end of a process
//! - [`moves`]: all moves of a node, and what is taken up after a crash
//! - [`rounds`]: copying memory while the process runs, and when to stop
//! - [`report`]: what became of a move, and how long each part took
//! - [`limits`], [`time`]: how long and how often; time that comes from outside
//!
//! What this crate never does: open a socket, read a clock, make a thread, draw a random number, or know a kind.
//!
//! ```
//! use sterna_migration::{Action, Body, Event, Grant, Limits, Message, MoveId, Moves, NodeId, Offer, Order, Record, Strategy, Time, Travel};
//! use sterna_process::{Epoch, MemoryLayout, ProcessId, ProgramId, Tag};
//!
//! let (here, there) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
//! let mut moves = Moves::new(here, Limits::default(), []);
//! let process = ProcessId::random();
//! moves.started(process, Epoch::FIRST)?;
//! // Its record was made.
//! let record = Some(Record::first(here));
//! moves.handle(Time::ZERO, Event::Record { process, record });
//!
//! let offer = Offer {
//!     kind: Tag::new("toy"),
//!     program: ProgramId::of(b"program"),
//!     layout: MemoryLayout::default(),
//!     image_format: sterna_process::image::FORMAT_NEWEST,
//!     strategy: Strategy::StopAndCopy,
//! };
//! let order = Order {
//!     process,
//!     target: there,
//!     move_id: MoveId::from_bytes(*ProcessId::random().as_bytes()), // a driver has its own randomness
//!     grant: Grant::from_bytes(*ProcessId::random().as_bytes()),
//!     offer,
//!     travel: Travel { strategy: Some(Strategy::StopAndCopy), ..Travel::default() },
//! };
//! let attempt = moves.start(Time::ZERO, order)?;
//! assert!(matches!(moves.next_action(), Some(Action::Send { to, .. }) if to == there));
//!
//! // The target accepts: now the registry is asked to write the intent down.
//! let message = Message { attempt, body: Body::Accept(Default::default()) };
//! moves.handle(Time::from_micros(800), Event::Message { from: there, message });
//! assert!(matches!(moves.next_action(), Some(Action::Swap(swap)) if swap.new.intent.is_some()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Tests
//!
//! `tests/all/sim` runs whole clusters on one thread in virtual time, from one seed each: `STERNA_SIM_SEEDS=100000
//! cargo test -p sterna-migration` runs that many, `STERNA_SIM_SEED=17` runs one and prints all that happens in it.

pub mod action;
mod closing;
pub mod id;
pub mod limits;
pub mod message;
pub mod moves;
pub mod record;
pub mod report;
pub mod rounds;
mod source;
mod target;
pub mod time;
mod turn;
pub mod wire;

pub use action::{Action, Command, Event, Holding, Notice, Rest, RunnerEvent};
pub use id::{Attempt, Grant, GrantSeal, MoveId, NodeId};
pub use limits::Limits;
pub use message::{
    Body, Fault, Message, Offer, Readied, Refusal, Retry, Size, Snapshot, Strategy, TargetFailure,
    Timings,
};
pub use moves::{CancelError, Moves, Order, StartError, StartedError};
pub use record::{Intent, Life, Record, Swap, SwapForbidden, Verdict, Version};
pub use report::{Copied, MoveFailure, Outcome, Part, Report};
pub use rounds::{Round, RoundGoing, RoundsEnd, Travel, TravelError, Travelled};
pub use time::Time;
pub use wire::WireError;
