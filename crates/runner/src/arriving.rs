//! The target's side of a move, as its runner does it: make room, take what comes, make the process of it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use sterna_ingress::Back;
use sterna_migration::{Attempt, Grant, NodeId, Offer, RunnerEvent};
use sterna_process::{
    Directory, Epoch, Image, Incoming, Listener, Memory, MemoryLayout, PageRun, PageRuns, Paused,
    Program, ReadLimits, Resources, Stdio,
};
use sterna_sys::giving_way::Turn;

use crate::beside::Known;
use crate::channel::{Breaker, Receiver, Sender};
use crate::clients::{self, Port};
use crate::fault::{self, Midway};
use crate::files::Files;
use crate::hosted::{Hosted, Inner, Stage};
use crate::input::Input;
use crate::leaving::chain;
use crate::limits::{IMAGE_BYTES_MAX, PREPARATIONS_MAX};
use crate::link::{Descriptors, are_left};
use crate::log::LogHeader;
use crate::message::{Place, Said};
use crate::pump::{self, PumpError, Record};
use crate::rest::{self, Following, Rest};
use crate::role::Role;
use crate::service::Service;
use crate::streams::Output;

/// A process that is to come.
pub(crate) struct Arrival {
    pub(crate) attempt: Attempt,
    memory: Arc<dyn Memory>,
    /// Of pages that have come, over whatever channel.
    rounds: u32,
    /// Taken when all of it has come.
    room: Option<Room>,
    came_from: Option<NodeId>,
    /// The service's word that it may be made, and with what right.
    wanted: Option<(NodeId, Grant)>,
    /// What came of making it.
    made: Option<Result<Made, String>>,
    /// Of its connections.
    pub(crate) breakers: Vec<Breaker>,
}

impl Arrival {
    /// Nothing more is to come.
    pub(crate) fn hang_up(&mut self) {
        self.breakers
            .drain(..)
            .for_each(|breaker| breaker.hang_up());
    }

    /// Whether that is the node that has it until now.
    pub(crate) fn comes_from(&self, node: NodeId) -> bool {
        self.came_from == Some(node)
    }
}

/// What it is made in.
struct Room {
    incoming: Box<dyn Incoming>,
    resources: Resources,
}

/// A process that was made, and does not run.
struct Made {
    paused: Box<dyn Paused>,
    stands: bool,
}

/// What a place and its descriptors become.
pub(crate) struct Placed {
    pub(crate) output: Arc<Output>,
    pub(crate) resources: Resources,
    pub(crate) input: Option<Arc<Input>>,
    pub(crate) ports: Vec<Arc<Port>>,
    pub(crate) files: Files,
}

impl Place {
    /// Ties a place to what came for it. With `anew`, connections that its ingress has are of an earlier life.
    pub(crate) fn take(
        &self,
        role: &Arc<Role>,
        anew: bool,
        process: sterna_process::ProcessId,
        descriptors: &mut Descriptors,
    ) -> Result<Placed, String> {
        let missing = |_| "a descriptor is missing".to_owned();
        let log: OwnedFd = descriptors.take().map_err(missing)?;
        are_left(&log)?;
        let terminal = match self.terminal {
            true => {
                let master: OwnedFd = descriptors.take().map_err(missing)?;
                let end: OwnedFd = descriptors.take().map_err(missing)?;
                Some((File::from(master), end))
            }
            false => None,
        };
        let mut directories = Vec::new();
        for placed in &self.directories {
            directories.push(Directory {
                guest_path: placed.guest_path.clone(),
                handle: descriptors.take().map_err(missing)?,
                read_only: placed.read_only,
            });
        }
        let files = Files::of(&directories);
        let closed = Arc::downgrade(role);
        let output = Output::new(log.into(), move || {
            if let Some(role) = closed.upgrade() {
                role.streams_closed(process);
            }
        });
        let failed =
            |error: std::io::Error| format!("could not make its standard streams: {error}");
        let (stdio, input) = match terminal {
            Some((master, end)) => terminal_streams(role, &output, master, end).map_err(failed)?,
            None => pipes(role, &output, self.input).map_err(failed)?,
        };
        let failed = |error: std::io::Error| format!("could not make its ports: {error}");
        let (ports, listeners) = self.ports(role, anew).map_err(failed)?;
        let resources = Resources {
            stdio,
            directories,
            listeners,
            connections: Vec::new(),
            limits: self.limits.clone(),
        };
        Ok(Placed {
            output,
            resources,
            input: input.map(Arc::new),
            ports,
            files: files.map_err(failed)?,
        })
    }

    fn ports(&self, role: &Role, anew: bool) -> std::io::Result<(Vec<Arc<Port>>, Vec<Listener>)> {
        let port = |name: &String| {
            let back = match anew {
                true => Back::anew(),
                false => Back::default(),
            };
            Port::new(&role.clients, back, name)
        };
        let made: Vec<_> = self.ports.iter().map(port).collect::<Result<_, _>>()?;
        Ok(made.into_iter().unzip())
    }
}

