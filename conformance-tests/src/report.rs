//! [`check`]: the suite as data.

use crate::{Case, Env, Harness, cases};
use serde::Serialize;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The obligation holds.
    Passed,
    /// It does not, and how that showed.
    Failed(String),
    /// It does not apply, and why.
    Ignored(String),
}

/// One case and how it ended.
#[derive(Clone, Debug, Serialize)]
pub struct Tested {
    /// The case.
    pub case: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// All cases and how they ended.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The backend's name.
    pub backend: String,
    /// The cases, in order.
    pub cases: Vec<Tested>,
}

impl Report {
    /// How many passed, were ignored, and failed.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |is: fn(&Outcome) -> bool| self.cases.iter().filter(|tested| is(&tested.outcome)).count();
        (
            count(|outcome| *outcome == Outcome::Passed),
            count(|outcome| matches!(outcome, Outcome::Ignored(_))),
            count(|outcome| matches!(outcome, Outcome::Failed(_))),
        )
    }

    /// `conformance: redis 61 passed, 3 ignored, 0 failed`
    pub fn closing_line(&self) -> String {
        let (passed, ignored, failed) = self.counts();
        format!("conformance: {} {passed} passed, {ignored} ignored, {failed} failed", self.backend)
    }
}

/// Runs all cases whose name contains `filter`, several at a time, and tells of each as it ends. Blocks; call it outside
/// of a runtime.
pub fn check(backend: &str, harness: Arc<dyn Harness>, filter: &str, tell: impl Fn(&Tested) + Sync) -> Report {
    let cases: Vec<_> = cases().into_iter().filter(|case| case.name.contains(filter)).collect();
    let (next, tested) = (Mutex::new(cases.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let case = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(case) = case else { return };
                    let (begun, outcome) = (Instant::now(), run_case(case, &harness));
                    let ended = Tested { case: case.name, outcome, took: begun.elapsed() };
                    tell(&ended);
                    tested.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
                }
            });
        }
    });
    let mut ended = tested.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended.sort_by_key(|tested| cases.iter().position(|case| case.name == tested.case));
    Report { backend: backend.to_owned(), cases: ended }
}

/// Cases that disturb the whole store run alone.
static STORE: RwLock<()> = RwLock::new(());

/// Runs one case, on a runtime of its own. Blocks; call it outside of a runtime.
pub fn run_case(case: &Case, harness: &Arc<dyn Harness>) -> Outcome {
    let (_alone, _beside) = if case.alone {
        (Some(STORE.write().unwrap_or_else(PoisonError::into_inner)), None)
    } else {
        (None, Some(STORE.read().unwrap_or_else(PoisonError::into_inner)))
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Outcome::Failed(format!("no runtime: {error}")),
    };
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(applied(case, harness))));
    // What a failed case left running must not keep the suite.
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        Outcome::Failed(
            message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default(),
        )
    })
}

/// On the thread of its own runtime: a case may keep what can't be sent.
#[allow(clippy::future_not_send)]
async fn applied(case: &Case, harness: &Arc<dyn Harness>) -> Outcome {
    let capabilities = match harness.client().await {
        Ok(client) => client.capabilities(),
        Err(error) => return Outcome::Failed(format!("no client: {}", error.chain())),
    };
    if let Some(lack) = case.needs.iter().find_map(|need| need.lacks(&capabilities, harness.faults())) {
        return Outcome::Ignored(lack);
    }
    (case.run)(Env::new(harness.clone(), capabilities)).await;
    Outcome::Passed
}
