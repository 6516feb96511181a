//! [`RecordBackend`]: a [`LockBackend`] of any [`RecordStore`].

use super::company::Member;
use super::decide::{Look, look, next_end};
use super::engine::{Engine, Moved, Order, Plan};
use super::machine::{Answer, Asks, Sight};
use super::wakes::Watch;
use super::{Entry, Holder, Record, RecordStore, Snapshot};
use crate::clock::locked;
use crate::{
    Attempt, Capabilities, Clock, Deadline, Error, ErrorKind, FencingToken, HolderId, HolderInfo, Lease, LockBackend,
    LockInfo, LockKey, Moment, Release, Request, Result, WaiterInfo,
};
use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// A [`LockBackend`] of any [`RecordStore`]: all three modes, a FIFO queue, hand-over on release. Clones share the store.
#[derive(Debug)]
pub struct RecordBackend<S: RecordStore>(Arc<Engine<S>>);

impl<S: RecordStore> Clone for RecordBackend<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// A waiter repeats its request three times within this, or within its TTL if that is shorter (rule E5).
const LONGEST_PATIENCE: Duration = Duration::from_secs(15);

impl<S: RecordStore> RecordBackend<S> {
    /// A backend over a store.
    pub fn new(store: S) -> Self {
        Self(Arc::new(Engine::new(store)))
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.0.store
    }

    async fn ask(&self, request: &Request, asks: Asks, order: Order) -> Result<Moved<Answer, S::Version>> {
        let entry = Entry {
            id: request.holder(),
            mode: request.mode(),
            ttl_ms: request.ttl().as_millis(),
            label: request.label().to_owned(),
            since: 0,
            origin: self.0.store.origin(),
        };
        let patience = patience(request);
        let give_up = self.0.clock.now() + request.op_timeout();
        let read_first = asks == Asks::Again;
        let plan = Plan { give_up, ttl: request.ttl().get(), read_first, always_write: false, order };
        let (company, mut kept) = (&self.0.company, Vec::new());
        let moved = self.0.transact(request.key(), plan, |record, sight| {
            let entry = Entry { since: sight.floor, ..entry.clone() };
            let given_up = (asks == Asks::ToQueue && request.cancel().is_fired()).then(|| record.clone());
            let answer = record.acquire(entry, patience, asks, sight);
            kept.clear();
            if answer != Answer::Waiting {
                return answer;
            }
            if let Some(before) = given_up {
                // Nobody wants to wait any more: it was given up before its turn came. It still takes a free lock.
                *record = before;
                return Answer::Held;
            }
            let others = company.all(request.key()).into_iter();
            kept.extend(
                others.filter(|(other, patience)| record.stay(other, *patience, sight)).map(|(other, _)| other),
            );
            answer
        });
        let moved = moved.await?;
        company.kept(request.key(), &kept, moved.sent);
        Ok(moved)
    }

    fn lease(&self, request: &Request, holder: &Holder, believed_until: Moment) -> Arc<dyn Lease> {
        let ttl = holder.entry.ttl();
        self.0.leases.fetch_add(1, Ordering::Relaxed);
        Arc::new(RecordLease {
            engine: self.0.clone(),
            key: request.key().clone(),
            id: holder.entry.id.clone(),
            token: FencingToken(holder.token),
            floor: FencingToken(holder.floor),
            ttl,
            deadline: Deadline::new(believed_until),
            state: Mutex::default(),
        })
    }

