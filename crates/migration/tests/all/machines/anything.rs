//! Anything in any order, as from peers and registries that make no sense: nothing panics, and what must come
//! first has come first.

use proptest::prelude::*;
use sterna_migration::{
    Action, Attempt, Body, Command, Event, Message, MoveId, NodeId, Order, Readied, Record,
    Refusal, Round, RunnerEvent, Strategy as Way, TargetFailure, Timings, Travel,
};
use sterna_process::Epoch;

use super::script::*;

const NODES: [NodeId; 3] = [S, T, U];

fn attempt() -> impl Strategy<Value = Attempt> {
    let move_id = prop_oneof![Just(MOVE), Just(OTHER)];
    let other = (6_u64..10, move_id).prop_map(|(epoch, move_id): (u64, MoveId)| Attempt {
        process: P,
        epoch: Epoch(epoch),
        move_id,
    });
    prop_oneof![4 => Just(ATTEMPT), 1 => other] // mostly what leads somewhere
}

fn node() -> impl Strategy<Value = NodeId> {
    (0_usize..3).prop_map(|index| NODES[index])
}

fn message() -> impl Strategy<Value = Event> {
    let body = prop_oneof![
        Just(Body::Offer(offer())),
        Just(Body::Accept(Readied::default())),
        Just(Body::Coming),
        Just(Body::Refuse(Refusal::Busy)),
        Just(state()),
        Just(Body::Committed),
        Just(Body::Done(Timings::default())),
        Just(Body::Failed(TargetFailure::Unknown)),
        Just(Body::Abort),
        Just(Body::Ask),
    ];
    (node(), attempt(), body).prop_map(|(from, attempt, body)| Event::Message {
        from,
        message: Message { attempt, body },
    })
}

fn record() -> impl Strategy<Value = Event> {
    let records = prop_oneof![
        Just(declared()),
        Just(committed()),
        Just(closed(sterna_migration::Life::Alive)),
        Just(closed(sterna_migration::Life::Lost)),
        (node(), 6_u64..11).prop_map(|(owner, epoch)| Record::owned(owner, Epoch(epoch))),
    ];
    let process = P;
    prop_oneof![
        20 => records.prop_map(move |record| Event::Record { process, record: Some(record) }),
        1 => Just(Event::Record { process, record: None }),
        1 => Just(Event::Expelled { process }),
    ]
}

fn runner() -> impl Strategy<Value = Event> {
    let reason = String::new;
    (0_u8..17, attempt()).prop_map(move |(which, attempt)| {
        let (process, epoch, reason) = (P, attempt.epoch, reason());
        Event::Runner(match which {
            0 => RunnerEvent::Prepared {
                attempt,
                can_follow: true,
            },
            1 => RunnerEvent::PrepareFailed { attempt, reason },
            2 => RunnerEvent::Paused { attempt },
            3 => RunnerEvent::PauseRefused { attempt, reason },
            4 | 5 => RunnerEvent::Captured {
                attempt,
                size: SIZE,
            },
            6 => RunnerEvent::CaptureFailed { attempt, reason },
            7 => RunnerEvent::Pushed { attempt },
            8 => RunnerEvent::PushFailed { attempt, reason },
            9 => RunnerEvent::Restored { attempt },
            10 => RunnerEvent::RestoreFailed { attempt, reason },
            11 => RunnerEvent::Resumed {
                process,
                epoch,
                follows: false,
            },
            12 => RunnerEvent::Tracking {
                attempt,
                pages: 9999,
            },
            13 => RunnerEvent::TrackFailed { attempt, reason },
            14 => RunnerEvent::RoundSent {
                attempt,
                round: Round::default(),
            },
            15 => RunnerEvent::RoundFailed { attempt, reason },
            _ => RunnerEvent::Exited { process },
        })
    })
}

fn other() -> impl Strategy<Value = Event> {
    (0_u8..4, attempt()).prop_map(|(which, attempt)| match which {
        0 => Event::RunnerDied,
        1 => Event::ProgramFetched { attempt },
        _ => Event::Admitted {
            attempt,
            program_is_here: true,
        },
    })
}

/// A thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// What comes next if all goes well: random events alone lead nowhere.
    Next,
    Event(Event),
    Waits,
    Order,
    Cancel,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        16 => Just(Step::Next),
        4 => message().prop_map(Step::Event),
        4 => record().prop_map(Step::Event),
        4 => runner().prop_map(Step::Event),
        1 => other().prop_map(Step::Event),
        2 => Just(Step::Waits),
        1 => Just(Step::Order),
        1 => Just(Step::Cancel),
    ];
    prop::collection::vec(step, 0..40)
}

