//! The scripts and the record engine give the same answers to the same sequence of operations.
//!
//! The two have clocks of their own, so the long sequences depend on no expiry; where leases run out, only the order in
//! which others are granted the lock is compared.
#![allow(clippy::unwrap_used)]

use dlock_core::memory::Memory;
use dlock_core::{
    Attempt, Clock, ErrorKind, HolderId, Lease, LockBackend, LockKey, Mode, Release, Request, Result, Ttl,
};
use dlock_fixtures::RedisServer;
use dlock_redis::RedisBackend;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How many acquisitions take part at once.
const SLOTS: usize = 4;
const SOON: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Tries once; repeated by the same acquisition it must answer the same.
    Try(usize),
    /// Waits.
    Queue(usize),
    Renew(usize),
    Release(usize),
    /// Does not wait any more.
    Cancel(usize),
    /// Undoes an acquisition that may hold.
    Withdraw(usize),
    Break(usize),
    BreakNobody,
    /// Begins another acquisition in this slot if it has none, in this mode.
    Mode(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let slot = 0..SLOTS;
    prop_oneof![
        3 => slot.clone().prop_map(Op::Try),
        5 => slot.clone().prop_map(Op::Queue),
        2 => slot.clone().prop_map(Op::Renew),
        4 => slot.clone().prop_map(Op::Release),
        2 => slot.clone().prop_map(Op::Cancel),
        1 => slot.clone().prop_map(Op::Withdraw),
        2 => slot.clone().prop_map(Op::Break),
        1 => Just(Op::BreakNobody),
        1 => (slot, 0..4_usize).prop_map(|(slot, mode)| Op::Mode(slot, mode)),
    ]
}

fn mode(number: usize) -> Mode {
    let permit = |limit| Mode::Permit { limit: NonZeroU32::new(limit).unwrap() };
    [Mode::Exclusive, Mode::Shared, permit(2), permit(3)][number]
}

struct Slot {
    request: Request,
    lease: Option<Arc<dyn Lease>>,
    waits: Option<JoinHandle<Result<Attempt>>>,
}

/// One of the two backends, and what takes part on it.
struct Side {
    backend: Arc<dyn LockBackend>,
    key: LockKey,
    slots: Vec<Slot>,
    tokens: Vec<u64>,
}

impl Side {
    fn new(backend: Arc<dyn LockBackend>, key: &LockKey, modes: &[usize]) -> Self {
        let mut side = Self { backend, key: key.clone(), slots: Vec::new(), tokens: Vec::new() };
        side.slots = modes.iter().map(|number| side.slot(mode(*number))).collect();
        side
    }

    fn slot(&self, mode: Mode) -> Slot {
        let ttl = Ttl::new(Duration::from_secs(600)).unwrap();
        Slot { request: Request::new(self.key.clone()).with_mode(mode).with_ttl(ttl), lease: None, waits: None }
    }

    fn renew_slot(&mut self, at: usize) {
        self.slots[at] = self.slot(self.slots[at].request.mode());
    }

    fn give_up(&self) -> dlock_core::Moment {
        self.backend.clock().now() + SOON
    }

    /// Carries an operation out, and says how it was answered.
    async fn apply(&mut self, op: Op) -> String {
        match op {
            Op::Try(at) if self.slots[at].waits.is_none() => {
                let attempt = self.backend.try_acquire(&self.slots[at].request).await;
                let (before, answer) =
                    (self.slots[at].lease.as_ref().map(|lease| lease.token()), self.answer(at, attempt));
                match before {
                    Some(token) => {
                        format!("{answer}, the same: {}", self.slots[at].lease.as_ref().unwrap().token() == token)
                    }
                    None => answer,
                }
            }
            Op::Queue(at) if self.slots[at].waits.is_none() && self.slots[at].lease.is_none() => {
                let (backend, request) = (self.backend.clone(), self.slots[at].request.clone());
                self.slots[at].waits = Some(tokio::spawn(async move { backend.acquire(&request).await }));
                "asked".to_owned()
            }
            Op::Renew(at) => match &self.slots[at].lease {
                Some(lease) => format!("{:?}", lease.renew(self.give_up()).await.map_err(|error| error.kind())),
                None => String::new(),
            },
            Op::Release(at) => match self.slots[at].lease.take() {
                Some(lease) => {
                    let release = lease.release(self.give_up()).await.unwrap();
                    let again = lease.release(self.give_up()).await.unwrap();
                    assert_eq!(release, again);
                    self.renew_slot(at);
                    format!("{release:?}")
                }
                None => String::new(),
            },
            Op::Cancel(at) => match self.slots[at].waits.take() {
                Some(waits) => {
                    self.slots[at].request.cancel().fire();
                    let attempt = waits.await.unwrap();
                    let answer = self.answer(at, attempt);
                    self.renew_slot(at);
                    answer
                }
                None => String::new(),
            },
            Op::Withdraw(at) if self.slots[at].waits.is_none() => {
                self.backend.withdraw(&self.slots[at].request).await.unwrap();
                let lost = match &self.slots[at].lease {
                    Some(lease) => lease.renew(self.give_up()).await.map_err(|error| error.kind()).err(),
                    None => None,
                };
                self.renew_slot(at);
                format!("{lost:?}")
            }
            // A waiter that is broken learns it at once from a record, and at its next repeat from Redis: see below.
            Op::Break(at) if self.slots[at].waits.is_none() => {
                let broken = self.backend.break_lock(&self.key, &self.slots[at].request.holder()).await.unwrap();
                let lost = match self.slots[at].lease.take() {
                    Some(lease) => {
                        let lost = lease.renew(self.give_up()).await.map_err(|error| error.kind()).err();
                        assert_eq!(lease.release(self.give_up()).await.unwrap(), Release::AlreadyLost);
                        self.renew_slot(at);
                        lost
                    }
                    None => None,
                };
                format!("{broken} {lost:?}")
            }
            Op::BreakNobody => format!("{}", self.backend.break_lock(&self.key, &HolderId::random()).await.unwrap()),
            Op::Mode(at, number) if self.slots[at].waits.is_none() && self.slots[at].lease.is_none() => {
                self.slots[at] = self.slot(mode(number));
                String::new()
            }
            _ => String::new(),
        }
    }

