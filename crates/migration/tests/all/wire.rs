//! Messages and records as bytes: nothing but what was written is read, and versions stay what they are.

use std::time::Duration;

use proptest::prelude::*;
use sterna_migration::wire::{
    BODY_BYTES_MAX, HEAD_BYTES, TEXT_BYTES_MAX, VERSION_NEWEST, VERSION_OLDEST, body_bytes,
};
use sterna_migration::{
    Attempt, Body, Grant, Intent, Life, Message, MoveId, NodeId, Offer, Readied, Record, Refusal,
    Size, Snapshot, Strategy as Travel, TargetFailure, Timings, WireError,
};
use sterna_process::{Epoch, MemoryLayout, ProcessId, ProgramId, Region, RegionId, Tag};

/// The bytes of each version, of every sort of message. **They never change:** a difference here means that nodes of
/// two versions would not understand each other. New versions get samples of their own.
const SAMPLES_2: &str = include_str!("../samples/messages-2.txt");
const SAMPLES_3: &str = include_str!("../samples/messages-3.txt");
const RECORDS_1: &str = include_str!("../samples/records-1.txt");
const RECORD_2: &str = include_str!("../samples/records-2.txt");

fn attempt() -> Attempt {
    Attempt {
        process: ProcessId::from_bytes([1; 16]),
        epoch: Epoch(300),
        move_id: MoveId::from_bytes([2; 16]),
    }
}

fn layout(regions: u32) -> MemoryLayout {
    let region = |id| Region {
        id: RegionId(id),
        name: format!("memory {id}"),
        pages: 17,
        pages_max: 65_536,
    };
    MemoryLayout::new((0..regions).map(region).collect()).unwrap()
}

fn bodies() -> Vec<Body> {
    let text = || String::from("why");
    let mut bodies = vec![
        Body::Offer(Offer {
            kind: Tag::new("wasm"),
            program: ProgramId::from_bytes([3; 32]),
            layout: layout(2),
            image_format: 1,
            strategy: Travel::StopAndCopy,
        }),
        Body::Accept(Readied {
            fetch: Duration::from_secs(3),
            room: Duration::from_millis(70),
            strategy: Travel::StopAndCopy,
        }),
        Body::State(Snapshot {
            grant: Grant::from_bytes([4; 16]),
            size: Size {
                image_bytes: 70_000,
                pages: 300,
            },
        }),
        Body::Committed,
        Body::Done(Timings {
            restore: Duration::from_micros(1500),
            commit: Duration::from_secs(2),
            resume: Duration::ZERO,
        }),
        Body::Abort,
        Body::Ask,
    ];
    let refusals = [
        Refusal::Busy,
        Refusal::Held,
        Refusal::TooManyMoves,
        Refusal::Program { reason: text() },
        Refusal::Room { reason: text() },
        Refusal::TooSlow,
        Refusal::RunnerDied,
        Refusal::Unsupported { what: text() },
        Refusal::NotAdmitted { reason: text() },
    ];
    let failures = [
        TargetFailure::Unknown,
        TargetFailure::StateLate,
        TargetFailure::Restore { reason: text() },
        TargetFailure::RunnerDied,
        TargetFailure::Settled,
    ];
    bodies.extend(refusals.map(Body::Refuse));
    bodies.extend(failures.map(Body::Failed));
    bodies
}

fn message(body: Body) -> Message {
    let attempt = attempt();
    Message { attempt, body }
}

fn records() -> Vec<Record> {
    let owner = NodeId::from_bytes([5; 32]);
    let declared = Record::owned(owner, Epoch(300)).declared(Intent {
        move_id: MoveId::from_bytes([2; 16]),
        target: NodeId::from_bytes([6; 32]),
        seal: Grant::from_bytes([4; 16]).seal(),
    });
    let closed = |life| declared.closed(life).unwrap();
    vec![
        Record::first(owner),
        declared,
        closed(Life::Alive),
        closed(Life::Ended),
        closed(Life::Lost),
    ]
}

