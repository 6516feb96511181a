//! A short run on a file and on a server: no violation; and its control, in which nothing is checked: violations.

use dlock_judge::store::Store;
use dlock_judge::{Orders, Verdict, run};
use std::path::PathBuf;
use std::time::Duration;

fn judged(store: &str, checks: bool) -> Verdict {
    let orders = Orders {
        program: PathBuf::from(env!("CARGO_BIN_EXE_dlock-judge")),
        store: Store::named(store).expect("a store"),
        length: Duration::from_secs(10),
        seed: 3,
        checks,
        workers: 4,
        tasks: 3,
        histories: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
    };
    let verdict = run(&orders).expect("a run");
    assert!(verdict.has_happened(), "{verdict}");
    verdict
}

#[test]
fn faults_break_no_promise_on_a_local_file() {
    let verdict = judged("local", true);
    assert!(verdict.violations.is_empty(), "{verdict}");
}

#[test]
fn faults_break_no_promise_on_redis() {
    let verdict = judged("redis", true);
    assert!(verdict.violations.is_empty(), "{verdict}");
}

#[test]
fn without_checks_the_judge_sees_violations() {
    let verdict = judged("redis", false);
    assert!(!verdict.violations.is_empty(), "{verdict}");
}
