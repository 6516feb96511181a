//! [`Queue`]: a lock as etcd has it at one revision.

use crate::names::read_entry;
use dlock_core::{FencingToken, HolderId, HolderInfo, LockInfo, LockKey, Mode, Standing, WaiterInfo};
use etcd_client::KeyValue;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

/// A lock as etcd has it at one revision: its entries in order of arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) revision: i64,
    pub(crate) entries: Vec<Entry>,
}

/// One acquisition, ours or a foreign client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its whole key in etcd.
    pub(crate) key: Vec<u8>,
    pub(crate) id: HolderId,
    /// `None` for a foreign client's.
    pub(crate) mode: Option<Mode>,
    /// The revision that created it: its token.
    pub(crate) created: i64,
    pub(crate) lease: i64,
    value: Vec<u8>,
}

/// What an entry says to people. Nothing depends on it.
#[derive(Serialize, Deserialize)]
struct Note {
    label: String,
    mode: Mode,
    /// When it was written, in microseconds since 1970 by the writer's clock.
    since: u64,
}

/// The value of a new entry.
pub(crate) fn note(label: &str, mode: Mode) -> Vec<u8> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let since = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    // Nothing in it can fail.
    serde_json::to_vec(&Note { label: label.to_owned(), mode, since }).unwrap_or_default()
}

pub(crate) fn token(created: i64) -> FencingToken {
    FencingToken(u64::try_from(created).unwrap_or_default())
}

impl Entry {
    /// Reads a key of the folder whose name has so many bytes.
    pub(crate) fn read(folder: usize, kv: &KeyValue) -> Self {
        let (id, mode) = read_entry(kv.key().get(folder..).unwrap_or_default());
        Self {
            key: kv.key().to_vec(),
            id,
            mode,
            created: kv.create_revision(),
            lease: kv.lease(),
            value: kv.value().to_vec(),
        }
    }

    fn note(&self) -> (Option<String>, Option<SystemTime>) {
        let note = self.mode.and_then(|_| serde_json::from_slice::<Note>(&self.value).ok());
        note.map_or((None, None), |note| {
            (Some(note.label), SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(note.since)))
        })
    }
}

impl Queue {
    /// Reads the keys of a folder.
    pub(crate) fn read(folder: &str, revision: i64, kvs: &[KeyValue]) -> Self {
        let mut entries: Vec<_> = kvs.iter().map(|kv| Entry::read(folder.len(), kv)).collect();
        entries.sort_by(|one, two| (one.created, &one.key).cmp(&(two.created, &two.key)));
        Self { revision, entries }
    }

    /// Where an entry stands.
    pub(crate) fn position(&self, key: &[u8]) -> Option<usize> {
        self.entries.iter().position(|entry| entry.key == key)
    }

    /// How the entry at an index stands.
    pub(crate) fn standing(&self, index: usize) -> Standing {
        Standing::of(&self.modes(index + 1), index)
    }

    /// How an entry would stand that came now.
    pub(crate) fn standing_of_next(&self, mode: Mode) -> Standing {
        let mut modes = self.modes(self.entries.len());
        modes.push(mode);
        Standing::of(&modes, modes.len() - 1)
    }

    fn modes(&self, end: usize) -> Vec<Mode> {
        self.entries.iter().take(end).map(|entry| entry.mode.unwrap_or(Mode::Exclusive)).collect()
    }

    /// How many hold: those at the front. Behind one that waits all wait.
    pub(crate) fn holding(&self) -> usize {
        let modes = self.modes(self.entries.len());
        (0..modes.len()).take_while(|&index| Standing::of(&modes, index) == Standing::Holds).count()
    }

    /// The lock, for people.
    pub(crate) fn info(&self, key: &LockKey) -> LockInfo {
        let mut info = LockInfo::free(key.clone());
        let (holders, waiters) = self.entries.split_at(self.holding());
        for entry in holders {
            let mut holder = HolderInfo::new(entry.id.clone());
            (holder.label, holder.since) = entry.note();
            holder.mode = entry.mode;
            holder.token = entry.mode.map(|_| token(entry.created));
            info.last_token = info.last_token.max(holder.token);
            info.holders.push(holder);
        }
        for entry in waiters {
            let mut waiter = WaiterInfo::new(entry.id.clone());
            (waiter.label, waiter.since) = entry.note();
            waiter.mode = entry.mode;
            info.waiters.get_or_insert_default().push(waiter);
        }
        info
    }
}

#[cfg(test)]
impl Entry {
    /// An entry of that name, in no folder.
    pub(crate) fn named(name: &str, created: i64) -> Self {
        let (id, mode) = read_entry(name.as_bytes());
        let value = mode.map(|mode| note("me", mode)).unwrap_or_default();
        Self { key: name.into(), id, mode, created, lease: 7, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_entry_counts_as_exclusive() {
        let queue = Queue {
            revision: 9,
            entries: vec![Entry::named("s-1", 1), Entry::named("694d8", 2), Entry::named("s-3", 3)],
        };
        assert_eq!((queue.standing(0), queue.standing(2)), (Standing::Holds, Standing::Waits { behind: 1 }));
        assert_eq!(queue.standing_of_next(Mode::Exclusive), Standing::Waits { behind: 2 });
        let info = queue.info(&LockKey::new("a").unwrap());
        let (holders, waiters) = (info.holders, info.waiters.unwrap());
        assert_eq!((holders.len(), holders[0].label.as_deref(), holders[0].token), (1, Some("me"), Some(token(1))));
        assert_eq!((waiters.len(), waiters[0].mode, waiters[1].mode), (2, None, Some(Mode::Shared)));
    }

    #[test]
    fn what_an_entry_says_to_people_may_be_anything() {
        let mut strange = Entry::named("x-1", 1);
        strange.value = b"\xff not json".to_vec();
        let info = Queue { revision: 1, entries: vec![strange] }.info(&LockKey::new("a").unwrap());
        assert_eq!((info.holders[0].label.as_ref(), info.holders[0].mode), (None, Some(Mode::Exclusive)));
    }
}
