//! `dlock check`: the conformance suite against a live store.

use crate::cli::StoreArgs;
use crate::exit::{Failure, SOFTWARE, say};
use crate::{store, text};
use async_trait::async_trait;
use dlock_conformance::{Harness, Outcome, Report};
use dlocks::{LockBackend, Registry, Result as StoreResult, StoreUrl};
use std::process::ExitCode;
use std::sync::Arc;

/// A store that others may be using: the suite takes keys with random names, and injects no faults.
#[derive(Debug)]
struct Live {
    registry: Registry,
    url: StoreUrl,
}

#[async_trait]
impl Harness for Live {
    async fn client(&self) -> StoreResult<Arc<dyn LockBackend>> {
        self.registry.connect_backend(&self.url).await
    }
}

pub(crate) async fn check(store: &StoreArgs, filter: String, json: bool) -> Result<ExitCode, Failure> {
    let live = Live { registry: dlocks::registry(), url: store::url(store)? };
    // Says at once what is wrong with the URL.
    let name = live.client().await?.name();
    // A failed case panics, and its message is told below.
    std::panic::set_hook(Box::new(|_| {}));
    let checked = tokio::task::spawn_blocking(move || {
        dlock_conformance::check(name, Arc::new(live), &filter, |tested| {
            if !json {
                let (mark, why) = match &tested.outcome {
                    Outcome::Passed => ("ok", String::new()),
                    Outcome::Ignored(why) => ("ignored", format!(": {why}")),
                    Outcome::Failed(why) => ("FAILED", format!(": {why}")),
                };
                // A reader that left is told nothing more.
                let _ = text::print(&format!("{mark:8}{}{why}\n", tested.case));
            }
        })
    });
    let report = checked.await.map_err(std::io::Error::from)?;
    tell(&report, json)
}

fn tell(report: &Report, json: bool) -> Result<ExitCode, Failure> {
    let (passed, _, failed) = report.counts();
    if json {
        text::print(&(serde_json::to_string_pretty(report).map_err(std::io::Error::from)? + "\n"))?;
    } else {
        text::print(&(report.closing_line() + "\n"))?;
    }
    match (passed, failed) {
        (0, 0) => Err(Failure::new(crate::exit::USAGE, "no case has that in its name")),
        (_, 0) => Ok(ExitCode::SUCCESS),
        _ => {
            say("do not trust locks on this store before these are understood");
            Ok(SOFTWARE.into())
        }
    }
}