/// A record of version 2.
fn frozen() -> Record {
    let grant = Grant::of_file(&[7; 32]);
    let owned = Record::owned(NodeId::from_bytes([5; 32]), Epoch(300));
    owned.closed(Life::Frozen(grant.seal())).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

/// What only version 3 can say.
fn bodies_of_3() -> Vec<Body> {
    let offer = |strategy| {
        Body::Offer(Offer {
            kind: Tag::new("wasm"),
            program: ProgramId::from_bytes([3; 32]),
            layout: layout(1),
            image_format: 1,
            strategy,
        })
    };
    let accept = Body::Accept(Readied {
        fetch: Duration::ZERO,
        room: Duration::from_millis(70),
        strategy: Travel::PreCopy,
    });
    let offers = [Travel::PreCopy, Travel::PostCopy].map(offer);
    offers.into_iter().chain([accept, Body::Coming]).collect()
}

fn check_samples(version: u16, bodies: &[Body], samples: &str) {
    let written: Vec<String> = bodies
        .iter()
        .map(|body| hex(&message(body.clone()).encode(version).unwrap()))
        .collect();
    let samples: Vec<&str> = samples.lines().collect();
    assert_eq!(written, samples, "written:\n{}", written.join("\n"));
    for (sample, body) in samples.iter().zip(bodies) {
        let read = Message::decode(&unhex(sample));
        assert_eq!(read, Ok((message(body.clone()), version)));
    }
}

#[test]
fn messages_of_version_2_are_written_and_read_as_ever() {
    check_samples(2, &bodies(), SAMPLES_2);
}

#[test]
fn messages_of_version_3_are_written_and_read_as_ever() {
    check_samples(3, &[bodies(), bodies_of_3()].concat(), SAMPLES_3);
}

/// Who speaks version 2 is offered what it understands, and accepts that.
#[test]
fn version_2_knows_one_strategy() {
    for body in bodies_of_3() {
        let bytes = message(body).encode(2).unwrap();
        let (read, _) = Message::decode(&bytes).unwrap();
        match read.body {
            Body::Offer(Offer { strategy, .. }) | Body::Accept(Readied { strategy, .. }) => {
                assert_eq!(strategy, Travel::StopAndCopy);
            }
            other => assert_eq!(other, Body::Ask),
        }
    }
}

#[test]
fn records_of_version_1_are_written_and_read_as_ever() {
    let written = records()
        .into_iter()
        .map(|record| hex(&record.encode().unwrap()));
    let written: Vec<String> = written.collect();
    let samples: Vec<&str> = RECORDS_1.lines().collect();
    assert_eq!(written, samples, "written:\n{}", written.join("\n"));
    for (sample, record) in samples.iter().zip(records()) {
        assert_eq!(Record::decode(&unhex(sample)), Ok(record));
    }
}

#[test]
fn records_of_version_2_are_written_and_read_as_ever() {
    let written = hex(&frozen().encode().unwrap());
    assert_eq!(written, RECORD_2.trim_end());
    assert_eq!(Record::decode(&unhex(RECORD_2.trim_end())), Ok(frozen()));
    // A process that moves is not frozen.
    let intent = records()[1].intent;
    let nonsense = Record { intent, ..frozen() };
    assert!(matches!(
        nonsense.encode(),
        Err(WireError::Malformed { .. })
    ));
}

#[test]
fn every_cut_is_noticed() {
    for body in bodies().into_iter().chain(bodies_of_3()) {
        let bytes = message(body).encode(VERSION_NEWEST).unwrap();
        for length in 0..bytes.len() {
            let found = Message::decode(&bytes[..length]);
            assert_eq!(found, Err(WireError::Truncated), "{length} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(
            Message::decode(&longer),
            Err(WireError::Leftover { bytes: 1 })
        );
    }
    for record in records().into_iter().chain([frozen()]) {
        let bytes = record.encode().unwrap();
        for length in 0..bytes.len() {
            assert_eq!(Record::decode(&bytes[..length]), Err(WireError::Truncated));
        }
    }
}

/// A changed bit makes another message, the same one in another version, or none: in one version, two encodings never mean the
/// same.
#[test]
fn every_bit_counts() {
    let in_version =
        |version, bodies: Vec<Body>| bodies.into_iter().map(move |body| (body, version));
    let all = in_version(2, bodies()).chain(in_version(3, bodies()));
    for (body, version) in all.chain(in_version(3, bodies_of_3())) {
        let original = message(body);
        let bytes = original.encode(version).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(found) = Message::decode(&changed) {
                assert_ne!(found, (original.clone(), version), "bit {bit}");
                let (found, version) = found;
                assert_eq!(found.encode(version).as_ref(), Ok(&changed), "bit {bit}");
            }
        }
    }
    for record in records().into_iter().chain([frozen()]) {
        let bytes = record.encode().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(found) = Record::decode(&changed) {
                assert_ne!(found, record, "bit {bit}");
                assert_eq!(found.encode().as_ref(), Ok(&changed), "bit {bit}");
            }
        }
    }
}

