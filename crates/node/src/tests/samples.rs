//! The bytes of every sort of request and reply, of orders to runners and what these say, and what becomes of them when they
//! are changed on their way.
//!
//! A sample is a line: what the message is, as `Debug` has it, and its bytes. **They never change**, since nodes of two
//! versions understand each other by them, and a node that was upgraded its runner: a variant that is new gets a line of
//! its own at the end. One that has to change before its version was released is deleted, and the test prints its
//! successor. The contents of samples mean nothing; they were drawn by [`drawn`].

use std::collections::BTreeSet;
use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sterna_runner::limits::MESSAGE_BYTES_MAX;
use sterna_runner::message::{Answer, Numbered, Order, Said};

use crate::limits::{REPLY_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::message::{HostingReply, HostingRequest, RegistryRequest, Reply, Request};
use crate::wire::{self, WireError};

/// All of version 1. Versions 2 and 3 have the same.
const REQUESTS: &str = include_str!("samples/requests-1.txt");
const REPLIES: &str = include_str!("samples/replies-1.txt");
/// All of version 1 of the link to a runner. Later versions have the same, and other commands and events of moves in them; `Need` says a kind since version 4.
const ORDERS: &str = include_str!("samples/orders-1.txt");
const SAID: &str = include_str!("samples/said-1.txt");
/// Where requests and replies about processes are among the others.
const REGISTRY: u8 = 7;
const HOSTING: u8 = 8;
const HOSTED: u8 = 11;

/// Samples are about so long where they can be, and never longer than that.
const SAMPLE_BYTES: i64 = 250;
const SAMPLE_BYTES_MAX: usize = 600;
/// Of so many the best is taken.
const DRAWN: usize = 30;

/// Numbers that are the same each time (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, of: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % of as u64) as usize
    }
}

/// How many variants there are, as the decoder has it: one that is not known is another error than one that is cut short.
fn variants<T: DeserializeOwned>() -> u8 {
    let unknown = |variant: &u8| {
        let bytes = [*variant];
        let read = postcard::take_from_bytes::<T>(&bytes);
        matches!(read, Err(postcard::Error::SerdeDeCustom))
    };
    (0..=u8::MAX).find(unknown).unwrap()
}

