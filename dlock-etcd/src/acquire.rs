//! How a lock is acquired.

use crate::backend::Shared;
use crate::lease::EtcdLease;
use crate::line::{News, Place};
use crate::names::Span;
use crate::queue::{Queue, note};
use crate::session::{Claim, Session};
use crate::store::{created, get};
use dlock_core::{Attempt, Effect, Error, ErrorKind, Lease, LockInfo, Mode, Moment, Request, Result, Standing};
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use std::sync::Arc;
use std::time::Duration;

/// How often a waiter tells core how the lock looks, if that has changed.
const TELL: Duration = Duration::from_secs(1);

/// What a request to acquire found.
enum Found {
    /// Its entry stands in the queue at that index.
    InQueue(Queue, usize),
    /// Its entry was put at that revision, and nothing was read.
    Put(i64),
    /// It was not let in: the queue as it is.
    Refused(Queue),
    /// Something is to be done first, that was done: ask again.
    Again,
}

/// On what condition an entry is put.
enum Only {
    Always,
    /// Unless it is there: whoever asks hears of the queue by itself.
    Unseen,
    /// If no entry is there that it would wait for.
    IfFree,
    /// If none came since the revision at which it would have held.
    IfNoneSince(i64),
}

impl Shared {
    pub(crate) async fn try_acquire(self: &Arc<Self>, request: &Request) -> Result<Attempt> {
        let give_up = self.store.clock.now() + request.op_timeout();
        let mut only = Only::IfFree;
        loop {
            let session = self.sessions.get(request.ttl(), give_up).await?;
            let claim = self.claim(&session, request);
            match self.ask(&claim, request, &only, give_up).await? {
                Found::InQueue(queue, index) if queue.standing(index) == Standing::Holds => {
                    if session.has_time_left(&self.store.clock, give_up).await.map_err(in_doubt)? {
                        let created = queue.entries[index].created;
                        return Ok(Attempt::Acquired(self.lease(claim, request, created, queue.revision)));
                    }
                    claim.settle();
                    request.start_anew();
                }
                Found::InQueue(queue, index) => {
                    // It was queued by an earlier call: it does not wait now.
                    let entry = &queue.entries[index];
                    self.store.remove(&entry.key, entry.created, give_up).await.map_err(in_doubt)?;
                    claim.settle();
                    return Ok(Attempt::Held(queue.info(request.key())));
                }
                Found::Refused(queue) => {
                    claim.settle();
                    match queue.standing_of_next(request.mode()) {
                        // What etcd can't compare by itself: how many there are.
                        Standing::Holds => only = Only::IfNoneSince(queue.revision),
                        Standing::Waits { .. } => {
                            return Ok(Attempt::Held(self.shown(request.key(), &queue, give_up).await));
                        }
                        Standing::Disagrees(other) => return Err(disagrees(request, other)),
                    }
                }
                Found::Put(_) | Found::Again => {}
            }
        }
    }

    pub(crate) async fn acquire(self: &Arc<Self>, request: &Request) -> Result<Attempt> {
        let clock = &self.store.clock;
        let mut pauses = dlock_core::backoff();
        let mut seen = LockInfo::free(request.key().clone());
        // Since when requests have been carried out and come to nothing.
        let mut in_vain = None;
        while !request.cancel().is_fired() {
            let give_up = clock.now() + request.op_timeout();
            let session = self.sessions.get(request.ttl(), give_up).await?;
            let claim = self.claim(&session, request);
            let place = self.lines.behind_others(request.key(), request.mode(), &claim.key);
            let only = if place.is_some() { Only::Unseen } else { Only::Always };
            let (created, since) = match self.ask(&claim, request, &only, give_up).await? {
                Found::InQueue(queue, index) => {
                    drop(place);
                    let (created, standing) = (queue.entries[index].created, queue.standing(index));
                    let since = match standing {
                        Standing::Holds => Ok(queue.revision),
                        Standing::Disagrees(other) => Err(Stopped::Disagrees(other)),
                        Standing::Waits { .. } => {
                            request.is_waiting(Some(queue.info(request.key())));
                            let (folder, there) = (self.names.folder(request.key()), queue.revision);
                            let place = self.lines.join(request.key(), &folder, queue, &claim.key, &self.watches);
                            self.wait(request, &session, place, there).await
                        }
                    };
                    (created, since)
                }
                Found::Put(created) => {
                    // Only with a place nothing is read.
                    let Some(place) = place else { continue };
                    request.is_waiting(None);
                    place.is_there(created);
                    (created, self.wait(request, &session, place, created).await)
                }
                Found::Refused(_) | Found::Again => {
                    let since = *in_vain.get_or_insert_with(|| clock.now());
                    if clock.now().since(since) > request.op_timeout() {
                        return Err(crate::error::not_sent());
                    }
                    clock.sleep(pauses.next().unwrap_or_default()).await;
                    continue;
                }
            };
            in_vain = None;
            let give_up = clock.now() + request.op_timeout();
            match since {
                Ok(seen) if session.has_time_left(clock, give_up).await.map_err(in_doubt)? => {
                    return Ok(Attempt::Acquired(self.lease(claim, request, created, seen)));
                }
                // The session ended, or the entry was removed: it queues again under another id (rule R6).
                Ok(_) | Err(Stopped::Gone) => {
                    if !session.has_ended(clock.now()) {
                        // Should it be there all the same, nobody would wait for it.
                        self.store.remove(&claim.key, created, give_up).await.map_err(in_doubt)?;
                    }
                    claim.settle();
                    request.start_anew();
                    clock.sleep(pauses.next().unwrap_or_default()).await;
                }
                Err(Stopped::Cancelled(info)) => seen = info,
                Err(Stopped::Disagrees(other)) => {
                    self.store.remove(&claim.key, created, give_up).await.map_err(in_doubt)?;
                    claim.settle();
                    return Err(disagrees(request, other));
                }
                Err(Stopped::CutOff) => {
                    let message = "the server ended the stream of watches, and opens no other";
                    return Err(in_doubt(Error::new(ErrorKind::Unavailable, message)));
                }
            }
        }
        let key = self.names.entry(request.key(), &request.holder(), request.mode());
        if request.was_queued() {
            self.store.forget(std::slice::from_ref(&key), clock.now() + request.op_timeout()).await?;
        }
        if let Some(session) = self.sessions.current(request.ttl()) {
            session.disclaim(&key);
        }
        Ok(Attempt::Held(seen))
    }

