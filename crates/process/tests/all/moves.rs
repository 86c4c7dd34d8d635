//! Moves of the toy kind, end to end: wherever it is caught and however it travels, what it does is the same.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use proptest::prelude::*;
use sterna_process::toy::{DATA, Toy, ToyProgram};
use sterna_process::*;

use crate::{LONG, key, paused};

const SUMMANDS: u32 = 300;
/// Instructions until the program ends; the tests stop it at most a little later.
const INSTRUCTIONS: u64 = 2400;

fn program() -> Program {
    Program::from_bytes(ToyProgram::sums(SUMMANDS).encode())
}

fn expected_output() -> String {
    (1..=u64::from(SUMMANDS))
        .map(|i| format!("{}\n", i * (i + 1) / 2))
        .collect()
}

/// A file as standard output, shared by all stations of a journey.
struct Output(File);

impl Output {
    fn new() -> Self {
        Self(tempfile::tempfile().unwrap())
    }

    fn resources(&self) -> Resources {
        let output = Some(OwnedFd::from(self.0.try_clone().unwrap()));
        Resources {
            stdio: Stdio {
                output,
                ..Stdio::default()
            },
            ..Resources::default()
        }
    }

    fn text(mut self) -> String {
        let mut text = String::new();
        self.0.rewind().unwrap();
        self.0.read_to_string(&mut text).unwrap();
        text
    }
}

fn spawn(toy: Toy, output: &Output) -> Running {
    let environment = Environment {
        resources: output.resources(),
        ..Environment::default()
    };
    toy.spawn(Identity::new(), &program(), environment).unwrap()
}

/// All of a paused process's memory.
fn contents(memory: &dyn Memory) -> PageSet {
    let layout = memory.layout();
    let runs = layout
        .regions()
        .iter()
        .filter_map(|region| PageRun::whole(region.id, region.pages));
    PageSet::read_from(memory, &runs.collect::<Vec<_>>()).unwrap()
}

/// How pages get from one side to the other.
#[derive(Debug, Clone, Copy)]
enum Way {
    File,
    StopAndCopy,
    PreCopy,
    PostCopy,
}

/// Moves a process that runs, and says where it is caught next.
fn hop(running: Running, way: Way, next: Toy, output: &Output) -> Running {
    match way {
        Way::File => through_a_file(running, next, output),
        Way::StopAndCopy => stop_and_copy(running, next, output),
        Way::PreCopy => pre_copy(running, next, output),
        Way::PostCopy => post_copy(running, next, output),
    }
}

fn through_a_file(running: Running, next: Toy, output: &Output) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("toy.image");
    let mut paused = paused(running);
    let image = paused.capture().unwrap();
    let memory = paused.memory();
    let program = program();
    ImageWriter::new(&image, &key(1))
        .with_program(&PackedProgram::pack(program.bytes().unwrap()).unwrap())
        .write_file(&path, &mut ChangedPages::of(&*memory).unwrap())
        .unwrap();
    paused.discard();

    let file = ImageFile::open(&path, &ReadLimits::default(), &key(1)).unwrap();
    let program = Program::from_bytes(file.program().unwrap().unwrap());
    assert_eq!(program.id(), file.header().program);
    let incoming = next.prepare(&program, &file.header().layout).unwrap();
    file.install_into(&*incoming.memory()).unwrap();
    incoming
        .finish(file.image().clone(), output.resources(), None)
        .unwrap()
        .resume()
}

fn stop_and_copy(running: Running, next: Toy, output: &Output) -> Running {
    let control = running.control.clone();
    let paused = paused(running);
    assert_eq!(control.stats().state, State::Paused);
    assert_eq!(control.wait(Duration::ZERO), None);
    let arrived = carry(paused, next, output);
    assert_eq!(control.wait(LONG), Some(Exit::Departed));
    arrived
}

