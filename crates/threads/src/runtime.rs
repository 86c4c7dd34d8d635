//! [`Runtime`]: what threads run on, and the choice of the implementation.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::here;
use crate::kernel::KernelRuntime;
use crate::monitor::{Held, Monitor};
use crate::record::Place;
use crate::scope::scope_in;
use crate::spawn::{Builder, JoinHandle, check_name, stacks_of};
use crate::worker::{Options, Shared, Worker};

/// Bytes of a user thread's stack unless the runtime or the thread says otherwise. Only what is used takes memory.
const STACK_BYTES: usize = 256 * 1024;
/// The same for a thread of the kernel.
const KERNEL_STACK_BYTES: usize = 2 * 1024 * 1024;

/// How threads are implemented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implementation {
    /// Each is a thread of the kernel (1:1).
    Kernel,
    /// All share one kernel thread (N:1). A call that blocks in the kernel stops all.
    User,
    /// They share several kernel threads (M:N).
    Hybrid,
}

/// How a runtime is to be.
#[derive(Debug, Clone)]
pub struct RuntimeBuilder {
    implementation: Implementation,
    workers: Option<usize>,
    stack_bytes: Option<usize>,
    name: String,
    options: Options,
}

impl RuntimeBuilder {
    /// Kernel threads that a hybrid runtime runs user threads on, at least 1; otherwise one per processor. The other
    /// kinds have no use for it.
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = Some(count);
        self
    }

    /// Bytes of each thread's stack, if the thread does not say otherwise.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_bytes = Some(bytes);
        self
    }

    /// A name for its kernel threads.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Whether files go through io_uring if the kernel has it, which is so unless this says otherwise; without it they go
    /// through [`blocking`](crate::blocking).
    pub fn io_uring(mut self, yes: bool) -> Self {
        self.options.io_uring = yes;
        self
    }

    /// For tests: threads of [`Priority::Normal`](crate::Priority::Normal) that are ready run in an order made from this
    /// number, instead of in that of their coming. On a user-level runtime the same number gives the same schedule, as
    /// long as nothing from outside comes in between.
    pub fn schedule_seed(mut self, seed: u64) -> Self {
        self.options.schedule_seed = Some(seed);
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// There are to be no workers, the stack size is impossible, the name has a NUL, or the kernel gives no threads or descriptors.
    pub fn build(self) -> io::Result<Runtime> {
        if self.workers == Some(0) {
            let why = "0 workers run nothing: ask for at least 1, or do not say how many";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        check_name(&self.name)?;
        if self.implementation == Implementation::Kernel {
            let stack_bytes = self.stack_bytes.unwrap_or(KERNEL_STACK_BYTES);
            stacks_of(stack_bytes)?;
            return Ok(Runtime {
                home: Home::Kernel(Arc::new(KernelRuntime::new(stack_bytes))),
                implementation: self.implementation,
                workers: Vec::new(),
            });
        }
        let count = match self.implementation {
            Implementation::User => 1,
            _ => self.workers.unwrap_or_else(|| {
                thread::available_parallelism().map_or(1, std::num::NonZero::get)
            }),
        };
        let slab = stacks_of(self.stack_bytes.unwrap_or(STACK_BYTES))?;
        let shared = Arc::new(Shared::new(count, slab, self.options)?);
        let mut runtime = Runtime {
            home: Home::Workers(Arc::clone(&shared)),
            implementation: self.implementation,
            workers: Vec::new(),
        };
        for number in 0..count {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().name(format!("{}-{number}", self.name));
            // If it fails, the drop of the runtime ends the workers that there are.
            let worker = builder.spawn(move || Worker::new(shared, number).run())?;
            runtime.workers.push(worker);
        }
        Ok(runtime)
    }
}

/// What threads run on.
///
/// Dropped, it cancels all its threads and waits until they have ended: each unwinds from the call that it blocks in, once. A
/// thread that catches that and goes on is waited for as long as it runs, and so are one that never blocks in a call of this
/// package and a call within [`blocking`](crate::blocking), which cannot be cancelled. Whoever catches panics in a loop asks
/// [`is_cancelled`](crate::is_cancelled), or passes a payload that is [`Cancelled`](crate::Cancelled) on. If one of its own
/// threads drops it, it does not wait.
///
/// ```
/// use sterna_threads::{Runtime, spawn};
/// let runtime = Runtime::hybrid()?;
/// let sum: u64 = runtime.run(|| {
///     let parts: Vec<_> = (0..10).map(|part| spawn(move || part * part)).collect();
///     parts.into_iter().map(|part| part.join().unwrap()).sum()
/// });
/// assert_eq!(sum, 285);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Runtime {
    home: Home,
    implementation: Implementation,
    workers: Vec<thread::JoinHandle<()>>,
}

