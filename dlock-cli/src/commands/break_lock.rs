//! `dlock break`: takes a lock from its holder.

use crate::cli::StoreArgs;
use crate::exit::{Failure, NOT_OBTAINED, USAGE};
use crate::{store, text};
use dlocks::{FencingToken, HolderId, LockInfo};
use std::process::ExitCode;

pub(crate) async fn break_lock(
    store: &StoreArgs,
    key: &str,
    holder: Option<String>,
    token: Option<u64>,
) -> Result<ExitCode, Failure> {
    let locks = store::connect(store, None).await?;
    let info = locks.inspect(key).await?;
    let id = choose(&info, holder, token.map(FencingToken))?;
    let who = text::plain(id.as_str());
    if !locks.break_lock(key, &id).await? {
        return Err(Failure::new(NOT_OBTAINED, format!("{who} is not there any more; nothing was changed")));
    }
    let held = info.holders.iter().any(|holder| holder.id == id);
    text::print(&match held {
        true => format!("took {key:?} from {who}\n"),
        false => format!("took its place in the queue of {key:?} from {who}; it may queue again, at the end\n"),
    })?;
    locks.close().await?;
    Ok(ExitCode::SUCCESS)
}

fn choose(info: &LockInfo, holder: Option<String>, token: Option<FencingToken>) -> Result<HolderId, Failure> {
    if let Some(id) = holder {
        return Ok(id.parse()?);
    }
    let matching: Vec<_> = info.holders.iter().filter(|holder| token.is_none() || holder.token == token).collect();
    match matching.as_slice() {
        [only] => Ok(only.id.clone()),
        [] => Err(Failure::new(NOT_OBTAINED, "no such holder: the lock is free or held by another; see `dlock show`")),
        several => {
            let ids: Vec<_> = several.iter().map(|holder| text::plain(holder.id.as_str())).collect();
            let message = format!("{} hold it; say which by --holder: {}", several.len(), ids.join(", "));
            Err(Failure::new(USAGE, message))
        }
    }
}
