//! The runner itself: [`run`] serves one service after the other until there is nothing left to do.
//!
//! A runner outlives its service: when that dies, processes run on, and the next service asks what there is. What the
//! dead one had ordered and is not done by then is void, so a process that is just being stopped for it runs on.

mod channels;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use sterna_migration::{Attempt, Command, RunnerEvent};
use sterna_process::{Exit, Kind, ProcessId, ProgramId, Tag, Waypoint};

use crate::clients::Clients;
use crate::hosted::{Hosted, Stage};
use crate::limits::{
    ACCEPT_AGAIN, BACK_TRACES_BYTES_MAX, FIRST_SERVICE_WITHIN, GIVEN_UP_MAX, HELLO_WITHIN,
    PROCESSES_MAX, SETTLE_WITHIN,
};
use crate::link::{self, Descriptors};
use crate::message::{Answer, Ended, Holdings, Numbered, Order, Paging, Place, Said, Side};
use crate::service::Service;
use crate::streams::Streams;
use crate::{arriving, copying, fault, leaving, live, serving};

/// The kinds of processes that a runner hosts.
pub trait Kinds: Send + Sync {
    /// The kind of this name.
    fn kind(&self, name: &Tag) -> Option<Arc<dyn Kind>>;
}

/// Does for a runner what it may not do itself, in its service.
pub trait Elsewhere: Send + Sync {
    /// Sees to it that what processes of a kind and program need to go on from these places is where the runner finds it.
    /// Blocks; without a service, until there is another one.
    ///
    /// # Errors
    /// Text for people: it cannot be done.
    fn prepare(&self, kind: &Tag, program: ProgramId, waypoints: &[Waypoint])
    -> Result<(), String>;
}

/// What a runner was started with.
pub struct Given {
    /// Where services connect.
    pub listener: UnixListener,
    /// How it is confined, for people.
    pub confinement: String,
    /// By what memory moves.
    pub paging: Paging,
    /// Whether processes can be given directories.
    pub takes_directories: bool,
}

/// A runner at work.
pub(crate) struct Role {
    given: Given,
    kinds: OnceLock<Box<dyn Kinds>>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) clients: Arc<Clients>,
    table: Mutex<BTreeMap<ProcessId, Arc<Hosted>>>,
    /// Moves that were given up before there was room for them.
    given_up: Mutex<VecDeque<Attempt>>,
    /// The service that is obeyed.
    service: Mutex<Option<Service>>,
    /// Another one is obeyed.
    begun: Condvar,
    /// How many services have asked what is held.
    lives: Arc<AtomicU64>,
    needs: Mutex<HashMap<u64, SyncSender<Result<(), String>>>>,
    next_need: AtomicU64,
}

/// Serves until a service says that this is the end, or is gone and there is no process left.
///
/// # Errors
/// The runner cannot do its work at all.
pub fn run<K: Kinds + 'static>(
    given: Given,
    kinds: impl FnOnce(Arc<dyn Elsewhere>) -> io::Result<K>,
) -> io::Result<()> {
    let role = Arc::new(Role {
        given,
        kinds: OnceLock::new(),
        streams: Streams::start()?,
        clients: Clients::start()?,
        table: Mutex::default(),
        given_up: Mutex::default(),
        service: Mutex::default(),
        begun: Condvar::new(),
        lives: Arc::default(),
        needs: Mutex::default(),
        next_need: AtomicU64::new(0),
    });
    let elsewhere = Arc::new(Asking(Arc::downgrade(&role)));
    let kinds = kinds(elsewhere)?;
    let _ = role.kinds.set(Box::new(kinds));
    role.end_unless_wanted()?;
    loop {
        let serving = Arc::clone(&role);
        let begun = role.given.listener.accept().and_then(|(stream, _)| {
            // Whoever says nothing keeps nobody else away.
            thread::Builder::new()
                .name("service".into())
                .spawn(move || {
                    if let Err(error) = serving.welcome(stream) {
                        tracing::warn!("somebody who is no service of this runner: {error}");
                    }
                })
        });
        if let Err(error) = begun {
            // What is missing may be there again soon, and the processes run on.
            tracing::warn!("a service is not let in: {error}");
            thread::sleep(ACCEPT_AGAIN);
        }
    }
}

