//! Random modules, run plainly and stopped at random points.
//!
//! `STERNA_SMITH` is how many, `STERNA_SEED` the first one's seed.

use super::modules;
use crate::rig::differential::{Compared, compare};
use crate::rig::{self, Random};

/// Modules of the default run.
const MODULES: u64 = 1_000;

/// A random module that ends, or `None` if the seed gives none.
fn module(seed: u64) -> Option<Vec<u8>> {
    let mut random = Random::new(seed);
    let config = modules::config(|of| random.below(of) != 0);
    let bytes: Vec<u8> = (0..2_000 + random.below(20_000))
        .map(|_| random.next() as u8)
        .collect();
    modules::module(config, &bytes)
}

#[test]
fn random_modules() {
    let number =
        |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (first, count) = (number("STERNA_SEED", 1), number("STERNA_SMITH", MODULES));
    let engine = rig::engine();
    let (mut stops, mut none, mut not_started, mut deep) = (0, 0, 0, 0);
    for seed in first..first + count {
        let Some(bytes) = module(seed) else {
            none += 1;
            continue;
        };
        if count == 1 {
            println!("{}", wasmprinter::print_bytes(&bytes).expect("valid"));
        }
        let before = stops;
        let compared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            compare(&engine, &bytes, seed, &mut stops)
        }));
        match compared {
            Ok(Compared::Same) => {}
            Ok(Compared::DoesNotStart) => not_started += 1,
            Ok(Compared::TooDeep) => deep += 1,
            Err(panic) => {
                eprintln!("seed {seed}, after {} stops", stops - before);
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!(
        "{count} seeds: {none} without a module, {not_started} do not start, {deep} too deep; {stops} stops"
    );
    assert!(stops > count, "too few stops to say anything");
}
