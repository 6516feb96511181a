//! [`Record`]: the document of one lock.

use super::StoreTime;
use crate::{Error, ErrorKind, HolderId, Mode};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The document of one lock, as JSON in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The newest token of the key.
    pub last_token: u64,
    /// The newest token of an exclusive holder.
    pub last_exclusive: u64,
    /// Who holds, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holder>,
    /// Who waits, first in line first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queue: Vec<Waiter>,
}

/// One acquisition in a record, be it holder or waiter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// The acquisition.
    pub id: HolderId,
    /// How it holds, or wants to.
    pub mode: Mode,
    /// The TTL of its lease, in milliseconds.
    pub ttl_ms: u64,
    /// Who that is, for people.
    pub label: String,
    /// Since when it holds or waits, in microseconds since 1970: for people.
    pub since: u64,
    /// Which process that is, where the store looks at processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

impl Entry {
    /// The TTL of its lease.
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }
}

/// A holder in a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// Who.
    #[serde(flatten)]
    pub entry: Entry,
    /// Its fencing token.
    pub token: u64,
    /// The last exclusive token when it was granted.
    pub floor: u64,
    /// When its lease ends, on the store's clock.
    pub expires: StoreTime,
}

/// A waiter in a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Waiter {
    /// Who.
    #[serde(flatten)]
    pub entry: Entry,
    /// Until when it counts as waiting unless it repeats its request, on the store's clock. It becomes the expiry of
    /// the lease that a hand-over gives it.
    pub alive_until: StoreTime,
}

/// The format that this version writes.
const FORMAT: u64 = 1;

#[derive(Deserialize)]
struct Format {
    v: u64,
}

#[derive(Serialize, Deserialize)]
struct Document<R> {
    v: u64,
    #[serde(flatten)]
    record: R,
}

impl Record {
    /// The record as the store keeps it: one line of JSON.
    pub fn encode(&self) -> String {
        // Strings, integers and lists of them: nothing here can fail to be written as JSON.
        serde_json::to_string(&Document { v: FORMAT, record: self }).unwrap_or_default()
    }

    /// The record of what a store has.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for what is not a record, [`ErrorKind::Unsupported`] for one of a newer format. Neither
    /// is ever overwritten (rule E8).
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let corrupt = |error| {
            Error::new(
                ErrorKind::Corrupt,
                "what the store has under this key is no lock record; look at it, and remove it if nobody needs it",
            )
            .with_source(error)
        };
        let Format { v } = serde_json::from_slice(bytes).map_err(corrupt)?;
        if v > FORMAT {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the lock record has format {v}, and this version reads up to {FORMAT}; update dlock here"),
            ));
        }
        let document: Document<Record> = serde_json::from_slice(bytes).map_err(corrupt)?;
        Ok(document.record)
    }

    /// Whether nobody holds and nobody waits.
    pub fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.queue.is_empty()
    }

    /// What stands for a key whose record was removed, or never was: `mark` is the largest last token of all records that
    /// the store has removed, so that none is given a second time.
    pub fn removed(mark: u64) -> Self {
        Self { last_token: mark, ..Self::default() }
    }
}
