//! Random modules run plainly and stopped at random points: nobody may see a difference.
#![no_main]

#[path = "../../crates/wasm/src/tests/modules.rs"]
mod modules;

use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|input: (u64, &[u8])| -> Corpus {
    let (seed, bytes) = input;
    let mut bits = seed;
    let config = modules::config(|of| {
        bits = bits.rotate_right(5);
        bits % of != 0
    });
    let Some(module) = modules::module(config, bytes) else {
        return Corpus::Reject;
    };
    sterna_wasm::fuzz::compare(&module, seed);
    Corpus::Keep
});
