//! Each kind of violation is found in a history written by hand, and a correct one passes.
#![allow(clippy::unwrap_used)]

use super::{History, judge};
use crate::history::{Done, Event, HoldId, Line, LosesLeases, Mode, Nanos, Probe, Served, Setting, Told};
use crate::plan::Fault;
use crate::worker::KEYS;

const MS: Nanos = 1_000_000;

/// Writes a history. Times are milliseconds.
struct Script(History);

/// One acquisition of a script.
#[derive(Clone, Copy)]
struct Who(HoldId, Mode, u64);

impl Script {
    fn new() -> Self {
        let setting = Setting {
            store: "hand".into(),
            seed: 1,
            seconds: 60,
            checks: true,
            loses_leases: LosesLeases::Never,
            own_ttl: true,
        };
        let got =
            |key: &str| Line { at: 90_000 * MS, event: Probe::Got { key: key.into(), took_ms: 10, bound_ms: 5_000 } };
        let probes = KEYS.iter().map(|(key, _)| got(key)).collect();
        let mut script = Self(History { setting, faults: vec![], lives: vec![vec![]; 4], served: vec![], probes });
        script.fault(80_000, Done::Over);
        script
    }

    fn fault(&mut self, at: u64, event: Done) {
        self.0.faults.push(Line { at: at * MS, event });
    }

    fn tell(&mut self, at: u64, id: HoldId, event: Event) {
        self.0.lives[id.slot as usize].push(Line { at: at * MS, event: Told { id, event } });
    }

    fn asks(&mut self, at: u64, slot: u32, mode: Mode) -> Who {
        let hold = u32::try_from(self.0.lives.iter().flatten().count()).unwrap();
        let id = HoldId { slot, life: 0, task: 0, hold };
        self.tell(at, id, Event::Asks { key: "a".into(), mode, ttl_ms: 1_000, limit_ms: Some(500) });
        Who(id, mode, 0)
    }

    /// Gets `token` at `at`, valid until `until`.
    fn got(&mut self, who: &mut Who, at: u64, token: u64, until: u64) {
        who.2 = token;
        self.tell(at, who.0, Event::Got { token, floor: Some(token), holder: "h".into(), until: until * MS });
    }

    fn gets(&mut self, at: u64, slot: u32, mode: Mode, token: u64, until: u64) -> Who {
        let mut who = self.asks(at - 1, slot, mode);
        self.got(&mut who, at, token, until);
        who
    }

    fn looks(&mut self, at: u64, who: Who, valid: bool, until: u64) {
        self.tell(at, who.0, Event::Looked { valid, until: until * MS });
    }

    fn lost(&mut self, at: u64, who: Who, cause: &str, until: u64) {
        self.tell(at, who.0, Event::Lost { cause: cause.into(), until: until * MS });
    }

    fn leaves(&mut self, at: u64, who: Who) {
        self.tell(at, who.0, Event::Leaves);
        self.tell(at + 1, who.0, Event::Left { how: "released".into(), error: None });
    }

    /// The resource serves a read, or a write on the ground of `base`, and says so.
    fn served(&mut self, at: u64, who: Who, base: Option<u64>, value: u64, accepted: bool) {
        let Who(id, mode, token) = who;
        let served = Served { id, key: "a".into(), mode, token, floor: Some(token), base, value, accepted };
        self.0.served.push(Line { at: at * MS, event: served });
        self.tell(at, id, Event::Answered { accepted });
    }

    #[track_caller]
    fn finds(&self, rules: &[&str]) {
        let verdict = judge(&self.0);
        let found: Vec<_> = verdict.violations.iter().map(|violation| violation.rule).collect();
        assert_eq!(found, rules, "{:#?}", verdict.violations);
    }
}

use Mode::{Exclusive, Permit, Shared};

#[test]
fn a_correct_history_passes() {
    let mut script = Script::new();
    let one = script.gets(10, 0, Exclusive, 5, 1_000);
    script.looks(20, one, true, 1_000);
    script.served(21, one, None, 0, true);
    script.served(22, one, Some(0), 0, true);
    // Stopped past its deadline between a look and a write; the next holder has been there.
    script.looks(900, one, true, 1_000);
    let two = script.gets(1_100, 1, Exclusive, 7, 2_000);
    script.served(1_110, two, None, 1, true);
    script.served(1_120, one, Some(1), 1, false);
    script.tell(1_121, one.0, Event::Slept { from: 901 * MS });
    script.lost(1_130, one, "expired", 1_000);
    script.leaves(1_140, one);
    script.leaves(1_200, two);
    // Readers together, then permits.
    let three = script.gets(1_300, 2, Shared, 8, 2_000);
    let four = script.gets(1_310, 3, Shared, 9, 2_000);
    script.leaves(1_400, three);
    script.leaves(1_410, four);
    script.finds(&[]);
    let verdict = judge(&script.0);
    assert_eq!((verdict.acquisitions, verdict.accepted, verdict.refused), (4, 1, 1));
    assert_eq!(verdict.latest.as_millis(), 9);
}

