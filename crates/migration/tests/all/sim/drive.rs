//! What happens: each [`Happening`] becomes an event for a service or a command for a runner, and what these say
//! becomes new happenings.

use std::collections::BTreeMap;

use sterna_migration::wire::{VERSION_NEWEST, VERSION_OLDEST};
use sterna_migration::{
    Action, Attempt, Body, Command, Event, Grant, Holding, Message, MoveId, Moves, NodeId, Notice,
    Offer, Order, Record, Refusal, RunnerEvent, StartError, Strategy, Swap, Time,
};
use sterna_process::{MemoryLayout, ProcessId, ProgramId, Tag};

use super::mutation::Mutation;
use super::node::{Effect, Held, Service, TROUBLE};
use super::world::{Happening, Request, World};

const MILLIS: u64 = 1000;
const SECONDS: u64 = 1000 * MILLIS;
/// How often a service lists what the registry has about its node.
const LISTING_EVERY: u64 = 10 * SECONDS;
/// The same until it has had the first.
const LISTING_AGAIN: u64 = 500 * MILLIS;
/// After how many commits without an answer a mutated target loses patience.
const PATIENCE: u32 = 3;

impl World {
    // long because: one arm for each
    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Order { process } => self.order(process),
            Happening::Cancel { node, process } => self.cancel(node, process),
            Happening::Exit { process } => self.exit(process),
            Happening::Message { to, from, message } => self.message(to, from, message),
            Happening::Request { from, request } => self.registry(from, request),
            Happening::Records {
                to,
                records,
                listing,
            } => self.answers(to, records, listing),
            Happening::Command {
                to,
                runner_life,
                service_life,
                command,
            } => {
                let runner = &self.nodes[to].runner;
                if runner.life == runner_life && runner.obeys == service_life {
                    self.command(to, command);
                }
            }
            Happening::RunnerSays {
                to,
                runner_life,
                service_life,
                event,
            } => {
                let node = &self.nodes[to];
                if node.runner.life == runner_life && node.service_life == service_life {
                    self.note(|| format!("{to}: runner says {event:?}"));
                    self.tell(to, Event::Runner(event));
                }
            }
            Happening::RunnerDied { to, service_life } => self.runner_died(to, service_life),
            Happening::Answered {
                to,
                service_life,
                event,
            } => {
                if self.nodes[to].service_life == service_life {
                    self.tell(to, event);
                }
            }
            Happening::Bulk {
                from,
                runner_life,
                to,
                attempt,
                image,
            } => self.bulk((from, runner_life), to, attempt, image),
            Happening::Round {
                from,
                runner_life,
                to,
                attempt,
                sent,
            } => self.round((from, runner_life), to, attempt, sent),
            Happening::Follow {
                from,
                to,
                attempt,
                pages,
                memory,
                breaks,
            } => self.followed(from, to, (attempt, pages, memory), breaks),
            Happening::Start { node, service_life } => self.start(node, service_life),
            Happening::Started {
                node,
                service_life,
                runner_life,
                held,
            } => self.started(node, service_life, runner_life, held),
            Happening::Timer { node, service_life } => self.timer(node, service_life),
            Happening::List { node, service_life } => self.list(node, service_life),
            Happening::RegistryUp => self.registry_up(),
            Happening::Keep(happening) => self.keep(happening),
        }
    }

    fn message(&mut self, to: usize, from: NodeId, message: Message) {
        let (name, attempt) = (self.name(from), message.attempt);
        let committed = message.body == Body::Committed;
        let line = format!("{to}: {:?} from {name} ({})", message.body, attempt.move_id);
        self.note(|| line);
        self.tell(to, Event::Message { from, message });
        if committed && self.mutation == Mutation::DiscardOnCommit {
            self.pass_on(to, Command::Discard { attempt });
        }
    }

    /// What the registry says reaches a service.
    fn answers(&mut self, to: usize, records: Vec<(ProcessId, Option<Record>)>, listing: bool) {
        if let Some(service) = &mut self.nodes[to].service {
            service.listed |= listing;
        }
        for (process, record) in records {
            self.tell(to, Event::Record { process, record });
        }
    }

    /// A service knows what its runner held, and is up.
    fn started(
        &mut self,
        node: usize,
        service_life: u32,
        runner_life: u32,
        held: Vec<(ProcessId, Holding)>,
    ) {
        if self.nodes[node].runner.life != runner_life {
            return self.start(node, service_life); // what it said is not true any more
        }
        if self.nodes[node].service_life != service_life {
            return;
        }
        self.note(|| format!("{node}: service starts with {held:?}"));
        for &(process, _) in &held {
            if !self.is_calm() && self.random.chance(100) {
                let after = self.random.range(0, 20 * MILLIS);
                self.after(after, Happening::Order { process });
            }
        }
        let held = match self.mutation {
            Mutation::SilenceIsLoss => Vec::new(),
            _ => held,
        };
        self.nodes[node].service = Some(Service {
            moves: Moves::new(self.nodes[node].id, self.limits().clone(), held),
            runner_life,
            timer: None,
            listed: false,
            commits: BTreeMap::new(),
            keeping: BTreeMap::new(),
        });
        self.after(0, Happening::List { node, service_life });
    }

    /// Somebody wants to move a process, mostly from where it is.
    fn order(&mut self, process: ProcessId) {
        let any = |world: &mut Self| world.random.range(0, world.nodes.len() as u64) as usize;
        let node = match self.random.chance(950) {
            true => self.name(self.record(process).owner),
            false => any(self),
        };
        let mut target = match self.random.chance(500) {
            true => 0, // often the same: what is left of one attempt meets the next
            false => any(self),
        };
        if target == node && self.random.chance(900) {
            target = (node + 1) % self.nodes.len();
        }
        let order = Order {
            process,
            target: self.nodes[target].id,
            move_id: MoveId::from_bytes(self.random.bytes()),
            grant: Grant::from_bytes(self.random.bytes()),
            offer: Offer {
                kind: Tag::new("simulated"),
                program: ProgramId::from_bytes([7; 32]),
                layout: MemoryLayout::default(),
                image_format: 1,
                strategy: Strategy::StopAndCopy,
            },
            travel: self.travel(),
        };
        let (now, id) = (self.time(), self.nodes[node].id);
        let Some(service) = &mut self.nodes[node].service else {
            return;
        };
        let started = service.moves.start(now, order);
        self.note(|| format!("{node}: ordered to move it to {target}: {started:?}"));
        match started {
            Ok(attempt) => {
                self.checks.move_begun(id, attempt);
                if self.random.chance(150) {
                    let after = self.random.range(0, 60 * MILLIS);
                    self.after(after, Happening::Cancel { node, process });
                }
            }
            Err(StartError::Busy { .. }) => self.checks.saw("refused a second move"),
            Err(_) => {}
        }
        self.act(node);
    }

    fn cancel(&mut self, node: usize, process: ProcessId) {
        let now = self.time();
        if let Some(service) = &mut self.nodes[node].service {
            let cancelled = service.moves.cancel(now, process);
            self.note(|| format!("{node}: cancelled: {cancelled:?}"));
            self.act(node);
        }
    }

    /// A process ends by itself or is killed, wherever it runs or stands still.
    fn exit(&mut self, process: ProcessId) {
        let kills = self.random.chance(500);
        for node in 0..self.nodes.len() {
            let held = &mut self.nodes[node].runner.held;
            let stops = match held.get(&process) {
                Some(Held::Running { .. }) => true,
                Some(Held::Frozen { .. } | Held::Made { .. } | Held::Ready { .. }) => kills,
                _ => false,
            };
            if let Some(epoch) = held.get(&process).filter(|_| stops).map(Held::epoch) {
                held.insert(process, Held::Exited { epoch });
                self.nodes[node].runner.tracked.remove(&process);
                self.nodes[node].runner.lacking.remove(&process);
                self.note(|| format!("{node}: the process ends"));
                self.checks.exited(process);
                self.say(node, RunnerEvent::Exited { process });
            }
        }
    }

    fn runner_died(&mut self, to: usize, service_life: u32) {
        let life = self.nodes[to].runner.life;
        if self.nodes[to].service_life != service_life {
            return;
        }
        if let Some(service) = &mut self.nodes[to].service
            && service.runner_life != life
        {
            service.runner_life = life;
            self.nodes[to].runner.obeys = service_life;
            self.note(|| format!("{to}: hears that its runner died"));
            self.tell(to, Event::RunnerDied);
        }
    }

    /// A service comes up, and asks its runner what it holds: the runner takes no earlier command from now on.
    fn start(&mut self, node: usize, service_life: u32) {
        if self.nodes[node].service_life != service_life {
            return;
        }
        let runner = &mut self.nodes[node].runner;
        runner.obeys = service_life;
        if !std::mem::take(&mut runner.tracked).is_empty() {
            self.checks.saw("service crashed in a round");
        }
        let runner = &mut self.nodes[node].runner;
        let runner_life = runner.life;
        let held = runner.held.iter();
        let held: Vec<_> = held
            .map(|(process, held)| (*process, runner.holding(*process, held)))
            .collect();
        if !runner.lacking.is_empty() {
            self.checks.saw("service crashed while memory followed");
        }
        let delay = self.random.range(0, 5 * MILLIS);
        // What the runner says from now on comes after its answer.
        self.nodes[node].up_until = self.nodes[node].up_until.max(self.now + delay);
        let happening = Happening::Started {
            node,
            service_life,
            runner_life,
            held,
        };
        self.after(delay, happening);
    }

    fn timer(&mut self, node: usize, service_life: u32) {
        let now = self.now;
        if self.nodes[node].service_life != service_life {
            return;
        }
        if let Some(service) = &mut self.nodes[node].service
            && service.timer == Some(now)
        {
            service.timer = None;
            service.moves.handle_timeout(Time::from_micros(now));
            self.act(node);
        }
    }

    fn list(&mut self, node: usize, service_life: u32) {
        if self.nodes[node].service_life != service_life {
            return;
        }
        let held = self.nodes[node].runner.held.keys().copied().collect();
        self.request(node, &Request::List(held));
        let service = self.nodes[node].service.as_ref();
        let listed = service.is_some_and(|service| service.listed);
        let again = if listed { LISTING_EVERY } else { LISTING_AGAIN };
        self.after(again, Happening::List { node, service_life });
    }

    fn request(&mut self, from: usize, request: &Request) {
        for delay in self.crossings() {
            let request = request.clone();
            self.after(delay, Happening::Request { from, request });
        }
    }

    /// An event for a service, if it is up.
    pub(super) fn tell(&mut self, node: usize, event: Event) {
        let now = self.time();
        if let Some(service) = &mut self.nodes[node].service {
            service.moves.handle(now, event);
            self.act(node);
        }
    }

    /// Carries out what a service wants done.
    pub(super) fn act(&mut self, node: usize) {
        while let Some(action) = self.next_action(node) {
            match action {
                Action::Send { to, message } => self.send(node, to, message),
                Action::Swap(swap) => {
                    self.mutated(node, &swap);
                    self.request(node, &Request::Swap(Box::new(swap)));
                }
                Action::Read { process } => self.request(node, &Request::Read(process)),
                Action::Admit { attempt, .. } => {
                    let event = match self.is_calm() || !self.random.chance(TROUBLE) {
                        true => Event::Admitted {
                            attempt,
                            program_is_here: self.random.chance(800),
                        },
                        false => Event::Declined {
                            attempt,
                            refusal: Refusal::NotAdmitted {
                                reason: "the simulation says so".into(),
                            },
                        },
                    };
                    self.answer(node, event);
                }
                Action::FetchProgram { attempt, .. } => {
                    let reason = "the simulation says so".into();
                    let event = match self.is_calm() || !self.random.chance(TROUBLE) {
                        true => Event::ProgramFetched { attempt },
                        false => Event::ProgramUnavailable { attempt, reason },
                    };
                    self.answer(node, event);
                }
                Action::Command(command) => self.pass_on(node, command),
                Action::Notify(notice) => self.notice(&notice),
            }
        }
        self.set_timer(node);
    }

    fn next_action(&mut self, node: usize) -> Option<Action> {
        self.nodes[node].service.as_mut()?.moves.next_action()
    }

    fn set_timer(&mut self, node: usize) {
        let service_life = self.nodes[node].service_life;
        let Some(service) = &mut self.nodes[node].service else {
            return;
        };
        let Some(next) = service.moves.next_timeout() else {
            return;
        };
        let since = next.since(Time::ZERO);
        let at = (since.as_micros() as u64).max(self.now);
        if service.timer.is_none_or(|set| at < set) {
            service.timer = Some(at);
            self.schedule(at, Happening::Timer { node, service_life });
        }
    }

    fn send(&mut self, node: usize, to: NodeId, message: Message) {
        if matches!(message.body, Body::Refuse(Refusal::Busy | Refusal::Held)) {
            self.checks.saw("target: busy");
        }
        let (from, to) = (self.nodes[node].id, self.name(to));
        // All messages travel as bytes, in the version that both nodes speak. One node has not been upgraded.
        let version = match node.min(to) {
            0 => VERSION_OLDEST,
            _ => VERSION_NEWEST,
        };
        let bytes = message.encode(version).unwrap();
        let message = match Message::decode(&bytes) {
            Ok((read, _)) if read.encode(version).as_ref() == Ok(&bytes) => read,
            other => return self.check(Err(format!("{message:?} became {other:?}"))),
        };
        for delay in self.crossings() {
            let message = message.clone();
            self.after(delay, Happening::Message { to, from, message });
        }
    }

    fn answer(&mut self, to: usize, event: Event) {
        let service_life = self.nodes[to].service_life;
        let delay = self.random.range(0, 20 * MILLIS);
        let happening = Happening::Answered {
            to,
            service_life,
            event,
        };
        self.after(delay, happening);
    }

    fn notice(&mut self, notice: &Notice) {
        self.note(|| format!("notice: {notice:?}"));
        match notice {
            Notice::MoveEnded(report) => {
                let checked = self.checks.reported(report);
                self.check(checked);
            }
            Notice::Arrived { .. } => self.checks.saw("arrived"),
            Notice::Lost { .. } | Notice::Round { .. } => {}
            Notice::Fenced { process, .. } => {
                let record = *self.record(*process);
                let checked = self.checks.fenced(*process, &record);
                self.check(checked);
            }
        }
    }

    /// A command goes to the runner; none overtakes another.
    fn pass_on(&mut self, node: usize, command: Command) {
        let delay = self.random.range(10, 2 * MILLIS);
        let to = &mut self.nodes[node];
        let Some(service) = &to.service else { return };
        to.down_until = to.down_until.max(self.now + delay);
        let at = to.down_until;
        let happening = Happening::Command {
            to: node,
            runner_life: service.runner_life,
            service_life: to.service_life,
            command,
        };
        self.schedule(at, happening);
    }

    /// The runner says something to the service; nothing overtakes.
    pub(super) fn say(&mut self, node: usize, event: RunnerEvent) {
        let delay = self.random.range(10, 5 * MILLIS);
        let from = &mut self.nodes[node];
        from.up_until = from.up_until.max(self.now + delay);
        let at = from.up_until;
        let happening = Happening::RunnerSays {
            to: node,
            runner_life: from.runner.life,
            service_life: from.runner.obeys,
            event,
        };
        self.schedule(at, happening);
    }

    fn command(&mut self, node: usize, command: Command) {
        self.note(|| format!("{node}: runner is told {command:?}"));
        let calm = self.is_calm();
        let command = match (self.mutation, command) {
            (Mutation::LoserRuns, Command::Discard { attempt })
                if self.nodes[node]
                    .runner
                    .held
                    .get(&attempt.process)
                    .is_some_and(Held::is_ready) =>
            {
                let epoch = attempt.epoch.next().expect("not the last");
                Command::Resume {
                    process: attempt.process,
                    epoch,
                }
            }
            (Mutation::OldEpochKept, Command::Resume { process, epoch }) => {
                let epoch = match self.nodes[node].runner.held.get(&process) {
                    Some(Held::Frozen { epoch, .. }) => *epoch,
                    _ => epoch,
                };
                Command::Resume { process, epoch }
            }
            (_, command) => command,
        };
        let effects =
            self.nodes[node]
                .runner
                .obey(command, &mut self.random, (calm, self.mutation));
        self.effects(node, effects);
    }

    pub(super) fn effects(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Say(event) => self.say(node, event),
                Effect::Runs {
                    process,
                    work,
                    memory,
                } => {
                    let checked = match memory {
                        Some(memory) => self.checks.moved(process, work, &memory),
                        None => self.checks.resumed(process, work),
                    };
                    self.check(checked);
                }
                Effect::Round {
                    attempt,
                    work,
                    pages,
                } => self.send_round(node, attempt, work, pages),
                Effect::LetsGo { process, epoch } => {
                    let record = *self.record(process);
                    let checked = self.checks.let_go(process, epoch, &record, &self.nodes);
                    self.check(checked);
                }
                Effect::Exits { process } => self.checks.exited(process),
                Effect::Wrong(what) => self.check(Err(what)),
                Effect::Bulk {
                    attempt,
                    target,
                    image,
                } => self.send_bulk(node, (attempt, target), image),
            }
        }
    }

    /// What a mutated target does when it asks for a commit.
    fn mutated(&mut self, node: usize, swap: &Swap) {
        let Some(intent) = swap.expected.intent.filter(|_| swap.grant.is_some()) else {
            return;
        };
        let process = swap.process;
        let attempt = Attempt {
            process,
            epoch: swap.expected.epoch,
            move_id: intent.move_id,
        };
        let Some(service) = &mut self.nodes[node].service else {
            return;
        };
        let commits = service.commits.entry(intent.move_id).or_insert(0);
        *commits += 1;
        let impatient = *commits == PATIENCE;
        match self.mutation {
            Mutation::RunBeforeAnswer => {
                let epoch = swap.new.epoch;
                self.pass_on(node, Command::Resume { process, epoch });
            }
            Mutation::ReadyDroppedOnSilence if impatient => {
                self.pass_on(node, Command::Discard { attempt });
            }
            _ => {}
        }
    }
}
