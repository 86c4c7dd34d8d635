//! Whether what clients saw of one key can have happened in some order, one call after the other, each between its beginning
//! and its answer: linearizability (Herlihy and Wing 1990), by which each key can be looked at alone.
//!
//! The search is that of Wing and Gong (*Testing and verifying concurrent objects*, 1993) with Lowe's memory of what was tried
//! (*Testing for linearizability*, 2017). A call without an answer may have happened at any time after it began, or not at
//! all. Such calls are tried last, and only where others leave room for them: no two writes make the same version, and a
//! version has one value. Without that the search would go through all sets of them.

use std::collections::{BTreeSet, HashMap, HashSet};

/// What is asked of a key. Values are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Put(u64),
    Get,
    Delete,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The key has been written so often.
    Put(u64),
    /// So often, and this last.
    Got(u64, u64),
    Deleted,
    /// To `Get` and `Delete`.
    Nothing,
}

/// One call of one client. Moments are numbers that only grow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) deed: Deed,
    pub(crate) begun: u64,
    pub(crate) answered: Option<(u64, Answer)>,
}

/// What is kept of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Kept {
    /// How often it was written.
    version: u64,
    value: Option<u64>,
}

impl Kept {
    /// The right answer, and what is kept afterwards.
    fn after(self, deed: Deed) -> (Self, Answer) {
        let Self { version, value } = self;
        match (deed, value) {
            (Deed::Put(value), _) => {
                let (version, value) = (version + 1, Some(value));
                (Self { version, value }, Answer::Put(version))
            }
            (Deed::Get, Some(value)) => (self, Answer::Got(version, value)),
            (Deed::Delete, Some(_)) => {
                let value = None;
                (Self { version, value }, Answer::Deleted)
            }
            (Deed::Get | Deed::Delete, None) => (self, Answer::Nothing),
        }
    }

    /// What is kept after a call, if its answer, if there was one, is the right one.
    fn took(self, call: &Call) -> Option<Self> {
        let (kept, right) = self.after(call.deed);
        let is_right = call.answered.is_none_or(|(_, answer)| answer == right);
        is_right.then_some(kept)
    }
}

/// Which calls are in an order already: of those with answers the first ones, and some more; of the others some.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Ordered {
    first: usize,
    more: BTreeSet<usize>,
    unanswered: BTreeSet<usize>,
}

impl Ordered {
    fn with(&self, one: Next) -> Self {
        let mut with = self.clone();
        match one {
            Next::Answered(call) => with.more.insert(call),
            Next::Unanswered(call) => with.unanswered.insert(call),
        };
        while with.more.remove(&with.first) {
            with.first += 1;
        }
        with
    }
}

/// A call by its place among its like.
#[derive(Debug, Clone, Copy)]
enum Next {
    Answered(usize),
    Unanswered(usize),
}

/// All calls that concern one key.
struct History {
    /// In the order in which they began.
    answered: Vec<Call>,
    unanswered: Vec<Call>,
    /// Versions of writes that were answered.
    written: HashSet<u64>,
    /// Values that were seen, by version.
    seen: HashMap<u64, u64>,
    /// Versions by value, of those that one call alone has put.
    only: HashMap<u64, u64>,
}

impl History {
    fn call(&self, one: Next) -> &Call {
        match one {
            Next::Answered(call) => &self.answered[call],
            Next::Unanswered(call) => &self.unanswered[call],
        }
    }

    fn new(mut answered: Vec<Call>) -> Self {
        answered.sort_by_key(|call| call.begun);
        let mut unanswered = answered.clone();
        answered.retain(|call| call.answered.is_some());
        // What only looks and hears nothing says nothing.
        unanswered.retain(|call| call.answered.is_none() && call.deed != Deed::Get);
        let answers = || answered.iter().filter_map(|call| Some(call.answered?.1));
        let written = answers().filter_map(|answer| match answer {
            Answer::Put(version) => Some(version),
            _ => None,
        });
        let seen = answers().filter_map(|answer| match answer {
            Answer::Got(version, value) => Some((version, value)),
            _ => None,
        });
        let seen: HashMap<u64, u64> = seen.collect();
        let calls = || answered.iter().chain(&unanswered);
        let puts = |value| calls().filter(|call| call.deed == Deed::Put(value)).count();
        let only = seen.iter().map(|(version, value)| (*value, *version));
        Self {
            written: written.collect(),
            only: only.filter(|(value, _)| puts(*value) == 1).collect(),
            seen,
            answered,
            unanswered,
        }
    }

    /// Whether a write without an answer can have made a version.
    fn may_have_made(&self, value: u64, version: u64) -> bool {
        let seen = self.seen.get(&version);
        let only = self.only.get(&value);
        !self.written.contains(&version)
            && seen.is_none_or(|seen| *seen == value)
            && only.is_none_or(|only| *only == version)
    }

