//! One node, its clock, and short words for what it hears and says: [`Script`].

use sterna_migration::{
    Action, Attempt, Body, Command, Event, Grant, Holding, Intent, Life, Limits, Message, MoveId,
    Moves, NodeId, Notice, Offer, Order, Readied, Record, Report, RunnerEvent, Size, Snapshot,
    Strategy, Swap, Time, Travel,
};
use sterna_process::{Epoch, MemoryLayout, ProcessId, ProgramId, Tag};

pub(super) const S: NodeId = NodeId::from_bytes([1; 32]);
pub(super) const T: NodeId = NodeId::from_bytes([2; 32]);
pub(super) const U: NodeId = NodeId::from_bytes([3; 32]);
pub(super) const P: ProcessId = ProcessId::from_bytes([9; 16]);
pub(super) const GRANT: Grant = Grant::from_bytes([4; 16]);
pub(super) const MOVE: MoveId = MoveId::from_bytes([5; 16]);
pub(super) const OTHER: MoveId = MoveId::from_bytes([6; 16]);
pub(super) const E: Epoch = Epoch(7);
pub(super) const NEXT: Epoch = Epoch(8);
pub(super) const SIZE: Size = Size {
    image_bytes: 100,
    pages: 3,
};

pub(super) const ATTEMPT: Attempt = Attempt {
    process: P,
    epoch: E,
    move_id: MOVE,
};

pub(super) fn offer() -> Offer {
    Offer {
        kind: Tag::new("toy"),
        program: ProgramId::from_bytes([8; 32]),
        layout: MemoryLayout::default(),
        image_format: 1,
        strategy: Strategy::StopAndCopy,
    }
}

pub(super) fn order(target: NodeId) -> Order {
    Order {
        process: P,
        target,
        move_id: MOVE,
        grant: GRANT,
        offer: offer(),
        travel: Travel {
            strategy: Some(Strategy::StopAndCopy),
            ..Travel::default()
        },
    }
}

pub(super) fn at_rest() -> Record {
    Record::owned(S, E)
}

pub(super) fn declared() -> Record {
    at_rest().declared(Intent {
        move_id: MOVE,
        target: T,
        seal: GRANT.seal(),
    })
}

pub(super) fn closed(life: Life) -> Record {
    declared().closed(life).unwrap()
}

pub(super) fn committed() -> Record {
    declared().committed().unwrap()
}

/// Something that happens, and what is to be done then.
type Step<'a> = &'a dyn Fn(&mut Script) -> Vec<Action>;

/// A node, and its clock in milliseconds.
pub(super) struct Script {
    pub(super) moves: Moves,
    pub(super) millis: u64,
}

impl Script {
    pub(super) fn new(node: NodeId, holding: Option<Holding>) -> Self {
        let holdings = holding.map(|holding| (P, holding));
        Self {
            moves: Moves::new(node, Limits::default(), holdings),
            millis: 0,
        }
    }

    pub(super) fn now(&self) -> Time {
        Time::from_micros(self.millis * 1000)
    }

