//! Guests in words for people: back-traces with function names, and what a guest refers to.

use std::collections::HashMap;
use std::fmt::Write as _;

use sterna_process::binding::{Attachment, Binding, By, OnMove};
use sterna_process::description::FrameKind;
use sterna_process::{Description, FrameDescription};
use sterna_wasi::DescriptorKind;
use wasmparser::{BinaryReader, Name, NameSectionReader};

use crate::frames::Frame;
use crate::guest::Guest;

/// Frames of a trap that are shown, innermost first: beyond, they seldom say more.
const ENGINE_FRAMES_MAX: usize = 20;
/// The same of the frames that waited for those.
const WAITING_FRAMES_MAX: usize = 40;
/// Longest name of a function that is shown, in bytes: modules may have some of 100,000.
const NAME_BYTES_MAX: usize = 256;

/// Names of functions, from the contents of a module's name section. A damaged section names what it can.
pub(crate) fn function_names(section: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    let section = NameSectionReader::new(BinaryReader::new(section, 0));
    for subsection in section.into_iter().flatten() {
        let Name::Function(functions) = subsection else {
            continue;
        };
        for naming in functions.into_iter().flatten() {
            names.insert(naming.index, cut(naming.name).to_owned());
        }
    }
    names
}

/// What a guest that stands still is doing.
pub(crate) fn guest(guest: &mut Guest) -> Description {
    let frames = &guest.machine.frames;
    let shown: Vec<_> = frames.iter().take(Description::MAX_FRAMES).collect();
    let frames = describe_frames(&shown, guest.machine.installed.names());
    let frames_omitted = (guest.machine.frames.len() - shown.len()) as u64;
    let notes = vec![("stages left".to_owned(), guest.stages.len().to_string())];
    let wasi = guest.store.data().wasi.as_ref();
    let descriptors = wasi.map(sterna_wasi::Wasi::descriptors).unwrap_or_default();
    Description {
        frames,
        frames_omitted,
        bindings: descriptors.iter().map(binding).collect(),
        notes,
    }
}

fn describe_frames<V>(frames: &[&Frame<V>], names: &HashMap<u32, String>) -> Vec<FrameDescription> {
    let describe = |(depth, frame): (usize, &&Frame<V>)| FrameDescription {
        function: frame.function,
        name: names.get(&frame.function).cloned(),
        offset: u64::from(frame.offset),
        at: match (depth, frame.after) {
            (_, true) if depth > 0 => FrameKind::Calling,
            _ => FrameKind::Stopped,
        },
    };
    frames.iter().enumerate().map(describe).collect()
}

fn binding(descriptor: &sterna_wasi::DescriptorDescription) -> Binding {
    let (by, attachment, on_move) = match descriptor.kind {
        DescriptorKind::Stdio => (By::Type, Attachment::Fixed, OnMove::Rebind),
        DescriptorKind::Preopened => (By::Identifier, Attachment::Fastened, OnMove::Rebind),
        _ => match descriptor.binding {
            sterna_wasi::Binding::Fixed => {
                (By::Identifier, Attachment::Fixed, OnMove::GlobalReference)
            }
            sterna_wasi::Binding::Kept => {
                (By::Identifier, Attachment::Fixed, OnMove::GlobalReference)
            }
            _ => (By::Identifier, Attachment::Fastened, OnMove::Rebind),
        },
    };
    let detail = descriptor
        .offset
        .map_or_else(String::new, |offset| format!("at offset {offset}"));
    let what = descriptor.label.clone();
    Binding {
        descriptor: Some(descriptor.number),
        what,
        by,
        attachment,
        on_move,
        detail,
    }
}

/// Where a guest trapped: the frames of the engine, then those that waited for them.
pub(crate) fn trap_back_trace(guest: &Guest, error: &wasmtime::Error) -> String {
    let mut trace = engine_back_trace(error);
    let first = trace.lines().count();
    let names = guest.machine.installed.names();
    let frames = &guest.machine.frames;
    let functions = frames.iter().map(|frame| frame.function);
    for (depth, function) in (first..).zip(functions.take(WAITING_FRAMES_MAX)) {
        let name = names
            .get(&function)
            .cloned()
            .unwrap_or_else(|| format!("function {function}"));
        let _ = writeln!(trace, "{depth:>4}: {}", sterna_process::Plain(&name));
    }
    if let Some(more) = frames.len().checked_sub(WAITING_FRAMES_MAX + 1) {
        let _ = writeln!(trace, "      and {} more", more + 1);
    }
    trace
}

/// The frames that the engine had when it failed, one a line.
pub(crate) fn engine_back_trace(error: &wasmtime::Error) -> String {
    let mut trace = String::new();
    if let Some(frames) = error.downcast_ref::<wasmtime::WasmBacktrace>() {
        let frames = frames.frames().iter().take(ENGINE_FRAMES_MAX);
        for (depth, frame) in frames.enumerate() {
            let name = frame
                .func_name()
                .map_or_else(|| format!("function {}", frame.func_index()), str::to_owned);
            let _ = writeln!(trace, "{depth:>4}: {}", sterna_process::Plain(cut(&name)));
        }
    }
    trace
}

fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_BYTES_MAX)]
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