    /// Calls that may come next: they began before the answer of every one that is still to come.
    fn next(&self, ordered: &Ordered, kept: Kept) -> Vec<Next> {
        let mut until = u64::MAX;
        let mut next = Vec::new();
        for (place, call) in self.answered.iter().enumerate().skip(ordered.first) {
            if call.begun > until {
                break;
            }
            if let (false, Some((at, _))) = (ordered.more.contains(&place), call.answered) {
                until = until.min(at);
                next.push(Next::Answered(place));
            }
        }
        next.retain(|one| self.call(*one).begun <= until);
        let is_seen = |value| self.seen.values().any(|seen| *seen == value);
        // Of those that nobody can tell from each other the first will do.
        let (mut deletes, mut puts) = (false, false);
        for (place, call) in self.unanswered.iter().enumerate() {
            let is_another = match call.deed {
                _ if call.begun > until => break,
                _ if ordered.unanswered.contains(&place) => false,
                Deed::Put(value) if !self.may_have_made(value, kept.version + 1) => false,
                Deed::Put(value) if is_seen(value) => true,
                Deed::Put(_) => !std::mem::replace(&mut puts, true),
                Deed::Delete | Deed::Get => !std::mem::replace(&mut deletes, true),
            };
            if is_another {
                next.push(Next::Unanswered(place));
            }
        }
        next
    }
}

/// That there is an order for all calls of one key, which nobody has written before.
///
/// # Errors
/// There is none: how far one goes, and the calls of which none fits then.
pub(crate) fn check(calls: &[Call]) -> Result<(), String> {
    let history = History::new(calls.to_vec());
    let mut tried = HashSet::new();
    let mut open = vec![(Ordered::default(), Kept::default())];
    let mut furthest = (Ordered::default(), Kept::default());
    while let Some((ordered, kept)) = open.pop() {
        if ordered.first == history.answered.len() {
            return Ok(());
        }
        // What is pushed last is tried first.
        for one in history.next(&ordered, kept).into_iter().rev() {
            if let Some(kept) = kept.took(history.call(one)) {
                let with = (ordered.with(one), kept);
                if tried.insert(with.clone()) {
                    open.push(with);
                }
            }
        }
        if ordered.first >= furthest.0.first {
            furthest = (ordered, kept);
        }
    }
    let (ordered, kept) = furthest;
    let next = history.next(&ordered, kept).into_iter();
    let next: Vec<&Call> = next.map(|one| history.call(one)).collect();
    Err(format!(
        "after {} of {} calls there is {kept:?}, and none of these fits: {next:#?}",
        ordered.first,
        history.answered.len()
    ))
}

mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: u64 = 10;

    fn deed() -> impl Strategy<Value = Deed> {
        prop_oneof![
            4 => (0..1000u64).prop_map(Deed::Put),
            4 => Just(Deed::Get),
            1 => Just(Deed::Delete),
        ]
    }

    /// Calls that happen one after the other, each at a moment of which clients see the surroundings only.
    fn calls(deeds: Vec<(Deed, u64, u64)>) -> Vec<Call> {
        let mut kept = Kept::default();
        let mut at = 1000;
        let call = |(deed, before, after): (Deed, u64, u64)| {
            at += STEP;
            let (then, answer) = kept.after(deed);
            kept = then;
            Call {
                deed,
                begun: at - before,
                answered: Some((at + after, answer)),
            }
        };
        deeds.into_iter().map(call).collect()
    }

    /// Clients see so much more than the moment itself: several calls at once.
    fn history(many: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Call>> {
        let spread = 0..STEP * 6;
        let one = (deed(), spread.clone(), spread);
        prop::collection::vec(one, many).prop_map(calls)
    }

    /// One call after the other.
    fn sequence(many: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Call>> {
        let one = (deed(), 0..STEP / 2, 0..STEP / 2);
        prop::collection::vec(one, many).prop_map(calls)
    }

    /// The definition, word for word: of all orders of all calls, with any of those that have no answer, is there one that
    /// keeps to time and answers?
    fn by_definition(left: &[Call], kept: Kept) -> bool {
        if left.iter().all(|call| call.answered.is_none()) {
            return true;
        }
        (0..left.len()).any(|place| {
            let mut others = left.to_vec();
            let call = others.remove(place);
            let is_late = |other: &Call| other.answered.is_some_and(|(at, _)| at < call.begun);
            let fits = !others.iter().any(is_late);
            fits && kept
                .took(&call)
                .is_some_and(|kept| by_definition(&others, kept))
        })
    }

    /// Answers that anybody might have heard, few enough for them to be right now and then.
    fn anything() -> impl Strategy<Value = Vec<Call>> {
        let answer = |deed: Deed, version: u64, value: u64| match (deed, value) {
            (Deed::Put(_), _) => Answer::Put(version),
            (_, 0) => Answer::Nothing,
            (Deed::Delete, _) => Answer::Deleted,
            (Deed::Get, value) => Answer::Got(version, value),
        };
        let deed = prop_oneof![
            3 => (1..3u64).prop_map(Deed::Put),
            2 => Just(Deed::Get),
            1 => Just(Deed::Delete),
        ];
        let one = (deed, 0..20u64, 0..10u64, 0..5u64, 0..3u64, 0..3u64);
        let call = move |(deed, begun, takes, is_answered, version, value)| Call {
            deed,
            begun,
            answered: (is_answered > 0).then(|| (begun + takes, answer(deed, version, value))),
        };
        prop::collection::vec(one.prop_map(call), 1..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn what_has_happened_is_accepted(calls in history(0..120)) {
            prop_assert_eq!(check(&calls), Ok(()));
        }

        /// Some answers are lost; and of those calls, some never get there.
        #[test]
        fn so_it_is_without_some_answers(
            deeds in prop::collection::vec((deed(), 0..60u64, 0..60u64, 0..10u8), 0..80),
        ) {
            let happened = deeds.iter().filter(|one| one.3 != 0);
            let mut seen = calls(happened.map(|one| (one.0, one.1, one.2)).collect());
            let fates = deeds.iter().filter(|one| one.3 != 0).map(|one| one.3);
            for (call, fate) in seen.iter_mut().zip(fates) {
                if fate == 1 {
                    call.answered = None;
                }
            }
            let never = deeds.iter().filter(|one| one.3 == 0);
            seen.extend(never.map(|one| Call { deed: one.0, begun: 1000 + one.1, answered: None }));
            prop_assert_eq!(check(&seen), Ok(()));
        }

        #[test]
        fn it_is_as_by_definition(calls in anything()) {
            prop_assert_eq!(check(&calls).is_ok(), by_definition(&calls, Kept::default()), "{:?}", calls);
        }

        #[test]
        fn a_value_that_nobody_wrote_is_noticed(calls in history(2..60), which in any::<prop::sample::Index>()) {
            let mut calls = calls;
            let version = which.index(60) as u64;
            calls.push(Call { deed: Deed::Get, begun: 5000, answered: Some((5001, Answer::Got(version, 1000))) });
            prop_assert!(check(&calls).is_err());
        }

        /// Two clients are told that theirs was the same write.
        #[test]
        fn a_write_that_happens_twice_is_noticed(calls in history(2..60), which in any::<prop::sample::Index>()) {
            let puts: Vec<Call> = calls.iter().filter(|call| matches!(call.deed, Deed::Put(_))).copied().collect();
            prop_assume!(!puts.is_empty());
            let again = puts[which.index(puts.len())];
            prop_assert!(check(&[calls, vec![again]].concat()).is_err());
        }

        /// A write gets lost: whoever writes next hears a number too small.
        #[test]
        fn a_write_that_is_lost_is_noticed(calls in history(2..60), which in any::<prop::sample::Index>()) {
            let mut calls = calls;
            let of = |call: &Call| match call.answered {
                Some((_, Answer::Put(version))) => Some(version),
                _ => None,
            };
            let most = calls.iter().filter_map(of).max().unwrap_or(0);
            prop_assume!(most > 1);
            let lost = 1 + which.index(most as usize - 1) as u64;
            for call in &mut calls {
                if let Some((_, Answer::Put(version) | Answer::Got(version, _))) = &mut call.answered {
                    *version -= u64::from(*version > lost);
                }
            }
            prop_assert!(check(&calls).is_err(), "{}: {:#?}", lost, calls);
        }

        /// Somebody sees what was there before the last write.
        #[test]
        fn an_old_value_is_noticed(calls in sequence(3..60), which in any::<prop::sample::Index>()) {
            let mut calls = calls;
            let is_written = |call: &Call| matches!(call.deed, Deed::Put(_));
            let gets: Vec<(usize, Answer)> = (1..calls.len())
                .filter(|place| calls[*place].deed == Deed::Get)
                .filter_map(|place| {
                    let last = calls[..place].iter().rposition(is_written)?;
                    let before = calls[..last].iter().fold(Kept::default(), |kept, call| kept.after(call.deed).0);
                    let old = before.after(Deed::Get).1;
                    let now = calls[place].answered.map(|(_, answer)| answer);
                    (now != Some(old)).then_some((place, old))
                })
                .collect();
            prop_assume!(!gets.is_empty());
            let (place, old) = gets[which.index(gets.len())];
            let at = calls[place].answered.map_or(0, |(at, _)| at);
            calls[place].answered = Some((at, old));
            prop_assert!(check(&calls).is_err(), "{}: {:#?}", place, calls);
        }
    }
}
