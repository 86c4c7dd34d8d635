//! Stacks: sizes, guards and recycling; switching there and back.
#![allow(unsafe_code, reason = "tests of unsafe functions")]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Context, Guards, Slab, StackError, prepare, switch};

struct Pair {
    outside: Cell<Context>,
    inside: Cell<Context>,
    log: Cell<u64>,
}

extern "C" fn count(argument: usize) -> ! {
    // SAFETY: 1. The test passes a pair that outlives the context.
    let pair = unsafe { &*(argument as *const Pair) };
    let caught = catch_unwind(AssertUnwindSafe(|| {
        std::panic::resume_unwind(Box::new(7_u64));
    }));
    let mut value = *caught.unwrap_err().downcast::<u64>().unwrap();
    let mut float = 0.5_f64;
    loop {
        pair.log.set(value + float as u64);
        // SAFETY: 1. The outside is suspended in `resume`.
        unsafe { switch(pair.inside.as_ptr(), pair.outside.get()) };
        value += 1;
        float *= 2.0;
    }
}

fn resume(pair: &Pair) -> u64 {
    // SAFETY: 1. The inside is suspended or new, and its stack is alive.
    unsafe { switch(pair.outside.as_ptr(), pair.inside.get()) };
    pair.log.get()
}

#[test]
fn values_survive_switches_and_panics_stay_inside() {
    let slab = Slab::new(64 * 1024, Guards::Marks).unwrap();
    let stack = slab.take().unwrap();
    let pair = Pair {
        outside: Cell::new(Context::NONE),
        inside: Cell::new(Context::NONE),
        log: Cell::new(0),
    };
    // SAFETY: 1. The stack is new.
    let context = unsafe { prepare(&stack, count, &raw const pair as usize) };
    pair.inside.set(context);
    let seen: Vec<u64> = (0..5).map(|_| resume(&pair)).collect();
    assert_eq!(seen, [7, 9, 11, 14, 19]);
}

#[test]
fn stacks_are_recycled() {
    for guards in [Guards::Marks, Guards::Mappings] {
        let slab = Slab::new(64 * 1024, guards).unwrap();
        let stacks: Vec<_> = (0..200).map(|_| slab.take().unwrap()).collect();
        for stack in &stacks {
            assert_eq!(stack.top() % 16, 0);
            assert!(stack.guards(stack.bottom() - 1));
            assert!(!stack.guards(stack.bottom()));
        }
        drop(stacks);
        let again: Vec<_> = (0..200).map(|_| slab.take().unwrap()).collect();
        assert_eq!(slab.made(), 200);
        drop(again);
    }
}

#[test]
fn impossible_sizes_are_refused() {
    for bytes in [0, 4096, usize::MAX] {
        let refused = Slab::new(bytes, Guards::Marks);
        assert!(matches!(refused, Err(StackError::Size { .. })));
    }
}
