//! Time, the network, the registry, and what happens next: [`World`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use sterna_migration::{
    Attempt, Command, Event, Holding, Limits, Message, NodeId, Record, RunnerEvent, Swap, Time,
    Verdict,
};
use sterna_process::ProcessId;

use super::checks::Checks;
use super::keep::KeepHappening;
use super::memory::{Memory, Set};
use super::mutation::Mutation;
use super::node::{self, Held, Node, Runner};
use super::random::Random;

const MILLIS: u64 = 1000;
const SECONDS: u64 = 1000 * MILLIS;
/// When all faults cease.
const CALM_AT: u64 = 20 * SECONDS;
/// Longest time that something is down.
const DOWN_MAX: u64 = 8 * SECONDS;
/// When everything must be in order: time for the longest wait after the last fault.
const END: u64 = CALM_AT + DOWN_MAX + 60 * SECONDS;
/// More things than can happen, unless something repeats itself without end.
const HAPPENINGS_MAX: u64 = 60_000;
const NODES: usize = 3;

/// Something that will happen.
pub(super) enum Happening {
    Order {
        process: ProcessId,
    },
    Cancel {
        node: usize,
        process: ProcessId,
    },
    Exit {
        process: ProcessId,
    },
    Message {
        to: usize,
        from: NodeId,
        message: Message,
    },
    Request {
        from: usize,
        request: Request,
    },
    Records {
        to: usize,
        records: Vec<(ProcessId, Option<Record>)>,
        listing: bool,
    },
    Command {
        to: usize,
        runner_life: u32,
        service_life: u32,
        command: Command,
    },
    RunnerSays {
        to: usize,
        runner_life: u32,
        service_life: u32,
        event: RunnerEvent,
    },
    RunnerDied {
        to: usize,
        service_life: u32,
    },
    Answered {
        to: usize,
        service_life: u32,
        event: Event,
    },
    Bulk {
        from: usize,
        runner_life: u32,
        to: usize,
        attempt: Attempt,
        image: node::Sent,
    },
    Round {
        from: usize,
        runner_life: u32,
        to: usize,
        attempt: Attempt,
        sent: Sent,
    },
    Follow {
        from: (usize, u32),
        to: (usize, u32),
        attempt: Attempt,
        pages: Set,
        memory: Memory,
        breaks: bool,
    },
    Start {
        node: usize,
        service_life: u32,
    },
    Started {
        node: usize,
        service_life: u32,
        runner_life: u32,
        held: Vec<(ProcessId, Holding)>,
    },
    Timer {
        node: usize,
        service_life: u32,
    },
    List {
        node: usize,
        service_life: u32,
    },
    RegistryUp,
    Keep(KeepHappening),
}

/// A round on its way.
pub(super) struct Sent {
    pub(super) at: u64,
    pub(super) pages: Set,
    pub(super) memory: Memory,
}

/// What is asked of the registry.
#[derive(Clone)]
pub(super) enum Request {
    Swap(Box<Swap>),
    Read(ProcessId),
    List(Vec<ProcessId>),
}

/// What breaks.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Service(usize),
    Runner(usize),
    Machine(usize),
    Registry,
}

/// How bad the network is, drawn once a seed. Chances in a thousand.
struct Weather {
    lost: u64,
    twice: u64,
    slow: u64,
    slow_max: u64,
}

