//! [`Message`]: what is under way.

use dlock_core::record::machine::{Answer, Asks};
use dlock_core::record::{Holder, Record, StoreTime};
use dlock_core::{HolderId, Moment};

/// What a client asks of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deed {
    /// To hold.
    Ask(Asks),
    /// To hold on.
    Renew,
    /// To give up.
    Release,
    /// To undo an acquisition.
    Withdraw {
        /// Even if there is nothing to remove (rule R3).
        always_write: bool,
    },
}

/// What a transition answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Got {
    /// To [`Deed::Ask`].
    Asked(Answer),
    /// To [`Deed::Renew`].
    Renewed(Option<Holder>),
    /// To the others.
    Removed,
}

/// The version of a record: `None` without one.
pub(crate) type Version = Option<u8>;

/// What is under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// To the store: swap.
    Swap {
        /// Whose.
        client: usize,
        /// Whether that client still waits for the reply.
        awaited: bool,
        /// The version that the record must still have.
        expected: Version,
        /// The record to write.
        next: Record,
        /// Waiters that become holders by it.
        granted: Vec<HolderId>,
        /// What it is for.
        deed: Deed,
        /// What the client takes for its answer if it is written.
        got: Got,
        /// When it was decided.
        sent: Moment,
    },
    /// To a client: it was written.
    Written {
        /// Whose.
        client: usize,
        /// The version now.
        version: Version,
        /// The record now.
        record: Record,
        /// What it was for.
        deed: Deed,
        /// The answer.
        got: Got,
        /// When it was decided.
        sent: Moment,
        /// What the store's clock showed.
        shown: Option<StoreTime>,
    },
    /// To a client: the version is another; the record as it is.
    Refused {
        /// Whose.
        client: usize,
        /// What it was for.
        deed: Deed,
        /// The version.
        version: Version,
        /// The record.
        record: Record,
        /// When it was decided.
        sent: Moment,
        /// What the store's clock showed.
        shown: Option<StoreTime>,
    },
    /// To a waiter: it was granted the lock.
    Push {
        /// Whose.
        client: usize,
        /// Which acquisition.
        id: HolderId,
        /// Its token.
        token: u64,
    },
}

impl Message {
    pub(crate) fn client(&self) -> usize {
        match self {
            Self::Swap { client, .. }
            | Self::Written { client, .. }
            | Self::Refused { client, .. }
            | Self::Push { client, .. } => *client,
        }
    }

    /// Whether its client waits for it, or for what comes of it.
    pub(crate) fn is_awaited(&self) -> bool {
        match self {
            Self::Swap { awaited, .. } => *awaited,
            Self::Written { .. } | Self::Refused { .. } => true,
            Self::Push { .. } => false,
        }
    }
}