    /// Resolves when a waiter must ask again: its place counts for a third of its time already (rule E5), it has another
    /// place than it had, or something is to be settled. A look that finds nothing of that costs one read and no write,
    /// and neither does one that finds the lock handed over.
    async fn watch(
        &self,
        request: &Request,
        place: &Member<'_>,
        told: &Watch,
        moved: Moved<Answer, S::Version>,
    ) -> Result<Watched> {
        let (engine, id, key) = (&self.0, request.holder(), request.key());
        let (mut version, mut end) = (moved.version, next_end(&moved.record, &id, &moved.sight));
        loop {
            let (now, repeat) = (engine.clock.now(), place.due());
            if now >= repeat {
                place.repeats(now);
                return Ok(Watched::Asks { granted: false });
            }
            // Whatever the store says, what it has decides.
            let granted = tokio::select! {
                biased;
                granted = told.woken() => granted,
                _ = engine.store.changed(key, &id, version.as_ref(), repeat.since(now).min(end)) => None,
            };
            if let Some(holder) = granted {
                return Ok(self.handed_over(request, place, &holder));
            }
            let mut snapshot = engine.snapshot(key, engine.clock.now() + request.op_timeout()).await?;
            let record = snapshot.record.take().unwrap_or_default();
            let sight = engine.sight(key, Some(&record), &snapshot.departed, &snapshot.doubted)?;
            if let Some(holder) = record.holders.iter().find(|holder| holder.entry.id == id) {
                engine.remember(key, &record, snapshot);
                return Ok(self.handed_over(request, place, holder));
            }
            match look(&record, &id, &sight) {
                Look::Ask => return Ok(Watched::Asks { granted: false }),
                Look::Wait(at_most) => (version, end) = (snapshot.version, at_most),
            }
        }
    }

    /// What becomes of a waiter to whom the lock was handed.
    fn handed_over(&self, request: &Request, place: &Member<'_>, holder: &Holder) -> Watched {
        let until = self.0.granted_until(holder, place.kept(), patience(request));
        if until.since(self.0.clock.now()) > patience(request) / 3 {
            return Watched::Acquired(self.lease(request, holder, until));
        }
        // A grant counts for no longer than its place did: it waits for nobody's turn.
        Watched::Asks { granted: true }
    }

    async fn remove(&self, key: &LockKey, id: &HolderId, op_timeout: Duration, always_write: bool) -> Result<bool> {
        let give_up = self.0.clock.now() + op_timeout;
        // A crowd that gave up at once takes turns, and lets holders go first.
        let plan = Plan { give_up, ttl: Duration::MAX, read_first: true, always_write, order: Order::InTurn };
        Ok(self.0.transact(key, plan, |record, sight| record.withdraw(id, sight)).await?.answer)
    }
}

/// What became of a waiter's place.
enum Watched {
    /// It was handed the lock, and has the lease already.
    Acquired(Arc<dyn Lease>),
    /// It is to ask again; `granted`: the lock was handed to it.
    Asks { granted: bool },
}

fn patience(request: &Request) -> Duration {
    request.ttl().get().min(LONGEST_PATIENCE)
}

fn disagrees(request: &Request, other: crate::Mode) -> Error {
    let asked = request.mode();
    Error::new(
        ErrorKind::InvalidConfig,
        format!("this lock is in use as {other}, and it was asked for as {asked}; all callers of a key must agree"),
    )
}

