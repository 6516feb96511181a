//! The record's transitions under random schedules: clients that pause between reading and writing, lose replies, repeat
//! themselves, crash and come back, on clocks that they know only roughly.
#![allow(clippy::unwrap_used)]

use dlock_core::record::machine::{Answer, Asks, Sight};
use dlock_core::record::{Entry, Record, StoreTime};
use dlock_core::{HolderId, Mode, drift};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

/// Microseconds.
type Time = u64;

const TTL: Time = 100_000;

/// What a client does next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Reads, and decides what to write.
    Begin(usize, Deed),
    /// What was decided arrives at the store; the reply comes back, or is lost.
    Arrive(usize, bool),
    /// Time passes.
    Wait(Time),
    /// It crashes, and another takes its place.
    Crash(usize),
    /// A store that keeps idle records removes this one, if it is idle.
    Purge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Try,
    Queue,
    Again,
    Renew,
    Release,
    Withdraw,
}

#[derive(Debug)]
struct Client {
    id: HolderId,
    mode: Mode,
    /// Until when it believes that it holds, by the reply to a request.
    believes: Option<(Time, u64)>,
    /// What is on its way: the version it was decided on, the record it would leave, what it answers, and when it was sent.
    request: Option<(Option<u64>, Record, Outcome, Time)>,
}

#[derive(Clone, Debug)]
enum Outcome {
    Asked(Answer),
    Renewed(bool),
    Gone,
}

#[derive(Debug)]
struct World {
    now: Time,
    version: Option<u64>,
    record: Record,
    last_version: u64,
    /// Whether the store removes idle records as they are written, as memory and a local file do, or keeps them.
    removes_idle: bool,
    /// The largest last token of removed records.
    mark: u64,
    clients: Vec<Client>,
    tokens: BTreeSet<u64>,
}

impl World {
    fn new(modes: &[Mode], removes_idle: bool) -> Self {
        let client = |mode: &Mode| Client { id: HolderId::random(), mode: *mode, believes: None, request: None };
        Self {
            now: 1_000_000,
            version: None,
            record: Record::default(),
            last_version: 0,
            removes_idle,
            mark: 0,
            clients: modes.iter().map(client).collect(),
            tokens: BTreeSet::new(),
        }
    }

    /// The store's clock as a client knows it: one takes it for earlier than it is, one for later, and one is not sure.
    fn sight(&self, client: usize, blur: Time) -> Sight {
        let (early, late) = [(blur, 0), (0, blur), (blur, blur)][client % 3];
        let (earliest, latest) = (StoreTime(self.now - early), StoreTime(self.now + late));
        Sight { earliest, latest, floor: latest.0, ..Sight::default() }
    }

    fn step(&mut self, step: Step, blur: Time) {
        match step {
            Step::Wait(time) => self.now += time,
            Step::Begin(client, deed) => self.begin(client, deed, blur),
            Step::Arrive(client, heard) => self.arrive(client, heard),
            Step::Crash(client) => {
                let mode = self.clients[client].mode;
                self.clients[client] = Client { id: HolderId::random(), mode, believes: None, request: None };
            }
            // Nobody has changed it for longer than any request takes, and the clock has passed its last token (rule F1).
            Step::Purge => {
                let is_quiet = self.clients.iter().all(|client| client.request.is_none());
                if !self.removes_idle && self.record.is_idle() && is_quiet && self.now - blur > self.record.last_token {
                    (self.version, self.record) = (None, Record::default());
                }
            }
        }
        self.judge();
    }

    fn begin(&mut self, at: usize, deed: Deed, blur: Time) {
        let (sight, mut next) = (self.sight(at, blur), self.record.clone());
        let client = &mut self.clients[at];
        if client.request.is_some() {
            return;
        }
        let entry = Entry {
            id: client.id.clone(),
            mode: client.mode,
            ttl_ms: TTL / 1000,
            label: String::new(),
            since: self.now,
            origin: None,
        };
        let patience = Duration::from_micros(TTL);
        let outcome = match deed {
            Deed::Try => Outcome::Asked(next.acquire(entry, patience, Asks::Once, &sight)),
            Deed::Queue => Outcome::Asked(next.acquire(entry, patience, Asks::ToQueue, &sight)),
            Deed::Again => Outcome::Asked(next.acquire(entry, patience, Asks::Again, &sight)),
            Deed::Renew => Outcome::Renewed(next.renew(&client.id, &sight).is_some()),
            Deed::Release => {
                client.believes = None;
                next.release(&client.id, &sight);
                Outcome::Gone
            }
            Deed::Withdraw => {
                client.believes = None;
                next.withdraw(&client.id, &sight);
                Outcome::Gone
            }
        };
        client.request = Some((self.version, next, outcome, self.now));
    }

