//! What libFuzzer says while it runs: a status line whenever it has found something, and a trace when a target has failed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often a line is shown.
const EVERY: Duration = Duration::from_secs(10);
/// So many lines of a failure are kept.
const SAID_MAX: usize = 200;

/// One run of a target.
pub(super) struct Progress {
    began: Instant,
    shown: Instant,
    status: Status,
    said: VecDeque<String>,
}

/// What a status line has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    inputs: u64,
    edges: u64,
    kept: u64,
}

impl Progress {
    pub(super) fn new() -> Progress {
        let now = Instant::now();
        Progress {
            began: now,
            shown: now,
            status: Status::default(),
            said: VecDeque::new(),
        }
    }

    /// Takes a line of libFuzzer's.
    pub(super) fn read(&mut self, line: String) {
        if let Some(status) = Status::of(&line) {
            self.status = status;
            if self.shown.elapsed() >= EVERY {
                self.show();
            }
            return;
        }
        self.said.push_back(line);
        if self.said.len() > SAID_MAX {
            self.said.pop_front();
        }
    }

    /// Shows how far it is.
    pub(super) fn show(&mut self) {
        self.shown = Instant::now();
        let elapsed = self.began.elapsed();
        let Status {
            inputs,
            edges,
            kept,
        } = self.status;
        println!(
            "  {}:{:02}  {inputs} inputs, {:.0} a second; {edges} edges reached, {kept} inputs kept",
            elapsed.as_secs() / 60,
            elapsed.as_secs() % 60,
            inputs as f64 / elapsed.as_secs_f64(),
        );
    }

    /// The last of what else it has said.
    pub(super) fn said(&self) -> String {
        Vec::from(self.said.clone()).join("\n")
    }
}

impl Status {
    /// Reads `#17 NEW cov: 9 ft: 12 corp: 3/40b exec/s: 0 …`.
    fn of(line: &str) -> Option<Status> {
        let inputs = line.strip_prefix('#')?.split_whitespace().next()?;
        let number = |name| {
            let value = line.split_once(name)?.1.trim_start();
            value.split([' ', '/']).next()?.parse().ok()
        };
        Some(Status {
            inputs: inputs.parse().ok()?,
            edges: number(" cov:")?,
            kept: number(" corp:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        let line =
            "#16384\tpulse  cov: 1502 ft: 4321 corp: 310/17Kb lim: 4096 exec/s: 8192 rss: 91Mb";
        let status = Status {
            inputs: 16384,
            edges: 1502,
            kept: 310,
        };
        assert_eq!(Status::of(line), Some(status));
        assert_eq!(
            Status::of("    #3 0x55d in fuzz::check src/fuzz.rs:59"),
            None
        );
        assert_eq!(Status::of("INFO: seed corpus: files: 118"), None);
    }
}
