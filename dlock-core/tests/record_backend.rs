//! [`RecordBackend`] on a store whose requests a test counts, loses and delays.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use dlock_core::memory::{Memory, Store};
use dlock_core::record::{Change, Record, RecordBackend, RecordStore, Snapshot, StoreReading, Swap, Wakes};
use dlock_core::{
    Attempt, Capabilities, Clock, Effect, Error, ErrorKind, HolderId, Lease, LockBackend, LockKey, Moment, Release,
    Request, Result, Ttl,
};
use futures_core::stream::BoxStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The memory's records, with requests that can be counted and lost.
#[derive(Clone, Debug)]
struct Watched {
    inner: Store,
    reads: Arc<AtomicUsize>,
    swaps: Arc<AtomicUsize>,
    /// The replies of so many swaps are lost, although they are carried out.
    lose: Arc<AtomicUsize>,
    /// Only reading tells the store's time.
    silent: bool,
    /// A swap is not done at the first poll.
    slow: bool,
}

impl Watched {
    fn new(memory: &Memory) -> Self {
        Self {
            inner: memory.store(),
            reads: Arc::default(),
            swaps: Arc::default(),
            lose: Arc::default(),
            silent: false,
            slow: false,
        }
    }

    fn requests(&self) -> (usize, usize) {
        (self.reads.load(Ordering::SeqCst), self.swaps.load(Ordering::SeqCst))
    }
}

#[async_trait]
impl RecordStore for Watched {
    type Version = u64;

    fn name(&self) -> &'static str {
        "watched"
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn clock(&self) -> Clock {
        self.inner.clock()
    }

    fn reading(&self) -> Option<StoreReading> {
        self.inner.reading().filter(|_| !self.silent)
    }

    async fn read(&self, key: &LockKey, give_up: Moment) -> Result<Snapshot<u64>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.read(key, give_up).await
    }

    async fn swap(&self, key: &LockKey, change: Change<'_, u64>) -> Result<Swap<u64>> {
        self.swaps.fetch_add(1, Ordering::SeqCst);
        if self.slow {
            tokio::task::yield_now().await;
        }
        let done = self.inner.swap(key, change).await?;
        let lost = self.lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if lost.is_ok() {
            return Err(Error::new(ErrorKind::Unavailable, "the reply was lost").with_effect(Effect::Unknown));
        }
        Ok(match done {
            Swap::Done { version, reading } => Swap::Done { version, reading: reading.filter(|_| !self.silent) },
            Swap::Conflict(present) => Swap::Conflict(present),
        })
    }

    fn wakes(&self) -> Wakes {
        self.inner.wakes()
    }

    async fn changed(&self, key: &LockKey, waiter: &HolderId, since: Option<&u64>, at_most: Duration) -> Result<()> {
        self.inner.changed(key, waiter, since, at_most).await
    }

    fn scan(&self, prefix: &str) -> BoxStream<'static, Result<(LockKey, Snapshot<u64>)>> {
        self.inner.scan(prefix)
    }

    async fn purge(&self, key: &LockKey, expected: &u64) -> Result<bool> {
        self.inner.purge(key, expected).await
    }
}

fn request() -> Request {
    Request::new(LockKey::new("a").unwrap()).with_ttl(Ttl::new(Duration::from_secs(10)).unwrap())
}

async fn grab(backend: &dyn LockBackend, request: &Request) -> Arc<dyn Lease> {
    match backend.try_acquire(request).await.unwrap() {
        Attempt::Acquired(lease) => lease,
        Attempt::Held(info) => panic!("held: {info:?}"),
    }
}

#[tokio::test]
async fn acquire_renew_and_release_are_one_swap_each() {
    let store = Watched::new(&Memory::new());
    let backend = RecordBackend::new(store.clone());
    for _ in 0..3 {
        let before = store.requests();
        let lease = grab(&backend, &request()).await;
        let soon = backend.clock().now() + Duration::from_secs(1);
        lease.renew(soon).await.unwrap();
        assert_eq!(lease.release(soon).await.unwrap(), Release::Released);
        assert_eq!(store.requests(), (before.0, before.1 + 3));
    }
}

