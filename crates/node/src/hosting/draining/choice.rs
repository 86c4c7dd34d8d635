//! Which process of a drained node goes first, and where to.

use std::cmp::Reverse;
use std::time::{Duration, SystemTime};

use sterna_migration::NodeId;

use crate::hosting::listing::crowded;
use crate::message::{Brief, Capacity, DrainEntry, DrainFate, LastSnapshot, Room};

/// Below so much memory, other costs of a move weigh more than its pages.
const BYTES_LIGHT: u64 = 1 << 20;

/// What would be lost with a process, for each byte that has to go over the link: the greater, the earlier it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Value {
    /// Of one that has none, everything would be lost.
    has_no_snapshot: bool,
    /// Nanoseconds of processor time since the last snapshot, for each MiB of memory.
    at_risk: u128,
}

impl Value {
    pub(super) fn of(brief: &Brief, last: Option<LastSnapshot>, now: SystemTime) -> Self {
        let spent = brief.stats.cpu_time.as_nanos();
        let at_risk = match last {
            None => spent,
            Some(last) => {
                // As if it had worked evenly all its life.
                let taken = SystemTime::UNIX_EPOCH + Duration::from_millis(last.at_ms);
                let span_ms = |since| now.duration_since(since).unwrap_or_default().as_millis();
                let life_ms = span_ms(brief.stats.started).max(1);
                spent * span_ms(taken).min(life_ms) / life_ms
            }
        };
        let bytes = brief.stats.memory_bytes.max(BYTES_LIGHT);
        Self {
            has_no_snapshot: last.is_none(),
            at_risk: at_risk * u128::from(BYTES_LIGHT) / u128::from(bytes),
        }
    }
}

/// Most valuable first.
pub(super) fn in_order(valued: &mut [(Value, Brief)]) {
    valued.sort_by_key(|(value, brief)| (Reverse(*value), brief.process));
}

/// The least crowded node that a process of this size may go to, as if all that are on their way had arrived.
pub(super) fn target(
    rooms: &[Room],
    others: &[DrainEntry],
    memory_bytes: u64,
    may: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let open = rooms
        .iter()
        .filter_map(|room| Some((room.node, arrived(room.node, room.capacity?, others))));
    let fit = open
        .filter(|(node, capacity)| may(*node) && capacity.memory_available_bytes >= memory_bytes);
    fit.min_by_key(|(node, capacity)| (crowded(capacity), *node))
        .map(|(node, _)| node)
}

fn arrived(node: NodeId, mut capacity: Capacity, others: &[DrainEntry]) -> Capacity {
    let coming = others
        .iter()
        .filter(|entry| matches!(entry.fate, DrainFate::Moving { to } if to == node));
    for entry in coming {
        capacity.processes += 1;
        capacity.memory_available_bytes = capacity
            .memory_available_bytes
            .saturating_sub(entry.memory_bytes);
    }
    capacity
}

#[cfg(test)]
mod tests {
    use sterna_process::{ProcessId, State, Stats};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn brief(number: u8, cpu_s: u64, memory_bytes: u64) -> Brief {
        Brief {
            process: ProcessId::from_bytes([number; 16]),
            stats: Stats {
                state: State::Running,
                started: SystemTime::UNIX_EPOCH,
                cpu_time: Duration::from_secs(cpu_s),
                memory_bytes,
                memory_bytes_peak: memory_bytes,
            },
            doing: None,
            output_bytes: 0,
        }
    }

    fn snapshot(at_ms: u64) -> Option<LastSnapshot> {
        Some(LastSnapshot {
            number: 1,
            at_ms,
            output_bytes: 0,
            pages: 0,
            pages_new: 0,
            bytes_new: 0,
            stood_us: 0,
        })
    }

    #[test]
    fn what_would_lose_most_for_its_bytes_goes_first() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let mut valued: Vec<(Value, Brief)> = [
            (brief(1, 90, MIB), snapshot(99_000)),
            (brief(2, 90, MIB), snapshot(10_000)),
            (brief(3, 1, MIB), None),
            (brief(4, 50, 64 * MIB), None),
            (brief(5, 50, 16 * MIB), None),
            // A snapshot from the future, and a process older than its start.
            (brief(6, 90, 0), snapshot(200_000)),
        ]
        .map(|(brief, last)| (Value::of(&brief, last, now), brief))
        .into();
        in_order(&mut valued);
        let order = valued
            .iter()
            .map(|(_, brief)| brief.process.as_bytes()[0])
            .collect::<Vec<_>>();
        assert_eq!(order, [5, 3, 4, 2, 1, 6]);
    }

    #[test]
    fn each_goes_where_there_is_room_with_those_under_way() {
        let node = |number| NodeId::from_bytes([number; 32]);
        let room = |number, processes, memory_available_bytes| Room {
            node: node(number),
            capacity: Some(Capacity {
                processors: 1,
                load_hundredths: 0,
                memory_available_bytes,
                processes,
            }),
        };
        let drained = Room {
            node: node(9),
            capacity: None,
        };
        let rooms = [room(1, 1, 10 * MIB), room(2, 0, 4 * MIB), drained];
        let entry = |number, to| DrainEntry {
            process: ProcessId::from_bytes([number; 16]),
            memory_bytes: 2 * MIB,
            fate: DrainFate::Moving { to: node(to) },
        };
        let check = |others: &[DrainEntry], bytes, expected: Option<u8>| {
            let found = target(&rooms, others, bytes, |_| true);
            assert_eq!(found, expected.map(node));
        };
        check(&[], MIB, Some(2));
        check(&[], 5 * MIB, Some(1));
        check(&[], 11 * MIB, None);
        check(&[entry(1, 2), entry(2, 2)], MIB, Some(1));
        check(&[entry(1, 2)], 3 * MIB, Some(1));
        assert_eq!(
            target(&rooms, &[], MIB, |one| one != node(2)),
            Some(node(1))
        );
        assert_eq!(target(&rooms, &[], MIB, |one| one == node(9)), None);
    }
}
