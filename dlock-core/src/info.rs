//! [`LockInfo`]: who holds a lock and who waits for it.

use crate::{FencingToken, HolderId, LockKey, Mode};
use serde::{Serialize, Serializer};
use std::time::{Duration, SystemTime};

/// A lock as the store showed it at one moment. `None` where a store cannot know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LockInfo {
    /// The lock's key, with the client's prefix taken off.
    #[serde(serialize_with = "key_as_text")]
    pub key: LockKey,
    /// Who holds it, oldest first; empty when it is free.
    pub holders: Vec<HolderInfo>,
    /// Who waits, first in line first; `None` where the store has no queue.
    pub waiters: Option<Vec<WaiterInfo>>,
    /// The newest token that the store gave for this key.
    pub last_token: Option<FencingToken>,
}

impl LockInfo {
    /// A lock that nobody holds or waits for.
    pub fn free(key: LockKey) -> Self {
        Self { key, holders: Vec::new(), waiters: Some(Vec::new()), last_token: None }
    }

    /// Whether anybody holds it.
    pub fn is_held(&self) -> bool {
        !self.holders.is_empty()
    }
}

/// One holder of a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HolderInfo {
    /// The acquisition.
    pub id: HolderId,
    /// Who that is, for people: host, pid and program unless the client said otherwise. `None` for a foreign client.
    pub label: Option<String>,
    /// How it holds the lock; `None` for a foreign client.
    pub mode: Option<Mode>,
    /// Its fencing token; `None` for a foreign client.
    pub token: Option<FencingToken>,
    /// How long until its lease ends unless it is renewed; as JSON in milliseconds, `remaining_ms`.
    #[serde(rename = "remaining_ms", serialize_with = "as_millis")]
    pub remaining: Option<Duration>,
    /// Since when it holds the lock, by the store's clock if it has one, and else by the holder's: for people only. As JSON by
    /// RFC 3339.
    #[serde(serialize_with = "as_rfc3339")]
    pub since: Option<SystemTime>,
}

impl HolderInfo {
    /// A holder of which nothing but its id is known.
    pub fn new(id: HolderId) -> Self {
        Self { id, label: None, mode: None, token: None, remaining: None, since: None }
    }
}

/// One waiter for a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WaiterInfo {
    /// The acquisition.
    pub id: HolderId,
    /// Who that is, for people.
    pub label: Option<String>,
    /// How it wants to hold the lock.
    pub mode: Option<Mode>,
    /// Since when it waits: for people only. As JSON by RFC 3339.
    #[serde(serialize_with = "as_rfc3339")]
    pub since: Option<SystemTime>,
}

impl WaiterInfo {
    /// A waiter of which nothing but its id is known.
    pub fn new(id: HolderId) -> Self {
        Self { id, label: None, mode: None, since: None }
    }
}

fn key_as_text<S: Serializer>(key: &LockKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(key.as_str())
}

#[allow(clippy::ref_option, reason = "as serde calls it")]
fn as_millis<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
}

#[allow(clippy::ref_option, reason = "as serde calls it")]
fn as_rfc3339<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    /// The year 10000, from which on there is no such form.
    const END: Duration = Duration::from_secs(253_402_300_800);
    let has_form = |time: &SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since < END);
    let text = time.filter(has_form).map(|time| humantime::format_rfc3339_micros(time).to_string());
    text.serialize(serializer)
}
