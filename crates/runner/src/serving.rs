//! What users order of a process: start it, look at it, let it stand still and run on, end it, give it input. And the
//! last steps of a move, which are as quick.

use std::sync::Arc;

use sterna_migration::{Attempt, RunnerEvent};
use sterna_process::{
    Description, Environment, Epoch, Exit, Identity, Paused, Pausing, ProcessId, Program,
};

use crate::hosted::{Hosted, Inner, Stage};
use crate::input::Input;
use crate::leaving::chain;
use crate::limits::{DESCRIBE_WITHIN, INPUT_WITHIN, KILL_WITHIN, PAUSE_WITHIN};
use crate::link::Descriptors;
use crate::live::Live;
use crate::log::LogHeader;
use crate::message::{Said, Spawn, WindowSize};
use crate::role::Role;
use crate::service::Service;

/// Starts a process.
pub(crate) fn spawn(
    role: &Arc<Role>,
    order: Spawn,
    mut descriptors: Descriptors,
) -> Result<(), String> {
    let kind = role.kind(&order.kind)?;
    let program = Program::installed(order.program);
    let placed = order
        .place
        .take(role, false, order.process, &mut descriptors)?;
    let header = LogHeader {
        process: order.process,
        epoch: order.epoch,
        start: 0,
        came_from: None,
        rewinds: Vec::new(),
    };
    let begun = placed.output.begin(&header);
    begun.map_err(|error| format!("could not write its log: {error}"))?;
    let text = |bytes: Vec<u8>| std::os::unix::ffi::OsStringExt::from_vec(bytes);
    let variables = order.variables.into_iter();
    let environment = Environment {
        arguments: order.arguments.into_iter().map(text).collect(),
        variables: variables
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
        entry: order.entry,
        resources: placed.resources,
    };
    let identity = Identity {
        process: order.process,
        epoch: order.epoch,
    };
    role.has_room(order.process)?;
    let running = kind
        .spawn(identity, &program, environment)
        .map_err(|error| chain(&error))?;
    let inner = Inner {
        epoch: order.epoch,
        control: Some(running.control),
        stage: Stage::Running(running.process),
        stands: false,
        rest: None,
        outgoing: None,
        input: placed.input,
        ports: placed.ports,
    };
    let seen = (placed.output, placed.files);
    let hosted = Hosted::new(order.process, (kind, program), seen, inner);
    role.admit(Arc::clone(&hosted))?;
    // It may have ended before it was entered, or just be about to, with nobody waiting for that.
    if hosted.output.is_closed() {
        role.streams_closed(order.process);
    }
    role.check_end(&hosted);
    Ok(())
}

/// Lets it stand still, because its user says so.
pub(crate) fn pause(role: &Role, process: ProcessId) -> Result<(), String> {
    let hosted = role.find(process)?;
    let running = match hosted.take("being paused", is_running)? {
        Stage::Running(running) => running,
        other => {
            hosted.put(|_| other);
            return Ok(());
        }
    };
    match running.pause(PAUSE_WITHIN) {
        Pausing::Paused(paused) => hosted.put(|inner| {
            inner.stands = true;
            Stage::Standing(paused)
        }),
        Pausing::Exited(exit) => {
            role.say_ended(hosted.put_end(exit));
            return Err("it has just ended".into());
        }
        Pausing::Refused(running, why) => {
            hosted.put(|_| Stage::Running(running));
            role.check_end(&hosted);
            return Err(why.to_string());
        }
    }
    role.check_end(&hosted);
    Ok(())
}

/// Lets it run on, because its user says so.
pub(crate) fn go(role: &Role, process: ProcessId) -> Result<(), String> {
    let hosted = role.find(process)?;
    match hosted.take("being resumed", is_running)? {
        Stage::Standing(paused) => {
            hosted.lock().stands = false;
            go_on(&hosted, paused);
        }
        other => hosted.put(|_| other),
    }
    role.check_end(&hosted);
    Ok(())
}

pub(crate) fn is_running(inner: &Inner) -> bool {
    matches!(inner.stage, Stage::Running(_) | Stage::Standing(_))
}

