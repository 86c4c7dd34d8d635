//! When rounds go on and when they end.

use super::*;

const MILLI: Duration = Duration::from_millis(1);

fn travel(strategy: Option<Strategy>) -> Travel {
    Travel {
        strategy,
        ..Travel::default()
    }
}

/// At a megabyte a millisecond.
fn round(pages: u64, dirty: u64) -> Round {
    let bytes = pages * PAGE_SIZE as u64;
    Round {
        pages,
        bytes,
        took: Duration::from_nanos(bytes),
        held_back: Duration::ZERO,
        dirty,
    }
}

fn begun(travel: Travel) -> Rounds {
    let mut rounds = Rounds::new(travel, Time::ZERO);
    assert_eq!(rounds.agreed(Strategy::PreCopy), Next::Round);
    rounds.begin(2 * MILLI);
    rounds
}

fn sent(rounds: &mut Rounds, round: Round, now: Time) -> Next {
    rounds.note(round);
    rounds.sent(&round, now, &Limits::default())
}

fn at(millis: u64) -> Time {
    Time::from_micros(millis * 1000)
}

#[test]
fn rounds_go_on_until_the_rest_goes_fast_enough() {
    let limits = Limits::default();
    let mut rounds = begun(travel(None));
    assert_eq!(rounds.counted(100_000, at(1), &limits), Next::Round);
    assert_eq!(
        sent(&mut rounds, round(100_000, 10_000), at(500)),
        Next::Round
    );
    assert_eq!(sent(&mut rounds, round(10_000, 1000), at(600)), Next::Pause);
    let travelled = rounds.travelled();
    assert_eq!(travelled.end, Some(RoundsEnd::Enough));
    assert_eq!(travelled.rounds.len(), 2);
    let expected = travelled.expected.unwrap();
    assert!(expected > 6 * MILLI && expected < 7 * MILLI, "{expected:?}");
}

#[test]
fn what_is_written_as_fast_as_it_is_copied_is_stopped() {
    let limits = Limits::default();
    let mut rounds = begun(travel(None));
    assert_eq!(rounds.counted(100_000, at(1), &limits), Next::Round);
    assert_eq!(
        sent(&mut rounds, round(100_000, 50_000), at(2)),
        Next::Round
    );
    assert_eq!(sent(&mut rounds, round(50_000, 50_000), at(3)), Next::Pause);
    assert_eq!(rounds.travelled().end, Some(RoundsEnd::NotConverging));

    let strict = Travel {
        downtime_max: Some(5 * MILLI),
        ..travel(Some(Strategy::PreCopy))
    };
    let mut rounds = begun(strict);
    rounds.counted(100_000, at(1), &limits);
    let next = sent(&mut rounds, round(100_000, 100_000), at(2));
    let Next::GiveUp(MoveFailure::Downtime { expected, max }) = next else {
        panic!("{next:?}");
    };
    assert!(max == 5 * MILLI && expected > 400 * MILLI);

    // Nothing is left, but the registry's word alone takes too long.
    let mut rounds = Rounds::new(strict, at(0));
    rounds.agreed(Strategy::PreCopy);
    rounds.begin(6 * MILLI);
    rounds.counted(100, at(1), &limits);
    let next = sent(&mut rounds, round(100, 0), at(2));
    let given_up = matches!(next, Next::GiveUp(MoveFailure::Downtime { .. }));
    assert!(given_up, "{next:?}");
}

#[test]
fn their_number_is_limited() {
    let limits = Limits::default();
    let mut rounds = begun(travel(None));
    let mut next = rounds.counted(1 << 20, at(1), &limits);
    let mut left = 1 << 20;
    while next == Next::Round {
        left -= 1;
        next = sent(&mut rounds, round(left + 1, left), at(1));
    }
    assert_eq!(next, Next::Pause);
    assert_eq!(rounds.travelled().rounds.len(), limits.rounds_max);
}

#[test]
fn little_memory_goes_at_once_unless_rounds_are_wanted() {
    let limits = Limits::default();
    let mut rounds = begun(travel(None));
    assert_eq!(rounds.counted(20, at(1), &limits), Next::Pause);
    assert_eq!(rounds.travelled().strategy, Strategy::StopAndCopy);
    let mut rounds = begun(travel(Some(Strategy::PreCopy)));
    assert_eq!(rounds.counted(20, at(1), &limits), Next::Round);
    assert_eq!(sent(&mut rounds, round(20, 1), at(2)), Next::Pause);
    assert_eq!(rounds.travelled().strategy, Strategy::PreCopy);
}

