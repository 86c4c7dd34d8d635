//! Channels: order, bounds, ends, selects; and random programs against a model.

use std::time::Duration;

use proptest::prelude::*;
use sterna_threads::sync::channel::{
    RecvTimeoutError, Select, SendTimeoutError, TryRecvError, TrySendError, bounded, unbounded,
};
use sterna_threads::{Cancelled, Implementation, Runtime, scope, sleep, spawn, yield_now};

use crate::{IMPLEMENTATIONS, on_all};

#[test]
fn values_arrive_in_order() {
    on_all(|| {
        for capacity in [Some(0), Some(1), Some(7), None] {
            let (sender, receiver) = capacity.map_or_else(unbounded, bounded);
            let handle = spawn(move || (0..500).for_each(|i| sender.send(i).unwrap()));
            let got: Vec<i32> = receiver.iter().collect();
            assert_eq!(got, (0..500).collect::<Vec<_>>(), "{capacity:?}");
            handle.join().unwrap();
        }
    });
}

#[test]
fn each_value_arrives_once() {
    on_all(|| {
        for capacity in [0, 1, 5] {
            let (sender, receiver) = bounded(capacity);
            let mut got = scope(|scope| {
                let receivers: Vec<_> = (0..4)
                    .map(|_| {
                        let receiver = receiver.clone();
                        scope.spawn(move || receiver.iter().collect::<Vec<u64>>())
                    })
                    .collect();
                for number in 0..4 {
                    let sender = sender.clone();
                    scope.spawn(move || {
                        (0..100).for_each(|i| sender.send(number * 100 + i).unwrap());
                    });
                }
                drop(sender);
                let got = receivers.into_iter().flat_map(|h| h.join().unwrap());
                got.collect::<Vec<_>>()
            });
            got.sort_unstable();
            assert_eq!(got, (0..400).collect::<Vec<_>>());
        }
    });
}

#[test]
fn ends_time_outs_and_room() {
    on_all(|| {
        let short = Duration::from_millis(2);
        let (sender, receiver) = bounded(1);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(receiver.recv_timeout(short), Err(RecvTimeoutError::Timeout));
        sender.send(1).unwrap();
        assert!(matches!(sender.try_send(2), Err(TrySendError::Full(2))));
        assert_eq!(
            sender.send_timeout(3, short),
            Err(SendTimeoutError::Timeout(3))
        );
        drop(sender);
        assert_eq!(receiver.recv(), Ok(1));
        assert!(receiver.recv().is_err());
        let (sender, receiver) = bounded(0);
        assert!(sender.try_send(1).is_err());
        assert_eq!(
            sender.send_timeout(4, short),
            Err(SendTimeoutError::Timeout(4))
        );
        assert!(receiver.is_empty());
        let waits = spawn(move || sender.send(5));
        sleep(short);
        drop(receiver);
        assert_eq!(waits.join().unwrap().unwrap_err().0, 5);
    });
}

#[test]
fn a_cancelled_receiver_leaves_the_value() {
    on_all(|| {
        let (sender, receiver) = bounded::<u8>(0);
        let theirs = receiver.clone();
        let waits = spawn(move || theirs.recv());
        sleep(Duration::from_millis(1));
        waits.cancel();
        assert!(waits.join().unwrap_err().is::<Cancelled>());
        let sends = spawn(move || sender.send(9));
        assert_eq!(receiver.recv(), Ok(9));
        sends.join().unwrap().unwrap();
    });
}

#[test]
fn select_takes_what_is_ready() {
    on_all(|| {
        let (numbers_in, numbers) = unbounded();
        let (words_in, words) = bounded(1);
        let handle = spawn(move || {
            for i in 0..50_u32 {
                numbers_in.send(i).unwrap();
                yield_now();
                words_in.send(i.to_string()).unwrap();
            }
        });
        let (mut sum, mut text) = (0, 0);
        while sum + text < 100 {
            let mut select = Select::new();
            let first = select.recv(&numbers);
            select.recv(&words);
            if select.ready() == first {
                sum += u32::from(numbers.try_recv().is_ok());
            } else {
                text += u32::from(words.try_recv().is_ok());
            }
        }
        handle.join().unwrap();
        assert_eq!((sum, text), (50, 50));
        let (_sender, silent) = bounded::<()>(1);
        let mut select = Select::new();
        select.recv(&silent);
        assert_eq!(select.ready_timeout(Duration::from_millis(1)), None);
    });
}

