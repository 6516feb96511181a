//! [`Company`]: the waiters of one client for one key. What one of them writes keeps the places of all.

use crate::clock::locked;
use crate::{HolderId, LockKey, Moment};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// The waiters of one client, by key. A request of one of them keeps the places of all (rule E5): a crowd writes no more
/// often than a single waiter, and nobody loses its place for want of a turn.
#[derive(Debug, Default)]
pub(super) struct Company(Mutex<HashMap<LockKey, HashMap<HolderId, Place>>>);

#[derive(Clone, Copy, Debug)]
struct Place {
    patience: Duration,
    /// When the last request was sent that kept the place, as its reply said (rule E6).
    kept: Moment,
    /// When the last request was sent that may have kept it.
    asked: Moment,
}

impl Company {
    /// A waiter whose request, sent at `sent`, gave it a place for `patience`; it leaves with the value.
    pub(super) fn join(&self, key: &LockKey, id: HolderId, patience: Duration, sent: Moment) -> Member<'_> {
        let place = Place { patience, kept: sent, asked: sent };
        locked(&self.0).entry(key.clone()).or_default().insert(id.clone(), place);
        Member { company: self, key: key.clone(), id }
    }

    /// Whose places a request is to keep, and for how long.
    pub(super) fn all(&self, key: &LockKey) -> Vec<(HolderId, Duration)> {
        let company = locked(&self.0);
        let places = company.get(key).into_iter().flatten();
        places.map(|(id, place)| (id.clone(), place.patience)).collect()
    }

    /// The reply to a request sent at `sent` said that it kept the places of `members`.
    pub(super) fn kept(&self, key: &LockKey, members: &[HolderId], sent: Moment) {
        if let Some(places) = locked(&self.0).get_mut(key) {
            for id in members {
                if let Some(place) = places.get_mut(id) {
                    place.kept = place.kept.max(sent);
                    place.asked = place.asked.max(sent);
                }
            }
        }
    }
}

/// A waiter's membership in its client's [`Company`].
#[derive(Debug)]
pub(super) struct Member<'a> {
    company: &'a Company,
    key: LockKey,
    id: HolderId,
}

impl Member<'_> {
    /// When a third of the place's time is over, unless another's request keeps it before.
    pub(super) fn due(&self) -> Moment {
        self.place().map_or(Moment::MIN, |place| place.asked + place.patience / 3)
    }

    /// When the last request was sent that is known to have kept the place.
    pub(super) fn kept(&self) -> Moment {
        self.place().map_or(Moment::MIN, |place| place.kept)
    }

    /// The reply to this waiter's own request, sent at `sent`, said that it waits.
    pub(super) fn was_kept(&self, sent: Moment) {
        self.company.kept(&self.key, std::slice::from_ref(&self.id), sent);
    }

    /// This one repeats now, for all: the others need not, for a third of their time. Should it fail, they still have
    /// another in which the place counts.
    pub(super) fn repeats(&self, now: Moment) {
        for place in locked(&self.company.0).get_mut(&self.key).into_iter().flat_map(HashMap::values_mut) {
            place.asked = now;
        }
    }

    fn place(&self) -> Option<Place> {
        locked(&self.company.0).get(&self.key)?.get(&self.id).copied()
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        let mut company = locked(&self.company.0);
        if let Some(places) = company.get_mut(&self.key) {
            places.remove(&self.id);
            if places.is_empty() {
                company.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_writes_keeps_all_and_nobody_stays() {
        let (company, key) = (Company::default(), LockKey::new("k").unwrap());
        let at = |seconds: u64| Moment::from_nanos(seconds * 1_000_000_000);
        let ids = |members: &[(HolderId, Duration)]| members.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
        let patience = Duration::from_secs(15);
        let one = company.join(&key, HolderId::random(), patience, at(100));
        let asked = ids(&company.all(&key));
        let two = company.join(&key, HolderId::random(), patience, at(103));
        assert_eq!((one.due(), two.due(), company.all(&key).len()), (at(105), at(108), 2));
        company.kept(&key, &asked, at(104));
        assert_eq!((one.due(), two.due()), (at(109), at(108)), "who came later was not in that request");
        company.kept(&key, &asked, at(101));
        assert_eq!((one.due(), one.kept()), (at(109), at(104)), "an older request takes nothing back");
        two.repeats(at(108));
        assert_eq!((one.due(), one.kept(), two.kept()), (at(113), at(104), at(103)), "no reply says that it was kept");
        drop(one);
        assert_eq!(company.all(&key).len(), 1);
        drop(two);
        assert!(locked(&company.0).is_empty());
    }
}
