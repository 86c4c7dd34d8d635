//! Confinement, seen from outside: a program confines itself and tries what it can still do.

use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use sterna_sys::spawn::{Exit, Spawn};

const SOON: Duration = Duration::from_secs(60);

/// Runs a case of the trial program with a file of its own; what it wrote and how it ended. `None`, with a note, if this
/// kernel cannot start it.
fn trial(case: &str, file: Option<&std::fs::File>) -> Option<(String, Exit)> {
    let (mut output, stdout) = std::io::pipe().unwrap();
    let mut spawn = Spawn::new(env!("CARGO_BIN_EXE_sterna-sys-trial"))
        .arg(case)
        .stdout(stdout.try_clone().unwrap())
        .stderr(std::io::stderr().as_fd().try_clone_to_owned().unwrap())
        .die_with_this_thread();
    drop(stdout);
    if let Some(file) = file {
        spawn = spawn.descriptor("FILE", file.try_clone().unwrap().into());
    }
    let child = match spawn.start() {
        Err(error) if error.source.raw_os_error() == Some(libc::ENOEXEC) => {
            println!(
                "SKIPPED: an emulator runs this test, and the kernel cannot start its program"
            );
            return None;
        }
        started => started.unwrap(),
    };
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    let finished = child.finish(SOON).unwrap();
    assert!(!finished.timed_out, "{text}");
    Some((text, finished.exit))
}

/// The lines after the report; `None`, with a note, if this kernel does not confine in full.
fn confined_lines(text: &str) -> Option<Vec<&str>> {
    let (report, rest) = text.split_once('\n').expect("a report");
    if report != "applied: full" {
        println!("skipped: this kernel does not confine in full: {report}");
        return None;
    }
    Some(rest.lines().collect())
}

#[test]
fn nothing_outside_can_be_reached() {
    let Some((text, exit)) = trial("forbidden", None) else {
        return;
    };
    assert!(exit.status.success(), "{text}");
    let Some(lines) = confined_lines(&text) else {
        return;
    };
    assert_eq!(lines.len(), 23);
    for line in lines {
        assert!(line.ends_with(": PermissionDenied"), "{line}");
    }
}

#[test]
fn threads_memory_and_open_descriptors_still_work() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"some input").unwrap();
    file.rewind().unwrap();
    let Some((text, exit)) = trial("allowed", Some(&file)) else {
        return;
    };
    assert!(exit.status.success(), "{text}");
    let Some(lines) = confined_lines(&text) else {
        return;
    };
    let (last, lines) = lines.split_last().unwrap();
    assert_eq!(*last, "input was \"some input\"");
    for line in lines {
        assert!(
            line.ends_with(": done") || line.ends_with(": true") || *line == "chance: 100",
            "{line}"
        );
    }
    let mut written = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut written).unwrap();
    assert_eq!(written, "confined");
}

#[test]
fn memory_ends_at_its_limit() {
    let Some((text, exit)) = trial("memory", None) else {
        return;
    };
    if text.contains("address space: accepted but not in force") {
        return println!("skipped: {text}");
    }
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "under the limit: true",
            "over the limit: false",
            "last step"
        ]
    );
    assert_eq!(exit.status.signal(), Some(libc::SIGABRT));
    assert!(!exit.status.core_dumped());
}

#[test]
fn cpu_time_ends_at_its_limit() {
    let Some((text, exit)) = trial("cpu", None) else {
        return;
    };
    assert!(text.starts_with("applied: "));
    assert!(
        matches!(exit.status.signal(), Some(libc::SIGXCPU | libc::SIGKILL)),
        "{exit:?}"
    );
    let used = exit.cpu_user + exit.cpu_system;
    // The limit is counted in clock ticks, each as if it had been used to the full: on a busy machine too much.
    assert!(
        used >= Duration::from_millis(300) && used < Duration::from_secs(3),
        "{used:?}"
    );
}

#[test]
fn files_end_at_their_limit() {
    let file = tempfile::tempfile().unwrap();
    let Some((text, exit)) = trial("file", Some(&file)) else {
        return;
    };
    assert!(
        text.contains("under the limit: done") && !text.contains("over the limit: done"),
        "{text}"
    );
    assert_eq!(exit.status.signal(), Some(libc::SIGXFSZ));
    assert_eq!(file.metadata().unwrap().len(), 1000);
}

#[test]
fn executable_memory_and_further_calls_can_be_had() {
    let Some((text, exit)) = trial("executable", None) else {
        return;
    };
    assert!(exit.status.success(), "{text}");
    let Some(lines) = confined_lines(&text) else {
        return;
    };
    assert_eq!(
        lines,
        [
            "executable memory: true",
            "also allowed: true",
            "denied: true"
        ]
    );
}

#[test]
fn thread_that_ran_before_is_reported_and_has_no_more_system_calls() {
    let Some((text, exit)) = trial("late", None) else {
        return;
    };
    assert!(exit.status.success(), "{text}");
    if text.contains("no landlock") || text.contains("no system calls") {
        return println!("skipped: {text}");
    }
    let partial = "applied: partial; drop of capabilities in part: they are gone from one of 2 threads; \
                   landlock in part: it holds for one of 2 threads";
    assert!(text.starts_with(partial), "{text}");
    assert!(
        text.ends_with("open by the older thread: PermissionDenied\n"),
        "{text}"
    );
}
