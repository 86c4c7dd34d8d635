//! Version 2 of messages, in which a target that accepts says what it has done; and of records: of processes that are
//! frozen in a file. **It does not change.** All other records are written in version 1.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sterna_process::{Epoch, MemoryLayout, ProgramId, Tag};

use super::WireError;
use super::texts::{check_text, cut, failure_text, refusal_text};
use crate::id::{Attempt, Grant, GrantSeal, NodeId};
use crate::message::{self, Offer, Readied, Refusal, Size, Snapshot, TargetFailure, Timings};
use crate::record::{Life, Record};

#[derive(Serialize, Deserialize)]
pub(super) struct Message {
    attempt: Attempt,
    body: Body,
}

#[derive(Serialize, Deserialize)]
enum Body {
    Offer {
        kind: Tag,
        program: ProgramId,
        layout: MemoryLayout,
        image_format: u32,
        strategy: Strategy,
    },
    Accept {
        fetch: Duration,
        room: Duration,
    },
    Refuse(Refusal),
    State {
        grant: Grant,
        size: Size,
    },
    Committed,
    Done(Timings),
    Failed(TargetFailure),
    Abort,
    Ask,
}

/// There is one.
#[derive(Serialize, Deserialize)]
enum Strategy {
    StopAndCopy,
}

impl From<&message::Message> for Message {
    fn from(message: &message::Message) -> Self {
        let body = match message.body.clone() {
            message::Body::Offer(offer) => Body::Offer {
                kind: offer.kind,
                program: offer.program,
                layout: offer.layout,
                image_format: offer.image_format,
                strategy: Strategy::StopAndCopy,
            },
            // It has no room for how memory will travel, as there is one way.
            message::Body::Accept(Readied { fetch, room, .. }) => Body::Accept { fetch, room },
            message::Body::Refuse(mut refusal) => {
                refusal_text(&mut refusal).map(cut);
                Body::Refuse(refusal)
            }
            message::Body::State(Snapshot { grant, size }) => Body::State { grant, size },
            message::Body::Committed => Body::Committed,
            message::Body::Done(timings) => Body::Done(timings),
            message::Body::Failed(mut failure) => {
                failure_text(&mut failure).map(cut);
                Body::Failed(failure)
            }
            message::Body::Abort => Body::Abort,
            // Nothing of it is said to who accepts in this version; and who waits does not answer.
            message::Body::Ask | message::Body::Coming => Body::Ask,
        };
        Self {
            attempt: message.attempt,
            body,
        }
    }
}

impl TryFrom<Message> for message::Message {
    type Error = WireError;

    fn try_from(message: Message) -> Result<Self, WireError> {
        let body = match message.body {
            Body::Offer {
                kind,
                program,
                layout,
                image_format,
                strategy: Strategy::StopAndCopy,
            } => message::Body::Offer(Offer {
                kind,
                program,
                layout,
                image_format,
                strategy: message::Strategy::StopAndCopy,
            }),
            Body::Accept { fetch, room } => message::Body::Accept(Readied {
                fetch,
                room,
                strategy: message::Strategy::StopAndCopy,
            }),
            Body::Refuse(mut refusal) => {
                check_text(refusal_text(&mut refusal))?;
                message::Body::Refuse(refusal)
            }
            Body::State { grant, size } => message::Body::State(Snapshot { grant, size }),
            Body::Committed => message::Body::Committed,
            Body::Done(timings) => message::Body::Done(timings),
            Body::Failed(mut failure) => {
                check_text(failure_text(&mut failure))?;
                message::Body::Failed(failure)
            }
            Body::Abort => message::Body::Abort,
            Body::Ask => message::Body::Ask,
        };
        Ok(Self {
            attempt: message.attempt,
            body,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct FrozenRecord {
    owner: NodeId,
    epoch: Epoch,
    seal: GrantSeal,
}

impl TryFrom<&Record> for FrozenRecord {
    type Error = WireError;

    fn try_from(record: &Record) -> Result<Self, WireError> {
        match (record.life, record.intent) {
            (Life::Frozen(seal), None) => Ok(Self {
                owner: record.owner,
                epoch: record.epoch,
                seal,
            }),
            _ => Err(WireError::Malformed {
                reason: "only what is frozen and moves nowhere is written in version 2".into(),
            }),
        }
    }
}

impl From<FrozenRecord> for Record {
    fn from(record: FrozenRecord) -> Self {
        Self {
            life: Life::Frozen(record.seal),
            ..Self::owned(record.owner, record.epoch)
        }
    }
}
