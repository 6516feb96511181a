//! [`Fault`]: a rule that is left out.

/// A rule that the engine or its caller does not keep, to show that the check would see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// E6: a waiter that is told of its grant counts from its last repeat, though that was not answered.
    CountsFromTheLastSentRepeat,
    /// E2: versions are counted for each record, and start again after a purge.
    VersionsStartAgain,
    /// R1: an acquisition is asked for again after it was withdrawn.
    AsksAfterWithdrawing,
    /// R2: a repeated request creates what is gone.
    RefreshCreates,
    /// R3: an undo that finds nothing to remove does not write.
    UndoWritesNothing,
    /// A repeat whose reply was lost counts as not carried out: the waiter starts anew and leaves its old id behind.
    LostRepeatStartsAnew,
    /// F1: a grant repeats the last token.
    EqualTokens,
    /// C2: a clock that jumped is believed at once.
    JumpIsBelieved,
    /// C2: a renewal keeps the later of the old end and the new, so that a lease in use is not seen to change.
    RenewalKeepsTheLaterEnd,
    /// C2: a clock that no reply tells is read once and never again.
    ClockIsReadOnce,
    /// C3: a lease is believed whatever the reply says of the store's clock.
    ReplysClockIsIgnored,
    /// V1: validity is counted from the reply.
    CountsFromTheReply,
    /// V3: a renewal that comes late revives the lease.
    LateRenewalRevives,
    /// E5: a waiter never asks again by itself.
    NeverRepeats,
}
