//! What belongs to the kernel thread or to the whole process, and so to all threads: exits, signals, the standard
//! library's thread-locals and locks.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sterna_threads::io::UnixStream;
use sterna_threads::sync::channel::bounded;
use sterna_threads::{Implementation, Runtime, park, sleep, spawn, yield_now};

use crate::{CHILD, IMPLEMENTATIONS, in_child, on_all};

/// Says when it is dropped.
struct Says(&'static str);

impl Drop for Says {
    fn drop(&mut self) {
        println!("{}", self.0);
    }
}

#[test]
fn an_exit_runs_no_destructors() {
    if let Some((success, text)) = in_child("shared::an_exit_runs_no_destructors") {
        assert!(!success && text.contains("exits"), "{text}");
        assert!(!text.contains("dropped"), "{text}");
        return;
    }
    let runtime = Runtime::builder(Implementation::Hybrid).workers(2).build();
    runtime.unwrap().run(|| {
        for _ in 0..10 {
            drop(spawn(|| {
                let _says = Says("dropped");
                park();
            }));
        }
        (0..10).for_each(|_| yield_now());
        let exits = spawn(|| {
            let _says = Says("dropped");
            println!("exits");
            std::process::exit(1)
        });
        let _: Result<(), _> = exits.join();
    });
}

/// To be stopped and to go on interrupts all calls of the kernel that wait.
#[test]
fn a_process_that_was_stopped_goes_on() {
    let test = "shared::a_process_that_was_stopped_goes_on";
    if std::env::var_os(CHILD).is_none() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, test);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let pid = Pid::from_child(&child);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in IMPLEMENTATIONS {
            assert!(lines.any(|line| line.unwrap().ends_with("waits")));
            for _ in 0..20 {
                kill_process(pid, Signal::STOP).unwrap();
                kill_process(pid, Signal::CONT).unwrap();
            }
            child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        }
        lines.for_each(drop);
        assert!(child.wait().unwrap().success());
        return;
    }
    for &implementation in IMPLEMENTATIONS {
        let runtime = Runtime::builder(implementation).workers(2).build().unwrap();
        let (mut one, mut two) = UnixStream::pair().unwrap();
        let reads = runtime.run(|| spawn(move || one.read(&mut [0]).unwrap()));
        let sleeps = runtime.run(|| spawn(|| sleep(Duration::from_millis(30))));
        println!("waits");
        std::io::stdin().read_exact(&mut [0]).unwrap();
        runtime.run(move || {
            two.write_all(b"x").unwrap();
            assert_eq!(reads.join().unwrap(), 1);
            sleeps.join().unwrap();
        });
    }
}

thread_local! {
    static OF_THE_KERNEL_THREAD: Cell<u32> = const { Cell::new(0) };
}

#[test]
fn siblings_share_what_the_standard_library_keeps_for_a_kernel_thread() {
    Runtime::user().unwrap().run(|| {
        OF_THE_KERNEL_THREAD.set(5);
        assert_eq!(spawn(|| OF_THE_KERNEL_THREAD.get()).join().unwrap(), 5);
        let (go_on, gate) = bounded(0);
        let holds = spawn(move || {
            let _locked = std::io::stdout().lock();
            gate.recv().unwrap();
        });
        yield_now();
        // The lock is there for every thread of this kernel thread: this one does not wait, which would be for ever.
        drop(std::io::stdout().lock());
        go_on.send(()).unwrap();
        holds.join().unwrap();
    });
}

#[test]
fn programs_are_started_by_the_standard_library_too() {
    on_all(|| {
        let starts = || Command::new("true").status().unwrap().success();
        let threads = [spawn(starts), spawn(starts)];
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    });
}
