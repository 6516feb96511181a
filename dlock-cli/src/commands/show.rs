//! `dlock show`: one lock.

use crate::cli::StoreArgs;
use crate::exit::{FREE, Failure};
use crate::{store, text};
use comfy_table::{Table, presets};
use dlocks::LockInfo;
use std::process::ExitCode;

pub(crate) async fn show(store: &StoreArgs, key: &str, json: bool, quiet: bool) -> Result<ExitCode, Failure> {
    let locks = store::connect(store, None).await?;
    let info = locks.inspect(key).await?;
    if quiet {
        locks.close().await?;
        return Ok(if info.is_held() { ExitCode::SUCCESS } else { FREE.into() });
    }
    let text =
        if json { serde_json::to_string_pretty(&info).map_err(std::io::Error::from)? + "\n" } else { in_words(&info) };
    text::print(&text)?;
    locks.close().await?;
    Ok(ExitCode::SUCCESS)
}

fn in_words(info: &LockInfo) -> String {
    let mut text = String::new();
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["", "WHO", "MODE", "TOKEN", "SINCE", "LEASE ENDS IN", "ID"]);
    let dash = || "-".to_owned();
    for holder in &info.holders {
        table.add_row([
            "holds".to_owned(),
            text::plain(holder.label.as_deref().unwrap_or("not a dlock client")),
            holder.mode.map_or_else(dash, |mode| mode.to_string()),
            holder.token.map_or_else(dash, |token| token.to_string()),
            text::ago(holder.since),
            holder.remaining.map_or_else(dash, text::duration),
            text::plain(holder.id.as_str()),
        ]);
    }
    for waiter in info.waiters.iter().flatten() {
        table.add_row([
            "waits".to_owned(),
            text::plain(waiter.label.as_deref().unwrap_or("-")),
            waiter.mode.map_or_else(dash, |mode| mode.to_string()),
            dash(),
            text::ago(waiter.since),
            dash(),
            text::plain(waiter.id.as_str()),
        ]);
    }
    if table.is_empty() {
        text.push_str("free: nobody holds it and nobody waits\n");
    } else {
        text.push_str(&text::lines(&mut table));
    }
    if let Some(token) = info.last_token {
        text.push_str(&format!("last token {token}\n"));
    }
    text
}