#[test]
fn other_versions_and_other_bytes_are_named() {
    let bytes = message(Body::Ask).encode(VERSION_NEWEST).unwrap();
    let with = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        Message::decode(&bytes).unwrap_err()
    };
    let (oldest, newest) = (VERSION_OLDEST, VERSION_NEWEST);
    let found = newest + 1;
    let newer = WireError::Newer { found, newest };
    assert_eq!(with(2, &found.to_le_bytes()), newer);
    let found = oldest - 1;
    let older = WireError::Older { found, oldest };
    assert_eq!(with(2, &found.to_le_bytes()), older);
    let what = "message";
    assert_eq!(with(0, b"SR"), WireError::Foreign { what });
    assert_eq!(with(0, b"GET /"), WireError::Foreign { what });
    let too_long = WireError::TooLong {
        what: "body",
        bytes: BODY_BYTES_MAX + 1,
        limit: BODY_BYTES_MAX,
    };
    let length = (BODY_BYTES_MAX as u32 + 1).to_le_bytes();
    assert_eq!(with(4, &length), too_long);
    let last = bytes.len() - 1;
    assert!(
        matches!(with(last, &[99]), WireError::Malformed { .. }),
        "a body of no known sort"
    );
    assert_eq!(message(Body::Ask).encode(newest + 1), Err(newer));
    let mut head = [0; HEAD_BYTES];
    head.copy_from_slice(&bytes[..HEAD_BYTES]);
    assert_eq!(body_bytes(&head), Ok(bytes.len() - HEAD_BYTES));
    head[4..].copy_from_slice(&length);
    assert_eq!(body_bytes(&head), Err(too_long));
}

#[test]
fn long_texts_are_cut_when_written_and_refused_when_read() {
    let reason = "ä".repeat(TEXT_BYTES_MAX);
    let long = message(Body::Refuse(Refusal::Room { reason }));
    let (read, _) = Message::decode(&long.encode(2).unwrap()).unwrap();
    let reason = "ä".repeat(TEXT_BYTES_MAX / 2);
    assert_eq!(read, message(Body::Refuse(Refusal::Room { reason })));

    // The same with one letter more than is allowed, by hand.
    let reason = "x".repeat(TEXT_BYTES_MAX);
    let whole = message(Body::Failed(TargetFailure::Restore { reason }));
    let mut bytes = whole.encode(2).unwrap();
    let text_at = bytes.len() - TEXT_BYTES_MAX;
    assert_eq!(
        bytes[text_at - 2..text_at],
        [0x80, 0x08],
        "1024, as a varint"
    );
    bytes[text_at - 2] = 0x81;
    bytes.push(b'x');
    let length = (bytes.len() - HEAD_BYTES) as u32;
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    let too_long = WireError::TooLong {
        what: "text",
        bytes: TEXT_BYTES_MAX + 1,
        limit: TEXT_BYTES_MAX,
    };
    assert_eq!(Message::decode(&bytes), Err(too_long));
}

#[test]
fn the_largest_layout_fits() {
    let region = |id| Region {
        id: RegionId(id),
        name: "n".repeat(MemoryLayout::MAX_NAME),
        pages: 1 << 40,
        pages_max: 1 << 50,
    };
    let regions = (0..MemoryLayout::MAX_REGIONS as u32).map(|id| region(u32::MAX - id));
    let large = message(Body::Offer(Offer {
        kind: Tag::new("a-tag-of-thirty-two-letters-here"),
        program: ProgramId::from_bytes([255; 32]),
        layout: MemoryLayout::new(regions.collect()).unwrap(),
        image_format: u32::MAX,
        strategy: Travel::StopAndCopy,
    }));
    let bytes = large.encode(VERSION_NEWEST).unwrap();
    assert_eq!(Message::decode(&bytes), Ok((large, VERSION_NEWEST)));
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_refused(bytes: Vec<u8>) {
        let framed = |version: u16| {
            let length = (bytes.len() as u32).to_le_bytes();
            [&b"SM"[..], &version.to_le_bytes(), &length, &bytes].concat()
        };
        for bytes in [&bytes, &framed(2), &framed(3)] {
            if let Ok((message, version)) = Message::decode(bytes) {
                prop_assert_eq!(&message.encode(version).unwrap(), bytes);
            }
            let _ = Record::decode(bytes);
        }
    }

    #[test]
    fn any_message_survives(
        (process, move_id, grant) in any::<([u8; 16], [u8; 16], [u8; 16])>(),
        (epoch, image_bytes, pages) in any::<(u64, u64, u64)>(),
        (restore, commit, resume) in any::<(Duration, Duration, Duration)>(),
        reason in ".{0,200}",
        which in 0_usize..5,
    ) {
        let attempt = Attempt {
            process: ProcessId::from_bytes(process),
            epoch: Epoch(epoch),
            move_id: MoveId::from_bytes(move_id),
        };
        let size = Size { image_bytes, pages };
        let grant = Grant::from_bytes(grant);
        let bodies = [
            Body::State(Snapshot { grant, size }),
            Body::Done(Timings { restore, commit, resume }),
            Body::Refuse(Refusal::NotAdmitted { reason: reason.clone() }),
            Body::Failed(TargetFailure::Restore { reason }),
            Body::Committed,
        ];
        let message = Message { attempt, body: bodies[which].clone() };
        let bytes = message.encode(VERSION_NEWEST).unwrap();
        prop_assert_eq!(Message::decode(&bytes), Ok((message, VERSION_NEWEST)));
    }
}
