//! [`Sampler`]: looks at `/proc` for the states of a program's threads, for kernels that give no records of switches.

use std::fs;
use std::time::{Duration, Instant};

use super::processors;
use super::tally::{Sums, Tally};

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(1);
/// Looks after which the processes are looked for again.
const LOOKS_PER_SEARCH: u32 = 10;
/// Processes that are looked at.
const PROCESSES_MAX: usize = 1000;

/// A thread as `/proc` shows it.
pub(super) struct Task {
    pub(super) thread: i32,
    pub(super) name: String,
    /// Running or waiting for a processor.
    pub(super) ready: bool,
}

/// Looks at a process and its descendants.
pub(super) struct Sampler {
    root: u32,
    processes: Vec<u32>,
    looks: u32,
    last: Instant,
    tally: Tally,
    processors: usize,
}

impl Sampler {
    pub(super) fn new(pid: u32) -> Self {
        Self {
            root: pid,
            processes: vec![pid],
            looks: 0,
            last: Instant::now(),
            tally: Tally::new(0),
            processors: processors().len(),
        }
    }

    /// Looks again and again, about as long as this.
    pub(super) fn look_for(&mut self, span: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < span {
            std::thread::sleep(PERIOD);
            self.look();
        }
    }

    fn look(&mut self) {
        if self.looks.is_multiple_of(LOOKS_PER_SEARCH) {
            self.processes = descendants(self.root);
            // Who looks may be one of them: a shell's, say.
            let own = std::process::id();
            self.processes
                .retain(|pid| *pid != own || *pid == self.root);
        }
        self.looks += 1;
        let now = Instant::now();
        let span_ns = (now - self.last).as_nanos() as u64;
        self.last = now;
        let mut ready = 0;
        for process in &self.processes {
            for task in tasks(*process) {
                // Whoever waits for a processor looks the same as who has one.
                ready += usize::from(task.ready);
                let ran_ns = if task.ready { span_ns } else { 0 };
                self.tally.found_running(task.thread, &task.name, ran_ns);
            }
        }
        self.tally
            .looked(span_ns, ready.min(self.processors), ready);
    }

    pub(super) fn finish(self) -> Sums {
        self.tally.finish(0)
    }
}

/// Whether a process is there and has not ended.
pub(super) fn is_alive(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    parse(&text).is_some_and(|(_, state)| state != 'Z' && state != 'X')
}

/// The threads of a process; none if it is gone.
pub(super) fn tasks(pid: u32) -> Vec<Task> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let entries = entries.filter_map(Result::ok);
    entries
        .filter_map(|entry| {
            let thread = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (name, state) = parse(&text)?;
            Some(Task {
                thread,
                name: name.to_owned(),
                ready: state == 'R',
            })
        })
        .collect()
}

/// Name and state from `/proc/PID/stat` (proc_pid_stat(5)). A name may hold brackets itself.
fn parse(text: &str) -> Option<(&str, char)> {
    let (head, rest) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    Some((name, rest.trim_start().chars().next()?))
}

/// A process and all that it and its descendants have started.
pub(super) fn descendants(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() && found.len() < PROCESSES_MAX {
        let pid = found[next];
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for thread in threads.filter_map(Result::ok) {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children.split_whitespace();
            found.extend(children.filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_do_not_confuse() {
        assert_eq!(parse("12 (a) R b) S 1 2"), Some(("a) R b", 'S')));
        assert_eq!(parse("12 (a"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_is_alive_and_runs() {
        let pid = std::process::id();
        assert!(is_alive(pid));
        assert!(tasks(pid).iter().any(|task| task.ready));
        assert_eq!(descendants(pid)[0], pid);
    }
}