    pub(super) fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.moves.next_action()).collect()
    }

    /// A millisecond later, this happens. What is to be done then?
    pub(super) fn event(&mut self, event: Event) -> Vec<Action> {
        self.millis += 1;
        self.moves.handle(self.now(), event);
        self.actions()
    }

    pub(super) fn hears(&mut self, from: NodeId, body: Body) -> Vec<Action> {
        self.hears_of(MOVE, from, body)
    }

    /// The same of another attempt.
    pub(super) fn hears_of(&mut self, move_id: MoveId, from: NodeId, body: Body) -> Vec<Action> {
        let attempt = Attempt { move_id, ..ATTEMPT };
        let message = Message { attempt, body };
        self.event(Event::Message { from, message })
    }

    pub(super) fn record(&mut self, record: Record) -> Vec<Action> {
        let (process, record) = (P, Some(record));
        self.event(Event::Record { process, record })
    }

    pub(super) fn runner(&mut self, event: RunnerEvent) -> Vec<Action> {
        self.event(Event::Runner(event))
    }

    /// Time goes to the next timeout.
    pub(super) fn waits(&mut self) -> Vec<Action> {
        let next = self.moves.next_timeout().expect("something to wait for");
        self.millis = next.since(Time::ZERO).as_micros().div_ceil(1000) as u64;
        self.moves.handle_timeout(self.now());
        self.actions()
    }

    /// Time goes on until something other than repetitions is to be done.
    pub(super) fn waits_for(&mut self, what: impl Fn(&Action) -> bool) -> Vec<Action> {
        for _ in 0..1000 {
            let actions = self.waits();
            if actions.iter().any(&what) {
                return actions;
            }
        }
        panic!("it never came");
    }

    /// A source that has offered the process, and is to have its memory travel so.
    pub(super) fn source_with(travel: Travel) -> Self {
        let mut script = Self::new(S, Some(Holding::Running { epoch: E }));
        let order = Order { travel, ..order(T) };
        script.moves.start(script.now(), order).unwrap();
        script.actions();
        script
    }

    /// A source that has gone so far.
    pub(super) fn source(step: usize) -> Self {
        let mut script = Self::source_with(order(T).travel);
        let attempt = ATTEMPT;
        let size = SIZE;
        let steps: [Step<'_>; 5] = [
            &|script| script.hears(T, Body::Accept(Readied::default())),
            &|script| script.record(declared()),
            &|script| script.runner(RunnerEvent::Paused { attempt }),
            &|script| script.runner(RunnerEvent::Captured { attempt, size }),
            &|script| script.runner(RunnerEvent::Pushed { attempt }),
        ];
        for step in &steps[..step] {
            step(&mut script);
        }
        script
    }

    /// A target that has gone so far.
    pub(super) fn target(step: usize) -> Self {
        let mut script = Self::new(T, None);
        let attempt = ATTEMPT;
        let program_is_here = true;
        let steps: [Step<'_>; 6] = [
            &|script| script.hears(S, Body::Offer(offer())),
            &|script| {
                script.event(Event::Admitted {
                    attempt,
                    program_is_here,
                })
            },
            &|script| script.runner(prepared()),
            &|script| script.hears(S, state()),
            &|script| script.runner(RunnerEvent::Restored { attempt }),
            &|script| script.record(committed()),
        ];
        for step in &steps[..step] {
            step(&mut script);
        }
        script
    }
}

pub(super) const fn prepared() -> RunnerEvent {
    let (attempt, can_follow) = (ATTEMPT, true);
    RunnerEvent::Prepared {
        attempt,
        can_follow,
    }
}

pub(super) fn state() -> Body {
    Body::State(Snapshot {
        grant: GRANT,
        size: SIZE,
    })
}

pub(super) fn sent(to: NodeId, body: Body) -> Action {
    sent_of(MOVE, to, body)
}

pub(super) fn sent_of(move_id: MoveId, to: NodeId, body: Body) -> Action {
    let attempt = Attempt { move_id, ..ATTEMPT };
    let message = Message { attempt, body };
    Action::Send { to, message }
}

pub(super) fn told(command: Command) -> Action {
    Action::Command(command)
}

pub(super) fn swap(expected: Record, new: Record, grant: Option<Grant>) -> Action {
    Action::Swap(Swap {
        process: P,
        expected,
        new,
        grant,
    })
}

pub(super) fn resume(epoch: Epoch) -> Action {
    told(Command::Resume { process: P, epoch })
}

pub(super) fn discard() -> Action {
    told(Command::Discard { attempt: ATTEMPT })
}

pub(super) fn report(actions: &[Action]) -> Report {
    let report = actions.iter().find_map(|action| match action {
        Action::Notify(Notice::MoveEnded(report)) => Some(report),
        _ => None,
    });
    *report.expect("a report").clone()
}