fn carry(mut paused: Box<dyn Paused>, next: Toy, output: &Output) -> Running {
    let image = paused.capture().unwrap();
    assert_eq!(paused.capture().unwrap().header, image.header);
    let memory = paused.memory();
    let incoming = next.prepare(&program(), &image.header.layout).unwrap();
    PageSet::read_from(&*memory, &memory.changed().unwrap())
        .unwrap()
        .install_into(&*incoming.memory())
        .unwrap();
    let arrived = incoming.finish(image, output.resources(), None).unwrap();
    assert!(
        contents(&*arrived.memory())
            .iter()
            .eq(contents(&*memory).iter())
    );
    paused.discard();
    arrived.resume()
}

fn pre_copy(running: Running, next: Toy, output: &Output) -> Running {
    let memory = running.process.memory();
    let layout = memory.layout();
    let incoming = next.prepare(&program(), &layout).unwrap();
    let target = incoming.memory();
    memory.start_tracking().unwrap();
    assert!(matches!(
        memory.start_tracking(),
        Err(MemoryError::AlreadyTracking)
    ));
    let mut round = memory.changed().unwrap();
    for _ in 0..3 {
        PageSet::read_from(&*memory, &round)
            .unwrap()
            .install_into(&*target)
            .unwrap();
        round = memory.take_dirty().unwrap();
    }
    memory.put_back(&round).unwrap(); // as if this round could not be sent
    let mut paused = paused(running);
    let last = memory.take_dirty().unwrap();
    memory.stop_tracking().unwrap();
    PageSet::read_from(&*memory, &last)
        .unwrap()
        .install_into(&*target)
        .unwrap();
    let image = paused.capture().unwrap();
    let arrived = incoming.finish(image, output.resources(), None).unwrap();
    assert!(
        contents(&*arrived.memory())
            .iter()
            .eq(contents(&*memory).iter())
    );
    paused.discard();
    arrived.resume()
}

/// Pages of a memory on the same machine, sent when they are asked for, one unasked with each.
struct Near {
    memory: Arc<dyn Memory>,
    missing: PageRuns,
    /// Not yet sent.
    left: Mutex<PageRuns>,
    sink: OnceLock<Weak<dyn PageSink>>,
}

impl Near {
    fn new(memory: Arc<dyn Memory>) -> Self {
        let missing = memory.changed().unwrap();
        Self {
            memory,
            left: Mutex::new(missing.clone()),
            missing,
            sink: OnceLock::new(),
        }
    }
}

impl PageSource for Near {
    fn missing(&self) -> &PageRuns {
        &self.missing
    }

    fn request(&self, runs: &[PageRun]) -> Result<(), PageSourceError> {
        let requested: PageRuns = runs.iter().copied().collect();
        let mut left = self.left.lock().unwrap();
        let wanted = requested.difference(&requested.difference(&left)); // requested and not yet sent
        let unasked = left
            .last()
            .and_then(|last| PageRun::page(last.region(), last.end() - 1));
        let sent: PageRuns = wanted.iter().copied().chain(unasked).collect();
        *left = left.difference(&sent);
        let sink = self.sink.get().and_then(Weak::upgrade).unwrap();
        for &run in sent.iter() {
            let mut contents = vec![0; run.bytes() as usize];
            self.memory.read(&[run], &mut contents).unwrap();
            let contents = contents
                .iter()
                .any(|byte| *byte != 0)
                .then_some(&contents[..]);
            sink.put(run, contents).unwrap();
        }
        if left.is_empty() && !sent.is_empty() {
            sink.end(Ok(()));
        }
        Ok(())
    }

    fn connect(&self, sink: Weak<dyn PageSink>) -> Result<(), PageSourceError> {
        if self.missing.is_empty()
            && let Some(sink) = sink.upgrade()
        {
            sink.end(Ok(()));
        }
        self.sink.set(sink).unwrap();
        Ok(())
    }
}

fn post_copy(running: Running, next: Toy, output: &Output) -> Running {
    let mut paused = paused(running);
    let image = paused.capture().unwrap();
    let incoming = next.prepare(&program(), &image.header.layout).unwrap();
    let rest = Near::new(paused.memory());
    let arrived = incoming
        .finish(image, output.resources(), Some(Box::new(rest)))
        .unwrap();
    paused.discard(); // its memory lives as long as the source has it
    arrived.resume()
}