#[tokio::test]
async fn with_many_held_locks_each_renewal_is_still_one_swap() {
    let store = Watched::new(&Memory::new());
    let backend = RecordBackend::new(store.clone());
    let mut leases = Vec::new();
    for n in 0..5_000 {
        let request = Request::new(LockKey::new(format!("k{n}")).unwrap()).with_ttl(Ttl::MAX);
        leases.push(grab(&backend, &request).await);
    }
    for _ in 0..2 {
        let before = store.requests();
        for lease in &leases {
            lease.renew(backend.clock().now() + Duration::from_secs(1)).await.unwrap();
        }
        assert_eq!(store.requests(), (before.0, before.1 + leases.len()));
    }
}

#[tokio::test]
async fn a_store_whose_replies_tell_no_time_is_read_once_a_ttl() {
    let clock = Clock::manual();
    let mut store = Watched::new(&Memory::with_clock(clock.clone()));
    store.silent = true;
    let backend = RecordBackend::new(store.clone());
    let lease = grab(&backend, &request()).await;
    for renewal in 1..=12 {
        clock.advance(Duration::from_secs(4));
        lease.renew(clock.now() + Duration::from_secs(1)).await.unwrap();
        // At the start, and then 12 s, 24 s, 36 s and 48 s later: the TTL is 10 s.
        assert_eq!(store.requests(), (1 + renewal / 3, 1 + renewal));
    }
}

#[tokio::test]
async fn a_lost_reply_is_made_good_by_asking_again_or_taking_back() {
    let memory = Memory::new();
    let store = Watched::new(&memory);
    let backend = RecordBackend::new(store.clone());
    let soon = backend.clock().now() + Duration::from_secs(1);

    let again = request();
    store.lose.store(1, Ordering::SeqCst);
    assert_eq!(backend.try_acquire(&again).await.unwrap_err().effect(), Effect::Unknown);
    let lease = grab(&backend, &again).await;
    assert_eq!(memory.inspect(again.key()).await.unwrap().holders[0].token, Some(lease.token()));

    // A release whose reply was lost has released.
    store.lose.store(1, Ordering::SeqCst);
    assert!(lease.release(soon).await.is_err());
    assert_eq!(lease.release(soon).await.unwrap(), Release::Released);

    let taken_back = request();
    store.lose.store(1, Ordering::SeqCst);
    assert!(backend.try_acquire(&taken_back).await.is_err());
    backend.withdraw(&taken_back).await.unwrap();
    assert!(memory.is_empty());
}

#[tokio::test]
async fn a_client_that_was_stopped_before_writing_gives_no_token_twice() {
    let memory = Memory::new();
    let store = memory.store();
    let key = request().key().clone();
    // It read that there is no record, and decided on a token; and was stopped.
    let mut stale = Record::default();
    let now = store.reading().unwrap();
    let holder = {
        let lease = grab(&memory, &request()).await;
        lease.release(memory.clock().now() + Duration::from_secs(1)).await.unwrap();
        lease.token()
    };
    stale.last_token = now.unix_micros;
    stale.holders.push(dlock_core::record::Holder {
        entry: dlock_core::record::Entry {
            id: HolderId::random(),
            mode: dlock_core::Mode::Exclusive,
            ttl_ms: 10_000,
            label: String::new(),
            since: 0,
            origin: None,
        },
        token: now.unix_micros,
        floor: now.unix_micros,
        expires: now.at + Duration::from_secs(10),
    });
    assert!(now.unix_micros < holder.0);
    let change = Change { expected: None, next: &stale, granted: &[], give_up: memory.clock().now() };
    assert!(matches!(store.swap(&key, change).await.unwrap(), Swap::Conflict(Some(_))));
    assert!(grab(&memory, &request()).await.token() > holder);
}

