//! Synchronisation that blocks only the thread that waits, whatever it runs on. Threads of all implementations and
//! threads that this package did not make may share these.
//!
//! All are fair: who waited longest goes first, and a lock that is given back is handed to who waits for it instead of
//! to whoever comes by. The standard library's locks let others barge in, which is faster when locks are held shortly
//! by threads of the kernel. Nothing here is poisoned by a panic.
//!
//! Each call that waits can be cancelled, unless its description says otherwise.

mod barrier;
pub mod channel;
mod condvar;
mod mutex;
mod once;
mod rwlock;
mod semaphore;

// The inside of a primitive: held for a few instructions and never across a wait.
use crate::primitives::lock as inside;

pub use barrier::Barrier;
pub use condvar::Condvar;
pub use mutex::{Mutex, MutexGuard};
pub use once::{Once, OnceLock};
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::{Permit, Semaphore};
