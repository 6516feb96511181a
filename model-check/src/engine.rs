//! What a client does: the engine's decisions, and those of its callers (rules R1 to R3).

use crate::clock::reading;
use crate::network::{Got, Version};
use crate::world::key;
use crate::{Deed, Fault, Message, Setup, Stage, World};
use dlock_core::record::decide::{Step, step};
use dlock_core::record::machine::{Answer, Asks, Sight};
use dlock_core::record::{Entry, Holder, Record, StoreTime};
use dlock_core::{Moment, valid_until};
use std::time::Duration;

/// A record as a client has it.
struct Found {
    record: Record,
    version: Version,
    fresh: bool,
}

impl World {
    /// A client sends a request.
    pub(crate) fn begin(&mut self, setup: &Setup, place: usize, deed: Deed) {
        let now = self.now();
        let client = &mut self.clients[place];
        match (&mut client.stage, deed) {
            (stage @ Stage::Idle, Deed::Ask(asks)) => {
                client.begun += 1;
                *stage = Stage::Wants { asks, in_doubt: false, answered: Moment::MIN, sent: now };
            }
            (Stage::Wants { sent, .. }, Deed::Ask(_)) => *sent = now,
            (stage @ Stage::Holds { .. }, Deed::Release) => {
                let in_doubt = matches!(stage, Stage::Holds { in_doubt: true, .. });
                *stage = Stage::Releases { in_doubt };
                // The renewal's reply changes nothing any more.
                client.calls = None;
                self.network.retain_mut(|message| match message {
                    Message::Swap { client, awaited, .. } if *client == place => {
                        *awaited = false;
                        true
                    }
                    other => other.client() != place,
                });
            }
            _ => {}
        }
        let found = match deed {
            Deed::Ask(Asks::Again) | Deed::Withdraw { .. } => None,
            _ => self.remembered(setup, place),
        };
        self.go_on(setup, place, deed, found);
    }

    /// What the engine does without a request: on what it remembers, once it knows the store's time.
    fn remembered(&mut self, setup: &Setup, place: usize) -> Option<Found> {
        let now = self.now();
        self.look_at_local_clock(setup, place);
        let client = &self.clients[place];
        let within = if setup.has(Fault::ClockIsReadOnce) { Duration::MAX } else { setup.ttl };
        if !client.judge.knows_time(within, now) {
            return None;
        }
        let (record, version) = client.known.clone().unwrap_or_default();
        Some(Found { record, version, fresh: false })
    }

    fn look_at_local_clock(&mut self, setup: &Setup, place: usize) {
        if setup.local_time {
            let (now, shown) = (self.now(), self.shown());
            self.clients[place].judge.observe(&reading(shown, now, now));
        }
    }

    /// A reading by a request that took no longer than the tick.
    pub(crate) fn read_clock(&mut self, setup: &Setup, place: usize) {
        let (now, shown) = (self.now(), self.shown());
        self.clients[place].judge.observe(&reading(shown, now - setup.blur, now));
    }

    fn read(&mut self, setup: &Setup, place: usize) -> Found {
        self.read_clock(setup, place);
        Found { record: self.record.clone(), version: self.version, fresh: true }
    }

    /// The engine's `transact`, up to where it waits for a reply.
    fn go_on(&mut self, setup: &Setup, place: usize, deed: Deed, mut found: Option<Found>) {
        loop {
            let asked = self.now();
            let found = match found.take() {
                Some(found) => found,
                None => self.read(setup, place),
            };
            self.look_at_local_clock(setup, place);
            let client = &mut self.clients[place];
            let sight = client.judge.sight(&key(), Some(&found.record), &[], &[], asked);
            let mut sight = sight.expect("the time is known");
            if setup.has(Fault::JumpIsBelieved) {
                sight.doubted.clear();
                sight.departed.clear();
            }
            let entry = Entry {
                id: client.id(),
                mode: setup.modes[place],
                ttl_ms: u64::try_from(setup.ttl.as_millis()).expect("a short TTL"),
                label: String::new(),
                since: 0,
                origin: None,
            };
            let always_write = deed == Deed::Withdraw { always_write: true } && !setup.has(Fault::UndoWritesNothing);
            let transition = |record: &mut Record, sight: &Sight| transit(setup, deed, entry, record, sight);
            match step(Some(&found.record), found.fresh, always_write, &sight, transition) {
                Step::Read => {}
                Step::Answered(got) => return self.answered(setup, place, deed, got, asked, None),
                Step::Write { next, granted, answer: got } => {
                    let expected = found.version;
                    self.clients[place].calls = Some(deed);
                    let (client, sent) = (place, self.now());
                    let swap = Message::Swap { client, awaited: true, expected, next, granted, deed, got, sent };
                    self.network.push(swap);
                    return;
                }
            }
        }
    }

