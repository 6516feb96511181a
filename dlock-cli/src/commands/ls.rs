//! `dlock ls`: the locks that are held or waited for.

use crate::cli::StoreArgs;
use crate::exit::{Failure, say};
use crate::{store, text};
use comfy_table::{Table, presets};
use dlocks::LockInfo;
use futures_util::StreamExt;
use std::process::ExitCode;

pub(crate) async fn ls(store: &StoreArgs, prefix: &str, json: bool) -> Result<ExitCode, Failure> {
    let locks = store::connect(store, None).await?;
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    let mut all = locks.list(prefix);
    while let Some(lock) = all.next().await {
        match lock {
            Ok(lock) => found.push(lock),
            Err(error) => unreadable.push(Failure::from(error)),
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    let text = if json { as_json(&found)? } else { table(&found) };
    // An empty list would say more than is known.
    if !found.is_empty() || unreadable.is_empty() {
        text::print(&text)?;
    }
    locks.close().await?;
    let code = unreadable.first().map_or(ExitCode::SUCCESS, |failure| failure.code.into());
    unreadable.into_iter().for_each(|failure| say(&failure.message));
    Ok(code)
}

fn as_json(found: &[LockInfo]) -> Result<String, Failure> {
    let line = |info| serde_json::to_string(info).map(|line| line + "\n");
    found.iter().map(line).collect::<Result<_, _>>().map_err(|error| std::io::Error::from(error).into())
}

fn table(found: &[LockInfo]) -> String {
    if found.is_empty() {
        return "no locks are held or waited for\n".to_owned();
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["KEY", "MODE", "HOLDER", "SINCE", "LEASE ENDS IN", "WAITING"]);
    for info in found {
        let waiting = info.waiters.as_ref().map_or_else(|| "?".to_owned(), |waiters| waiters.len().to_string());
        if info.holders.is_empty() {
            table.add_row([info.key.as_str(), "-", "-", "-", "-", &waiting]);
        }
        for holder in &info.holders {
            table.add_row([
                info.key.to_string(),
                holder.mode.map_or_else(|| "-".to_owned(), |mode| mode.to_string()),
                text::plain(holder.label.as_deref().unwrap_or(holder.id.as_str())),
                text::ago(holder.since),
                holder.remaining.map_or_else(|| "-".to_owned(), text::duration),
                waiting.clone(),
            ]);
        }
    }
    text::lines(&mut table)
}