#[async_trait]
impl<S: RecordStore> LockBackend for RecordBackend<S> {
    fn name(&self) -> &'static str {
        self.0.store.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.store.capabilities()
    }

    fn clock(&self) -> Clock {
        self.0.clock.clone()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Attempt> {
        let moved = self.ask(request, Asks::Once, Order::Now).await?;
        match &moved.answer {
            Answer::Granted(holder) => {
                Ok(Attempt::Acquired(self.lease(request, holder, self.0.believed_until(holder, &moved))))
            }
            Answer::Disagrees(other) => Err(disagrees(request, *other)),
            Answer::Waiting | Answer::Held | Answer::Full | Answer::Gone => {
                Ok(Attempt::Held(shown(request.key(), &moved.record, &moved.sight)))
            }
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Attempt> {
        let mut asks = if request.was_queued() { Asks::Again } else { Asks::ToQueue };
        let mut seen = None;
        let (mut polls, mut order, mut place) = (crate::backoff(), Order::InTurn, None);
        let mut told = self.0.wakes.watch(request.key(), &request.holder());
        while !request.cancel().is_fired() {
            let moved = self.ask(request, asks, order).await?;
            let info = shown(request.key(), &moved.record, &moved.sight);
            match &moved.answer {
                Answer::Granted(holder) => {
                    return Ok(Attempt::Acquired(self.lease(request, holder, self.0.believed_until(holder, &moved))));
                }
                Answer::Disagrees(other) => return Err(disagrees(request, *other)),
                // Not queued at all. What an earlier call may have left is withdrawn by core.
                Answer::Held if request.cancel().is_fired() && !request.was_queued() => return Ok(Attempt::Held(info)),
                Answer::Gone => {
                    request.start_anew();
                    (asks, order, place) = (Asks::ToQueue, Order::InTurn, None);
                    told = self.0.wakes.watch(request.key(), &request.holder());
                    continue;
                }
                Answer::Full | Answer::Held => asks = Asks::ToQueue,
                Answer::Waiting => {
                    asks = Asks::Again;
                    // It stays while it asks again: that may take longer than its place counts.
                    let (company, patience) = (&self.0.company, patience(request));
                    let place = place
                        .get_or_insert_with(|| company.join(request.key(), request.holder(), patience, moved.sent));
                    place.was_kept(moved.sent);
                }
            }
            request.is_waiting(Some(info.clone()));
            seen = Some(info);
            let watched = async {
                match place.as_ref().filter(|_| asks == Asks::Again) {
                    Some(place) => self.watch(request, place, &told, moved).await,
                    None => {
                        self.0.clock.sleep(polls.next().unwrap_or_default()).await;
                        Ok(Watched::Asks { granted: false })
                    }
                }
            };
            tokio::select! {
                biased;
                () = request.cancel().fired() => {}
                watched = watched => match watched? {
                    Watched::Acquired(lease) => return Ok(Attempt::Acquired(lease)),
                    Watched::Asks { granted } => order = if granted { Order::Now } else { Order::InTurn },
                },
            }
        }
        if seen.is_some() || request.was_queued() {
            self.remove(request.key(), &request.holder(), request.op_timeout(), false).await?;
        }
        Ok(Attempt::Held(seen.unwrap_or_else(|| LockInfo::free(request.key().clone()))))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.remove(request.key(), &request.holder(), request.op_timeout(), true).await.map(drop)
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockInfo> {
        let snapshot = self.0.snapshot(key, Moment::MAX).await?;
        self.shown_now(key, snapshot)
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<LockInfo>> {
        let this = self.clone();
        let shown = self.0.store.scan(prefix).map(move |found| {
            let (key, snapshot) = found?;
            this.0.observe(snapshot.reading.as_ref());
            this.shown_now(&key, snapshot)
        });
        let in_use = |info: &Result<LockInfo>| {
            let idle =
                info.as_ref().is_ok_and(|info| !info.is_held() && info.waiters.as_ref().is_none_or(Vec::is_empty));
            std::future::ready(!idle)
        };
        shown.filter(in_use).boxed()
    }

    async fn break_lock(&self, key: &LockKey, holder: &HolderId) -> Result<bool> {
        self.remove(key, holder, crate::LocksBuilder::OP_TIMEOUT, false).await
    }

    async fn close(&self) -> Result<()> {
        self.0.store.close().await
    }

    #[cfg(unix)]
    fn sign_of_life(&self) -> Option<std::os::fd::OwnedFd> {
        self.0.store.sign_of_life()
    }
}

impl<S: RecordStore> RecordBackend<S> {
    fn shown_now(&self, key: &LockKey, snapshot: Snapshot<S::Version>) -> Result<LockInfo> {
        let mut record = snapshot.record.filter(|_| snapshot.version.is_some()).unwrap_or_default();
        let sight = self.0.sight(key, Some(&record), &snapshot.departed, &snapshot.doubted)?;
        record.prune(&sight);
        Ok(shown(key, &record, &sight))
    }
}

fn shown(key: &LockKey, record: &Record, sight: &Sight) -> LockInfo {
    let since = |entry: &Entry| Some(SystemTime::UNIX_EPOCH + Duration::from_micros(entry.since));
    let mut info = LockInfo::free(key.clone());
    info.last_token = (record.last_token > 0).then_some(FencingToken(record.last_token));
    for Holder { entry, token, floor: _, expires } in &record.holders {
        let mut holder = HolderInfo::new(entry.id.clone());
        holder.label = Some(entry.label.clone());
        holder.mode = Some(entry.mode);
        holder.token = Some(FencingToken(*token));
        // Where the store's clock is only known within bounds, the bound may be past what the lease ever had.
        holder.remaining = Some(expires.since(sight.earliest).min(entry.ttl()));
        holder.since = since(entry);
        info.holders.push(holder);
    }
    for waiter in &record.queue {
        let mut shown = WaiterInfo::new(waiter.entry.id.clone());
        shown.label = Some(waiter.entry.label.clone());
        shown.mode = Some(waiter.entry.mode);
        shown.since = since(&waiter.entry);
        info.waiters.get_or_insert_default().push(shown);
    }
    info
}

struct RecordLease<S: RecordStore> {
    engine: Arc<Engine<S>>,
    key: LockKey,
    id: HolderId,
    token: FencingToken,
    floor: FencingToken,
    ttl: Duration,
    deadline: Deadline,
    state: Mutex<State>,
}

/// What was done to give the lease up.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Held,
    /// A release was sent whose reply is not known.
    Releasing,
    Ended(Release),
}

impl<S: RecordStore> fmt::Debug for RecordLease<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, id, token, ttl, deadline, .. } = self;
        f.debug_struct("RecordLease")
            .field("key", key)
            .field("holder", id)
            .field("token", token)
            .field("ttl", ttl)
            .field("deadline", deadline)
            .finish_non_exhaustive()
    }
}

