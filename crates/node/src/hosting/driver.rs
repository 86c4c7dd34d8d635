//! The driver of moves: the one task that holds [`Moves`], and does what it wants done.
//!
//! Everything that happens comes in as an [`Input`], in one queue; actions are carried out on tasks of their own, whose
//! results come in again. So the machines see one thing after the other, and nothing waits for anything else.

mod comparing;
mod copied;
mod lanes;
mod telling;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sterna_migration::{
    Action, Attempt, Command, Event, Life, Limits, Message, Moves, NodeId, Offer, Record,
    RunnerEvent, Swap, Time,
};
use sterna_process::ProcessId;
use sterna_runner::fault;
use sterna_runner::message::{Order, Place, Said};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use super::input::Input;
use super::{Hosting, Runner};
use crate::limits::{COMPARE_EVERY, RETRY_FIRST, RETRY_MAX, SWEEP_EVERY};
use crate::message::{EventSort, How, RegistryRequest, Reply, SwapBytes};
use crate::registry::Deed;
use crate::service::Service;

struct Driver {
    service: Arc<Service>,
    hosting: Arc<Hosting>,
    moves: Moves,
    began: Instant,
    runner: Runner,
    life: u64,
    places: HashMap<Attempt, (Box<Place>, Vec<OwnedFd>)>,
    /// Attempts for which the runner has a connection that was not used yet.
    connected: HashSet<Attempt>,
    watched: HashMap<Attempt, (u64, bool)>,
    /// Moves whose target has the copies of directories as they are while the process stands still.
    trees_sent: HashSet<Attempt>,
    /// Processes of which some memory did not come after them, and why.
    unfollowed: HashMap<ProcessId, String>,
}

/// How long moves wait. Where a test has nodes stand still, not as long as it takes to be sure.
fn limits() -> Limits {
    let usual = Limits::default();
    match fault::is_armed() {
        true => Limits {
            accept_within: Duration::from_secs(4),
            declare_within: Duration::from_secs(2),
            round_within: Duration::from_secs(2),
            pause_within: Duration::from_secs(2),
            capture_within: Duration::from_secs(2),
            push_within: Duration::from_secs(2),
            commit_within: Duration::from_secs(2),
            repeat_max: Duration::from_millis(500),
            done_asks_max: 4,
            ..usual
        },
        false => usual,
    }
}

/// How a stretch with one runner ended.
enum Ended {
    /// It has died: all that it held is gone.
    RunnerDied,
    /// Its link broke, and it lives: it is asked again.
    LinkBroke,
}

impl Service {
    /// Drives moves until the node stops.
    pub(crate) async fn drive(self: Arc<Self>, hosting: Arc<Hosting>) {
        let taken = hosting
            .from_all
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        let Some(mut inputs) = taken else {
            return;
        };
        let (mut life, mut carried_over) = (0, None);
        let began = Instant::now();
        loop {
            life += 1;
            let (runner, held) = self.runner_at_last(&hosting, life).await;
            let moves = carried_over
                .take()
                .unwrap_or_else(|| Moves::new(self.id, limits(), held.held.clone()));
            if runner.confinement != "full" {
                tracing::warn!("the runner's confinement: {}", runner.confinement);
            }
            let mut driver = Driver {
                service: Arc::clone(&self),
                hosting: Arc::clone(&hosting),
                moves,
                began,
                runner,
                life,
                places: HashMap::new(),
                connected: HashSet::new(),
                watched: HashMap::new(),
                trees_sent: HashSet::new(),
                unfollowed: HashMap::new(),
            };
            for (process, _) in &held.held {
                driver.read(*process);
                self.attach_clients(&hosting, *process);
            }
            let ended = driver.run(&mut inputs).await;
            hosting.runner.send_replace(None);
            if let Ended::RunnerDied = ended {
                if !hosting.is_over() {
                    tracing::warn!("the runner has died, and with it its processes");
                }
                let now = driver.now();
                driver.moves.handle(now, Event::RunnerDied);
                driver.carry_out_all();
                carried_over = Some(driver.moves);
            }
        }
    }

