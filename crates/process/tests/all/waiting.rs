//! The toy while it waits, is watched and is killed.

use std::io::{PipeReader, Read, pipe};
use std::os::fd::OwnedFd;
use std::time::Duration;

use sterna_process::toy::{Instruction, Toy, ToyProgram};
use sterna_process::*;

use crate::{LONG, paused};

/// A program that prints 7 for ever, and the other end of its standard output.
fn endless_printer() -> (Program, Resources, PipeReader) {
    let code = vec![
        Instruction::Set(0, 7),
        Instruction::Set(1, 8),
        Instruction::Print(0),
        Instruction::JumpIfLess(0, 1, 2),
    ];
    let program = ToyProgram {
        code,
        data: vec![],
        data_pages: 0,
        data_pages_max: 0,
    };
    let (reader, writer) = pipe().unwrap();
    let stdio = Stdio {
        output: Some(OwnedFd::from(writer)),
        ..Stdio::default()
    };
    let resources = Resources {
        stdio,
        ..Resources::default()
    };
    (Program::from_bytes(program.encode()), resources, reader)
}

fn spawn(program: &Program, resources: Resources) -> Running {
    let environment = Environment {
        resources,
        ..Environment::default()
    };
    Toy::new()
        .spawn(Identity::new(), program, environment)
        .unwrap()
}

/// Looks until the process waits, which needs no more than that its pipe is full.
fn until_it_waits(control: &Control) {
    while control.stats().state != State::Waiting {
        assert_eq!(control.wait(Duration::from_millis(1)), None);
    }
}

#[test]
fn a_process_that_waits_can_be_paused_moved_and_goes_on_waiting() {
    let (program, resources, mut reader) = endless_printer();
    let running = spawn(&program, resources);
    until_it_waits(&running.control);
    assert!(
        running
            .control
            .describe(LONG)
            .unwrap()
            .back_trace()
            .to_string()
            .contains("main at 2")
    );

    let mut here = paused(running);
    let image = here.capture().unwrap();
    assert_eq!(image.description.bindings[0].what, "standard output");
    let incoming = Toy::new().prepare(&program, &image.header.layout).unwrap();
    let (_, resources, mut other_reader) = endless_printer();
    let there = incoming.finish(image, resources, None).unwrap().resume();
    here.discard();

    // All that was printed here is whole, and the line that had to wait is printed there.
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "7\n".repeat(text.len() / 2));
    until_it_waits(&there.control);
    let mut line = [0; 2];
    other_reader.read_exact(&mut line).unwrap();
    assert_eq!(line, *b"7\n");
    there.control.kill();
    assert_eq!(there.control.wait(LONG), Some(Exit::Killed));
}

#[test]
fn kill_ends_it_whatever_it_does() {
    // While it runs or waits.
    let (program, resources, _reader) = endless_printer();
    let running = spawn(&program, resources);
    running.control.kill();
    assert_eq!(running.control.wait(LONG), Some(Exit::Killed));
    assert!(matches!(
        running.process.pause(LONG),
        Pausing::Exited(Exit::Killed)
    ));
    assert!(matches!(
        running.control.describe(LONG),
        Err(DescribeError::Ended)
    ));

    // While it is paused: it cannot be captured any more, and does not run on.
    let (program, resources, _reader) = endless_printer();
    let running = spawn(&program, resources);
    let control = running.control.clone();
    let mut paused = paused(running);
    control.kill();
    assert_eq!(control.wait(Duration::ZERO), Some(Exit::Killed));
    assert!(matches!(paused.capture(), Err(CaptureError::Killed)));
    let running = paused.resume();
    assert!(matches!(
        running.process.pause(LONG),
        Pausing::Exited(Exit::Killed)
    ));
    assert_eq!(running.control.stats().state, State::Ended);
}

#[test]
fn a_pause_without_time_is_refused_and_the_process_runs_on() {
    let (program, resources, _reader) = endless_printer();
    let mut running = spawn(&program, resources);
    let mut refused = 0;
    for _ in 0..1000 {
        running = match running.process.pause(Duration::ZERO) {
            Pausing::Refused(process, PauseRefused::TimedOut { .. }) => {
                refused += 1;
                Running {
                    process,
                    control: running.control,
                }
            }
            Pausing::Paused(paused) => paused.resume(),
            _ => panic!("it prints for ever"),
        };
    }
    assert!(refused > 0, "no pause in no time");
    paused(running).discard();
}

#[test]
fn traps_say_what_and_where() {
    let code = vec![Instruction::Set(0, 600), Instruction::Load(1, 0)];
    let program = ToyProgram {
        code,
        data: vec![],
        data_pages: 1,
        data_pages_max: 1,
    };
    let running = spawn(&Program::from_bytes(program.encode()), Resources::default());
    let Some(Exit::Trapped { what, back_trace }) = running.control.wait(LONG) else {
        panic!("word 600 is not in one page");
    };
    assert_eq!(what, "data access out of bounds");
    assert_eq!(back_trace, "   0: main at 1\n");
}

#[test]
fn what_is_no_program_is_refused() {
    let spawn = |program: &Program, resources| {
        let environment = Environment {
            resources,
            ..Environment::default()
        };
        Toy::new()
            .spawn(Identity::new(), program, environment)
            .err()
            .map(|error| error.to_string())
    };
    let none = Resources::default;
    let error = spawn(&Program::from_bytes(*b"\0asm"), none()).unwrap();
    assert_eq!(error, "not a toy program: it does not begin with \"TOY1\"");
    let error = spawn(&Program::installed(ProgramId::of(b"")), none()).unwrap();
    assert_eq!(
        error,
        "program b3:af1349b9f5f9 is not installed here: give its bytes"
    );
    let limits = Limits {
        memory_bytes_max: 8192,
        ..Limits::default()
    };
    let error = spawn(
        &Program::from_bytes(ToyProgram::sums(1).encode()),
        Resources { limits, ..none() },
    );
    assert_eq!(
        error.unwrap(),
        "the program needs 16384 bytes of memory, 8192 are allowed: raise the limit"
    );
}