impl Role {
    /// Ends if the service that started it was gone before it came.
    fn end_unless_wanted(self: &Arc<Self>) -> io::Result<()> {
        let lives = Arc::clone(&self.lives);
        let waiting = move || {
            thread::sleep(FIRST_SERVICE_WITHIN);
            if lives.load(Ordering::SeqCst) == 0 {
                std::process::exit(0);
            }
        };
        thread::Builder::new()
            .name("first service".into())
            .spawn(waiting)?;
        Ok(())
    }

    fn welcome(self: &Arc<Self>, mut stream: UnixStream) -> Result<(), link::LinkError> {
        stream.set_read_timeout(Some(HELLO_WITHIN))?;
        link::greet(&mut stream)?;
        stream.set_read_timeout(None)?;
        let reading = stream.try_clone()?;
        let service = Service::new(stream, &self.lives);
        self.serve(&service, &reading);
        Ok(())
    }

    fn serve(self: &Arc<Self>, service: &Service, reading: &UnixStream) {
        loop {
            match link::receive::<Numbered>(reading) {
                Ok((Numbered { number, order }, descriptors)) => {
                    self.obey(service, number, order, Descriptors::new(descriptors));
                }
                Err(error) => {
                    tracing::debug!("the service is gone: {error}");
                    break;
                }
            }
        }
        // What is said to it is not heard any more: it is to notice that, and come again.
        let _ = reading.shutdown(Shutdown::Both);
        // Nobody will ever ask for what a runner without processes and service has.
        if !service.is_void() && locked(&self.table).is_empty() {
            std::process::exit(0);
        }
    }

    /// Carries out an order: quick ones at once and in their order, others on threads of their own.
    fn obey(
        self: &Arc<Self>,
        service: &Service,
        number: u64,
        order: Order,
        mut descriptors: Descriptors,
    ) {
        let obeyed = !service.is_void();
        match order {
            Order::Holdings => {
                let holdings = self.begin_anew(service);
                service.answer(number, Ok(Answer::Holdings(holdings)));
            }
            _ if !obeyed => service.answer(number, Err("ask for the holdings first".into())),
            Order::End => {
                service.answer(number, Ok(Answer::Done));
                std::process::exit(0);
            }
            Order::Had { number, result } => {
                if let Some(waiting) = locked(&self.needs).remove(&number) {
                    let _ = waiting.try_send(result);
                }
            }
            Order::Step { command, place } => self.step(service, command, place, descriptors),
            Order::Channel {
                attempt,
                secret,
                side,
            } => {
                let connected = descriptors.take().map(TcpStream::from);
                let connected = connected.map_err(|error| error.to_string());
                let opened = connected.and_then(|connection| match side {
                    Side::Source { lane: false } => self.channel_away(attempt, connection, &secret),
                    Side::Source { lane: true } => self.lane_away(attempt, connection, &secret),
                    Side::Target { source, lane } => {
                        let attempt = (attempt, source, lane);
                        self.channel_here(service, attempt, connection, &secret)
                    }
                });
                if let Err(error) = opened {
                    tracing::warn!("{attempt}: no channel: {error}");
                }
            }
            Order::Look(process) => {
                let seen = self.find(process);
                let seen = seen.map(|hosted| Answer::Seen(vec![hosted.seen()]));
                service.answer(number, seen);
            }
            Order::LookAll => {
                let all: Vec<Arc<Hosted>> = locked(&self.table).values().cloned().collect();
                let seen = all.iter().map(|hosted| hosted.seen()).collect();
                service.answer(number, Ok(Answer::Seen(seen)));
            }
            Order::Attach { process, port } => {
                let done = serving::attach(self, process, port, descriptors);
                service.answer(number, done.map(|()| Answer::Done));
            }
            Order::Resume(process) => {
                let done = serving::go(self, process).map(|()| Answer::Done);
                service.answer(number, done);
            }
            order => self.slowly(service, number, order, descriptors),
        }
    }