#[test]
fn two_exclusive_holders_at_once_are_found() {
    let mut script = Script::new();
    let one = script.gets(10, 0, Exclusive, 5, 1_000);
    let two = script.gets(500, 1, Exclusive, 6, 1_500);
    script.leaves(510, two);
    script.leaves(600, one);
    script.finds(&["two inside"]);
}

#[test]
fn a_reader_beside_a_writer_is_found_and_one_after_it_is_not() {
    for (asked, found) in [(500, &["two inside"][..]), (601, &[])] {
        let mut script = Script::new();
        let one = script.gets(10, 0, Exclusive, 5, 1_000);
        let two = script.gets(asked, 1, Shared, 6, 1_500);
        script.leaves(600, one);
        script.leaves(700, two);
        script.finds(found);
    }
}

#[test]
fn a_stopped_holder_is_inside_until_its_deadline_and_a_killed_one_until_its_death() {
    for (is_killed, found) in [(false, &["two inside"][..]), (true, &[])] {
        let mut script = Script::new();
        script.gets(10, 0, Exclusive, 5, 1_000);
        if is_killed {
            script.fault(400, Done::Begins { fault: Fault::KillWorker { slot: 0 }, life: Some(0) });
        }
        let two = script.gets(500, 1, Exclusive, 6, 1_500);
        script.leaves(510, two);
        script.finds(found);
    }
}

#[test]
fn renewals_that_were_seen_count() {
    let mut script = Script::new();
    let one = script.gets(10, 0, Exclusive, 5, 1_000);
    script.tell(300, one.0, Event::Renewed { until: 1_300 * MS });
    let two = script.gets(1_200, 1, Exclusive, 6, 2_000);
    script.leaves(1_210, two);
    script.finds(&["two inside"]);
}

#[test]
fn one_permit_too_many_is_found() {
    let mut script = Script::new();
    for slot in 0..3 {
        script.gets(10 + u64::from(slot), slot, Permit(2), u64::from(slot) + 1, 1_000);
    }
    script.finds(&["too many inside"]);
}

#[test]
fn a_server_that_forgets_promises_nothing_across_its_restart_but_tokens_and_fence_stand() {
    let mut script = Script::new();
    script.0.setting.loses_leases = LosesLeases::WhenKilled;
    let one = script.gets(10, 0, Exclusive, 5, 1_000);
    script.fault(400, Done::Begins { fault: Fault::KillServer { member: 0, ms: 10 }, life: None });
    script.fault(450, Done::Heals { fault: Fault::KillServer { member: 0, ms: 10 } });
    let two = script.gets(500, 1, Exclusive, 6, 1_500);
    script.leaves(510, two);
    script.leaves(600, one);
    script.finds(&[]);
    let three = script.gets(700, 2, Exclusive, 6, 1_500);
    let four = script.gets(800, 3, Exclusive, 9, 1_500);
    script.leaves(900, three);
    script.leaves(910, four);
    script.finds(&["two inside", "a token was given twice"]);
}

#[test]
fn a_leader_that_goes_on_promises_nothing_for_a_moment() {
    let mut script = Script::new();
    script.0.setting.loses_leases = LosesLeases::WhenResumed;
    script.fault(500, Done::Heals { fault: Fault::StopServer { member: 1, ms: 400 } });
    let one = script.gets(10, 0, Exclusive, 5, 9_000);
    let two = script.gets(520, 1, Exclusive, 6, 9_000);
    script.looks(540, one, true, 9_000);
    script.lost(550, one, "session_ended", 9_000);
    script.leaves(560, two);
    script.finds(&[]);
    let three = script.gets(4_000, 2, Exclusive, 7, 9_000);
    let four = script.gets(4_010, 3, Exclusive, 8, 9_000);
    script.leaves(4_020, three);
    script.leaves(4_030, four);
    script.finds(&["two inside"]);
}