impl Runtime {
    /// A runtime of any kind.
    pub fn builder(implementation: Implementation) -> RuntimeBuilder {
        RuntimeBuilder {
            implementation,
            workers: None,
            stack_bytes: None,
            name: "worker".to_owned(),
            options: Options {
                io_uring: true,
                ..Options::default()
            },
        }
    }

    /// Threads of the kernel.
    ///
    /// # Errors
    /// As [`RuntimeBuilder::build`].
    pub fn kernel() -> io::Result<Self> {
        Self::builder(Implementation::Kernel).build()
    }

    /// User threads on one kernel thread.
    ///
    /// # Errors
    /// As [`RuntimeBuilder::build`].
    pub fn user() -> io::Result<Self> {
        Self::builder(Implementation::User).build()
    }

    /// User threads on a kernel thread per processor.
    ///
    /// # Errors
    /// As [`RuntimeBuilder::build`].
    pub fn hybrid() -> io::Result<Self> {
        Self::builder(Implementation::Hybrid).build()
    }

    /// How its threads are implemented.
    pub fn implementation(&self) -> Implementation {
        self.implementation
    }

    /// Runs `f` as a thread and waits for it. Threads that it leaves behind go on.
    ///
    /// # Panics
    /// With the panic of `f`, or if no thread can be made.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let result = scope_in(&self.home, |scope| {
            let builder = Builder::new().name("main");
            match builder.spawn_scoped(scope, f) {
                Ok(handle) => handle.join(),
                Err(error) => panic!("no thread was made: {error}"),
            }
        });
        result.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    }

    /// Makes a thread in this runtime, from wherever.
    ///
    /// # Errors
    /// As [`Builder::spawn`].
    pub fn spawn<F, T>(&self, builder: Builder, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        builder.spawn_in(&self.home, f)
    }
}

impl Runtime {
    /// Reports threads that hold a worker for longer than `threshold`: once when it is noticed, once when it is over.
    /// Threads of the kernel hold no worker. `report` is called on a kernel thread of its own.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub fn monitor(
        &self,
        threshold: Duration,
        report: impl FnMut(Held) + Send + 'static,
    ) -> io::Result<Monitor> {
        let shared = match &self.home {
            Home::Workers(shared) => Arc::clone(shared),
            Home::Kernel(_) => {
                Arc::new(Shared::new(0, stacks_of(STACK_BYTES)?, Options::default())?)
            }
        };
        Monitor::start(shared, threshold, report)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let inside = Home::of_this_thread().is_ok_and(|home| home.is(&self.home));
        match &self.home {
            Home::Kernel(runtime) => {
                runtime.close();
                if !inside {
                    crate::blocking(|| runtime.wait());
                }
            }
            Home::Workers(shared) => shared.close(),
        }
        if !inside {
            let workers = std::mem::take(&mut self.workers);
            let failed = crate::blocking(|| {
                let results = workers.into_iter().map(thread::JoinHandle::join);
                results.filter(Result::is_err).count()
            });
            if failed > 0 {
                eprintln!("sterna-threads: {failed} workers have panicked");
            }
        }
    }
}

/// Where threads are made.
#[derive(Clone)]
pub(crate) enum Home {
    Kernel(Arc<KernelRuntime>),
    Workers(Arc<Shared>),
}

impl Home {
    /// The runtime of the running thread.
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        Self::with_this_threads(Self::clone)
    }

    /// Calls `f` with it. A worker has it at hand, which saves counting one reference more for each thread.
    pub(crate) fn with_this_threads<R>(f: impl FnOnce(&Self) -> R) -> io::Result<R> {
        here::with_worker(|worker| match worker {
            Some(worker) => Ok(f(&worker.home)),
            None => Self::of_this_kernel_thread().map(|home| f(&home)),
        })
    }

    fn of_this_kernel_thread() -> io::Result<Self> {
        let runtime = here::with_record(|record| match &record.place {
            Place::Kernel(kernel) => kernel.runtime.clone(),
            Place::User { .. } => None,
        });
        runtime.map(Self::Kernel).ok_or_else(|| {
            io::Error::other(
                "the calling thread belongs to no runtime; call this inside Runtime::run",
            )
        })
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Kernel(one), Self::Kernel(two)) => Arc::ptr_eq(one, two),
            (Self::Workers(one), Self::Workers(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

impl std::fmt::Debug for Home {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Kernel(..) => "Kernel",
            Self::Workers(_) => "Workers",
        })
    }
}
