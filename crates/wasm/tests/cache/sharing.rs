//! Several that use one cache at once: processes, and engines.

use std::ops::ControlFlow::Continue;

use sterna_process::ProgramId;
use sterna_wasm::builder::{BuildLimits, Progress};
use sterna_wasm::cache::ProgramCache;
use sterna_wasm::{Engine, EngineOptions};

use super::{add, builder, cache, guest, open, silent};

#[test]
fn two_processes_build_once() {
    let (_folder, cache) = cache();
    let bytes = guest("lua");
    let (mut built, mut waited) = (0, 0);
    std::thread::scope(|scope| {
        let other = || {
            // Caches that know nothing of each other, as in two processes: the lock is of the open file.
            let cache = open(cache.directory(), BuildLimits::default());
            let (program, steps) = add(&cache, &bytes);
            program.unwrap();
            steps
        };
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(other)).collect();
        for thread in threads {
            let steps = thread.join().unwrap();
            built += usize::from(steps.contains(&Progress::Instrumenting));
            waited += usize::from(steps == [Progress::Waiting]);
        }
    });
    assert_eq!(built, 1);
    assert!(waited <= 2);
}

#[test]
fn what_is_built_for_one_engine_holds_up_no_other() {
    let (_folder, plain) = cache();
    let bytes = guest("lua");
    let id = ProgramId::of(&bytes);
    let program = add(&plain, &bytes).0.unwrap();
    let options = EngineOptions {
        canonicalize_nans: true,
        ..EngineOptions::default()
    };
    let engine = Engine::new(options).unwrap();
    let other = ProgramCache::open(plain.directory(), engine, BuildLimits::default()).unwrap();
    let other = other.launch(builder());
    let mut was_built = false;
    let added = other.add(&bytes, None, &mut |progress| {
        if progress == Progress::Instrumenting && !was_built {
            // What moves wait for is put beside what is being built, and neither is removed meanwhile.
            let kept = program.compile_loop_headers(&mut silent).unwrap();
            assert!(kept.compiled > 0);
            assert!(plain.remove(&id).is_err());
            was_built = true;
        }
        Continue(())
    });
    added.unwrap();
    assert!(was_built && plain.ready(&id).is_some() && other.ready(&id).is_some());
    assert!(plain.remove(&id).unwrap() && other.ready(&id).is_none());
}
