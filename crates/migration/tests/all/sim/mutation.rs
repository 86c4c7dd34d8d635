//! Rules to break: [`Mutation`].

/// One rule that some part of the cluster does not keep. The machines themselves stay as they are: what is broken
/// is what they rely on, or what becomes of what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutation {
    /// All are kept.
    None,
    /// A side in doubt reads the record; if there is no commit in it, it takes the move for aborted.
    SettleByReading,
    /// The registry compares the owner, and neither epoch nor move.
    OnlyOwnerCompared,
    /// A target runs the process as soon as it has asked for the commit.
    RunBeforeAnswer,
    /// Any answer of the registry is taken for a success.
    AnswerIsSuccess,
    /// A target that has lost runs the process all the same.
    LoserRuns,
    /// A source lets its copy go as soon as all of it is at the target.
    DiscardOnceSent,
    /// A source lets its copy go as soon as the target has committed.
    DiscardOnCommit,
    /// A target lets ready memory go if the registry is silent.
    ReadyDroppedOnSilence,
    /// A service that starts takes its runner for dead without asking it.
    SilenceIsLoss,
    /// A runner does not look to which attempt memory belongs.
    MemoryOfAnyAttempt,
    /// A source that settled lets the process run in its old epoch.
    OldEpochKept,
    /// A service that has no answer about a freeze lets the process run on.
    SilenceIsNo,
    /// A service whose freeze finds another record than it wrote lets the process run on, whatever that record is.
    OtherRecordIsNo,
    /// A service that thaws a process runs it as soon as it has asked for its record.
    ThawedBeforeAnswer,
    /// A runner takes a round that was lost for sent.
    LostRoundCounts,
    /// A runner does not send what was written after the last round.
    WrittenLastIsForgotten,
    /// A runner says that a process needs nothing of its source any more as soon as it runs.
    DoneBeforeWhole,
    /// A runner does without pages that did not come.
    GoesOnWithout,
    /// A runner lets go of a process though all of its memory has come.
    LostThoughWhole,
    /// A runner goes on noting what is written when nobody needs that any more.
    TrackingLeftOn,
}

impl Mutation {
    /// All of them, and with which words the checks must find each.
    pub(super) const ALL: &[(Self, &str)] = &[
        (Self::SettleByReading, "it runs on"),
        (Self::OnlyOwnerCompared, "the record does not grow"),
        (Self::RunBeforeAnswer, "it runs on"),
        (Self::AnswerIsSuccess, "it runs on"),
        (Self::LoserRuns, "it runs on"),
        (Self::DiscardOnceSent, "but it runs nowhere"),
        (Self::DiscardOnCommit, "let go before it ran elsewhere"),
        (Self::ReadyDroppedOnSilence, "has it Frozen"),
        (Self::SilenceIsLoss, "but its runner has it"),
        (Self::MemoryOfAnyAttempt, "it goes on from instruction"),
        (Self::OldEpochKept, "has it Running"),
        (Self::SilenceIsNo, "it runs on"),
        (Self::OtherRecordIsNo, "it runs on"),
        (Self::ThawedBeforeAnswer, "it runs on"),
        (Self::LostRoundCounts, "its memory is"),
        (Self::WrittenLastIsForgotten, "its memory is"),
        (Self::DoneBeforeWhole, "while it still needed its memory"),
        (Self::GoesOnWithout, "its memory is"),
        (Self::LostThoughWhole, "reported lost, but"),
        (Self::TrackingLeftOn, "is still noted"),
    ];
}
