//! One node: a [`Service`] around the machines under test, and a [`Runner`], which is a model of a real one.
//!
//! Either can die without the other. All that a service knows is gone with it; what a runner holds, too.

use std::collections::BTreeMap;

use sterna_migration::{
    Attempt, Command, Grant, Holding, MoveId, Moves, NodeId, Rest, RunnerEvent, Size,
};
use sterna_process::{Epoch, ProcessId};

use super::follow::Lacking;
use super::keep::Keeping;
use super::memory::{Memory, Set};
use super::mutation::Mutation;
use super::random::Random;

pub(super) struct Node {
    pub(super) id: NodeId,
    /// Absent while it is down or starts.
    pub(super) service: Option<Service>,
    /// How often it was started.
    pub(super) service_life: u32,
    pub(super) runner: Runner,
    /// Until when the links to and from the runner are taken, so that nothing overtakes.
    pub(super) down_until: u64,
    pub(super) up_until: u64,
}

pub(super) struct Service {
    pub(super) moves: Moves,
    /// The life of the runner with which it speaks.
    pub(super) runner_life: u32,
    /// For when its next timer is set.
    pub(super) timer: Option<u64>,
    /// Whether it has had a listing from the registry.
    pub(super) listed: bool,
    /// Commits that it has asked for, by move; a mutation counts them.
    pub(super) commits: BTreeMap<MoveId, u32>,
    /// What it freezes, thaws or recovers.
    pub(super) keeping: BTreeMap<ProcessId, Keeping>,
}

impl Node {
    pub(super) fn new(id: NodeId) -> Self {
        Self {
            id,
            service: None,
            service_life: 0,
            runner: Runner::default(),
            down_until: 0,
            up_until: 0,
        }
    }

    pub(super) fn is_busy(&self, process: ProcessId) -> bool {
        let service = self.service.as_ref();
        service.is_none_or(|service| service.moves.is_busy(process))
    }
}

/// What a runner holds of one process. `work` counts the instructions that it has executed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Held {
    Running {
        epoch: Epoch,
        work: u64,
    },
    Frozen {
        epoch: Epoch,
        move_id: MoveId,
        work: u64,
        /// What the target does not have yet, from how many rounds.
        rest: Set,
        rounds: u32,
    },
    /// Of a file or snapshot.
    Made {
        epoch: Epoch,
        move_id: MoveId,
        work: u64,
    },
    Arriving {
        attempt: Attempt,
        memory: Memory,
        rounds: u32,
        /// Its image has come.
        image: Option<u64>,
        asked: Option<(NodeId, Grant)>,
    },
    Ready {
        attempt: Attempt,
        source: NodeId,
        grant: Grant,
        work: u64,
        memory: Memory,
    },
    Exited {
        epoch: Epoch,
    },
}

impl Held {
    pub(super) const fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    pub(super) const fn epoch(&self) -> Epoch {
        self.holding().epoch()
    }

    pub(super) const fn holding(&self) -> Holding {
        match *self {
            Self::Running { epoch, .. } => Holding::Running { epoch },
            Self::Exited { epoch } => Holding::Exited { epoch },
            Self::Frozen { epoch, move_id, .. } => Holding::Frozen { epoch, move_id },
            Self::Made { epoch, move_id, .. } => Holding::Made { epoch, move_id },
            Self::Arriving { attempt, .. } => Holding::Arriving {
                epoch: attempt.epoch,
                move_id: attempt.move_id,
            },
            Self::Ready {
                attempt,
                source,
                grant,
                ..
            } => Holding::Ready {
                epoch: attempt.epoch,
                move_id: attempt.move_id,
                source,
                grant,
            },
        }
    }
}

#[derive(Default)]
pub(super) struct Runner {
    /// How often it was started.
    pub(super) life: u32,
    /// The life of the service whose commands it takes: the last that asked what it holds.
    pub(super) obeys: u32,
    pub(super) held: BTreeMap<ProcessId, Held>,
    /// Whose written pages are noted.
    pub(super) tracked: BTreeMap<ProcessId, Tracked>,
    /// Whose memory has not come as a whole.
    pub(super) lacking: BTreeMap<ProcessId, Lacking>,
}

/// The written pages of a process, noted for a move.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tracked {
    pub(super) attempt: Attempt,
    /// Instructions until they were last taken.
    since: u64,
    /// Not sent before.
    left: Set,
    /// That the target said it has.
    pub(super) rounds: u32,
}

