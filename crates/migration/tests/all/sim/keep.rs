//! Freezing into a file, thawing and recovering: what the driver does around the machines, as a model of it.
//!
//! ```text
//!  freeze   runner: Copy, held ─► the file is written ─► swap: frozen in that file ─► runner: Drop
//!             └── no file, or another record ─► runner: Release
//!  thaw     runner: Make, standing ─► swap: (this node, next epoch), with the file's grant ─► the machines resume it
//!  recover    └── another record ─► runner: Drop                          └── of a snapshot: without a grant
//!             └── the copy of a move whose target died is here: swap alone
//! ```
//!
//! A swap is repeated until it is known what came of it.

use sterna_migration::{Event, Grant, Life, MoveId, Record, Swap};
use sterna_process::{Epoch, ProcessId};

use super::memory::Set;
use super::mutation::Mutation;
use super::node::{Held, Runner};
use super::world::{Happening, World};

const MILLIS: u64 = 1000;
const SECONDS: u64 = 1000 * MILLIS;
const SWAP_AGAIN: u64 = 200 * MILLIS;
/// After how many swaps without an answer a mutated service takes silence for a no.
const PATIENCE: u32 = 2;

/// A file with a process in it. Whoever has it, has its grant.
#[derive(Clone, Copy)]
pub(super) struct FrozenFile {
    process: ProcessId,
    work: u64,
    grant: Grant,
}

/// What a service is about with a process, beside its moves.
#[derive(Clone, Copy)]
pub(super) struct Keeping {
    hold: MoveId,
    expected: Record,
    deed: Deed,
    tries: u32,
}

#[derive(Clone, Copy)]
enum Deed {
    Freeze {
        file: Option<Grant>,
    },
    /// `made`: of a file or snapshot, not a copy that stood here.
    GoOn {
        grant: Option<Grant>,
        made: bool,
    },
}

/// An order to a runner.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeepOrder {
    Copy { epoch: Epoch },
    Make { epoch: Epoch, work: u64 },
    Release,
    Drop,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kept {
    Copied { work: u64 },
    Made,
    Released,
    Dropped { epoch: Epoch },
    Unmade,
    Refused,
}

/// Something about this that will happen.
pub(super) enum KeepHappening {
    Freeze {
        process: ProcessId,
    },
    Thaw {
        file: FrozenFile,
    },
    Recover {
        process: ProcessId,
    },
    /// An order to a runner, from the service of these lives: its own, and the runner's.
    Order {
        to: usize,
        lives: (u32, u32),
        process: ProcessId,
        hold: MoveId,
        order: KeepOrder,
    },
    Answer {
        to: usize,
        lives: (u32, u32),
        process: ProcessId,
        hold: MoveId,
        kept: Kept,
    },
    FileWritten {
        node: usize,
        service_life: u32,
        file: FrozenFile,
    },
    SwapAgain {
        node: usize,
        service_life: u32,
        process: ProcessId,
    },
    SwapKept {
        from: usize,
        service_life: u32,
        swap: Box<Swap>,
    },
    SwappedKept {
        to: usize,
        service_life: u32,
        swap: Box<Swap>,
        found: Record,
    },
}

impl Keeping {
    /// What it is called if the service dies at it.
    pub(super) const fn cut_off(&self) -> &'static str {
        match self.deed {
            Deed::Freeze { .. } => "service crashed in a freeze",
            Deed::GoOn { .. } => "service crashed in a thaw",
        }
    }

    fn swap(&self, process: ProcessId, by: sterna_migration::NodeId) -> Swap {
        let (new, grant) = match self.deed {
            Deed::Freeze { file } => {
                let file = file.expect("written before");
                (self.expected.closed(Life::Frozen(file.seal())), None)
            }
            Deed::GoOn { grant, .. } => (self.expected.recovered(by), grant),
        };
        Swap {
            process,
            expected: self.expected,
            new: new.expect("not the last epoch"),
            grant,
        }
    }
}

