//! Programs that cannot be moved run all the same, and can be ended.

use std::time::{Duration, Instant};

use sterna_process::{Exit, Kind, MemoryLayout, PauseRefused, Pausing, SpawnError, State};

use crate::rig::{Job, LONG, ended, immobile, mobile, text, trap, until, until_state};

const COLLECTED: &str = r#"(module
    (type $pair (struct (field i32) (field (mut (ref null $pair)))))
    (type $function (func (param i32) (result i32)))
    (func $twice (type $function) (i32.mul (local.get 0) (i32.const 2)))
    (elem declare func $twice)
    (func (export "sum") (param $n i32) (result i32)
        (local $list (ref null $pair)) (local $sum i32)
        (loop $more
            (local.set $list (struct.new $pair (local.get $n) (local.get $list)))
            (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (block $done
            (loop $next
                (br_if $done (ref.is_null (local.get $list)))
                (local.set $sum (i32.add (local.get $sum) (struct.get $pair 0 (local.get $list))))
                (local.set $list (struct.get $pair 1 (local.get $list)))
                (br $next)))
        (call_ref $function (local.get $sum) (ref.func $twice))))"#;

const EXCEPTIONS: &str = r#"(module
    (tag $oops (param i32))
    (func (export "caught") (result i32)
        (block $handler (result i32)
            (try_table (catch $oops $handler) (throw $oops (i32.const 42)))
            (unreachable)))
    (func (export "uncaught") (throw $oops (i32.const 1))))"#;

const SHARED: &str = r#"(module
    (memory (export "memory") 1 2 shared)
    (func (export "add") (result i32)
        (drop (i32.atomic.rmw.add (i32.const 8) (i32.const 5)))
        (drop (memory.atomic.notify (i32.const 8) (i32.const 1)))
        (i32.atomic.load (i32.const 8)))
    (func (export "wait") (param i32 i64) (result i32)
        (memory.atomic.wait32 offset=8 (i32.const 0) (local.get 0) (local.get 1)))
    (func (export "grow") (result i32) (memory.grow (i32.const 1))))"#;

#[test]
fn what_the_movable_kind_refuses_by_name() {
    for wat in [COLLECTED, EXCEPTIONS, SHARED] {
        let refusal = Job::wat(wat).calling("sum").refusal(mobile());
        assert!(matches!(refusal, SpawnError::Immovable { .. }), "{refusal}");
    }
}

#[test]
fn collected_types_and_function_references_run() {
    let job = Job::wat(COLLECTED).calling("sum").with(&["1000"]);
    assert_eq!(job.run_on(immobile()), (Exit::Code(0), "1001000\n".into()));
}

#[test]
fn exceptions_are_caught_or_end_the_process() {
    let caught = Job::wat(EXCEPTIONS).calling("caught");
    assert_eq!(caught.run_on(immobile()), (Exit::Code(0), "42\n".into()));
    let uncaught = Job::wat(EXCEPTIONS).calling("uncaught");
    assert_eq!(trap(uncaught.run_on(immobile()).0), "uncaught exception");
}

#[test]
fn shared_memory_is_the_one_threads_own() {
    let check = |entry: &str, arguments: &[&str], printed: &str| {
        let job = Job::wat(SHARED).calling(entry).with(arguments);
        assert_eq!(job.run_on(immobile()), (Exit::Code(0), printed.into()));
    };
    check("add", &[], "5\n");
    check("grow", &[], "1\n");
    check("wait", &["7", "-1"], "1\n");
    check("wait", &["0", "1000"], "2\n");
}

#[test]
fn a_wait_that_nobody_ends_can_be_killed() {
    let running = Job::wat(SHARED)
        .calling("wait")
        .with(&["0", "-1"])
        .start_on(immobile());
    until_state(&running.control, State::Waiting);
    running.control.kill();
    assert_eq!(ended(&running.control), Exit::Killed);
}

