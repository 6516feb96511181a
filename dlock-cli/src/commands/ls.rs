//! `dlock ls`: the locks that are held or waited for.

use crate::cli::StoreArgs;
use crate::exit::Failure;
use crate::{store, text};
use comfy_table::{Table, presets};
use dlocks::LockInfo;
use futures_util::TryStreamExt;
use std::process::ExitCode;

pub(crate) async fn ls(store: &StoreArgs, prefix: &str, json: bool) -> Result<ExitCode, Failure> {
    let locks = store::connect(store, None).await?;
    let mut found: Vec<LockInfo> = locks.list(prefix).try_collect().await?;
    found.sort_by(|a, b| a.key.cmp(&b.key));
    let text = if json { as_json(&found)? } else { table(&found) };
    text::print(&text)?;
    locks.close().await?;
    Ok(ExitCode::SUCCESS)
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
                holder.label.clone().unwrap_or_else(|| holder.id.to_string()),
                text::ago(holder.since),
                holder.remaining.map_or_else(|| "-".to_owned(), text::duration),
                waiting.clone(),
            ]);
        }
    }
    text::lines(&mut table)
}
