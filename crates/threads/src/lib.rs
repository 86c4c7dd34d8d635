//! Threads in the manner of `std::thread`, in three implementations behind one API: threads of the kernel (1:1), user
//! threads on one kernel thread (N:1), and user threads on several (M:N). Which one is chosen when a [`Runtime`] is
//! built; the program stays the same.
//!
//! | module | gives |
//! |---|---|
//! | `runtime` | [`Runtime`] and the choice of the [`Implementation`] |
//! | `spawn`, `scope` | making threads, waiting for them, names, priorities |
//! | `park`, `cancel`, `local`, `group` | sleeping and waking; ending from outside; thread-locals; fair shares |
//! | [`sync`] | locks, semaphores, barriers, channels: they block only the thread that waits |
//! | [`io`] | sockets and pipes in the manner of the standard library, that stop only the thread that waits |
//! | [`fs`], [`process`] | files and child processes in the same manner |
//! | `blocking` | calls that block in the kernel, moved out of the way |
//! | `record`, `owned`, `packet`, `here` | what is known of a thread; the part that only its kernel thread touches; its result; who runs here |
//! | `wait` | tickets: what everything that blocks is built on |
//! | `worker` | user threads: queues, timers, switching |
//! | `kernel` | threads of the kernel |
//! | `monitor` | noticing threads that never give way |
//! | `ring` | calls that the kernel carries out meanwhile |
//! | `primitives` | atomics and short locks: the machine's, or a model checker's |
//! | `poller` | sleeping until a descriptor, a timer or another thread wakes |
//!
//! # What siblings share
//!
//! User threads of one worker run on one kernel thread, and so share what the standard library and C keep per kernel
//! thread: `std::thread_local!` (use [`thread_local!`]), `std::thread::current`, `errno`, the locks of `stdout()`, and
//! the count of running panics: while a thread is blocked inside a destructor that a panic runs,
//! `std::thread::panicking` is true for its siblings. A guard of a standard mutex that is held across a blocking call
//! of this package can block the worker for ever. Cancellation knows that siblings unwind, and waits only with threads
//! that begin to wait while one is blocked inside a destructor.
//!
//! The standard library's message of a panic names the kernel thread (`thread 'worker-0' panicked`), and has no way to
//! be told another name. A hook of one's own can say which thread it was, since it runs on it:
//!
//! ```
//! std::panic::set_hook(Box::new(|about| {
//!     let thread = sterna_threads::current();
//!     eprintln!("in {}: {about}", thread.name().unwrap_or("a thread without a name"));
//! }));
//! ```
//!
//! # What ends the process, and what copies it
//!
//! - `std::process::exit`, from any thread, ends all at once and runs no destructors of threads, as it does for threads of
//!   the kernel. A panic ends its thread only; one that starts in a destructor while another is on its way ends the
//!   process, and so does one of a result that is dropped because nobody joins its thread.
//! - After `fork` only the kernel thread that called it exists in the child, so no worker does: start a program there
//!   and nothing else. `std::process::Command` is safe to use; started by [`process`] it holds nobody up.
//! - Signal handlers run on the stack of whichever thread the kernel picks, unless they ask for the alternate one
//!   (`SA_ONSTACK`): ask for it, since stacks of user threads are small. Nothing here uses signals, except that a fault
//!   on a guard page is recognised, said to be an overflow of the thread by its name, and ends the process.
//!
//! # Soundness
//!
//! A thread that has started never changes its kernel thread, so values that are not `Send` are safe on its stack.
#![cfg(target_os = "linux")]

mod blocking;
mod cancel;
pub mod fs;
mod group;
mod here;
pub mod io;
mod kernel;
mod local;
#[cfg(all(loom, test))]
mod models;
mod monitor;
mod owned;
mod packet;
mod park;
#[cfg_attr(
    loom,
    allow(dead_code, reason = "the model checker knows nothing of the kernel")
)]
mod poller;
mod primitives;
pub mod process;
mod record;
mod ring;
mod runtime;
mod scope;
mod spawn;
pub mod sync;
mod wait;
mod worker;

pub use blocking::blocking;
pub use cancel::{Cancelled, checkpoint, is_cancelled};
pub use group::{Group, WEIGHT_DEFAULT};
pub use local::LocalKey;
pub use monitor::{Held, Monitor};
pub use park::{park, park_timeout, sleep, sleep_until, yield_now};
pub use runtime::{Implementation, Runtime, RuntimeBuilder};
pub use scope::{Scope, ScopedJoinHandle, scope};
pub use spawn::{Builder, JoinHandle, Priority, Result, Thread, ThreadId, current, spawn};
