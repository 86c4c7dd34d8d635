//! What processes and threads cost: making them, switching between them, memory of those that wait, and messages.
//!
//! - `operations`: create and join, yield, hand-over of a value and of a lock
//! - `memory`: bytes of a thread that waits
//! - `messages`: pipes, message queues and shared memory, against threads that share memory anyway

mod memory;
mod messages;
mod operations;
mod page;

use serde::Serialize;

pub(crate) use memory::block;
pub use memory::{Held, MemoryRow};
pub use messages::{Means, MessageRow};
pub use operations::{Operation, OperationRow};

use crate::Progress;
use crate::carrier::Effort;
use crate::place::Machine;
use crate::role::Player;

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How much is done for each cost.
    pub effort: Effort,
    /// How many threads wait, for their memory.
    pub waiting: Vec<u64>,
    /// Bytes of messages.
    pub messages: Vec<usize>,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bench {
    /// Where.
    pub machine: Machine,
    /// Costs of operations, a row for each operation, placement and carrier.
    pub operations: Vec<OperationRow>,
    /// Memory, a row for each number and carrier.
    pub memory: Vec<MemoryRow>,
    /// Costs of messages, a row for each means, size, placement and carrier.
    pub messages: Vec<MessageRow>,
}

/// Measures all of it. What cannot be measured here has its reason in place of a figure.
pub fn bench(plan: &Plan, player: &Player, progress: Progress<'_>) -> Bench {
    let operations = operations::cases();
    let memory = memory::cases(&plan.waiting);
    let messages = messages::cases(&plan.messages);
    let total = operations.len() + memory.len() + messages.len();
    let mut done = 0;
    let mut next = |what: String| {
        progress(&what, done as f64 / total as f64);
        done += 1;
    };
    Bench {
        machine: Machine::this(),
        operations: operations
            .into_iter()
            .map(|case| {
                next(format!("{}, {}", case.operation.name(), case.carrier));
                case.measured(plan.effort, player)
            })
            .collect(),
        memory: memory
            .into_iter()
            .map(|case| {
                next(format!("{} {} that wait", case.count, case.carrier));
                case.measured(player)
            })
            .collect(),
        messages: messages
            .into_iter()
            .map(|case| {
                next(format!(
                    "messages by {}, {}",
                    case.means.name(),
                    case.carrier
                ));
                case.measured(plan.effort, player)
            })
            .collect(),
    }
}
