//! What must hold, seen by somebody who sees everything: [`Checks`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sterna_migration::{
    Attempt, Copied, Life, MoveFailure, MoveId, NodeId, Outcome, Record, Report, RoundsEnd,
    Strategy,
};
use sterna_process::{Epoch, ProcessId};

use super::memory::Memory;
use super::node::{Held, Node};

/// What is known of one process beyond what any node knows.
pub(super) struct Truth {
    /// All records that it had: owner and life by epoch.
    history: BTreeMap<Epoch, (NodeId, Life)>,
    /// The instructions that it has executed, by whoever.
    pub(super) work: u64,
    /// The last epoch in which it has run anywhere.
    ran_in: Epoch,
    /// The epochs that began when it was frozen into a file, or gone on with: not by a move.
    kept: BTreeSet<Epoch>,
    /// A runner died that had the right to it, or may have got it.
    may_be_lost: bool,
    /// It has ended by itself somewhere.
    ended: bool,
}

#[derive(Default)]
pub(super) struct Checks {
    pub(super) processes: BTreeMap<ProcessId, Truth>,
    /// Moves that were begun, whether their source's service has lived on, and the reports about them.
    moves: BTreeMap<MoveId, (NodeId, bool, u32)>,
    /// What came up how often.
    pub(super) seen: BTreeMap<&'static str, u64>,
}