/// Standard streams that are pipes.
fn pipes(
    role: &Role,
    output: &Arc<Output>,
    with_input: bool,
) -> std::io::Result<(Stdio, Option<Input>)> {
    let (out, error) = role.streams.attach(output)?;
    let (input, end) = match with_input {
        true => Some(Input::pipe()?).unzip(),
        false => (None, None),
    };
    let stdio = Stdio {
        input: end,
        output: Some(out),
        error: Some(error),
    };
    Ok((stdio, input))
}

/// Standard streams that are a terminal.
fn terminal_streams(
    role: &Role,
    output: &Arc<Output>,
    master: File,
    end: OwnedFd,
) -> std::io::Result<(Stdio, Option<Input>)> {
    let input = Input::terminal(master.try_clone()?)?;
    role.streams.attach_terminal(output, master)?;
    let stdio = Stdio {
        input: Some(end.try_clone()?),
        output: Some(end.try_clone()?),
        error: Some(end),
    };
    Ok((stdio, Some(input)))
}

/// Makes room for a process.
pub(crate) fn prepare(
    role: &Arc<Role>,
    service: &Service,
    attempt: Attempt,
    offer: &Offer,
    place: &Place,
    mut descriptors: Descriptors,
) {
    let made = room(role, attempt, offer, place, &mut descriptors);
    service.say(&Said::Event(match made {
        Ok(can_follow) => RunnerEvent::Prepared {
            attempt,
            can_follow,
        },
        Err(reason) => RunnerEvent::PrepareFailed { attempt, reason },
    }));
}

fn room(
    role: &Arc<Role>,
    attempt: Attempt,
    offer: &Offer,
    place: &Place,
    descriptors: &mut Descriptors,
) -> Result<bool, String> {
    let kind = role.kind(&offer.kind)?;
    let program = Program::installed(offer.program);
    let incoming = kind
        .prepare(&program, &offer.layout)
        .map_err(|error| chain(&error))?;
    let placed = place.take(role, false, attempt.process, descriptors)?;
    let can_follow = incoming.can_follow();
    let arrival = Arrival {
        attempt,
        memory: incoming.memory(),
        rounds: 0,
        room: Some(Room {
            incoming,
            resources: placed.resources,
        }),
        came_from: place.came_from,
        wanted: None,
        made: None,
        breakers: Vec::new(),
    };
    let inner = Inner {
        epoch: attempt.epoch,
        stage: Stage::Arriving(Box::new(arrival)),
        control: None,
        stands: false,
        rest: None,
        outgoing: None,
        input: placed.input,
        ports: placed.ports,
    };
    let seen = (placed.output, placed.files);
    let hosted = Hosted::new(attempt.process, (kind, program), seen, inner);
    role.admit(hosted)?;
    if role.was_given_up(attempt) {
        role.remove(attempt.process);
        return Err("the move was given up".into());
    }
    Ok(can_follow)
}

/// Takes what comes over a channel, on a thread of its own.
pub(crate) fn receive(
    role: &Arc<Role>,
    service: &Service,
    hosted: &Arc<Hosted>,
    attempt: Attempt,
    (sender, receiver): (Sender, Receiver),
) -> Result<(), PumpError> {
    receiver.set_patience(None)?;
    if let Stage::Arriving(arrival) = &mut hosted.lock().stage {
        // What earlier ones still have to say belongs to an earlier try.
        arrival.hang_up();
        arrival.breakers.push(sender.breaker()?);
    }
    let (role, service, hosted) = (Arc::clone(role), service.clone(), Arc::clone(hosted));
    thread::Builder::new()
        .name("arriving".into())
        .spawn(move || Taking::new(role, service, hosted, attempt, sender).run(receiver))?;
    Ok(())
}

/// One channel, at its target.
struct Taking {
    role: Arc<Role>,
    service: Service,
    hosted: Arc<Hosted>,
    attempt: Attempt,
    sender: Arc<Mutex<Sender>>,
    image: Vec<u8>,
    image_bytes: u64,
    /// Pages that come later, if some do.
    later: Option<Vec<PageRun>>,
    preparing: Arc<AtomicUsize>,
}

impl Taking {
    fn new(
        role: Arc<Role>,
        service: Service,
        hosted: Arc<Hosted>,
        attempt: Attempt,
        sender: Sender,
    ) -> Self {
        Self {
            role,
            service,
            hosted,
            attempt,
            sender: Arc::new(Mutex::new(sender)),
            image: Vec::new(),
            image_bytes: 0,
            later: None,
            preparing: Arc::default(),
        }
    }