#[test]
fn a_memory_that_is_imported_is_made() {
    let imported = SHARED.replace(
        "(memory (export \"memory\") 1 2 shared)",
        r#"(memory (import "env" "memory") 1 2 shared)"#,
    );
    let job = Job::wat(&imported).calling("add");
    assert_eq!(job.run_on(immobile()), (Exit::Code(0), "5\n".into()));
}

#[test]
fn threads_and_components_are_refused_with_a_way_out() {
    let threads = r#"(module (import "wasi" "thread-spawn" (func (param i32) (result i32)))
        (memory (import "env" "memory") 1 1 shared) (func (export "_start")))"#;
    let refusal = Job::wat(threads).refusal(immobile()).to_string();
    assert!(
        refusal.contains("starts threads") && refusal.contains("wasm32-wasip1"),
        "{refusal}"
    );
    for kind in [mobile() as &dyn Kind, immobile()] {
        let refusal = Job::wat("(component)").refusal(kind);
        assert!(
            matches!(refusal, SpawnError::NotAProgram { .. }),
            "{refusal:?}"
        );
        let refusal = refusal.to_string();
        assert!(
            refusal.contains("component") && refusal.contains("wasm32-wasip1"),
            "{refusal}"
        );
    }
}

#[test]
fn programs_that_could_move_run_alike() {
    for (guest, arguments) in [
        ("hello", &["a", "b"][..]),
        ("count", &["3", "10", "7"]),
        ("fill", &["8", "2"]),
        ("sleeper", &["1", "5"]),
        ("lua", &["-e", "print(1 + 1)"]),
    ] {
        let job = Job::guest(guest, arguments);
        let (moves, stays) = (job.run(), Job::guest(guest, arguments).run_on(immobile()));
        if guest == "sleeper" {
            assert_eq!(moves.0, stays.0);
        } else {
            assert_eq!(moves, stays, "{guest}");
        }
    }
    let exhausted = Job::guest("recurse", &["0"]).run_on(immobile());
    assert_eq!(trap(exhausted.0), "call stack exhausted");
}

#[test]
fn start_functions_run_in_the_process() {
    let wat = r#"(module (memory (export "memory") 1)
        (func $start (i32.store (i32.const 0) (i32.const 9)))
        (start $start)
        (func (export "get") (result i32) (i32.load (i32.const 0))))"#;
    let job = Job::wat(wat).calling("get");
    assert_eq!(job.run_on(immobile()), (Exit::Code(0), "9\n".into()));
    let endless = "(module (func $start (loop (br 0))) (start $start) (func (export \"_start\")))";
    let running = Job::wat(endless).start_on(immobile());
    until(|| running.control.stats().cpu_time > Duration::ZERO);
    running.control.kill();
    assert_eq!(ended(&running.control), Exit::Killed);
}

#[test]
fn loops_fills_and_waits_are_killed() {
    let (input, _writer) = std::io::pipe().unwrap();
    let deep = "(module (func $f (export \"_start\") (loop (call $g) (br 0))) (func $g))";
    let jobs = [
        Job::guest("spin", &[]),
        Job::guest("fill", &["1024", "0"]),
        Job::wat(deep),
        Job::guest("idle", &[]).input(input.into()),
        Job::guest("idle", &["sleep"]),
    ];
    // All at once: one that is not meant goes on.
    let running: Vec<_> = jobs.iter().map(|job| job.start_on(immobile())).collect();
    for running in &running[..3] {
        until(|| running.control.stats().cpu_time > Duration::from_millis(5));
    }
    for running in &running[3..] {
        until_state(&running.control, State::Waiting);
    }
    for running in running {
        assert_eq!(running.control.wait(Duration::ZERO), None);
        let killed = Instant::now();
        running.control.kill();
        assert_eq!(ended(&running.control), Exit::Killed);
        println!("{:?}", killed.elapsed());
    }
}

