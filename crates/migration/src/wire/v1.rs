//! Version 1 of records. **It does not change:** what is new goes into the next version. Its messages are not read any
//! more.

use serde::{Deserialize, Serialize};
use sterna_process::Epoch;

use super::WireError;
use crate::id::{GrantSeal, MoveId, NodeId};
use crate::record::{self, Intent};

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
