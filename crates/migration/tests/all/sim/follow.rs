//! Memory that follows its process: pages on their way, and a runner that lacks them.

use sterna_migration::{Attempt, Holding, NodeId, RunnerEvent};
use sterna_process::ProcessId;

use super::memory::{Memory, Set};
use super::mutation::Mutation;
use super::node::{Held, Runner};
use super::world::{Happening, World};

const SECONDS: u64 = 1_000_000;

/// What is missing of a process that may run already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lacking {
    pub(super) attempt: Attempt,
    pub(super) set: Set,
    /// What has come, of a process that had executed so much.
    pub(super) memory: Memory,
    pub(super) work: u64,
    pub(super) source: Option<NodeId>,
}

impl Runner {
    /// Pages have come that follow their process. Whether it is whole now; nothing if nobody waits for them.
    pub(super) fn follow(&mut self, attempt: Attempt, set: Set, pages: &Memory) -> Option<Lacking> {
        let of_this = |lacking: &&mut Lacking| lacking.attempt == attempt;
        let lacking = self.lacking.get_mut(&attempt.process).filter(of_this)?;
        let (some, left) = lacking.set.split(set);
        lacking.memory.install(some, pages);
        lacking.set = left;
        (left == Set::NONE).then(|| self.lacking.remove(&attempt.process))?
    }

    /// What it holds of a process, as it says.
    pub(super) fn holding(&self, process: ProcessId, held: &Held) -> Holding {
        match (held, self.lacking.get(&process)) {
            (
                &Held::Running { epoch, .. },
                Some(&Lacking {
                    attempt,
                    source: Some(source),
                    ..
                }),
            ) => Holding::Incomplete {
                epoch,
                source,
                attempt,
            },
            _ => held.holding(),
        }
    }
}

impl World {
    /// The rest of a memory sets out, in pieces, on a connection that loses nothing: it is late, or breaks.
    pub(super) fn follow(&mut self, from: (usize, u32), to: usize, lacking: Lacking) {
        let to = (to, self.nodes[to].runner.life);
        let (mut left, mut delay) = (lacking.set, 0);
        loop {
            let (pages, rest) = left.split(Set::of_bits(self.random.range(0, 256) as u8));
            let last = self.random.chance(300);
            let (pages, rest) = if last {
                (left, Set::NONE)
            } else {
                (pages, rest)
            };
            let crossing = self.crossings().first().copied();
            let breaks = crossing.is_none() && self.random.chance(300);
            delay += crossing.unwrap_or_else(|| self.random.range(SECONDS / 5, 3 * SECONDS));
            let happening = Happening::Follow {
                from,
                to,
                attempt: lacking.attempt,
                pages,
                memory: Memory::after(lacking.work),
                breaks,
            };
            self.after(delay, happening);
            left = rest;
            if last || breaks {
                break;
            }
        }
    }

    /// Some of the rest of a memory reaches the other runner, or does not.
    pub(super) fn followed(
        &mut self,
        (from, from_life): (usize, u32),
        (to, to_life): (usize, u32),
        (attempt, pages, memory): (Attempt, Set, Memory),
        breaks: bool,
    ) {
        let process = attempt.process;
        let source = &self.nodes[from].runner;
        let held = source.held.get(&process);
        let is_there =
            matches!(held, Some(Held::Frozen { move_id, .. }) if *move_id == attempt.move_id);
        let runner = &mut self.nodes[to].runner;
        let lacking = runner.lacking.get(&process).copied();
        let waits = lacking.filter(|lacking| lacking.attempt == attempt && runner.life == to_life);
        let Some(lacking) = waits else { return };
        let breaks = breaks || !is_there || self.nodes[from].runner.life != from_life;
        if breaks && self.mutation != Mutation::GoesOnWithout {
            return self.unfollowed(to, attempt, lacking.set);
        }
        let pages = if breaks { Set::NONE } else { pages };
        let whole = match breaks {
            true => self.nodes[to].runner.lacking.remove(&process),
            false => self.nodes[to].runner.follow(attempt, pages, &memory),
        };
        self.note(|| {
            format!(
                "{to}: {} pages follow in {attempt}, whole: {}",
                pages.count(),
                whole.is_some()
            )
        });
        let Some(whole) = whole else { return };
        if self.mutation == Mutation::LostThoughWhole {
            self.nodes[to].runner.held.remove(&process);
            let reason = "the simulation says so".into();
            return self.say(to, RunnerEvent::Unfollowed { attempt, reason });
        }
        if let Some(Held::Arriving { memory, .. } | Held::Ready { memory, .. }) =
            self.nodes[to].runner.held.get_mut(&process)
        {
            *memory = whole.memory;
        }
        let checked = self.checks.followed(whole.work, &whole.memory);
        self.check(checked);
        self.say(to, RunnerEvent::Followed { attempt });
    }

    /// The rest of a memory will not come: its process is let go.
    fn unfollowed(&mut self, to: usize, attempt: Attempt, left: Set) {
        let process = attempt.process;
        self.note(|| format!("{to}: {} pages do not follow in {attempt}", left.count()));
        let (id, record) = (self.nodes[to].id, *self.record(process));
        let runner = &mut self.nodes[to].runner;
        runner.lacking.remove(&process);
        if let Some(held) = runner.held.remove(&process) {
            self.checks.unfollowed(id, process, &held, &record);
        }
        let reason = "the connection broke off".into();
        self.say(to, RunnerEvent::Unfollowed { attempt, reason });
    }
}
