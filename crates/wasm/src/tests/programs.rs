//! Every place at which a real program can be stopped has a continuation that is valid.
//!
//! Of Lua and SQLite all of them, of larger programs a sample unless `STERNA_TEST_FULL` is set.

use std::sync::Arc;

use wasmparser::{Validator, WasmFeatures};

use crate::pass::{Entry, Options, Program, Stop};
use crate::rig::Random;

/// Continuations in one module.
const GROUP: usize = 300;
/// Continuations of one large program in the default run.
const SAMPLE: usize = 1200;

/// Which continuations are looked at.
#[derive(Clone, Copy, PartialEq)]
enum Which {
    All,
    /// As many as [`SAMPLE`], unless the complete run is asked for.
    Some,
}

fn guest(name: &str) -> Arc<[u8]> {
    let path = format!(
        "{}/../../guests/wasm/{name}.wasm",
        env!("CARGO_MANIFEST_DIR")
    );
    let bytes = std::fs::read(&path);
    bytes
        .unwrap_or_else(|error| panic!("{path}: {error}"))
        .into()
}

fn check(name: &str, which: Which) {
    check_module(name, guest(name), which);
}

fn check_module(name: &str, bytes: Arc<[u8]>, which: Which) {
    let program = Program::parse(bytes, Options::default()).expect("a real program");
    let instrumented = program.instrument().expect("a real program");
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    validator.validate_all(&instrumented.wasm).expect("valid");
    let builder = program.continuations().expect("a real program");
    let mut entries = Vec::new();
    for function in 0..program.module().function_count() {
        for point in instrumented.points.of_function(function) {
            let op = point.op as usize;
            if point.stop != Stop::After {
                entries.push((function, Entry::At(op)));
            }
            if point.stop != Stop::Before {
                entries.push((function, Entry::After(op)));
            }
        }
        if program.module().body(function).is_some() {
            let headers = builder
                .loop_headers(function)
                .expect("a function with a body");
            entries.extend(headers.into_iter().map(|header| (function, header)));
        }
    }
    entries.sort_unstable();
    entries.dedup();
    let all = entries.len();
    if which == Which::Some && std::env::var_os("STERNA_TEST_FULL").is_none() {
        let mut random = Random::new(all as u64);
        while entries.len() > SAMPLE {
            entries.swap_remove(random.below(entries.len() as u64) as usize);
        }
        entries.sort_unstable();
    }
    let (mut bytes, mut largest) = (0, 0);
    for group in entries.chunks(GROUP) {
        // Alone, and beside modules that hold all else.
        for is_ready in [&|_| false, &|key| !group.contains(&key)] as [&dyn Fn(_) -> bool; 2] {
            let built = builder
                .build(group, is_ready)
                .expect("points of the program");
            bytes += built.wasm.len();
            largest = largest.max(built.wasm.len());
            assert_eq!(built.entries.len(), group.len());
            let mut validator = Validator::new_with_features(WasmFeatures::all());
            validator.validate_all(&built.wasm).unwrap_or_else(|error| {
                panic!(
                    "{name}: {error}: a module that starts with {:?}",
                    group.first()
                )
            });
        }
    }
    println!(
        "{name}: {} of {all} continuations, {bytes} bytes, the largest module {largest}",
        entries.len()
    );
}

#[test]
fn continuations_of_lua() {
    check("lua", Which::All);
}

#[test]
fn continuations_of_sqlite() {
    check("sqlite", Which::All);
}

#[test]
fn continuations_of_quickjs() {
    check("qjs", Which::Some);
}

#[test]
fn continuations_of_cpython() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../target/guests/python.wasm"
    );
    match std::fs::read(path) {
        Ok(bytes) => check_module("python", bytes.into(), Which::Some),
        Err(_) => println!(
            "SKIPPED: CPython for WASI is not here; get it with: cargo xtask guests --download"
        ),
    }
}

#[test]
fn continuations_of_small_programs() {
    for name in [
        "count", "echo", "fannkuch", "fib", "files", "fill", "hello", "idle", "matmul", "nbody",
        "qsort", "recurse", "sha256", "sleeper", "spin",
    ] {
        check(name, Which::All);
    }
}

/// Time and space that instrumenting and compiling take, against the plain program. `cargo test --release -p
/// sterna-wasm -- --ignored measure --nocapture`.
#[test]
#[ignore = "measures; has no result"]
fn measure() {
    let engine = crate::Engine::new(crate::EngineOptions::default()).expect("an engine");
    for name in ["lua", "sqlite", "qjs"] {
        let bytes = guest(name);
        let parse = fastest(5, || {
            Program::parse(bytes.clone(), Options::default()).expect("a real program")
        });
        let instrument = fastest(5, || parse.1.instrument().expect("a real program"));
        let wasm = &instrument.1.wasm;
        let validate = fastest(5, || {
            let mut validator = Validator::new_with_features(WasmFeatures::all());
            validator.validate_all(wasm).expect("valid")
        });
        let compile = |wasm: &[u8]| {
            let start = std::time::Instant::now();
            let module = wasmtime::Module::new(engine.wasmtime(), wasm).expect("valid");
            let native = module.text().len();
            (start.elapsed(), native)
        };
        let (plain, stoppable) = (compile(&bytes), compile(wasm));
        println!(
            "{name}: parse {:?}, instrument {:?}, validate again {:?}; wasm {} -> {} bytes; native {} -> {} bytes; compile {:?} -> {:?}",
            parse.0,
            instrument.0,
            validate.0,
            bytes.len(),
            wasm.len(),
            plain.1,
            stoppable.1,
            plain.0,
            stoppable.0
        );
    }
}

fn fastest<T>(times: u32, mut run: impl FnMut() -> T) -> (std::time::Duration, T) {
    let mut best: Option<(std::time::Duration, T)> = None;
    for _ in 0..times {
        let start = std::time::Instant::now();
        let made = run();
        let took = start.elapsed();
        if best.as_ref().is_none_or(|(least, _)| took < *least) {
            best = Some((took, made));
        }
    }
    best.expect("at least one run")
}