    async fn runner_at_last(
        &self,
        hosting: &Hosting,
        life: u64,
    ) -> (Runner, sterna_runner::message::Holdings) {
        let mut pause = RETRY_FIRST;
        loop {
            let starting = hosting.starting.lock().await;
            if hosting.is_over() {
                drop(starting);
                // Nobody would ever end one that is started now. The node's end ends this task.
                return std::future::pending().await;
            }
            match hosting.get_runner(life).await {
                Ok((runner, held)) => {
                    for ended in &held.ended {
                        hosting.note_end(ended.clone());
                    }
                    hosting.runner.send_replace(Some(runner.clone()));
                    return (runner, held);
                }
                Err(error) => {
                    let why = std::error::Error::source(&error)
                        .map_or(String::new(), |source| format!(": {source}"));
                    tracing::warn!("{error}{why}");
                    drop(starting);
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }
}

impl Driver {
    fn now(&self) -> Time {
        let micros = self.began.elapsed().as_micros();
        Time::from_micros(micros.try_into().unwrap_or(u64::MAX))
    }

    async fn run(&mut self, inputs: &mut mpsc::Receiver<Input>) -> Ended {
        let mut sweep = interval(SWEEP_EVERY);
        let mut compare = interval(COMPARE_EVERY);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let timeout = self.moves.next_timeout().map(|at| {
                let after = at.since(Time::ZERO);
                tokio::time::Instant::from_std(self.began + after)
            });
            let far = tokio::time::Instant::now() + COMPARE_EVERY;
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => if let Some(ended) = self.take(input).await {
                        return ended;
                    },
                    None => std::future::pending().await,
                },
                () = sleep_until(timeout.unwrap_or(far)), if timeout.is_some() => {
                    self.moves.handle_timeout(self.now());
                }
                _ = compare.tick() => self.compare(),
                _ = sweep.tick() => self.sweep(),
            }
            self.carry_out_all();
            self.look_after_copies();
        }
    }

    // long because: one arm for each input
    async fn take(&mut self, input: Input) -> Option<Ended> {
        let now = self.now();
        match input {
            Input::Event(event) => {
                if let Event::Message { message, .. } = &event {
                    fault::point("service hear", &message.body);
                }
                self.moves.handle(now, event);
            }
            Input::Said(life, said) if life == self.life => match said {
                Some(said) => self.hear(said),
                None => return Some(self.link_ended().await),
            },
            Input::Said(..) => {}
            Input::Started {
                process,
                epoch,
                noted,
            } => {
                let _ = noted.send(self.moves.started(process, epoch));
            }
            Input::NotStarted { process } => self.moves.not_started(process),
            Input::Gone { process, epoch } => self.moves.gone(now, process, epoch),
            Input::Begin { order, begun } => {
                let _ = begun.send(self.moves.start(now, order));
            }
            Input::Cancel { attempt, done } => {
                let _ = done.send(self.moves.cancel(now, attempt.process));
            }
            Input::IsOffered { attempt, offered } => {
                let _ = offered.send(self.moves.is_offered(attempt));
            }
            Input::TargetSilent { attempt } => self.moves.target_silent(now, attempt),
            Input::IsBusy { process, busy } => drop(busy.send(self.moves.is_busy(process))),
            Input::KeptCopy { process, kept } => drop(kept.send(self.moves.kept_copy(process))),
            Input::TargetOf { attempt, target } => {
                let _ = target.send(self.moves.target_by(attempt));
            }
            Input::Uncopied { process } => self.uncopied(process),
            Input::TreesSent(attempt, sent, command) => match sent {
                Ok(()) => {
                    self.trees_sent.insert(attempt);
                    self.command(command);
                }
                Err(reason) => {
                    let event = RunnerEvent::PushFailed { attempt, reason };
                    self.moves.handle(now, Event::Runner(event));
                }
            },
            Input::SourceOf { attempt, source } => {
                let _ = source.send(self.moves.source_of(attempt));
            }
            Input::Place(attempt, place, descriptors) => {
                self.places.insert(attempt, (place, descriptors));
            }
            Input::Connected(attempt, connection, command) => {
                if let Some(connection) = connection {
                    self.hand_over(attempt, connection, false);
                    self.connected.insert(attempt);
                }
                self.command_now(command);
            }
            Input::Asked(_, None, command) => self.command_now(command),
            Input::Asked(attempt, Some(reason), _) => {
                let event = RunnerEvent::PauseRefused { attempt, reason };
                self.moves.handle(now, Event::Runner(event));
            }
            Input::Lane(attempt, connection) => self.hand_over(attempt, connection, true),
        }
        None
    }

    /// The link has ended: has the runner?
    async fn link_ended(&self) -> Ended {
        let process = self.runner.handle.process();
        let patience = Duration::from_secs(5);
        let died = super::blocking(move || process.wait(Some(patience))).await;
        match died {
            Ok(Ok(true)) => Ended::RunnerDied,
            _ => Ended::LinkBroke,
        }
    }

