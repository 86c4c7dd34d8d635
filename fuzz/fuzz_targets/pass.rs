//! Any bytes at all: the pass gives a valid module or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sterna_wasm::pass::{Options, Program};

fuzz_target!(|bytes: &[u8]| {
    let Ok(program) = Program::parse(bytes.into(), Options::default()) else {
        return;
    };
    let _ = program.instrument();
    let _ = program.continuations();
});