#[test]
fn no_round_begins_that_would_end_after_the_deadline() {
    let limits = Limits::default();
    let wanted = Travel {
        within: Some(1000 * MILLI),
        ..travel(None)
    };
    let mut rounds = begun(wanted);
    assert_eq!(rounds.counted(10_000, at(1), &limits), Next::Round);
    assert_eq!(sent(&mut rounds, round(10_000, 9000), at(970)), Next::Pause);
    assert_eq!(rounds.travelled().end, Some(RoundsEnd::Late));

    // 40 MB at 10 MB a second.
    let wanted = Travel {
        rate_max: Some(10_000_000),
        ..wanted
    };
    let next = begun(wanted).counted(10_000, at(1), &limits);
    let Next::GiveUp(MoveFailure::Deadline { needed, within }) = next else {
        panic!("{next:?}");
    };
    assert_eq!((needed, within), (4096 * MILLI, 1000 * MILLI));

    // 4 GB at any rate.
    let wanted = Travel {
        rate_max: None,
        within: Some(800 * MILLI),
        ..wanted
    };
    let next = begun(wanted).counted(1_000_000, at(1), &limits);
    let given_up = matches!(next, Next::GiveUp(MoveFailure::Deadline { .. }));
    assert!(given_up, "{next:?}");
}

#[test]
fn a_rate_that_was_kept_to_is_not_taken_for_that_of_the_last_push() {
    let limits = Limits::default();
    let wanted = Travel {
        rate_max: Some(1 << 20),
        ..travel(None)
    };
    let mut rounds = begun(wanted);
    rounds.counted(10_000, at(1), &limits);
    let held_back = 39_000 * MILLI;
    let one = round(10_000, 1000);
    let held = Round {
        took: one.took + held_back,
        held_back,
        ..one
    };
    assert_eq!(sent(&mut rounds, held, at(40_000)), Next::Pause);
}

#[test]
fn without_rounds_a_strict_limit_ends_the_move() {
    assert_eq!(begun(travel(None)).without("why"), Next::Pause);
    assert_eq!(
        begun(travel(Some(Strategy::PreCopy))).without("why"),
        Next::Pause
    );
    let strict = Travel {
        downtime_max: Some(MILLI),
        ..travel(Some(Strategy::PreCopy))
    };
    let reason = "why".to_owned();
    let given_up = Next::GiveUp(MoveFailure::NoPreCopy { reason });
    assert_eq!(begun(strict).without("why"), given_up);
}

#[test]
fn what_cannot_be_wanted_is_named() {
    let some = Some(Duration::from_millis(10));
    let check = |travel: Travel, expected| assert_eq!(travel.check(), expected);
    check(Travel::default(), Ok(()));
    let stop = travel(Some(Strategy::StopAndCopy));
    check(stop, Ok(()));
    for contradictory in [
        Travel {
            downtime_max: some,
            ..stop
        },
        Travel {
            within: some,
            ..stop
        },
        Travel {
            rate_max: Some(RATE_MIN),
            ..stop
        },
    ] {
        check(contradictory, Err(TravelError::NoRounds));
    }
    let min = RATE_MIN;
    for rate in [0, RATE_MIN - 1] {
        let rate_max = Some(rate);
        let slow = Travel {
            rate_max,
            ..travel(None)
        };
        check(slow, Err(TravelError::Rate { rate, min }));
    }
    let none = Travel {
        within: Some(Duration::ZERO),
        ..travel(None)
    };
    check(none, Err(TravelError::NoTime));
    let later = travel(Some(Strategy::PostCopy));
    let slowly = Travel {
        rate_max: Some(RATE_MIN),
        within: some,
        ..later
    };
    let short = Travel {
        downtime_max: some,
        ..later
    };
    for (travel, expected) in [
        (later, Ok(())),
        (slowly, Ok(())),
        (short, Err(TravelError::Downtime)),
    ] {
        check(travel, expected);
    }
}