impl Runner {
    fn keep(&mut self, process: ProcessId, hold: MoveId, order: KeepOrder) -> Kept {
        let held = self.held.get(&process).copied();
        let own = |move_id: MoveId| move_id == hold;
        match (order, held) {
            (KeepOrder::Copy { epoch }, Some(Held::Running { epoch: own, work }))
                if own <= epoch && !self.lacking.contains_key(&process) =>
            {
                let move_id = hold;
                let held = Held::Frozen {
                    epoch,
                    move_id,
                    work,
                    rest: Set::ALL,
                    rounds: 0,
                };
                self.held.insert(process, held);
                Kept::Copied { work }
            }
            (KeepOrder::Make { epoch, work }, None) => {
                let move_id = hold;
                let held = Held::Made {
                    epoch,
                    move_id,
                    work,
                };
                self.held.insert(process, held);
                Kept::Made
            }
            (
                KeepOrder::Release,
                Some(Held::Frozen {
                    epoch,
                    move_id,
                    work,
                    ..
                }),
            ) if own(move_id) => {
                self.held.insert(process, Held::Running { epoch, work });
                Kept::Released
            }
            (KeepOrder::Drop, Some(Held::Frozen { epoch, move_id, .. })) if own(move_id) => {
                self.held.remove(&process);
                Kept::Dropped { epoch }
            }
            (KeepOrder::Drop, Some(Held::Made { move_id, .. })) if own(move_id) => {
                self.held.remove(&process);
                Kept::Unmade
            }
            _ => Kept::Refused,
        }
    }
}

impl World {
    pub(super) fn keep(&mut self, happening: KeepHappening) {
        match happening {
            KeepHappening::Freeze { process } => self.freeze(process),
            KeepHappening::Thaw { file } => self.thaw(file),
            KeepHappening::Recover { process } => self.recover(process),
            KeepHappening::Order {
                to,
                lives,
                process,
                hold,
                order,
            } => self.ordered(to, lives, (process, hold), order),
            KeepHappening::Answer {
                to,
                lives,
                process,
                hold,
                kept,
            } => self.kept(to, lives, (process, hold), kept),
            KeepHappening::FileWritten {
                node,
                service_life,
                file,
            } => self.file_written(node, service_life, file),
            KeepHappening::SwapAgain {
                node,
                service_life,
                process,
            } => self.swap_kept(node, service_life, process),
            KeepHappening::SwapKept {
                from,
                service_life,
                swap,
            } => self.registry_kept(from, service_life, &swap),
            KeepHappening::SwappedKept {
                to,
                service_life,
                swap,
                found,
            } => self.swapped_kept(to, service_life, &swap, found),
        }
    }

    /// Somebody wants a process in a file.
    fn freeze(&mut self, process: ProcessId) {
        let expected = *self.record(process);
        let node = self.name(expected.owner);
        if expected.life != Life::Alive {
            return;
        }
        if self.take_up(node, process, expected, Deed::Freeze { file: None }) {
            self.note(|| format!("{node}: freezes it"));
            let epoch = expected.epoch;
            self.order_kept(node, process, KeepOrder::Copy { epoch });
        }
    }

    /// Somebody has a file, and wants to go on with what is in it.
    fn thaw(&mut self, file: FrozenFile) {
        let FrozenFile {
            process,
            work,
            grant,
        } = file;
        let expected = *self.record(process);
        // Otherwise it becomes another process, which is none of ours.
        if expected.life == Life::Frozen(grant.seal()) {
            self.go_on(process, expected, work, Some(grant));
        }
    }

    /// Somebody has a snapshot, and wants to go on from it.
    fn recover(&mut self, process: ProcessId) {
        let expected = *self.record(process);
        if expected.life == Life::Lost {
            let executed = self.checks.work(process);
            let work = self.random.range(0, executed + 1);
            self.go_on(process, expected, work, None);
        }
    }

    fn go_on(&mut self, process: ProcessId, expected: Record, work: u64, grant: Option<Grant>) {
        let node = self.random.range(0, self.nodes.len() as u64) as usize;
        let epoch = expected.epoch;
        let service_life = self.nodes[node].service_life;
        let Some(service) = &mut self.nodes[node].service else {
            return;
        };
        let copy = service.moves.kept_copy(process);
        if copy.is_some_and(|copy| copy < epoch) && grant.is_none() {
            let made = false;
            if self.take_up(node, process, expected, Deed::GoOn { grant, made }) {
                self.note(|| format!("{node}: goes on with the copy that is there"));
                self.swap_kept(node, service_life, process);
            }
            return;
        }
        if service.keeping.contains_key(&process) || service.moves.started(process, epoch).is_err()
        {
            return;
        }
        let made = true;
        if self.take_up(node, process, expected, Deed::GoOn { grant, made }) {
            self.note(|| format!("{node}: goes on with it from instruction {work}"));
            self.order_kept(node, process, KeepOrder::Make { epoch, work });
        }
    }