/// Also if it is made anew for each wait, and two of different length take turns.
#[test]
fn select_starves_no_channel() {
    on_all(|| {
        let channels: Vec<_> = (0..3).map(|_| unbounded()).collect();
        for (sender, _) in &channels {
            sender.send(()).unwrap();
        }
        let mut counts = [[0; 3]; 2];
        for round in 0..600 {
            let length = 2 + round % 2;
            let mut select = Select::new();
            for (_, receiver) in &channels[..length] {
                select.recv(receiver);
            }
            counts[round % 2][select.ready()] += 1;
        }
        assert!(
            counts[0][..2]
                .iter()
                .chain(&counts[1])
                .all(|&count| count > 50),
            "{counts:?}"
        );
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 30 }))]

    /// Random senders and receivers with random yields, time-outs and cancels: nothing is lost, doubled or stuck.
    #[test]
    fn random_programs(
        implementation in prop::sample::select(IMPLEMENTATIONS.to_vec()),
        capacity in prop::option::of(0_usize..4),
        senders in prop::collection::vec(prop::collection::vec(0_u8..4, 0..30), 1..5),
        receivers in prop::collection::vec(0_u8..3, 1..4),
    ) {
        let runtime = Runtime::builder(implementation).workers(2).build().unwrap();
        let (sent, mut got) = runtime.run(|| {
            let (sender, receiver) = capacity.map_or_else(unbounded, bounded);
            scope(|scope| {
                let receivers: Vec<_> = receivers.iter().map(|&kind| {
                    let receiver = receiver.clone();
                    scope.spawn(move || take(kind, &receiver))
                }).collect();
                drop(receiver);
                let senders: Vec<_> = senders.iter().enumerate().map(|(number, steps)| {
                    let sender = sender.clone();
                    scope.spawn(move || give(number, steps, &sender))
                }).collect();
                drop(sender);
                let sent: Vec<_> = senders.into_iter().flat_map(|h| h.join().unwrap()).collect();
                let got: Vec<_> = receivers.into_iter().flat_map(|h| h.join().unwrap()).collect();
                (sent, got)
            })
        });
        got.sort_unstable();
        prop_assert_eq!(sent, got);
    }
}

/// What it sent, in order.
fn give(
    number: usize,
    steps: &[u8],
    sender: &sterna_threads::sync::channel::Sender<(usize, usize)>,
) -> Vec<(usize, usize)> {
    let mut sent = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let value = (number, at);
        let done = match step {
            0 => sender.send(value).is_ok(),
            1 => sender
                .send_timeout(value, Duration::from_micros(50))
                .is_ok(),
            2 => sender.try_send(value).is_ok(),
            _ => {
                yield_now();
                false
            }
        };
        if done {
            sent.push(value);
        }
    }
    sent
}

fn take(
    kind: u8,
    receiver: &sterna_threads::sync::channel::Receiver<(usize, usize)>,
) -> Vec<(usize, usize)> {
    let mut got = Vec::new();
    loop {
        match kind {
            0 => match receiver.recv() {
                Ok(value) => got.push(value),
                Err(_) => return got,
            },
            1 => match receiver.recv_timeout(Duration::from_micros(100)) {
                Ok(value) => got.push(value),
                Err(RecvTimeoutError::Timeout) => yield_now(),
                Err(RecvTimeoutError::Disconnected) => return got,
            },
            _ => {
                let mut select = Select::new();
                select.recv(receiver);
                select.ready();
                match receiver.try_recv() {
                    Ok(value) => got.push(value),
                    Err(TryRecvError::Empty) => {}
                    Err(TryRecvError::Disconnected) => return got,
                }
            }
        }
    }
}

#[test]
fn many_wait_and_one_sends() {
    let runtime = Runtime::builder(Implementation::Hybrid)
        .workers(4)
        .build()
        .unwrap();
    runtime.run(|| {
        let (sender, receiver) = bounded(3);
        let handles: Vec<_> = (0..100)
            .map(|_| {
                let receiver = receiver.clone();
                spawn(move || receiver.iter().count())
            })
            .collect();
        drop(receiver);
        (0..10_000).for_each(|i| sender.send(i).unwrap());
        drop(sender);
        let total: usize = handles.into_iter().map(|h| h.join().unwrap()).sum();
        assert_eq!(total, 10_000);
    });
}
