//! Frames and hellos that are cut, too long, never end, or are noise.

use std::io::Cursor;
use std::time::Duration;

use proptest::prelude::*;

use super::world::on_runtime;
use crate::limits::REQUEST_BYTES_MAX;
use crate::message::{Reply, Request};
use crate::wire::{self, HELLO_BYTES, Hello, WireError};

const SOON: Duration = Duration::from_millis(20);

fn received(bytes: &[u8], max: usize) -> Result<Request, WireError> {
    on_runtime(wire::receive(&mut Cursor::new(bytes), max, SOON))
}

#[test]
fn frames_that_are_wrong_are_refused_by_what_is_wrong() {
    let whole = wire::encode(&Request::Invite { valid_ms: 77 }, 100).unwrap();
    assert!(matches!(
        received(&whole, 100),
        Ok(Request::Invite { valid_ms: 77 })
    ));
    for cut in 0..whole.len() {
        assert!(
            matches!(received(&whole[..cut], 100), Err(WireError::CutShort)),
            "{cut}"
        );
    }
    let huge = u32::MAX.to_le_bytes();
    assert!(matches!(
        received(&huge, 100),
        Err(WireError::TooLong { max: 100, .. })
    ));
    let longer = [&3_u32.to_le_bytes()[..], &whole[4..], &[0]].concat();
    assert!(matches!(received(&longer, 100), Err(WireError::Malformed)));
    let long = vec![0_u8; 200];
    assert!(matches!(
        wire::encode(&long, 100),
        Err(WireError::TooLong { .. })
    ));
}

#[test]
fn a_frame_that_never_ends_is_cut_off_and_so_is_a_reader_that_does_not_read() {
    on_runtime(async {
        let (mut ours, mut theirs) = tokio::io::duplex(16);
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &[9, 0, 0, 0, 1])
            .await
            .unwrap();
        let heard = wire::receive::<Request>(&mut ours, 100, SOON).await;
        assert!(matches!(heard, Err(WireError::TimedOut { .. })));
        let sent = wire::send(&mut ours, &vec![7_u8; 90], 100, SOON).await;
        assert!(matches!(sent, Err(WireError::TimedOut { .. })));
    });
}

#[test]
fn versions_meet_or_both_are_named() {
    let theirs = |versions| Hello {
        versions,
        now_ms: 0,
    };
    assert_eq!(theirs(2..=3).version(&(1..=2)).unwrap(), 2);
    assert_eq!(theirs(1..=2).version(&(2..=3)).unwrap(), 2);
    assert_eq!(theirs(1..=1).version(&(1..=1)).unwrap(), 1);
    let error = theirs(2..=3).version(&(1..=1)).unwrap_err().to_string();
    assert!(error.contains("2 to 3"), "{error}");
    assert!(theirs(1..=1).version(&(2..=3)).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = wire::decode::<Request>(&bytes);
        let _ = wire::decode::<Reply>(&bytes);
        let _ = received(&bytes, REQUEST_BYTES_MAX);
    }

    #[test]
    fn hellos_are_their_bytes(bytes in any::<[u8; HELLO_BYTES]>(), good in any::<bool>()) {
        let mut bytes = bytes;
        if good {
            bytes[..4].copy_from_slice(b"STND");
        }
        if let Ok(hello) = Hello::decode(&bytes) {
            prop_assert_eq!(hello.encode(), bytes);
            let _ = hello.clock_ahead_ms();
        }
    }
}