impl Tracked {
    /// What is to be sent of a process that has executed so much.
    pub(super) fn dirty(&self, work: u64) -> Set {
        self.left | Set::written(self.since, work)
    }

    /// What was written since.
    pub(super) fn written(&self, work: u64) -> Set {
        Set::written(self.since, work)
    }
}

/// What comes of a command.
pub(super) enum Effect {
    Say(RunnerEvent),
    /// Image and pages go to another runner.
    Bulk {
        attempt: Attempt,
        target: NodeId,
        image: Sent,
    },
    /// Pages go to another runner, while the process runs.
    Round {
        attempt: Attempt,
        work: u64,
        pages: Set,
    },
    /// A process that stood still begins to run; with its memory, if it came from elsewhere.
    Runs {
        process: ProcessId,
        work: u64,
        memory: Option<Memory>,
    },
    /// It ended by itself.
    Exits {
        process: ProcessId,
    },
    /// A copy at a source is let go.
    LetsGo {
        process: ProcessId,
        epoch: Epoch,
    },
    /// A command that makes no sense.
    Wrong(String),
}

/// What goes with an image.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    /// Instructions that were executed.
    pub(super) work: u64,
    /// Pages that have changed since the rounds, and how many these are.
    pub(super) rest: Set,
    pub(super) rounds: u32,
    /// Whether they come later.
    pub(super) follows: bool,
}

/// How often things go wrong in a runner, in a thousand.
pub(super) const TROUBLE: u64 = 30;

impl Runner {
    // long because: one arm for each command
    pub(super) fn obey(
        &mut self,
        command: Command,
        random: &mut Random,
        (calm, mutation): (bool, Mutation),
    ) -> Vec<Effect> {
        let trouble = !calm && random.chance(TROUBLE);
        let reason = || "the simulation says so".to_owned();
        match command {
            Command::Prepare { attempt, .. } if trouble => {
                let reason = reason();
                vec![Effect::Say(RunnerEvent::PrepareFailed { attempt, reason })]
            }
            Command::Prepare { attempt, .. } => self.prepare(attempt, random.chance(850)),
            Command::Pause { attempt, .. } => self.pause(attempt, trouble, random),
            Command::Capture { attempt } if trouble => {
                let reason = reason();
                vec![Effect::Say(RunnerEvent::CaptureFailed { attempt, reason })]
            }
            Command::Capture { attempt } => self.capture(attempt, mutation),
            Command::Push {
                attempt,
                target,
                rest: when,
            } => match self.held.get(&attempt.process) {
                Some(&Held::Frozen {
                    move_id,
                    work,
                    rest,
                    rounds,
                    ..
                }) if move_id == attempt.move_id => {
                    vec![Effect::Bulk {
                        attempt,
                        target,
                        image: Sent {
                            work,
                            rest,
                            rounds,
                            follows: when != Rest::Along,
                        },
                    }]
                }
                _ => Vec::new(),
            },
            Command::Track { attempt } if trouble => {
                let reason = reason();
                vec![Effect::Say(RunnerEvent::TrackFailed { attempt, reason })]
            }
            Command::Track { attempt } => self.track(attempt),
            Command::Round { attempt, .. } => self.round(attempt),
            Command::Untrack { attempt } => {
                self.untrack(attempt.process, mutation);
                Vec::new()
            }
            Command::Restore {
                attempt,
                source,
                grant,
                ..
            } => {
                if let Some(Held::Arriving { asked, .. }) = self.held.get_mut(&attempt.process) {
                    *asked = Some((source, grant));
                }
                self.restore(attempt, trouble)
            }
            Command::Resume { process, epoch } => {
                self.untrack(process, mutation);
                self.resume(process, epoch, mutation)
            }
            Command::Discard { attempt } => self.discard(attempt),
            Command::Forget { process } => {
                if let Some(Held::Exited { .. }) = self.held.get(&process) {
                    self.held.remove(&process);
                }
                Vec::new()
            }
            Command::Fence { process, epoch } => self.fence(process, epoch),
        }
    }

    fn track(&mut self, attempt: Attempt) -> Vec<Effect> {
        let Some(&Held::Running { work, epoch }) = self.held.get(&attempt.process) else {
            return Vec::new();
        };
        if epoch != attempt.epoch {
            return Vec::new();
        }
        let left = Set::ALL;
        let tracked = Tracked {
            attempt,
            since: work,
            left,
            rounds: 0,
        };
        match self.tracked.insert(attempt.process, tracked) {
            None => vec![Effect::Say(RunnerEvent::Tracking {
                attempt,
                pages: left.count(),
            })],
            Some(before) => vec![Effect::Wrong(format!("noted for {attempt} and {before:?}"))],
        }
    }

