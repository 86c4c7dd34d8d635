//! Clients, an ingress, a process that moves, and attachments that are cut: one thread, one seed.
//!
//! Clients and the process send bytes that follow from their connection and offset, so whoever receives some knows
//! whether they are the right ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::AddAssign;

use sterna_ingress::{Back, ConnectionId, Decoder, Event, Frame, Front};

const STEPS: u64 = 400;
/// What the system keeps of bytes that a process has not read.
const PAIR_BYTES: usize = 5_000;
const SETTLE_MAX: usize = 10_000;
/// A process reads what the system keeps for it in so many rounds.
const QUIET_ROUNDS: usize = 60;

/// A mistake that the checks have to notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    /// What a process has not read is left behind.
    UnreadStays,
    /// What the ingress has not taken is left behind.
    OutStays,
    /// An attachment is taken for the last one.
    OldFramesArrive,
    /// An ingress is taken for the one before.
    SameLife,
}

/// How often something happened.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    pub(crate) moves: u64,
    pub(crate) cuts: u64,
    pub(crate) aborted: u64,
    pub(crate) anew: u64,
    pub(crate) deaths: u64,
    pub(crate) whole: u64,
    pub(crate) resets: u64,
    pub(crate) unread: u64,
}

impl AddAssign for Happened {
    fn add_assign(&mut self, other: Self) {
        self.moves += other.moves;
        self.cuts += other.cuts;
        self.aborted += other.aborted;
        self.anew += other.anew;
        self.deaths += other.deaths;
        self.whole += other.whole;
        self.resets += other.resets;
        self.unread += other.unread;
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// One end of a connection as who uses it sees it.
#[derive(Debug, Default)]
pub(crate) struct User {
    pub(crate) sent: u64,
    pub(crate) has_ended: bool,
    pub(crate) received: u64,
    pub(crate) saw_end: bool,
    /// It sees nothing any more: it has closed it, or it broke.
    pub(crate) gone: bool,
    pub(crate) broke: bool,
}

pub(crate) struct World {
    random: Random,
    broken: Broken,
    front: Front,
    back: Back,
    /// Bytes under way: to the process, to the ingress.
    links: [VecDeque<u8>; 2],
    decoders: [Decoder; 2],
    clients: BTreeMap<ConnectionId, User>,
    process: BTreeMap<ConnectionId, User>,
    /// Those that the process has of an ingress that is gone: the next one gives these numbers again.
    before: BTreeSet<ConnectionId>,
    /// Handed to the process and not read, and whether the end follows.
    pairs: BTreeMap<ConnectionId, (VecDeque<u8>, bool)>,
    happened: Happened,
}

/// The byte that one side sends at an offset.
fn byte(id: ConnectionId, by_process: bool, offset: u64) -> u8 {
    let mixed = (id.0 * 2 + u64::from(by_process) + 1).wrapping_mul(0x9E37_79B9) ^ offset;
    (mixed.wrapping_mul(0x85EB_CA6B) >> 13) as u8
}

pub(crate) fn bytes(id: ConnectionId, by_process: bool, from: u64, count: usize) -> Vec<u8> {
    (from..from + count as u64)
        .map(|offset| byte(id, by_process, offset))
        .collect()
}

impl World {
    pub(crate) fn run(seed: u64, broken: Broken) -> Result<Happened, String> {
        let mut world = Self {
            random: Random(seed),
            broken,
            front: Front::new(1),
            back: Back::default(),
            links: Default::default(),
            decoders: Default::default(),
            clients: BTreeMap::new(),
            process: BTreeMap::new(),
            before: BTreeSet::new(),
            pairs: BTreeMap::new(),
            happened: Happened::default(),
        };
        world.attach();
        for _ in 0..STEPS {
            world.step()?;
        }
        world.settle()?;
        Ok(world.happened)
    }

    fn any(&mut self, of_process: bool) -> Option<ConnectionId> {
        let users = match of_process {
            true => &self.process,
            false => &self.clients,
        };
        let alive: Vec<_> = users.iter().filter(|(_, user)| !user.gone).collect();
        let count = alive.len() as u64;
        let ids: Vec<ConnectionId> = alive.into_iter().map(|(id, _)| *id).collect();
        (count > 0).then(|| ids[self.random.below(count) as usize])
    }

    fn step(&mut self) -> Result<(), String> {
        match self.random.below(100) {
            0..4 => self.accept(),
            4..24 => self.client_sends(),
            24..44 => self.process_sends(),
            44..54 => self.process_reads()?,
            54..56 => {
                if let Some(id) = self.any(false) {
                    self.clients.entry(id).or_default().has_ended = true;
                    self.front.end(id);
                }
            }
            56..58 => {
                if let Some(id) = self.any(true) {
                    self.process.entry(id).or_default().has_ended = true;
                    self.back.end(id);
                }
            }
            58..60 => self.process_closes(),
            60 => {
                if let Some(id) = self.any(false) {
                    let client = self.clients.entry(id).or_default();
                    (client.gone, client.broke) = (true, true);
                    self.front.reset(id);
                }
            }
            61..63 => {
                self.happened.cuts += 1;
                self.attach();
            }
            63..66 => self.leave(),
            66 if self.random.below(10) == 0 => self.begin_anew(),
            67 if self.random.below(10) == 0 => self.ingress_dies(),
            _ => self.pass_on()?,
        }
        self.see_to_events()
    }

    fn accept(&mut self) {
        if let Some(id) = self.front.accept("192.0.2.1:7") {
            self.clients.insert(id, User::default());
        }
    }

    fn client_sends(&mut self) {
        let Some(id) = self.any(false) else { return };
        let count = self.random.below(3_000) as usize;
        let room = self.front.room(id);
        let client = self.clients.entry(id).or_default();
        if !client.has_ended {
            let sent = bytes(id, false, client.sent, count.min(room));
            client.sent += sent.len() as u64;
            self.front.push(id, &sent);
        }
    }

    fn process_sends(&mut self) {
        let Some(id) = self.any(true) else { return };
        let count = self.random.below(3_000) as usize;
        let room = self.back.room(id);
        let process = self.process.entry(id).or_default();
        if !process.has_ended {
            let sent = bytes(id, true, process.sent, count.min(room));
            process.sent += sent.len() as u64;
            self.back.push(id, &sent);
        }
    }

    fn process_reads(&mut self) -> Result<(), String> {
        let Some(id) = self.any(true) else {
            return Ok(());
        };
        let count = self.random.below(4_000) as usize;
        let (unread, end) = self.pairs.entry(id).or_default();
        let count = count.min(unread.len());
        let read: Vec<u8> = unread.drain(..count).collect();
        let saw_end = *end && unread.is_empty();
        let process = self.process.entry(id).or_default();
        check(id, false, process, &read)?;
        process.saw_end |= saw_end;
        self.deliver_to_process(id);
        Ok(())
    }

    fn process_closes(&mut self) {
        let Some(id) = self.any(true) else { return };
        let process = self.process.entry(id).or_default();
        (process.gone, process.has_ended) = (true, true);
        self.pairs.remove(&id);
        self.back.close(id);
    }

    /// The process goes elsewhere, or was just about to.
    fn leave(&mut self) {
        let (pairs, broken) = (&self.pairs, self.broken);
        let mut unread_bytes = 0;
        let mut carried = self.back.carry(|id| {
            let unread = pairs
                .get(&id)
                .map_or(Vec::new(), |(unread, _)| unread.clone().into());
            unread_bytes += unread.len() as u64;
            match broken {
                Broken::UnreadStays => Vec::new(),
                _ => unread,
            }
        });
        if self.random.below(3) == 0 {
            self.happened.aborted += 1;
            return;
        }
        if broken == Broken::OutStays {
            for one in &mut carried.connections {
                one.out_start += one.out.len() as u64;
                one.out.clear();
            }
        }
        self.happened.unread += unread_bytes;
        self.happened.moves += 1;
        self.pairs.clear();
        self.back = Back::carried(carried);
        for id in self.back.open().collect::<Vec<_>>() {
            self.deliver_to_process(id);
        }
        self.attach();
    }

    /// The process is lost; another one is made of an old copy.
    fn begin_anew(&mut self) {
        self.happened.anew += 1;
        for process in self.process.values_mut() {
            (process.gone, process.broke) = (true, true);
        }
        self.pairs.clear();
        self.back = Back::anew();
        self.attach();
    }

    /// The ingress is lost with its clients, and started again; some are there before the process is.
    fn ingress_dies(&mut self) {
        self.happened.deaths += 1;
        self.clients.clear();
        self.process.retain(|_, process| !process.gone);
        self.before = self.process.keys().copied().collect();
        self.front = Front::new(match self.broken {
            Broken::SameLife => 1,
            _ => 1 + self.happened.deaths,
        });
        for _ in 0..self.random.below(3) {
            self.accept();
        }
        self.attach();
    }

    fn attach(&mut self) {
        if self.broken != Broken::OldFramesArrive {
            self.links = Default::default();
        }
        self.decoders = Default::default();
        self.front.attach();
        self.back.attach();
    }

    /// Some bytes get a part of their way.
    fn pass_on(&mut self) -> Result<(), String> {
        let most = 1 + self.random.below(40_000) as usize;
        let mut written = Vec::new();
        self.front.write(&mut written, most);
        self.links[0].extend(written.drain(..));
        self.back.write(&mut written, most);
        self.links[1].extend(written);
        let way = self.random.below(2) as usize;
        let count = most.min(self.links[way].len());
        let piece: Vec<u8> = self.links[way].drain(..count).collect();
        self.decoders[way].extend(&piece);
        loop {
            let frame: Option<Frame<'_>> = match self.decoders[way].frame() {
                Ok(frame) => frame,
                Err(error) => return Err(error.to_string()),
            };
            let Some(frame) = frame else { return Ok(()) };
            let taken = match way {
                0 => self.back.take(&frame),
                _ => self.front.take(&frame),
            };
            taken.map_err(|error| format!("{frame:?}: {error}"))?;
        }
    }

    fn see_to_events(&mut self) -> Result<(), String> {
        while let Some(event) = self.front.event() {
            match event {
                Event::Deliver(id) => self.deliver_to_client(id)?,
                Event::Reset(id) => self.client_loses(id, true),
                Event::Finished(id) => self.client_loses(id, false),
                Event::Room(_) => {}
                Event::Opened(..) => return Err("an ingress was told of a client".into()),
            }
        }
        while let Some(event) = self.back.event() {
            match event {
                Event::Opened(id, _) => {
                    let is_old = self.before.remove(&id);
                    let known = self.process.insert(id, User::default());
                    if known.is_some() && !is_old {
                        return Err(format!("{id:?} was opened twice"));
                    }
                }
                Event::Deliver(id) => self.deliver_to_process(id),
                Event::Reset(id) => {
                    self.pairs.remove(&id);
                    if let Some(process) = self.process.get_mut(&id) {
                        process.broke |= !process.gone;
                        process.gone = true;
                    }
                    if self.before.remove(&id) {
                        self.process.remove(&id);
                    }
                }
                Event::Finished(_) | Event::Room(_) => {}
            }
        }
        Ok(())
    }

    fn client_loses(&mut self, id: ConnectionId, broke: bool) {
        self.happened.resets += u64::from(broke);
        self.happened.whole += u64::from(!broke);
        let client = self.clients.entry(id).or_default();
        (client.gone, client.broke) = (true, broke);
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

    fn deliver_to_process(&mut self, id: ConnectionId) {
        if self.process.get(&id).is_none_or(|process| process.gone) {
            return;
        }
        loop {
            let (pending, end) = self.back.pending(id);
            let (unread, ended) = self.pairs.entry(id).or_default();
            let count = pending.len().min(PAIR_BYTES - unread.len().min(PAIR_BYTES));
            if count == 0 && !(end && pending.is_empty()) {
                return;
            }
            unread.extend(&pending[..count]);
            let end = end && count == pending.len();
            *ended |= end;
            self.back.delivered(id, count, end);
        }
    }

    /// Nothing breaks any more, and everybody finishes: all that was sent must be there.
    fn settle(&mut self) -> Result<(), String> {
        self.attach();
        let mut quiet = 0;
        for _ in 0..SETTLE_MAX {
            for id in self.process.keys().copied().collect::<Vec<_>>() {
                if !self.process[&id].gone {
                    let (unread, end) = self.pairs.entry(id).or_default();
                    let read: Vec<u8> = unread.drain(..).collect();
                    let saw_end = *end;
                    let process = self.process.entry(id).or_default();
                    check(id, false, process, &read)?;
                    process.saw_end |= saw_end;
                    self.deliver_to_process(id);
                }
            }
            self.pass_on()?;
            self.see_to_events()?;
            let idle = !self.front.has_something() && !self.back.has_something();
            quiet = match idle && self.links.iter().all(VecDeque::is_empty) {
                true => quiet + 1,
                false => 0,
            };
            if quiet == QUIET_ROUNDS {
                return self.compare();
            }
        }
        Err("it does not come to rest".into())
    }

    fn compare(&self) -> Result<(), String> {
        let default = User::default();
        for (id, client) in &self.clients {
            let process = self.process.get(id).unwrap_or(&default);
            if client.broke || process.broke {
                continue;
            }
            let known = self.process.contains_key(id);
            let to_client = client.received == process.sent && client.saw_end == process.has_ended;
            let closed = process.gone;
            let to_process = process.received == client.sent && process.saw_end == client.has_ended;
            if !known || !to_client || !(closed || to_process) || client.gone != closed {
                return Err(format!(
                    "{id:?}: known {known}; client sent {} (end {}), got {} (end {}), gone {}; process sent {} (end {}), \
                     got {} (end {}), gone {}",
                    client.sent,
                    client.has_ended,
                    client.received,
                    client.saw_end,
                    client.gone,
                    process.sent,
                    process.has_ended,
                    process.received,
                    process.saw_end,
                    process.gone,
                ));
            }
        }
        Ok(())
    }
}

/// These bytes are the next ones.
pub(crate) fn check(
    id: ConnectionId,
    by_process: bool,
    user: &mut User,
    got: &[u8],
) -> Result<(), String> {
    if got != bytes(id, by_process, user.received, got.len()) {
        return Err(format!("{id:?}: wrong bytes after {}", user.received));
    }
    user.received += got.len() as u64;
    Ok(())
}
