//! [`Session`]: one lease of etcd, by which all locks of a client with one TTL live.

use crate::error::not_sent;
use crate::locked;
use dlock_core::{Clock, Deadline, LostCause, Moment, Result, valid_until};
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// One lease of etcd, by which all locks of a client with one TTL live: kept alive once, however many they are.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) lease: i64,
    /// As granted.
    pub(crate) ttl: Duration,
    /// The sending time of the last answered keep-alive and the TTL (rule V5). Whatever ends the session ends it.
    pub(crate) deadline: Deadline,
    /// The sending time of the last answered keep-alive.
    pub(crate) answered: watch::Sender<Moment>,
    /// Asks for a keep-alive now.
    pub(crate) kick: Notify,
    /// The revision of the last withdrawal. A request to acquire compares it, so that one that a withdrawal has
    /// overtaken changes nothing (rule R3).
    withdrawn: AtomicI64,
    owners: Mutex<HashMap<Arc<[u8]>, Owner>>,
}

/// Who wants an entry.
#[derive(Debug)]
struct Owner {
    /// How many calls and leases.
    claims: usize,
    /// Without any, it is still wanted until then: a call that failed is repeated.
    until: Moment,
}

impl Session {
    /// A session whose lease was asked for at `sent`.
    pub(crate) fn new(lease: i64, ttl: Duration, sent: Moment) -> Self {
        Self {
            lease,
            ttl,
            deadline: Deadline::new(valid_until(sent, ttl)),
            answered: watch::Sender::new(sent),
            kick: Notify::new(),
            withdrawn: AtomicI64::new(0),
            owners: Mutex::default(),
        }
    }

    /// Whether it has ended, or may have.
    pub(crate) fn has_ended(&self, now: Moment) -> bool {
        now >= self.deadline.at()
    }

    /// The store said that the lease is gone.
    pub(crate) fn is_gone(&self) {
        self.deadline.end(LostCause::SessionEnded);
    }

    /// Waits until a third of the TTL is left (rule V5). `false` if the session has ended.
    pub(crate) async fn has_time_left(&self, clock: &Clock, give_up: Moment) -> Result<bool> {
        loop {
            let (now, at) = (clock.now(), self.deadline.at());
            if now >= at {
                return Ok(false);
            }
            if at.since(now) >= self.ttl / 3 {
                return Ok(true);
            }
            self.kick.notify_one();
            let soonest = give_up.min(at);
            if clock.timeout_at(soonest, self.deadline.moved(at)).await.is_none() && clock.now() >= give_up {
                return Err(not_sent());
            }
        }
    }

    /// Waits for the answer to a keep-alive that is sent from now on. `false` if the session has ended.
    pub(crate) async fn kept_alive(&self, clock: &Clock, give_up: Moment) -> Result<bool> {
        let asked = clock.now();
        let mut answered = self.answered.subscribe();
        self.kick.notify_one();
        let answer = clock.timeout_at(give_up, async {
            tokio::select! {
                sent = answered.wait_for(|sent| *sent >= asked) => sent.is_ok(),
                _ = self.deadline.ended() => false,
            }
        });
        answer.await.ok_or_else(crate::error::no_answer)
    }

    fn last_withdrawal(&self) -> i64 {
        self.withdrawn.load(Ordering::Acquire)
    }

    /// The last withdrawal as the store has it. One of before it, if somebody removed what is remembered of it, or restored a
    /// backup: believing in a later one, no request would ever be carried out again.
    pub(crate) fn sees_withdrawal(&self, revision: i64) {
        self.withdrawn.store(revision, Ordering::Release);
    }

    /// A withdrawal was made.
    pub(crate) fn withdrew(&self, revision: i64) {
        self.withdrawn.fetch_max(revision, Ordering::AcqRel);
    }

    /// From now on somebody wants this entry; to be called before it is sent.
    pub(crate) fn claim(self: &Arc<Self>, key: &[u8], clock: &Clock, grace: Duration) -> Claim {
        let key: Arc<[u8]> = key.into();
        let mut owners = locked(&self.owners);
        owners.entry(key.clone()).or_insert(Owner { claims: 0, until: Moment::MIN }).claims += 1;
        Claim { session: self.clone(), key, withdrawn: self.last_withdrawal(), clock: clock.clone(), grace }
    }

    /// Nobody wants this entry any more.
    pub(crate) fn disclaim(&self, key: &[u8]) {
        locked(&self.owners).remove(key);
    }

    /// Those of `keys` that nobody wants.
    pub(crate) fn orphans(&self, keys: Vec<Vec<u8>>, now: Moment) -> Vec<Vec<u8>> {
        let mut owners = locked(&self.owners);
        owners.retain(|_, owner| owner.claims > 0 || owner.until > now);
        keys.into_iter().filter(|key| !owners.contains_key(key.as_slice())).collect()
    }
}

/// A call's or lease's wish for an entry to stay.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) session: Arc<Session>,
    pub(crate) key: Arc<[u8]>,
    /// The session's last withdrawal when this was claimed: a later one may have been of this.
    pub(crate) withdrawn: i64,
    clock: Clock,
    grace: Duration,
}

impl Claim {
    /// The entry is gone, or never came to be.
    pub(crate) fn settle(&self) {
        self.session.disclaim(&self.key);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let now = self.clock.now();
        if let Some(owner) = locked(&self.session.owners).get_mut(&self.key) {
            owner.claims = owner.claims.saturating_sub(1);
            owner.until = now + self.grace;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_an_orphan_once_nobody_wants_it() {
        let clock = Clock::manual();
        let session = Arc::new(Session::new(1, Duration::from_secs(9), clock.now()));
        let grace = Duration::from_secs(5);
        let keys = || vec![b"a".to_vec(), b"b".to_vec()];
        let one = session.claim(b"a", &clock, grace);
        let two = session.claim(b"a", &clock, grace);
        drop(one);
        clock.advance(Duration::from_secs(6));
        assert_eq!(session.orphans(keys(), clock.now()), [b"b"]);
        drop(two);
        assert_eq!(session.orphans(keys(), clock.now()), [b"b"]);
        clock.advance(Duration::from_secs(5));
        assert_eq!(session.orphans(keys(), clock.now()), [b"a", b"b"]);
        let three = session.claim(b"b", &clock, grace);
        three.settle();
        assert_eq!(session.orphans(keys(), clock.now()), [b"a", b"b"]);
    }

    #[tokio::test]
    async fn little_time_left_is_waited_out_and_an_end_is_told() {
        let clock = Clock::manual();
        let session = Arc::new(Session::new(1, Duration::from_secs(9), clock.now()));
        let give_up = clock.now() + Duration::from_secs(100);
        assert!(session.has_time_left(&clock, give_up).await.unwrap());
        clock.advance(Duration::from_secs(7));
        let waiting = tokio::spawn({
            let (session, clock) = (session.clone(), clock.clone());
            async move { session.has_time_left(&clock, give_up).await }
        });
        session.kick.notified().await;
        assert!(session.deadline.extend(clock.now(), valid_until(clock.now(), session.ttl)));
        assert!(waiting.await.unwrap().unwrap());
        session.is_gone();
        assert!(!session.has_time_left(&clock, give_up).await.unwrap());
        assert!(!session.kept_alive(&clock, give_up).await.unwrap());
    }
}