    fn round(&mut self, attempt: Attempt) -> Vec<Effect> {
        let held = self.held.get(&attempt.process);
        let tracked = self.tracked.get_mut(&attempt.process);
        match (held, tracked) {
            (Some(&Held::Running { work, .. }), Some(tracked)) if tracked.attempt == attempt => {
                let pages = tracked.dirty(work);
                (tracked.left, tracked.since) = (Set::NONE, work);
                vec![Effect::Round {
                    attempt,
                    work,
                    pages,
                }]
            }
            _ => Vec::new(),
        }
    }

    /// Nothing of it is noted any more.
    pub(super) fn untrack(&mut self, process: ProcessId, mutation: Mutation) {
        if mutation != Mutation::TrackingLeftOn {
            self.tracked.remove(&process);
        }
    }

    fn capture(&mut self, attempt: Attempt, mutation: Mutation) -> Vec<Effect> {
        let tracked = self.tracked.remove(&attempt.process);
        if let Some(tracked) = tracked
            && let Some(Held::Frozen {
                work, rest, rounds, ..
            }) = self.held.get_mut(&attempt.process)
        {
            *rounds = tracked.rounds;
            *rest = match mutation {
                Mutation::WrittenLastIsForgotten => tracked.left,
                _ => tracked.dirty(*work),
            };
        }
        vec![Effect::Say(RunnerEvent::Captured {
            attempt,
            size: Size::default(),
        })]
    }

    fn prepare(&mut self, attempt: Attempt, can_follow: bool) -> Vec<Effect> {
        if let Some(held) = self.held.get(&attempt.process) {
            let wrong = format!("room for {attempt}, but there is {held:?}");
            return vec![Effect::Wrong(wrong)];
        }
        let held = Held::Arriving {
            attempt,
            memory: Memory::FIRST,
            rounds: 0,
            image: None,
            asked: None,
        };
        self.held.insert(attempt.process, held);
        vec![Effect::Say(RunnerEvent::Prepared {
            attempt,
            can_follow,
        })]
    }

    fn pause(&mut self, attempt: Attempt, trouble: bool, random: &mut Random) -> Vec<Effect> {
        let Attempt {
            process,
            epoch,
            move_id,
        } = attempt;
        match self.held.get(&process) {
            Some(&Held::Running { epoch, .. }) if trouble && random.chance(300) => {
                self.held.insert(process, Held::Exited { epoch });
                self.tracked.remove(&process);
                vec![
                    Effect::Exits { process },
                    Effect::Say(RunnerEvent::Exited { process }),
                ]
            }
            Some(Held::Running { .. }) if trouble => {
                let reason = "no safepoint".into();
                vec![Effect::Say(RunnerEvent::PauseRefused { attempt, reason })]
            }
            Some(&Held::Running { work, epoch: own }) if own == epoch => {
                let held = Held::Frozen {
                    epoch,
                    move_id,
                    work,
                    rest: Set::ALL,
                    rounds: 0,
                };
                self.held.insert(process, held);
                vec![Effect::Say(RunnerEvent::Paused { attempt })]
            }
            _ => Vec::new(),
        }
    }

    /// Pages came, of a process that runs elsewhere. Whether there is room for them.
    pub(super) fn receive_pages(&mut self, attempt: Attempt, set: Set, pages: &Memory) -> bool {
        match self.held.get_mut(&attempt.process) {
            Some(Held::Arriving {
                attempt: own,
                memory,
                rounds,
                ..
            }) if *own == attempt => {
                memory.install(set, pages);
                *rounds += 1;
                true
            }
            _ => false,
        }
    }

    /// The image came, and the rest of the pages. Whether there is room for them.
    pub(super) fn receive(&mut self, attempt: Attempt, sent: Sent, mutation: Mutation) -> bool {
        let Sent { work, rest, .. } = sent;
        match self.held.get_mut(&attempt.process) {
            // It came before, and goes on coming.
            Some(Held::Arriving {
                attempt: own,
                image: Some(_),
                ..
            }) if *own == attempt && sent.follows => true,
            Some(Held::Arriving {
                attempt: own,
                memory,
                rounds,
                image,
                ..
            }) if (*own == attempt || mutation == Mutation::MemoryOfAnyAttempt)
                && (sent.rounds == 0 || sent.rounds == *rounds) =>
            {
                *image = Some(work);
                if !sent.follows {
                    memory.install(rest, &Memory::after(work));
                    return true;
                }
                let lacking = Lacking {
                    attempt: *own,
                    set: rest,
                    memory: *memory,
                    work,
                    source: None,
                };
                self.lacking.insert(attempt.process, lacking);
                true
            }
            // It came before, and was pushed again.
            Some(Held::Ready { attempt: own, .. }) => *own == attempt,
            _ => false,
        }
    }

