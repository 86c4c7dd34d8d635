//! Child processes.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use sterna_threads::process::{Child, output, status};
use sterna_threads::{Cancelled, Runtime, scope, spawn, yield_now};

use crate::on_all;

fn shell(text: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", text]);
    command
}

#[test]
fn how_they_end() {
    on_all(|| {
        assert_eq!(status(&mut shell("exit 7")).unwrap().code(), Some(7));
        let killed = status(&mut shell("kill -TERM $$")).unwrap();
        assert_eq!(killed.signal(), Some(15));
        let nothing = status(&mut Command::new("/no/such/program"));
        assert_eq!(nothing.unwrap_err().kind(), ErrorKind::NotFound);
        let mut child = Child::spawn(&mut shell("exit 3")).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(3));
        // Asked again it says the same.
        assert_eq!(child.wait().unwrap().code(), Some(3));
    });
}

#[test]
fn both_outputs_are_read_at_once() {
    on_all(|| {
        let text =
            "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2";
        let got = output(&mut shell(text)).unwrap();
        assert!(got.status.success());
        assert_eq!((got.stdout.len(), got.stderr.len()), (300_000, 600_000));
    });
    // Also where there is no runtime.
    let got = output(&mut shell("echo a; echo b >&2")).unwrap();
    assert_eq!((&*got.stdout, &*got.stderr), (&b"a\n"[..], &b"b\n"[..]));
}

#[test]
fn to_and_fro_through_pipes() {
    on_all(|| {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Child::spawn(&mut command).unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        for round in 0..100_u8 {
            input.write_all(&[round; 100]).unwrap();
            let mut got = [0; 100];
            output.read_exact(&mut got).unwrap();
            assert_eq!(got, [round; 100]);
        }
        drop(input);
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn waiting_for_input_that_never_comes() {
    on_all(|| {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped());
        let mut child = Child::spawn(&mut command).unwrap();
        let input = child.stdin.take();
        let short = Duration::from_millis(5);
        assert_eq!(child.wait_timeout(short).unwrap(), None);
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        let ended = child.wait_timeout(Duration::from_secs(100)).unwrap();
        assert_eq!(ended.unwrap().signal(), Some(9));
        drop(input);
    });
}

#[test]
fn cancelled_while_it_waits() {
    on_all(|| {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped());
        let mut child = Child::spawn(&mut command).unwrap();
        // Kept from the wait, which would close it.
        let input = child.stdin.take();
        let waits = spawn(move || child.wait());
        yield_now();
        waits.cancel();
        assert!(waits.join().unwrap_err().is::<Cancelled>());
        drop(input);
    });
}

#[test]
fn cancelled_while_its_outputs_are_read() {
    on_all(|| {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Child::spawn(&mut command).unwrap();
        let input = child.stdin.take();
        let waits = spawn(move || child.wait_with_output());
        yield_now();
        waits.cancel();
        assert!(waits.join().unwrap_err().is::<Cancelled>());
        drop(input);
    });
}

#[test]
fn a_process_that_only_a_cancelled_thread_knew_of_is_ended() {
    on_all(|| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(writer);
        let waits = spawn(move || status(&mut command));
        yield_now();
        waits.cancel();
        assert!(waits.join().unwrap_err().is::<Cancelled>());
        // Nobody has the other end any more.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn waiting_closes_the_input_that_was_not_taken() {
    on_all(|| {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped());
        let mut child = Child::spawn(&mut command).unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        assert!(child.stdin.is_some(), "a look leaves it open");
        let ended = child.wait_timeout(Duration::from_secs(100)).unwrap();
        assert!(ended.unwrap().success() && child.stdin.is_none());
    });
}

#[test]
fn many_at_once_and_nobody_else_waits() {
    let runtime = Runtime::user().unwrap();
    runtime.run(|| {
        scope(|scope| {
            let children: Vec<_> = (0..30)
                .map(|code| scope.spawn(move || status(&mut shell(&format!("exit {code}")))))
                .collect();
            for (code, child) in children.into_iter().enumerate() {
                assert_eq!(child.join().unwrap().unwrap().code(), Some(code as i32));
            }
        });
    });
}