    /// A reply or a push arrives at its client.
    pub(crate) fn receive(&mut self, setup: &Setup, message: Message) {
        let now = self.now();
        match message {
            Message::Swap { .. } => {}
            Message::Written { client: place, version, record, deed, got, sent, shown } => {
                let client = &mut self.clients[place];
                client.judge.wrote(shown.map(|shown| reading(shown, sent, now)).as_ref());
                client.calls = None;
                client.known = Some((record, version));
                self.answered(setup, place, deed, got, sent, shown);
            }
            Message::Refused { client: place, deed, version, record, sent, shown } => {
                let client = &mut self.clients[place];
                shown.iter().for_each(|shown| client.judge.observe(&reading(*shown, sent, now)));
                client.calls = None;
                client.known = None;
                self.go_on(setup, place, deed, Some(Found { record, version, fresh: true }));
            }
            Message::Push { client: place, id, token } => {
                let client = &mut self.clients[place];
                let Stage::Wants { asks: Asks::Again, in_doubt, answered, sent } = client.stage else { return };
                let counts_from = if setup.has(Fault::CountsFromTheLastSentRepeat) { sent } else { answered };
                let until = valid_until(counts_from, setup.ttl);
                // With a repeat under way, its reply tells; a grant that is over is none.
                if client.id() == id && now < until && client.calls.is_none() {
                    client.stage = Stage::Holds { token, until, in_doubt, was_lost: false };
                }
            }
        }
    }

    /// A client has the answer to what it asked for.
    fn answered(&mut self, setup: &Setup, place: usize, deed: Deed, got: Got, sent: Moment, shown: Option<StoreTime>) {
        let now = self.now();
        let sent = if setup.has(Fault::CountsFromTheReply) { now } else { sent };
        let client = &mut self.clients[place];
        let replied = shown.map(|shown| reading(shown, sent, now));
        let replied = replied.filter(|_| !setup.has(Fault::ReplysClockIsIgnored));
        let believed = |holder: &Holder| client.judge.believed_until(holder, sent, replied.as_ref(), now);
        let in_doubt = client.in_doubt();
        match (deed, got) {
            (Deed::Ask(_), Got::Asked(answer)) if matches!(client.stage, Stage::Wants { .. }) => match answer {
                Answer::Granted(holder) => {
                    let until = believed(&holder);
                    client.stage = if now < until {
                        Stage::Holds { token: holder.token, until, in_doubt, was_lost: false }
                    } else {
                        // It had run out before its grant was seen.
                        Stage::Releases { in_doubt }
                    };
                }
                Answer::Waiting => {
                    client.stage = Stage::Wants { asks: Asks::Again, in_doubt, answered: sent, sent };
                }
                Answer::Gone => {
                    client.turn += 1;
                    client.stage = Stage::Wants { asks: Asks::ToQueue, in_doubt, answered: Moment::MIN, sent };
                }
                Answer::Held | Answer::Full | Answer::Disagrees(_) => self.ended(place, in_doubt),
            },
            (Deed::Renew, Got::Renewed(None)) => self.ended(place, in_doubt),
            (Deed::Renew, Got::Renewed(Some(holder))) => {
                let to = believed(&holder);
                if let Stage::Holds { until, was_lost, .. } = &mut client.stage {
                    if now < *until || setup.has(Fault::LateRenewalRevives) {
                        *until = (*until).max(to);
                    }
                    self.wrong.revived |= *was_lost && now < *until;
                }
            }
            (Deed::Release, _) => self.ended(place, in_doubt),
            (Deed::Withdraw { .. }, _) => self.clients[place].finish(),
            _ => {}
        }
    }

    /// An acquisition ended; where a request of it is in doubt, it is undone for good (rule R3).
    fn ended(&mut self, place: usize, in_doubt: bool) {
        let client = &mut self.clients[place];
        if in_doubt {
            client.stage = Stage::Withdraws { in_doubt };
        } else {
            client.finish();
        }
    }

    /// A client gives up waiting for a reply: what it asked for may or may not be carried out.
    pub(crate) fn fail(&mut self, setup: &Setup, place: usize) {
        let client = &mut self.clients[place];
        client.known = None;
        let calls = client.calls.take();
        if let (Stage::Wants { asks, in_doubt, answered, .. }, Some(Deed::Ask(_))) = (&mut client.stage, calls) {
            *in_doubt = true;
            if setup.has(Fault::LostRepeatStartsAnew) && *asks == Asks::Again {
                (*asks, *answered) = (Asks::ToQueue, Moment::MIN);
                client.turn += 1;
            }
        }
    }
}

fn transit(setup: &Setup, deed: Deed, entry: Entry, record: &mut Record, sight: &Sight) -> Got {
    let (id, before) = (entry.id.clone(), record.clone());
    let got = match deed {
        Deed::Ask(Asks::Again) if setup.has(Fault::RefreshCreates) => {
            Got::Asked(record.acquire(entry, setup.ttl, Asks::ToQueue, sight))
        }
        Deed::Ask(asks) => Got::Asked(record.acquire(entry, setup.ttl, asks, sight)),
        Deed::Renew => Got::Renewed(record.renew(&id, sight)),
        Deed::Release => {
            record.release(&id, sight);
            Got::Removed
        }
        Deed::Withdraw { .. } => {
            record.withdraw(&id, sight);
            Got::Removed
        }
    };
    if setup.has(Fault::RenewalKeepsTheLaterEnd) {
        for holder in &mut record.holders {
            let old = before.holders.iter().find(|old| old.entry.id == holder.entry.id);
            holder.expires = old.map_or(holder.expires, |old| old.expires.max(holder.expires));
        }
    }
    if setup.has(Fault::EqualTokens) && before.last_token > 0 && record.last_token > before.last_token {
        record.last_token = before.last_token;
        let new = record.holders.iter_mut().filter(|holder| holder.token > before.last_token);
        new.for_each(|holder| holder.token = before.last_token);
    }
    got
}
