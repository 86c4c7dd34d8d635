//! Copies of processes: for files, snapshots and clones; and processes that are made of such copies.
//!
//! ```text
//!  Copy:  Running ── pause, capture ─► Running          the pages are copied first, so that it stands still no longer
//!                                  └─► Frozen           if it is held: until Release or Drop
//!  Make:  (nothing) ─► Made ── Resume ─► Running
//! ```

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sterna_migration::MoveId;
use sterna_process::{
    ChangedPages, Epoch, Memory, PIECE_PAGES, PageProvider, PageSet, Paused, Pausing, ProcessId,
    Program,
};

use crate::beside::{self, Known, Rewind};
use crate::copy::{self, Copy};
use crate::hosted::{Hosted, Inner, Stage};
use crate::leaving::{chain, whole};
use crate::limits::{COPY_BYTES, COPY_PAGES_MAX, PAUSE_WITHIN};
use crate::link::Descriptors;
use crate::log::LogHeader;
use crate::message::{Hold, Make};
use crate::role::Role;
use crate::serving::{go_on, is_running};

/// Writes a copy of a process. With `hold` it stands still afterwards. For how long it has not run, if it does again.
pub(crate) fn copy(
    role: &Role,
    process: ProcessId,
    hold: Option<Hold>,
    mut descriptors: Descriptors,
) -> Result<Duration, String> {
    let to = File::from(descriptors.take().map_err(|error| error.to_string())?);
    let hosted = role.find(process)?;
    let begun = Instant::now();
    if hold.is_some_and(|hold| hold.epoch < hosted.lock().epoch) {
        return Err("its record was read before it changed: try again".into());
    }
    let mut paused = still(role, &hosted)?;
    let captured = image(&hosted, &mut *paused);
    let (image, memory) = match captured {
        Ok(image) => (image, paused.memory()),
        Err(why) => {
            go_on(&hosted, paused);
            role.check_end(&hosted);
            return Err(why);
        }
    };
    match hold {
        Some(hold) => {
            hosted.lock().epoch = hold.epoch;
            hosted.put(|_| Stage::Frozen {
                move_id: hold.name,
                paused,
                captured: None,
            });
            send(to, &image, &*memory)?;
            Ok(begun.elapsed())
        }
        None => {
            let sent = send_and_go_on(&hosted, paused, begun, (to, &image, &memory));
            role.check_end(&hosted);
            sent
        }
    }
}

/// Takes it and lets it stand still.
fn still(role: &Role, hosted: &Hosted) -> Result<Box<dyn Paused>, String> {
    if let Some(rest) = &hosted.lock().rest {
        return Err(format!(
            "some of its memory is still at node {}, from where it came: try again in a moment",
            rest.source
        ));
    }
    let running = match hosted.take("being copied", is_running)? {
        Stage::Standing(paused) => return Ok(paused),
        Stage::Running(running) => running,
        other => {
            hosted.put(|_| other);
            return Err("it is being moved: try again".into());
        }
    };
    match running.pause(PAUSE_WITHIN) {
        Pausing::Paused(paused) => Ok(paused),
        Pausing::Exited(exit) => {
            role.say_ended(hosted.put_end(exit));
            Err("it has just ended".into())
        }
        Pausing::Refused(running, why) => {
            hosted.put(|_| Stage::Running(running));
            role.check_end(hosted);
            Err(why.to_string())
        }
    }
}

fn image(hosted: &Hosted, paused: &mut dyn Paused) -> Result<Vec<u8>, String> {
    let mut image = whole(hosted, paused)?;
    image.header.epoch = hosted.lock().epoch;
    image.encode().map_err(|error| chain(&error))
}

fn send(to: File, image: &[u8], memory: &dyn Memory) -> Result<(), String> {
    let mut pages = ChangedPages::of(memory).map_err(|error| chain(&error))?;
    let mut to = BufWriter::with_capacity(COPY_BYTES, to);
    copy::write(&mut to, image, &mut pages).map_err(|error| chain(&error))
}

