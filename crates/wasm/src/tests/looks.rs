//! What is seen of a running guest's stack, against the frames that it leaves behind when it is unwound at the same
//! stop.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sterna_process::{Directory, Environment, Identity, Program, Resources};

use crate::kind::{Uncached, WasmKind};
use crate::pass::Spot;
use crate::seat::{Asked, Seat};
use crate::{Engine, EngineOptions};

/// Long enough that only a mistake exceeds it.
const LONG: Duration = Duration::from_secs(120);
/// Stops of each program in the default run; many more in the complete one.
const STOPS: usize = 150;

fn stops() -> usize {
    match std::env::var_os("STERNA_TEST_FULL") {
        Some(_) => 20 * STOPS,
        None => STOPS,
    }
}

fn program(name: &str) -> Program {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../guests/wasm/{name}.wasm"));
    Program::from_bytes(std::fs::read(path).expect("a committed guest"))
}

fn start(program: &Program, arguments: &[&str], directory: Option<&Path>) -> Arc<Seat> {
    let engine = Engine::new(EngineOptions::default()).expect("an engine");
    let kind = WasmKind::new(engine.clone(), Arc::new(Uncached(engine))).expect("a kind");
    let directory = directory.map(|host| Directory::open(host, "/d").expect("a folder"));
    let environment = Environment {
        arguments: std::iter::once(&"program")
            .chain(arguments)
            .map(OsString::from)
            .collect(),
        resources: Resources {
            directories: directory.into_iter().collect(),
            ..Resources::default()
        },
        ..Environment::default()
    };
    kind.start(Identity::new(), program, environment)
        .expect("it starts")
}

/// What a program's stops showed.
#[derive(Debug, Default)]
struct Seen {
    stops: usize,
    frames: usize,
    deepest: usize,
    in_host_calls: usize,
}

/// Stops a guest again and again until it ends or has been stopped often enough, and compares each time. Between two
/// stops it runs for a while that differs.
fn compare(seat: &Arc<Seat>) -> Seen {
    let mut seen = Seen::default();
    let installed = seat.installed().expect("it lives");
    while seen.stops < stops() {
        let until = Instant::now() + Duration::from_micros(37 * (seen.stops as u64 % 23));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        installed.ready_to_look().expect("tables");
        let mut walked: Vec<Spot> = Vec::new();
        match seat.park_to_look(LONG) {
            Asked::Parked => {}
            Asked::Exited(_) => break,
            Asked::TimedOut | Asked::Busy => panic!("it does not stop"),
        }
        seen.in_host_calls += usize::from(seat.stopper.waits());
        let seen_all = seat.walk(&installed, &mut |spot| {
            walked.push(spot);
            ControlFlow::Continue(())
        });
        assert_eq!(seen_all, Ok(ControlFlow::Continue(())), "after {walked:?}");
        let guest = seat.take().expect("nobody kills it");
        let frames: Vec<Spot> = guest.machine.frames.iter().map(|f| f.spot()).collect();
        assert_eq!(walked, frames, "stop {}", seen.stops);
        seen.stops += 1;
        seen.frames += frames.len();
        seen.deepest = seen.deepest.max(frames.len());
        seat.start(guest);
    }
    sterna_process::Controls::kill(&**seat);
    seen
}

/// Compares, and shows what was seen; at least so many frames at once.
fn check(name: &str, seat: &Arc<Seat>, deepest: usize) -> Seen {
    let seen = compare(seat);
    println!("{name}: {seen:?}");
    assert!(seen.deepest >= deepest, "{seen:?}");
    assert!(seen.stops > 20, "{seen:?}");
    seen
}

fn guests() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests")
}

#[test]
fn of_sqlite() {
    let seat = start(&program("sqlite"), &["20000", "1000"], None);
    check("sqlite", &seat, 6);
}

#[test]
fn of_quickjs() {
    let arguments = ["/d/quickjs/sort.js", "20000", "1000"];
    let seat = start(&program("qjs"), &arguments, Some(&guests()));
    check("qjs", &seat, 4);
}

#[test]
fn of_cpython() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests/python.wasm");
    let Ok(bytes) = std::fs::read(&path) else {
        println!(
            "skipped: no CPython at {} (`cargo xtask guests` fetches it)",
            path.display()
        );
        return;
    };
    let arguments = ["/d/python/bench.py", "1000"];
    let seat = start(&Program::from_bytes(bytes), &arguments, Some(&guests()));
    check("cpython", &seat, 10);
}

#[test]
fn of_kernels() {
    for (name, arguments, deepest) in [
        ("nbody", &["1000000000"][..], 1),
        ("fib", &["60"], 10),
        ("qsort", &["200000", "1000"], 3),
        ("sha256", &["64", "100000000"], 2),
        ("fannkuch", &["12"], 1),
    ] {
        let seat = start(&program(name), arguments, None);
        check(name, &seat, deepest);
    }
}

#[test]
fn of_one_that_waits_in_the_host() {
    let seat = start(&program("sleeper"), &["1", "100000"], None);
    let seen = check("sleeper", &seat, 2);
    assert!(seen.in_host_calls > 20, "{seen:?}");
}

/// Helpers have no frame; a host function called through a table has one.
#[test]
fn of_what_the_pass_adds() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "poll_oneoff"
            (func $poll (param i32 i32 i32 i32) (result i32)))
        (type $t (func (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 2000)
        (table funcref (elem $poll))
        (func $fill (memory.fill (i32.const 65536) (i32.const 7) (i32.const 120000000)))
        (func $copy (memory.copy (i32.const 65536) (i32.const 131072) (i32.const 120000000)))
        (func $tail (param i32) (result i32)
            (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
            (return_call $tail (i32.sub (local.get 0) (i32.const 1))))
        (func $wait
            (i32.store (i32.const 16) (i32.const 1))
            (i64.store (i32.const 24) (i64.const 20000000))
            (drop (call_indirect (type $t)
                (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128) (i32.const 0))))
        (func (export "_start")
            (loop $again
                (call $fill)
                (call $copy)
                (drop (call $tail (i32.const 100000)))
                (call $wait)
                (br $again))))"#;
    let module = Program::from_bytes(wat::parse_str(text).expect("it is valid"));
    let seen = check("added", &start(&module, &[], None), 2);
    assert!(seen.in_host_calls > 0, "{seen:?}");
}

/// A look is not stopped by depth, also where frames are held by the host.
#[test]
fn of_a_deep_stack() {
    let text = r#"(module
        (func $down (param i32) (result i32)
            (if (i32.eqz (local.get 0)) (then (loop $l (br $l))))
            (i32.add (call $down (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))
        (func (export "_start") (drop (call $down (i32.const 20000)))))"#;
    let module = Program::from_bytes(wat::parse_str(text).expect("it is valid"));
    let seat = start(&module, &[], None);
    let seen = compare(&seat);
    assert!(seen.deepest > 20_000, "{seen:?}");
}

#[test]
fn of_lua() {
    let folder = tempfile::tempdir().unwrap();
    let script = "local function f(n) if n < 2 then return n end return f(n-1) + f(n-2) end
        for i = 1, 1000 do
            local t = {}
            for k = 1, 2000 do t[k] = (k * 7919) % 1009 end
            table.sort(t, function(a, b) return a < b end)
            local s = string.rep('ab', 300):gsub('a', function(x) return x .. f(5) end)
            f(12)
        end";
    std::fs::write(folder.path().join("s.lua"), script).unwrap();
    let seat = start(&program("lua"), &["/d/s.lua"], Some(folder.path()));
    check("lua", &seat, 4);
}
