//! How long and how often: [`Limits`].

use std::time::Duration;

/// Limits of all waits, repetitions and numbers of moves at one node. Every one can be changed without asking the
/// other nodes.
///
/// Two things have no limit, because nothing else would be right: settling a doubt and committing are repeated
/// until the registry answers. The process stands still meanwhile, in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Moves of which this node is the source, at the same time.
    pub outgoing_max: usize,
    /// Moves of which this node is the target, at the same time.
    pub incoming_max: usize,
    /// Pause before something unanswered is repeated for the first time. Later pauses double.
    pub repeat_first: Duration,
    /// Longest such pause.
    pub repeat_max: Duration,
    /// Source: from the offer to its acceptance, during which the target may fetch and compile the program.
    pub accept_within: Duration,
    /// Source: for the registry to answer the declaration. The process still runs.
    pub declare_within: Duration,
    /// Source: for the runner to say how much memory there is, or to send a round, beyond the time that it should take.
    pub round_within: Duration,
    /// Source: rounds of one move.
    pub rounds_max: usize,
    /// Source: how long a process may stand still, unless somebody says otherwise.
    pub downtime_goal: Duration,
    /// Source: bytes a second that get to a target, before that is measured: what the slowest usual network carries.
    pub rate_assumed: u64,
    /// Source: for the process to come to a point where it can stand still.
    pub pause_within: Duration,
    /// Source: for the runner to capture it.
    pub capture_within: Duration,
    /// Source: for image and pages to get to the target's runner.
    pub push_within: Duration,
    /// Source: how often a push that broke off is tried, the first included.
    pub push_tries_max: u32,
    /// Source: from then until the target says that it committed. After that the source settles.
    pub commit_within: Duration,
    /// Source: for how long the rest of a memory may be held back that follows its process, to keep to a rate.
    pub follow_within: Duration,
    /// Source: how often the target is asked whether it is done, before the move ends with the copy kept.
    pub done_asks_max: u32,
    /// Target: to admit the process, fetch its program and make room.
    pub prepare_within: Duration,
    /// Target: from the acceptance, or the last word of the source that it is coming, until the process arrives. Longer than what the source may take, or the
    /// target gives up too early, which costs an attempt but nothing else.
    pub state_within: Duration,
    /// Target: for the process to be made of what arrives.
    pub restore_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            outgoing_max: 16,
            incoming_max: 16,
            repeat_first: Duration::from_millis(100),
            repeat_max: seconds(5),
            accept_within: seconds(120),
            declare_within: seconds(5),
            round_within: seconds(600),
            rounds_max: 10,
            downtime_goal: Duration::from_millis(10),
            rate_assumed: 100_000_000,
            pause_within: seconds(10),
            capture_within: seconds(30),
            push_within: seconds(600),
            push_tries_max: 3,
            commit_within: seconds(15),
            follow_within: seconds(60),
            done_asks_max: 20,
            prepare_within: seconds(110),
            state_within: seconds(60),
            restore_within: seconds(620),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The target waits longer than the source may take, and the source longer than the target for its answer.
    #[test]
    fn no_side_gives_up_while_the_other_keeps_its_limits() {
        let limits = Limits::default();
        let until_granted = limits.declare_within + limits.pause_within * 2 + limits.capture_within;
        assert!(limits.state_within > until_granted);
        assert!(limits.restore_within > limits.push_within);
        assert!(limits.accept_within > limits.prepare_within);
    }
}
