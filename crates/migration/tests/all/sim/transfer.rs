//! What goes from runner to runner: pages, in rounds and in the end, and images.

use std::time::Duration;

use sterna_migration::rounds::RATE_MIN;
use sterna_migration::{Attempt, NodeId, Round, RunnerEvent, Strategy, Travel};
use sterna_process::PAGE_SIZE;

use super::memory::{Memory, Set};
use super::mutation::Mutation;
use super::node::{self, Held, TROUBLE};
use super::world::{Happening, Sent, World};

const SECONDS: u64 = 1_000_000;

impl World {
    /// How somebody wants memory to travel.
    pub(super) fn travel(&mut self) -> Travel {
        let strategy = match self.random.range(0, 10) {
            0..2 => Some(Strategy::StopAndCopy),
            2..6 => None,
            6..8 => Some(Strategy::PreCopy),
            8 => Some(Strategy::PostCopy),
            _ => Some(Strategy::Hybrid),
        };
        if strategy == Some(Strategy::StopAndCopy) {
            return Travel {
                strategy,
                ..Travel::default()
            };
        }
        let mut some = |permille, from, to| {
            let wanted = self.random.chance(permille);
            wanted.then(|| self.random.range(from, to))
        };
        Travel {
            strategy,
            downtime_max: some(300, 1, 40)
                .map(Duration::from_millis)
                .filter(|_| strategy != Some(Strategy::PostCopy)),
            rate_max: some(300, RATE_MIN, 1 << 19),
            within: some(300, 1, 2000).map(Duration::from_millis),
        }
    }

    /// The pages of a round reach the other runner. What was written meanwhile may have been read half.
    pub(super) fn round(
        &mut self,
        (from, runner_life): (usize, u32),
        to: usize,
        attempt: Attempt,
        mut sent: Sent,
    ) {
        let lives = self.nodes[from].runner.life == runner_life;
        let runner = &self.nodes[from].runner;
        let tracked = runner.tracked.get(&attempt.process);
        let work = match runner.held.get(&attempt.process) {
            Some(Held::Running { work, .. } | Held::Frozen { work, .. }) => *work,
            _ => 0,
        };
        let dirty = tracked
            .filter(|tracked| lives && tracked.attempt == attempt)
            .map(|tracked| tracked.written(work));
        if let Some(dirty) = dirty
            && self.random.chance(500)
        {
            sent.memory.tear(dirty);
        }
        let runner = &mut self.nodes[to].runner;
        let taken = runner.receive_pages(attempt, sent.pages, &sent.memory);
        self.note(|| format!("{to}: round of {attempt}, taken: {taken}"));
        let Some(dirty) = dirty else { return };
        let tracked = &mut self.nodes[from].runner.tracked;
        if let Some(tracked) = tracked.get_mut(&attempt.process) {
            tracked.rounds += 1;
        }
        let pages = sent.pages.count();
        let event = match taken && (self.is_calm() || !self.random.chance(TROUBLE)) {
            true => RunnerEvent::RoundSent {
                attempt,
                round: Round {
                    pages,
                    bytes: pages * PAGE_SIZE as u64,
                    took: Duration::from_micros(self.now - sent.at),
                    held_back: Duration::ZERO,
                    dirty: dirty.count(),
                },
            },
            false => RunnerEvent::RoundFailed {
                attempt,
                reason: "the connection broke off".into(),
            },
        };
        self.say(from, event);
    }

    /// A round sets out, if the target can be reached.
    pub(super) fn send_round(&mut self, node: usize, attempt: Attempt, work: u64, pages: Set) {
        let runner_life = self.nodes[node].runner.life;
        let intent = self.record(attempt.process).intent;
        let target = intent.filter(|intent| intent.move_id == attempt.move_id);
        let arrives = self.crossings().first().copied();
        let (Some(intent), Some(delay)) = (target, arrives) else {
            let reason = "the connection broke off".into();
            let round = Round::default();
            return self.say(
                node,
                match self.mutation {
                    Mutation::LostRoundCounts => RunnerEvent::RoundSent { attempt, round },
                    _ => RunnerEvent::RoundFailed { attempt, reason },
                },
            );
        };
        let happening = Happening::Round {
            from: node,
            runner_life,
            to: self.name(intent.target),
            attempt,
            sent: Sent {
                at: self.now,
                pages,
                memory: Memory::after(work),
            },
        };
        self.after(delay, happening);
    }

    /// Image and the rest of the pages set out.
    pub(super) fn send_bulk(
        &mut self,
        node: usize,
        (attempt, target): (Attempt, NodeId),
        image: node::Sent,
    ) {
        let to = self.name(target);
        let runner_life = self.nodes[node].runner.life;
        let crossings = self.crossings();
        if crossings.is_empty() {
            let reason = "the connection broke off".into();
            self.say(node, RunnerEvent::PushFailed { attempt, reason });
        }
        for mut delay in crossings {
            if !self.is_calm() && self.random.chance(100) {
                delay += self.random.range(0, 2 * SECONDS);
            }
            let happening = Happening::Bulk {
                from: node,
                runner_life,
                to,
                attempt,
                image,
            };
            self.after(delay, happening);
        }
    }

    /// Image and pages reach the other runner.
    pub(super) fn bulk(
        &mut self,
        (from, runner_life): (usize, u32),
        to: usize,
        attempt: Attempt,
        image: node::Sent,
    ) {
        let mutation = self.mutation;
        let lacked = self.nodes[to].runner.lacking.contains_key(&attempt.process);
        let taken = self.nodes[to].runner.receive(attempt, image, mutation);
        let lacks = self.nodes[to].runner.lacking.get(&attempt.process);
        if let Some(&lacking) = lacks.filter(|_| !lacked) {
            self.follow((from, runner_life), to, lacking);
        }
        self.note(|| format!("{to}: memory of {attempt}, taken: {taken}"));
        if taken {
            let trouble = !self.is_calm() && self.random.chance(TROUBLE);
            let effects = self.nodes[to].runner.restore(attempt, trouble);
            self.effects(to, effects);
        }
        if self.nodes[from].runner.life != runner_life {
            return;
        }
        let reason = "the other side has no such move".into();
        let event = match taken {
            true => RunnerEvent::Pushed { attempt },
            false => RunnerEvent::PushFailed { attempt, reason },
        };
        if taken && mutation == Mutation::DiscardOnceSent {
            self.nodes[from].runner.held.remove(&attempt.process);
        }
        self.say(from, event);
    }
}
