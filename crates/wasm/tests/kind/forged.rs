//! Images that no process made: an error, never a panic, and nothing runs.

use std::sync::OnceLock;
use std::time::Duration;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use sterna_process::image::{Image, ImageHeader, ReadLimits, Section, Sections};
use sterna_process::{
    Exit, Kind, MemoryLayout, PageSet, PrepareError, Region, RegionId, RestoreError, Tag,
};
use sterna_wasm::{Frame, Value};

use crate::rig::{Captured, Job, capture, ended, mobile, pause, until};

const FRAMES: Tag = Tag::new("frames");
const STATE: Tag = Tag::new("state");

/// As it is written: whoever changes that must count its version up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    stages: Vec<Stage>,
    begun: bool,
    depth: i32,
    globals: Vec<(u32, Value)>,
    tables: Vec<(u32, Vec<Value>)>,
    dropped_data: Vec<u32>,
    dropped_elements: Vec<u32>,
    memories: Vec<u64>,
    started_ns: u64,
    cpu_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Stage {
    Start,
    Call {
        export: String,
        args: Vec<Value>,
        print: bool,
    },
}

const PROGRAM: &str = r#"(module
    (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
    (memory (export "memory") 1 10)
    (table $t 3 10 funcref)
    (elem (i32.const 0) func $inner)
    (elem $e func $inner)
    (data $d "passive")
    (global $g (mut i64) (i64.const 5))
    (global $constant i32 (i32.const 5))
    (func $inner (param i32 f64) (result i64)
        (local $x i64)
        (loop $more
            (local.set $x (i64.add (local.get $x) (i64.extend_i32_u (local.get 0))))
            (global.set $g (local.get $x))
            (drop (call $yield))
            (br_if $more (i32.ne (i32.const 0) (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
        (local.get $x))
    (func (export "run") (param i32) (result i64)
        (table.set $t (i32.const 2) (ref.func $inner))
        (memory.init $d (i32.const 0) (i32.const 0) (i32.const 7))
        (data.drop $d)
        (table.init $t $e (i32.const 1) (i32.const 0) (i32.const 1))
        (elem.drop $e)
        (i64.const 17)
        (call_indirect $t (param i32 f64) (result i64)
            (local.get 0) (f64.const 1.5) (i32.const 2))
        (i64.add)))"#;

fn job() -> Job {
    Job::wat(PROGRAM).calling("run").with(&["-1"])
}

/// The program in the middle of its work: two frames.
fn genuine() -> &'static Captured {
    static GENUINE: OnceLock<Captured> = OnceLock::new();
    GENUINE.get_or_init(|| {
        let running = job().start();
        until(|| running.control.stats().cpu_time > Duration::from_millis(2));
        let mut paused = pause(running.process).unwrap();
        let captured = capture(&mut *paused);
        paused.discard();
        captured
    })
}

fn state() -> State {
    section(&genuine().image, &STATE)
}

fn frames() -> Vec<Frame<Value>> {
    section(&genuine().image, &FRAMES)
}

fn section<T: serde::de::DeserializeOwned>(image: &Image, tag: &Tag) -> T {
    let found = image.sections.iter().find(|section| section.tag() == tag);
    found.unwrap().decode().unwrap()
}

/// The genuine image with another section.
fn with<T: Serialize>(tag: &Tag, value: &T) -> Captured {
    let mut captured = genuine().clone();
    let mut sections = Sections::new();
    for section in captured.image.sections.iter() {
        let section = if section.tag() == tag {
            Section::encode(tag.clone(), section.version(), value).unwrap()
        } else {
            section.clone()
        };
        sections.push(section).unwrap();
    }
    captured.image.sections = sections;
    captured
}

fn refusal(captured: Captured) -> RestoreError {
    match job().arrive(captured) {
        Err(error) => error,
        Ok(_) => panic!("it is taken"),
    }
}

#[track_caller]
fn inconsistent(captured: Captured) {
    let error = refusal(captured);
    assert!(
        matches!(error, RestoreError::Inconsistent { .. }),
        "{error:?}"
    );
}

#[test]
fn the_genuine_one_goes_on() {
    assert_eq!(frames().len(), 2, "{:?}", frames());
    let running = job().arrive(genuine().clone()).unwrap().resume();
    assert_eq!(running.control.wait(Duration::from_millis(5)), None);
    running.control.kill();
    assert_eq!(ended(&running.control), Exit::Killed);
    // What this file knows of the format is what is written.
    let again = with(&STATE, &state());
    assert_eq!(again.image, genuine().image);
}

#[test]
fn of_another_kind_or_program() {
    let mut captured = genuine().clone();
    captured.image.header.kind = Tag::new("container");
    assert!(matches!(refusal(captured), RestoreError::WrongKind { .. }));
    let mut captured = genuine().clone();
    captured.image.header.program = sterna_process::ProgramId::of(b"another");
    assert!(matches!(
        refusal(captured),
        RestoreError::WrongProgram { .. }
    ));
}

#[test]
fn sections_missing_left_over_and_of_other_versions() {
    for missing in ["frames", "state", "wasi"] {
        let mut captured = genuine().clone();
        captured
            .image
            .sections
            .take(&Tag::new(missing), 0..=9)
            .unwrap()
            .unwrap();
        assert!(
            matches!(refusal(captured), RestoreError::Section(_)),
            "{missing}"
        );
    }
    let mut captured = genuine().clone();
    let more = Section::encode(Tag::new("more"), 1, &1_u8).unwrap();
    captured.image.sections.push(more).unwrap();
    assert!(matches!(refusal(captured), RestoreError::Section(_)));
    let mut captured = genuine().clone();
    captured.image.sections.take(&STATE, 0..=9).unwrap();
    let newer = Section::encode(STATE, 99, &state()).unwrap();
    captured.image.sections.push(newer).unwrap();
    assert!(matches!(refusal(captured), RestoreError::Section(_)));
    inconsistent(with(&Tag::new("wasi"), &None::<()>));
}

#[test]
fn frames_that_do_not_fit() {
    let forged = |change: &dyn Fn(&mut Vec<Frame<Value>>)| {
        let mut frames = frames();
        change(&mut frames);
        with(&FRAMES, &frames)
    };
    let changes: [&dyn Fn(&mut Vec<Frame<Value>>); 19] = [
        &|f| f[0].function = 0,
        &|f| f[0].function = 3,
        &|f| f[0].function = u32::MAX,
        &|f| f[1].function = f[0].function,
        &|f| f[0].offset += 1,
        &|f| f[0].offset = u32::MAX,
        &|f| f[1].offset = 0,
        &|f| f[1].after = false,
        &|f| f[1].stack.clear(),
        &|f| f[1].stack[0] = Value::I32(1),
        &|f| f[1].stack[0] = Value::Function(None),
        &|f| f[1].stack[0] = Value::Function(Some(99)),
        &|f| {
            f[0].locals
                .iter_mut()
                .for_each(|local| local.1 = Value::F64(0))
        },
        &|f| {
            f[0].locals
                .iter_mut()
                .for_each(|local| local.1 = Value::V128(0))
        },
        &|f| f.clear(),
        &|f| f.reverse(),
        &|f| drop(f.remove(0)),
        &|f| f.extend(f.clone()),
        &|f| f.insert(0, f[0].clone()),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        println!("change {number}");
        inconsistent(forged(change));
    }
}

#[test]
fn state_that_does_not_fit() {
    let forged = |change: &dyn Fn(&mut State)| {
        let mut state = state();
        change(&mut state);
        with(&STATE, &state)
    };
    let export = |name: &'static str, args: Vec<Value>| {
        move |state: &mut State| {
            state.stages[0] = Stage::Call {
                export: name.into(),
                args: args.clone(),
                print: true,
            };
        }
    };
    let changes: [&dyn Fn(&mut State); 28] = [
        &|s| s.stages.clear(),
        &|s| s.stages[0] = Stage::Start,
        &export("none", vec![]),
        &export("sterna:f1", vec![]),
        &export("memory", vec![]),
        &export("run", vec![]),
        &export("run", vec![Value::I64(1)]),
        &export("run", vec![Value::Function(Some(77))]),
        &|s| s.stages.push(Stage::Start),
        &|s| s.begun = false,
        &|s| s.depth = i32::MAX,
        &|s| s.globals.clear(),
        &|s| s.globals[0].1 = Value::I32(1),
        &|s| s.globals.push((1, Value::I32(1))),
        &|s| s.globals[0].0 = 77,
        &|s| s.tables.clear(),
        &|s| s.tables[0].0 = 77,
        &|s| s.tables.push(s.tables[0].clone()),
        &|s| s.tables[0].1.truncate(1),
        &|s| s.tables[0].1.resize(11, Value::Function(None)),
        &|s| s.tables[0].1[0] = Value::I32(1),
        &|s| s.tables[0].1[0] = Value::NullExternal,
        &|s| s.tables[0].1[0] = Value::Function(Some(77)),
        &|s| s.dropped_data = vec![77],
        &|s| s.dropped_elements = vec![77],
        &|s| s.memories.clear(),
        &|s| s.memories[0] = 0,
        &|s| s.memories[0] = 1 << 60,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        println!("change {number}");
        inconsistent(forged(change));
    }
    let many = forged(&|s| s.tables[0].1.resize(11_000_000, Value::Function(None)));
    assert!(matches!(refusal(many), RestoreError::OverLimit { .. }));
}

#[test]
fn memories_of_impossible_lengths() {
    let layout = |pages, pages_max| {
        let id = RegionId(0);
        let name = "memory 0".to_owned();
        MemoryLayout::new(vec![Region {
            id,
            name,
            pages,
            pages_max,
        }])
        .unwrap()
    };
    for (pages, pages_max) in [(0, 160), (161, 161), (1 << 50, 1 << 50)] {
        let refused = mobile()
            .prepare(&job().program, &layout(pages, pages_max))
            .err();
        assert!(
            matches!(refused, Some(PrepareError::Layout { .. })),
            "{refused:?}"
        );
    }
    let no_memory = mobile()
        .prepare(&job().program, &MemoryLayout::default())
        .err();
    assert!(
        matches!(no_memory, Some(PrepareError::Layout { .. })),
        "{no_memory:?}"
    );

    // Prepared for what it was, and then it says something else.
    for (pages, memories) in [(32, 2), (160, 10), (32, 1), (16, 2), (1 << 40, 1 << 36)] {
        let mut state = state();
        state.memories[0] = memories;
        let mut captured = with(&STATE, &state);
        let arriving = mobile().prepare(&job().program, &genuine().image.header.layout);
        captured.image.header.layout = layout(pages, pages.max(160));
        let finished = arriving
            .unwrap()
            .finish(captured.image, job().resources(), None);
        let possible = pages <= 160 && pages == memories * 16;
        assert_eq!(
            finished.is_ok(),
            possible,
            "{pages} {memories}: {:?}",
            finished.err()
        );
    }
}

/// The image part as it is encoded.
#[derive(Serialize, Deserialize)]
struct Head {
    header: ImageHeader,
    sections: Vec<(Tag, u16, u64, [u8; 32])>,
}

/// Encodes `image` with the contents of its sections changed, all sums right.
fn encode_with(image: &Image, change: impl Fn(&Tag, &mut Vec<u8>)) -> Vec<u8> {
    let encoded = image.encode().unwrap();
    let head_bytes = u32::from_le_bytes(encoded[12..16].try_into().unwrap()) as usize;
    let (head, mut rest) = encoded[48..].split_at(head_bytes);
    let mut head: Head = postcard::from_bytes(head).unwrap();
    let mut contents = Vec::new();
    for (tag, _, length, hash) in &mut head.sections {
        let (section, more) = rest.split_at(*length as usize);
        rest = more;
        let mut section = section.to_vec();
        change(tag, &mut section);
        *length = section.len() as u64;
        *hash = *blake3::hash(&section).as_bytes();
        contents.extend(section);
    }
    let head = postcard::to_stdvec(&head).unwrap();
    let mut bytes = encoded[..12].to_vec();
    bytes.extend((head.len() as u32).to_le_bytes());
    bytes.extend(blake3::hash(&head).as_bytes());
    bytes.extend(head);
    bytes.extend(contents);
    bytes
}

/// Decodes it and brings it to life, as far as that goes.
fn try_all(bytes: &[u8]) {
    let Ok(image) = Image::decode(bytes, &ReadLimits::default()) else {
        return;
    };
    let Ok(arriving) = mobile().prepare(&job().program, &image.header.layout) else {
        return;
    };
    let pages: &PageSet = &genuine().pages;
    pages.install_into(&*arriving.memory()).unwrap();
    let Ok(paused) = arriving.finish(image, job().resources(), None) else {
        return;
    };
    let running = paused.resume();
    running.control.wait(Duration::from_micros(200));
    running.control.kill();
    ended(&running.control);
}

#[derive(Debug, Clone)]
enum Change {
    Set(u8),
    Insert(u8),
    Remove,
    Cut,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(
        section in prop::sample::select(vec!["frames", "state", "wasi", "description"]),
        changes in prop::collection::vec(
            (
                any::<prop::sample::Index>(),
                prop_oneof![
                    6 => any::<u8>().prop_map(Change::Set),
                    1 => any::<u8>().prop_map(Change::Insert),
                    1 => Just(Change::Remove),
                    1 => Just(Change::Cut),
                ],
            ),
            1..4,
        ),
    ) {
        let bytes = encode_with(&genuine().image, |tag, contents| {
            if tag.as_str() != section {
                return;
            }
            for (at, change) in &changes {
                if contents.is_empty() {
                    return;
                }
                let at = at.index(contents.len());
                match *change {
                    Change::Set(byte) => contents[at] = byte,
                    Change::Insert(byte) => contents.insert(at, byte),
                    Change::Remove => drop(contents.remove(at)),
                    Change::Cut => contents.truncate(at),
                }
            }
        });
        try_all(&bytes);
    }

    #[test]
    fn any_flipped_bit_is_noticed(at: prop::sample::Index, bit in 0_u8..8) {
        let mut bytes = genuine().image.encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(Image::decode(&bytes, &ReadLimits::default()).is_err());
        prop_assert!(Image::decode(&bytes[..at], &ReadLimits::default()).is_err());
    }
}