    /// Waits in line until the lock is held, since the revision that is answered.
    ///
    /// Its entry was there at the revision `there`.
    async fn wait(&self, request: &Request, session: &Session, mut place: Place, there: i64) -> Result<i64, Stopped> {
        let (clock, line) = (&self.store.clock, place.line.clone());
        let mut told = 0;
        loop {
            let tick = async {
                clock.sleep(TELL).await;
                if line.revision() < there {
                    // The stream is cut off, or something passes nothing on.
                    line.look(&self.store, clock.now() + self.op_timeout).await;
                }
            };
            tokio::select! {
                biased;
                () = request.cancel().fired() => return Err(Stopped::Cancelled(line.seen())),
                _ = session.deadline.ended() => return Err(Stopped::Gone),
                news = place.news() => return match news {
                    News::Holds(revision) => Ok(revision),
                    News::CutOff => Err(Stopped::CutOff),
                    News::Disagrees(other) => Err(Stopped::Disagrees(other)),
                    News::Gone | News::Waits => Err(Stopped::Gone),
                },
                () = tick => {
                    let now = line.revision();
                    if now > told {
                        told = now;
                        request.is_waiting(Some(line.seen()));
                    }
                }
            }
        }
    }

    /// Puts the entry of an acquisition, if it is not there yet, in one transaction that leaves nothing behind if it must
    /// not be there.
    async fn ask(&self, claim: &Claim, request: &Request, only: &Only, give_up: Moment) -> Result<Found> {
        let (session, key) = (&claim.session, &claim.key);
        let folder = self.names.folder(request.key());
        let (all, mark) = (Span::prefixed(&folder), Span::key(&self.names.withdrawn(session.lease)));
        let mut when = vec![
            Compare::create_revision(&key[..], CompareOp::Equal, 0),
            Compare::mod_revision(mark.start.as_slice(), CompareOp::Equal, claim.withdrawn),
        ];
        match (only, request.mode()) {
            (Only::Always | Only::Unseen, _) => {}
            (Only::IfFree, Mode::Shared) => {
                when.extend(self.names.not_shared(request.key()).map(|span| created(&span, CompareOp::Equal, 0)));
            }
            (Only::IfFree, _) => when.push(created(&all, CompareOp::Equal, 0)),
            (Only::IfNoneSince(revision), _) => when.push(created(&all, CompareOp::Less, revision + 1)),
        }
        let options = PutOptions::new().with_lease(session.lease);
        let put = TxnOp::put(&key[..], note(request.label(), request.mode()), Some(options));
        let put = if matches!(only, Only::Unseen) { vec![put] } else { vec![put, get(&all)] };
        let txn = Txn::new().when(when).and_then(put).or_else([get(&all), get(&mark)]);
        let Some(reply) = self.store.txn(txn, give_up).await? else {
            // The server has lost the lease: nothing was put.
            claim.settle();
            session.is_gone();
            return Ok(Found::Again);
        };
        if reply.read.is_empty() {
            return Ok(Found::Put(reply.revision));
        }
        let queue = Queue::read(&folder, reply.revision, reply.read.first().map_or(&[], Vec::as_slice));
        match queue.position(key) {
            Some(index) if queue.entries[index].lease == session.lease => Ok(Found::InQueue(queue, index)),
            Some(index) => {
                // It was put under a session that has ended since, and can't be kept alive.
                let entry = &queue.entries[index];
                self.store.remove(&entry.key, entry.created, give_up).await.map_err(in_doubt)?;
                request.start_anew();
                Ok(Found::Again)
            }
            None => {
                let mark = reply.read.get(1).and_then(|kvs| kvs.first()).map_or(0, etcd_client::KeyValue::mod_revision);
                if mark == claim.withdrawn {
                    return Ok(Found::Refused(queue));
                }
                // Another acquisition was withdrawn meanwhile. This one is still wanted.
                session.sees_withdrawal(mark);
                Ok(Found::Again)
            }
        }
    }