    /// Whether the service is there, and not at it already.
    fn take_up(&mut self, node: usize, process: ProcessId, expected: Record, deed: Deed) -> bool {
        let hold = MoveId::from_bytes(self.random.bytes());
        let Some(service) = &mut self.nodes[node].service else {
            return false;
        };
        if service.keeping.contains_key(&process) {
            return false;
        }
        let keeping = Keeping {
            hold,
            expected,
            deed,
            tries: 0,
        };
        service.keeping.insert(process, keeping);
        true
    }

    /// The runner gets its order; none overtakes another.
    fn order_kept(&mut self, node: usize, process: ProcessId, order: KeepOrder) {
        let delay = self.random.range(10, 2 * MILLIS);
        let to = &mut self.nodes[node];
        let Some(service) = &to.service else { return };
        let Some(keeping) = service.keeping.get(&process) else {
            return;
        };
        to.down_until = to.down_until.max(self.now + delay);
        let happening = KeepHappening::Order {
            to: node,
            lives: (to.service_life, service.runner_life),
            process,
            hold: keeping.hold,
            order,
        };
        let at = to.down_until;
        self.schedule(at, Happening::Keep(happening));
    }

    /// It does it, and answers; nothing overtakes.
    fn ordered(
        &mut self,
        to: usize,
        lives: (u32, u32),
        (process, hold): (ProcessId, MoveId),
        order: KeepOrder,
    ) {
        let delay = self.random.range(10, 5 * MILLIS);
        let node = &mut self.nodes[to];
        if (node.runner.obeys, node.runner.life) != lives {
            return;
        }
        let kept = node.runner.keep(process, hold, order);
        node.up_until = node.up_until.max(self.now + delay);
        let at = node.up_until;
        self.note(|| format!("{to}: runner is told {order:?}: {kept:?}"));
        match kept {
            Kept::Released => {
                if let Some(Held::Running { work, .. }) = self.nodes[to].runner.held.get(&process) {
                    let checked = self.checks.resumed(process, *work);
                    self.check(checked);
                }
            }
            Kept::Dropped { epoch } => {
                let record = *self.record(process);
                let checked = self.checks.let_go(process, epoch, &record, &self.nodes);
                self.check(checked);
            }
            Kept::Copied { .. } | Kept::Made | Kept::Unmade | Kept::Refused => {}
        }
        let happening = KeepHappening::Answer {
            to,
            lives,
            process,
            hold,
            kept,
        };
        self.schedule(at, Happening::Keep(happening));
    }

    /// The runner's answer reaches the service.
    fn kept(
        &mut self,
        to: usize,
        lives: (u32, u32),
        (process, hold): (ProcessId, MoveId),
        kept: Kept,
    ) {
        let now = self.time();
        if self.nodes[to].service_life != lives.0 {
            return;
        }
        let Some(service) = &mut self.nodes[to].service else {
            return;
        };
        let of_this = |keeping: &&Keeping| keeping.hold == hold;
        let Some(&Keeping { deed, expected, .. }) = service.keeping.get(&process).filter(of_this)
        else {
            return;
        };
        match kept {
            Kept::Copied { work } => {
                let (trouble, delay) = (self.random.chance(200), self.random.range(1, SECONDS));
                let grant = Grant::from_bytes(self.random.bytes());
                if trouble {
                    return self.order_kept(to, process, KeepOrder::Release);
                }
                let file = FrozenFile {
                    process,
                    work,
                    grant,
                };
                for _ in 0..self.random.range(1, 4) {
                    let at = delay + self.random.range(0, 6 * SECONDS);
                    self.after(at, Happening::Keep(KeepHappening::Thaw { file }));
                }
                let service_life = lives.0;
                let happening = KeepHappening::FileWritten {
                    node: to,
                    service_life,
                    file,
                };
                self.after(delay, Happening::Keep(happening));
            }
            Kept::Made => self.swap_kept(to, lives.0, process),
            Kept::Refused | Kept::Released | Kept::Dropped { .. } | Kept::Unmade => {
                service.keeping.remove(&process);
                match (deed, kept) {
                    (Deed::Freeze { .. }, Kept::Dropped { .. }) => {
                        service.moves.gone(now, process, expected.epoch);
                    }
                    (Deed::Freeze { .. }, _) => {}
                    (Deed::GoOn { .. }, _) => service.moves.not_started(process),
                }
                self.act(to);
            }
        }
    }

