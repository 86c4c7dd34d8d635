//! Words of all experiments: what carries a program's activities ([`Carrier`]), where they run ([`Placement`]), and how
//! a cost is measured and shown ([`Effort`], [`Figure`]).

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use sterna_threads::Implementation;

/// Operations of one round, at most: an operation that takes no time at all would never fill a round.
const OPERATIONS_MAX: usize = 1 << 28;

/// What runs side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// Processes, each with memory of its own.
    Process,
    /// Threads of the kernel, in one process.
    Kernel,
    /// User threads on one kernel thread.
    User,
    /// User threads on several kernel threads.
    Hybrid,
}

impl Carrier {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Process, Self::Kernel, Self::User, Self::Hybrid];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "processes",
            Self::Kernel => "kernel threads",
            Self::User => "user threads",
            Self::Hybrid => "hybrid threads",
        }
    }

    /// Which threads those are; `None` for processes.
    pub(crate) fn implementation(self) -> Option<Implementation> {
        match self {
            Self::Process => None,
            Self::Kernel => Some(Implementation::Kernel),
            Self::User => Some(Implementation::User),
            Self::Hybrid => Some(Implementation::Hybrid),
        }
    }

    /// The word by which a process is told, and back.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Kernel => "kernel",
            Self::User => "user",
            Self::Hybrid => "hybrid",
        }
    }

    pub(crate) fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|carrier| carrier.word() == word)
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where two parties run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Both on one processor: each hand-over is a switch.
    OneProcessor,
    /// Each on a processor of its own: each hand-over crosses.
    TwoProcessors,
}

impl Placement {
    /// Both.
    pub const ALL: [Self; 2] = [Self::OneProcessor, Self::TwoProcessors];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneProcessor => "one processor",
            Self::TwoProcessors => "two processors",
        }
    }
}

/// How much is done for a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Rounds, of which the best and the median count.
    pub rounds: usize,
    /// How long a round takes, about.
    pub round: Duration,
}

/// Nanoseconds that an operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// In the best round: everything else on the machine only adds.
    pub best_ns: f64,
    /// In the median round.
    pub median_ns: f64,
}

/// A figure, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Figure<T> {
    /// It was measured.
    Measured(T),
    /// It could not be, or it makes no sense.
    Skipped {
        /// Why.
        skipped: String,
    },
}

impl<T> Figure<T> {
    pub(crate) fn skipped(why: impl Into<String>) -> Self {
        Self::Skipped {
            skipped: why.into(),
        }
    }

    pub(crate) fn of(result: io::Result<T>) -> Self {
        match result {
            Ok(value) => Self::Measured(value),
            Err(error) => Self::skipped(error.to_string()),
        }
    }

    /// The figure, if there is one.
    pub fn measured(&self) -> Option<&T> {
        match self {
            Self::Measured(value) => Some(value),
            Self::Skipped { .. } => None,
        }
    }
}

impl Effort {
    /// Measures an operation. `repeat` does as many as it is told, and returns how many it did: where two parties work,
    /// the other one's count as well.
    pub(crate) fn cost(
        self,
        mut repeat: impl FnMut(usize) -> io::Result<usize>,
    ) -> io::Result<Cost> {
        let mut timed = |count| -> io::Result<(Duration, usize)> {
            let begun = Instant::now();
            let done = repeat(count)?;
            Ok((begun.elapsed(), done.max(1)))
        };
        let mut count = 1;
        while count < OPERATIONS_MAX {
            let (took, _) = timed(count)?;
            if took * 4 >= self.round {
                let factor = self.round.as_secs_f64() / took.as_secs_f64().max(1e-9);
                count = ((count as f64 * factor) as usize).max(1);
                break;
            }
            count *= 2;
        }
        let mut rounds = Vec::new();
        for _ in 0..self.rounds.max(1) {
            let (took, done) = timed(count)?;
            rounds.push(took.as_nanos() as f64 / done as f64);
        }
        rounds.sort_by(f64::total_cmp);
        Ok(Cost {
            best_ns: rounds[0],
            median_ns: rounds[rounds.len() / 2],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_as_many_as_were_asked_for() {
        let effort = Effort {
            rounds: 3,
            round: Duration::from_micros(100),
        };
        let mut counts = Vec::new();
        let cost = effort.cost(|count| {
            counts.push(count);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_micros(1) * count as u32 {}
            Ok(count)
        });
        let cost = cost.unwrap();
        assert!(cost.best_ns >= 1000.0 && cost.median_ns >= cost.best_ns);
        let last = counts[counts.len() - 1];
        assert!(counts.ends_with(&[last, last, last]), "{counts:?}");
        assert!(effort.cost(|_| Err(io::ErrorKind::Other.into())).is_err());
    }

    #[test]
    fn carriers_have_words() {
        for carrier in Carrier::ALL {
            assert_eq!(Carrier::of_word(carrier.word()), Some(carrier));
        }
        assert_eq!(Carrier::of_word(""), None);
    }
}