    fn run(mut self, mut receiver: Receiver) {
        let memory = match &self.hosted.lock().stage {
            Stage::Arriving(arrival) if arrival.attempt == self.attempt => {
                Arc::clone(&arrival.memory)
            }
            _ => return,
        };
        let Err(error) = self.take(&mut receiver, &*memory) else {
            return;
        };
        if !matches!(error, PumpError::Channel(_)) {
            let _ = pump::failed(&mut locked(&self.sender), &chain(&error));
        }
        // Others have this connection open, too: dropping it does not end it, and the source would wait.
        if let Ok(breaker) = receiver.breaker() {
            breaker.hang_up();
        }
    }

    fn take(&mut self, receiver: &mut Receiver, memory: &dyn Memory) -> Result<(), PumpError> {
        let mut turn = Turn::begin();
        loop {
            match Record::read(receiver.receive()?)? {
                Record::Anticipate(places) => self.anticipate(places)?,
                Record::Begin(bytes) if bytes > IMAGE_BYTES_MAX => {
                    return Err(PumpError::ImageTooLarge { bytes });
                }
                Record::Begin(bytes) => {
                    self.later = None;
                    self.image.clear();
                    self.image_bytes = bytes;
                }
                Record::Image(piece) => {
                    if (self.image.len() + piece.len()) as u64 > self.image_bytes {
                        return Err(PumpError::Malformed);
                    }
                    self.image.extend_from_slice(piece);
                }
                Record::Pages(run, bytes) => {
                    memory.install(&[run], bytes)?;
                    if self.image_bytes == 0 {
                        // Of a round: the process runs.
                        turn.give_way();
                    }
                    fault::point("runner", &Midway::SomeTaken);
                }
                Record::Zeros(runs) => pump::install_zeros(memory, &runs)?,
                Record::Round => {
                    self.rounds(|rounds| *rounds = rounds.saturating_add(1));
                    pump::got(&mut locked(&self.sender))?;
                }
                Record::Continues(sent) => {
                    let here = self.rounds(|rounds| *rounds);
                    if here != sent {
                        return Err(PumpError::RoundsMissing { sent, here });
                    }
                }
                Record::Later(runs) => self.comes_later(runs, &memory.layout())?,
                Record::End if self.image.len() as u64 == self.image_bytes => {
                    let rest = self
                        .later
                        .take()
                        .map(|later| self.rest(later))
                        .transpose()?;
                    if let Err(error) = pump::got(&mut locked(&self.sender)) {
                        // Nothing was made: the source may push anew.
                        if rest.is_some() {
                            self.hosted.lock().close_rest();
                        }
                        return Err(error);
                    }
                    self.make(rest.clone());
                    if let Some(rest) = rest {
                        rest::follow(receiver, &rest);
                    }
                    return Ok(());
                }
                _ => return Err(PumpError::Malformed),
            }
        }
    }

    /// Pages that are not among those that come now. In order, so there are no more runs than the layout has pages.
    fn comes_later(&mut self, runs: Vec<PageRun>, layout: &MemoryLayout) -> Result<(), PumpError> {
        let later = self.later.get_or_insert_default();
        for run in runs {
            let after = |last: &PageRun| (last.region(), last.end()) <= (run.region(), run.first());
            if !layout.could_contain(run) || !later.last().is_none_or(after) {
                return Err(PumpError::Malformed);
            }
            later.push(run);
        }
        Ok(())
    }

    /// How many rounds have come.
    fn rounds<T>(&self, work: impl FnOnce(&mut u32) -> T) -> T {
        match &mut self.hosted.lock().stage {
            Stage::Arriving(arrival) if arrival.attempt == self.attempt => {
                work(&mut arrival.rounds)
            }
            // Nobody waits for more.
            _ => work(&mut 0),
        }
    }

    /// Makes ready what the process would need at these places, beside what else comes.
    fn anticipate(&self, places: Vec<sterna_process::Waypoint>) -> Result<(), PumpError> {
        if self.preparing.fetch_add(1, Ordering::SeqCst) >= PREPARATIONS_MAX {
            return Err(PumpError::Malformed);
        }
        let (hosted, sender) = (Arc::clone(&self.hosted), Arc::clone(&self.sender));
        let preparing = Arc::clone(&self.preparing);
        thread::Builder::new()
            .name("anticipate".into())
            .spawn(move || {
                match hosted.kind.anticipate(&hosted.program, &places) {
                    // A source that does not hear it goes without.
                    Ok(()) => drop(pump::anticipated(&mut locked(&sender), &places)),
                    Err(error) => tracing::warn!("not made ready: {}", chain(&error)),
                }
                preparing.fetch_sub(1, Ordering::SeqCst);
            })?;
        Ok(())
    }

