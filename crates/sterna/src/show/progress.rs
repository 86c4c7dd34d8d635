//! Progress of long work on a terminal's standard error: [`Bar`] for bytes, [`Building`] for
//! programs that are compiled, [`Steps`] for work with many parts.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is done sooner shows nothing.
const PATIENCE: Duration = Duration::from_millis(500);
/// Into how many parts a share is divided.
const PARTS: u64 = 1000;

/// How a build gets on, from half a second on until it is dropped.
pub(crate) struct Building {
    bar: ProgressBar,
    name: String,
    begun: Instant,
    compiling: bool,
}

impl Building {
    /// A build of the program of this name, which must be plain.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            bar: ProgressBar::hidden(),
            name: name.to_owned(),
            begun: Instant::now(),
            compiling: false,
        }
    }

    /// What is being done, and how much of it is done, from 0 to 1, if that is known.
    pub(crate) fn stage(&mut self, doing: &'static str, done: Option<f32>) {
        if self.begun.elapsed() < PATIENCE {
            return;
        }
        if self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        if self.bar.message().is_empty() || self.compiling != done.is_some() {
            self.compiling = done.is_some();
            self.bar.set_style(style(match self.compiling {
                true => "{msg} {wide_bar} {percent}% {elapsed}",
                false => "{spinner} {msg} {elapsed}",
            }));
            self.bar.set_length(PARTS);
        }
        self.bar.set_message(format!("{}: {doing}", self.name));
        match done {
            Some(done) => self
                .bar
                .set_position((done.clamp(0.0, 1.0) * PARTS as f32) as u64),
            None => self.bar.tick(),
        }
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar that fills, for bytes.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// A bar that shows when it is first [set](Bar::set).
    pub(crate) fn new(doing: &str) -> Self {
        let bar = ProgressBar::hidden();
        bar.set_style(style(
            "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
        ));
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

/// A line that changes, for work of which nobody knows how much is left.
pub(crate) struct Line(ProgressBar);

impl Line {
    /// A line that shows when it is first [set](Line::set).
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::hidden();
        bar.set_style(style("{spinner} {wide_msg} {elapsed}"));
        Self(bar)
    }

    pub(crate) fn set(&self, text: &str) {
        if self.0.is_hidden() {
            self.0.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.0.set_message(text.to_owned());
        self.0.tick();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar that fills, for work whose parts have names.
pub(crate) struct Steps(ProgressBar);

impl Steps {
    /// A bar that shows when it is first [set](Steps::set).
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::hidden();
        bar.set_style(style("{wide_msg} {bar:20} {percent}% {elapsed}"));
        Self(bar)
    }

    /// What is being done, and how much of all is done, from 0 to 1.
    pub(crate) fn set(&self, doing: &str, done: f64) {
        if self.0.length().is_none() {
            self.0.set_draw_target(ProgressDrawTarget::stderr());
            self.0.set_length(PARTS);
        }
        self.0.set_message(doing.to_owned());
        self.0
            .set_position((done.clamp(0.0, 1.0) * PARTS as f64) as u64);
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