/// What came of a seed.
pub(super) struct Ended {
    pub(super) result: Result<(), String>,
    pub(super) seen: BTreeMap<&'static str, u64>,
    pub(super) trace: Vec<String>,
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) mutation: Mutation,
    pub(super) nodes: Vec<Node>,
    pub(super) checks: Checks,
    records: BTreeMap<ProcessId, Record>,
    registry_is_up: bool,
    limits: Limits,
    weather: Weather,
    /// By the number of the happening before which they come, last first.
    faults: Vec<(u64, Fault)>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    serial: u64,
    violation: Option<String>,
    trace: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(seed: u64, mutation: Mutation, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let nodes = (0..NODES).map(|_| Node::new(NodeId::from_bytes(random.bytes())));
        let mut world = Self {
            now: 0,
            mutation,
            nodes: nodes.collect(),
            checks: Checks::default(),
            records: BTreeMap::new(),
            registry_is_up: true,
            limits: limits(&mut random),
            weather: weather(&mut random),
            faults: faults(&mut random),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            serial: 0,
            violation: None,
            trace: trace.then(Vec::new),
            random,
        };
        world.populate();
        world
    }

    /// Processes that run, services that start, and what people will ask for.
    fn populate(&mut self) {
        let processes = if self.random.chance(200) { 2 } else { 1 };
        for _ in 0..processes {
            let process = ProcessId::from_bytes(self.random.bytes());
            let owner = self.random.range(0, NODES as u64) as usize;
            let record = Record::first(self.nodes[owner].id);
            let held = Held::Running {
                epoch: record.epoch,
                work: 0,
            };
            self.nodes[owner].runner.held.insert(process, held);
            self.records.insert(process, record);
            self.checks.started(process, &record);
            let mut at = 50 * MILLIS;
            for _ in 0..self.random.range(1, 5) {
                at += match self.random.chance(500) {
                    true => self.random.range(0, 40 * MILLIS),
                    false => self.random.range(0, 4 * SECONDS),
                };
                self.schedule(at, Happening::Order { process });
            }
            if self.random.chance(250) {
                let at = self.random.range(0, at + 100 * MILLIS);
                self.schedule(at, Happening::Keep(KeepHappening::Freeze { process }));
            }
            for _ in 0..self.random.range(0, 4) {
                let at = self.random.range(0, at + 10 * SECONDS);
                self.schedule(at, Happening::Keep(KeepHappening::Recover { process }));
            }
            if self.random.chance(60) {
                let at = self.random.range(0, at + 100 * MILLIS);
                self.schedule(at, Happening::Exit { process });
            }
        }
        for node in 0..NODES {
            self.start_service(node, 0);
        }
    }

    pub(super) fn run(mut self) -> Ended {
        let mut count = 0;
        while let Some(Reverse((at, serial))) = self.queue.pop() {
            if at > END || self.violation.is_some() {
                break;
            }
            self.now = at;
            count += 1;
            while self
                .faults
                .last()
                .is_some_and(|(before, _)| *before <= count)
            {
                let (_, fault) = self.faults.pop().expect("there is one");
                if at < CALM_AT {
                    self.fault(fault);
                }
            }
            let happening = self.happenings.remove(&serial).expect("what was queued");
            self.happen(happening);
            self.work();
            let checked = self.checks.always(&self.nodes, &self.records);
            self.check(checked);
            if count > HAPPENINGS_MAX {
                self.check(Err("it goes on without end".into()));
            }
        }
        if self.violation.is_none() {
            let checked = self.checks.at_the_end(&self.nodes, &self.records);
            self.check(checked);
        }
        Ended {
            result: self.violation.map_or(Ok(()), Err),
            seen: self.checks.seen,
            trace: self.trace.unwrap_or_default(),
        }
    }

    pub(super) fn check(&mut self, result: Result<(), String>) {
        if let Err(violation) = result
            && self.violation.is_none()
        {
            self.note(|| format!("VIOLATION: {violation}"));
            self.violation = Some(violation);
        }
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{}  {}", Time::from_micros(self.now), line()));
        }
    }

    pub(super) const fn is_calm(&self) -> bool {
        self.now >= CALM_AT
    }

    pub(super) const fn time(&self) -> Time {
        Time::from_micros(self.now)
    }

    pub(super) fn name(&self, id: NodeId) -> usize {
        let index = self.nodes.iter().position(|node| node.id == id);
        index.expect("a node of this cluster")
    }

    pub(super) const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn record(&self, process: ProcessId) -> &Record {
        &self.records[&process]
    }

    pub(super) fn schedule(&mut self, at: u64, happening: Happening) {
        self.serial += 1;
        self.queue.push(Reverse((at.max(self.now), self.serial)));
        self.happenings.insert(self.serial, happening);
    }

    pub(super) fn after(&mut self, delay: u64, happening: Happening) {
        self.schedule(self.now + delay, happening);
    }

    /// How long something takes that crosses the network, for each time that it arrives: twice, once, or never.
    pub(super) fn crossings(&mut self) -> Vec<u64> {
        if self.is_calm() {
            return vec![self.random.range(100, 2 * MILLIS)];
        }
        if self.random.chance(self.weather.lost) {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.random.chance(self.weather.twice));
        (0..copies).map(|_| self.crossing()).collect()
    }

    fn crossing(&mut self) -> u64 {
        let quick = self.random.range(100, 3 * MILLIS);
        match self.random.chance(self.weather.slow) {
            true => quick + self.random.range(0, self.weather.slow_max),
            false => quick,
        }
    }

    /// Everything that runs executes something.
    fn work(&mut self) {
        for node in &mut self.nodes {
            let Runner { held, lacking, .. } = &mut node.runner;
            for (process, held) in held {
                if let Held::Running { work, .. } = held {
                    // It waits for the page that it is about to write.
                    if lacking
                        .get(process)
                        .is_some_and(|lacking| lacking.set.is_next(*work))
                    {
                        continue;
                    }
                    *work += 1;
                    if let Some(truth) = self.checks.processes.get_mut(process) {
                        truth.work = truth.work.max(*work);
                    }
                }
            }
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.note(|| format!("FAULT: {fault:?}"));
        match fault {
            Fault::Service(node) => self.crash_service(node),
            Fault::Runner(node) => self.crash_runner(node),
            Fault::Machine(node) => {
                self.crash_service(node);
                self.crash_runner(node);
            }
            Fault::Registry => {
                if self.registry_is_up {
                    self.registry_is_up = false;
                    let down = self.random.range(0, DOWN_MAX);
                    self.after(down, Happening::RegistryUp);
                }
            }
        }
    }

    fn crash_service(&mut self, node: usize) {
        let down = match self.random.chance(500) {
            true => self.random.range(0, 20 * MILLIS),
            false => self.random.range(0, DOWN_MAX),
        };
        let id = self.nodes[node].id;
        if let Some(service) = &self.nodes[node].service {
            service
                .keeping
                .values()
                .for_each(|keeping| self.checks.saw(keeping.cut_off()));
        }
        self.nodes[node].service = None;
        self.checks.service_crashed(id);
        self.start_service(node, down);
    }

    fn start_service(&mut self, node: usize, down: u64) {
        self.nodes[node].service_life += 1;
        let service_life = self.nodes[node].service_life;
        self.after(down, Happening::Start { node, service_life });
    }

    fn crash_runner(&mut self, node: usize) {
        let id = self.nodes[node].id;
        let held = std::mem::take(&mut self.nodes[node].runner.held);
        if !std::mem::take(&mut self.nodes[node].runner.tracked).is_empty() {
            self.checks.saw("runner crashed in a round");
        }
        if !std::mem::take(&mut self.nodes[node].runner.lacking).is_empty() {
            self.checks.saw("runner crashed while memory followed");
        }
        for (process, held) in held {
            let record = self.records[&process];
            self.checks.runner_crashed(id, process, &held, &record);
        }
        self.nodes[node].runner.life += 1;
        let service_life = self.nodes[node].service_life;
        let delay = self.random.range(0, 30 * MILLIS);
        let to = node;
        self.after(delay, Happening::RunnerDied { to, service_life });
    }

    pub(super) fn registry_up(&mut self) {
        self.note(|| "the registry is up".into());
        self.registry_is_up = true;
    }

    /// A request reaches the registry; its answer may not get back.
    pub(super) fn registry(&mut self, from: usize, request: Request) {
        if !self.registry_is_up {
            return;
        }
        let id = self.nodes[from].id;
        let concerns = |record: &Record| {
            record.owner == id || record.intent.is_some_and(|intent| intent.target == id)
        };
        let listing = matches!(request, Request::List(_));
        let records = match request {
            Request::Swap(swap) => vec![self.swap(from, &swap)],
            Request::Read(process) => vec![(process, self.records.get(&process).copied())],
            Request::List(held) => {
                let records = self.records.iter();
                let records =
                    records.filter(|(process, record)| concerns(record) || held.contains(process));
                records
                    .map(|(process, record)| (*process, Some(*record)))
                    .collect()
            }
        };
        for delay in self.crossings() {
            let records = records.clone();
            let happening = Happening::Records {
                to: from,
                records,
                listing,
            };
            self.after(delay, happening);
        }
    }

    /// Nothing if the registry is down.
    pub(super) fn swap_if_up(
        &mut self,
        from: usize,
        swap: &Swap,
    ) -> Option<(ProcessId, Option<Record>)> {
        self.registry_is_up.then(|| self.swap(from, swap))
    }

    fn swap(&mut self, from: usize, swap: &Swap) -> (ProcessId, Option<Record>) {
        let (process, by) = (swap.process, self.nodes[from].id);
        let current = self.records[&process];
        let settles = swap.expected.settled() == Some(swap.new) && swap.expected.intent.is_some();
        if self.mutation == Mutation::SettleByReading && settles {
            let found = if current == swap.expected {
                swap.new
            } else {
                current
            };
            return (process, Some(found));
        }
        let verdict = match self.mutation == Mutation::OnlyOwnerCompared {
            true if current.owner == swap.expected.owner && current != swap.new => {
                Ok(Verdict::Write)
            }
            _ => swap.judge(&current, by),
        };
        match verdict {
            Ok(Verdict::Write) => {
                self.note(|| format!("registry: {current} becomes {}", swap.new));
                let checked = self
                    .checks
                    .written(process, by, &current, &swap.new, &self.nodes);
                self.check(checked);
                self.records.insert(process, swap.new);
            }
            Ok(Verdict::Keep) => {
                self.note(|| format!("registry: {current} stays, {from} wanted {}", swap.new));
                if current.epoch > swap.expected.epoch && current != swap.new {
                    self.checks.saw(match swap.grant {
                        Some(_) => "commit came too late",
                        None => "settling came too late",
                    });
                }
            }
            Err(error) => self.check(Err(error.to_string())),
        }
        if self.mutation == Mutation::AnswerIsSuccess {
            return (process, Some(swap.new));
        }
        (process, self.records.get(&process).copied())
    }
}

