//! [`run`]: the suite as a test target.

use crate::report::{Outcome, Report, Tested, run_case};
use crate::{Harness, cases, cases::exclusion::work};
use dlock_core::Capabilities;
use libtest_mimic::{Arguments, Failed, Trial};
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Runs the suite as the `main` of a test target (`harness = false`), with the arguments of `cargo test`.
///
/// `make` gives the harness, or says how to get what is missing: that is a failure if `DLOCK_TEST_REQUIRE=1`, and else all
/// cases are listed as ignored. With `DLOCK_CONFORMANCE_JSON` set to a path, the report is written there as JSON.
pub fn run<H: Harness>(backend: &str, make: impl FnOnce() -> Result<H, String>) -> ExitCode {
    let made = make().map(|harness| Arc::new(harness) as Arc<dyn Harness>);
    if let Some(order) = std::env::var_os(work::ORDER) {
        return work::work(made, &order.to_string_lossy());
    }
    let arguments = Arguments::from_args();
    let made = made.and_then(|harness| Ok((capabilities(&harness)?, harness)));
    let tested = Arc::new(Mutex::new(Vec::new()));
    let trials = cases().into_iter().map(|case| match &made {
        Ok((capabilities, harness)) => {
            let lack = case.needs.iter().find_map(|need| need.lacks(capabilities, harness.faults()));
            let (harness, tested) = (harness.clone(), tested.clone());
            let trial = move || {
                let (begun, outcome) = (Instant::now(), run_case(&case, &harness));
                let ended = Tested { case: case.name, outcome: outcome.clone(), took: begun.elapsed() };
                tested.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
                match outcome {
                    Outcome::Failed(why) => Err(Failed::from(why)),
                    Outcome::Passed | Outcome::Ignored(_) => Ok(()),
                }
            };
            let ignored = lack.is_some();
            Trial::test(case.name, trial).with_kind(lack.unwrap_or_default()).with_ignored_flag(ignored)
        }
        Err(how) => {
            let (how, required) =
                (how.clone(), std::env::var_os("DLOCK_TEST_REQUIRE").is_some_and(|value| value == "1"));
            let message = how.clone();
            Trial::test(case.name, move || Err(Failed::from(message))).with_kind(how).with_ignored_flag(!required)
        }
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let cases = std::mem::take(&mut *tested.lock().unwrap_or_else(PoisonError::into_inner));
    let report = Report { backend: backend.to_owned(), cases };
    if let Some(path) = std::env::var_os("DLOCK_CONFORMANCE_JSON") {
        let written = serde_json::to_vec_pretty(&report).map_err(std::io::Error::from);
        if let Err(error) = written.and_then(|json| std::fs::write(&path, json)) {
            let _ = writeln!(std::io::stderr(), "the report can't be written: {error}");
            return ExitCode::FAILURE;
        }
    }
    if !arguments.list {
        let _ = writeln!(
            std::io::stdout(),
            "conformance: {backend} {} passed, {} ignored, {} failed",
            conclusion.num_passed,
            conclusion.num_ignored,
            conclusion.num_failed
        );
    }
    conclusion.exit_code()
}

fn capabilities(harness: &Arc<dyn Harness>) -> Result<Capabilities, String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let client = runtime.block_on(harness.client()).map_err(|error| format!("no client: {}", error.chain()))?;
    let capabilities = client.capabilities();
    drop(client);
    runtime.shutdown_background();
    Ok(capabilities)
}
