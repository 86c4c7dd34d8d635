//! Progress of long work on a terminal's standard error: [`Bar`] for what can be counted, [`Waiting`] for what
//! cannot.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is done sooner shows nothing.
const PATIENCE: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(100);

/// A spinner with the time that has passed, from half a second on until it is dropped.
pub(crate) struct Waiting {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Waiting {
    /// Says what is being done, if it takes long; nothing where standard error is no terminal.
    pub(crate) fn new(doing: impl Into<String>) -> Self {
        let doing = doing.into();
        let (done, is_done) = mpsc::channel();
        let show = move || {
            if is_done.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style("{spinner} {msg} ({elapsed})"));
            bar.set_message(doing);
            bar.enable_steady_tick(TICK);
            let _ = is_done.recv(); // says that the other end is gone
            bar.finish_and_clear();
        };
        Self {
            done: Some(done),
            thread: thread::Builder::new().spawn(show).ok(), // without a thread, work goes on unseen
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.done.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A bar that fills, for bytes.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// A bar that shows when it is first [set](Bar::set).
    pub(crate) fn new(doing: &str) -> Self {
        let bar = ProgressBar::hidden();
        bar.set_style(style("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}"));
        bar.set_message(doing.to_owned());
        Self(bar)
    }

    pub(crate) fn set(&self, done: u64, total: u64) {
        if self.0.length().is_none() {
            self.0.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
