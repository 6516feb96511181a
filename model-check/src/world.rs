//! [`World`]: one state of store, network and clients.

use crate::clock::{moment, shown};
use crate::network::Version;
use crate::{Action, Client, Deed, Fault, Message, Setup, Stage};
use dlock_core::record::{Record, StoreTime};
use dlock_core::{HolderId, LockKey, Moment};

/// One state of store, network and clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub(crate) tick: u8,
    /// The store's clock minus the local one, in milliseconds.
    pub(crate) offset: i64,
    pub(crate) version: Version,
    last_version: u8,
    pub(crate) record: Record,
    /// The largest last token of records that were removed.
    mark: u64,
    /// The largest token ever granted.
    highest: u64,
    pub(crate) clients: Vec<Client>,
    pub(crate) network: Vec<Message>,
    /// Acquisitions whose client crashed.
    pub(crate) abandoned: Vec<HolderId>,
    pub(crate) left: Left,
    pub(crate) wrong: Wrong,
}

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    lost: u8,
    twice: u8,
    crashes: u8,
    jumps: u8,
    purges: u8,
}

/// What was seen to go wrong in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Wrong {
    /// A token was not larger than all before.
    pub(crate) token: bool,
    /// A lost lease was believed in again.
    pub(crate) revived: bool,
}

pub(crate) fn key() -> LockKey {
    LockKey::new("k").expect("a key")
}

impl World {
    pub(crate) fn new(setup: &Setup) -> Self {
        let mut world = Self {
            tick: 0,
            offset: 0,
            version: None,
            last_version: 0,
            record: Record::default(),
            mark: 0,
            highest: 0,
            clients: (0..setup.modes.len()).map(|place| Client::new(place, 0, 0)).collect(),
            network: Vec::new(),
            abandoned: Vec::new(),
            left: Left {
                lost: setup.lost,
                twice: setup.twice,
                crashes: setup.crashes,
                jumps: setup.jump_count,
                purges: setup.purges,
            },
            wrong: Wrong::default(),
        };
        if !setup.jumps.is_empty() {
            // A client that connects after a jump can't see it, as the documentation says: all have seen the clock before.
            (0..world.clients.len()).for_each(|client| world.read_clock(setup, client));
        }
        world
    }

    pub(crate) fn now(&self) -> Moment {
        moment(self.tick)
    }

    /// What the store's clock shows.
    pub(crate) fn shown(&self) -> StoreTime {
        shown(self.tick, self.offset)
    }

    /// What may happen.
    pub(crate) fn actions(&self, setup: &Setup) -> Vec<Action> {
        let mut actions = Vec::new();
        for client in &self.clients {
            // Late requests, which nobody waits for, take no room.
            let room = self.network.iter().filter(|message| message.is_awaited()).count() < setup.messages;
            let deeds = client.may_begin(setup, self.now()).into_iter().filter(|_| room);
            actions.extend(deeds.map(|deed| Action::Begin(client.place, deed)));
            if matches!(client.stage, Stage::Wants { .. }) && client.calls.is_none() && !setup.holds_on {
                actions.push(Action::GiveUp(client.place));
            }
            if self.left.crashes > 0 && client.stage != Stage::Idle {
                actions.push(Action::Crash(client.place));
            }
        }
        for (at, message) in self.network.iter().enumerate() {
            actions.push(Action::Deliver(at));
            if self.left.lost > 0 && message.is_awaited() {
                actions.push(Action::Lose(at));
            }
            if self.left.twice > 0 && matches!(message, Message::Swap { .. }) {
                actions.push(Action::DeliverTwice(at));
            }
        }
        if self.left.jumps > 0 {
            actions.extend(setup.jumps.iter().map(|by| Action::Jump(*by)));
        }
        if self.left.purges > 0 && self.may_purge() {
            actions.push(Action::Purge);
        }
        if self.tick < setup.ticks {
            actions.push(Action::Tick);
        }
        actions
    }

    /// Nobody has changed it for longer than any request takes, and the clock has passed its last token (rule F1).
    fn may_purge(&self) -> bool {
        let is_quiet = !self.network.iter().any(|message| matches!(message, Message::Swap { .. }));
        self.version.is_some() && self.record.is_idle() && is_quiet && self.shown().0 > self.record.last_token
    }

    /// What comes of an action; `None` if nothing does.
    pub(crate) fn after(&self, setup: &Setup, action: Action) -> Option<Self> {
        let mut next = self.clone();
        next.act(setup, action);
        next.tidy(setup);
        (next != *self).then_some(next)
    }

    pub(crate) fn act(&mut self, setup: &Setup, action: Action) {
        match action {
            Action::Begin(client, deed) => self.begin(setup, client, deed),
            Action::GiveUp(client) => {
                let client = &mut self.clients[client];
                match client.stage {
                    Stage::Wants { in_doubt, answered, .. } if in_doubt || answered > Moment::MIN => {
                        client.stage = Stage::Withdraws { in_doubt };
                    }
                    _ => client.finish(),
                }
            }
            Action::Deliver(at) => self.deliver(setup, at, false),
            Action::DeliverTwice(at) => {
                self.left.twice -= 1;
                self.deliver(setup, at, true);
            }
            Action::Lose(at) => {
                self.left.lost -= 1;
                self.lose(setup, at);
            }
            Action::Crash(client) => {
                self.left.crashes -= 1;
                self.crash(client);
            }
            Action::Jump(by) => {
                self.left.jumps -= 1;
                self.offset += by;
            }
            Action::Purge => {
                self.left.purges -= 1;
                self.remove_record();
                if setup.has(Fault::VersionsStartAgain) {
                    self.last_version = 0;
                }
            }
            Action::Tick => {
                self.tick += 1;
                let now = self.now();
                for client in &mut self.clients {
                    if let Stage::Holds { until, was_lost, .. } = &mut client.stage {
                        *was_lost |= now >= *until;
                    }
                }
            }
        }
    }