/// Lets a process that was taken run on, unless its user wants it to stand still. What was taken out of it, to travel or to
/// be copied, is given again.
pub(crate) fn go_on(hosted: &Hosted, paused: Box<dyn Paused>) {
    let (input, ports) = {
        let inner = hosted.lock();
        (inner.input.clone(), inner.ports.clone())
    };
    if let Some(input) = input {
        input.give_again();
    }
    for port in ports {
        port.stay();
    }
    hosted.put(|inner| {
        if inner.stands {
            return Stage::Standing(paused);
        }
        let running = paused.resume();
        inner.control = Some(running.control);
        Stage::Running(running.process)
    });
}

/// Ends it.
pub(crate) fn kill(role: &Role, process: ProcessId) -> Result<(), String> {
    let hosted = role.find(process)?;
    let inner = hosted.lock();
    if let Stage::Exited(_) = inner.stage {
        return Ok(());
    }
    let control = inner.control.clone();
    drop(inner);
    let Some(control) = control else {
        return end_standing(role, &hosted);
    };
    control.kill();
    let ended = control.wait(KILL_WITHIN);
    role.check_end(&hosted);
    match ended {
        Some(_) => Ok(()),
        None => Err(format!(
            "it was told to end and has not within {KILL_WITHIN:?}"
        )),
    }
}

/// Ends one that has come here standing still, and has never run here.
fn end_standing(role: &Role, hosted: &Hosted) -> Result<(), String> {
    let stands = |inner: &Inner| matches!(inner.stage, Stage::Standing(_));
    match hosted.take("being ended", stands) {
        Ok(Stage::Standing(paused)) => {
            paused.discard();
            role.say_ended(hosted.put_end(Exit::Killed));
            Ok(())
        }
        Ok(other) => {
            hosted.put(|_| other);
            Ok(())
        }
        Err(_) => Err("it is arriving: try again".into()),
    }
}

/// What it is doing.
pub(crate) fn describe(role: &Role, process: ProcessId) -> Result<Description, String> {
    let hosted = role.find(process)?;
    let mut inner = hosted.lock();
    if let Stage::Standing(paused) = &mut inner.stage {
        let image = paused.capture().map_err(|error| chain(&error))?;
        return Ok(image.description);
    }
    let control = inner.control.clone();
    drop(inner);
    let control = control.ok_or("it is arriving: try again")?;
    control
        .describe(DESCRIBE_WITHIN)
        .map_err(|error| chain(&error))
}

/// There is a way to the ingress of one of its ports.
pub(crate) fn attach(
    role: &Role,
    process: ProcessId,
    index: u32,
    mut descriptors: Descriptors,
) -> Result<(), String> {
    let port = role
        .find(process)?
        .lock()
        .ports
        .get(index as usize)
        .cloned();
    let port = port.ok_or("it has no such port")?;
    let stream = descriptors.take().map_err(|error| error.to_string())?;
    port.attach(stream)
        .map_err(|error| format!("its clients cannot be attached: {error}"))
}

/// Gives it input. Says how much of it was taken.
pub(crate) fn input(
    role: &Role,
    process: ProcessId,
    bytes: &[u8],
    end: bool,
) -> Result<u64, String> {
    let taken = its_input(role, process)?.give(bytes, end, INPUT_WITHIN);
    match taken {
        Ok(taken) => Ok(taken as u64),
        Err(error) => Err(format!("it does not read its standard input: {error}")),
    }
}

/// Makes its terminal so large.
pub(crate) fn resize(role: &Role, process: ProcessId, size: WindowSize) -> Result<(), String> {
    match its_input(role, process)?.resize(size) {
        Ok(true) => Ok(()),
        Ok(false) => Err("it has no terminal: start it with --terminal".into()),
        Err(error) => Err(format!("its terminal cannot be resized: {error}")),
    }
}

fn its_input(role: &Role, process: ProcessId) -> Result<Arc<Input>, String> {
    let input = role.find(process)?.lock().input.clone();
    input
        .ok_or_else(|| "it has no standard input: start it with --interactive or --terminal".into())
}

