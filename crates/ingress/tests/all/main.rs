//! Connections over attachments that break, and processes that move, in any order: see [`world`]; while several nodes
//! move the process by the rules of moves: see [`moving`].

mod moving;
mod world;

use world::{Broken, World};

/// Worlds of the usual run; `SEEDS=N` for more.
const SEEDS: u64 = 4_000;

fn seeds() -> std::ops::Range<u64> {
    let first = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let many = std::env::var("SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    match first {
        Some(seed) => seed..seed + 1,
        None => 0..many.unwrap_or(SEEDS),
    }
}

#[test]
fn no_byte_is_lost_doubled_or_reordered_whatever_breaks() {
    let mut total = world::Happened::default();
    for seed in seeds() {
        total += World::run(seed, Broken::Nothing).unwrap_or_else(|why| {
            panic!("SEED={seed}: {why}");
        });
    }
    // A run that never sees these shows nothing.
    assert!(total.moves > 0 && total.cuts > 0 && total.aborted > 0);
    assert!(total.anew > 0 && total.deaths > 0);
    assert!(total.whole > 0 && total.resets > 0 && total.unread > 0);
}

#[test]
fn nothing_breaks_while_a_process_moves_and_messages_are_late_lost_and_doubled() {
    let mut total = moving::Happened::default();
    for seed in seeds() {
        let run = moving::World::run(seed, moving::Broken::Nothing);
        total += run.unwrap_or_else(|why| panic!("SEED={seed}: {why}"));
    }
    println!("{total:?}");
    assert!(total.moved > 0 && total.stayed > 0 && total.whole > 0);
    assert!(total.fenced > 0 && total.attached_standing > 0 && total.deaths > 0);
}

#[test]
fn rules_of_moves_that_are_broken_are_noticed() {
    use moving::Broken;
    for broken in [
        Broken::OldEpochsAttach,
        Broken::OldLinksAreHeard,
        Broken::SilenceResumes,
        Broken::NobodyIsAsked,
    ] {
        let noticed = (0..SEEDS).any(|seed| moving::World::run(seed, broken).is_err());
        assert!(noticed, "{broken:?}");
    }
}

#[test]
fn rules_that_are_broken_are_noticed() {
    for broken in [
        Broken::UnreadStays,
        Broken::OutStays,
        Broken::OldFramesArrive,
        Broken::SameLife,
    ] {
        let noticed = (0..SEEDS).any(|seed| World::run(seed, broken).is_err());
        assert!(noticed, "{broken:?}");
    }
}