impl Checks {
    pub(super) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_insert(0) += 1;
    }

    pub(super) fn started(&mut self, process: ProcessId, record: &Record) {
        let truth = Truth {
            history: BTreeMap::from([(record.epoch, (record.owner, record.life))]),
            work: 0,
            ran_in: record.epoch,
            kept: BTreeSet::new(),
            may_be_lost: false,
            ended: false,
        };
        self.processes.insert(process, truth);
    }

    pub(super) fn move_begun(&mut self, source: NodeId, attempt: Attempt) {
        self.moves.insert(attempt.move_id, (source, true, 0));
    }

    pub(super) fn service_crashed(&mut self, node: NodeId) {
        let mut cut = false;
        for (source, lived, reports) in self.moves.values_mut() {
            if *source == node {
                cut |= *lived && *reports == 0;
                // The next one may take up a move that was over but for letting the copy go.
                (*lived, *reports) = (false, 0);
            }
        }
        if cut {
            self.saw("service crashed in a move");
        }
    }

    pub(super) fn runner_crashed(
        &mut self,
        node: NodeId,
        process: ProcessId,
        held: &Held,
        record: &Record,
    ) {
        let owner = record.owner == node;
        let target = record.intent.is_some_and(|intent| intent.target == node);
        if owner || target && held.is_ready() {
            self.truth(process).may_be_lost = true;
        }
        if record.intent.is_some() {
            self.saw("runner crashed in a move");
        }
    }

    /// How many instructions a process has executed.
    pub(super) fn work(&self, process: ProcessId) -> u64 {
        self.processes[&process].work
    }

    pub(super) fn exited(&mut self, process: ProcessId) {
        self.truth(process).ended = true;
    }

    fn truth(&mut self, process: ProcessId) -> &mut Truth {
        self.processes.get_mut(&process).expect("a known process")
    }

    /// A record was written.
    pub(super) fn written(
        &mut self,
        process: ProcessId,
        by: NodeId,
        old: &Record,
        new: &Record,
        nodes: &[Node],
    ) -> Result<(), String> {
        if new.version() <= old.version() {
            return Err(format!("the record does not grow: {old} to {new}"));
        }
        if new.epoch > old.epoch {
            let entry = (new.owner, new.life);
            self.truth(process).history.insert(new.epoch, entry);
        }
        if old.intent.is_some() && new.life == Life::Alive && new.owner == old.owner {
            self.saw(match by == old.owner {
                true => "settled by the source",
                false => "settled by the target",
            });
        }
        if matches!(new.life, Life::Frozen(_)) || old.life != Life::Alive {
            self.truth(process).kept.insert(new.epoch);
        }
        if new.life == Life::Alive && old.life != Life::Alive {
            self.goes_on(process, by, old.life, nodes);
        }
        if new.life != Life::Lost {
            return Ok(());
        }
        if old.life == Life::Lost {
            return Err("lost was reported twice".into());
        }
        let owner = nodes.iter().find(|node| node.id == old.owner);
        let held = owner.and_then(|node| node.runner.held.get(&process));
        // Room for it that a late offer made holds nothing of it.
        if held.is_some_and(|held| !matches!(held, Held::Arriving { .. })) {
            return Err(format!("reported lost by {by}, but its runner has it"));
        }
        if !self.truth(process).may_be_lost {
            return Err("reported lost, but no runner that had a right to it died".into());
        }
        Ok(())
    }

    /// A process that was nowhere is a node's again.
    fn goes_on(&mut self, process: ProcessId, by: NodeId, before: Life, nodes: &[Node]) {
        let runner = nodes
            .iter()
            .find(|node| node.id == by)
            .map(|node| &node.runner);
        let made = runner.and_then(|runner| runner.held.get(&process));
        let truth = self.truth(process);
        match made {
            // At least once: what was done after the snapshot is done again.
            Some(Held::Frozen { work, .. } | Held::Made { work, .. }) if before == Life::Lost => {
                truth.work = *work;
            }
            Some(_) => {}
            None => truth.may_be_lost = true,
        }
    }

    /// A copy of a process begins to run, after having executed so many instructions.
    pub(super) fn resumed(&mut self, process: ProcessId, work: u64) -> Result<(), String> {
        let executed = self.truth(process).work;
        match work == executed {
            true => Ok(()),
            false => Err(format!(
                "it goes on from instruction {work}, but had executed {executed}"
            )),
        }
    }

    /// The same of one that came from elsewhere, with this memory.
    pub(super) fn moved(
        &mut self,
        process: ProcessId,
        work: u64,
        memory: &Memory,
    ) -> Result<(), String> {
        self.resumed(process, work)?;
        is_memory_of(work, memory)
    }

    /// All of a memory has come that followed a process, which had executed so much.
    pub(super) fn followed(&mut self, work: u64, memory: &Memory) -> Result<(), String> {
        self.saw("memory followed");
        is_memory_of(work, memory)
    }

    /// A runner has let go of a process whose memory did not come.
    pub(super) fn unfollowed(
        &mut self,
        node: NodeId,
        process: ProcessId,
        held: &Held,
        record: &Record,
    ) {
        let owner = record.owner == node;
        let target = record.intent.is_some_and(|intent| intent.target == node);
        if owner || target && held.is_ready() {
            self.truth(process).may_be_lost = true;
        }
        self.saw(match owner {
            true => "lost without its memory",
            false => "memory did not follow before the commit",
        });
    }

    /// A source lets its copy of this epoch go.
    pub(super) fn let_go(
        &mut self,
        process: ProcessId,
        epoch: Epoch,
        record: &Record,
        nodes: &[Node],
    ) -> Result<(), String> {
        let needs = |node: &Node| {
            let lacking = node.runner.lacking.get(&process);
            let held = node.runner.held.get(&process);
            lacking.is_some() && matches!(held, Some(Held::Running { .. }))
        };
        if nodes.iter().any(needs) {
            return Err("the copy was let go while it still needed its memory".into());
        }
        let truth = self.truth(process);
        let is_elsewhere = truth.ran_in > epoch
            || truth.kept.last().is_some_and(|last| *last > epoch)
            || record.life == Life::Ended;
        match is_elsewhere {
            true => Ok(()),
            false => Err("the copy was let go before it ran elsewhere".into()),
        }
    }

    /// A service that has heard late ends what it holds. Nobody recovers a process that runs, so that was frozen.
    pub(super) fn fenced(&mut self, process: ProcessId, record: &Record) -> Result<(), String> {
        self.saw("fenced");
        match self.truth(process).kept.is_empty() {
            true => Err(format!("fenced, though it was never frozen: {record}")),
            false => Ok(()),
        }
    }

    /// A source says what became of a move.
    pub(super) fn reported(&mut self, report: &Report) -> Result<(), String> {
        let Attempt {
            process,
            epoch,
            move_id,
        } = report.attempt;
        if let Some((_, _, reports)) = self.moves.get_mut(&move_id) {
            *reports += 1;
            if *reports > 1 {
                return Err(format!("move {move_id} ended twice"));
            }
        }
        let sum: Duration = report.parts.iter().map(|part| part.1).sum();
        if sum != report.total {
            return Err(format!("the parts of move {move_id} do not add up"));
        }
        let next = epoch.next().expect("not the last");
        let truth = self.truth(process);
        let decided = truth.history.get(&next).copied();
        let moved =
            decided.is_some_and(|(owner, _)| owner == report.target) && !truth.kept.contains(&next);
        let fits = match report.outcome {
            // A source that hears too late cannot know whether it was moved, or lost here and recovered there.
            Outcome::Moved { copy: Copied::Gone } => moved || truth.kept.last() > Some(&next),
            Outcome::Moved { .. } => moved,
            Outcome::Stayed(_) | Outcome::Ended => !moved,
            Outcome::Lost { copy } => moved == (copy == Copied::Kept),
        };
        if !fits {
            let outcome = &report.outcome;
            return Err(format!(
                "reported {outcome:?}, but the record was {decided:?}"
            ));
        }
        self.saw_outcome(&report.outcome);
        self.saw_travelled(report);
        Ok(())
    }

    fn saw_travelled(&mut self, report: &Report) {
        let travelled = &report.travelled;
        if let Outcome::Moved { .. } = report.outcome {
            match (travelled.strategy, travelled.rounds.len()) {
                (Strategy::PreCopy, 0) => self.saw("moved, no time for a round"),
                (Strategy::PreCopy, 1) => self.saw("moved in a round"),
                (Strategy::PreCopy, _) => self.saw("moved in rounds"),
                (Strategy::PostCopy, _) => self.saw("moved, memory followed"),
                (Strategy::Hybrid, 0) => self.saw("moved, memory followed, no time for a round"),
                (Strategy::Hybrid, _) => self.saw("moved, memory followed the rounds"),
                _ if travelled.why_not.is_some() => self.saw("moved without the rounds wanted"),
                _ => {}
            }
        }
        match travelled.end {
            Some(RoundsEnd::Enough) => self.saw("rounds: enough"),
            Some(RoundsEnd::NotConverging) => self.saw("rounds: not converging"),
            Some(RoundsEnd::Late) => self.saw("rounds: late"),
            _ => {}
        }
    }

    fn saw_outcome(&mut self, outcome: &Outcome) {
        self.saw(match outcome {
            Outcome::Moved { copy } => match copy {
                Copied::Discarded => "moved",
                Copied::Kept => "moved, copy kept",
                Copied::Gone => "moved, copy gone",
            },
            Outcome::Ended => "ended",
            Outcome::Lost { copy: Copied::Kept } => "lost, copy kept",
            Outcome::Lost { .. } => "lost",
            Outcome::Stayed(failure) => match failure {
                MoveFailure::Refused(_) => "stayed, refused",
                MoveFailure::Unanswered => "stayed, unanswered",
                MoveFailure::Cancelled => "stayed, cancelled",
                MoveFailure::RegistrySilent => "stayed, registry silent",
                MoveFailure::Leftover => "stayed, leftover",
                MoveFailure::Copy { .. } => "stayed, round failed",
                MoveFailure::Downtime { .. } => "stayed, downtime",
                MoveFailure::Deadline { .. } => "stayed, deadline",
                MoveFailure::NoPreCopy { .. } => "stayed, no rounds",
                MoveFailure::NoPostCopy { .. } => "stayed, memory cannot follow",
                MoveFailure::Pause { .. } => "stayed, pause",
                MoveFailure::Capture { .. } => "stayed, capture",
                MoveFailure::Push { .. } => "stayed, push",
                MoveFailure::NotCommitted => "stayed, not committed",
                MoveFailure::Target(_) => "stayed, target failed",
                MoveFailure::Restarted => "stayed, restarted",
                _ => "stayed, otherwise",
            },
        });
    }

    /// After each thing that happens.
    pub(super) fn always(
        &mut self,
        nodes: &[Node],
        records: &BTreeMap<ProcessId, Record>,
    ) -> Result<(), String> {
        for (&process, record) in records {
            let mut running = None;
            for node in nodes {
                let Some(Held::Running { epoch, .. }) = node.runner.held.get(&process) else {
                    continue;
                };
                if let Some(other) = running.replace(node.id) {
                    return Err(format!("it runs on {other} and {}", node.id));
                }
                let truth = self.processes.get_mut(&process);
                truth
                    .into_iter()
                    .for_each(|truth| truth.ran_in = truth.ran_in.max(*epoch));
                if record.owner != node.id || record.life != Life::Alive {
                    return Err(format!(
                        "it runs on {}, but the record is {record}",
                        node.id
                    ));
                }
                if *epoch > record.epoch {
                    return Err(format!(
                        "it runs in epoch {epoch}, but the record is {record}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// When all faults have ceased, and time has passed.
    pub(super) fn at_the_end(
        &mut self,
        nodes: &[Node],
        records: &BTreeMap<ProcessId, Record>,
    ) -> Result<(), String> {
        for (&process, record) in records {
            if record.intent.is_some() {
                return Err(format!("a move has not ended: {record}"));
            }
            self.place(process, record, nodes)?;
            if let Some(node) = nodes.iter().find(|node| node.is_busy(process)) {
                return Err(format!("node {} is still busy", node.id));
            }
            let truth = self.truth(process);
            if record.life == Life::Ended && !truth.ended {
                return Err("the record says ended, but it has not".into());
            }
            let mut owners: Vec<_> = truth.history.values().map(|entry| entry.0).collect();
            owners.dedup();
            if owners.len() > 2 {
                self.saw("moved on");
            }
            if owners.windows(3).any(|three| three[0] == three[2]) {
                self.saw("moved back");
            }
        }
        for node in nodes {
            if let Some(lacking) = node.runner.lacking.values().next() {
                return Err(format!(
                    "node {}: memory is still missing: {lacking:?}",
                    node.id
                ));
            }
            if let Some(tracked) = node.runner.tracked.values().next() {
                let id = node.id;
                return Err(format!(
                    "node {id}: what it writes is still noted: {tracked:?}"
                ));
            }
        }
        for (move_id, (_, lived, reports)) in &self.moves {
            if *lived && *reports != 1 {
                return Err(format!("move {move_id} had {reports} reports"));
            }
        }
        Ok(())
    }

    /// It runs at its owner and is nowhere else, or it is nowhere, but for copies that a person may recover.
    fn place(&self, process: ProcessId, record: &Record, nodes: &[Node]) -> Result<(), String> {
        let mut runs = false;
        for node in nodes {
            match node.runner.held.get(&process) {
                None => {}
                Some(Held::Running { epoch, .. }) if *epoch == record.epoch => runs = true,
                Some(Held::Frozen { .. }) if record.life == Life::Lost => {}
                Some(held) => {
                    return Err(format!(
                        "the record is {record}, but node {} has it {held:?}",
                        node.id
                    ));
                }
            }
        }
        match runs == (record.life == Life::Alive) {
            true => Ok(()),
            false => Err(format!("the record is {record}, but it runs nowhere")),
        }
    }
}

fn is_memory_of(work: u64, memory: &Memory) -> Result<(), String> {
    let written = Memory::after(work);
    match *memory == written {
        true => Ok(()),
        false => Err(format!(
            "its memory is {memory:?}, but it wrote {written:?}"
        )),
    }
}