    fn slowly(
        self: &Arc<Self>,
        service: &Service,
        number: u64,
        order: Order,
        descriptors: Descriptors,
    ) {
        let (role, told) = (Arc::clone(self), service.clone());
        let begun = self.begin("order", move || {
            let done = |result: Result<(), String>| result.map(|()| Answer::Done);
            let answered = match order {
                Order::Spawn(spawn) => done(serving::spawn(&role, *spawn, descriptors)),
                Order::Pause(process) => done(serving::pause(&role, process)),
                Order::Kill(process) => done(serving::kill(&role, process)),
                Order::Input {
                    process,
                    bytes,
                    end,
                } => serving::input(&role, process, &bytes, end).map(Answer::Took),
                Order::Resize { process, size } => done(serving::resize(&role, process, size)),
                Order::File { process, deed } => {
                    let hosted = role.find(process);
                    hosted.and_then(|hosted| hosted.files.answer(&deed).map(Answer::File))
                }
                Order::Describe(process) => {
                    serving::describe(&role, process).map(|it| Answer::Described(Box::new(it)))
                }
                Order::Copy { process, hold } => copying::copy(&role, process, hold, descriptors)
                    .map(|stood| Answer::Copied(stood.as_micros() as u64)),
                Order::Release { process, move_id } => {
                    done(copying::release(&role, process, move_id))
                }
                Order::Drop { process, move_id } => {
                    done(copying::drop_held(&role, process, move_id))
                }
                Order::Make(make) => done(copying::make(&role, &make, descriptors)),
                other => Err(format!("not an order of this sort: {other:?}")),
            };
            told.answer(number, answered);
        });
        if !begun {
            let why = "the runner has no room for another thread: end some processes";
            service.answer(number, Err(why.into()));
        }
    }

    fn step(
        self: &Arc<Self>,
        service: &Service,
        command: Command,
        place: Option<Box<Place>>,
        descriptors: Descriptors,
    ) {
        let (role, service) = (Arc::clone(self), service.clone());
        fault::point("runner obey", &command);
        match command {
            Command::Prepare { attempt, offer } => self.on_thread("prepare", move || {
                let place = place.map(|place| *place);
                let Some(place) = place else {
                    let reason = "no place was given".into();
                    return service
                        .say(&Said::Event(RunnerEvent::PrepareFailed { attempt, reason }));
                };
                arriving::prepare(&role, &service, attempt, &offer, &place, descriptors);
            }),
            Command::Pause { attempt, within } => self.on_thread("pause", move || {
                leaving::pause(&role, &service, attempt, within);
            }),
            Command::Capture { attempt } => leaving::capture(&role, &service, attempt),
            Command::Push { attempt, rest, .. } => self.on_thread("push", move || {
                leaving::push(&role, &service, attempt, rest);
            }),
            Command::Restore {
                attempt,
                source,
                grant,
                ..
            } => arriving::restore(&role, &service, attempt, source, grant),
            Command::Resume { process, epoch } => self.once_settled(process, move || {
                serving::resume(&role, &service, process, epoch);
            }),
            Command::Discard { attempt } => self.once_settled(attempt.process, move || {
                serving::discard(&role, attempt);
            }),
            Command::Forget { process } => serving::forget(&role, process),
            Command::Track { attempt } => self.on_thread("track", move || {
                live::track(&role, &service, attempt);
            }),
            Command::Round { attempt, rate_max } => self.on_thread("round", move || {
                live::round(&role, &service, attempt, rate_max);
            }),
            Command::Untrack { attempt } => {
                if let Some(hosted) = role.hosted(attempt.process) {
                    live::untrack(&hosted, attempt);
                }
            }
            Command::Fence { process, epoch } => {
                self.on_thread("fence", move || serving::fence(&role, process, epoch));
            }
        }
    }

    /// Does something with a process at once; if somebody works on it, which is waited for, then where that holds up
    /// the orders for others as little as may be.
    fn once_settled(&self, process: ProcessId, work: impl FnOnce() + Send + 'static) {
        match self.hosted(process) {
            Some(hosted) if hosted.is_taken() => self.on_thread("settling", work),
            _ => work(),
        }
    }

