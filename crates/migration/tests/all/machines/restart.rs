//! What a service takes up when it starts beside a runner that has lived on.

use sterna_migration::{Action, Body, Command, Event, Holding, Life, NodeId, Notice, Record};
use sterna_process::Epoch;

use super::script::*;

/// What a service on `node` does first.
#[track_caller]
fn check(node: NodeId, holding: Option<Holding>, record: Record, expected: &[Action]) {
    assert_eq!(Script::new(node, holding).record(record), expected);
}

#[test]
fn a_source_that_starts_again_knows_what_to_do() {
    let running = Some(Holding::Running { epoch: E });
    let frozen = Some(Holding::Frozen {
        epoch: E,
        move_id: MOVE,
    });
    let settles = || [swap(declared(), closed(Life::Alive), None)];
    let asks = [sent(T, Body::Ask), Action::Read { process: P }];
    check(S, running, at_rest(), &[]);
    check(S, running, declared(), &settles());
    check(S, frozen, declared(), &settles());
    check(S, running, closed(Life::Alive), &[resume(NEXT)]);
    check(S, frozen, closed(Life::Alive), &[resume(NEXT)]);
    // Held for a file by a service that died: whatever that may still have written is refused, then it runs on.
    let stays = swap(at_rest(), closed(Life::Alive), None);
    check(S, frozen, at_rest(), &[stays]);
    let filed = at_rest().closed(Life::Frozen(GRANT.seal())).unwrap();
    check(S, frozen, filed, &[discard()]);
    check(S, None, filed, &[]); // it is where it should be: nothing is lost
    let (process, epoch) = (P, E);
    let fenced = [
        told(Command::Fence { process, epoch }),
        Action::Notify(Notice::Fenced { process, epoch }),
    ];
    check(S, running, filed, &fenced);
    check(S, frozen, committed(), &asks);
    check(S, frozen, committed().closed(Life::Lost).unwrap(), &[]);
    let moved_on = Record::owned(U, Epoch(9));
    check(S, frozen, moved_on, &[discard()]);
    check(S, None, committed(), &[]);
    let lost = at_rest().closed(Life::Lost).unwrap();
    check(S, None, at_rest(), &[swap(at_rest(), lost, None)]);
    check(S, None, declared(), &[]); // not at once: the target may have everything
    check(S, None, closed(Life::Lost), &[]);
    let exited = Some(Holding::Exited { epoch: E });
    let ended = at_rest().closed(Life::Ended).unwrap();
    check(S, exited, at_rest(), &[swap(at_rest(), ended, None)]);
    check(S, exited, ended, &[told(Command::Forget { process: P })]);
}

#[test]
fn a_target_that_starts_again_knows_what_to_do() {
    let arriving = Some(Holding::Arriving {
        epoch: E,
        move_id: MOVE,
    });
    let ready = Some(Holding::Ready {
        epoch: E,
        move_id: MOVE,
        source: S,
        grant: GRANT,
    });
    let settles = swap(declared(), closed(Life::Alive), None);
    let commits = swap(declared(), committed(), Some(GRANT));
    check(T, arriving, at_rest(), &[discard()]);
    check(T, arriving, declared(), &[discard(), settles.clone()]);
    check(T, None, declared(), &[settles]);
    check(T, None, at_rest(), &[]);
    check(T, ready, declared(), &[commits]);
    check(T, ready, at_rest(), &[]);
    check(T, ready, closed(Life::Alive), &[discard()]);
    check(
        T,
        ready,
        committed(),
        &[resume(NEXT), sent(S, Body::Committed)],
    );
}

#[test]
fn a_kept_copy_is_let_go_when_its_process_is_forgotten() {
    let move_id = MOVE;
    let mut source = Script::new(S, Some(Holding::Frozen { epoch: E, move_id }));
    let forgotten = |source: &mut Script| {
        let (process, record) = (P, None);
        source.event(Event::Record { process, record })
    };
    // A registry that is restored has still to hear of it.
    assert_eq!(forgotten(&mut source), []);
    assert_eq!(source.record(committed().closed(Life::Lost).unwrap()), []);
    assert_eq!(source.moves.kept_copy(P), Some(E));
    assert_eq!(forgotten(&mut source), [discard()]);
    assert_eq!(source.moves.kept_copy(P), None);
}

#[test]
fn of_who_was_removed_nothing_is_left_that_nobody_knows() {
    let (process, epoch, move_id) = (P, E, MOVE);
    let expelled = |holding| Script::new(S, Some(holding)).event(Event::Expelled { process });
    let fenced = [
        told(Command::Fence { process, epoch }),
        Action::Notify(Notice::Fenced { process, epoch }),
    ];
    assert_eq!(expelled(Holding::Running { epoch }), fenced);
    assert_eq!(expelled(Holding::Frozen { epoch, move_id }), [discard()]);
    assert_eq!(expelled(Holding::Arriving { epoch, move_id }), [discard()]);
    // A member has still to hear of it: the registry may have been restored.
    let mut member = Script::new(S, Some(Holding::Running { epoch }));
    let record = None;
    assert_eq!(member.event(Event::Record { process, record }), []);
}

#[test]
fn a_process_that_was_recovered_elsewhere_is_fenced() {
    let lost = at_rest().closed(Life::Lost).unwrap();
    let recovered = lost.recovered(U).unwrap();
    let (process, epoch) = (P, E);
    let expected = [
        told(Command::Fence { process, epoch }),
        Action::Notify(Notice::Fenced { process, epoch }),
    ];
    let running = Some(Holding::Running { epoch });
    check(S, running, recovered, &expected);
}
