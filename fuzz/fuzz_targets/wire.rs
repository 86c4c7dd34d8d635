//! Any bytes at all as what comes over a wire: between nodes, between a service and its runner, between two runners,
//! and as messages, records, manifests and tickets. They are understood or refused; what was understood can be written,
//! and is read as the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sterna_migration::{Message, Record};
use sterna_node::message::{Belongings, Keeping, Reply, Request};
use sterna_node::wire::{self, HELLO_BYTES, Hello, VERSIONS};
use sterna_node::Ticket;
use sterna_runner::message::{Numbered, Said};
use sterna_snapshot::{Key, Manifest};

/// Longer than any input.
const BYTES_MAX: usize = 16 << 20;

/// Frames between nodes, and between commands and their node.
fn node<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(message) = wire::decode::<T>(bytes) else {
        return;
    };
    let frame = wire::encode(&message, BYTES_MAX).expect("what was read can be written");
    let again: T = wire::decode(&frame[4..]).expect("and read again");
    assert_eq!(wire::encode(&again, BYTES_MAX).expect("as the same"), frame);
}

/// Messages between a service and its runner.
fn link<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok((message, _)) = postcard::take_from_bytes::<T>(bytes) else {
        return;
    };
    let written = postcard::to_stdvec(&message).expect("what was read can be written");
    let again: T = postcard::from_bytes(&written).expect("and read again");
    assert_eq!(postcard::to_stdvec(&again).expect("as the same"), written);
}

fn hello(bytes: &[u8]) {
    let Some((bytes, _)) = bytes.split_first_chunk::<HELLO_BYTES>() else {
        return;
    };
    if let Ok(hello) = Hello::decode(bytes) {
        assert_eq!(hello.encode(), *bytes);
        let _ = hello.version(&VERSIONS);
        let _ = hello.clock_ahead_ms();
    }
}

fn move_message(bytes: &[u8]) {
    if let Ok((message, version)) = Message::decode(bytes) {
        assert_eq!(message.encode(version).as_deref(), Ok(bytes), "{message:?}");
    }
}

fn record(bytes: &[u8]) {
    if let Ok(record) = Record::decode(bytes) {
        let again = record.encode().expect("what was read can be written");
        assert_eq!(Record::decode(&again).as_ref(), Ok(&record));
    }
}

/// A manifest is believed only with its mark: its owner's, who may have been taken over.
fn manifest(bytes: &[u8]) {
    let key = Key::from_bytes([7; 32]);
    let _ = Manifest::decode(bytes, &key);
    let Ok(manifest) = postcard::from_bytes::<Manifest>(bytes) else {
        return;
    };
    if let Ok(read) = Manifest::decode(&manifest.encode(&key), &key) {
        let _ = read.packs();
        let _ = read.page_bytes();
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    match which % 12 {
        0 => node::<Request>(bytes),
        1 => node::<Reply>(bytes),
        2 => link::<Numbered>(bytes),
        3 => link::<Said>(bytes),
        4 => sterna_runner::fuzz::record(bytes),
        5 => move_message(bytes),
        6 => record(bytes),
        7 => drop(Belongings::decode(bytes)),
        8 => drop(Keeping::decode(bytes)),
        9 => hello(bytes),
        10 => manifest(bytes),
        _ => drop(str::from_utf8(bytes).map(str::parse::<Ticket>)),
    }
});
