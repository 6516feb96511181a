//! `dlock init`: makes what a store needs before it can keep locks.

use crate::cli::StoreArgs;
use crate::exit::{CONFIG, Failure};
use crate::{store, text};
use std::process::ExitCode;

pub(crate) async fn init(store: &StoreArgs) -> Result<ExitCode, Failure> {
    let url = store::url(store)?;
    let done = dlocks::registry().init(&url).await.map_err(|error| {
        let failure = Failure::from(error);
        // What is wrong here is the store's set-up, not the command line.
        if failure.code == crate::exit::USAGE { Failure { code: CONFIG, ..failure } } else { failure }
    })?;
    let done = match done {
        Some(done) => done,
        None => {
            // Whether it is ready is seen by using it.
            store::connect(store, None).await?.close().await?;
            format!("{} needs nothing to be made; it is ready", url.scheme())
        }
    };
    text::print(&(done + "\n"))?;
    Ok(ExitCode::SUCCESS)
}
