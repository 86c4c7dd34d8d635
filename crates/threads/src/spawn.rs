//! Making threads and waiting for their results: [`spawn`], [`Builder`], [`JoinHandle`], [`Thread`].

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use sterna_sys::stacks::{Guards, Slab};

use crate::group::Group;
use crate::here;
use crate::local;
use crate::owned::{Body, Owned, RuntimeOf};
use crate::packet::{Receiver, packet};
use crate::primitives::atomic::{AtomicU32, Ordering};
use crate::record::{Extras, Given, Place, Record, next_id};
use crate::runtime::Home;
use crate::wait::Cancel;

/// What a thread returned, or the payload of the panic that ended it: as in the standard library. A thread that was
/// cancelled has [`Cancelled`](crate::Cancelled) as its payload.
pub type Result<T> = std::thread::Result<T>;

/// Who runs first among threads that are ready on one worker: under [`Implementation::User`] all, under
/// [`Implementation::Hybrid`] those that one kernel thread has, so an urgent thread on one and a background thread on
/// another run at once. Threads of the kernel ([`Implementation::Kernel`]) are scheduled by the kernel, which is not told.
///
/// [`Implementation::User`]: crate::Implementation::User
/// [`Implementation::Hybrid`]: crate::Implementation::Hybrid
/// [`Implementation::Kernel`]: crate::Implementation::Kernel
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// Before all others, for work that must not wait and is short, such as out-of-band control. While urgent threads
    /// are ready, no other runs.
    Urgent,
    /// In turn.
    #[default]
    Normal,
    /// When nobody else is ready, and once in a while.
    Background,
}

/// Identifies a thread in this process; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadId(u64);

impl ThreadId {
    pub(crate) fn of(number: u64) -> Self {
        Self(number)
    }
}

/// A thread, to be named, woken or cancelled.
#[derive(Clone)]
pub struct Thread(Arc<Record>);

impl Thread {
    /// Its identity.
    pub fn id(&self) -> ThreadId {
        ThreadId(self.0.id)
    }

    /// The name that it was given.
    pub fn name(&self) -> Option<&str> {
        self.0.name()
    }

    /// Lets it return from [`park`](crate::park), or not stop there next time.
    pub fn unpark(&self) {
        // Not a store: the thread sees what all did who have unparked it, not only the last.
        self.0.token.swap(true, Ordering::Release);
        self.0.wake();
    }

    /// Asks it to end at its next call of this package that may block: it unwinds from there.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl std::fmt::Debug for Thread {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Thread")
            .field("id", &self.0.id)
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// The running thread. Works on threads that this package did not make, too.
pub fn current() -> Thread {
    Thread(here::record())
}

/// Waits for the result of a thread. Dropped, it lets the thread go on by itself.
pub struct JoinHandle<T> {
    pub(crate) packet: Receiver<T>,
    pub(crate) thread: Thread,
}

/// What a thread does, and where it leaves the result. `after` runs when nothing of `f` and its result is left but what
/// is in the packet.
pub(crate) fn pack<'a, F, T>(f: F, after: impl FnOnce() + Send + 'a) -> (Receiver<T>, Body<'a>)
where
    F: FnOnce() -> T + Send + 'a,
    T: Send + 'a,
{
    let (theirs, packet) = packet();
    let body = Box::new(move |refused| {
        let result = match refused {
            None => run(f),
            Some(payload) => {
                let dropped = catch_unwind(AssertUnwindSafe(|| drop(f)));
                Err(dropped.err().unwrap_or(payload))
            }
        };
        // A result that nobody waits for is dropped there.
        let left = catch_unwind(AssertUnwindSafe(|| theirs.finish(result)));
        if left.is_err() {
            let thread = current();
            let name = thread.name().unwrap_or("a thread without a name");
            eprintln!("sterna-threads: the result of {name} panicked when it was dropped");
            std::process::abort();
        }
        after();
    });
    (packet, body)
}

impl<T> JoinHandle<T> {
    /// Waits until the thread has ended.
    ///
    /// # Errors
    /// The payload of its panic.
    pub fn join(self) -> Result<T> {
        self.packet.wait(Cancel::May)
    }

    /// Whether a join would return at once.
    pub fn is_finished(&self) -> bool {
        self.packet.is_finished()
    }

    /// The thread.
    pub fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Asks the thread to end: see [`Thread::cancel`].
    pub fn cancel(&self) {
        self.thread.cancel();
    }
}

impl<T> std::fmt::Debug for JoinHandle<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("JoinHandle")
            .field("thread", &self.thread)
            .finish_non_exhaustive()
    }
}