#[test]
fn it_stays_where_it_is() {
    let running = Job::guest("spin", &[]).start_on(immobile());
    let Pausing::Refused(process, PauseRefused::Immovable { reason }) = running.process.pause(LONG)
    else {
        panic!("it can be paused");
    };
    assert!(reason.contains("immobile"), "{reason}");
    assert!(process.memory().changed().unwrap().is_empty());
    running.control.kill();
    assert_eq!(ended(&running.control), Exit::Killed);
    let Pausing::Exited(Exit::Killed) = process.pause(LONG) else {
        panic!("it has ended");
    };
    let program = text("(module)");
    let refused = immobile().prepare(&program, &MemoryLayout::default());
    assert!(refused.is_err());
}

#[test]
fn limits_hold() {
    let spin = Job::guest("spin", &[]).limits(|l| l.cpu_time_max = Some(Duration::from_millis(30)));
    assert!(trap(spin.run_on(immobile()).0).contains("CPU time"));
    let fill = Job::guest("fill", &["64"]).limits(|l| l.memory_bytes_max = 16 << 20);
    assert_ne!(fill.run_on(immobile()).0, Exit::Code(0));
    let large = Job::wat("(module (memory 100) (func (export \"_start\")))")
        .limits(|l| l.memory_bytes_max = 1 << 20);
    let refusal = large.refusal(immobile());
    assert!(
        matches!(
            refusal,
            SpawnError::OverLimit {
                needed: 6_553_600,
                ..
            }
        ),
        "{refusal:?}"
    );
    // A heap of collected objects counts, too.
    let hoard = r#"(module (type $a (array i64))
        (type $list (struct (field (ref $a)) (field (ref null $list))))
        (func (export "_start") (local (ref null $list))
            (loop (local.set 0 (struct.new $list (array.new $a (i64.const 0) (i32.const 10000)) (local.get 0))) (br 0))))"#;
    let hoard = Job::wat(hoard).limits(|l| l.memory_bytes_max = 64 << 20);
    let what = trap(hoard.run_on(immobile()).0);
    assert!(what.starts_with("GC heap out of memory"), "{what}");
}

#[test]
fn bulk_operations_in_portions_are_the_same() {
    let wat = r#"(module (memory (export "memory") 400)
        (func (export "fill") (param i32 i32) (result i32)
            (memory.fill (local.get 0) (i32.const 7) (local.get 1))
            (i32.load8_u (i32.sub (i32.add (local.get 0) (local.get 1)) (i32.const 1))))
        (func (export "copy") (param i32 i32 i32) (result i32)
            (local i32)
            (loop (i32.store8 (local.get 3) (i32.mul (local.get 3) (i32.const 167)))
                (local.set 3 (i32.add (local.get 3) (i32.const 1)))
                (br_if 0 (i32.lt_u (local.get 3) (i32.const 26214400))))
            (memory.copy (local.get 0) (local.get 1) (local.get 2))
            (local.set 3 (i32.const 0))
            (i32.const 0)
            (loop (param i32) (result i32)
                (i32.add (i32.mul (i32.const 31)) (i32.load8_u (local.get 3)))
                (local.set 3 (i32.add (local.get 3) (i32.const 1)))
                (br_if 0 (i32.lt_u (local.get 3) (i32.const 26214400))))))"#;
    let run = |entry: &str, arguments: &[&str], kind: &dyn Kind| {
        Job::wat(wat).calling(entry).with(arguments).run_on(kind)
    };
    for (entry, arguments) in [
        ("fill", &["5", "20000000"][..]),
        ("fill", &["26214300", "100"]),
        ("copy", &["5", "1000", "20000000"]),
        ("copy", &["1000", "5", "20000000"]),
    ] {
        let stays = run(entry, arguments, immobile());
        assert_eq!(stays.0, Exit::Code(0), "{entry} {arguments:?}");
        assert_eq!(
            stays,
            run(entry, arguments, mobile()),
            "{entry} {arguments:?}"
        );
    }
    for arguments in [["26214300", "101"], ["-5", "10"], ["-1", "-1"]] {
        let what = trap(run("fill", &arguments, immobile()).0);
        assert_eq!(what, "out of bounds memory access");
    }
}