impl<S: RecordStore> Drop for RecordLease<S> {
    fn drop(&mut self) {
        self.engine.leases.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl<S: RecordStore> Lease for RecordLease<S> {
    fn holder(&self) -> HolderId {
        self.id.clone()
    }

    fn token(&self) -> FencingToken {
        self.token
    }

    fn fence_floor(&self) -> Option<FencingToken> {
        Some(self.floor)
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    async fn renew(&self, give_up: Moment) -> Result<()> {
        let plan = Plan { give_up, ttl: self.ttl, read_first: false, always_write: false, order: Order::Now };
        let moved = self.engine.transact(&self.key, plan, |record, sight| record.renew(&self.id, sight)).await?;
        let now = self.engine.clock.now();
        let Some(holder) = &moved.answer else {
            // A release that was under way meanwhile may be why (rule R4).
            if matches!(*locked(&self.state), State::Held) {
                self.deadline.is_gone(now);
            }
            return Err(self.deadline.error());
        };
        let extended = self.deadline.extend(now, self.engine.believed_until(holder, &moved));
        if extended { Ok(()) } else { Err(self.deadline.error()) }
    }

    async fn release(&self, give_up: Moment) -> Result<Release> {
        let before = *locked(&self.state);
        if let State::Ended(release) = before {
            return Ok(release);
        }
        *locked(&self.state) = State::Releasing;
        let plan = Plan { give_up, ttl: Duration::MAX, read_first: false, always_write: false, order: Order::Next };
        let moved = self.engine.transact(&self.key, plan, |record, sight| record.release(&self.id, sight)).await?;
        let now = self.engine.clock.now();
        let release = match (moved.answer, before) {
            (true, _) => Release::Released,
            // Rule R4: an earlier try may have released it.
            (false, State::Releasing) if now < self.deadline.at() => Release::Released,
            (false, _) => {
                self.deadline.is_gone(now);
                Release::AlreadyLost
            }
        };
        *locked(&self.state) = State::Ended(release);
        Ok(release)
    }
}