    /// Obeys this service from now on. What others have begun comes to its end first, or is void.
    fn begin_anew(&self, service: &Service) -> Holdings {
        let life = self.lives.fetch_add(1, Ordering::SeqCst) + 1;
        service.begin(life);
        *locked(&self.service) = Some(service.clone());
        self.begun.notify_all();
        locked(&self.needs).clear();
        let all: Vec<Arc<Hosted>> = locked(&self.table).values().cloned().collect();
        for hosted in &all {
            let mut inner = hosted.lock();
            // A memory that follows its process goes on: the target may have committed.
            if let Some((_, outgoing)) = inner
                .outgoing
                .take_if(|(_, outgoing)| !outgoing.is_followed())
            {
                outgoing.hang_up();
            }
            if let Stage::Arriving(arrival) = &mut inner.stage {
                arrival.hang_up();
            }
        }
        let mut holdings = Holdings {
            confinement: self.given.confinement.clone(),
            paging: self.given.paging.clone(),
            takes_directories: self.given.takes_directories,
            held: Vec::new(),
            ended: Vec::new(),
        };
        let mut traces_left = BACK_TRACES_BYTES_MAX;
        for hosted in &all {
            hosted.settle(SETTLE_WITHIN);
            let _ = hosted.note_end();
            let inner = hosted.lock();
            if let Stage::Made { is_new: true, .. } = inner.stage {
                drop(inner);
                self.remove(hosted.id);
                continue;
            }
            holdings.held.push((hosted.id, inner.holding()));
            if let Stage::Exited(ended) = &inner.stage {
                let mut ended = ended.clone();
                if let Exit::Trapped { back_trace, .. } = &mut ended.exit {
                    match traces_left.checked_sub(back_trace.len()) {
                        Some(left) => traces_left = left,
                        None => back_trace.clear(),
                    }
                }
                holdings.ended.push(ended);
            }
        }
        holdings
    }

    pub(crate) fn kind(&self, name: &Tag) -> Result<Arc<dyn Kind>, String> {
        let kinds = self.kinds.get();
        let kind = kinds.and_then(|kinds| kinds.kind(name));
        kind.ok_or_else(|| format!("this node has no processes of kind {name}"))
    }

    pub(crate) fn hosted(&self, process: ProcessId) -> Option<Arc<Hosted>> {
        locked(&self.table).get(&process).cloned()
    }

    pub(crate) fn find(&self, process: ProcessId) -> Result<Arc<Hosted>, String> {
        let gone = || format!("process {} is not here", process.short());
        self.hosted(process).ok_or_else(gone)
    }

    /// Whether one more process of this name can be taken.
    pub(crate) fn has_room(&self, process: ProcessId) -> Result<(), String> {
        let table = locked(&self.table);
        if table.contains_key(&process) {
            return Err(format!("process {} is here already", process.short()));
        }
        match table.len() < PROCESSES_MAX {
            true => Ok(()),
            false => Err(format!(
                "this node has {PROCESSES_MAX} processes, its limit"
            )),
        }
    }

    pub(crate) fn admit(&self, hosted: Arc<Hosted>) -> Result<(), String> {
        self.has_room(hosted.id)?;
        locked(&self.table).insert(hosted.id, hosted);
        Ok(())
    }

    /// The process of a move that is given up. If nothing of it is here yet, making room may be under way: then it is
    /// remembered that nobody wants it.
    pub(crate) fn hosted_or_give_up(&self, attempt: Attempt) -> Option<Arc<Hosted>> {
        let table = locked(&self.table);
        let found = table.get(&attempt.process).cloned();
        if found.is_none() {
            let mut given_up = locked(&self.given_up);
            if given_up.len() >= GIVEN_UP_MAX {
                given_up.pop_front();
            }
            given_up.push_back(attempt);
        }
        found
    }

    /// Whether a move was given up while room was made for it.
    pub(crate) fn was_given_up(&self, attempt: Attempt) -> bool {
        locked(&self.given_up).contains(&attempt)
    }