#[tokio::test]
async fn an_acquisition_that_nobody_polls_holds_up_no_other() {
    let store = Watched { slow: true, ..Watched::new(&Memory::new()) };
    let backend = RecordBackend::new(store);
    let aside = request();
    let mut aside = std::pin::pin!(backend.acquire(&aside));
    assert!(futures_util::FutureExt::now_or_never(&mut aside).is_none(), "its swap is under way");
    let begun = backend.clock().now();
    assert!(matches!(backend.acquire(&request()).await.unwrap(), Attempt::Acquired(_)));
    let took = backend.clock().now().since(begun);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn a_hand_over_wakes_the_next_waiter_alone() {
    let memory = Memory::new();
    let holder = grab(&memory, &request()).await;
    let stores: Vec<_> = (0..3).map(|_| Watched::new(&memory)).collect();
    let mut waiters = Vec::new();
    for (turn, store) in stores.iter().enumerate() {
        let backend = RecordBackend::new(store.clone());
        waiters.push(tokio::spawn(async move { backend.acquire(&request()).await.unwrap() }));
        while memory.inspect(request().key()).await.unwrap().waiters.unwrap().len() <= turn {
            tokio::task::yield_now().await;
        }
    }
    let before: Vec<_> = stores.iter().map(Watched::requests).collect();
    holder.release(memory.clock().now() + Duration::from_secs(1)).await.unwrap();
    assert!(matches!(waiters.remove(0).await.unwrap(), Attempt::Acquired(_)));
    let after: Vec<_> = stores.iter().map(Watched::requests).collect();
    assert_eq!(before, after, "who was told that it holds asks nothing, and the others do not stir");
}

#[tokio::test]
async fn a_hand_over_whose_reply_was_lost_is_seen_at_once() {
    let memory = Memory::with_clock(Clock::manual());
    let store = Watched::new(&memory);
    let backend = RecordBackend::new(store.clone());
    let holder = grab(&backend, &request()).await;
    let waiter = tokio::spawn({
        let backend = backend.clone();
        async move { backend.acquire(&request()).await.unwrap() }
    });
    while memory.inspect(request().key()).await.unwrap().waiters.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    store.lose.store(1, Ordering::SeqCst);
    holder.release(memory.clock().now() + Duration::from_secs(1)).await.unwrap_err();
    // The clock stands still: nothing but a word wakes the waiter.
    assert!(matches!(waiter.await.unwrap(), Attempt::Acquired(_)));
}

#[tokio::test]
async fn a_crowd_of_one_client_keeps_its_places_by_one_write() {
    let clock = Clock::manual();
    let memory = Memory::with_clock(clock.clone());
    let holder = grab(&memory, &request()).await;
    let store = Watched::new(&memory);
    let backend = RecordBackend::new(store.clone());
    let crowd: Vec<_> = (0..20)
        .map(|_| {
            let backend = backend.clone();
            tokio::spawn(async move { backend.acquire(&request()).await.unwrap() })
        })
        .collect();
    let waiting = async || memory.inspect(request().key()).await.unwrap().waiters.unwrap().len();
    while waiting().await < 20 {
        tokio::task::yield_now().await;
    }
    // Every third of the TTL, 10 s, for three TTLs; the holder stays.
    for _ in 0..9 {
        let before = store.requests().1;
        clock.advance(Duration::from_millis(3_334));
        holder.renew(clock.now() + Duration::from_secs(1)).await.unwrap();
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(store.requests().1, before + 1);
    }
    assert_eq!(waiting().await, 20, "nobody lost its place");
    crowd.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn an_acquisition_in_doubt_is_taken_back_for_good_when_it_is_released() {
    let memory = Memory::new();
    let store = Watched::new(&memory);
    let locks = dlock_core::Locks::new(RecordBackend::new(store.clone())).unwrap();
    store.lose.store(1, Ordering::SeqCst);
    let guard = locks.lock("a").acquire().await.expect("asked again under the same id");
    let before = store.requests();
    guard.release().await.unwrap();
    locks.close().await.unwrap();
    assert!(store.requests().1 >= before.1 + 2, "released, and withdrawn");
    assert!(memory.is_empty());
}

#[test]
fn a_loss_is_told_outside_of_any_runtime() {
    let clock = Clock::manual();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let locks = runtime.block_on(async { dlock_core::Locks::new(Memory::with_clock(clock.clone())) }).unwrap();
    let guard = futures_util::FutureExt::now_or_never(locks.lock("a").acquire()).expect("memory is at hand").unwrap();
    let mut lost = Box::pin(guard.lost());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(lost.as_mut().poll(&mut context).is_pending());
    clock.advance(Duration::from_secs(31));
    assert!(lost.as_mut().poll(&mut context).is_ready());
}
