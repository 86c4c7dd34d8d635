//! Costs: every row is there, with a figure or a reason, and the reasons are those that must be.

use std::collections::HashSet;
use std::time::Duration;

use sterna_laboratory::bench::{Bench, Means, Operation, Plan, bench};
use sterna_laboratory::carrier::{Carrier, Cost, Effort, Figure, Placement};

use super::player;

const WAITING: u64 = 40;
const BYTES: usize = 64;

fn quick() -> Bench {
    let plan = Plan {
        effort: Effort {
            rounds: 1,
            round: Duration::from_micros(200),
        },
        waiting: vec![WAITING, u64::MAX >> 20],
        messages: vec![BYTES],
    };
    let mut last = 0.0;
    let bench = bench(&plan, &player(), &mut |what, done| {
        assert!(!what.is_empty() && (last..1.0).contains(&done));
        last = done;
    });
    assert!(last > 0.9);
    bench
}

fn processors() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

fn check(cost: &Figure<Cost>, possible: bool, what: &str) {
    match cost {
        Figure::Measured(cost) => {
            assert!(possible, "{what} makes no sense");
            assert!(
                cost.best_ns > 0.0 && cost.best_ns <= cost.median_ns,
                "{what}"
            );
        }
        Figure::Skipped { skipped } => assert!(!possible, "{what}: {skipped}"),
    }
}

#[test]
fn every_row_is_there() {
    let bench = quick();
    let places = |carrier, placement| match placement {
        Placement::OneProcessor => true,
        Placement::TwoProcessors => carrier != Carrier::User && processors() > 1,
    };
    let mut seen = HashSet::new();
    for row in &bench.operations {
        let what = format!("{:?} {:?} {:?}", row.operation, row.placement, row.carrier);
        check(&row.cost, places(row.carrier, row.placement), &what);
        assert!(seen.insert(what));
    }
    assert_eq!(seen.len(), 6 * 4);
    for operation in [Operation::CreateJoin, Operation::Yield] {
        assert!(
            bench
                .operations
                .iter()
                .any(|row| row.operation == operation)
        );
    }
    seen.clear();
    let queues = sterna_sys::exchange::MessageQueue::new(1, BYTES).is_ok();
    for row in &bench.messages {
        let what = format!("{:?} {:?} {:?}", row.means, row.placement, row.carrier);
        let possible = match (row.means, row.carrier) {
            (Means::Channel, Carrier::Process) => false,
            (Means::SharedMemory, Carrier::User | Carrier::Hybrid) => false,
            (Means::MessageQueue, Carrier::User | Carrier::Hybrid) => false,
            (Means::MessageQueue, _) => queues,
            _ => true,
        };
        check(
            &row.cost,
            possible && places(row.carrier, row.placement),
            &what,
        );
        assert_eq!(row.bytes, BYTES);
        assert!(seen.insert(what));
    }
    assert_eq!(seen.len(), 4 * 2 * 4);
    for row in &bench.memory {
        match &row.held {
            Figure::Measured(held) => {
                assert_eq!(row.count, WAITING);
                assert!(held.resident_bytes >= 0.0 && held.kernel_stack_bytes >= 0.0);
                // A process has at least a stack and tables of its own.
                assert!(row.carrier != Carrier::Process || held.resident_bytes > 16_384.0);
            }
            Figure::Skipped { skipped } => {
                assert_eq!((row.count, skipped.is_empty()), (u64::MAX >> 20, false));
            }
        }
    }
    assert_eq!(bench.memory.len(), 2 * 4);
    let html = bench.page().html();
    assert_eq!(html.matches("<svg").count(), 3);
}