fn some_ways() -> impl Strategy<Value = Vec<(u64, Way)>> {
    let way = prop_oneof![
        Just(Way::File),
        Just(Way::StopAndCopy),
        Just(Way::PreCopy),
        Just(Way::PostCopy)
    ];
    proptest::collection::btree_map(0..INSTRUCTIONS, way, 0..6)
        .prop_map(|hops| hops.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_journey_changes_nothing(hops in some_ways()) {
        let toys = hops.iter().map(|&(at, _)| Toy::waiting_after(at)).chain([Toy::new()]);
        let toys: Vec<_> = toys.collect();
        let output = Output::new();
        let mut running = spawn(toys[0], &output);
        for (&(_, way), &next) in hops.iter().zip(&toys[1..]) {
            running = hop(running, way, next, &output);
        }
        prop_assert_eq!(running.control.wait(LONG), Some(Exit::Code(0)));
        prop_assert_eq!(output.text(), expected_output());
    }
}

#[test]
fn it_can_be_moved_while_it_runs_freely() {
    let output = Output::new();
    let mut running = spawn(Toy::new(), &output);
    for _ in 0..200 {
        let control = running.control.clone();
        running = match running.process.pause(LONG) {
            Pausing::Paused(paused) => carry(paused, Toy::new(), &output),
            Pausing::Exited(exit) => {
                assert_eq!(
                    (exit, control.wait(LONG)),
                    (Exit::Code(0), Some(Exit::Code(0)))
                );
                assert_eq!(output.text(), expected_output());
                return;
            }
            Pausing::Refused(_, why) => panic!("{why}"),
        };
    }
    assert_eq!(running.control.wait(LONG), Some(Exit::Code(0)));
    assert_eq!(output.text(), expected_output());
}

#[test]
fn a_clone_and_its_original_both_run() {
    let (output, other) = (Output::new(), Output::new());
    let mut original = paused(spawn(Toy::waiting_after(1000), &output));
    let mut image = original.capture().unwrap();
    image.header.process = ProcessId::random();
    image.header.epoch = Epoch::FIRST;
    let incoming = Toy::new()
        .prepare(&program(), &image.header.layout)
        .unwrap();
    let memory = original.memory();
    PageSet::read_from(&*memory, &memory.changed().unwrap())
        .unwrap()
        .install_into(&*incoming.memory())
        .unwrap();
    let name = image.header.process;
    let mut clone = incoming.finish(image, other.resources(), None).unwrap();
    assert_eq!(clone.capture().unwrap().header.process, name);
    // The original would wait at the same instruction again: let it go on as a toy that does not wait.
    let original = carry(original, Toy::new(), &output);
    for running in [original, clone.resume()] {
        assert_eq!(running.control.wait(LONG), Some(Exit::Code(0)));
    }
    let (one, two) = (output.text(), other.text());
    assert_eq!(one, expected_output());
    assert!(
        one.ends_with(&two) && !two.is_empty(),
        "the clone prints what was left to print"
    );
}

#[test]
fn an_image_needs_what_it_was_made_for() {
    let output = Output::new();
    let mut paused = paused(spawn(Toy::waiting_after(100), &output));
    let image = paused.capture().unwrap();
    let finish = |image: Image, resources: Resources| {
        let incoming = Toy::new()
            .prepare(&program(), &image.header.layout)
            .unwrap();
        incoming.finish(image, resources, None).err()
    };
    let none = Resources::default;

    let mut other = image.clone();
    other.header.kind = Tag::new("wasm");
    assert!(matches!(
        finish(other, none()),
        Some(RestoreError::WrongKind { .. })
    ));

    let mut other = image.clone();
    other.header.program = ProgramId::of(b"");
    assert!(matches!(
        finish(other, none()),
        Some(RestoreError::WrongProgram { .. })
    ));

    let mut other = image.clone();
    other
        .sections
        .push(Section::encode(Tag::new("toy.sound"), 1, &1_u8).unwrap())
        .unwrap();
    let error = finish(other, none()).unwrap();
    assert!(matches!(
        error,
        RestoreError::Section(SectionError::NotTaken { .. })
    ));

    let mut other = image.clone();
    other.sections = Sections::new();
    let error = finish(other, none()).unwrap();
    assert!(matches!(
        error,
        RestoreError::Section(SectionError::Missing { .. })
    ));

    let limits = Limits {
        memory_bytes_max: 4096,
        ..Limits::default()
    };
    let error = finish(image.clone(), Resources { limits, ..none() }).unwrap();
    assert!(matches!(error, RestoreError::OverLimit { limit: 4096, .. }));

    let layout = MemoryLayout::new(vec![]).unwrap();
    let error = Toy::new().prepare(&program(), &layout).err().unwrap();
    assert!(matches!(error, PrepareError::Layout { .. }));
    assert!(finish(image, none()).is_none());
    paused.discard();
}

#[test]
fn only_what_the_program_does_not_give_is_changed() {
    let output = Output::new();
    let process = paused(spawn(Toy::waiting_after(0), &output));
    assert!(process.memory().changed().unwrap().is_empty());
    // After 8 instructions the first data word has been written, in a page that began full of ones.
    let process = paused(spawn(Toy::waiting_after(8), &output));
    assert_eq!(
        *process.memory().changed().unwrap(),
        [PageRun::page(DATA, 0).unwrap()]
    );
}

#[test]
fn pages_that_are_written_are_dirty_until_they_are_taken() {
    let output = Output::new();
    let image_of = |paused: &mut Box<dyn Paused>| paused.capture().unwrap();
    let mut start = paused(spawn(Toy::waiting_after(0), &output));
    let image = image_of(&mut start);
    let incoming = Toy::waiting_after(500)
        .prepare(&program(), &image.header.layout)
        .unwrap();
    let arrived = incoming.finish(image, output.resources(), None).unwrap();
    start.discard();

    let memory = arrived.memory();
    let before = contents(&*memory);
    assert!(matches!(memory.take_dirty(), Err(MemoryError::NotTracking)));
    memory.start_tracking().unwrap();
    assert!(memory.take_dirty().unwrap().is_empty());
    let stopped = paused(arrived.resume());
    let dirty = memory.take_dirty().unwrap();
    let after = contents(&*memory);
    let written: PageRuns = before
        .iter()
        .filter(|&(region, page, old)| after.page(region, page) != Some(old))
        .filter_map(|(region, page, _)| PageRun::page(region, page))
        .collect();
    assert!(written.page_count() > 2 && written.difference(&dirty).is_empty());

    assert!(memory.take_dirty().unwrap().is_empty());
    memory.put_back(&dirty[..1]).unwrap();
    assert_eq!(*memory.take_dirty().unwrap(), dirty[..1]);
    memory.stop_tracking().unwrap();
    assert!(matches!(
        memory.put_back(&dirty),
        Err(MemoryError::NotTracking)
    ));
    stopped.discard();
}

#[test]
fn pages_that_are_not_there_or_of_the_wrong_length_are_refused() {
    let output = Output::new();
    let stopped = paused(spawn(Toy::waiting_after(0), &output));
    let memory = stopped.memory();
    let page = |page| [PageRun::page(DATA, page).unwrap()];
    let mut buffer = [0; PAGE_SIZE];
    assert!(matches!(
        memory.read(&page(3), &mut buffer),
        Err(MemoryError::OutOfRange { .. })
    ));
    assert!(matches!(
        memory.install(&page(40), &buffer),
        Err(MemoryError::OutOfRange { .. })
    ));
    assert!(matches!(
        memory.read(&page(0), &mut buffer[1..]),
        Err(MemoryError::BufferLength {
            expected: 4096,
            got: 4095
        })
    ));
    memory.install(&page(39), &buffer).unwrap();
    assert_eq!(
        memory.layout().region(DATA).unwrap().pages,
        40,
        "installing makes it longer"
    );
    stopped.discard();
}