    fn arrive(&mut self, at: usize, heard: bool) {
        let Some((expected, next, outcome, sent)) = self.clients[at].request.take() else { return };
        // A store that removes records refuses one that would give a token again.
        let is_stale = self.removes_idle && self.version.is_none() && next.last_token <= self.mark && !next.is_idle();
        if expected != self.version || is_stale {
            return;
        }
        self.look_for_new_tokens(&next);
        self.last_version += 1;
        (self.version, self.record) = (Some(self.last_version), next);
        if self.removes_idle && self.record.is_idle() {
            self.mark = self.mark.max(self.record.last_token);
            (self.version, self.record) = (None, Record::removed(self.mark));
        }
        if !heard {
            return;
        }
        let ttl = Duration::from_micros(TTL);
        let until = sent + TTL - u64::try_from(drift(ttl).as_micros()).unwrap();
        let client = &mut self.clients[at];
        match outcome {
            Outcome::Asked(Answer::Granted(holder)) => client.believes = Some((until, holder.token)),
            // A late renewal revives nothing.
            Outcome::Renewed(true) => {
                client.believes =
                    client.believes.filter(|(valid, _)| self.now < *valid).map(|(_, token)| (until, token));
            }
            Outcome::Renewed(false) => client.believes = None,
            Outcome::Gone => client.id = HolderId::random(),
            Outcome::Asked(_) => {}
        }
    }

    fn look_for_new_tokens(&mut self, next: &Record) {
        let highest = self.tokens.last().copied().unwrap_or_default();
        for holder in &next.holders {
            // One that had expired may be granted anew under the same id: then with another token.
            if self
                .record
                .holders
                .iter()
                .any(|before| before.entry.id == holder.entry.id && before.token == holder.token)
            {
                continue;
            }
            assert!(holder.token > highest, "{} after {highest}", holder.token);
            assert!(self.tokens.insert(holder.token), "a token was given twice");
        }
    }

    fn judge(&self) {
        let believers: Vec<_> =
            self.clients.iter().filter(|client| client.believes.is_some_and(|(until, _)| self.now < until)).collect();
        for (at, one) in believers.iter().enumerate() {
            for other in &believers[at + 1..] {
                assert!(one.mode.is_compatible_with(other.mode), "two hold: {self:#?}");
            }
        }
        if let Some(Mode::Permit { limit }) = believers.first().map(|client| client.mode) {
            assert!(believers.len() <= limit.get() as usize, "too many permits: {self:#?}");
        }
        // A lock that is free for its first waiter is granted by whoever settles it.
        let mut settled = self.record.clone();
        settled.settle(&self.sight(0, 0));
        if let Some(first) = settled.queue.first() {
            assert!(!settled.holders.is_empty(), "{first:?} waits for a free lock");
        }
        assert!(settled.queue.len() <= dlock_core::record::machine::MAX_QUEUE);
        assert_eq!(Record::decode(self.record.encode().as_bytes()).unwrap(), self.record);
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..3_usize;
    let deed = prop_oneof![
        3 => Just(Deed::Try), 4 => Just(Deed::Queue), 3 => Just(Deed::Again), 3 => Just(Deed::Renew),
        2 => Just(Deed::Release), 1 => Just(Deed::Withdraw),
    ];
    let step = prop_oneof![
        8 => (client.clone(), deed).prop_map(|(client, deed)| Step::Begin(client, deed)),
        8 => (client.clone(), prop::bool::weighted(0.8)).prop_map(|(client, heard)| Step::Arrive(client, heard)),
        3 => (1..TTL / 2).prop_map(Step::Wait),
        1 => Just(Step::Wait(3 * TTL)),
        1 => client.prop_map(Step::Crash),
        1 => Just(Step::Purge),
    ];
    prop::collection::vec(step, 1..120)
}

fn modes() -> impl Strategy<Value = Vec<Mode>> {
    let permit = Mode::Permit { limit: NonZeroU32::new(2).unwrap() };
    prop_oneof![
        Just(vec![Mode::Exclusive; 3]),
        Just(vec![Mode::Exclusive, Mode::Shared, Mode::Shared]),
        Just(vec![permit; 3]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn two_never_hold_and_tokens_grow(
        modes in modes(), removes_idle: bool, blur in 0..50_000_u64, steps in steps(),
    ) {
        let mut world = World::new(&modes, removes_idle);
        for step in steps {
            world.step(step, blur);
        }
    }

    #[test]
    fn asking_twice_gives_the_same_answer(modes in modes(), removes_idle: bool, steps in steps()) {
        let mut world = World::new(&modes, removes_idle);
        for step in steps {
            world.step(step, 0);
        }
        for client in &world.clients {
            let entry = Entry {
                id: client.id.clone(), mode: client.mode, ttl_ms: 100, label: String::new(), since: 0, origin: None,
            };
            let (sight, patience) = (world.sight(0, 0), Duration::from_millis(100));
            let first = world.record.acquire(entry.clone(), patience, Asks::ToQueue, &sight);
            let record = world.record.clone();
            prop_assert_eq!(&world.record.acquire(entry, patience, Asks::ToQueue, &sight), &first);
            prop_assert_eq!(&world.record, &record);
        }
    }
}