/// A move in which all goes well, as one side hears it.
fn good(node: NodeId) -> Vec<Event> {
    let (process, epoch, attempt) = (P, NEXT, ATTEMPT);
    let says = |from, body| Event::Message {
        from,
        message: Message { attempt, body },
    };
    let is = |record| Event::Record {
        process,
        record: Some(record),
    };
    let size = SIZE;
    let readied = Readied {
        strategy: Way::PreCopy,
        ..Readied::default()
    };
    match node == S {
        true => vec![
            says(T, Body::Accept(readied)),
            is(declared()),
            Event::Runner(RunnerEvent::Tracking {
                attempt,
                pages: 9999,
            }),
            Event::Runner(RunnerEvent::RoundSent {
                attempt,
                round: Round::default(),
            }),
            Event::Runner(RunnerEvent::Paused { attempt }),
            Event::Runner(RunnerEvent::Captured { attempt, size }),
            Event::Runner(RunnerEvent::Pushed { attempt }),
            says(T, Body::Committed),
            says(T, Body::Done(Timings::default())),
        ],
        false => vec![
            says(S, Body::Offer(offer())),
            Event::Admitted {
                attempt,
                program_is_here: true,
            },
            Event::Runner(RunnerEvent::Prepared {
                attempt,
                can_follow: true,
            }),
            says(S, state()),
            Event::Runner(RunnerEvent::Restored { attempt }),
            is(committed()),
            Event::Runner(RunnerEvent::Resumed {
                process,
                epoch,
                follows: false,
            }),
        ],
    }
}

/// What has been heard.
#[derive(Default)]
struct Heard {
    records: Vec<Record>,
    captured: Vec<MoveId>,
}

impl Heard {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::Record { record, .. } => self.records.extend(*record),
            Event::Runner(RunnerEvent::Captured { attempt, .. }) => {
                self.captured.push(attempt.move_id);
            }
            _ => {}
        }
    }

    /// Whether what must come before an action has come.
    fn allows(&self, node: NodeId, action: &Action) -> bool {
        let mut records = self.records.iter();
        match action {
            Action::Command(Command::Resume { epoch, .. }) => {
                records.any(|record| record.owner == node && record.epoch == *epoch)
            }
            Action::Command(
                Command::Pause { attempt, .. }
                | Command::Track { attempt }
                | Command::Round { attempt, .. },
            ) => records.any(|record| {
                let intent = record.intent.map(|intent| intent.move_id);
                record.epoch == attempt.epoch && intent == Some(attempt.move_id)
            }),
            Action::Send { message, .. } => match message.body {
                Body::State(_) => self.captured.contains(&message.attempt.move_id),
                _ => true,
            },
            Action::Swap(swap) => swap.new.version() > swap.expected.version(),
            _ => true,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn nothing_comes_before_what_must_come_first(steps in steps(), on_source: bool, with_rounds: bool) {
        let node = if on_source { S } else { T };
        let holding = sterna_migration::Holding::Running { epoch: E };
        let mut script = Script::new(node, on_source.then_some(holding));
        let mut heard = Heard::default();
        let mut good = good(node).into_iter();
        let travel = Travel {
            strategy: with_rounds.then_some(Way::PreCopy).or(order(T).travel.strategy),
            ..Travel::default()
        };
        let order = || Order { travel, ..order(T) };
        let _ = script.moves.start(script.now(), order());
        for step in steps {
            let event = match step {
                Step::Next => good.next(),
                Step::Event(event) => Some(event),
                Step::Waits => None,
                Step::Order => {
                    let _ = script.moves.start(script.now(), order());
                    continue;
                }
                Step::Cancel => {
                    let _ = script.moves.cancel(script.now(), P);
                    continue;
                }
            };
            if let Some(event) = &event {
                heard.hear(event);
            }
            let mut actions = script.actions();
            actions.extend(match event {
                Some(event) => script.event(event),
                None if script.moves.next_timeout().is_some() => script.waits(),
                None => Vec::new(),
            });
            for action in actions {
                prop_assert!(heard.allows(node, &action), "too early: {action:?}");
            }
        }
    }
}