    fn hear(&mut self, said: Said) {
        let now = self.now();
        match said {
            Said::Event(event) => {
                fault::point("service told", &event);
                if let RunnerEvent::Unfollowed { attempt, reason } = &event {
                    let what = format!("the rest of its memory did not come: {reason}");
                    self.unfollowed.insert(attempt.process, what);
                }
                if let RunnerEvent::Exited { process } = event {
                    let ended = self.hosting.ended().get(&process).cloned();
                    let how = ended.map_or("ended".to_owned(), |ended| ended.exit.to_string());
                    self.hosting.news.event(process, EventSort::Ended, how);
                    if self.hosting.copies.has(process) {
                        return self.given_back(event, process);
                    }
                }
                self.moves.handle(now, Event::Runner(event));
            }
            Said::Ended(ended) => self.hosting.note_end(ended),
            Said::Watched { attempt, us, ready } if self.moves.target_by(attempt).is_some() => {
                self.watched.insert(attempt, (us, ready));
            }
            Said::Going { attempt, going } if self.moves.target_by(attempt).is_some() => {
                self.hosting.news.going(attempt, going);
            }
            Said::Need {
                number,
                kind,
                program,
                waypoints,
            } => {
                let workshop = Arc::clone(&self.hosting.workshop);
                let handle = self.runner.handle.clone();
                // What a runner asks for may be nonsense, and more of it than can be done.
                let Ok(place) = Arc::clone(&self.hosting.needing).try_acquire_owned() else {
                    let result = Err("too much is to be made ready: try again".into());
                    return handle.order(Order::Had { number, result }, Vec::new());
                };
                let preparing = Arc::clone(&self.hosting.preparing);
                tokio::spawn(async move {
                    // A process that is to go on cannot do without: it waits for its turn.
                    let turn = preparing.acquire_owned().await;
                    let made =
                        super::blocking(move || workshop.prepare(&kind, &program, &waypoints));
                    let result = made.await.unwrap_or_else(|failure| Err(failure.message));
                    drop((turn, place));
                    handle.order(Order::Had { number, result }, Vec::new());
                });
            }
            Said::Watched { .. } | Said::Going { .. } | Said::Answer { .. } => {}
        }
    }

    /// Removes the output of processes that the registry has forgotten, one hour after it was last written.
    fn sweep(&self) {
        let (service, hosting) = (Arc::clone(&self.service), Arc::clone(&self.hosting));
        tokio::spawn(async move {
            service.sweep_logs(&hosting).await;
            service.sweep_copies(&hosting).await;
        });
    }

    fn carry_out_all(&mut self) {
        while let Some(action) = self.moves.next_action() {
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Send { to, message } => self.send(to, message),
            Action::Swap(swap) => self.swap(swap),
            Action::Read { process } => self.read(process),
            Action::Admit {
                attempt,
                source,
                offer,
            } => self.admit(attempt, source, offer),
            Action::FetchProgram {
                attempt,
                source,
                kind,
                program,
            } => {
                let (service, hosting) = (Arc::clone(&self.service), Arc::clone(&self.hosting));
                tokio::spawn(async move {
                    let wanted = (&kind, program);
                    let event = match service.fetch_program(&hosting, source, wanted).await {
                        Ok(()) => Event::ProgramFetched { attempt },
                        Err(failure) => Event::ProgramUnavailable {
                            attempt,
                            reason: failure.message,
                        },
                    };
                    hosting.tell(Input::Event(event)).await;
                });
            }
            Action::Command(command) => self.command(command),
            Action::Notify(notice) => self.notify(notice),
        }
    }

    fn send(&self, to: NodeId, message: Message) {
        fault::point("service say", &message.body);
        let service = Arc::clone(&self.service);
        tokio::spawn(async move {
            if let Err(error) = service.send_message(to, &message).await {
                // It is repeated by whoever needs an answer.
                tracing::debug!(
                    "a message of {} did not get there: {error}",
                    message.attempt
                );
            }
        });
    }

    fn swap(&self, swap: Swap) {
        let (Ok(expected), Ok(new)) = (swap.expected.encode(), swap.new.encode()) else {
            return;
        };
        let ended = self.hosting.ended().get(&swap.process).cloned();
        let ending = match swap.new.life {
            Life::Ended => ended.map(|ended| How::Exited(ended.exit).bounded()),
            Life::Lost => self.unfollowed.get(&swap.process).map(|reason| {
                let reason = reason.clone();
                How::Lost { reason }.bounded()
            }),
            Life::Alive | Life::Frozen(_) => None,
        };
        let request = RegistryRequest::SwapRecord(Box::new(SwapBytes {
            process: swap.process,
            expected,
            new,
            grant: swap.grant,
            ending,
        }));
        fault::point("service ask", &Deed::of(&swap));
        self.ask_for_record(swap.process, request, Some(Deed::of(&swap)));
    }

