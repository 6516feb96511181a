//! The engine as it is: no property is violated in any state within the bounds.
//!
//! `DLOCK_MODEL=large` widens them by a tick and a message: many millions of states a case, for a machine left alone.
#![allow(clippy::unwrap_used)]

use dlock_core::Mode;
use dlock_model_check::{Setup, explore};
use std::num::NonZeroU32;
use std::time::Duration;

/// Explores a setup, asserts that it is sound, and that what it is for was seen.
fn holds(name: &str, mut setup: Setup, to_see: &[&str]) {
    if std::env::var("DLOCK_MODEL").is_ok_and(|bounds| bounds == "large") {
        setup.messages += 1;
        setup.ticks += 1;
    }
    let found = explore(setup);
    println!("{name}: {} states, depth {}, {:.1?}, seen: {:?}", found.states, found.depth, found.took, found.seen);
    assert!(found.violations.is_empty(), "{name}: {:#?}", found.violations);
    assert!(
        to_see.iter().all(|what| found.seen.contains(what)),
        "{name}: {:?} does not have all of {to_see:?}",
        found.seen
    );
}

/// Two clients, and what the network and they themselves can do wrong: one of each at most.
fn two() -> Setup {
    Setup { ticks: 2, messages: 2, continue_one_in: 16, ..Setup::new(&[Mode::Exclusive; 2]) }
}

fn permits(limit: u32) -> Mode {
    Mode::Permit { limit: NonZeroU32::new(limit).unwrap() }
}

const STOPPED: &str = "stopped past its deadline";

#[test]
fn lost_and_late_messages() {
    let setup = Setup { lost: 1, ..two() };
    holds("lost and late", setup, &["granted while its repeat was lost", STOPPED]);
}

#[test]
fn messages_delivered_twice() {
    holds("twice", Setup { twice: 1, ..two() }, &[STOPPED]);
}

#[test]
fn a_crash() {
    let setup = Setup { crashes: 1, ..two() };
    holds("crash", setup, &["crashed in the queue", STOPPED]);
}

#[test]
fn waiters_that_are_told_of_their_grant() {
    let setup = Setup { push: true, lost: 1, ..two() };
    holds("push", setup, &["granted while its repeat was lost", STOPPED]);
}

#[test]
fn a_purge() {
    holds("purge", Setup { purges: 1, acquisitions: 2, messages: 1, ..two() }, &[STOPPED]);
}

#[test]
fn a_store_that_removes_idle_records() {
    let setup = Setup { removes_idle: true, local_time: true, tries: true, acquisitions: 2, messages: 1, ..two() };
    holds("removes idle records", setup, &[STOPPED]);
}

#[test]
fn a_clock_that_jumps_forward() {
    holds("jump forward", Setup { jumps: vec![4_500], jump_count: 1, messages: 1, ..two() }, &[STOPPED]);
}

#[test]
fn a_clock_that_jumps_back() {
    holds("jump back", Setup { jumps: vec![-4_500], jump_count: 1, messages: 1, ..two() }, &[STOPPED]);
}

#[test]
fn a_clock_that_jumps_where_no_reply_tells_the_time() {
    // Long enough for those who saw the jump to trust the clock again.
    let setup = Setup {
        jumps: vec![4_500],
        jump_count: 1,
        replies_tell_time: false,
        ticks: 4,
        messages: 1,
        holds_on: true,
        ..two()
    };
    holds("jump without replies' time", setup, &[STOPPED]);
}

#[test]
fn a_clock_that_is_known_roughly() {
    let setup = Setup { blur: Duration::from_millis(700), messages: 1, lost: 1, ..two() };
    holds("blurred clock", setup, &[STOPPED]);
}

#[test]
fn a_writer_and_a_reader() {
    let modes = vec![Mode::Exclusive, Mode::Shared];
    holds("writer and reader", Setup { modes, tries: true, ..two() }, &[STOPPED]);
}

#[test]
fn three_of_every_mode() {
    for (name, modes) in [
        ("three exclusive", [Mode::Exclusive; 3]),
        ("writer and two readers", [Mode::Exclusive, Mode::Shared, Mode::Shared]),
        ("two permits for three", [permits(2); 3]),
    ] {
        let setup = Setup { modes: modes.to_vec(), messages: 1, ticks: 1, crashes: 1, continue_one_in: 32, ..two() };
        holds(name, setup, &["crashed in the queue"]);
    }
}
