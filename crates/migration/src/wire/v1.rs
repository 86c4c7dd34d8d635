//! Version 1 of messages and records. **It does not change:** what is new goes into the next version.
//!
//! Variants are numbered by their place. Leaf types of other modules ([`Refusal`], [`TargetFailure`], ids,
//! memory layouts) are written as they are; the samples in the tests notice if one of them changes.

use serde::{Deserialize, Serialize};
use sterna_process::{Epoch, MemoryLayout, ProgramId, Tag};

use super::WireError;
use super::texts::{check_text, cut, failure_text, refusal_text};
use crate::id::{Attempt, Grant, GrantSeal, MoveId, NodeId};
use crate::message::{
    self, Offer, Readied, Refusal, Size, Snapshot, Strategy, TargetFailure, Timings,
};
use crate::record::{self, Intent};

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
    Accept,
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

impl From<&message::Message> for Message {
    fn from(message: &message::Message) -> Self {
        let body = match message.body.clone() {
            message::Body::Offer(offer) => Body::Offer {
                kind: offer.kind,
                program: offer.program,
                layout: offer.layout,
                image_format: offer.image_format,
                strategy: offer.strategy,
            },
            // It has no room for what the target has done.
            message::Body::Accept(Readied { .. }) => Body::Accept,
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
            message::Body::Ask => Body::Ask,
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
                strategy,
            } => message::Body::Offer(Offer {
                kind,
                program,
                layout,
                image_format,
                strategy,
            }),
            Body::Accept => message::Body::Accept(Readied::default()),
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
pub(super) struct Record {
    owner: NodeId,
    epoch: Epoch,
    intent: Option<(MoveId, NodeId, GrantSeal)>,
    life: Life,
}

#[derive(Serialize, Deserialize)]
enum Life {
    Alive,
    Ended,
    Lost,
}

impl TryFrom<&record::Record> for Record {
    type Error = WireError;

    fn try_from(record: &record::Record) -> Result<Self, WireError> {
        let intent = record.intent.as_ref();
        let life = match record.life {
            record::Life::Alive => Life::Alive,
            record::Life::Ended => Life::Ended,
            record::Life::Lost => Life::Lost,
            record::Life::Frozen(_) => {
                let reason = "version 1 knows no frozen processes".into();
                return Err(WireError::Malformed { reason });
            }
        };
        Ok(Self {
            owner: record.owner,
            epoch: record.epoch,
            intent: intent.map(|intent| (intent.move_id, intent.target, intent.seal)),
            life,
        })
    }
}

impl From<Record> for record::Record {
    fn from(record: Record) -> Self {
        Self {
            owner: record.owner,
            epoch: record.epoch,
            intent: record.intent.map(|(move_id, target, seal)| Intent {
                move_id,
                target,
                seal,
            }),
            life: match record.life {
                Life::Alive => record::Life::Alive,
                Life::Ended => record::Life::Ended,
                Life::Lost => record::Life::Lost,
            },
        }
    }
}
