//! The source's side of a move, as its runner does it: find a good moment, pause, capture, push.
//!
//! Before that its memory may be copied while it runs, in [rounds](crate::live).
//!
//! What the target would need to go on is made ready there while the process still runs: it is looked at some times, and
//! where it was seen is told to the target. Then it is stopped at a moment at which it stands nowhere else.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sterna_migration::{Attempt, Rest, RunnerEvent, Size};
use sterna_process::{Image, Memory, PageRuns, PauseRefused, Paused, Pausing, Process, Waypoint};

use crate::beside::{self, Beside};
use crate::channel::{Breaker, ChannelError, Receiver, Sender};
use crate::clients;
use crate::fault::{self, Midway};
use crate::following::{Following, Lanes, Tell};
use crate::hosted::{Hosted, Stage};
use crate::limits::{
    AMONG_WITHIN, CHANNEL_WITHIN, LOOK_EVERY, LOOK_WITHIN, LOOKS, LOOKS_AGAIN, REASON_WITHIN,
    ROUNDS,
};
use crate::live::Live;
use crate::message::Said;
use crate::pump::{self, PumpError, Record};
use crate::role::Role;
use crate::service::Service;

/// A captured process, but for its pages.
pub(crate) struct Captured {
    image: Vec<u8>,
    /// That the target does not have from these rounds.
    pages: PageRuns,
    rounds: u32,
}

/// The connection to the target of a move.
pub(crate) struct Outgoing {
    sender: Mutex<Sender>,
    breaker: Breaker,
    heard: Mutex<Heard>,
    changed: Condvar,
    /// Where the process was, which the target was told.
    seen: Mutex<BTreeSet<Waypoint>>,
    /// What the process writes, if that is noted.
    pub(crate) live: OnceLock<Live>,
    /// What is left of its memory, if that follows it.
    pub(crate) following: OnceLock<Following>,
    lanes: Mutex<Lanes>,
}

/// What the target has said.
#[derive(Default)]
struct Heard {
    ready: BTreeSet<Waypoint>,
    got: bool,
    failed: Option<String>,
}

impl Outgoing {
    /// Listens to the target on a thread of its own.
    pub(crate) fn start(sender: Sender, mut receiver: Receiver) -> Result<Arc<Self>, ChannelError> {
        receiver.set_patience(None)?;
        let outgoing = Arc::new(Self {
            breaker: sender.breaker()?,
            sender: Mutex::new(sender),
            heard: Mutex::default(),
            changed: Condvar::new(),
            seen: Mutex::default(),
            live: OnceLock::new(),
            following: OnceLock::new(),
            lanes: Mutex::default(),
        });
        let listening = Arc::clone(&outgoing);
        thread::Builder::new()
            .name("heard".into())
            .spawn(move || listening.listen(&mut receiver))?;
        Ok(outgoing)
    }