fn limits(random: &mut Random) -> Limits {
    let mut millis = |from, to| Duration::from_millis(random.range(from, to));
    Limits {
        outgoing_max: 4,
        incoming_max: 4,
        repeat_first: millis(10, 100),
        repeat_max: millis(200, 1000),
        accept_within: millis(100, 2000),
        declare_within: millis(50, 1000),
        round_within: millis(50, 2000),
        downtime_goal: millis(0, 60),
        pause_within: millis(50, 1000),
        capture_within: millis(50, 1000),
        push_within: millis(100, 2000),
        push_tries_max: 3,
        commit_within: millis(50, 2000),
        follow_within: millis(0, 1000),
        done_asks_max: 12,
        prepare_within: millis(100, 2000),
        state_within: millis(100, 4000),
        restore_within: millis(100, 2000),
        rounds_max: random.range(1, 6) as usize,
        rate_assumed: 1_000_000,
    }
}

fn weather(random: &mut Random) -> Weather {
    let mut some = |most| match random.chance(400) {
        true => 0,
        false => random.range(0, most),
    };
    Weather {
        lost: some(300),
        twice: some(300),
        slow: some(300),
        slow_max: 1 + some(3 * SECONDS),
    }
}

fn faults(random: &mut Random) -> Vec<(u64, Fault)> {
    let count = random.range(0, 5);
    let mut faults: Vec<_> = (0..count)
        .map(|_| {
            let node = random.range(0, NODES as u64) as usize;
            let fault = match random.range(0, 10) {
                0..4 => Fault::Service(node),
                4..6 => Fault::Runner(node),
                6..8 => Fault::Machine(node),
                _ => Fault::Registry,
            };
            (random.range(10, 140), fault)
        })
        .collect();
    faults.sort_by_key(|(before, _)| Reverse(*before));
    faults
}