/// What the target takes memory in as, and what comes of rounds that do not converge.
#[test]
fn what_rounds_leave_follows_if_it_may_and_the_target_can() {
    let limits = Limits::default();
    let cases = [
        (None, Strategy::PostCopy, Strategy::Hybrid),
        (None, Strategy::PreCopy, Strategy::PreCopy),
        (
            Some(Strategy::PreCopy),
            Strategy::PreCopy,
            Strategy::PreCopy,
        ),
    ];
    for (wanted, answered, expected) in cases {
        let mut rounds = Rounds::new(travel(wanted), Time::ZERO);
        assert_eq!(rounds.agreed(answered), Next::Round);
        rounds.begin(2 * MILLI);
        assert_eq!(rounds.counted(100_000, at(1), &limits), Next::Round);
        assert_eq!(rounds.rest(at(1), &limits), Rest::Along);
        let next = sent(&mut rounds, round(100_000, 100_000), at(500));
        assert_eq!(next, Next::Pause);
        let travelled = rounds.travelled();
        assert_eq!(travelled.strategy, expected);
        assert_eq!(travelled.end, Some(RoundsEnd::NotConverging));
        let follows = expected == Strategy::Hybrid;
        assert_eq!(travelled.expected < Some(10 * MILLI), follows);
        assert_eq!(rounds.rest(at(500), &limits) != Rest::Along, follows);
    }
}

#[test]
fn whoever_wants_memory_to_follow_gets_that_or_nothing() {
    let limits = Limits::default();
    let wanted = Travel {
        rate_max: Some(1 << 20),
        within: Some(1000 * MILLI),
        ..travel(Some(Strategy::PostCopy))
    };
    for answer in [Strategy::StopAndCopy, Strategy::PreCopy] {
        let next = Rounds::new(wanted, Time::ZERO).agreed(answer);
        let refused = matches!(next, Next::GiveUp(MoveFailure::NoPostCopy { .. }));
        assert!(refused, "{next:?}");
    }
    let begun = || {
        let mut rounds = Rounds::new(wanted, Time::ZERO);
        rounds.agreed(Strategy::PostCopy);
        rounds.begin(2 * MILLI);
        rounds
    };
    let mut rounds = begun();
    assert_eq!(rounds.counted(100, at(1), &limits), Next::Pause);
    let within = 900 * MILLI;
    let rate_max = Some(1 << 20);
    assert_eq!(
        rounds.rest(at(100), &limits),
        Rest::Follows { rate_max, within }
    );
    let too_much = begun().counted(1000, at(1), &limits);
    let given_up = matches!(too_much, Next::GiveUp(MoveFailure::Deadline { .. }));
    assert!(given_up, "{too_much:?}");
    // If it cannot be noted what it writes, that is found out while it stands still.
    let mut rounds = begun();
    assert_eq!(rounds.without("why"), Next::Pause);
    assert_eq!(rounds.travelled().strategy, Strategy::PostCopy);
}

#[test]
fn what_rounds_leave_of_a_hybrid_follows_however_little_it_is() {
    let limits = Limits::default();
    let wanted = travel(Some(Strategy::Hybrid));
    assert_eq!(wanted.offered(), Strategy::PostCopy);
    let next = Rounds::new(wanted, Time::ZERO).agreed(Strategy::PreCopy);
    let refused = matches!(next, Next::GiveUp(MoveFailure::NoPostCopy { .. }));
    assert!(refused, "{next:?}");
    let begun = || {
        let mut rounds = Rounds::new(wanted, Time::ZERO);
        assert_eq!(rounds.agreed(Strategy::PostCopy), Next::Round);
        rounds
    };
    let mut rounds = begun();
    rounds.begin(2 * MILLI);
    assert_eq!(rounds.counted(10, at(1), &limits), Next::Round);
    assert_eq!(sent(&mut rounds, round(10, 1), at(2)), Next::Pause);
    assert_eq!(rounds.travelled().strategy, Strategy::Hybrid);
    assert_eq!(rounds.travelled().end, Some(RoundsEnd::Enough));
    assert!(matches!(
        rounds.rest(at(2), &limits),
        Rest::Follows { rate_max: None, .. }
    ));
    // Without rounds all of it follows.
    let mut rounds = begun();
    assert_eq!(rounds.without("why"), Next::Pause);
    assert_eq!(rounds.travelled().strategy, Strategy::PostCopy);
    assert!(rounds.travelled().why_not.is_some());
}

/// What the registry takes for its word is not less by another round.
#[test]
fn nothing_left_is_enough_however_slow_the_registry_is() {
    let mut rounds = begun(travel(None));
    rounds.begin(500 * MILLI);
    assert_eq!(sent(&mut rounds, round(100_000, 0), at(100)), Next::Pause);
    assert_eq!(rounds.travelled().end, Some(RoundsEnd::Enough));
    rounds.note(round(0, 0));
    assert_eq!(rounds.travelled().rounds.len(), 1);
}