/// It stands still only while its pages are copied, unless they are too many.
fn send_and_go_on(
    hosted: &Hosted,
    paused: Box<dyn Paused>,
    begun: Instant,
    (to, image, memory): (File, &[u8], &Arc<dyn Memory>),
) -> Result<Duration, String> {
    let copied = memory.changed().and_then(|runs| {
        let few = runs.page_count() <= COPY_PAGES_MAX;
        few.then(|| PageSet::read_from(&**memory, &runs))
            .transpose()
    });
    match copied {
        Ok(Some(set)) => {
            go_on(hosted, paused);
            let stood = begun.elapsed();
            let mut to = BufWriter::with_capacity(COPY_BYTES, to);
            copy::write(&mut to, image, &mut &set).map_err(|error| chain(&error))?;
            Ok(stood)
        }
        Ok(None) => {
            let sent = send(to, image, &**memory);
            go_on(hosted, paused);
            sent.map(|()| begun.elapsed())
        }
        Err(error) => {
            go_on(hosted, paused);
            Err(chain(&error))
        }
    }
}

/// Lets one that is held run on.
pub(crate) fn release(role: &Role, process: ProcessId, move_id: MoveId) -> Result<(), String> {
    let hosted = role.find(process)?;
    if let Stage::Frozen { paused, .. } = hosted.take("being resumed", is_held(move_id))? {
        go_on(&hosted, paused);
    }
    role.check_end(&hosted);
    Ok(())
}

/// Lets go of one that is held, or was made and never ran: it is elsewhere, or nowhere.
pub(crate) fn drop_held(role: &Role, process: ProcessId, move_id: MoveId) -> Result<(), String> {
    let hosted = role.find(process)?;
    let stage = hosted.take("being let go", is_held(move_id))?;
    role.remove(process);
    if let Stage::Frozen { paused, .. } | Stage::Made { paused, .. } = stage {
        paused.discard();
    }
    Ok(())
}

fn is_held(wanted: MoveId) -> impl Fn(&Inner) -> bool {
    move |inner| match &inner.stage {
        Stage::Frozen { move_id, .. } | Stage::Made { move_id, .. } => *move_id == wanted,
        _ => false,
    }
}

/// Makes a process of a copy. It does not run until it is told to.
pub(crate) fn make(
    role: &Arc<Role>,
    order: &Make,
    mut descriptors: Descriptors,
) -> Result<(), String> {
    role.has_room(order.process)?;
    let from = File::from(descriptors.take().map_err(|error| error.to_string())?);
    let mut from =
        Copy::begin(BufReader::with_capacity(COPY_BYTES, from)).map_err(|error| chain(&error))?;
    let mut image = from.image().clone();
    let kind = role.kind(&image.header.kind)?;
    let program = Program::installed(image.header.program);
    let known = Known::take_from(&mut image).map_err(|error| chain(&error))?;
    // None at all if no runner has made it.
    let beside = known.beside.unwrap_or_default();
    image.header.process = order.process;
    image.header.epoch = order.epoch;
    let incoming = kind
        .prepare(&program, &image.header.layout)
        .map_err(|error| chain(&error))?;
    install(&*incoming.memory(), &mut from)?;
    let placed = order
        .place
        .take(role, true, order.process, &mut descriptors)?;
    let paused = incoming
        .finish(image, placed.resources, None)
        .map_err(|error| chain(&error))?;
    let (start, rewinds) = match order.is_new {
        true => (0, Vec::new()),
        false => {
            let rewind = Rewind {
                since: Epoch::FIRST,
                until: order.log_epoch,
                start: beside.output_bytes,
            };
            let mut rewinds = known.rewinds;
            beside::add(&mut rewinds, rewind);
            (rewind.start, rewinds)
        }
    };
    let header = LogHeader {
        process: order.process,
        epoch: order.log_epoch,
        start,
        came_from: order.place.came_from,
        rewinds,
    };
    let begun = placed.output.begin(&header);
    begun.map_err(|error| format!("could not write its log: {error}"))?;
    if let (Some(input), Some(carried)) = (&placed.input, known.carried) {
        input.carry(carried);
    }
    let inner = Inner {
        epoch: order.epoch,
        stage: Stage::Made {
            move_id: order.move_id,
            paused,
            is_new: order.is_new,
        },
        control: None,
        stands: beside.stands,
        rest: None,
        outgoing: None,
        input: placed.input,
        ports: placed.ports,
    };
    let seen = (placed.output, placed.files);
    role.admit(Hosted::new(order.process, (kind, program), seen, inner))
}

fn install(memory: &dyn Memory, from: &mut dyn PageProvider) -> Result<(), String> {
    let mut buffer = Vec::new();
    for piece in from.runs().iter().flat_map(|run| run.pieces(PIECE_PAGES)) {
        buffer.resize(piece.bytes() as usize, 0);
        from.read(piece, &mut buffer)
            .and_then(|()| memory.install(&[piece], &buffer))
            .map_err(|error| chain(&error))?;
    }
    Ok(())
}
