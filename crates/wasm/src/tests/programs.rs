//! Every place at which a real program can be stopped has a continuation that is valid.
//!
//! Of the larger programs a sample, unless `STERNA_FULL` is set.

use std::sync::Arc;

use wasmparser::{Validator, WasmFeatures};

use super::rig::Random;
use crate::pass::{Entry, Options, Program, Stop};

/// Continuations in one module.
const GROUP: usize = 300;
/// Continuations of one program in the default run.
const SAMPLE: usize = 600;

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

fn check(name: &str) {
    let program = Program::parse(guest(name), Options::default()).expect("a real program");
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
    if std::env::var_os("STERNA_FULL").is_none() {
        let mut random = Random::new(all as u64);
        while entries.len() > SAMPLE {
            entries.swap_remove(random.below(entries.len() as u64) as usize);
        }
        entries.sort_unstable();
    }
    let (mut bytes, mut largest) = (0, 0);
    for group in entries.chunks(GROUP) {
        let built = builder.build(group).expect("points of the program");
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
    println!(
        "{name}: {} of {all} continuations, {bytes} bytes, the largest module {largest}",
        entries.len()
    );
}

#[test]
fn continuations_of_lua() {
    check("lua");
}

#[test]
fn continuations_of_sqlite() {
    check("sqlite");
}

#[test]
fn continuations_of_quickjs() {
    check("qjs");
}

#[test]
fn continuations_of_small_programs() {
    for name in [
        "count", "echo", "fannkuch", "fib", "files", "fill", "hello", "idle", "matmul", "nbody",
        "qsort", "recurse", "sha256", "sleeper", "spin",
    ] {
        check(name);
    }
}