    fn answer(&mut self, at: usize, attempt: Result<Attempt>) -> String {
        match attempt {
            Ok(Attempt::Acquired(lease)) => {
                if self.tokens.last() != Some(&lease.token().0) && self.slots[at].lease.is_none() {
                    self.tokens.push(lease.token().0);
                }
                self.slots[at].lease = Some(lease);
                "acquired".to_owned()
            }
            Ok(Attempt::Held(_)) => "held".to_owned(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
                "disagrees".to_owned()
            }
        }
    }

    /// Waits until each acquisition that waits is seen in the queue, or has its lease; then says who holds and waits.
    async fn settled(&mut self) -> String {
        let end = self.backend.clock().now() + SOON;
        loop {
            let info = self.backend.inspect(&self.key).await.unwrap();
            let slot = |id: &HolderId| self.slots.iter().position(|slot| slot.request.holder() == *id);
            let holders: Vec<_> = info.holders.iter().map(|holder| (slot(&holder.id), holder.mode)).collect();
            let waiters: Vec<_> = info.waiters.iter().flatten().map(|waiter| (slot(&waiter.id), waiter.mode)).collect();
            let mut answers = Vec::new();
            for at in 0..self.slots.len() {
                if self.slots[at].waits.as_ref().is_some_and(JoinHandle::is_finished) {
                    let attempt = self.slots[at].waits.take().unwrap().await.unwrap();
                    answers.push(self.answer(at, attempt));
                    if self.slots[at].lease.is_none() {
                        self.renew_slot(at);
                    }
                }
            }
            let in_queue = |at: usize| waiters.iter().any(|(waiter, _)| *waiter == Some(at));
            let rests = (0..self.slots.len()).all(|at| self.slots[at].waits.is_none() || in_queue(at));
            let known = holders.iter().chain(&waiters).all(|(slot, _)| slot.is_some());
            if answers.is_empty() && rests && known {
                return format!("holders {holders:?} waiters {waiters:?}");
            }
            assert!(self.backend.clock().now() < end, "{}: {info:?}", self.backend.name());
            self.backend.clock().sleep(Duration::from_micros(200)).await;
        }
    }

    async fn end(&mut self) {
        for at in 0..self.slots.len() {
            self.apply(Op::Cancel(at)).await;
            self.apply(Op::Release(at)).await;
            self.settled().await;
        }
        // A cancel may have come after the grant.
        for at in 0..self.slots.len() {
            self.apply(Op::Release(at)).await;
        }
    }
}

fn key() -> LockKey {
    LockKey::new(HolderId::random().as_str()).unwrap()
}

#[test]
fn the_same_operations_are_answered_the_same() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = RedisServer::start();
    let redis = runtime.block_on(async { RedisBackend::connect(&server.url().parse().unwrap()).await.unwrap() });
    let case = (prop::collection::vec(0..4_usize, SLOTS), any::<bool>(), prop::collection::vec(op(), 1..40));
    let mut runner = TestRunner::new(Config { cases: 100, failure_persistence: None, ..Config::default() });
    let ran = runner.run(&case, |(modes, alike, ops)| {
        // All of one mode, and any: where they do not agree most answers are refusals.
        let modes = if alike { vec![modes[0]; SLOTS] } else { modes };
        runtime.block_on(async {
            let key = key();
            let mut record = Side::new(Arc::new(Memory::new()), &key, &modes);
            let mut scripts = Side::new(Arc::new(redis.clone()), &key, &modes);
            for op in ops {
                let answers = (record.apply(op).await, scripts.apply(op).await);
                prop_assert_eq!(&answers.0, &answers.1, "{:?}", op);
                let states = (record.settled().await, scripts.settled().await);
                prop_assert_eq!(&states.0, &states.1, "after {:?}", op);
            }
            record.end().await;
            scripts.end().await;
            Ok(())
        })
    });
    ran.unwrap();
}

