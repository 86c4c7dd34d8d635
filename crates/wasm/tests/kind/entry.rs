//! What of a program is called, with which arguments, and what is refused.

use std::time::Duration;

use sterna_process::{Exit, Kind, Program, SpawnError};

use crate::rig::{Job, immobile, mobile, trap};

fn kinds() -> [&'static dyn Kind; 2] {
    [mobile(), immobile()]
}

const STAGES: &str = r#"(module
    (memory (export "memory") 1)
    (global $steps (mut i32) (i32.const 0))
    (func $step (param i32)
        (global.set $steps (i32.add (i32.mul (global.get $steps) (i32.const 10)) (local.get 0))))
    (func $start (call $step (i32.const 1)) (call $work))
    (start $start)
    (func $work (local i32) (loop
        (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 3000000)))))
    (func (export "_initialize") (call $step (i32.const 2)) (call $work))
    (func (export "steps") (param i32) (result i32)
        (call $step (local.get 0)) (call $work) (global.get $steps))
    (func (export "all") (param i32 i64 f32 f64) (result f64 f32 i64 i32)
        (local.get 3) (local.get 2) (local.get 1) (local.get 0))
    (func (export "refs") (result funcref externref) (ref.null func) (ref.null extern))
    (func (export "trap") (call $trap))
    (func $trap unreachable))"#;

#[test]
fn start_then_initialize_then_the_function() {
    for kind in kinds() {
        let job = Job::wat(STAGES).calling("steps").with(&["3"]);
        assert_eq!(job.run_on(kind), (Exit::Code(0), "123\n".into()));
        let job = Job::wat(STAGES).calling("_initialize");
        assert_eq!(job.run_on(kind), (Exit::Code(0), String::new()));
    }
    let job = Job::wat(STAGES).calling("steps").with(&["3"]);
    let (exit, printed, _) = job.run_moving(50, Duration::from_micros(200));
    assert_eq!((exit, printed.as_str()), (Exit::Code(0), "123\n"));
}

#[test]
fn arguments_and_results_of_every_type() {
    for kind in kinds() {
        let check = |arguments: &[&str], printed: &str| {
            let job = Job::wat(STAGES).calling("all").with(arguments);
            assert_eq!(job.run_on(kind), (Exit::Code(0), printed.into()));
        };
        check(&["-1", "-2", "0.5", "1e3"], "1000\n0.5\n-2\n-1\n");
        check(
            &["4294967295", "18446744073709551615", "inf", "nan"],
            "NaN\ninf\n-1\n-1\n",
        );
        let job = Job::wat(STAGES).calling("refs");
        assert_eq!(job.run_on(kind), (Exit::Code(0), "null\nnull\n".into()));
    }
}

#[test]
fn a_trap_says_what_and_where() {
    for kind in kinds() {
        let (exit, _) = Job::wat(STAGES).calling("trap").run_on(kind);
        let Exit::Trapped { what, back_trace } = exit else {
            panic!("{exit}");
        };
        assert!(what.contains("unreachable"), "{what}");
        assert!(back_trace.contains("trap"), "{back_trace}");
    }
}

#[test]
fn what_cannot_be_called() {
    let check = |job: &dyn Fn() -> Job, says: &str| {
        for kind in kinds() {
            let refusal = job().refusal(kind);
            let text = refusal.to_string();
            assert!(
                matches!(refusal, SpawnError::Environment { .. }),
                "{refusal:?}"
            );
            assert!(text.contains(says), "{text}");
        }
    };
    check(&|| Job::wat(STAGES), "no `_start`");
    check(&|| Job::wat(STAGES).calling("none"), "`none`");
    check(
        &|| Job::wat(STAGES).calling("sterna:start"),
        "`sterna:start`",
    );
    check(&|| Job::wat(STAGES).calling("memory"), "`memory`");
    check(
        &|| Job::wat(STAGES).calling("steps"),
        "takes 1 arguments, 0 were given",
    );
    check(
        &|| Job::wat(STAGES).calling("steps").with(&["x"]),
        "`x` is not an argument of type i32",
    );
    let odd = "(module (func (export \"_start\") (param i32)))";
    check(&|| Job::wat(odd), "takes arguments");
}

#[test]
fn imports_that_cannot_be_filled() {
    let check = |import: &str, says: &str| {
        let wat = format!("(module (import {import}) (func (export \"_start\")))");
        for kind in kinds() {
            let refusal = Job::wat(&wat).refusal(kind);
            let text = refusal.to_string();
            assert!(
                matches!(refusal, SpawnError::Environment { .. }),
                "{refusal:?}"
            );
            assert!(text.contains(says), "{text}");
        }
    };
    check(
        r#""env" "f\1b[2J" (func)"#,
        "imports env.f\\u{1b}[2J, which is not part of",
    );
    check(r#""wasi_snapshot_preview1" "fd_writ" (func)"#, "fd_writ");
    check(
        r#""wasi_snapshot_preview1" "fd_close" (func (param i64) (result i32))"#,
        "WASI has it as",
    );
    check(
        r#""wasi_snapshot_preview1" "fd_close" (global i32)"#,
        "as a global",
    );
    check(
        r#""wasi" "thread-spawn" (func (param i32) (result i32))"#,
        "starts threads",
    );
    check(r#""env" "t" (table 1 funcref)"#, "env.t");
}

#[test]
fn what_is_no_program() {
    for bytes in [
        &b""[..],
        b"\0asm",
        b"(module)",
        b"\x7fELF",
        b"\0asm\x01\0\0\0\xff",
    ] {
        for kind in kinds() {
            let refusal = Job::new(Program::from_bytes(bytes)).refusal(kind);
            assert!(
                matches!(refusal, SpawnError::NotAProgram { .. }),
                "{refusal:?}"
            );
        }
    }
    let named = Program::installed(Program::from_bytes(&b"somewhere else"[..]).id());
    for kind in kinds() {
        let refusal = Job::new(named.clone()).refusal(kind);
        assert!(
            matches!(refusal, SpawnError::UnknownProgram { .. }),
            "{refusal:?}"
        );
    }
}

#[test]
fn the_exit_code_is_the_programs() {
    for kind in kinds() {
        let job = Job::guest("count", &["1", "1", "7"]);
        assert_eq!(job.run_on(kind).0, Exit::Code(7));
        let exit =
            "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))
            (func (export \"_start\") (call $exit (i32.const -1))))";
        assert_eq!(Job::wat(exit).run_on(kind).0, Exit::Code(u32::MAX));
        let call = "(module (import \"wasi_snapshot_preview1\" \"fd_write\"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (func (export \"f\") (result i32)
                (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))))";
        // There is no memory to read from: EFAULT.
        assert_eq!(Job::wat(call).calling("f").run_on(kind).1, "21\n");
    }
    let deep = "(module (func $f (export \"_start\") (call $f)))";
    for kind in kinds() {
        assert_eq!(trap(Job::wat(deep).run_on(kind).0), "call stack exhausted");
    }
}