    /// What comes later, from now on.
    fn rest(&self, later: Vec<PageRun>) -> Result<Arc<Rest>, PumpError> {
        let mut inner = self.hosted.lock();
        let came_from = match &inner.stage {
            Stage::Arriving(arrival) if arrival.attempt == self.attempt => arrival.came_from,
            _ => None,
        };
        // It was made before, of an earlier push: that has its own rest.
        let source = came_from.filter(|_| inner.rest.is_none());
        let source = source.ok_or(PumpError::Malformed)?;
        let (missing, asking) = (PageRuns::from(later), Arc::clone(&self.sender));
        let rest = Rest::new(
            &self.role,
            &self.hosted,
            (self.attempt, source),
            missing,
            asking,
        );
        rest.has(locked(&self.sender).breaker()?);
        inner.rest = Some(Arc::clone(&rest));
        Ok(rest)
    }

    /// All of it has come, but for the rest: makes the process of it.
    fn make(&self, rest: Option<Arc<Rest>>) {
        let room = match &mut self.hosted.lock().stage {
            Stage::Arriving(arrival) if arrival.attempt == self.attempt => {
                let room = arrival.room.take();
                room.map(|room| (room, arrival.came_from))
            }
            _ => None,
        };
        // It was made before, of an earlier push; or it is not wanted any more.
        let Some((room, came_from)) = room else {
            return;
        };
        let made = self.finish(room, came_from, rest);
        fault::point("runner", &Midway::Made);
        if let Stage::Arriving(arrival) = &mut self.hosted.lock().stage {
            arrival.made = Some(made);
        }
        deliver(&self.role, &self.service, &self.hosted, self.attempt);
    }

    fn finish(
        &self,
        mut room: Room,
        came_from: Option<NodeId>,
        rest: Option<Arc<Rest>>,
    ) -> Result<Made, String> {
        let limits = ReadLimits::default();
        let mut image = Image::decode(&self.image, &limits).map_err(|error| chain(&error))?;
        let (process, epoch) = (image.header.process, image.header.epoch);
        if process != self.attempt.process || epoch != self.attempt.epoch {
            return Err("what came is another process, or of another epoch".into());
        }
        let known = Known::take_from(&mut image).map_err(|error| chain(&error))?;
        let beside = known.beside.ok_or("no runner has made what came")?;
        let ports = clients::take_from(&mut image.sections).map_err(|error| chain(&error))?;
        let here = self.hosted.lock().ports.clone();
        for ((index, port), carried) in (0..).zip(here).zip(ports.unwrap_or_default()) {
            let accepted = port.carry(index, carried);
            let accepted =
                accepted.map_err(|error| format!("could not make its ports: {error}"))?;
            room.resources.connections.extend(accepted);
        }
        let paused = room
            .incoming
            .finish(
                image,
                room.resources,
                rest.map(|rest| Box::new(Following(rest)) as _),
            )
            .map_err(|error| chain(&error))?;
        let header = LogHeader {
            process,
            epoch: epoch.next().unwrap_or(Epoch(u64::MAX)),
            start: beside.output_bytes,
            came_from,
            rewinds: known.rewinds,
        };
        let begun = self.hosted.output.begin(&header);
        begun.map_err(|error| format!("could not write its log: {error}"))?;
        let input = self.hosted.lock().input.clone();
        if let (Some(input), Some(carried)) = (input, known.carried) {
            input.carry(carried);
        }
        let stands = beside.stands;
        Ok(Made { paused, stands })
    }
}

/// The service wants the process to be made.
pub(crate) fn restore(
    role: &Role,
    service: &Service,
    attempt: Attempt,
    source: NodeId,
    grant: Grant,
) {
    let Some(hosted) = role.hosted(attempt.process) else {
        return;
    };
    if let Stage::Arriving(arrival) = &mut hosted.lock().stage
        && arrival.attempt == attempt
    {
        arrival.wanted = Some((source, grant));
    }
    deliver(role, service, &hosted, attempt);
}

/// Once it is both made and wanted, it is ready.
fn deliver(role: &Role, service: &Service, hosted: &Arc<Hosted>, attempt: Attempt) {
    let mut inner = hosted.lock();
    let Stage::Arriving(arrival) = &mut inner.stage else {
        return;
    };
    let (Some((source, grant)), true) = (arrival.wanted, arrival.made.is_some()) else {
        return;
    };
    let Some(made) = arrival.made.take() else {
        return;
    };
    let event = match made {
        Ok(Made { paused, stands }) => {
            inner.stands = stands;
            inner.stage = Stage::Ready {
                move_id: attempt.move_id,
                source,
                grant,
                paused,
            };
            RunnerEvent::Restored { attempt }
        }
        Err(reason) => RunnerEvent::RestoreFailed { attempt, reason },
    };
    drop(inner);
    role.check_end(hosted);
    service.say(&Said::Event(event));
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
