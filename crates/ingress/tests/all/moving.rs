//! The same clients while the process is moved between nodes as moves do it, one swap of a record deciding each, and
//! everything between nodes is late, lost, doubled and out of order: images, swaps, and the wish to be attached.
//!
//! ```text
//!  node ── image ──► node        swaps ──► record: whose, in which epoch
//!    └── wish to attach ──► ingress: is it yours, as the record has it? ──(later)──► attached, unless the epoch is an old one
//! ```
//!
//! As long as the process lives no connection breaks that neither side has broken, whatever happens to nodes and links.

mod held;
mod rest;

use std::collections::{BTreeMap, VecDeque};
use std::ops::AddAssign;

use sterna_ingress::{Back, Carried, ConnectionId, Decoder, Event, Front};

use crate::world::{Random, User, bytes, check};

const STEPS: u64 = 700;
const NODES: u64 = 3;
/// Messages under way: of more the oldest gets lost.
const UNDER_WAY_MAX: usize = 12;
const PAIR_BYTES: usize = 5_000;
const SETTLE_MAX: usize = 5_000;
const QUIET_ROUNDS: usize = 60;

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    /// Whoever attaches last counts, in whichever epoch.
    OldEpochsAttach,
    /// What comes over an attachment that another has taken the place of is heard.
    OldLinksAreHeard,
    /// A process that was stopped runs on when nothing is heard of its move.
    SilenceResumes,
    /// A target runs it as soon as it is there.
    NobodyIsAsked,
}

/// How often something happened.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    pub(crate) moved: u64,
    pub(crate) stayed: u64,
    pub(crate) fenced: u64,
    pub(crate) attached_standing: u64,
    pub(crate) deaths: u64,
    pub(crate) whole: u64,
}

impl AddAssign for Happened {
    fn add_assign(&mut self, other: Self) {
        self.moved += other.moved;
        self.stayed += other.stayed;
        self.fenced += other.fenced;
        self.attached_standing += other.attached_standing;
        self.deaths += other.deaths;
        self.whole += other.whole;
    }
}

/// Who has the process, as the registry knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    owner: u64,
    epoch: u64,
}

/// What a node has of the process.
struct Held {
    back: Back,
    /// Handed to the process and not read, and whether the end follows.
    pairs: BTreeMap<ConnectionId, (VecDeque<u8>, bool)>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running {
        epoch: u64,
    },
    /// It stands still, and the record of this epoch is being changed.
    Standing {
        epoch: u64,
    },
    /// It has come, and is another node's in this epoch.
    Ready {
        from: Record,
    },
}

/// What is under way between nodes.
#[derive(Clone)]
enum Message {
    Image {
        to: u64,
        from: Record,
        carried: Carried,
    },
    Swap {
        expected: Record,
        new: Record,
    },
    /// A node wants to be attached.
    Wish {
        node: u64,
    },
    /// The ingress has found it to have the process, in this epoch.
    Admitted {
        node: u64,
        epoch: u64,
    },
}

/// The attachment that counts at the ingress, and at its node.
struct Link {
    node: u64,
    /// Bytes under way: to the process, to the ingress.
    ways: [VecDeque<u8>; 2],
    decoders: [Decoder; 2],
}

pub(crate) struct World {
    random: Random,
    broken: Broken,
    front: Front,
    fence: u64,
    record: Record,
    nodes: BTreeMap<u64, Held>,
    link: Option<Link>,
    /// Those that others have taken the place of; none, unless that is the rule that is broken.
    old: Vec<Link>,
    under_way: Vec<Message>,
    clients: BTreeMap<ConnectionId, User>,
    /// The process itself: what it remembers travels.
    process: BTreeMap<ConnectionId, User>,
    happened: Happened,
}