    fn claim(&self, session: &Arc<Session>, request: &Request) -> Claim {
        let key = self.names.entry(request.key(), &request.holder(), request.mode());
        // Core repeats a failed call within a second or so.
        let grace = session.ttl + request.op_timeout();
        session.claim(&key, &self.store.clock, grace)
    }

    /// The lease of an entry that `created` made and that was there, and held, at the revision `seen`.
    fn lease(self: &Arc<Self>, claim: Claim, request: &Request, created: i64, seen: i64) -> Arc<dyn Lease> {
        Arc::new(EtcdLease::new(self, claim, request.holder(), request.mode(), created, seen))
    }
}

/// Why a waiter stopped waiting.
enum Stopped {
    Gone,
    Cancelled(LockInfo),
    CutOff,
    Disagrees(Mode),
}

/// The entry is there, whatever this request did.
fn in_doubt(error: Error) -> Error {
    error.with_effect(Effect::Unknown)
}

fn disagrees(request: &Request, other: Mode) -> Error {
    let asked = request.mode();
    Error::new(
        ErrorKind::InvalidConfig,
        format!("this lock is in use as {other}, and it was asked for as {asked}; all callers of a key must agree"),
    )
    .with_effect(Effect::NotApplied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EtcdBackend;
    use dlock_core::{LockBackend, LockKey};
    use dlock_fixtures::EtcdServer;
    use std::num::NonZeroU32;

    fn requests() -> Vec<Request> {
        let permit = Mode::Permit { limit: NonZeroU32::new(2).unwrap() };
        let modes = [("x", Mode::Exclusive), ("s", Mode::Shared), ("p", permit)];
        modes.map(|(key, mode)| Request::new(LockKey::new(key).unwrap()).with_mode(mode)).into()
    }

    #[tokio::test]
    async fn a_request_that_a_withdrawal_has_overtaken_changes_nothing() {
        let server = EtcdServer::start();
        let backend = EtcdBackend::connect(&server.url().parse().unwrap()).await.unwrap();
        let shared = backend.shared();
        let give_up = Moment::MAX;
        for request in requests() {
            for only in [Only::Always, Only::IfFree, Only::IfNoneSince(i64::MAX - 1)] {
                let session = shared.sessions.get(request.ttl(), give_up).await.unwrap();
                let under_way = shared.claim(&session, &request);
                backend.withdraw(&request).await.unwrap();
                let found = shared.ask(&under_way, &request, &only, give_up).await.unwrap();
                assert!(matches!(found, Found::Again));
                assert_eq!(server.keys("dlock/").len(), 1, "the session's mark alone");
                // Others of the session are not concerned, whether they were under way or come later.
                let other = Request::new(request.key().clone()).with_mode(request.mode());
                let Attempt::Acquired(lease) = backend.try_acquire(&other).await.unwrap() else { panic!("it is free") };
                let late = shared.ask(&under_way, &request, &only, give_up).await.unwrap();
                assert!(matches!(late, Found::Again));
                lease.release(give_up).await.unwrap();
                request.start_anew();
            }
        }
        backend.close().await.unwrap();
        assert!(server.keys("").is_empty());
    }

    #[tokio::test]
    async fn the_same_request_twice_is_one_acquisition() {
        let server = EtcdServer::start();
        let backend = EtcdBackend::connect(&server.url().parse().unwrap()).await.unwrap();
        for request in requests() {
            for waits in [false, true, false] {
                let attempt = if waits { backend.acquire(&request).await } else { backend.try_acquire(&request).await };
                let Attempt::Acquired(lease) = attempt.unwrap() else { panic!("it is its own") };
                let info = backend.inspect(request.key()).await.unwrap();
                assert_eq!((info.holders.len(), &info.holders[0].id), (1, &request.holder()));
                assert_eq!((lease.holder(), info.holders[0].token), (request.holder(), Some(lease.token())));
            }
        }
        assert_eq!(server.keys("").len(), 3);
    }

    #[tokio::test]
    async fn an_entry_of_a_session_that_ended_is_left_behind() {
        let server = EtcdServer::start();
        let backend = EtcdBackend::connect(&server.url().parse().unwrap()).await.unwrap();
        for request in requests() {
            let Attempt::Acquired(lease) = backend.try_acquire(&request).await.unwrap() else { panic!("it is free") };
            // Its client gave the session up; the server does not know it yet.
            let old = backend.shared().sessions.current(request.ttl()).unwrap();
            old.deadline.end(dlock_core::LostCause::Expired);
            let Attempt::Acquired(next) = backend.acquire(&request).await.unwrap() else { panic!("it waits") };
            assert!(lease.deadline().cause().is_some() && next.token() > lease.token());
            assert!(next.deadline().at() > backend.clock().now());
            let info = backend.inspect(request.key()).await.unwrap();
            assert_eq!((info.holders.len(), &info.holders[0].id), (1, &next.holder()));
            next.release(Moment::MAX).await.unwrap();
        }
    }
}