    pub(crate) fn remove(&self, process: ProcessId) {
        locked(&self.table).remove(&process);
    }

    /// A process has closed its streams: most likely it has ended, or just does.
    pub(crate) fn streams_closed(self: &Arc<Self>, process: ProcessId) {
        let Some(hosted) = self.hosted(process) else {
            return;
        };
        let role = Arc::clone(self);
        let control = hosted.lock().control.clone();
        let Some(control) = control else {
            return;
        };
        let here = Arc::clone(&hosted);
        // One that has closed them itself and runs on keeps this thread for as long.
        let begun = self.begin("ending", move || {
            let hour = std::time::Duration::from_secs(3600);
            while control.wait(hour).is_none() {}
            role.check_end(&hosted);
        });
        if !begun {
            self.check_end(&here);
        }
    }

    /// Tells of a process's end, if it has come and was not told yet.
    pub(crate) fn check_end(&self, hosted: &Hosted) {
        if let Some(ended) = hosted.note_end() {
            self.say_ended(ended);
        }
    }

    /// Tells the service something; if there is none, the next one will ask.
    pub(crate) fn tell(&self, event: RunnerEvent) {
        let service = locked(&self.service).clone();
        if let Some(service) = service {
            service.say(&Said::Event(event));
        }
    }

    /// Tells of an end.
    pub(crate) fn say_ended(&self, ended: Ended) {
        let service = locked(&self.service).clone();
        let process = ended.process;
        if let Some(service) = service {
            service.say(&Said::Ended(ended));
            service.say(&Said::Event(RunnerEvent::Exited { process }));
        }
    }

    fn on_thread(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        let _ = self.begin(name, work);
    }

    /// Lets go of what may have a large memory: to give that back takes longer than others should wait for their orders. Without
    /// a thread for it they do.
    pub(crate) fn let_go(&self, work: impl FnOnce() + Send + 'static) {
        let _ = thread::Builder::new().name("letting go".into()).spawn(work);
    }

    /// Whether there is a thread for it.
    fn begin(&self, name: &str, work: impl FnOnce() + Send + 'static) -> bool {
        let started = thread::Builder::new().name(name.into()).spawn(work);
        if let Err(error) = &started {
            tracing::warn!("no thread for an order, which is not carried out: {error}");
        }
        started.is_ok()
    }
}

/// Asks the service.
struct Asking(std::sync::Weak<Role>);

impl Elsewhere for Asking {
    fn prepare(
        &self,
        kind: &Tag,
        program: ProgramId,
        waypoints: &[Waypoint],
    ) -> Result<(), String> {
        // A process that is to go on must not end because a service has: another one will come.
        loop {
            let role = self.0.upgrade().ok_or("the runner ends")?;
            let answer = role.say_need(kind, program, waypoints);
            drop(role);
            // When another service comes instead of the answer, its sender is dropped.
            if let Ok(result) = answer.recv() {
                return result;
            }
        }
    }
}

impl Role {
    /// Tells the service, or else the next one, what is needed. Where the answer comes.
    fn say_need(
        &self,
        kind: &Tag,
        program: ProgramId,
        waypoints: &[Waypoint],
    ) -> mpsc::Receiver<Result<(), String>> {
        let service = self.service_at_last();
        let number = self.next_need.fetch_add(1, Ordering::Relaxed);
        let (had, waiting) = mpsc::sync_channel(1);
        locked(&self.needs).insert(number, had);
        // Another may have come since, and have seen to all that was waiting.
        if service.is_void() {
            locked(&self.needs).remove(&number);
            return waiting;
        }
        service.say(&Said::Need {
            number,
            kind: kind.clone(),
            program,
            waypoints: waypoints.to_vec(),
        });
        waiting
    }

    /// The service that is obeyed, when there is one.
    fn service_at_last(&self) -> Service {
        let mut service = locked(&self.service);
        loop {
            match &*service {
                Some(obeyed) if !obeyed.is_void() => return obeyed.clone(),
                _ => {
                    service = self
                        .begun
                        .wait(service)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