/// Bytes that begin so and are a message, of many one in which lists have elements. They are drawn with small numbers
/// for the most part, so that these are few.
fn drawn<T: Serialize + DeserializeOwned>(begin: &[u8]) -> Vec<u8> {
    let draw = |seed: u64| {
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut bytes = begin.to_vec();
        bytes.extend((0..SAMPLE_BYTES_MAX).map(|_| match numbers.next(4) {
            0 => b'a' + numbers.next(26) as u8,
            _ => numbers.next(3) as u8,
        }));
        let (message, _) = postcard::take_from_bytes::<T>(&bytes).ok()?;
        Some(postcard::to_stdvec(&message).unwrap())
    };
    let fitness = |bytes: &Vec<u8>| match bytes.len() as i64 {
        long if long > SAMPLE_BYTES => -long,
        short => short,
    };
    let some = (1..).filter_map(draw).take(DRAWN);
    some.max_by_key(fitness).expect("seeds do not end")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A message, and its bytes.
fn read(line: &str) -> (&str, Vec<u8>) {
    let (shown, hex) = line.rsplit_once(' ').unwrap();
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (shown, (0..hex.len()).step_by(2).map(digits).collect())
}

/// That samples are read as what they are, and written as they are; that each of these beginnings has one.
fn check<T: Serialize + DeserializeOwned + Debug>(
    samples: &str,
    beginnings: impl Iterator<Item = Vec<u8>>,
) {
    let mut begun = BTreeSet::new();
    for line in samples.lines() {
        let (shown, bytes) = read(line);
        let message: T = wire::decode(&bytes).unwrap();
        assert_eq!(format!("{message:?}"), shown);
        assert_eq!(postcard::to_stdvec(&message).unwrap(), bytes, "{shown}");
        begun.extend((1..=4.min(bytes.len())).map(|length| bytes[..length].to_vec()));
    }
    let missing: Vec<String> = beginnings
        .filter(|begin| !begun.contains(begin))
        .map(|begin| {
            let bytes = drawn::<T>(&begin);
            format!("{:?} {}", wire::decode::<T>(&bytes).unwrap(), hex(&bytes))
        })
        .collect();
    assert!(
        missing.is_empty(),
        "samples are missing:\n{}",
        missing.join("\n")
    );
}

#[test]
fn requests_are_written_and_read_as_ever() {
    let plain = (0..variants::<Request>()).filter(|one| ![REGISTRY, HOSTING].contains(one));
    let registry = (0..variants::<RegistryRequest>()).map(|one| vec![REGISTRY, one]);
    let hosting = (0..variants::<HostingRequest>()).map(|one| vec![HOSTING, one]);
    check::<Request>(
        REQUESTS,
        plain.map(|one| vec![one]).chain(registry).chain(hosting),
    );
}

#[test]
fn replies_are_written_and_read_as_ever() {
    let plain = (0..variants::<Reply>()).filter(|one| *one != HOSTED);
    let hosted = (0..variants::<HostingReply>()).map(|one| vec![HOSTED, one]);
    check::<Reply>(REPLIES, plain.map(|one| vec![one]).chain(hosted));
}

#[test]
fn orders_and_what_runners_say_are_written_and_read_as_ever() {
    let orders = (0..variants::<Order>()).map(|one| vec![0, one]);
    check::<Numbered>(ORDERS, orders);
    let answers = (0..variants::<Answer>()).map(|one| vec![0, 0, 0, one]);
    let said = (1..variants::<Said>()).map(|one| vec![one]);
    check::<Said>(SAID, said.chain(answers));
}

/// Changes bytes as a bad line, or a bad mind, would.
fn changed(bytes: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _ in 0..=numbers.next(3) {
        let at = numbers.next(changed.len().max(1));
        match numbers.next(6) {
            // A length, or a number, that is a lie: as long as there can be, and longer.
            0 if at < changed.len() => {
                changed.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0x0f]);
            }
            1 if at < changed.len() => {
                changed.splice(at..=at, [0xff; 11]);
            }
            2 => changed.truncate(at),
            3 => changed.insert(at, numbers.next(256) as u8),
            4 if at < changed.len() => {
                changed.remove(at);
            }
            _ => {
                if let Some(byte) = changed.get_mut(at) {
                    *byte ^= 1 << numbers.next(8);
                }
            }
        }
    }
    changed
}

/// That whatever is read of changed bytes can be written, and is read as the same again.
fn check_changed<T: Serialize + DeserializeOwned + Debug>(samples: &str, max: usize) {
    let mut numbers = Numbers(0x5eed);
    for line in samples.lines() {
        let (shown, bytes) = read(line);
        for cut in 0..bytes.len() {
            let read = wire::decode::<T>(&bytes[..cut]);
            assert!(
                matches!(read, Err(WireError::Malformed)),
                "{shown}, {cut} bytes"
            );
        }
        for _ in 0..300 {
            let Ok(message) = wire::decode::<T>(&changed(&bytes, &mut numbers)) else {
                continue;
            };
            let frame = wire::encode(&message, max).unwrap();
            let again: T = wire::decode(&frame[4..]).unwrap();
            assert_eq!(wire::encode(&again, max).unwrap(), frame, "{message:?}");
        }
    }
}

#[test]
fn changed_requests_are_others_or_none() {
    check_changed::<Request>(REQUESTS, REQUEST_BYTES_MAX);
}

#[test]
fn changed_words_of_runners_are_others_or_none() {
    check_changed::<Numbered>(ORDERS, MESSAGE_BYTES_MAX);
    check_changed::<Said>(SAID, MESSAGE_BYTES_MAX);
}

#[test]
fn changed_replies_are_others_or_none() {
    check_changed::<Reply>(REPLIES, REPLY_BYTES_MAX);
}
