//! Any arguments on small memories: nothing panics, nothing blocks, and the table stays usable.

use crate::guest::{Time, config};
use proptest::prelude::*;
use std::fs;
use sterna_wasi::{Directory, Function, Stdio, Step, Wasi};

fn argument() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..12u64,
        8 => 0..600u64,
        2 => (0..40u64).prop_map(|i| u64::from(u32::MAX) - i),
        2 => any::<u64>(),
        1 => Just(0x3fff_ffffu64),
        1 => Just(u64::MAX),
        1 => Just(1u64 << 63),
    ]
}

fn memory() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => Just(0u8), 4 => 0..8u8, 2 => Just(b'.'), 2 => Just(b'/'), 2 => Just(b'f'), 1 => any::<u8>()];
    prop_oneof![8 => prop::collection::vec(byte, 512), 1 => Just(Vec::new()), 1 => prop::collection::vec(any::<u8>(), 0..70)]
}

fn calls() -> impl Strategy<Value = Vec<(Function, Vec<u64>)>> {
    let call = (
        prop::sample::select(Function::ALL),
        prop::collection::vec(argument(), 0..9),
    );
    prop::collection::vec(call, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_or_blocks(mut memory in memory(), calls in calls()) {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("in");
        fs::create_dir(&dir).unwrap();
        fs::write(outer.path().join("secret"), "unchanged").unwrap();
        fs::write(dir.join("f"), "content").unwrap();
        let (input, _writer) = rustix::pipe::pipe().unwrap();
        let mut given = config(&Time::default());
        given.arguments = vec![b"program".to_vec()];
        given.stdio[0] = Stdio::Inherit(input);
        given.directories.push(Directory::open(&dir, "/", false).unwrap());
        // A sparse file as large as its guest says takes no room; an allocated one does.
        given.limits.output_bytes = Some(1 << 20);
        let mut wasi = Wasi::new(given).unwrap();
        for (function, arguments) in calls {
            match wasi.call(function, &arguments, &mut memory) {
                Step::Wait(wait) => {
                    prop_assert!(function.may_wait(), "{function:?}");
                    let again = wasi.call(function, &arguments, &mut memory);
                    if let Step::Wait(again) = again {
                        prop_assert_eq!(again.deadline, wait.deadline);
                    }
                }
                Step::Exit(_) => prop_assert_eq!(function, Function::ProcExit),
                Step::Done(_) => {}
            }
            let _ = wasi.descriptors();
        }
        if let Ok(state) = wasi.capture() {
            let bytes = postcard::to_stdvec(&state).unwrap();
            prop_assert_eq!(state, postcard::from_bytes(&bytes).unwrap());
        }
        prop_assert_eq!(fs::read(outer.path().join("secret")).unwrap(), b"unchanged");
        prop_assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
    }
}
