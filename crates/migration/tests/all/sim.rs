//! A cluster of three nodes on one thread, in virtual time, from one seed.
//!
//! Everything that can differ between two runs is drawn from the seed: how long each message takes, what gets lost
//! or comes twice, what crashes when, who asks for which move. After each thing that happens the checks look at
//! the whole cluster, which no node could; and at the end, when all faults have ceased, everything must be in
//! order again.
//!
//! - [`world`]: time, the network, what happens next
//! - [`drive`]: what comes of it
//! - [`node`]: a service and a runner: a driver for [`Moves`](sterna_migration::Moves) and a model of what it
//!   drives
//! - [`keep`]: files, and snapshots
//! - [`transfer`]: pages and images on their way
//! - [`follow`]: memory that comes after its process
//! - [`memory`]: what processes write, page by page
//! - [`checks`]: what must hold
//! - [`mutation`]: nodes, runners and registries that break one rule, to see that the checks notice
//! - [`random`]: random numbers

mod checks;
mod drive;
mod follow;
mod keep;
mod memory;
mod mutation;
mod node;
mod random;
mod transfer;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use mutation::Mutation;
use world::{Ended, World};

/// Unless `STERNA_SIM_SEEDS` says otherwise.
const SEEDS: u64 = 60_000;
/// How often each of [`MUST_HAPPEN`] must have come up in that many.
const RARE: u64 = 10;

/// What the seeds must have led to, or they are not worth much.
const MUST_HAPPEN: &[&str] = &[
    "moved",
    "moved on",
    "moved back",
    "moved, copy kept",
    "moved, copy gone",
    "moved in a round",
    "moved in rounds",
    "moved, no time for a round",
    "moved without the rounds wanted",
    "rounds: enough",
    "rounds: not converging",
    "rounds: late",
    "stayed, refused",
    "stayed, unanswered",
    "stayed, cancelled",
    "stayed, registry silent",
    "stayed, leftover",
    "stayed, round failed",
    "stayed, downtime",
    "stayed, deadline",
    "stayed, no rounds",
    "stayed, pause",
    "stayed, capture",
    "stayed, push",
    "stayed, not committed",
    "stayed, target failed",
    "stayed, restarted",
    "ended",
    "lost",
    "lost, copy kept",
    "arrived",
    "settled by the source",
    "settled by the target",
    "commit came too late",
    "settling came too late",
    "refused a second move",
    "target: busy",
    "service crashed in a move",
    "runner crashed in a move",
    "service crashed in a round",
    "runner crashed in a round",
    "service crashed in a freeze",
    "service crashed in a thaw",
    "fenced",
    "frozen",
    "freezing came too late",
    "thawed",
    "thawed elsewhere",
    "recovered",
    "recovered from the copy",
    "going on came too late",
    "memory followed",
    "moved, memory followed",
    "moved, memory followed the rounds",
    "moved, memory followed, no time for a round",
    "lost without its memory",
    "memory did not follow before the commit",
    "service crashed while memory followed",
    "runner crashed while memory followed",
    "stayed, memory cannot follow",
];

fn run(seed: u64, mutation: Mutation, trace: bool) -> Ended {
    World::new(seed, mutation, trace).run()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// Fails with the trace of a seed that ended badly.
fn fail(seed: u64, violation: &str) -> ! {
    let trace = run(seed, Mutation::None, true).trace.join("\n");
    panic!(
        "{trace}\n\nseed {seed}: {violation}\n\
         This was printed by: STERNA_SIM_SEED={seed} cargo test -p sterna-migration every_seed"
    );
}

#[test]
fn every_seed_ends_well() {
    if let Some(seed) = number("STERNA_SIM_SEED") {
        let ended = run(seed, Mutation::None, true);
        println!("{}", ended.trace.join("\n"));
        if let Err(violation) = ended.result {
            fail(seed, &violation);
        }
        return;
    }
    let seeds = number("STERNA_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let seen: Mutex<BTreeMap<&str, u64>> = Mutex::default();
    let work = || {
        let mut mine = BTreeMap::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            let ended = run(seed, Mutation::None, false);
            if let Err(violation) = ended.result {
                fail(seed, &violation);
            }
            for (what, times) in ended.seen {
                *mine.entry(what).or_insert(0) += times;
            }
        }
        let mut seen = seen.lock().unwrap();
        for (what, times) in mine {
            *seen.entry(what).or_insert(0) += times;
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let seen = seen.into_inner().unwrap();
    println!("{seen:#?}");
    if seeds >= SEEDS {
        for what in MUST_HAPPEN {
            let times = seen.get(what).copied().unwrap_or(0);
            assert!(times >= RARE, "{what:?} came up only {times} times");
        }
    }
}

#[test]
fn a_seed_always_ends_the_same_way() {
    for seed in 0..20 {
        let (one, other) = (
            run(seed, Mutation::None, true),
            run(seed, Mutation::None, true),
        );
        assert_eq!(one.trace, other.trace);
    }
}

/// Seeds in which each mutation must be noticed; most are in the first ten.
const SEEDS_OF_A_MUTATION: u64 = SEEDS;

#[test]
fn every_broken_rule_is_noticed() {
    for &(mutation, words) in Mutation::ALL {
        let noticed = (0..SEEDS_OF_A_MUTATION).find_map(|seed| {
            let violation = run(seed, mutation, false).result.err()?;
            violation.contains(words).then_some((seed, violation))
        });
        let (seed, violation) = noticed.unwrap_or_else(|| panic!("nobody noticed {mutation:?}"));
        println!("{mutation:?} is noticed at seed {seed}: {violation}");
    }
}