#[test]
fn stale_writes_and_lost_ones_are_found() {
    let mut script = Script::new();
    let one = script.gets(10, 0, Exclusive, 5, 100);
    script.served(20, one, None, 0, true);
    script.lost(101, one, "expired", 100);
    let two = script.gets(200, 1, Exclusive, 6, 1_000);
    script.served(210, two, None, 0, true);
    script.served(220, two, Some(0), 0, true);
    script.served(230, one, Some(0), 1, true);
    script.leaves(240, two);
    script.finds(&["a stale holder was let through", "a write was lost"]);
}

#[test]
fn a_late_write_under_the_eyes_of_a_reader_is_found() {
    let mut script = Script::new();
    let one = script.gets(10, 0, Exclusive, 5, 100);
    script.served(20, one, None, 0, true);
    script.lost(101, one, "expired", 100);
    let two = script.gets(200, 1, Shared, 6, 1_000);
    script.served(210, two, None, 0, true);
    script.served(220, one, Some(0), 0, true);
    script.leaves(230, two);
    script.finds(&["a stale holder was let through"]);
}

#[test]
fn a_holder_that_the_fence_refuses_is_found() {
    let mut script = Script::new();
    let one = script.gets(10, 0, Exclusive, 5, 1_000);
    script.served(20, one, None, 0, false);
    script.leaves(30, one);
    script.finds(&["the fence refused a holder", "the fence refused who is not stale"]);
}

#[test]
fn an_answer_that_was_never_given_is_found() {
    let mut script = Script::new();
    let one = script.gets(10, 0, Exclusive, 5, 1_000);
    script.tell(20, one.0, Event::Answered { accepted: true });
    script.leaves(30, one);
    script.finds(&["an answer was not true"]);
}

#[test]
fn tokens_that_go_back_are_found_and_those_of_overlapping_calls_are_not() {
    let mut script = Script::new();
    let mut early = script.asks(5, 3, Exclusive);
    let one = script.gets(10, 0, Exclusive, 5, 1_000);
    script.leaves(20, one);
    script.got(&mut early, 30, 4, 1_000);
    script.leaves(40, early);
    script.finds(&[]);
    let two = script.gets(50, 1, Exclusive, 3, 1_000);
    script.leaves(60, two);
    script.finds(&["a token went back"]);
}

#[test]
fn a_loss_that_is_told_late_or_never_is_found() {
    let mut script = Script::new();
    let one = script.gets(10, 0, Exclusive, 5, 1_000);
    script.lost(1_051, one, "expired", 1_000);
    script.finds(&["a loss was told late"]);
    let mut script = Script::new();
    let one = script.gets(10, 0, Exclusive, 5, 1_000);
    // It sleeps over its deadline, and for 51 ms after that it runs.
    script.tell(1_200, one.0, Event::Slept { from: 900 * MS });
    script.tell(1_251, HoldId { hold: 99, ..one.0 }, Event::Rests);
    script.finds(&["a loss was not told"]);
}

#[test]
fn a_lease_that_is_taken_away_early_or_comes_back_is_found() {
    let mut script = Script::new();
    let one = script.gets(10, 0, Exclusive, 5, 1_000);
    script.lost(500, one, "revoked", 1_000);
    script.finds(&["a lease ended before its time"]);
    script.looks(600, one, true, 1_000);
    script.looks(700, one, true, 690);
    script.finds(&[
        "a lost lock came back",
        "a lock was believed past its deadline",
        "a lost lock came back",
        "a lease ended before its time",
    ]);
}

#[test]
fn a_wait_past_its_limit_and_strange_errors_are_found() {
    let mut script = Script::new();
    let one = script.asks(10, 0, Exclusive);
    let not = |why: &str| Event::GotNot { why: why.into(), error: Some("text".into()) };
    script.tell(861, one.0, not("TimedOut"));
    let two = script.asks(900, 1, Exclusive);
    script.tell(910, two.0, not("Corrupt"));
    script.tell(920, two.0, Event::Broken { error: "panic".into() });
    script.finds(&["a wait outlasted its limit", "an error that no fault causes", "an error that no fault causes"]);
}

#[test]
fn a_key_that_stays_held_and_a_worker_that_hangs_are_found() {
    let mut script = Script::new();
    script.0.faults.clear();
    script.0.probes[0].event = Probe::Got { key: "a".into(), took_ms: 5_001, bound_ms: 5_000 };
    script.0.probes[1].event = Probe::GotNot { key: "b/c".into(), error: "held".into() };
    script.0.probes[2].event = Probe::Stuck { slot: 1, what: "end".into() };
    script.finds(&[
        "the run did not come to its end",
        "a key was not free again",
        "a key was not free again",
        "a worker is stuck",
        "a key was not probed",
    ]);
}