    /// The seal of the file reaches the service.
    fn file_written(&mut self, node: usize, service_life: u32, file: FrozenFile) {
        if self.nodes[node].service_life != service_life {
            return;
        }
        if let Some(service) = &mut self.nodes[node].service
            && let Some(keeping) = service.keeping.get_mut(&file.process)
        {
            keeping.deed = Deed::Freeze {
                file: Some(file.grant),
            };
            self.swap_kept(node, service_life, file.process);
        }
    }

    /// Asks the registry, and again until it answers.
    fn swap_kept(&mut self, node: usize, service_life: u32, process: ProcessId) {
        let id = self.nodes[node].id;
        if self.nodes[node].service_life != service_life {
            return;
        }
        let Some(service) = &mut self.nodes[node].service else {
            return;
        };
        let Some(keeping) = service.keeping.get_mut(&process) else {
            return;
        };
        if let Deed::Freeze { file: None } = keeping.deed {
            return; // this was about an earlier one
        }
        keeping.tries += 1;
        let swap = keeping.swap(process, id);
        if self.mutation == Mutation::SilenceIsNo
            && keeping.tries > PATIENCE
            && matches!(keeping.deed, Deed::Freeze { .. })
        {
            return self.order_kept(node, process, KeepOrder::Release);
        }
        if self.mutation == Mutation::ThawedBeforeAnswer
            && matches!(keeping.deed, Deed::GoOn { .. })
        {
            let record = Some(swap.new);
            self.tell(node, Event::Record { process, record });
        }
        for delay in self.crossings() {
            let happening = KeepHappening::SwapKept {
                from: node,
                service_life,
                swap: Box::new(swap),
            };
            self.after(delay, Happening::Keep(happening));
        }
        let again = KeepHappening::SwapAgain {
            node,
            service_life,
            process,
        };
        self.after(SWAP_AGAIN, Happening::Keep(again));
    }

    /// A swap reaches the registry; its answer may not get back.
    fn registry_kept(&mut self, from: usize, service_life: u32, swap: &Swap) {
        let Some((_, Some(found))) = self.swap_if_up(from, swap) else {
            return;
        };
        for delay in self.crossings() {
            let happening = KeepHappening::SwappedKept {
                to: from,
                service_life,
                swap: Box::new(*swap),
                found,
            };
            self.after(delay, Happening::Keep(happening));
        }
    }

    /// What came of it reaches the service.
    fn swapped_kept(&mut self, to: usize, service_life: u32, swap: &Swap, found: Record) {
        let (id, process) = (self.nodes[to].id, swap.process);
        if self.nodes[to].service_life != service_life {
            return;
        }
        let Some(service) = &mut self.nodes[to].service else {
            return;
        };
        let Some(&keeping) = service.keeping.get(&process) else {
            return;
        };
        // Of an earlier deed.
        let waits = !matches!(keeping.deed, Deed::Freeze { file: None });
        if !waits || keeping.swap(process, id) != *swap {
            return;
        }
        let mine = found.owner == id && found.life == Life::Alive && found.epoch >= swap.new.epoch;
        let won = match keeping.deed {
            Deed::Freeze { .. } => found == swap.new,
            Deed::GoOn { .. } => mine,
        };
        match (keeping.deed, won) {
            (Deed::Freeze { .. }, true) => {
                self.checks.saw("frozen");
                self.order_kept(to, process, KeepOrder::Drop);
            }
            (Deed::Freeze { .. }, false) => {
                self.checks.saw("freezing came too late");
                // Otherwise it is elsewhere, perhaps thawed out of this very file.
                let runs_on = found.owner == id && found.life == Life::Alive
                    || self.mutation == Mutation::OtherRecordIsNo;
                let order = match runs_on {
                    true => KeepOrder::Release,
                    false => KeepOrder::Drop,
                };
                self.order_kept(to, process, order);
            }
            (Deed::GoOn { grant, made }, true) => {
                service.keeping.remove(&process);
                self.checks.saw(match grant {
                    Some(_) if swap.expected.owner == id => "thawed",
                    Some(_) => "thawed elsewhere",
                    None if made => "recovered",
                    None => "recovered from the copy",
                });
                let record = Some(found);
                self.tell(to, Event::Record { process, record });
            }
            (Deed::GoOn { made, .. }, false) => {
                self.checks.saw("going on came too late");
                if made {
                    self.order_kept(to, process, KeepOrder::Drop);
                } else {
                    service.keeping.remove(&process);
                }
            }
        }
    }
}
