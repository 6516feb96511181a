//! The suite can fail: each of these wrong backends is caught, by the case that it names.
#![allow(clippy::unwrap_used)]

mod broken;

use broken::{Flaw, Harness as Broken};
use dlock_conformance::{Case, Harness, Outcome, cases, run_case};
use std::sync::Arc;

/// Each flaw and the case that must catch it.
const CAUGHT_BY: &[(Flaw, &str)] = &[
    (Flaw::RaceLost, "e1"),
    (Flaw::LowerCase, "e2"),
    (Flaw::CutKey, "e2"),
    (Flaw::SwallowedSlash, "e2"),
    (Flaw::NestedKeys, "e2"),
    (Flaw::ReleaseForgotten, "e3"),
    (Flaw::LongTtl, "l1"),
    (Flaw::ShortTtl, "l1"),
    (Flaw::RenewTakesOver, "l3"),
    (Flaw::ReleaseOfAnother, "l4"),
    (Flaw::SecondReleaseOfAnother, "l5"),
    (Flaw::RenewRevives, "l6"),
    (Flaw::ValidFromReply, "l7"),
    (Flaw::TtlRoundedDown, "l8"),
    (Flaw::LateRenewRevives, "l10"),
    (Flaw::HandOverBelievedLonger, "l11"),
    (Flaw::TokenConstant, "f1"),
    (Flaw::TokenResetByExpiry, "f2"),
    (Flaw::TokenOfEachClient, "f3"),
    (Flaw::VersionsStartAgain, "f6"),
    (Flaw::TokenRenewed, "f8"),
    (Flaw::WrongTokenShown, "f9"),
    (Flaw::FloorIsOwnToken, "f10"),
    (Flaw::NeverWoken, "w1"),
    (Flaw::WaiterLeftBehind, "w3"),
    (Flaw::Lifo, "w4"),
    (Flaw::PermitWakeLost, "w10"),
    (Flaw::LockLeftWhenCancelled, "c1"),
    (Flaw::SharedIsExclusive, "s1"),
    (Flaw::TokenShared, "s1"),
    (Flaw::ExclusiveIsShared, "s2"),
    (Flaw::OnePermitTooMany, "s4"),
    (Flaw::DisagreementIgnored, "s5"),
    (Flaw::WrongHolderShown, "d1"),
    (Flaw::ListStopsEarly, "d2"),
    (Flaw::BreaksWhoeverHolds, "d4"),
    (Flaw::OverwritesGarbage, "p6"),
    (Flaw::RetryLocksItselfOut, "a1_a_try"),
    (Flaw::AcquireInDoubtLeft, "a1_an_acquire_in_doubt"),
    (Flaw::LateGrantBelieved, "a1_a_grant_that_was_told_too_late"),
    (Flaw::LostReleaseIsLoss, "a2_a_release_whose_reply"),
    (Flaw::LostReleaseForgotten, "a2_a_release_that_was_lost"),
    (Flaw::RenewalUnansweredIsLoss, "a3_a_renewal"),
    (Flaw::WithdrawnTwiceFails, "a4_a_withdrawal"),
    (Flaw::TokenOfEachCall, "a5_the_same_call"),
    (Flaw::UndoOvertaken, "a6"),
    (Flaw::RefusedIsHeld, "p1_where"),
    (Flaw::LostByReplyOnly, "p2_a_lock"),
    (Flaw::WaitsForever, "p2_a_server"),
    (Flaw::DeadForGood, "p2_connections"),
    (Flaw::LostUndoForgotten, "p5"),
    (Flaw::PasswordTold, "p7"),
    (Flaw::AnyCertificateWillDo, "p8"),
];

fn case(id: &str) -> Case {
    let is_named = |name: &str| name.strip_prefix(id).is_some_and(|rest| rest.starts_with('_'));
    let named = cases().into_iter().find(|case| is_named(case.name));
    named.unwrap_or_else(|| panic!("no case {id}"))
}

#[test]
fn every_broken_backend_is_caught_by_its_case() {
    // A failed case panics, and that is what is wanted here.
    std::panic::set_hook(Box::new(|_| {}));
    let judged: Vec<_> = std::thread::scope(|scope| {
        let judges = CAUGHT_BY.iter().map(|&(flaw, id)| {
            scope.spawn(move || {
                let run = |harness: Broken| run_case(&case(id), &(Arc::new(harness) as Arc<dyn Harness>));
                (flaw, id, run(Broken::new(None)), run(Broken::new(Some(flaw))))
            })
        });
        let judges: Vec<_> = judges.collect();
        judges.into_iter().map(|judge| judge.join().unwrap()).collect()
    });
    let _ = std::panic::take_hook();
    let mut missed = Vec::new();
    for (flaw, id, sound, broken) in &judged {
        let caught = matches!(broken, Outcome::Failed(_)) && *sound == Outcome::Passed;
        println!("{:24} {id:4} {}", format!("{flaw:?}"), if caught { "caught" } else { "MISSED" });
        if !caught {
            missed.push(format!("{flaw:?} by {id}: sound {sound:?}, broken {broken:?}"));
        }
    }
    println!("{} broken backends, {} caught", judged.len(), judged.len() - missed.len());
    assert!(missed.is_empty(), "{missed:#?}");
    assert_eq!(judged.len(), Flaw::COUNT, "a flaw without a case");
}