/// Lets a process run here, in this epoch.
pub(crate) fn resume(role: &Role, service: &Service, process: ProcessId, epoch: Epoch) {
    let Some(hosted) = role.hosted(process) else {
        return;
    };
    let known = |inner: &Inner| !matches!(inner.stage, Stage::Arriving(_) | Stage::Exited(_));
    hosted.settle(crate::limits::SETTLE_WITHIN);
    let Ok(stage) = hosted.take("being resumed", known) else {
        return;
    };
    if let Stage::Frozen { .. } = stage
        && hosted.lock().epoch >= epoch
    {
        // It is held in the epoch that it is to take up.
        hosted.put(|_| stage);
        let follows = false;
        return service.say(&Said::Event(RunnerEvent::Resumed {
            process,
            epoch,
            follows,
        }));
    }
    let mut inner = hosted.lock();
    let next = inner.epoch.next().unwrap_or(epoch);
    if epoch > next && matches!(stage, Stage::Frozen { .. }) {
        // It goes on from what a move has left of it here: in between it was another node's, and was lost there.
        hosted.output.rewind(next, epoch);
    }
    inner.epoch = epoch;
    let outgoing = inner.outgoing.take().map(|(_, outgoing)| outgoing);
    outgoing.iter().for_each(|outgoing| outgoing.close());
    drop(inner);
    match stage {
        Stage::Frozen { paused, .. } | Stage::Ready { paused, .. } | Stage::Made { paused, .. } => {
            go_on(&hosted, paused);
        }
        other => hosted.put(|_| other),
    }
    // What it writes is noted no more: now that it runs, and before another move of it may begin.
    outgoing.iter().for_each(|outgoing| outgoing.hang_up());
    let follows = hosted.lock().rest.is_some();
    service.say(&Said::Event(RunnerEvent::Resumed {
        process,
        epoch,
        follows,
    }));
    role.check_end(&hosted);
}

/// Lets go of what belongs to a move.
pub(crate) fn discard(role: &Role, attempt: Attempt) {
    let Some(hosted) = role.hosted_or_give_up(attempt) else {
        return;
    };
    let outgoing = hosted.outgoing(attempt);
    outgoing.iter().for_each(|outgoing| outgoing.close());
    hosted.settle(crate::limits::SETTLE_WITHIN);
    let own = |inner: &Inner| match &inner.stage {
        Stage::Frozen { move_id, .. }
        | Stage::Ready { move_id, .. }
        | Stage::Made { move_id, .. } => *move_id == attempt.move_id,
        Stage::Arriving(arrival) => arrival.attempt == attempt,
        Stage::Exited(ended) => ended.epoch == attempt.epoch,
        Stage::Running(_) | Stage::Standing(_) | Stage::Taken { .. } => false,
    };
    let mut inner = hosted.lock();
    if !own(&inner) {
        drop(inner);
        // It is not this move's to let go, and may run.
        return outgoing.iter().for_each(|outgoing| outgoing.hang_up());
    }
    let live = outgoing.as_ref().and_then(|outgoing| outgoing.live.get());
    live.into_iter().for_each(Live::leave);
    let was = inner.holding();
    inner.close_rest();
    let mut stage = std::mem::replace(
        &mut inner.stage,
        Stage::Taken {
            was,
            doing: "being let go",
        },
    );
    drop(inner);
    role.remove(attempt.process);
    if let Stage::Arriving(arrival) = &mut stage {
        arrival.hang_up();
    }
    role.let_go(move || {
        match stage {
            Stage::Frozen { paused, .. }
            | Stage::Ready { paused, .. }
            | Stage::Made { paused, .. } => paused.discard(),
            _ => {}
        }
        drop((hosted, outgoing));
    });
}

/// Forgets a process that has exited.
pub(crate) fn forget(role: &Role, process: ProcessId) {
    let Some(hosted) = role.hosted(process) else {
        return;
    };
    if matches!(hosted.lock().stage, Stage::Exited(_)) {
        role.remove(process);
        role.let_go(move || drop(hosted));
    }
}

/// Ends a process that runs in an old epoch.
pub(crate) fn fence(role: &Role, process: ProcessId, epoch: Epoch) {
    let Some(hosted) = role.hosted(process) else {
        return;
    };
    hosted.settle(crate::limits::SETTLE_WITHIN);
    let mut inner = hosted.lock();
    if inner.epoch != epoch {
        return;
    }
    inner.close_rest();
    let control = inner.control.clone();
    drop(inner);
    role.remove(process);
    if let Some(control) = control {
        control.kill();
        let ended: Option<Exit> = control.wait(KILL_WITHIN);
        if ended.is_none() {
            tracing::warn!("a process that lives on elsewhere does not end here");
        }
    }
}