/// The order in which waiters of these modes are granted the lock, after holders that are never heard of again.
async fn order(backend: Arc<dyn LockBackend>, modes: &[usize]) -> Vec<usize> {
    let (clock, key) = (backend.clock(), key());
    let request = |number: usize, ttl| {
        Request::new(key.clone()).with_mode(mode(number)).with_ttl(Ttl::new(Duration::from_millis(ttl)).unwrap())
    };
    let crashed = request(modes[0], 60);
    assert!(matches!(backend.acquire(&crashed).await.unwrap(), Attempt::Acquired(_)));
    let mut waits = Vec::new();
    for (at, number) in modes.iter().enumerate() {
        let (backend, request) = (backend.clone(), request(*number, 10_000));
        let id = request.holder();
        let asks = {
            let (backend, request) = (backend.clone(), request.clone());
            tokio::spawn(async move { backend.acquire(&request).await })
        };
        while !asks.is_finished() {
            let info = backend.inspect(&key).await.unwrap();
            if info.waiters.unwrap().iter().any(|waiter| waiter.id == id) {
                break;
            }
            clock.sleep(Duration::from_micros(200)).await;
        }
        waits.push(tokio::spawn(async move {
            let Attempt::Acquired(lease) = asks.await.unwrap().unwrap() else { panic!("not cancelled") };
            lease.release(backend.clock().now() + SOON).await.unwrap();
            (lease.token(), at)
        }));
    }
    let mut granted = Vec::new();
    for wait in waits {
        granted.push(wait.await.unwrap());
    }
    granted.sort_unstable();
    granted.into_iter().map(|(_, at)| at).collect()
}

#[test]
fn after_a_crash_both_grant_in_the_same_order() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = RedisServer::start();
    let redis = runtime.block_on(async { RedisBackend::connect(&server.url().parse().unwrap()).await.unwrap() });
    let any = prop_oneof![prop::collection::vec(0..2_usize, 2..6), (2..6_usize).prop_map(|many| vec![2; many])];
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let ran = runner.run(&any, |modes| {
        runtime.block_on(async {
            let orders = tokio::join!(order(Arc::new(Memory::new()), &modes), order(Arc::new(redis.clone()), &modes));
            prop_assert_eq!(&orders.0, &orders.1);
            prop_assert_eq!(orders.0, (0..modes.len()).collect::<Vec<_>>());
            Ok(())
        })
    });
    ran.unwrap();
}

#[tokio::test]
async fn a_broken_waiter_queues_again_behind_the_others() {
    let server = RedisServer::start();
    let redis = RedisBackend::connect(&server.url().parse().unwrap()).await.unwrap();
    let key = key();
    let mut states = Vec::new();
    for backend in [Arc::new(Memory::new()) as Arc<dyn LockBackend>, Arc::new(redis)] {
        let mut side = Side::new(backend, &key, &[0, 0, 0]);
        for at in 0..3 {
            side.apply(Op::Queue(at)).await;
            side.settled().await;
        }
        assert!(side.backend.break_lock(&key, &side.slots[1].request.holder()).await.unwrap());
        states.push(side.settled().await);
        side.end().await;
    }
    assert_eq!(states[0], states[1]);
    assert!(states[0].ends_with("waiters [(Some(2), Some(Exclusive)), (Some(1), Some(Exclusive))]"), "{}", states[0]);
}

/// Not to be compared, and so told here: the scripts remember a withdrawn id for its TTL (rule R3), while a record that
/// was written meanwhile refuses the late request by its version.
#[tokio::test]
async fn the_scripts_refuse_a_withdrawn_id_by_itself() {
    let server = RedisServer::start();
    let redis = RedisBackend::connect(&server.url().parse().unwrap()).await.unwrap();
    let request = Request::new(key());
    redis.withdraw(&request).await.unwrap();
    assert_eq!(redis.try_acquire(&request).await.unwrap_err().kind(), ErrorKind::Unexpected);
    let memory = Memory::with_clock(Clock::system());
    memory.withdraw(&request).await.unwrap();
    assert!(matches!(memory.try_acquire(&request).await.unwrap(), Attempt::Acquired(_)));
}
