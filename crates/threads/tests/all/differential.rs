//! The same programs on the standard library and on each implementation, compared by what they return.

use crate::IMPLEMENTATIONS;
use sterna_threads::Runtime;

/// Makes the same source a function for each of two libraries.
macro_rules! programs {
    ($($name:ident => $body:expr;)*) => {
        mod on_std {
            $(pub(super) fn $name() -> Vec<u64> {
                #[allow(unused_imports, reason = "not every program uses everything")]
                use std::thread::{self, scope, spawn, yield_now, park};
                $body
            })*
        }
        mod on_ours {
            $(pub(super) fn $name() -> Vec<u64> {
                #[allow(unused_imports, reason = "not every program uses everything")]
                use sterna_threads::{self as thread, scope, spawn, yield_now, park};
                $body
            })*
        }
        $(#[test]
        fn $name() {
            let expected = on_std::$name();
            for &implementation in IMPLEMENTATIONS {
                let runtime = Runtime::builder(implementation).workers(2).build().unwrap();
                assert_eq!(runtime.run(on_ours::$name), expected, "{implementation:?}");
            }
        })*
    };
}

programs! {
    tree => {
        fn sum(low: u64, high: u64) -> u64 {
            if high - low < 4 {
                return (low..high).sum();
            }
            let middle = (low + high) / 2;
            let left = spawn(move || sum(low, middle));
            sum(middle, high) + left.join().unwrap()
        }
        vec![sum(0, 500)]
    };
    turns => {
        use std::sync::{Arc, Mutex};
        let log = Arc::new(Mutex::new(Vec::new()));
        let main = thread::current();
        for turn in 0..20 {
            let (log, main) = (Arc::clone(&log), main.clone());
            let handle = spawn(move || {
                park();
                log.lock().unwrap().push(turn);
                main.unpark();
            });
            handle.thread().unpark();
            park();
            handle.join().unwrap();
        }
        std::mem::take(&mut *log.lock().unwrap())
    };
    borrowed => {
        let mut table = vec![0_u64; 64];
        for round in 1..5 {
            scope(|scope| {
                for (at, chunk) in table.chunks_mut(8).enumerate() {
                    scope.spawn(move || {
                        for cell in chunk {
                            yield_now();
                            *cell += round * at as u64;
                        }
                    });
                }
            });
        }
        table
    };
    failures => {
        let handles: Vec<_> = (0..10_u64)
            .map(|number| spawn(move || {
                if number % 3 == 0 {
                    std::panic::resume_unwind(Box::new(number));
                }
                number
            }))
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|payload| 1000 + payload.downcast_ref::<u64>().unwrap()))
            .collect()
    };
}