    fn remove_record(&mut self) {
        self.version = None;
        self.record = Record::removed(if self.mark > 0 { self.mark } else { 0 });
    }

    fn crash(&mut self, place: usize) {
        let client = &mut self.clients[place];
        self.abandoned.push(client.id());
        *client = Client::new(place, client.turn + 1, client.begun);
        self.network.retain_mut(|message| match message {
            Message::Swap { client, awaited, .. } if *client == place => {
                *awaited = false;
                true
            }
            other => other.client() != place,
        });
    }

    /// A client gives up waiting for a reply. A request may still arrive.
    fn lose(&mut self, setup: &Setup, at: usize) {
        let place = self.network[at].client();
        if let Message::Swap { awaited, .. } = &mut self.network[at] {
            *awaited = false;
        } else {
            self.network.remove(at);
        }
        self.fail(setup, place);
    }

    fn deliver(&mut self, setup: &Setup, at: usize, twice: bool) {
        let message = self.network.remove(at);
        if let Message::Swap { client, awaited, expected, next, granted, deed, got, sent } = message {
            if twice {
                let (next, granted, got) = (next.clone(), granted.clone(), got.clone());
                let copy = Message::Swap { client, awaited: false, expected, next, granted, deed, got, sent };
                self.network.insert(at, copy);
            }
            // A store that removes records refuses one that would give a token again.
            let is_stale =
                setup.removes_idle && self.version.is_none() && next.last_token <= self.mark && !next.is_idle();
            let shown = setup.replies_tell_time.then(|| self.shown());
            let reply = if expected == self.version && !is_stale {
                self.write(setup, &next, &granted);
                Message::Written { client, version: self.version, record: next, deed, got, sent, shown }
            } else {
                let (version, record) = (self.version, self.record.clone());
                Message::Refused { client, deed, version, record, sent, shown: Some(self.shown()) }
            };
            if awaited {
                self.network.insert(at, reply);
            }
        } else {
            self.receive(setup, message);
        }
    }

    fn write(&mut self, setup: &Setup, next: &Record, granted: &[HolderId]) {
        for holder in &next.holders {
            let before = self.record.holders.iter().find(|before| before.entry.id == holder.entry.id);
            if before.is_none_or(|before| before.token != holder.token) {
                self.wrong.token |= holder.token <= self.highest;
                self.highest = self.highest.max(holder.token);
            }
        }
        self.record = next.clone();
        self.last_version += 1;
        self.version = Some(self.last_version);
        if setup.removes_idle && next.is_idle() {
            self.mark = self.mark.max(next.last_token);
            self.remove_record();
        }
        let pushed = next.holders.iter().filter(|holder| setup.push && granted.contains(&holder.entry.id));
        for holder in pushed {
            let to = self.clients.iter().find(|client| client.id() == holder.entry.id);
            let push = |client: &Client| Message::Push {
                client: client.place,
                id: holder.entry.id.clone(),
                token: holder.token,
            };
            self.network.extend(to.map(push));
        }
    }

    /// Two states that differ in nothing that matters are made the same.
    fn tidy(&mut self, setup: &Setup) {
        let forget = |record: &mut Record| {
            let holders = record.holders.iter_mut().map(|holder| &mut holder.entry);
            holders.chain(record.queue.iter_mut().map(|waiter| &mut waiter.entry)).for_each(|entry| entry.since = 0);
        };
        forget(&mut self.record);
        if setup.has(Fault::VersionsStartAgain) {
            return;
        }
        // A version is never reused: one that is not the present one never counts again.
        let present = self.version;
        self.last_version = 1;
        let rename = |version: &mut Version| {
            *version = version.map(|number| u8::from(Some(number) == present));
        };
        for client in &mut self.clients {
            if let Some((record, version)) = &mut client.known {
                forget(record);
                rename(version);
            }
        }
        self.network.retain_mut(|message| match message {
            Message::Swap { awaited, expected, next, .. } => {
                rename(expected);
                forget(next);
                *awaited || *expected != Some(0)
            }
            Message::Written { version, record, .. } | Message::Refused { version, record, .. } => {
                rename(version);
                forget(record);
                true
            }
            Message::Push { .. } => true,
        });
        rename(&mut self.version);
    }

    /// Which clients wait for a grant.
    pub(crate) fn wanting(&self) -> Vec<usize> {
        let wants = |client: &&Client| matches!(client.stage, Stage::Wants { asks, .. } if asks != dlock_core::record::machine::Asks::Once);
        self.clients.iter().filter(wants).map(|client| client.place).collect()
    }

    /// What a deed is called that a client goes on with by itself.
    pub(crate) fn goes_on(&self, setup: &Setup, place: usize) -> Option<Deed> {
        let client = &self.clients[place];
        match &client.stage {
            _ if client.calls.is_some() => None,
            Stage::Idle => None,
            Stage::Wants { sent, answered, .. } => {
                let repeats = *answered == Moment::MIN || (*sent < self.now() && !setup.has(Fault::NeverRepeats));
                client.may_begin(setup, self.now()).first().copied().filter(|_| repeats)
            }
            Stage::Holds { .. } => Some(Deed::Release),
            Stage::Releases { .. } | Stage::Withdraws { .. } => client.may_begin(setup, self.now()).first().copied(),
        }
    }
}