    fn listen(&self, receiver: &mut Receiver) {
        let why = loop {
            let record = match receiver.receive() {
                Ok(record) => Record::read(record),
                Err(error) => break error.to_string(),
            };
            if let Ok(Record::Want(wanted)) = &record {
                let following = self.following.get().ok_or(PumpError::Malformed);
                match following.and_then(|following| following.answer(&mut self.sender(), wanted)) {
                    Ok(()) => continue,
                    Err(error) => break error.to_string(),
                }
            }
            let mut heard = self.heard();
            match record {
                Ok(Record::Anticipated(places)) => {
                    // A target may name what it likes.
                    let seen = self.seen();
                    let ready = places.into_iter().filter(|place| seen.contains(place));
                    heard.ready.extend(ready);
                }
                Ok(Record::Got) => heard.got = true,
                Ok(Record::Failed(why)) => break why,
                Ok(_) => break PumpError::Malformed.to_string(),
                Err(error) => break error.to_string(),
            }
            self.changed.notify_all();
        };
        self.heard().failed.get_or_insert(why);
        self.changed.notify_all();
        self.close();
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something holds of what was heard, or the channel broke; whether it holds.
    fn wait_until(&self, within: Duration, holds: impl Fn(&Heard) -> bool) -> bool {
        let waiting = |heard: &mut Heard| !holds(heard) && heard.failed.is_none();
        let waited = self
            .changed
            .wait_timeout_while(self.heard(), within, waiting);
        holds(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn seen(&self) -> MutexGuard<'_, BTreeSet<Waypoint>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the target where the process is, if it was not seen there before.
    pub(crate) fn tell(&self, places: &[Waypoint]) {
        let mut seen = self.seen();
        let new = places.iter().copied();
        let new: Vec<Waypoint> = new.filter(|place| seen.insert(*place)).collect();
        drop(seen);
        if !new.is_empty() {
            // If the channel is broken, the push says so.
            let _ = pump::anticipate(&mut self.sender(), &new);
            fault::point("runner", &Midway::Looked);
        }
    }

    /// Whether the target is ready wherever the process was, or is so in time.
    pub(crate) fn is_ready(&self, within: Duration) -> bool {
        let seen = self.seen().clone();
        self.wait_until(within, |heard| seen.is_subset(&heard.ready))
    }

    pub(crate) fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sender(&self) -> MutexGuard<'_, Sender> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it, and what goes on for it.
    pub(crate) fn hang_up(&self) {
        self.close();
        if let Some(live) = self.live.get() {
            live.end();
        }
    }

    /// Ends the connection. What the process writes is noted as before.
    pub(crate) fn close(&self) {
        self.breaker.hang_up();
        self.lanes().hang_up();
    }

    /// Waits for so long, or until the channel breaks.
    pub(crate) fn wait_for(&self, time: Duration) {
        self.wait_until(time, |_| false);
    }

    /// Sends something, and waits until it is in its place.
    pub(crate) fn send_and_wait<T>(
        &self,
        send: impl FnOnce(&mut Sender) -> Result<T, PumpError>,
    ) -> Result<T, PumpError> {
        self.heard().got = false;
        let sent = send(&mut self.sender());
        if let Err(PumpError::Channel(_)) = sent {
            // Whoever hangs up has said why, if it could.
            self.wait_until(REASON_WITHIN, |_| false);
            if let Some(why) = self.heard().failed.clone() {
                return Err(PumpError::Failed(why));
            }
        }
        let sent = sent?;
        // The target says so when it has read the last of it, which is soon after the last was written here.
        match self.wait_until(CHANNEL_WITHIN, |heard| heard.got) {
            true => Ok(sent),
            false => {
                let why = self.heard().failed.clone();
                let silent = || format!("it says nothing for {CHANNEL_WITHIN:?}");
                Err(PumpError::Failed(why.unwrap_or_else(silent)))
            }
        }
    }
}

/// Stops a process for a move: at once if its user has stopped it, otherwise at a good moment.
pub(crate) fn pause(role: &Role, service: &Service, attempt: Attempt, within: Duration) {
    let Some(hosted) = role.hosted(attempt.process) else {
        return;
    };
    let own = |inner: &crate::hosted::Inner| {
        inner.epoch == attempt.epoch
            && inner.rest.is_none()
            && matches!(inner.stage, Stage::Running(_) | Stage::Standing(_))
    };
    // A snapshot is soon made.
    hosted.settle(within);
    let begun = Instant::now();
    let (pausing, watched) = match hosted.take("being moved", own) {
        Err(reason) => {
            return service.say(&Said::Event(RunnerEvent::PauseRefused { attempt, reason }));
        }
        Ok(Stage::Standing(paused)) => (Pausing::Paused(paused), None),
        Ok(Stage::Running(process)) => match hosted.outgoing(attempt) {
            Some(outgoing) => choose(process, &outgoing, service, (attempt, within)),
            None => (process.pause(within), None),
        },
        Ok(other) => return hosted.put(|_| other),
    };
    if let Some((ready, us)) = watched {
        let us = us.unwrap_or_else(|| begun.elapsed().as_micros() as u64);
        service.say(&Said::Watched { attempt, us, ready });
    }
    match pausing {
        Pausing::Exited(exit) => role.say_ended(hosted.put_end(exit)),
        Pausing::Refused(process, why) => {
            hosted.put(|_| Stage::Running(process));
            role.check_end(&hosted);
            let reason = why.to_string();
            service.say(&Said::Event(RunnerEvent::PauseRefused { attempt, reason }));
        }
        Pausing::Paused(paused) => stand(role, service, &hosted, attempt, paused),
    }
}

/// It stands still. If the service that wanted it is gone, it runs on.
fn stand(
    role: &Role,
    service: &Service,
    hosted: &Arc<Hosted>,
    attempt: Attempt,
    paused: Box<dyn Paused>,
) {
    if service.is_void() {
        crate::serving::go_on(hosted, paused);
    } else {
        hosted.put(|_| Stage::Frozen {
            move_id: attempt.move_id,
            paused,
            captured: None,
        });
        service.say(&Said::Event(RunnerEvent::Paused { attempt }));
    }
    role.check_end(hosted);
}

/// Whether all it needs was ready when it was stopped; microseconds until it was told to stand still.
type Watched = Option<(bool, Option<u64>)>;

/// Looks where the process tends to be, has that made ready at the target, and stops it there.
fn choose(
    process: Box<dyn Process>,
    outgoing: &Outgoing,
    service: &Service,
    (attempt, within): (Attempt, Duration),
) -> (Pausing, Watched) {
    let begun = Instant::now();
    let until = |end: Instant| end.saturating_duration_since(Instant::now());
    // A target may be too slow to be ready at all: the last quarter is for stopping the process wherever it is.
    let (looked, paused) = (begun + within * 3 / 4, begun + within);
    let mut process = process;
    for round in 0..ROUNDS {
        if until(looked).is_zero() {
            break;
        }
        let looks = if round == 0 { LOOKS } else { LOOKS_AGAIN };
        for look in 0..looks {
            match process.waypoints(LOOK_WITHIN) {
                Ok(places) => outgoing.tell(&places),
                // It has ended; or it cannot be looked at, and perhaps stopped all the same.
                Err(_) => return (process.pause(until(paused)), Some((false, None))),
            }
            // A program that stays where it is needs no second look.
            if look > 1 && outgoing.is_ready(Duration::ZERO) || service.is_void() {
                break;
            }
            thread::sleep(LOOK_EVERY);
        }
        outgoing.is_ready(until(looked) / 2);
        let ready = outgoing.heard().ready.clone();
        // It has written meanwhile.
        if let Err(reason) = outgoing.catch_up(service, attempt) {
            let refused = PauseRefused::Immovable { reason };
            return (Pausing::Refused(process, refused), None);
        }
        let us = Some(begun.elapsed().as_micros() as u64);
        match process.pause_among(&ready, AMONG_WITHIN.min(until(paused))) {
            // It came to places at which it was not seen: they are made ready, too.
            Pausing::Refused(running, _) => process = running,
            other => return (other, Some((true, us))),
        }
    }
    // Wherever it is, then.
    (process.pause(until(paused)), Some((false, None)))
}

/// Makes an image of a process that stands still for a move.
pub(crate) fn capture(role: &Role, service: &Service, attempt: Attempt) {
    let Some(hosted) = role.hosted(attempt.process) else {
        return;
    };
    let Ok(Stage::Frozen {
        move_id,
        mut paused,
        ..
    }) = hosted.take("being captured", |inner| is_frozen(inner, attempt))
    else {
        return;
    };
    let captured = image(&hosted, &mut *paused, attempt).map(Arc::new);
    let kept = captured.as_ref().ok().cloned();
    hosted.put(|_| Stage::Frozen {
        move_id,
        paused,
        captured: kept,
    });
    role.check_end(&hosted);
    service.say(&Said::Event(match captured {
        Ok(captured) => RunnerEvent::Captured {
            attempt,
            size: Size {
                image_bytes: captured.image.len() as u64,
                pages: captured.pages.page_count(),
            },
        },
        Err(reason) => RunnerEvent::CaptureFailed { attempt, reason },
    }));
}

fn is_frozen(inner: &crate::hosted::Inner, attempt: Attempt) -> bool {
    matches!(inner.stage, Stage::Frozen { move_id, .. } if move_id == attempt.move_id)
}

fn image(hosted: &Hosted, paused: &mut dyn Paused, attempt: Attempt) -> Result<Captured, String> {
    let mut image = whole(hosted, paused)?;
    // Clients go along with the process itself, and with no copy of it.
    let ports = hosted.lock().ports.clone();
    if !ports.is_empty() {
        clients::section(&ports)
            .and_then(|section| image.sections.push(section))
            .map_err(|error| chain(&error))?;
    }
    let outgoing = hosted.outgoing(attempt);
    let live = outgoing.as_ref().and_then(|outgoing| outgoing.live.get());
    let (pages, rounds) = match live {
        Some(live) => (live.take(), live.rounds()),
        None => (paused.memory().changed(), 0),
    };
    let pages = pages.map_err(|error| chain(&error))?;
    image.header.epoch = hosted.lock().epoch;
    let image = image.encode().map_err(|error| chain(&error))?;
    Ok(Captured {
        image,
        pages,
        rounds,
    })
}

/// The image of a process, with what its runner knows.
pub(crate) fn whole(hosted: &Hosted, paused: &mut dyn Paused) -> Result<Image, String> {
    let mut image = paused.capture().map_err(|error| chain(&error))?;
    let beside = Beside {
        output_bytes: hosted.output.drain(),
        stands: hosted.lock().stands,
    };
    let put = beside::put(&beside, &hosted.output.rewinds(), &mut image);
    put.map_err(|error| chain(&error))?;
    let input = hosted.lock().input.clone();
    if let Some(input) = input {
        let section = input.take_out().map_err(|error| chain(&error))?;
        let pushed = image.sections.push(section);
        pushed.map_err(|error| chain(&error))?;
    }
    Ok(image)
}

/// Sends a captured process to the target's runner.
pub(crate) fn push(role: &Role, service: &Service, attempt: Attempt, rest: Rest) {
    let Some(hosted) = role.hosted(attempt.process) else {
        return;
    };
    let inner = hosted.lock();
    let ready = match &inner.stage {
        Stage::Frozen {
            move_id,
            paused,
            captured: Some(captured),
        } if *move_id == attempt.move_id => Some((paused.memory(), Arc::clone(captured))),
        _ => None,
    };
    // It stays where whoever gives the move up finds it, to hang up.
    let outgoing = inner.outgoing.clone().filter(|(of, _)| *of == attempt);
    drop(inner);
    let Some((memory, captured)) = ready else {
        return;
    };
    let pushed = match &outgoing {
        Some((_, outgoing)) => {
            let service = service.clone();
            let tell = move |going| service.say(&Said::Going { attempt, going });
            send(outgoing, &memory, &captured, (rest, Box::new(tell)))
        }
        None => Err("there is no connection to the target's runner".into()),
    };
    match pushed {
        // What it writes is noted until it is let go or resumed: to end that takes time in which nobody executes it.
        Ok(()) => service.say(&Said::Event(RunnerEvent::Pushed { attempt })),
        Err(reason) => {
            // The next try is not to find it.
            if let Some((_, used)) = &outgoing {
                hosted.let_go(used);
            }
            service.say(&Said::Event(RunnerEvent::PushFailed { attempt, reason }));
        }
    }
}

/// Sends image and pages, or begins to.
fn send(
    outgoing: &Arc<Outgoing>,
    memory: &Arc<dyn Memory>,
    captured: &Captured,
    (rest, tell): (Rest, Tell),
) -> Result<(), String> {
    if let Rest::Follows { rate_max, within } = rest {
        let memory = Arc::clone(memory);
        let following = Following::new(memory, &captured.pages, (rate_max, within), tell);
        // The target asks as soon as it has the image.
        let _ = outgoing.following.set(following);
    }
    let sent = outgoing.send_and_wait(|sender| {
        if captured.rounds > 0 {
            pump::continues(sender, captured.rounds)?;
        }
        match rest {
            Rest::Along => pump::push(sender, &captured.image, &**memory, &captured.pages),
            Rest::Follows { .. } => pump::push_followed(sender, &captured.image, &captured.pages),
        }
    });
    sent.map_err(|error| chain(&error))?;
    if let Rest::Follows { .. } = rest {
        outgoing.follow();
    }
    Ok(())
}

impl Hosted {
    /// A channel is good for one try.
    fn let_go(&self, used: &Arc<Outgoing>) {
        let mut inner = self.lock();
        let is_same = |(_, outgoing): &mut (Attempt, Arc<Outgoing>)| Arc::ptr_eq(outgoing, used);
        if let Some((_, outgoing)) = inner.outgoing.take_if(is_same) {
            outgoing.hang_up();
        }
    }
}

/// An error with all its causes, as text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