impl World {
    pub(crate) fn run(seed: u64, broken: Broken) -> Result<Happened, String> {
        let running = Held {
            back: Back::default(),
            pairs: BTreeMap::new(),
            state: State::Running { epoch: 1 },
        };
        let mut world = Self {
            random: Random(seed),
            broken,
            front: Front::new(1),
            fence: 0,
            record: Record { owner: 0, epoch: 1 },
            nodes: BTreeMap::from([(0, running)]),
            link: None,
            old: Vec::new(),
            under_way: Vec::new(),
            clients: BTreeMap::new(),
            process: BTreeMap::new(),
            happened: Happened::default(),
        };
        for _ in 0..STEPS {
            world.step()?;
        }
        world.settle()?;
        Ok(world.happened)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn send(&mut self, message: Message) {
        if self.under_way.len() == UNDER_WAY_MAX {
            self.under_way.remove(0);
        }
        self.under_way.push(message);
    }

    /// The node at which it runs, if it does: at most one, or rules are broken.
    fn runs_at(&self) -> Vec<u64> {
        let running = self.nodes.iter();
        running
            .filter(|(_, held)| matches!(held.state, State::Running { .. }))
            .map(|(node, _)| *node)
            .collect()
    }

    fn any(&mut self, of: fn(&Self) -> &BTreeMap<ConnectionId, User>) -> Option<ConnectionId> {
        let alive = of(self).iter().filter(|(_, user)| !user.gone);
        let alive: Vec<ConnectionId> = alive.map(|(id, _)| *id).collect();
        let count = alive.len() as u64;
        (count > 0).then(|| alive[self.random.below(count) as usize])
    }

    fn step(&mut self) -> Result<(), String> {
        match self.random.below(100) {
            0..3 => {
                if let Some(id) = self.front.accept("192.0.2.1:7") {
                    self.clients.insert(id, User::default());
                }
            }
            3..15 => self.client_acts(),
            15..35 => self.process_acts()?,
            35..38 => self.leave(),
            38..58 => self.deliver_message(),
            58..62 => self.learn(),
            62..66 => self.give_up(),
            66 => self.target_dies(),
            67..72 => self.wish(),
            72 => self.link = None,
            _ => self.pass_on()?,
        }
        self.see_to_events()
    }

    fn client_acts(&mut self) {
        let Some(id) = self.any(|world| &world.clients) else {
            return;
        };
        let (count, what) = (self.random.below(3_000) as usize, self.random.below(20));
        let room = self.front.room(id);
        let client = self.clients.entry(id).or_default();
        match what {
            0 => {
                (client.gone, client.broke) = (true, true);
                self.front.reset(id);
            }
            1 => {
                client.has_ended = true;
                self.front.end(id);
            }
            _ if client.has_ended => {}
            _ => {
                let sent = bytes(id, false, client.sent, count.min(room));
                client.sent += sent.len() as u64;
                self.front.push(id, &sent);
            }
        }
    }

    /// The process does something, wherever it runs.
    fn process_acts(&mut self) -> Result<(), String> {
        let running = self.runs_at();
        let Some(id) = self.any(|world| &world.process) else {
            return Ok(());
        };
        if running.is_empty() {
            return Ok(());
        }
        let node = running[self.random.below(running.len() as u64) as usize];
        let (count, what) = (self.random.below(4_000) as usize, self.random.below(40));
        let Some(held) = self.nodes.get_mut(&node) else {
            return Ok(());
        };
        let process = self.process.entry(id).or_default();
        match what {
            0 => {
                (process.gone, process.has_ended) = (true, true);
                held.pairs.remove(&id);
                held.back.close(id);
            }
            1 => {
                process.has_ended = true;
                held.back.end(id);
            }
            2..20 if !process.has_ended => {
                let room = held.back.room(id);
                let sent = bytes(id, true, process.sent, count.min(room));
                process.sent += sent.len() as u64;
                held.back.push(id, &sent);
            }
            _ => {
                let (unread, end) = held.pairs.entry(id).or_default();
                let read: Vec<u8> = unread.drain(..count.min(unread.len())).collect();
                let saw_end = *end && unread.is_empty();
                check(id, false, process, &read)?;
                process.saw_end |= saw_end;
                held.deliver(id);
            }
        }
        Ok(())
    }

    /// A move begins: the process stands still, and goes to another node.
    fn leave(&mut self) {
        let to = self.random.below(NODES);
        for node in self.runs_at() {
            let Some(held) = self.nodes.get_mut(&node) else {
                continue;
            };
            if let State::Running { epoch } = held.state
                && node != to
            {
                held.state = State::Standing { epoch };
                let (owner, pairs) = (node, &held.pairs);
                let carried = held.back.carry(|id| {
                    let unread = pairs.get(&id);
                    unread.map_or(Vec::new(), |(unread, _)| unread.clone().into())
                });
                let from = Record { owner, epoch };
                self.send(Message::Image { to, from, carried });
            }
        }
    }

    /// One message, any, gets there; perhaps it comes once more.
    fn deliver_message(&mut self) {
        let count = self.under_way.len() as u64;
        if count == 0 {
            return;
        }
        let place = self.random.below(count) as usize;
        let message = match self.chance(25) {
            true => self.under_way[place].clone(),
            false => self.under_way.remove(place),
        };
        if self.chance(15) {
            return;
        }
        match message {
            Message::Image { to, from, carried } => self.arrive(to, from, carried),
            Message::Swap { expected, new } => {
                if self.record == expected {
                    self.record = new;
                }
            }
            Message::Wish { node } => {
                let Record { owner, epoch } = self.record;
                if owner == node {
                    self.send(Message::Admitted { node, epoch });
                }
            }
            Message::Admitted { node, epoch } => self.attach(node, epoch),
        }
    }

    fn arrive(&mut self, to: u64, from: Record, carried: Carried) {
        if self.nodes.contains_key(&to) {
            return;
        }
        let mut held = Held {
            back: Back::carried(carried),
            pairs: BTreeMap::new(),
            state: State::Ready { from },
        };
        if self.broken == Broken::NobodyIsAsked {
            held.state = State::Running {
                epoch: from.epoch + 1,
            };
        }
        for id in held.back.open().collect::<Vec<_>>() {
            held.deliver(id);
        }
        self.nodes.insert(to, held);
        self.commit(to, from);
    }

    fn commit(&mut self, owner: u64, expected: Record) {
        let epoch = expected.epoch + 1;
        let new = Record { owner, epoch };
        self.send(Message::Swap { expected, new });
    }

    /// Some node looks at the record, and does what that says.
    fn learn(&mut self) {
        let node = self.random.below(NODES);
        let record = self.record;
        let Some(held) = self.nodes.get_mut(&node) else {
            return;
        };
        let is_own = record.owner == node;
        match held.state {
            State::Ready { from } if record.epoch == from.epoch => {
                // Perhaps it got lost.
                self.commit(node, from);
                return;
            }
            State::Ready { from } if is_own && record.epoch == from.epoch + 1 => {
                let epoch = record.epoch;
                held.state = State::Running { epoch };
                self.happened.moved += 1;
                self.wish_of(node);
                return;
            }
            State::Standing { epoch } if is_own && record.epoch > epoch => {
                let epoch = record.epoch;
                held.state = State::Running { epoch };
                for id in held.back.open().collect::<Vec<_>>() {
                    held.deliver(id);
                }
                self.happened.stayed += 1;
                return;
            }
            State::Standing { epoch } if record.epoch > epoch => {}
            State::Ready { from } if record.epoch > from.epoch => {}
            _ => return,
        }
        self.forget(node);
    }

    /// A node that waits has waited long enough: it settles the doubt by writing.
    fn give_up(&mut self) {
        let node = self.random.below(NODES);
        let Some(held) = self.nodes.get_mut(&node) else {
            return;
        };
        if let State::Standing { epoch } = held.state {
            if self.broken == Broken::SilenceResumes {
                held.state = State::Running { epoch };
                return;
            }
            self.commit(node, Record { owner: node, epoch });
        }
    }

    /// What is ready and not this node's yet is gone, and what the node was about to write.
    fn target_dies(&mut self) {
        let node = self.random.below(NODES);
        let is_ready = |held: &Held| matches!(held.state, State::Ready { .. });
        if self.record.owner != node && self.nodes.get(&node).is_some_and(is_ready) {
            self.happened.deaths += 1;
            self.under_way.retain(
                |message| !matches!(message, Message::Swap { new, .. } if new.owner == node),
            );
            self.forget(node);
        }
    }

    fn forget(&mut self, node: u64) {
        self.nodes.remove(&node);
        if self.link.as_ref().is_some_and(|link| link.node == node) {
            self.link = None;
        }
    }

    /// Nodes that have it, also one at which it stands still, see to it that it is attached.
    fn wish(&mut self) {
        let node = self.random.below(NODES);
        if self.link.as_ref().is_none_or(|link| link.node != node) {
            self.wish_of(node);
        }
    }

    fn wish_of(&mut self, node: u64) {
        if self.nodes.contains_key(&node) {
            self.send(Message::Wish { node });
        }
    }

    fn attach(&mut self, node: u64, epoch: u64) {
        if epoch < self.fence && self.broken != Broken::OldEpochsAttach {
            self.happened.fenced += 1;
            return;
        }
        self.fence = epoch;
        let old = self.link.take();
        if self.broken == Broken::OldLinksAreHeard {
            self.old.extend(old);
        }
        self.front.attach();
        if let Some(held) = self.nodes.get_mut(&node) {
            held.back.attach();
            if let State::Standing { .. } = held.state {
                self.happened.attached_standing += 1;
            }
            self.link = Some(Link {
                node,
                ways: Default::default(),
                decoders: Default::default(),
            });
        }
    }

    /// Some bytes get a part of their way.
    fn pass_on(&mut self) -> Result<(), String> {
        let (most, way) = (1 + self.random.below(40_000) as usize, self.random.below(2));
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        let Some(held) = self.nodes.get_mut(&link.node) else {
            return Ok(());
        };
        let mut written = Vec::new();
        self.front.write(&mut written, most);
        link.ways[0].extend(written.drain(..));
        held.back.write(&mut written, most);
        link.ways[1].extend(written);
        if way == 0 && matches!(held.state, State::Running { .. }) {
            link.carry(0, most, |frame| held.back.take(frame))?;
        } else if way == 1 {
            link.carry(1, most, |frame| self.front.take(frame))?;
            if let Some(mut old) = self.old.pop() {
                old.carry(1, most, |frame| self.front.take(frame))?;
            }
        }
        Ok(())
    }

    fn see_to_events(&mut self) -> Result<(), String> {
        while let Some(event) = self.front.event() {
            match event {
                Event::Deliver(id) => self.deliver_to_client(id)?,
                Event::Reset(id) => self.client_loses(id, true)?,
                Event::Finished(id) => self.client_loses(id, false)?,
                Event::Room(_) => {}
                Event::Opened(..) => return Err("an ingress was told of a client".into()),
            }
        }
        for held in self.nodes.values_mut() {
            while let Some(event) = held.back.event() {
                match event {
                    Event::Opened(id, _) => {
                        if self.process.insert(id, User::default()).is_some() {
                            return Err(format!("{id:?} was opened twice"));
                        }
                    }
                    Event::Deliver(id) => held.deliver(id),
                    Event::Reset(id) => {
                        held.pairs.remove(&id);
                        let process = self.process.entry(id).or_default();
                        let by_client = self.clients.get(&id).is_some_and(|client| client.gone);
                        if !process.gone && !by_client {
                            return Err(format!("{id:?} broke at the process"));
                        }
                        process.broke |= !process.gone;
                        process.gone = true;
                    }
                    Event::Finished(_) | Event::Room(_) => {}
                }
            }
        }
        Ok(())
    }

    fn client_loses(&mut self, id: ConnectionId, broke: bool) -> Result<(), String> {
        let client = self.clients.entry(id).or_default();
        if broke && !client.gone {
            return Err(format!("{id:?} broke at its client"));
        }
        self.happened.whole += u64::from(!broke);
        client.gone = true;
        Ok(())
    }

    fn deliver_to_client(&mut self, id: ConnectionId) -> Result<(), String> {
        loop {
            let (pending, end) = self.front.pending(id);
            if pending.is_empty() && !end {
                return Ok(());
            }
            let pending = pending.to_vec();
            let client = self.clients.entry(id).or_default();
            check(id, true, client, &pending)?;
            client.saw_end |= end;
            self.front.delivered(id, pending.len(), end);
        }
    }
}