    fn read(&self, process: ProcessId) {
        self.ask_for_record(process, RegistryRequest::Record { process }, None);
    }

    /// Asks the registry something that it answers with a record. If it does not, the machines ask again.
    fn ask_for_record(&self, process: ProcessId, request: RegistryRequest, swap: Option<Deed>) {
        let (service, hosting) = (Arc::clone(&self.service), Arc::clone(&self.hosting));
        tokio::spawn(async move {
            let asked = service.ask_registry(request).await;
            if let Some(deed) = swap {
                fault::point("service answered", &deed);
            }
            let record = match asked {
                Ok(Reply::Record(bytes)) => bytes.as_deref().map(Record::decode).transpose(),
                Ok(_) => return,
                Err(failure) => {
                    return tracing::debug!("no record of {process}: {failure}");
                }
            };
            match record {
                Ok(record) => {
                    let alive = |record: Record| record.life == Life::Alive;
                    if !record.is_some_and(alive) {
                        hosting.ended().remove(&process);
                    }
                    if !record.is_some_and(|record| alive(record) && record.owner == service.id) {
                        hosting.forget_unless_arriving(process, record);
                    }
                    let event = match record {
                        None if service.is_removed() => Event::Expelled { process },
                        record => Event::Record { process, record },
                    };
                    hosting.tell(Input::Event(event)).await;
                }
                Err(error) => tracing::warn!("the record of {process}: {error}"),
            }
        });
    }

    fn admit(&self, attempt: Attempt, source: NodeId, offer: Offer) {
        let (service, hosting) = (Arc::clone(&self.service), Arc::clone(&self.hosting));
        tokio::spawn(async move {
            let admitted = service
                .admit_process(&hosting, attempt, source, &offer)
                .await;
            let event = match admitted {
                Ok(program_is_here) => Event::Admitted {
                    attempt,
                    program_is_here,
                },
                Err(refusal) => Event::Declined { attempt, refusal },
            };
            hosting.tell(Input::Event(event)).await;
        });
    }

    /// Gives a command to the runner. Before the process is copied or stopped, and before it is pushed anew, there must be
    /// a connection to the other runner.
    fn command(&mut self, command: Command) {
        let (attempt, target) = match &command {
            Command::Pause { attempt, .. } if self.connected.contains(attempt) => {
                let process = attempt.process;
                let target = self.moves.target_of(process);
                if let Some(target) = target.filter(|_| self.moves.is_followed(process)) {
                    self.open_lanes(target, *attempt);
                }
                return match target {
                    Some(target) => self.make_sure_of(target, *attempt, command),
                    None => self.command_now(command),
                };
            }
            Command::Track { attempt } | Command::Pause { attempt, .. } => {
                (*attempt, self.moves.target_of(attempt.process))
            }
            Command::Push {
                attempt, target, ..
            } if self.hosting.copies.leaving(*attempt).is_some()
                && !self.trees_sent.contains(attempt) =>
            {
                return self.send_trees(*attempt, *target, command);
            }
            Command::Push {
                attempt, target, ..
            } => {
                if self.connected.remove(attempt) {
                    return self.command_now(command);
                }
                (*attempt, Some(*target))
            }
            _ => return self.command_now(command),
        };
        match target {
            Some(target) => self.connect_first(target, attempt, command),
            None => self.command_now(command),
        }
    }

    fn command_now(&mut self, command: Command) {
        let (place, descriptors) = match &command {
            Command::Prepare { attempt, .. } => self.places.remove(attempt).unzip(),
            Command::Discard { attempt } => {
                self.places.remove(attempt);
                self.connected.remove(attempt);
                self.settle_copies(attempt.process);
                (None, None)
            }
            Command::Untrack { attempt } => {
                self.connected.remove(attempt);
                (None, None)
            }
            Command::Forget { process } => {
                self.settle_copies(*process);
                (None, None)
            }
            _ => (None, None),
        };
        if let Command::Resume { process, .. } = command {
            self.service.attach_clients(&self.hosting, process);
        }
        fault::point("service order", &command);
        let order = Order::Step { command, place };
        let descriptors = descriptors.unwrap_or_default();
        self.runner.handle.order(order, descriptors);
    }
}
