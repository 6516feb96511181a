//! Each rule that is left out is found, with the path to where it hurts.
#![allow(clippy::unwrap_used)]

use dlock_core::Mode;
use dlock_model_check::{Fault, Setup, explore};

fn two() -> Setup {
    Setup { ticks: 3, messages: 2, continue_one_in: 0, ..Setup::new(&[Mode::Exclusive; 2]) }
}

/// The fault is found as a violation of one of these properties, and without it the same bounds hold nothing of the kind.
fn is_found(fault: Fault, setup: Setup, as_one_of: &[&str]) {
    let found = explore(Setup { fault: Some(fault), ..setup });
    println!("{fault:?}: {} states, depth {}, {:.1?}", found.states, found.depth, found.took);
    for (name, path) in &found.violations {
        println!("  {name}: {}", path.iter().map(|action| format!("{action:?}")).collect::<Vec<_>>().join(", "));
    }
    let as_expected = found.violations.iter().any(|(name, _)| as_one_of.contains(name));
    assert!(as_expected, "{fault:?} is not found: {:?}", found.violations);
}

const TWO_HOLD: &[&str] = &["exclusion", "a believed lease is in the store"];

#[test]
fn counting_from_a_repeat_that_was_not_answered() {
    is_found(Fault::CountsFromTheLastSentRepeat, Setup { push: true, lost: 1, ticks: 2, ..two() }, TWO_HOLD);
}

#[test]
fn versions_that_start_again_after_a_purge() {
    let setup = Setup { purges: 1, acquisitions: 3, ticks: 2, ..two() };
    // Which of the two the search meets first depends on how its threads run.
    is_found(Fault::VersionsStartAgain, setup, &[TWO_HOLD, &["tokens grow"]].concat());
}

#[test]
fn asking_again_after_withdrawing() {
    is_found(Fault::AsksAfterWithdrawing, Setup { lost: 2, ticks: 0, ..two() }, &["no orphans"]);
}

#[test]
fn a_refresh_that_creates() {
    is_found(Fault::RefreshCreates, Setup { push: true, acquisitions: 2, ticks: 2, ..two() }, TWO_HOLD);
}

#[test]
fn an_undo_that_writes_nothing() {
    is_found(Fault::UndoWritesNothing, Setup { lost: 1, ..two() }, &["no orphans"]);
}

#[test]
fn a_lost_repeat_that_counts_as_not_carried_out() {
    is_found(Fault::LostRepeatStartsAnew, Setup { lost: 1, ..two() }, &["no orphans"]);
}

#[test]
fn equal_tokens() {
    is_found(Fault::EqualTokens, two(), &["tokens grow"]);
}

#[test]
fn a_jump_forward_that_is_believed() {
    let setup = Setup { jumps: vec![4_500], jump_count: 1, ..two() };
    is_found(Fault::JumpIsBelieved, setup, TWO_HOLD);
}

#[test]
fn a_jump_back_that_is_believed() {
    // Then a holder that crashed counts for as long as the clock went back.
    let setup = Setup { jumps: vec![-60_000], jump_count: 1, crashes: 1, continue_one_in: 1, ..two() };
    is_found(Fault::JumpIsBelieved, setup, &["all are served"]);
}

#[test]
fn a_renewal_that_keeps_the_later_end() {
    let setup = Setup { jumps: vec![-4_500], jump_count: 1, messages: 1, ..two() };
    is_found(Fault::RenewalKeepsTheLaterEnd, setup, TWO_HOLD);
}

#[test]
fn a_clock_that_is_read_once() {
    let setup = Setup {
        jumps: vec![4_500],
        jump_count: 1,
        replies_tell_time: false,
        holds_on: true,
        ticks: 5,
        messages: 1,
        ..two()
    };
    is_found(Fault::ClockIsReadOnce, setup, TWO_HOLD);
}

#[test]
fn a_replys_clock_that_is_ignored() {
    let setup = Setup { jumps: vec![4_500], jump_count: 1, ticks: 5, messages: 1, holds_on: true, ..two() };
    is_found(Fault::ReplysClockIsIgnored, setup, TWO_HOLD);
}

#[test]
fn validity_counted_from_the_reply() {
    // Where replies tell the time, rule C3 would make good for it.
    is_found(Fault::CountsFromTheReply, Setup { replies_tell_time: false, ..two() }, TWO_HOLD);
}

#[test]
fn a_late_renewal_that_revives() {
    is_found(Fault::LateRenewalRevives, two(), &["lost is final"]);
}

#[test]
fn a_waiter_that_never_asks_again() {
    is_found(Fault::NeverRepeats, Setup { continue_one_in: 1, ..two() }, &["all are served"]);
}
