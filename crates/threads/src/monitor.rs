//! [`Monitor`]: notices threads that hold their worker for long, by computing without ever giving way or by a call that
//! blocks in the kernel without [`blocking`](crate::blocking).
//!
//! A kernel thread looks at the workers now and then; the workers only count their switches. Nothing is interrupted.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::spawn::ThreadId;
use crate::worker::{Inbox, Shared};

/// Looks in the time after which a hold is reported.
const LOOKS: u32 = 4;

/// That a thread holds its worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Number of the worker.
    pub worker: usize,
    /// Who holds it.
    pub thread: ThreadId,
    /// For how long, as far as it was seen.
    pub duration: Duration,
    /// Whether the thread is blocked in the kernel; otherwise it computes.
    pub in_kernel: bool,
    /// Whether it has given way meanwhile.
    pub over: bool,
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Monitor {
    stop: Option<Sender<()>>,
    watcher: Option<JoinHandle<()>>,
}

/// What was last seen of a worker.
struct Seen {
    switches: u64,
    thread: u64,
    since: Instant,
    reported: Option<bool>,
}

impl Monitor {
    pub(crate) fn start(
        shared: Arc<Shared>,
        threshold: Duration,
        mut report: impl FnMut(Held) + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let pause = (threshold / LOOKS).max(Duration::from_millis(1));
        let builder = thread::Builder::new().name("monitor".to_owned());
        let watcher = builder.spawn(move || {
            let mut seen: Vec<_> = shared
                .inboxes
                .iter()
                .map(|inbox| Seen::new(inbox))
                .collect();
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                for (worker, (seen, inbox)) in seen.iter_mut().zip(&shared.inboxes).enumerate() {
                    seen.look(worker, inbox, threshold, &mut report);
                }
            }
        })?;
        Ok(Self {
            stop: Some(stop),
            watcher: Some(watcher),
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop = None;
        let watcher = self.watcher.take();
        let ended = crate::blocking(|| watcher.map(JoinHandle::join));
        if let Some(Err(_)) = ended {
            eprintln!("sterna-threads: the report of a monitor has panicked");
        }
    }
}

impl Seen {
    fn new(inbox: &Inbox) -> Self {
        let (switches, thread) = inbox.activity();
        Self {
            switches,
            thread,
            since: Instant::now(),
            reported: None,
        }
    }

    fn look(
        &mut self,
        worker: usize,
        inbox: &Inbox,
        threshold: Duration,
        report: &mut impl FnMut(Held),
    ) {
        let (switches, thread) = inbox.activity();
        let held = |seen: &Self, in_kernel, over| Held {
            worker,
            thread: ThreadId::of(seen.thread),
            duration: seen.since.elapsed(),
            in_kernel,
            over,
        };
        if switches != self.switches || thread == 0 || inbox.is_sleeping() {
            if let Some(in_kernel) = self.reported {
                report(held(self, in_kernel, true));
            }
            *self = Self::new(inbox);
        } else if self.reported.is_none() && self.since.elapsed() >= threshold {
            let in_kernel = inbox.blocks_in_kernel();
            self.reported = Some(in_kernel);
            report(held(self, in_kernel, false));
        }
    }
}
