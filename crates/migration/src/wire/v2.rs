//! Version 2 of records: of processes that are frozen in a file. **It does not change.** All others are written in
//! version 1.

use serde::{Deserialize, Serialize};
use sterna_process::Epoch;

use super::WireError;
use crate::id::{GrantSeal, NodeId};
use crate::record::{Life, Record};

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