/// How a thread is to be.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    name: Option<String>,
    stack_bytes: Option<usize>,
    priority: Option<Priority>,
    group: Option<Group>,
}

/// Stacks of this size. None is made yet: whoever has others only learns whether the size is one that all implementations take.
pub(crate) fn stacks_of(bytes: usize) -> io::Result<Arc<Slab>> {
    Slab::new(bytes, Guards::Marks)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// The kernel knows threads by names that end with a NUL.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    match name.contains('\0') {
        true => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a thread's name has no NUL",
        )),
        false => Ok(()),
    }
}

impl Builder {
    /// A thread as [`spawn`] makes it.
    pub fn new() -> Self {
        Self::default()
    }

    /// A name, for messages and for whoever looks, without NUL.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Bytes of its stack, if not what the runtime gives every thread. It gets a slab for itself: for many threads of
    /// one size make it the runtime's.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_bytes = Some(bytes);
        self
    }

    /// Its priority; otherwise that of the thread that spawns it.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Its group; otherwise that of the thread that spawns it.
    pub fn group(mut self, group: &Group) -> Self {
        self.group = Some(group.clone());
        self
    }

    /// Makes the thread, in the runtime of the running one.
    ///
    /// # Errors
    /// No stack of this size, a name with a NUL, no more kernel threads, or the running thread belongs to no runtime.
    pub fn spawn<F, T>(self, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Home::with_this_threads(|home| self.spawn_in(home, f))?
    }

    pub(crate) fn spawn_in<F, T>(self, home: &Home, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (packet, body) = pack(f, || ());
        let thread = self.launch(home, body)?;
        Ok(JoinHandle { packet, thread })
    }

    /// Makes the thread. If it fails, `body` was dropped.
    pub(crate) fn launch(self, home: &Home, body: Body<'static>) -> io::Result<Thread> {
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        let mut given = here::with_record(|parent| Given {
            id: next_id(),
            extras: Extras {
                name: self.name.map(String::into_boxed_str),
                slab: None,
            },
            priority: self.priority.unwrap_or(parent.priority),
            group: self
                .group
                .map(|group| group.0)
                .or_else(|| parent.group.clone()),
        });
        let (id, group) = (given.id, given.group.clone());
        let body = match &group {
            None => body,
            Some(group) => {
                let group = Arc::clone(group);
                Box::new(move |refused| {
                    body(refused);
                    group.leave(id);
                })
            }
        };
        let shared = match home {
            Home::Kernel(runtime) => {
                if let Some(bytes) = self.stack_bytes {
                    stacks_of(bytes)?;
                }
                let record = runtime.spawn(given, self.stack_bytes, body)?;
                return Ok(Thread(record));
            }
            Home::Workers(shared) => shared,
        };
        if let Some(bytes) = self.stack_bytes {
            let slab = stacks_of(bytes)?;
            given.extras.slab = Some(slab);
        }
        let place = Place::User {
            runtime: RuntimeOf::new(shared),
            worker: AtomicU32::new(0),
        };
        let record = Record::new(given, place, Owned::new(body));
        if let Some(group) = &group {
            group.enter(&record);
        }
        if shared.admit(Arc::clone(&record)).is_err() {
            if let Some(group) = &group {
                group.leave(id);
            }
            return Err(io::Error::other("the runtime has ended"));
        }
        Ok(Thread(record))
    }
}

/// Runs a thread's function and drops its thread-locals. A panic in either is the thread's.
fn run<T>(f: impl FnOnce() -> T) -> Result<T> {
    let result = catch_unwind(AssertUnwindSafe(f));
    if here::with_locals(|locals| locals.is_empty()) {
        return result;
    }
    match catch_unwind(local::clear) {
        Ok(()) => result,
        Err(payload) => result.and(Err(payload)),
    }
}

/// Makes a thread in the runtime of the running one.
///
/// # Panics
/// The running thread belongs to no runtime, or no thread can be made; [`Builder::spawn`] returns that as an error.
pub fn spawn<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match Builder::new().spawn(f) {
        Ok(handle) => handle,
        Err(error) => panic!("no thread was made: {error}"),
    }
}