    /// Makes the process, if all of it has come and the service has said so.
    pub(super) fn restore(&mut self, attempt: Attempt, trouble: bool) -> Vec<Effect> {
        let Some(&Held::Arriving {
            attempt: own,
            memory,
            image: Some(work),
            asked: Some((source, grant)),
            ..
        }) = self.held.get(&attempt.process)
        else {
            return Vec::new();
        };
        let attempt = own;
        if let Some(lacking) = self.lacking.get_mut(&attempt.process) {
            lacking.source = Some(source);
        }
        if trouble {
            let reason = "the simulation says so".into();
            return vec![Effect::Say(RunnerEvent::RestoreFailed { attempt, reason })];
        }
        let held = Held::Ready {
            attempt,
            source,
            grant,
            work,
            memory,
        };
        self.held.insert(attempt.process, held);
        vec![Effect::Say(RunnerEvent::Restored { attempt })]
    }

    fn resume(&mut self, process: ProcessId, epoch: Epoch, mutation: Mutation) -> Vec<Effect> {
        let lacks = self.lacking.get(&process).map(|lacking| lacking.set);
        let said = Effect::Say(RunnerEvent::Resumed {
            process,
            epoch,
            follows: lacks.is_some() && mutation != Mutation::DoneBeforeWhole,
        });
        match self.held.get_mut(&process) {
            Some(Held::Running { epoch: own, .. }) => {
                *own = epoch;
                vec![said]
            }
            // Held for a file: the record that this is about is the one in which it was.
            Some(Held::Frozen { epoch: own, .. }) if *own >= epoch => vec![said],
            Some(&mut Held::Ready { work, memory, .. }) => {
                self.held.insert(process, Held::Running { epoch, work });
                let runs = Effect::Runs {
                    process,
                    work,
                    memory: Some(memory).filter(|_| lacks.is_none()),
                };
                vec![runs, said]
            }
            Some(&mut (Held::Frozen { work, .. } | Held::Made { work, .. })) => {
                self.held.insert(process, Held::Running { epoch, work });
                let runs = Effect::Runs {
                    process,
                    work,
                    memory: None,
                };
                vec![runs, said]
            }
            Some(Held::Arriving { .. }) => {
                vec![Effect::Wrong(format!(
                    "resumed {process}, which is not there yet"
                ))]
            }
            Some(Held::Exited { .. }) | None => Vec::new(),
        }
    }

    /// Nobody recovers a process that runs: all that is fenced was frozen into a file, and its service does not know yet.
    fn fence(&mut self, process: ProcessId, epoch: Epoch) -> Vec<Effect> {
        match self.held.get(&process) {
            Some(Held::Frozen { epoch: own, .. }) if *own == epoch => {
                self.held.remove(&process);
                vec![Effect::LetsGo { process, epoch }]
            }
            Some(Held::Running { epoch: own, .. }) if *own == epoch => {
                vec![Effect::Wrong(format!("fenced {process}, which runs"))]
            }
            _ => Vec::new(),
        }
    }

    fn discard(&mut self, attempt: Attempt) -> Vec<Effect> {
        let process = attempt.process;
        let own = match self.held.get(&process) {
            Some(Held::Running { epoch, .. }) => {
                return vec![Effect::Wrong(format!(
                    "discarded {attempt}, but it runs in epoch {epoch}"
                ))];
            }
            Some(Held::Frozen { move_id, .. } | Held::Made { move_id, .. }) => *move_id,
            Some(Held::Arriving { attempt, .. } | Held::Ready { attempt, .. }) => attempt.move_id,
            Some(Held::Exited { epoch }) if *epoch == attempt.epoch => attempt.move_id,
            Some(Held::Exited { .. }) | None => return Vec::new(),
        };
        if own != attempt.move_id {
            return Vec::new();
        }
        self.lacking.remove(&process);
        match self.held.remove(&process) {
            Some(Held::Frozen { epoch, .. }) => vec![Effect::LetsGo { process, epoch }],
            _ => Vec::new(),
        }
    }
}
