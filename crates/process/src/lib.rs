//! What a process is, and how one is frozen into an image. Start reading Sterna here.
//!
//! A *process* is something that runs and can be moved: a WebAssembly program, a container, a virtual machine.
//! This crate says what that means without knowing any of them, any network or any way of moving. In the order in
//! which they are best read:
//!
//! - [`id`]: names of processes and programs; epochs, which count changes of owner
//! - [`process`]: the traits that every kind of process implements, and who owns a process when
//! - [`control`]: watching and ending a process that one does not own
//! - [`waypoint`]: places at which a process can stand, so that a target makes ready what it needs there
//! - [`environment`]: what a process is given, at the start and after each move
//! - [`listener`]: how a process gets the connections of its clients
//! - [`run`], [`memory`], [`pages`]: pages of memory, in runs, in a process, in a set
//! - [`binding`], [`description`]: what a process refers to outside of itself, what it is doing, for people
//! - [`image`]: a process as bytes, in a message or a file
//! - [`error`]: what can go wrong, one enum per operation
//! - [`plain`]: text from guests made harmless
//! - [`toy`]: the smallest complete kind of process, the example for the others
//!
//! What this crate never does: open a socket to anywhere, know a kind by name, choose how to move.

pub mod binding;
pub mod control;
pub mod description;
pub mod environment;
pub mod error;
pub mod id;
pub mod image;
pub mod listener;
pub mod memory;
pub mod pages;
pub mod plain;
pub mod process;
pub mod run;
pub mod toy;
pub mod waypoint;

pub use binding::Binding;
pub use control::{Control, Controls, Exit, State, Stats};
pub use description::{Description, FrameDescription, FrameKind};
pub use environment::{Directory, Environment, Limits, Resources, Stdio};
pub use error::{
    CaptureError, DescribeError, KindError, PauseRefused, PrepareError, RestoreError, SpawnError,
};
pub use id::{Epoch, ParseIdError, ProcessId, ProgramId, Tag};
pub use image::{
    Image, ImageFile, ImageHeader, ImageKey, ImageReadError, ImageWriteError, ImageWriter,
    PackedProgram, Provenance, ReadLimits, Section, SectionError, Sections,
};
pub use listener::{Connection, Listener};
pub use memory::{
    LayoutError, Memory, MemoryError, MemoryLayout, PAGE_SIZE, PageSink, PageSource,
    PageSourceError, Region, RegionId,
};
pub use pages::{ChangedPages, PIECE_PAGES, PageProvider, PageSet, ZERO_PAGE};
pub use plain::Plain;
pub use process::{Identity, Incoming, Kind, Paused, Pausing, Process, Program, Running};
pub use run::{PageRun, PageRuns};
pub use waypoint::{WAYPOINTS_MAX, Waypoint};
