//! Version 3 of messages, in which an offer says how memory is to travel, the answer how it will, and a source that its
//! process is still coming. **It does not change.**

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sterna_process::{MemoryLayout, ProgramId, Tag};

use super::WireError;
use super::texts::{check_text, cut, failure_text, refusal_text};
use crate::id::{Attempt, Grant};
use crate::message::{
    self, Offer, Readied, Refusal, Size, Snapshot, Strategy, TargetFailure, Timings,
};

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
        strategy: Strategy,
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
    Coming,
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
            message::Body::Accept(Readied {
                fetch,
                room,
                strategy,
            }) => Body::Accept {
                fetch,
                room,
                strategy,
            },
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
            message::Body::Coming => Body::Coming,
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
            Body::Accept {
                fetch,
                room,
                strategy,
            } => message::Body::Accept(Readied {
                fetch,
                room,
                strategy,
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
            Body::Coming => message::Body::Coming,
        };
        Ok(Self {
            attempt: message.attempt,
            body,
        })
    }
}
