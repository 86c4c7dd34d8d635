//! Services that die, come back, and contradict each other: processes run on.

use std::thread;
use std::time::{Duration, Instant};

use sterna_migration::{Command, Holding, RunnerEvent};
use sterna_process::Epoch;
use sterna_runner::message::{Order, Said};

use crate::rig::{self, Journey, PATIENCE, Runner, went_well};
use crate::toys;

#[test]
fn a_runner_without_service_and_processes_ends() {
    let mut runner = Runner::start();
    drop(runner.stranger());
    let service = runner.service();
    drop(runner.stranger());
    service.holdings();
    drop(service);
    runner.ends();
}

#[test]
fn a_runner_that_is_told_to_ends_with_its_processes() {
    let mut runner = Runner::start();
    let service = runner.service();
    service.spawn(toys::WAITING, &toys::silent(), runner.log("log"));
    service.done(Order::End);
    runner.ends();
    service.is_cut();
}

#[test]
fn processes_outlive_their_service_and_the_next_hears_how_they_ended() {
    let runner = Runner::start();
    let service = runner.service();
    let program = toys::counting(toys::COUNTED);
    let short = service.spawn(toys::FREE, &program, runner.log("short"));
    let long = service.spawn(toys::FREE, &toys::silent(), runner.log("long"));
    drop(service);
    let service = runner.service();
    let until = Instant::now() + PATIENCE;
    let ended = loop {
        let mut holdings = service.holdings();
        if let Some(ended) = holdings.ended.pop() {
            break ended;
        }
        assert!(Instant::now() < until);
    };
    assert_eq!(ended.process, short);
    went_well(&ended);
    assert_eq!(runner.text("short"), crate::life::lines(toys::COUNTED));
    let epoch = Epoch::FIRST;
    assert_eq!(service.seen(long).holding, Holding::Running { epoch });
}

#[test]
fn what_only_a_service_can_make_is_asked_of_the_next_one() {
    let runner = Runner::start();
    let service = runner.service();
    service.spawn(toys::FREE, &toys::silent(), runner.log("other"));
    let (process, order) = rig::spawn(toys::ASKING, &toys::silent());
    let _answer = service.asked(order, vec![runner.log("asking").into()]);
    let need = |said| match said {
        Said::Need { number, .. } => Some(number),
        _ => None,
    };
    service.hear("a need", need);
    drop(service);
    let service = runner.service();
    let number = service.hear("the same need", need);
    let result = Ok(());
    service
        .handle
        .order(Order::Had { number, result }, Vec::new());
    let until = Instant::now() + PATIENCE;
    while !service.holdings().held.iter().any(|(of, _)| *of == process) {
        assert!(Instant::now() < until);
    }
}

#[test]
fn only_the_last_service_that_has_asked_is_obeyed() {
    let runner = Runner::start();
    let old = runner.service();
    let process = old.spawn(toys::FREE, &toys::silent(), runner.log("log"));
    let new = runner.stranger();
    let refused = new.ask(Order::Kill(process), Vec::new());
    assert!(refused.unwrap_err().contains("ask for the holdings first"));
    assert_eq!(new.holdings().held.len(), 1);
    let refused = old.ask(Order::Kill(process), Vec::new());
    assert!(refused.unwrap_err().contains("ask for the holdings first"));
    new.done(Order::Kill(process));
    new.ended(process);
}

/// What a dead service has begun is void: the process that was just being stopped for it runs.
#[test]
fn a_pause_of_a_service_that_dies_comes_to_nothing() {
    let [one, two] = [Runner::start(), Runner::start()];
    let (from, to) = (one.service(), two.service());
    for (number, (kind, program)) in [
        (toys::FREE, toys::silent()),
        (toys::STUBBORN, toys::silent()),
        (toys::FREE, toys::large()),
    ]
    .into_iter()
    .enumerate()
    {
        let process = from.spawn(kind, &program, one.log(&number.to_string()));
        let journey = Journey::of(process, &from, &to);
        let attempt = journey.attempt;
        let within = Duration::from_millis(300);
        from.step(Command::Pause { attempt, within });
        let next = one.service();
        let holdings = next.holdings();
        let held = holdings.held.iter().find(|(held, _)| *held == process);
        match held.unwrap().1 {
            Holding::Running { .. } => {}
            // It stood still before the new one asked: that one lets it go on, as the machine of moves says.
            Holding::Frozen { epoch, .. } => {
                next.step(Command::Resume { process, epoch });
                next.event(&RunnerEvent::Resumed {
                    process,
                    epoch,
                    follows: false,
                });
            }
            other => panic!("{other:?}"),
        }
        next.done(Order::Kill(process));
        from.holdings(); // takes over again
    }
}

#[test]
fn a_move_is_taken_up_by_the_next_service_of_either_side() {
    let [one, two] = [Runner::start(), Runner::start()];
    let (from, to) = (one.service(), two.service());
    let process = from.spawn(toys::FREE, &toys::large(), one.log("log"));
    let journey = Journey::of(process, &from, &to);
    journey.prepare(two.log("log"));
    journey.connect();
    journey.pause();
    let size = journey.capture();
    drop((one.service(), two.service()));
    let (from, to) = (one.service(), two.service());
    let journey = journey.taken_up(&from, &to);
    // The channel went with the services that had made it.
    journey.push().unwrap_err();
    journey.connect();
    journey.push().unwrap();
    let to = two.service();
    let journey = journey.taken_up(&from, &to);
    journey.restore(size);
    journey.go_on();
}

/// A process that does not stand still holds up nobody but those that want something of it.
#[test]
fn orders_for_one_process_do_not_wait_for_another() {
    let [one, two] = [Runner::start(), Runner::start()];
    let (from, to) = (one.service(), two.service());
    let stubborn = from.spawn(toys::STUBBORN, &toys::silent(), one.log("stubborn"));
    let other = from.spawn(toys::FREE, &toys::silent(), one.log("other"));
    let journey = Journey::of(stubborn, &from, &to);
    let (attempt, process) = (journey.attempt, stubborn);
    let epoch = attempt.epoch;
    let within = Duration::from_secs(8);
    let begun = Instant::now();
    from.step(Command::Pause { attempt, within });
    while from.seen(stubborn).doing.is_none() {
        thread::yield_now();
    }
    // All of these are about the one that is being paused.
    from.step(Command::Resume { process, epoch });
    from.step(Command::Discard { attempt });
    from.step(Command::Capture { attempt });
    from.done(Order::Pause(other));
    from.done(Order::Resume(other));
    assert!(begun.elapsed() < within, "it waited for the other one");
    from.event(&RunnerEvent::Resumed {
        process,
        epoch,
        follows: false,
    });
    from.done(Order::Kill(stubborn));
}
